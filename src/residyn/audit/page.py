"""An audit as a `Result`: findings first, then the blocks by depth, and what they look like."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from residyn import provenance
from residyn.audit import outputs
from residyn.audit.blocks import Block, Measured
from residyn.results import Figure, Result, Section, Series, Table

if TYPE_CHECKING:
    from residyn.audit.auditing import Audit

_COLUMNS = {
    "‖F‖/‖x‖": "ratio",
    "cosine": "cosine",
    "influence": "influence",
    "‖∂F/∂x‖₂": "jacobian_norm",
    "stable h": "max_step",
    "gradient": "gradient_norm",
    "dropped": "dropped",
    "K_F": "bound",
}
_STRIP = ("ratio", "influence", "jacobian_norm", "gradient_norm", "dropped", "bound")
_CODE = """import residyn as rd
audit = rd.audit(model, batch, targets=labels)
with audit.patch(drop=["NAME"]):    # what if, without surgery
    model(batch)
small = audit.retrofit.prune(loss=0.01)"""


def result(found: Audit, *, command: str = "", started: str = "", data: str = "") -> Result:
    """Make the report of an audit.

    Args:
        found: The audit.
        command: What would make it again.
        started: When it began.
        data: What it was run on.

    Returns:
        A result of one to three sections: findings, blocks, and calibration where labels were given.
    """
    versions = provenance.versions()
    begun = started or provenance.now()
    return Result("audit", title(found), sections(found, data=data), command, found.run.seed, versions, begun, found.seconds)


def title(found: Audit) -> str:
    """What heads a report.

    Args:
        found: The audit.
    """
    count = len(found.blocks)
    return f"Audit of {type(found.model).__name__}: {count} residual block{'s' * (count != 1)}"


def section(found: Audit, id: str, *, name: str, data: str = "") -> Section:
    """The whole report as one section, where it is one of many.

    Args:
        found: The audit.
        id: Id of the section.
        name: What the input is called; it stands before the title.
        data: What it was run on.
    """
    parts = sections(found, data=data)
    return replace(
        parts[0],
        id=id,
        title=f"{name}: {title(found)}",
        summary="\n\n".join(part.summary for part in parts if part.summary),
        equation=parts[1].equation,
        code=parts[1].code,
        figures=[figure for part in parts for figure in part.figures],
        tables=[table for part in parts for table in part.tables],
    )


def sections(found: Audit, *, data: str = "") -> list[Section]:
    """The sections of the report.

    Args:
        found: The audit.
        data: What it was run on.
    """
    name = type(found.model).__name__
    parts = [
        Section(
            "findings",
            "What is wrong, worst first",
            summary=_summary(found),
            data=data,
            findings=found.findings,
            seconds=found.seconds,
        ),
        Section(
            "blocks",
            f"The {len(found.blocks)} residual blocks of {name}",
            summary=_reading(found),
            equation="x⁺ = skip(x) + F(x)",
            code=_CODE if found.blocks else "",
            figures=_figures(found),
            tables=_tables(found),
        ),
    ]
    diagram = outputs.diagram(found.logits, found.targets)
    if diagram is not None:
        parts.append(Section("calibration", "Whether its probabilities are to be believed", figures=[diagram]))
    return parts


def _summary(found: Audit) -> str:
    parts = [f"{len(found.blocks)} residual blocks. " + found.seen]
    if found.metric is not None:
        parts[0] += f" The model's {found.metric[0]} on this batch is {found.metric[1]:.4g}."
    if found.warnings:
        parts.append("What this audit may not have seen: " + "; ".join(found.warnings) + ".")
    return "\n\n".join(parts)


def _reading(found: Audit) -> str:
    """How to read the numbers."""
    if not found.blocks:
        return "No residual sum was seen."
    if not any(b.ratio is not None for b in found.blocks):
        return "The blocks were found and not measured: the budget was 0, or spent."
    text = (
        "Every block by depth, on the batch that was handed in. Ratio ‖F‖/‖x‖, cosine of skip and sum, influence, gradient and "
        "what dropping does are estimates from it; ‖∂F/∂x‖₂ is a lower bound from a Lanczos process that stops at 1 %; the "
        "stable h is an estimate from a dozen products (0: some perturbation grows at every step); K_F is certified on all of "
        "space where it is given."
    )
    what = f"the change of the {found.metric[0]}" if found.metric is not None else "the relative change of the output"
    text += f" “Dropped” is {what} when the branch is left out."
    loose = [b.name for b in found.blocks if b.jacobian_norm is not None and not b.jacobian_norm.converged]
    if loose:
        text += f"\n\nThe norms of {len(loose)} blocks had not settled to 1 % when they stopped: {', '.join(loose[:8])}."
    if found.notes:
        text += "\n\nNot certified: " + "; ".join(found.notes) + "."
    if found.others:
        shown = "; ".join(dict.fromkeys(found.others[:12]))
        text += f"\n\nSums that looked residual and are not: {shown}{' …' if len(found.others) > 12 else ''}."
    return text


def _cell(value: Measured | None) -> float | None:
    return None if value is None else float(value)


def table(found: Audit) -> Table:
    """The blocks by depth, a column a number, each with its standing."""
    kept = {label: key for label, key in _COLUMNS.items() if any(getattr(b, key) is not None for b in found.blocks)}
    rows: list[list[float | str | None]] = []
    for place, b in enumerate(found.blocks, 1):
        rows.append([float(place), b.name, b.kind, *(_cell(getattr(b, key)) for key in kept.values())])
    columns = ["depth", "block", "skip", *(f"{label} ({_kind(found.blocks, key)})" for label, key in kept.items())]
    return Table("Blocks by depth", columns, rows)


def _tables(found: Audit) -> list[Table]:
    return [table(found)] if found.blocks else []


def _kind(blocks: list[Block], key: str) -> str:
    return next(getattr(b, key).kind for b in blocks if getattr(b, key) is not None)


def _figures(found: Audit) -> list[Figure]:
    return [figure for figure in (_strip(found), _profile(found), _plane(found)) if figure is not None]


def _strip(found: Audit) -> Figure | None:
    """The heat-strip of blocks by depth."""
    labels = {key: label for label, key in _COLUMNS.items()}
    depth = [float(i) for i in range(1, len(found.blocks) + 1)]
    rows = []
    for key in _STRIP:
        pairs = [(d, _number(getattr(b, key))) for d, b in zip(depth, found.blocks, strict=True)]
        pairs = [(d, v) for d, v in pairs if math.isfinite(v)]
        if pairs:
            rows.append(Series(labels[key], [d for d, _ in pairs], [v for _, v in pairs], "heat"))
    if not rows:
        return None
    return Figure("Blocks by depth", "block", "", rows, caption="Darker is larger, row by row; the numbers are in the table.")


def _number(value: Measured | None) -> float:
    return math.nan if value is None else float(value)


def _profile(found: Audit) -> Figure | None:
    if not any(b.gradient_norm for b in found.blocks):
        return None
    depth = [float(i) for i in range(1, len(found.blocks) + 1)]
    values = [_number(b.gradient_norm) for b in found.blocks]
    positive = [v for v in values if v > 0]
    wide = max(positive) > 30 * min(positive)
    measured = [Series("measured", depth, values, "points")]
    caption = "A flat profile reaches the first block; a slope is a gradient that vanishes or explodes by depth."
    ylabel = "norm of the gradient at the sum"
    return Figure("Gradient through depth", "block", ylabel, measured, yscale="log" if wide else "linear", caption=caption)


def _plane(found: Audit) -> Figure | None:
    values = [(v.real + 1, v.imag) for b in found.blocks for v in b.spectrum]
    if not values:
        return None
    turn = [2 * math.pi * i / 128 for i in range(129)]
    inside = [v for v in values if math.hypot(*v) <= 1]
    outside = [v for v in values if math.hypot(*v) > 1]
    circle = Series("|1 + λ| = 1", [math.cos(t) for t in turn], [math.sin(t) for t in turn])
    points = [
        Series(label, [v[0] for v in part], [v[1] for v in part], "points")
        for label, part in (("leading eigenvalues inside", inside), ("outside", outside))
        if part
    ]
    caption = "Of all blocks. Inside the circle a perturbation shrinks from block to block, outside it grows."
    return Figure("Stability", "Re(1 + λ)", "Im(1 + λ)", [circle, *points], caption=caption, equal=True)
