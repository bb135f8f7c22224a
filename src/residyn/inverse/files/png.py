"""PNG in 8 and 16 bits: read through Pillow, which keeps 8 bits of 16 in colours, so those are read twice; written here."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from residyn.errors import InputError
from residyn.inverse.files.jpeg import kind, opened, turn
from residyn.inverse.files.photo import Photo

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BEFORE = (b"cHRM", b"gAMA", b"iCCP", b"sRGB", b"cICP", b"pHYs", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME")
"""Chunks that stay true when the pixels change, and go before them."""
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
_MOST = 64 * 2**20


def read_png(path: str, limit: int) -> Photo:
    """Read a PNG of 8 or 16 bits, grey or in colours, with alpha or without; palettes become colours."""
    chunks, depth, colour = _beside(path)
    notes: tuple[str, ...] = ()
    with opened(path, "PNG", limit) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise InputError(f"`{path}` must be one picture, got an animation of {image.n_frames}; take its frames apart first")
        info = image.info
        beside = (info.get("icc_profile"), info.get("exif"), info.get("dpi"), {"png": chunks})
        if depth == 16:
            wide = _sixteen(path, limit, colour)
        else:
            target = image.mode
            if image.mode in ("P", "1") or "transparency" in info:
                target = "RGBA" if "transparency" in info else "RGB" if image.mode == "P" else "L"
                notes = (f"{_NAMES.get(image.mode, image.mode)} becomes {target} of 8 bits a channel",)
            wide = np.asarray(image.convert(target) if notes else image)
        turned = turn(image)
    if wide.ndim == 3 and wide.shape[2] in (2, 4):
        colours = wide[..., 0] if wide.shape[2] == 2 else wide[..., :3]
        return Photo(np.ascontiguousarray(colours), np.ascontiguousarray(wide[..., -1]), "png", *beside, notes, turn=turned)
    return Photo(np.array(wide), None, "png", *beside, notes, turn=turned)


_NAMES = {"P": "a palette", "1": "a bitmap", "L": "a transparent grey", "RGB": "a transparent colour"}


def _sixteen(path: str, limit: int, colour: int) -> np.ndarray:
    """All 16 bits of each sample: grey as they come; of colours Pillow unpacks one byte a sample, the high or the low one."""
    modes = {2: ("RGB", "RGB;16B", "RGB;16L"), 6: ("RGBA", "RGBA;16B", "RGBA;16L"), 4: ("RGBA", "RGBA", "")}
    if colour == 0:
        with opened(path, "PNG", limit) as image:
            return np.asarray(image).astype(np.uint16)
    mode, high, low = modes[colour]
    parts = [_unpacked(path, limit, mode, raw) for raw in (high, low) if raw]
    if colour == 4:  # four bytes a pixel: grey and alpha, high byte first
        return parts[0].reshape(*parts[0].shape[:2], 2, 2).astype(np.uint16) @ np.array([256, 1], np.uint16)
    return (parts[0].astype(np.uint16) << 8) | parts[1]


def _unpacked(path: str, limit: int, mode: str, raw: str) -> np.ndarray:
    with opened(path, "PNG", limit) as image:
        image._mode = mode
        image.tile = [tile._replace(args=raw) for tile in image.tile]
        image.load()
        return np.asarray(image)


def _beside(path: str) -> tuple[list[tuple[bytes, bytes]], int, int]:
    """The chunks worth keeping, the bits of a sample and the kind of colour."""
    found: list[tuple[bytes, bytes]] = []
    depth = colour = total = 0
    with open(path, "rb") as file:
        file.seek(len(_SIGNATURE))
        while len(head := file.read(8)) == 8:
            size, name = struct.unpack(">I4s", head)
            if name == b"IEND" or not name.isalpha():  # what follows is no part of the picture
                break
            if name == b"IHDR":
                depth, colour = struct.unpack(">8xBB", file.read(size)[:10])
            elif name in _BEFORE and total + size <= _MOST:
                total += size
                found.append((name, file.read(size)))
            else:
                file.seek(size, 1)
            file.seek(4, 1)
    return found, depth, colour


def png_bytes(pixels: np.ndarray, like: Photo) -> bytes:
    """A picture as the bytes of a PNG file, with the chunks of the one it came from.

    Raises:
        InputError: If it is not of 8 or 16 bits, or a volume.
    """
    channels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.dtype not in (np.uint8, np.uint16) or channels.ndim != 3 or channels.shape[2] > 3:
        raise InputError(f"`-o` must not be a PNG for {kind(pixels)}: it holds grey or RGB of 8 or 16 bits; take .tif or .npy")
    if like.alpha is not None:
        channels = np.concatenate([channels, like.alpha[..., None]], 2)
    height, width, count = channels.shape
    head = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, _COLOURS[count], 0, 0, 0)
    rows = np.ascontiguousarray(channels.astype(pixels.dtype.newbyteorder(">"))).view(np.uint8).reshape(height, -1)
    packer = zlib.compressobj(6)
    data = [packer.compress(part) for part in _filtered(rows, count * pixels.dtype.itemsize)]
    parts = [(b"IHDR", head), *_chunks(like), (b"IDAT", b"".join([*data, packer.flush()])), (b"IEND", b"")]
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def _chunks(like: Photo) -> Iterator[tuple[bytes, bytes]]:
    if "png" in like.kept:
        yield from like.kept["png"]
        return
    if like.icc:
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(like.icc)
    if like.dpi:
        yield b"pHYs", struct.pack(">IIB", *(round(d / 0.0254) for d in like.dpi), 1)
    if like.exif:
        yield b"eXIf", like.exif.removeprefix(b"Exif\0\0")


def _filtered(rows: np.ndarray, pixel: int, block: int = 256) -> Iterator[bytes]:
    """Each row as its difference from what the standard predicts, by the predictor with the least sum of differences."""
    above = np.zeros((1, rows.shape[1]), np.uint8)
    for start in range(0, len(rows), block):
        now = rows[start : start + block].astype(np.int16)
        up = np.concatenate([above, rows[start : start + block - 1]])[: len(now)].astype(np.int16)
        above = rows[start + len(now) - 1 : start + len(now)]
        left, corner = (np.pad(part[:, :-pixel], ((0, 0), (pixel, 0))) for part in (now, up))
        guess: list[Any] = [0, left, up, (left + up) >> 1, _paeth(left, up, corner)]
        tried = np.stack([(now - part).astype(np.uint8) for part in guess])
        best = np.abs(tried.view(np.int8).astype(np.int16)).sum(2, dtype=np.int64).argmin(0)
        chosen = tried[best, np.arange(len(now))]
        yield np.concatenate([best[:, None].astype(np.uint8), chosen], 1).tobytes()


def _paeth(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Of left, up and corner the one nearest to left + up - corner."""
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), a, np.where(to_b <= to_c, b, c))
