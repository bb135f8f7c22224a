"""Reads trajectories from CSV; every rule about such a file is checked here, and broken ones are named with line and column."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from residyn import csvtext
from residyn.dynamics.columns import Columns, assign
from residyn.dynamics.trajectories import Trajectories


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
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "pendulum.csv"
    >>> _ = path.write_text("t,x,vx\n0,1,0\n0.1,0.99,-0.1\n")
    >>> data = read_csv(path)
    >>> data.names, data.order, data.x[0].shape
    (['x', 'vx'], 2, torch.Size([2, 2]))
    """
    name = str(path)
    with csvtext.opened(path) as file:
        rows = csvtext.rows(file, name)
        header = next(rows, (1, []))[1]
        if not any(header):
            csvtext.refuse(
                name, 1, "must begin with a header line that names its columns", "an empty file or line", "add t,x,…"
            )
        columns = assign(
            name, header, time=time, state=state, derivative=derivative, control=control, trajectory=trajectory, order=order
        )
        runs = _collect(rows, columns, name)
    if not runs:
        csvtext.refuse(name, 2, "must have at least 2 rows of data", "none", "add rows below the header")
    for run in runs.values():
        if len(run.values) < 2 * columns.width:
            where = f"trajectory {run.id!r}" if columns.trajectory is not None else "the file"
            csvtext.refuse(
                name, run.line, "must have at least 2 rows a trajectory", f"1 row in {where}", "add rows or leave it out"
            )
    return _assemble(list(runs.values()), columns)


@dataclass
class _Run:
    """Rows of one trajectory as they come: a flat array, so that a large file costs eight bytes a number."""

    id: str
    line: int = 0
    time: float = -math.inf
    values: array[float] = field(default_factory=lambda: array("d"))


def _collect(rows: Iterator[tuple[int, list[str]]], columns: Columns, name: str) -> dict[str, _Run]:
    runs: dict[str, _Run] = {}
    for line, cells in rows:
        if len(cells) != len(columns.header):
            found = f"{len(cells)} cells"
            csvtext.refuse(
                name, line, f"must have {len(columns.header)} cells, as the header", found, "complete or delete the line"
            )
        label = "" if columns.trajectory is None else cells[columns.trajectory]
        if columns.trajectory is not None and not label:
            csvtext.refuse(
                name, line, "must have no missing value", "an empty cell", "fill it", columns.header[columns.trajectory]
            )
        run = runs.setdefault(label, _Run(label, line))
        time = csvtext.number(cells[columns.time], name, line, columns.header[columns.time])
        if time <= run.time:
            rule = "must hold increasing times" + (" within a trajectory" if columns.trajectory is not None else "")
            kind = "a repeated time" if time == run.time else f"a time after {run.time:.12g}"
            fix = "sort the rows, drop repeats, or name the trajectories in a column `trajectory`"
            csvtext.refuse(name, line, rule, f"{time:.12g}, {kind}", fix, columns.header[columns.time])
        run.time = time
        run.values.append(time)
        run.values.extend(csvtext.number(cells[i], name, line, columns.header[i]) for i in columns.values)
    return runs


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
