"""Samples sorted into bins of confidence: what calibration errors and reliability diagrams are made of."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.statistics import inputs
from residyn.statistics.inputs import Kind, Labels, Scores

Binning = Literal["width", "mass"]

_SAFE = 60.0
"""exp(60) times a trillion classes, and exp(-60), are numbers in single precision: no largest need be taken off."""
_ROWS = 1024
"""Rows at a time: 1024 by 100 classes in single precision stay in the second-level cache."""


def statements(values: Scores, labels: Labels, kind: Kind = "auto") -> tuple[Tensor, Tensor]:
    """What a classifier says and whether it is so: the top class of each sample, or each event of a multi-label problem.

    Args:
        values: Scores.
        labels: Labels.
        kind: What the scores hold.

    Returns:
        Confidence and truth (0 or 1), `(M,)` each, float64.

    Raises:
        InputError: If they do not fit.
    """
    several = inputs.events(values, labels, "logits_or_probs", kind)
    if several is not None:
        return several.p, several.y
    table, said = inputs.table(values, "logits_or_probs", kind)
    y = inputs.labels(labels, table)
    room = table.new_empty(min(_ROWS, len(table)), table.shape[1])
    parts = [_top(*part, said, room) for part in zip(torch.split(table, _ROWS), torch.split(y, _ROWS), strict=True)]
    top, right = torch.cat([top for top, _ in parts]).double(), torch.cat([right for _, right in parts])
    tie = right & (top <= 0.5 + 1e-6)  # two classes share the largest probability only where it is 1/2 at most
    if bool(tie.any()):
        right[tie] = table[tie].argmax(1) == y[tie]
    return top, right.double()


def binned(p: Tensor, y: Tensor, bins: int, binning: Binning) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Count, mean confidence and mean truth a bin, and the inner edges.

    Bins of equal width are closed on the right, so that 1 falls in the last one and 0 in the first; bins of equal mass
    hold the same number of samples as nearly as that can be, samples of one confidence together.

    Args:
        p: Confidence, `(M,)`, float64.
        y: Truth, `(M,)`.
        bins: Number of bins.
        binning: `"width"` or `"mass"`.

    Returns:
        Count, mean confidence, mean truth, each `(bins,)` (0 where a bin is empty), and the edges, `(bins + 1,)`.

    Raises:
        InputError: If `bins` is no whole number >= 1, or `binning` is unknown.
    """
    inputs.whole(bins, "bins", 15)
    if binning not in ("width", "mass"):
        raise InputError(f'`binning` must be "width" or "mass", got {binning!r}')
    if binning == "width":
        edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=p.device)
        # The inner edges alone: 0 falls in the first bin, and what is rounded past 1 in the last.
    else:
        edges = _quantile_edges(p, bins)
    index = torch.bucketize(p.contiguous(), edges[1:-1], right=False)
    count = torch.bincount(index, minlength=bins).double()
    sums = [torch.bincount(index, weights=weight, minlength=bins) for weight in (p, y)]
    return count, sums[0] / count.clamp(min=1), sums[1] / count.clamp(min=1), edges


def _top(table: Tensor, y: Tensor, said: bool, room: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence of the top class, and whether the labelled one has it, of a few rows that fit the cache.

    The largest logit of a row is what all others are relative to, so its probability is 1 over the sum of exponentials:
    no table of probabilities is made, and no index of the largest, which is slower by far to find than its value.
    """
    largest = table.amax(1)
    right = table.gather(1, y[:, None])[:, 0] == largest
    if said:
        return largest, right
    if float(largest.abs().max()) <= _SAFE:
        return largest.exp_() / torch.exp(table, out=room[: len(table)]).sum(1), right
    return torch.sub(table, largest[:, None], out=room[: len(table)]).exp_().sum(1).reciprocal_(), right


def _quantile_edges(p: Tensor, bins: int) -> Tensor:
    """0, the largest confidence of each share of the sorted samples, 1."""
    ordered = p.sort().values
    last = (torch.arange(1, bins, device=p.device, dtype=torch.float64) * len(p) / bins).round().long().clamp(1, len(p)) - 1
    return torch.cat([p.new_zeros(1), ordered[last], p.new_ones(1)])
