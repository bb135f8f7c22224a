"""What every job returns: numbers that say what they are, findings, and one `Result` that all reports render.

JSON is the `Result` itself (`Result.to_dict`); HTML and terminal text only render it. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from residyn.display import card, table
from residyn.errors import InputError

SCHEMA = "residyn.result/1"

EstimateKind = Literal["estimate", "lower", "upper", "certified"]
Verdict = Literal["pass", "warn", "fail", "info"]
OutcomeKind = Literal["success", "max_steps", "non_finite", "step_underflow", "root_failed", "event", "singular"]
Scale = Literal["linear", "log", "symlog"]
Mark = Literal["line", "points", "band", "bars", "heat", "region"]

_RANK: dict[str, int] = {"info": 0, "pass": 1, "warn": 2, "fail": 3}


@dataclass(frozen=True)
class Estimate:
    """A number with its standing: what kind of statement about the truth it is.

    Args:
        value: The number; `inf` and `0` where that is the truth.
        kind: `"estimate"` (close to the truth, either side), `"lower"`, `"upper"` (a bound up to rounding), or
            `"certified"` (an upper bound that is never below the truth, rounding included).
        iterations: Products with the operator (or its adjoint) that were spent.
        converged: Whether the asked tolerance was reached.

    >>> float(Estimate(2.0, "lower")) + 1
    3.0
    """

    value: float
    kind: EstimateKind = "estimate"
    iterations: int = 0
    converged: bool = True

    def __float__(self) -> float:
        return self.value

    def _repr_html_(self) -> str:
        note = "" if self.converged else "the tolerance asked for was not reached"
        return card("Estimate", [("value", self.value), ("kind", self.kind), ("iterations", self.iterations)], note)


@dataclass(frozen=True)
class Outcome:
    """How a solve ended, as a value: cause, place and fix.

    Args:
        kind: `"success"`, `"event"` (a terminal event was met) or the kind of failure.
        message: One line: what happened, where. Empty on success.
        fix: One line: what would help.
        t: The time reached.
        step: The step size last tried; nan where there is none.
        component: Flat index, within one sample, of the component that dominates the error; `None` if unknown.
        sample: Index of the sample that dominates the error; `None` if unknown or unbatched.
        stiff: Whether the problem looks stiff there; `None` if it was not looked at.
    """

    kind: OutcomeKind
    message: str = ""
    fix: str = ""
    t: float = math.nan
    step: float = math.nan
    component: int | None = None
    sample: int | None = None
    stiff: bool | None = None

    @property
    def ok(self) -> bool:
        """Whether the job ended as asked."""
        return self.kind in ("success", "event")

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return f"{self.message}; {self.fix}" if self.fix else (self.message or self.kind)


@dataclass(frozen=True)
class Finding:
    """One statement that was checked: what was measured, what theory says, and the verdict.

    Args:
        id: Stable dotted name, e.g. `"ode.order.rk4"`, or a code such as `"RD104"`.
        title: The statement in one line.
        verdict: `"pass"`, `"warn"`, `"fail"`, or `"info"` where nothing was judged.
        value: What was measured.
        theory: What theory, computed from the same inputs, says.
        unit: Unit of both; empty if they have none.
        why: Why it matters, or how the verdict was reached.
        fix: What to do about it; empty if nothing needs doing.
    """

    id: str
    title: str
    verdict: Verdict = "info"
    value: float | str | None = None
    theory: float | str | None = None
    unit: str = ""
    why: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Series:
    """One curve of a figure.

    Args:
        label: Its name in the legend.
        x: Abscissae; nan in x and y alike breaks a line.
        y: Ordinates; the same length.
        mark: `"line"` (theory, by habit), `"points"` (measurement), `"band"` (`y` to `y2`), `"region"` (the same, in grey
            behind all else), `"bars"`, or `"heat"`: a row of cells, one an abscissa, the darker the larger (by rank of size,
            row by row).
        y2: Upper edge of a band or region.
    """

    label: str
    x: list[float]
    y: list[float]
    mark: Mark = "line"
    y2: list[float] | None = None


@dataclass(frozen=True)
class Figure:
    """A plot as data; the report draws it.

    Args:
        title: What it shows.
        xlabel: Label of the abscissa, with its unit.
        ylabel: Label of the ordinate, with its unit.
        series: The curves.
        xscale: `"linear"`, `"log"` or `"symlog"`.
        yscale: As `xscale`.
        caption: One or two sentences: what to see.
        equal: Whether both axes have the same scale (for a complex plane).
        xlim: Both ends of the abscissa; as the data ask if `None`.
        ylim: Both ends of the ordinate.
    """

    title: str
    xlabel: str
    ylabel: str
    series: list[Series]
    xscale: Scale = "linear"
    yscale: Scale = "linear"
    caption: str = ""
    equal: bool = False
    xlim: list[float] | None = None
    ylim: list[float] | None = None


@dataclass(frozen=True)
class Picture:
    """An image in a report.

    Args:
        title: What it shows.
        png: The PNG file, base64-encoded.
        alt: Text for those who do not see it.
    """

    title: str
    png: str
    alt: str


@dataclass(frozen=True)
class Table:
    """A table in a report; every row is as long as `columns`."""

    title: str
    columns: list[str]
    rows: list[list[float | str | None]]


@dataclass(frozen=True)
class Section:
    """One part of a result: a system of the atlas, a file of a batch, a page of an audit.

    Args:
        id: Short name, unique within the result; an anchor in the page.
        title: Its heading.
        summary: A few sentences for a reader who sees nothing else.
        equation: The step in plain text, e.g. `"x⁺ = x + h·F(x)"`.
        data: Where the data came from.
        code: A few lines of Python that do this on one's own data.
        findings: What was checked.
        figures: Plots.
        pictures: Images.
        tables: Tables.
        seconds: Wall time spent.
        error: Why this section is incomplete; empty if it is whole.
    """

    id: str
    title: str
    summary: str = ""
    equation: str = ""
    data: str = ""
    code: str = ""
    findings: list[Finding] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its findings; `"fail"` if the section broke off."""
        return "fail" if self.error else worst(self.findings)


