"""Reads trajectories from CSV; every rule about such a file is checked here, and broken ones are named with line and column."""

from __future__ import annotations

import csv
import math
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TextIO

import torch
from torch import Tensor

from residyn.dynamics.columns import Columns, assign
from residyn.dynamics.trajectories import Trajectories
from residyn.errors import InputError

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?", "."})


def read_csv(
    path: str | os.PathLike[str],
    *,
    time: str | None = None,
    state: Sequence[str] | None = None,
    derivative: Sequence[str] | None = None,
    control: Sequence[str] | None = None,
    trajectory: str | None = None,
    order: int | None = None,
) -> Trajectories:
    r"""Read trajectories from a CSV file with a header line.

    Which column is what follows from its name (case aside), unless an argument says it:

    - `t`, `time`: the time. `trajectory`, `traj`, `run`, `id`: the trajectory; rows of one need not be adjacent.
    - `u`, `u1`, `u_…`: control inputs.
    - `dNAME`, `NAME_dot`, `dNAME/dt` beside a column `NAME`: its measured derivative.
    - `vNAME` beside `NAME`: its velocity, and so a second-order system with state (positions, velocities). `aNAME`, `ddNAME`,
      `NAME_ddot`: the measured acceleration; it makes the system second order too.
    - every other column: a component of the state.

    Args:
        path: The file; UTF-8 (with or without mark) or UTF-16 with mark; separated by comma, semicolon or tab.
        time: Name of the column of times.
        state: Names of the state's columns; with `order` 2 the positions, then the velocities.
        derivative: Names of the measured dx/dt, one a component; with `order` 2 accelerations are enough.
        control: Names of the input columns.
        trajectory: Name of the column that tells trajectories apart.
        order: 2 for a second-order system; from the names if `None`.

    Returns:
        The trajectories, in the order in which they first appear.

    Raises:
        InputError: If the file breaks a rule; the text names file, line, column, rule, value and fix.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "pendulum.csv"
    >>> _ = path.write_text("t,x,vx\n0,1,0\n0.1,0.99,-0.1\n")
    >>> data = read_csv(path)
    >>> data.names, data.order, data.x[0].shape
    (['x', 'vx'], 2, torch.Size([2, 2]))
    """
    name = str(path)
    with _opened(path) as file:
        rows = _rows(file, name)
        header = next(rows, (1, []))[1]
        if not any(header):
            _refuse(name, 1, "must begin with a header line that names its columns", "an empty file or line", "add t,x,…")
        columns = assign(
            name, header, time=time, state=state, derivative=derivative, control=control, trajectory=trajectory, order=order
        )
        runs = _collect(rows, columns, name)
    if not runs:
        _refuse(name, 2, "must have at least 2 rows of data", "none", "add rows below the header")
    for run in runs.values():
        if len(run.values) < 2 * columns.width:
            where = f"trajectory {run.id!r}" if columns.trajectory is not None else "the file"
            _refuse(name, run.line, "must have at least 2 rows a trajectory", f"1 row in {where}", "add rows or leave it out")
    return _assemble(list(runs.values()), columns)


@dataclass
class _Run:
    """Rows of one trajectory as they come: a flat array, so that a large file costs eight bytes a number."""

    id: str
    line: int = 0
    time: float = -math.inf
    values: array[float] = field(default_factory=lambda: array("d"))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """The file as text; what the disk or the encoding says becomes an input error."""
    name = str(path)
    try:
        with Path(path).open("rb") as probe:
            mark = probe.read(2)
        encoding = "utf-16" if mark in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        with Path(path).open("r", encoding=encoding, newline="") as file:
            yield file
    except UnicodeError:
        raise InputError(f"{name}: must be UTF-8 text, got bytes that are not; save it again as CSV (UTF-8)") from None
    except OSError as error:
        raise InputError(f"{name}: must be a file that can be read, got: {error.strerror}; check the path") from None


