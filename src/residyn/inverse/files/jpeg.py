"""JPEG through Pillow: quality tables, subsampling, colour profile, EXIF and remark of the picture are used again."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from residyn.errors import InputError, require
from residyn.inverse.files.photo import Photo, check_size, turn_of

QUALITY = 95
ORIENTATION = 0x0112
"""The tag of EXIF and TIFF that says how a picture is turned."""


def turn(image: Any) -> int:
    """How a picture that is open in Pillow is turned, by its EXIF block; 1 where that is broken."""
    try:
        return turn_of(image.getexif().get(ORIENTATION))
    except Exception:  # noqa: BLE001 - a broken block breaks its reader in any way it likes
        return 1


@contextlib.contextmanager
def opened(path: str, form: str, limit: int) -> Iterator[Any]:
    """A picture open in Pillow, its size checked by our own limit and not by Pillow's."""
    module: Any = require("PIL.Image", "imaging")
    before, module.MAX_IMAGE_PIXELS = module.MAX_IMAGE_PIXELS, None
    try:
        with module.open(path, formats=[form]) as image:
            check_size(path, (image.height, image.width), limit)
            yield image
    finally:
        module.MAX_IMAGE_PIXELS = before


def read_jpeg(path: str, limit: int) -> Photo:
    """Read a JPEG: grey, RGB or CMYK."""
    with opened(path, "JPEG", limit) as image:
        plugin = require("PIL.JpegImagePlugin", "imaging")
        sampling = plugin.get_sampling(image) if image.mode in ("RGB", "L") else -1
        kept = {"qtables": image.quantization, "subsampling": sampling, "comment": image.info.get("comment")}
        image.load()
        info = image.info
        beside = (info.get("icc_profile"), info.get("exif"), info.get("dpi"), {"jpeg": kept})
        return Photo(np.array(image), None, "jpeg", *beside, inks=image.mode == "CMYK", turn=turn(image))


def kind(pixels: np.ndarray) -> str:
    """Type and channels of pixels, for messages."""
    return f"{pixels.dtype}" + (f" and {pixels.shape[-1]} channels" if pixels.ndim == 3 else " in a volume" * (pixels.ndim > 3))


def jpeg_bytes(pixels: np.ndarray, like: Photo) -> bytes:
    """A picture as the bytes of a JPEG file.

    Raises:
        InputError: If it is not of 8 bits, has alpha, or channels that are neither colours nor inks.
    """
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or like.alpha is not None or pixels.ndim > 3 or channels not in (1, 3, 4 if like.inks else 1):
        what = "alpha" if like.alpha is not None else kind(pixels)
        raise InputError(f"`-o` must not be a JPEG for a picture with {what}, which JPEG cannot hold; take .png or .tif")
    module = require("PIL.Image", "imaging")
    flat = np.ascontiguousarray(pixels[..., 0] if pixels.ndim == 3 and channels == 1 else pixels)
    image = module.frombytes({1: "L", 3: "RGB", 4: "CMYK"}[channels], flat.shape[1::-1], flat.tobytes())
    kept = like.kept.get("jpeg")
    how: dict[str, Any] = {"quality": QUALITY, "subsampling": 0}
    if kept:
        how = {"qtables": kept["qtables"], "comment": kept["comment"]}
        how |= {"subsampling": kept["subsampling"]} if kept["subsampling"] >= 0 else {}
    page = io.BytesIO()
    beside = {"icc_profile": like.icc, "exif": like.exif, "dpi": like.dpi and tuple(round(d) for d in like.dpi)}
    image.save(page, "JPEG", **{key: value for key, value in (how | beside).items() if value is not None})
    return page.getvalue()
