"""Pictures from and to files: PNG, JPEG, TIFF and NumPy, in 8 and 16 bits and floats, with what came beside the pixels."""

from residyn.inverse.files.photo import LIMIT, Photo
from residyn.inverse.files.reading import ENDINGS, read, read_psf
from residyn.inverse.files.writing import check_target, draft, write

__all__ = ["ENDINGS", "LIMIT", "Photo", "check_target", "draft", "read", "read_psf", "write"]
