"""TIFF through tifffile: integers and floats, grey or in colours, one page or a stack; the tags go along."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np

from residyn.errors import InputError, require
from residyn.inverse.files.jpeg import ORIENTATION, opened
from residyn.inverse.files.photo import Photo, check_size, turn_of, upright

_OWN = frozenset(
    {*range(254, 260), 262, 263, 266, 270, 273, 274, *range(277, 285), 296, 305, 317, 320, *range(322, 326), 330, 338, 339, 347}
    | {400, 32997, 32998, 34665, 34675, 34853}
)
"""Tags that say how the pixels are stored (written anew), point elsewhere, or are handed over by name."""


def read_tiff(path: str, limit: int) -> Photo:
    """Read a TIFF: one picture, or a stack of equal pages as a volume."""
    tifffile = require("tifffile", "imaging")
    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())  # what it thinks of a file goes to whoever listens, not to the terminal
    with tifffile.TiffFile(path) as file:
        if not file.series:
            raise ValueError("there is no page in it")
        if len(file.series) != 1:
            raise InputError(
                f"`{path}` must hold one picture or one stack, got {len(file.series)} of unlike size; split it first"
            )
        series, page = file.series[0], file.pages[0]
        axes, shape = series.axes, series.shape
        check_size(path, tuple(n for axis, n in zip(axes, shape, strict=True) if axis != "S"), limit)
        kept: dict[str, Any] = {
            "tags": _tags(page),
            "description": page.description or None,
            "zip": page.compression.value != 1,
            "alpha": "assocalpha" if any(sample.name == "ASSOCALPHA" for sample in page.extrasamples) else "unassalpha",
        }
        try:
            pixels = series.asarray()
        except ValueError as error:
            pixels = _by_pillow(path, limit, error, page)
        alpha, colours = _apart(pixels, axes, page)
        colours = colours.squeeze() if colours.ndim > 3 else colours
        profile = page.tags.get(34675)
        stated = page.tags.get(ORIENTATION)
        turn = turn_of(None if stated is None else int(stated.value)) if len(file.pages) == 1 else 1
        dpi = _dpi(page)
        if page.photometric.name == "MINISWHITE" and colours.dtype.kind == "u":
            colours = np.iinfo(colours.dtype).max - colours  # black is the greatest number there
        if page.photometric.name == "PALETTE":
            raise InputError(f"`{path}` must hold intensities, got numbers of a palette; convert it to RGB first")
        icc = bytes(profile.value) if profile is not None else None
    if not colours.dtype.isnative:
        colours = colours.astype(colours.dtype.newbyteorder("="))
    if turn != 1:  # the tag is not written again
        alpha, colours = None if alpha is None else upright(alpha, turn), upright(colours, turn)
    inks = page.photometric.name == "SEPARATED" and colours.ndim == 3 and colours.shape[-1] == 4
    return Photo(np.ascontiguousarray(colours), alpha, "tiff", icc, None, dpi, {"tiff": kept}, inks=inks)


def tiff_bytes(pixels: np.ndarray, like: Photo) -> bytes:
    """A picture or volume as the bytes of a TIFF file."""
    tifffile = require("tifffile", "imaging")
    kept = like.kept.get("tiff", {})
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    how: dict[str, Any] = {"photometric": "rgb" if colour else "minisblack", "metadata": None, "iccprofile": like.icc}
    values = pixels
    if like.alpha is not None:
        values = np.concatenate([pixels if pixels.ndim == 3 else pixels[..., None], like.alpha[..., None]], -1)
        how |= {"extrasamples": [kept.get("alpha", "unassalpha")], "planarconfig": "contig"}
    elif like.inks:
        how |= {"photometric": "separated", "planarconfig": "contig"}
    elif pixels.ndim == 3 and pixels.shape[-1] in (2, 4):  # said outright, or the first axis is taken for pages
        how |= {"extrasamples": ["unspecified"] * (pixels.shape[-1] - 1), "planarconfig": "contig"}
    if like.dpi:
        how |= {"resolution": like.dpi, "resolutionunit": "INCH"}
    if kept.get("zip"):
        how["compression"] = "zlib"
    page = io.BytesIO()
    tifffile.imwrite(page, values, description=kept.get("description"), extratags=kept.get("tags", ()), **how)
    return page.getvalue()


def _apart(pixels: np.ndarray, axes: str, page: Any) -> tuple[np.ndarray | None, np.ndarray]:
    """Alpha, and the rest with its channels last."""
    if "S" not in axes:
        return None, pixels
    pixels = np.moveaxis(pixels, axes.index("S"), -1)
    extra = [sample.name for sample in page.extrasamples]
    if extra and extra[-1] in ("UNASSALPHA", "ASSOCALPHA") and pixels.ndim == 3:
        rest = pixels[..., :-1]
        return np.ascontiguousarray(pixels[..., -1]), rest[..., 0] if rest.shape[-1] == 1 else rest
    return None, pixels


def _tags(page: Any) -> list[tuple[Any, ...]]:
    """Tags of the user's, in the form in which they are written."""
    return [
        (tag.code, tag.dtype.value, tag.count, tag.value, True)
        for tag in page.tags
        if tag.code not in _OWN and tag.code < 65000 and isinstance(tag.value, (str, bytes, int))
    ]


def _dpi(page: Any) -> tuple[float, float] | None:
    unit = page.tags.get(296)
    x, y = page.tags.get(282), page.tags.get(283)
    if x is None or y is None or not all(tag.value[0] and tag.value[1] for tag in (x, y)):
        return None
    scale = 2.54 if unit is not None and int(unit.value) == 3 else 1.0
    return tuple(scale * tag.value[0] / tag.value[1] for tag in (x, y))


def _by_pillow(path: str, limit: int, error: ValueError, page: Any) -> np.ndarray:
    """Compressions that tifffile leaves to a package of its own, such as LZW, where Pillow keeps all bits."""
    if "imagecodecs" not in str(error):
        raise error
    with opened(path, "TIFF", limit) as image:
        exact = image.mode in ("L", "RGB", "RGBA", "F", "I;16", "I;16B", "LA") and getattr(image, "n_frames", 1) == 1
        if exact and (page.bitspersample == 8 or page.samplesperpixel == 1):
            pixels = np.asarray(image)
            return pixels if page.photometric.name != "MINISWHITE" else ~pixels
    raise InputError(
        f"`{path}` must be uncompressed or zip-compressed, got {page.compression.name} of {page.bitspersample} bits; save it "
        "without compression, or: python -m pip install imagecodecs"
    ) from None