def _rows(file: TextIO, name: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells; empty lines and comment lines (#) are skipped."""
    position = file.tell()
    line = file.readline(1_000_000)
    while line and (not line.strip() or line.startswith("#")):
        line = file.readline(1_000_000)
    separator = max(",;\t", key=line.count)
    file.seek(position)
    reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _refuse(name, reader.line_num, "must be CSV", str(error), "mend or remove the quotes and odd characters there")
        cells = [cell.strip() for cell in cells]
        if any(cells) and not cells[0].startswith("#"):
            yield reader.line_num, cells


def _collect(rows: Iterator[tuple[int, list[str]]], columns: Columns, name: str) -> dict[str, _Run]:
    runs: dict[str, _Run] = {}
    for line, cells in rows:
        if len(cells) != len(columns.header):
            found = f"{len(cells)} cells"
            _refuse(name, line, f"must have {len(columns.header)} cells, as the header", found, "complete or delete the line")
        label = "" if columns.trajectory is None else cells[columns.trajectory]
        if columns.trajectory is not None and not label:
            _refuse(name, line, "must have no missing value", "an empty cell", "fill it", columns.header[columns.trajectory])
        run = runs.setdefault(label, _Run(label, line))
        time = _number(cells[columns.time], name, line, columns.header[columns.time])
        if time <= run.time:
            rule = "must hold increasing times" + (" within a trajectory" if columns.trajectory is not None else "")
            kind = "a repeated time" if time == run.time else f"a time after {run.time:.12g}"
            fix = "sort the rows, drop repeats, or name the trajectories in a column `trajectory`"
            _refuse(name, line, rule, f"{time:.12g}, {kind}", fix, columns.header[columns.time])
        run.time = time
        run.values.append(time)
        run.values.extend(_number(cells[i], name, line, columns.header[i]) for i in columns.values)
    return runs


def _number(cell: str, name: str, line: int, column: str) -> float:
    if cell.lower() in _MISSING:
        _refuse(name, line, "must have no missing value", repr(cell), "fill it in, or leave the whole line out", column)
    try:
        value = float(cell) if "_" not in cell else math.nan
    except ValueError:
        value = math.nan
    if value != value:
        comma = re.fullmatch(r"[+-]?\d+,\d+", cell)
        fix = "write the decimal sign as a point" if comma else "leave out a column of text, or correct the cell"
        _refuse(name, line, "must hold numbers only", repr(cell[:40]), fix, column)
    if math.isinf(value):
        _refuse(name, line, "must hold finite numbers", repr(cell[:40]), "leave the line out", column)
    return value


def _assemble(runs: list[_Run], columns: Columns) -> Trajectories:
    tables = [torch.tensor(run.values, dtype=torch.float64).reshape(-1, columns.width) for run in runs]
    widths = [1, len(columns.state), len(columns.derivative), len(columns.control)]
    parts: list[tuple[Tensor, ...]] = [torch.split(table, widths, dim=1) for table in tables]
    rates = None
    if columns.derivative:
        half = len(columns.state) // 2
        whole = len(columns.derivative) == len(columns.state)
        rates = [rate if whole else torch.cat([x[:, half:], rate], 1) for _, x, rate, _ in parts]
    return Trajectories(
        t=[t[:, 0] for t, *_ in parts],
        x=[x for _, x, *_ in parts],
        names=[columns.header[i] for i in columns.state],
        derivative=rates,
        control=[u for *_, u in parts] if columns.control else None,
        controls=[columns.header[i] for i in columns.control],
        ids=[run.id for run in runs] if columns.trajectory is not None else [],
        order=columns.order,
    )


def _refuse(name: str, line: int, rule: str, got: str, fix: str, column: str = "") -> NoReturn:
    where = f"line {line}" + (f", column {column!r}" if column else "")
    raise InputError(f"{name}: {where} {rule}, got {got}; {fix}")
