"""Reads a record of scores and labels from npz or CSV; nothing is unpickled."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from residyn import csvtext
from residyn.arrays import read_npz
from residyn.errors import InputError

_SCORES = ("logits", "scores", "probabilities", "probs", "z", "p")
_LABELS = ("labels", "label", "y", "target", "targets", "class")


@dataclass(frozen=True)
class Record:
    """Scores and labels of a file.

    Args:
        scores: `(N, C)` or `(N,)`, float32 or float64.
        labels: Class numbers, `(N,)`, or zeros and ones, `(N, C)`.
        names: Names of the score columns, where the file has them.
    """

    scores: Tensor
    labels: Tensor
    names: list[str]


def read(path: str | os.PathLike[str], *, scores: str | None = None, labels: str | None = None) -> Record:
    r"""Read scores and labels.

    An npz file holds two arrays; a CSV file a header, a column of class numbers and a column a class (one score column:
    that of class 1). Which is which follows from the names (logits, probabilities, scores; labels, y, target), unless
    an argument says it.

    Args:
        path: The file.
        scores: Name of the array of scores in an npz file.
        labels: Name of the array or column of labels.

    Returns:
        The record, as it stands; its values are checked where they are used.

    Raises:
        InputError: If the file cannot be read or breaks a rule.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "scores.csv"
    >>> _ = path.write_text("cat,dog,label\n2.0,0.5,0\n0.1,1.0,1\n")
    >>> read(path).names
    ['cat', 'dog']
    """
    name = str(path)
    ending = Path(path).suffix.lower()
    if ending == ".npz":
        return _npz(name, scores, labels)
    if ending in (".csv", ".tsv", ".txt"):
        return _csv(name, labels)
    raise InputError(f"{name}: must end in .npz, .csv, .tsv or .txt, got {ending or 'no ending'!r}; save it as one of these")


def _npz(name: str, scores: str | None, labels: str | None) -> Record:
    file = read_npz(name)
    return Record(_array(name, file, scores, _SCORES, "scores"), _array(name, file, labels, _LABELS, "labels"), [])


def _array(name: str, file: dict[str, np.ndarray], asked: str | None, known: tuple[str, ...], what: str) -> Tensor:
    found = [key for key in ((asked,) if asked is not None else known) if key in file]
    if not found:
        raise InputError(
            f"{name}: must hold an array of {what} named {asked or ', '.join(known)}, got {', '.join(file) or 'none'}; "
            f"name it so, or say which it is with `{what}`"
        )
    values = file[found[0]]
    if values.dtype.kind not in "fiub" or (what == "scores" and values.dtype.kind != "f"):
        raise InputError(
            f"{name}: `{found[0]}` must hold {'floating point' if what == 'scores' else ''} numbers, got {values.dtype}"
        )
    if what == "labels" and values.dtype.kind == "f":
        if not np.array_equal(values, np.round(values)):
            raise InputError(f"{name}: `{found[0]}` must hold whole class numbers, got fractions; count classes from 0")
        values = values.astype(np.int64)
    if values.dtype.kind in "ub":
        values = values.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))))


def _csv(name: str, labels: str | None) -> Record:
    with csvtext.opened(name) as file:
        rows = csvtext.rows(file, name)
        line, header = next(rows, (1, []))
        if len(header) < 2:
            csvtext.refuse(name, line, "must be a header that names a column of labels and one a class", f"{header}", "add one")
        known = (labels,) if labels is not None else _LABELS
        place = next((i for key in known for i, cell in enumerate(header) if cell == key or cell.lower() == key), None)
        if place is None:
            got, wanted = ", ".join(header)[:60], " or ".join(known)
            csvtext.refuse(name, line, f"must name a column of labels: {wanted}", got, "name it so, or say which with `labels`")
        numbers, values = array("q"), array("d")
        for line, cells in rows:
            if len(cells) != len(header):
                rule = f"must have {len(header)} cells, as the header"
                csvtext.refuse(name, line, rule, f"{len(cells)} cells", "complete or delete the line")
            label = csvtext.number(cells[place], name, line, header[place])
            if label != round(label) or abs(label) > 2**31:
                csvtext.refuse(name, line, "must be a whole class number", cells[place], "count classes from 0", header[place])
            numbers.append(int(label))
            values.extend(csvtext.number(c, name, line, header[i]) for i, c in enumerate(cells) if i != place)
    if not numbers:
        csvtext.refuse(name, 2, "must have rows of data", "none", "add rows below the header")
    table = torch.tensor(values, dtype=torch.float64).reshape(len(numbers), -1)
    names = [cell for i, cell in enumerate(header) if i != place]
    return Record(table[:, 0] if table.shape[1] == 1 else table, torch.tensor(numbers), names)
