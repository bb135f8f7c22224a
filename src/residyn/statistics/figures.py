"""Reliability diagrams, as the reports draw them."""

from __future__ import annotations

from residyn.results import Figure, Series
from residyn.statistics.inputs import Kind, Labels, Scores
from residyn.statistics.measures import reliability


def reliability_figure(
    logits_or_probs: Scores, labels: Labels, title: str, *, bins: int = 15, kind: Kind = "auto", caption: str = ""
) -> Figure:
    """Accuracy against confidence with 95 % bands.

    Args:
        logits_or_probs: As in `ece`.
        labels: As in `ece`.
        title: The figure's title.
        bins: As in `ece`.
        kind: As in `ece`.
        caption: More to say below.

    Returns:
        The figure.

    Raises:
        InputError: As in `ece`.
    """
    r = reliability(logits_or_probs, labels, bins, kind=kind)
    return Figure(
        title,
        "confidence",
        "accuracy",
        [
            Series("95 % interval", r.confidence, r.low, "band", r.high),
            Series("calibrated", [0.0, 1.0], [0.0, 1.0]),
            Series("measured", r.confidence, r.accuracy, "points"),
        ],
        caption=" ".join(["Points below the line: more confident than right.", caption]).strip(),
        equal=True,
    )
