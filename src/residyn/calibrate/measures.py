"""How far probabilities are from the frequencies they promise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from residyn.calibrate import inputs
from residyn.calibrate.inputs import Labels, Scores
from residyn.errors import InputError

Norm = Literal["l1", "l2", "max"]


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, bin by bin; bins without samples are left out.

    Args:
        lower: Left edges (excluded, save 0).
        upper: Right edges (included).
        count: Samples in the bin.
        confidence: Mean confidence in the bin.
        accuracy: Share of right predictions in the bin.
        low: Lower end of the 95 % Wilson interval of the accuracy.
        high: Its upper end.
    """

    lower: list[float]
    upper: list[float]
    count: list[int]
    confidence: list[float]
    accuracy: list[float]
    low: list[float]
    high: list[float]


def ece(logits_or_probs: Scores, labels: Labels, bins: int = 15, norm: Norm = "l1") -> float:
    """Expected calibration error of the top class: Σ_b n_b/N · |accuracy_b - confidence_b|.

    Bins have equal width and are closed on the right, so that confidence 1 falls in the last one and 0 in the first.
    Sums are taken in float64.

    Args:
        logits_or_probs: `(N, C)`; rows that are non-negative and sum to one are probabilities, others logits.
        labels: Class numbers, `(N,)`.
        bins: Number of bins.
        norm: `"l1"` as above, `"l2"` for the root of the mean square, `"max"` for the worst bin.

    Returns:
        The error, in [0, 1].

    Raises:
        InputError: If shapes, values or labels do not fit, `bins` < 1, or `norm` is unknown.

    Reference:
        Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern Neural Networks", arXiv:1706.04599.

    >>> ece(torch.tensor([[0.2, 0.8], [0.4, 0.6]]), torch.tensor([1, 1]))
    0.3
    """
    if norm not in ("l1", "l2", "max"):
        raise InputError(f'`norm` must be "l1", "l2" or "max", got {norm!r}')
    count, confidence, accuracy = _binned(logits_or_probs, labels, bins)
    share, gap = count / count.sum(), (accuracy - confidence).abs()
    if norm == "max":
        return float(gap.max())
    return float((share * gap).sum()) if norm == "l1" else math.sqrt(float((share * gap**2).sum()))


def reliability(logits_or_probs: Scores, labels: Labels, bins: int = 15) -> Reliability:
    """The points of a reliability diagram, binned as in `ece`.

    Args:
        logits_or_probs: As in `ece`.
        labels: Class numbers, `(N,)`.
        bins: Number of bins.

    Returns:
        One point a bin that holds samples, with the 95 % Wilson interval of its accuracy.

    Raises:
        InputError: As in `ece`.

    Reference:
        Wilson (1927), doi:10.1080/01621459.1927.10502953, for the interval.

    >>> reliability(torch.tensor([[0.2, 0.8], [0.4, 0.6]]), torch.tensor([1, 1]), bins=2).count
    [2]
    """
    count, confidence, accuracy = _binned(logits_or_probs, labels, bins)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=count.device)
    kept = count > 0
    n, p = count[kept], accuracy[kept]
    z = 1.959963984540054  # 97.5 % quantile of the normal distribution
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * torch.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Reliability(
        edges[:-1][kept].tolist(),
        edges[1:][kept].tolist(),
        n.long().tolist(),
        confidence[kept].tolist(),
        p.tolist(),
        (centre - half).clamp(min=0).tolist(),
        (centre + half).clamp(max=1).tolist(),
    )


def nll(logits: Scores, labels: Labels) -> float:
    """Mean negative log-likelihood, mean over samples of log Σ_c exp z_c - z_y, in float64.

    Args:
        logits: `(N, C)`; log-probabilities are logits too.
        labels: Class numbers, `(N,)`.

    Returns:
        The mean, in nats.

    Raises:
        InputError: If shapes, values or labels do not fit.

    >>> nll(torch.zeros(1, 4), torch.tensor([2]))
    1.3862943611198906
    """
    table = inputs.scores(logits, "logits")
    return float(torch.nn.functional.cross_entropy(table, inputs.labels(labels, table)))


def _binned(values: Scores, labels: Labels, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean confidence and accuracy a bin, float64; the means of an empty bin are 0."""
    if type(bins) is not int or bins < 1:
        raise InputError(f"`bins` must be a whole number >= 1, got {bins!r}; 15 is usual")
    probs = inputs.probabilities(values, "logits_or_probs")
    y = inputs.labels(labels, probs)
    top, guess = probs.max(1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=probs.device)
    # right=False is (edge_i, edge_i+1]; with the inner edges alone, 0 falls in the first bin and anything rounded past
    # 1 in the last
    index = torch.bucketize(top, edges[1:-1], right=False)
    count = torch.bincount(index, minlength=bins).double()
    sums = [torch.bincount(index, weights=w, minlength=bins) for w in (top, (guess == y).double())]
    return count, sums[0] / count.clamp(min=1), sums[1] / count.clamp(min=1)
