"""An audit as a `Result`: findings first, then the blocks by depth, and what they look like."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from residyn import provenance
from residyn.audit.blocks import Block, Measured
from residyn.results import Figure, Finding, Result, Section, Series, Table

if TYPE_CHECKING:
    from residyn.audit.auditing import Audit

_COLUMNS = {
    "ratio ‖F‖/‖x‖": "ratio",
    "cosine(x, x+F)": "cosine",
    "influence": "influence",
    "‖∂F/∂x‖₂": "jacobian_norm",
    "largest stable h": "max_step",
    "gradient": "gradient_norm",
    "dropped": "dropped",
    "K_F": "bound",
}
_STANDING = {
    "ratio": "estimate",
    "cosine": "estimate",
    "influence": "estimate",
    "jacobian_norm": "lower",
    "max_step": "estimate",
    "gradient_norm": "estimate",
    "dropped": "estimate",
    "bound": "certified",
}


def result(found: Audit, *, command: str = "", started: str = "") -> Result:
    """Make the report of an audit.

    Args:
        found: The audit.
        command: What would make it again.
        started: When it began.

    Returns:
        A result with one section for the findings and one for the blocks.
    """
    name = type(found.model).__name__
    sections = [
        Section(
            "findings",
            "What is wrong, worst first",
            summary=_summary(found),
            findings=found.findings or [Finding("RD100", "Nothing was found to be wrong", "pass", why=_checked(found))],
            seconds=found.seconds,
        ),
        Section(
            "blocks",
            f"The {len(found.blocks)} residual blocks of {name}",
            summary=_reading(found),
            equation="x⁺ = skip(x) + F(x)",
            figures=_figures(found),
            tables=_tables(found),
        ),
    ]
    versions = provenance.versions()
    title = f"Audit of {name}: {len(found.blocks)} residual blocks"
    return Result("audit", title, sections, command, found.run.seed, versions, started or provenance.now(), found.seconds)


def _summary(found: Audit) -> str:
    parts = []
    if found.metric is not None:
        parts.append(f"The model's {found.metric[0]} on this batch is {found.metric[1]:.4g}.")
    if found.warnings:
        parts.append("What this audit may not have seen: " + "; ".join(found.warnings) + ".")
    return "\n\n".join(parts)


def _checked(found: Audit) -> str:
    measured = sum(b.ratio is not None for b in found.blocks)
    return f"{len(found.blocks)} blocks were found, {measured} of them measured"


def _reading(found: Audit) -> str:
    """How to read the numbers."""
    if not found.blocks:
        return "No residual sum was seen."
    text = (
        "Every block by depth, on the batch that was handed in. Ratio, cosine, influence, gradient and what dropping does are "
        "estimates from this batch; the Jacobian's norm is a lower bound that Lanczos reached to 1 %; the stable step is an "
        "estimate from a dozen products; K_F is certified where it is given."
    )
    what = "the change of the metric" if found.targets is not None else "the relative change of the output"
    text += f" “Dropped” is {what} when the branch is left out."
    if found.others:
        text += "\n\nSums that looked residual and are not: " + "; ".join(found.others) + "."
    return text


def _cell(value: Measured | None) -> float | None:
    return None if value is None else float(value)


def _tables(found: Audit) -> list[Table]:
    kept = {label: key for label, key in _COLUMNS.items() if any(getattr(b, key) is not None for b in found.blocks)}
    rows: list[list[float | str | None]] = []
    for place, b in enumerate(found.blocks, 1):
        rows.append([float(place), b.name, b.kind, *(_cell(getattr(b, key)) for key in kept.values())])
    columns = ["depth", "block", "kind", *(f"{label} ({_kind(found.blocks, key)})" for label, key in kept.items())]
    return [Table("Blocks by depth", columns, rows)] if rows else []


def _kind(blocks: list[Block], key: str) -> str:
    return next((getattr(b, key).kind for b in blocks if getattr(b, key) is not None), _STANDING[key])


def _figures(found: Audit) -> list[Figure]:
    figures = []
    depth = [float(i) for i in range(1, len(found.blocks) + 1)]
    if any(b.gradient_norm is not None for b in found.blocks):
        y = [math.nan if b.gradient_norm is None else float(b.gradient_norm) for b in found.blocks]
        figures.append(
            Figure(
                "Gradient through depth",
                "block",
                "norm of the gradient at the sum",
                [Series("measured", depth, y, "points")],
                yscale="log",
                caption="A flat profile reaches the first block; a slope is a gradient that vanishes or explodes by depth.",
            )
        )
    values = [(v.real + 1, v.imag) for b in found.blocks for v in b.spectrum]
    if values:
        turn = [2 * math.pi * i / 128 for i in range(129)]
        figures.append(
            Figure(
                "Stability",
                "Re(1 + λ)",
                "Im(1 + λ)",
                [
                    Series("|1 + λ| = 1", [math.cos(t) for t in turn], [math.sin(t) for t in turn]),
                    Series("leading eigenvalues of all blocks", [v[0] for v in values], [v[1] for v in values], "points"),
                ],
                caption="Inside the circle a perturbation shrinks from block to block, outside it grows.",
                equal=True,
            )
        )
    return figures
