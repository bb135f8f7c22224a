"""NumPy's own files: what they declare is checked before it is unpacked, and nothing is unpickled."""

from __future__ import annotations

import io
import math
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from residyn.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_FREE = 1024**3
_RATIO = 8
"""An archive may unpack to 1 GiB whatever its size, and beyond that to eight times its size: numbers compress no better."""

_BROKEN = (
    ValueError, TypeError, AttributeError, LookupError, ArithmeticError, EOFError, SyntaxError, MemoryError, RecursionError,
    NotImplementedError, RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile and NumPy raise on files that are not what they say."""


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of an `.npy` file.

    Args:
        path: The file.

    Returns:
        The array, of any type but objects.

    Raises:
        InputError: If it cannot be read, is no such file, holds objects, or is shorter than it says.
    """
    name = os.fspath(path)
    try:
        size = Path(path).stat().st_size
        with open(path, "rb") as file:
            return _array(file, size)
    except OSError as error:
        raise _unreadable(name, error) from None
    except _BROKEN as error:
        raise InputError(f"{name}: must be an .npy file of plain numbers, got: {_line(error)}; save it with np.save") from None


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` archive by name.

    Args:
        path: The file.

    Returns:
        The arrays, of any type but objects.

    Raises:
        InputError: If it cannot be read, is no such archive, holds objects, or would unpack to far more than its size.
    """
    name = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total, most = sum(member.file_size for member in members), max(_FREE, _RATIO * Path(path).stat().st_size)
            if total > most:
                raise InputError(
                    f"{name}: must unpack to at most {most / 1024**3:.3g} GiB, got {total / 1024**3:.3g} GiB declared; if it "
                    "is what it should be, save it again with np.savez, uncompressed"
                )
            arrays = {}
            for member in members:
                with archive.open(member) as file:
                    arrays[member.filename.removesuffix(".npy")] = _array(file, member.file_size)
            return arrays
    except InputError:
        raise
    except OSError as error:
        raise _unreadable(name, error) from None
    except _BROKEN as error:
        got = _line(error)
        raise InputError(f"{name}: must be an npz archive of plain numbers, got: {got}; save it with np.savez") from None


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """One array from a stream of `size` bytes; its header is held against them before room is made."""
    import numpy as np

    head = io.BytesIO(file.read(min(size, 1 << 16)))
    version = np.lib.format.read_magic(head)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format, which is unknown")
    reader: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(head)
    if dtype.hasobject:
        raise ValueError("objects, which would have to be unpickled")
    if any(side < 0 for side in shape) or dtype.itemsize == 0:
        raise ValueError(f"an array {shape} of {dtype}")
    want = math.prod(shape) * dtype.itemsize
    if want > size - head.tell():
        raise ValueError(f"{max(size - head.tell(), 0)} bytes where {shape} of {dtype} need {want}")
    array = np.frombuffer(_filled(head.read(want), file, want), dtype=dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _filled(first: bytes, file: IO[bytes], want: int) -> bytearray:
    """`want` bytes, of which the first ones have been read."""
    data = bytearray(want)
    data[: len(first)] = first
    at = len(first)
    while at < want:
        part = file.read(min(want - at, 1 << 24))
        if not part:
            raise EOFError("the file ends in the middle")
        data[at : at + len(part)] = part
        at += len(part)
    return data


def _unreadable(name: str, error: OSError) -> InputError:
    return InputError(f"{name}: must be a file that can be read, got: {error.strerror or error}; check the path")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
