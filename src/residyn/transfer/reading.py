"""Domains from files: tables (npz, csv, parquet) and folders of pictures; every rule about them is checked here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residyn import csvtext
from residyn.arrays import read_npz
from residyn.errors import InputError, require

_FEATURES = ("x", "features", "data", "inputs", "images", "samples")
_LABELS = ("labels", "label", "y", "target", "targets", "class")
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")


@dataclass(frozen=True)
class Domain:
    """Samples of a file or folder.

    Args:
        name: What it is called.
        x: `(n, d)` float32, or pictures `(n, C, H, W)` in [0, 1].
        labels: The class of each sample, as text; `None` if the file has none.
        features: Names of the features, where the file has them.
    """

    name: str
    x: Tensor
    labels: list[str] | None
    features: list[str]


def read_domain(
    path: str | os.PathLike[str], *, labels: str | None = None, size: int = 32, channels: int | None = None
) -> Domain:
    """Read a domain.

    A table is an npz file (`x` and `y`), a CSV file with a header or a Parquet file; the column of classes is found by its name
    and may hold text. In a folder of pictures, folders within it are classes; pictures that lie in it directly have none.

    Args:
        path: The file or folder.
        labels: Name of the array or column of classes.
        size: Side to which pictures are resampled.
        channels: 1 makes pictures grey, 3 repeats grey; colour if any has it, if not given.

    Returns:
        The samples as they stand.

    Raises:
        InputError: If it cannot be read or breaks a rule.
        MissingExtraError: If pictures need pillow, or Parquet needs pyarrow.
    """
    name, ending = str(path), Path(path).suffix.lower()
    if Path(path).is_dir():
        return _folder(Path(path), size, channels)
    if ending == ".npz":
        return _npz(name, labels)
    if ending in (".csv", ".tsv", ".txt"):
        return _csv(name, labels)
    if ending in (".parquet", ".pq"):
        return _parquet(name, labels)
    if not Path(path).exists():
        raise InputError(f"{name}: must be a file or folder that can be read, got nothing there; check the path")
    raise InputError(f"{name}: must be .npz, .csv, .tsv, .parquet or a folder of pictures, got {ending or 'no ending'!r}")


def aligned(source: Domain, target: Domain) -> Domain:
    """The target with its features in the source's order.

    Raises:
        InputError: If it has not the same ones.
    """
    if source.x.shape[1:] != target.x.shape[1:]:
        absent = [name for name in source.features if name not in target.features] if target.features else []
        more = [name for name in target.features if name not in source.features] if source.features else []
        which = "; ".join(
            f"{what} {', '.join(map(repr, names[:5]))}" for what, names in (("without", absent), ("with", more)) if names
        )
        raise InputError(
            f"{target.name}: must have the features of {source.name}, {tuple(source.x.shape[1:])} a sample, got "
            f"{tuple(target.x.shape[1:])}{', ' + which if which else ''}; bring both to one form"
        )
    if not source.features or not target.features or source.features == target.features:
        return target
    if sorted(source.features) != sorted(target.features):
        absent = [name for name in source.features if name not in target.features]
        raise InputError(
            f"{target.name}: must have the features of {source.name}, got none named {absent[0]!r}; name them alike"
        )
    order = [target.features.index(name) for name in source.features]
    return replace(target, x=target.x[:, order], features=source.features)


def class_names(domain: Domain) -> list[str]:
    """The classes of a domain in order: whole numbers by value, with all from 0 up, else text by the alphabet.

    >>> class_names(Domain("a", torch.zeros(3, 1), ["2", "0", "2"], []))
    ['0', '1', '2']

    Raises:
        InputError: If it has no labels, or class numbers below 0.
    """
    if domain.labels is None:
        raise InputError(
            f"{domain.name}: must hold classes, named {', '.join(_LABELS[:4])} (or folders of pictures), got none; the source "
            "needs them"
        )
    found = sorted(set(domain.labels))
    if all(label.lstrip("-").isdecimal() for label in found):
        low, high = min(map(int, found)), max(map(int, found))
        if low < 0 or high > 100_000:
            raise InputError(f"{domain.name}: must hold class numbers from 0 up, got {low if low < 0 else high}")
        return [str(number) for number in range(high + 1)]
    return found


def numbered(domain: Domain, names: list[str]) -> Tensor:
    """Class numbers of a domain's labels.

    Args:
        domain: With labels.
        names: The classes.

    Raises:
        InputError: If a sample is of another class.
    """
    place = {name: number for number, name in enumerate(names)}
    labels = domain.labels or []
    strange = next((label for label in labels if label not in place), None)
    if strange is not None:
        raise InputError(
            f"{domain.name}: must hold classes of the source ({', '.join(names[:8])}), got {strange!r}; leave those samples out"
        )
    return torch.tensor([place[label] for label in labels])


def _npz(name: str, labels: str | None) -> Domain:
    arrays = read_npz(name)
    key = next((key for key in _FEATURES if key in arrays), None)
    if key is None:
        got = ", ".join(arrays) or "none"
        raise InputError(f"{name}: must hold an array of samples named {', '.join(_FEATURES)}, got {got}; name it so")
    values = arrays[key]
    if values.dtype.kind not in "fiub" or values.ndim < 2:
        raise InputError(f"{name}: `{key}` must be numbers (n, …), got {values.dtype} of shape {values.shape}")
    given = _chosen(name, list(arrays), labels)
    marks = None if given is None else [_text(value) for value in arrays[given].reshape(-1).tolist()]
    return _domain(name, np.asarray(values, np.float32), marks, [])


def _csv(name: str, labels: str | None) -> Domain:
    with csvtext.opened(name) as file:
        lines = csvtext.rows(file, name)
        header = _header(lines, name)
        given = _chosen(name, header, labels)
        place = -1 if given is None else header.index(given)
        marks: list[str] = []
        values: list[list[float]] = []
        for line, cells in lines:
            if len(cells) != len(header):
                rule = f"must have {len(header)} cells, as the header"
                csvtext.refuse(name, line, rule, f"{len(cells)} cells", "complete or delete the line")
            values.append([csvtext.number(c, name, line, header[i]) for i, c in enumerate(cells) if i != place])
            if given is not None:
                marks.append(_text(cells[place]))
    features = [cell for i, cell in enumerate(header) if i != place]
    table = np.asarray(values, np.float32).reshape(len(values), len(features))
    return _domain(name, table, marks if given is not None else None, features)


def _header(lines: Iterator[tuple[int, list[str]]], name: str) -> list[str]:
    """The names of the columns, each once."""
    line, header = next(lines, (1, []))
    if not header:
        csvtext.refuse(name, line, "must be a header that names the features", "nothing", "add one")
    twice = next((cell for cell in header if header.count(cell) > 1), None)
    if twice is not None:
        csvtext.refuse(name, line, "must name each column once", f"{twice!r} twice", "rename one")
    return header


def _parquet(name: str, labels: str | None) -> Domain:
    parquet = require("pyarrow.parquet", "tables")
    try:
        table: Any = parquet.read_table(name)
    except (OSError, ValueError, TypeError, MemoryError) as error:  # pyarrow's own errors are of these
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name}: must be a Parquet file, got: {first[:100]}; check the path, or write it again") from None
    header = list(map(str, table.column_names))
    given = _chosen(name, header, labels)
    features = [cell for cell in header if cell != given]
    columns = [_numbers(table.column(cell), name, cell) for cell in features]
    marks = None if given is None else [_text(value) for value in table.column(given).to_pylist()]
    return _domain(name, np.stack(columns, 1) if columns else np.zeros((table.num_rows, 0), np.float32), marks, features)


def _numbers(column: Any, name: str, cell: str) -> np.ndarray:
    """A column of a Parquet table."""
    values: np.ndarray = column.to_numpy()
    if values.dtype.kind not in "fiub" or column.null_count:
        got = f"{column.null_count} missing values" if column.null_count else str(column.type)
        raise InputError(f"{name}: column {cell!r} must hold numbers without gaps, got {got}; fill it in or leave it out")
    return values.astype(np.float32)


def _folder(folder: Path, size: int, channels: int | None) -> Domain:
    image = require("PIL.Image", "imaging")
    if type(size) is not int or not 4 <= size <= 512:
        raise InputError(f"`size` must be a whole number of pixels from 4 to 512, got {size!r}; 32 is usual")
    if channels not in (None, 1, 3):
        raise InputError(f"`channels` must be 1 or 3, got {channels!r}; leave it out to take what the pictures have")
    flat = _pictures(folder)
    inner = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    files = [(path, None) for path in flat] if flat else [(path, entry.name) for entry in inner for path in _pictures(entry)]
    if not files:
        raise InputError(f"{folder}: must hold pictures ({' '.join(_PICTURES)}), or a folder of them a class, got none")
    made = []
    for path, _ in files:
        try:
            with image.open(path) as opened:
                grey = opened.mode in ("1", "L", "I", "F", "I;16", "LA")
                picture = opened.convert("L" if channels == 1 or (channels is None and grey) else "RGB")
                made.append(np.asarray(picture.resize((size, size), image.Resampling.BOX), np.float32) / 255)
        except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path}: must be a picture, got: {first[:100]}; mend it or take it out of the folder") from None
    colour = channels == 3 or (channels is None and any(values.ndim == 3 for values in made))
    table = np.stack([_layers(values, colour) for values in made])
    return _domain(str(folder), table, None if flat else [str(label) for _, label in files], [])


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES and path.is_file())


def _layers(values: np.ndarray, colour: bool) -> np.ndarray:
    """`(C, H, W)`."""
    if values.ndim == 2:
        return np.repeat(values[None], 3 if colour else 1, 0)
    return np.moveaxis(values, -1, 0)


def _chosen(name: str, columns: list[str], asked: str | None) -> str | None:
    """The column of labels; `None` if there is none and none was asked for."""
    if asked is not None:
        if asked not in columns:
            raise InputError(f"{name}: must hold the labels {asked!r}, got {', '.join(columns)[:80]}; check the name")
        return asked
    return next((cell for key in _LABELS for cell in columns if cell.lower() == key), None)


def _text(value: Any) -> str:
    """A label as text: 3.0 and 3 are one class."""
    word = str(value).strip()
    try:
        number = float(word)
    except ValueError:
        return word
    return str(int(number)) if number.is_integer() else word


def _domain(name: str, table: np.ndarray, labels: list[str] | None, features: list[str]) -> Domain:
    if len(table) == 0:
        raise InputError(f"{name}: must hold samples, got none; a domain cannot be empty")
    if table[0].size == 0:
        raise InputError(f"{name}: must hold features besides the labels, got none; add columns of numbers")
    bad = ~np.isfinite(table).reshape(len(table), -1).all(1)
    if bad.any():
        raise InputError(
            f"{name}: must be finite, got nan or inf in sample {int(bad.argmax()) + 1}; fill it in or leave it out"
        )
    if labels is not None and len(labels) != len(table):
        raise InputError(f"{name}: must hold one label a sample, got {len(labels)} for {len(table)}")
    return Domain(name, torch.from_numpy(np.ascontiguousarray(table)), labels, features)
