"""Which column of a table is what: by name, unless the caller says so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from residyn.errors import InputError

_TIMES = ("t", "time")
_RUNS = ("trajectory", "traj", "run", "id")
_CONTROL = re.compile(r"u\d*|u_.+", re.IGNORECASE)
_UNIT = re.compile(r"\s*(\([^()]*\)|\[[^\[\]]*\])$")


@dataclass(frozen=True)
class Columns:
    """Places of columns in a header.

    Args:
        header: All names.
        time: Place of the time.
        state: Places of the state's components; with `order` 2 positions, then velocities.
        derivative: Places of measured derivatives, one a component (or, with `order` 2, one a velocity); may be empty.
        control: Places of inputs.
        trajectory: Place of the trajectory's label, if there is one.
        order: 1 or 2.
    """

    header: list[str]
    time: int
    state: list[int]
    derivative: list[int]
    control: list[int]
    trajectory: int | None
    order: int

    @property
    def values(self) -> list[int]:
        """Places of the numbers besides the time, in the order in which they are kept."""
        return [*self.state, *self.derivative, *self.control]

    @property
    def width(self) -> int:
        """How many numbers are kept a row."""
        return 1 + len(self.values)


def assign(
    file: str,
    header: list[str],
    *,
    time: str | None,
    state: Sequence[str] | None,
    derivative: Sequence[str] | None,
    control: Sequence[str] | None,
    trajectory: str | None,
    order: int | None,
) -> Columns:
    """Give every column its part.

    Args:
        file: Name of the file, for errors.
        header: The names.
        time: As for `read_csv`, like all that follow.
        state: See there.
        derivative: See there.
        control: See there.
        trajectory: See there.
        order: See there.

    Returns:
        The places.

    Raises:
        InputError: If a name is missing, empty or there twice, or the parts do not fit together.
    """
    _check_names(file, header)
    if order not in (None, 1, 2):
        raise InputError(f"`order` must be 1 or 2, got {order!r}; rewrite higher orders as a system of first order")
    lower = {_bare(name): i for i, name in reversed(list(enumerate(header)))}
    clock = _place(file, header, "time", time) if time is not None else _first(lower, _TIMES)
    if clock is None:
        rule = f"must have a column of times named {' or '.join(_TIMES)}"
        raise InputError(f"{file}: line 1 {rule}, got {', '.join(header)[:80]}; rename it or say which it is: `time`")
    run = _place(file, header, "trajectory", trajectory) if trajectory is not None else _first(lower, _RUNS)
    rest = [i for i in range(len(header)) if i not in (clock, run)]
    inputs = [i for i in rest if _CONTROL.fullmatch(_bare(header[i]))]
    if control is not None:
        inputs = [_place(file, header, "control", name) for name in control]
    elif state is not None:
        inputs = [i for i in inputs if header[i] not in state]
    rest = [i for i in rest if i not in inputs]
    if state is not None:
        places = [_place(file, header, "state", name) for name in state]
        rates = [_place(file, header, "derivative", name) for name in derivative or ()]
    else:
        chosen = [_place(file, header, "derivative", name) for name in derivative or ()]
        places, rates, order = _by_name(header, [i for i in rest if i not in chosen], order)
        rates = chosen or rates
    found = Columns(header, clock, places, rates, inputs, run, order or 1)
    _check_parts(file, found)
    return found


def _by_name(header: list[str], rest: list[int], order: int | None) -> tuple[list[int], list[int], int]:
    """State, measured derivatives and order, from names such as x, dx, x_dot, vx, ax, x_ddot."""
    names = {_bare(header[i]): i for i in rest}
    if len(names) < len(rest):  # x (m) and x (rad): the units tell them apart
        names = {header[i].lower(): i for i in rest}
    first: dict[int, int] = {}
    velocity: dict[int, int] = {}
    second: dict[int, int] = {}
    for name, i in names.items():
        forms: tuple[tuple[dict[int, int], tuple[str, ...]], ...] = (
            (velocity, (f"v{name}",)),
            (first, (f"d{name}", f"{name}_dot", f"d{name}/dt")),
            (second, (f"a{name}", f"dd{name}", f"{name}_ddot")),
        )
        for kind, words in forms:
            place = _first(names, words)
            if place is not None:
                kind[i] = place
    derived = {*first.values(), *velocity.values(), *second.values()}
    base = [i for i in rest if i not in derived]
    speeds = {**{i: first[i] for i in base if i in first}, **{i: velocity[i] for i in base if i in velocity}}
    mechanical = bool(base) and all(i in speeds for i in base)
    if order is None:
        order = 2 if mechanical and (any(i in velocity for i in base) or any(i in second for i in base)) else 1
    if order == 2 and mechanical:
        rates = [second[i] for i in base] if all(i in second for i in base) else []
        return [*base, *(speeds[i] for i in base)], rates, 2
    if order == 1 and base and all(i in first for i in base):
        return base, [first[i] for i in base], 1
    return rest, [], order  # not a whole set of derivatives: all of it is state


def _bare(name: str) -> str:
    """A name in small letters without its unit: `time (s)` and `T [ms]` are times."""
    return _UNIT.sub("", name.lower()) or name.lower()


def _first(places: dict[str, int], names: Sequence[str]) -> int | None:
    return next((places[name] for name in names if name in places), None)


def _place(file: str, header: list[str], role: str, name: str) -> int:
    bare = [_bare(column) for column in header]
    if name not in header and bare.count(name.lower()) != 1:
        raise InputError(f"{file}: `{role}` must name columns of the file, got {name!r}; it has {', '.join(header)[:80]}")
    return header.index(name) if name in header else bare.index(name.lower())


def _check_names(file: str, header: list[str]) -> None:
    for name, count in Counter(name.lower() for name in header).items():
        if not name:
            at = header.index("") + 1
            raise InputError(f"{file}: line 1 must name every column, got an empty name in column {at}; name or delete it")
        if count > 1:
            raise InputError(f"{file}: line 1 must have each column name once, got {name!r} {count} times; rename one of them")
    if all(_is_number(name) for name in header):
        raise InputError(f"{file}: line 1 must name the columns, got numbers, {', '.join(header)[:60]}; put t,x,… first")


def _check_parts(file: str, found: Columns) -> None:
    if not found.state:
        raise InputError(f"{file}: line 1 must name at least one column besides the time, got none; add the state's columns")
    used = Counter([found.time, *found.values, *([] if found.trajectory is None else [found.trajectory])])
    twice = [found.header[i] for i, count in used.items() if count > 1]
    if twice:
        raise InputError(f"{file}: each column must have one part, got {twice[0]!r} in two; leave it out of one argument")
    if found.order == 2 and len(found.state) % 2:
        raise InputError(
            f"{file}: `order` 2 must come with a velocity for each position, got {len(found.state)} state columns; "
            "name velocities vNAME or NAME_dot, or pass order=1"
        )
    allowed = (0, len(found.state)) if found.order == 1 else (0, len(found.state), len(found.state) // 2)
    if len(found.derivative) not in allowed:
        raise InputError(
            f"{file}: `derivative` must name one column for each of the {len(found.state)} state columns, "
            f"got {len(found.derivative)}; name all or none"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