@dataclass(frozen=True)
class Result:
    """What a job found, whole; every report is a rendering of this.

    Args:
        kind: The job: `"atlas"`, `"audit"`, …
        title: Heading of the page.
        sections: The parts, in reading order.
        command: What would make it again.
        seed: Seed of all that is random.
        versions: Versions of Python, Residyn, torch and what else took part.
        started: Start, ISO 8601, UTC.
        seconds: Wall time.
        complete: False if it was interrupted.
        note: One line for the reader of an incomplete result: how to go on.
        overview: What stands in front of the sections: small figures side by side, and tables; it holds no findings.
        schema: Name and version of this form.

    >>> r = Result("demo", "A demo", [Section("a", "A", findings=[Finding("a.x", "x is 1", "pass", 1.0, 1.0)])])
    >>> r.verdict, Result.from_dict(r.to_dict()) == r
    ('pass', True)
    """

    kind: str
    title: str
    sections: list[Section]
    command: str = ""
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0
    complete: bool = True
    note: str = ""
    overview: Section | None = None
    schema: str = SCHEMA

    @property
    def findings(self) -> list[Finding]:
        """All findings of all sections, in order."""
        return [finding for section in self.sections for finding in section.findings]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all sections."""
        return max((section.verdict for section in self.sections), key=_RANK.__getitem__, default="info")

    def _repr_html_(self) -> str:
        found = sorted((f for section in self.sections for f in _told(section)), key=lambda f: -_RANK[f.verdict])
        counts = ", ".join(f"{n} {v}" for v in _RANK if (n := sum(f.verdict == v for f in found)))
        rows = [(f.verdict, f.title, f.value, f.theory, f.unit) for f in found]
        columns = ["verdict", "finding", "measured", "theory", "unit"]
        return table(f"{self.title}: {counts or 'no findings'}", columns, rows, self.note)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON types; non-finite numbers become the strings "nan", "inf" and "-inf"."""
        plain = _plain(dataclasses.asdict(self))
        assert isinstance(plain, dict)
        return plain

    def to_json(self) -> str:
        """The result as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Result:
        """Read what `to_dict` wrote.

        Raises:
            InputError: If the data has another schema or form.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            got = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise InputError(f"`schema` must be {SCHEMA!r}, got {got!r}; write the file again with this version")
        result = _build(cls, data, "result")
        assert isinstance(result, Result)
        return result

    @classmethod
    def from_json(cls, text: str | bytes) -> Result:
        """Read what `to_json` wrote.

        Args:
            text: The JSON text.

        Returns:
            The result.

        Raises:
            InputError: If it is not JSON, or has another schema or form.

        >>> Result.from_json(Result("demo", "A demo", []).to_json()).title
        'A demo'
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            got = " ".join(str(error).split())[:80]
            raise InputError(f"`text` must be JSON, got what is none ({got}); write the file again") from None
        return cls.from_dict(data)


def _told(section: Section) -> list[Finding]:
    """A section's findings, the worst of all being that it broke off."""
    broken = [Finding(f"{section.id}.error", section.title, "fail", section.error)] if section.error else []
    return [*broken, *section.findings]


def worst(findings: list[Finding]) -> Verdict:
    """The worst verdict of some findings; `"info"` if there are none.

    >>> worst([Finding("a", "a", "pass"), Finding("b", "b", "warn")])
    'warn'
    """
    return max((finding.verdict for finding in findings), key=_RANK.__getitem__, default="info")


def _plain(value: Any) -> Any:
    """Replace what JSON has no form for."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _build(kind: Any, data: Any, where: str) -> Any:
    """Make a value of the annotated type `kind` from plain data, checking as it goes."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(data, dict) or not set(data) <= set(hints):
            raise InputError(f"`{where}` must be an object with the keys of {kind}, got {str(data)[:60]}")
        for part in dataclasses.fields(kind):
            if part.name not in data and part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
                raise InputError(f"`{where}` must have a key {part.name!r}, got {', '.join(data) or 'none'}")
        return typing.cast("Any", kind)(**{k: _build(hints[k], v, f"{where}.{k}") for k, v in data.items()})
    if origin is list and isinstance(data, list):
        return [_build(inner[0], item, f"{where}[{i}]") for i, item in enumerate(data)]
    if origin is dict and isinstance(data, dict):
        return {str(key): _build(inner[1], item, f"{where}.{key}") for key, item in data.items()}
    if origin in (typing.Union, types.UnionType):
        return _build_union(inner, data, where)
    if origin is Literal and data in inner:
        return data
    if kind is float and data in ("nan", "inf", "-inf"):
        return float(data)
    if kind is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        return float(data)
    if kind is int and isinstance(data, float) and data.is_integer():  # to JSON, 1.0 is a whole number
        data = int(data)
    if isinstance(kind, type) and isinstance(data, kind) and isinstance(data, bool) == (kind is bool):
        return data
    raise InputError(f"`{where}` must be {kind}, got {str(data)[:60]!r}")


def _build_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return _build(kind, data, where)
        except InputError:
            continue
    raise InputError(f"`{where}` must be one of {kinds}, got {str(data)[:60]!r}")
