"""How far probabilities are from the frequencies they promise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.statistics import inputs
from residyn.statistics.binning import Binning, binned, statements
from residyn.statistics.inputs import Kind, Labels, Scores

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


def ece(
    logits_or_probs: Scores,
    labels: Labels,
    bins: int = 15,
    norm: Norm = "l1",
    *,
    binning: Binning = "width",
    kind: Kind = "auto",
) -> float:
    """Expected calibration error of the top class: Σ_b n_b/N · |accuracy_b - confidence_b|.

    Bins of equal width are closed on the right, so that confidence 1 falls in the last one and 0 in the first. Sums
    are taken in float64, exponentials in the precision of the scores. With labels `(N, C)` of zeros and ones each of
    the N·C events is a sample of its own.

    Args:
        logits_or_probs: `(N, C)`, or `(N,)` for two classes.
        labels: Class numbers, `(N,)`, or zeros and ones, `(N, C)`.
        bins: Number of bins.
        norm: `"l1"` as above, `"l2"` for the root of the mean square, `"max"` for the worst bin.
        binning: Bins of equal `"width"` or of equal `"mass"`.
        kind: What the scores are; `"auto"`: rows that are non-negative and sum to one are probabilities.

    Returns:
        The error, in [0, 1].

    Raises:
        InputError: If shapes, values or labels do not fit, `bins` < 1, or `norm`, `binning` or `kind` is unknown.

    Reference:
        Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern Neural Networks", arXiv:1706.04599.

    >>> ece(torch.tensor([[0.2, 0.8], [0.4, 0.6]]), torch.tensor([1, 1]))
    0.3
    """
    return _gap(*statements(logits_or_probs, labels, kind), bins, norm, binning)


def classwise_ece(
    logits_or_probs: Scores,
    labels: Labels,
    bins: int = 15,
    norm: Norm = "l1",
    *,
    binning: Binning = "width",
    kind: Kind = "auto",
) -> list[float]:
    """Calibration error of each class's own probability: Σ_b n_b/N · |frequency_b(c) - mean p_b(c)|, class by class.

    Args:
        logits_or_probs: As in `ece`.
        labels: As in `ece`.
        bins: As in `ece`.
        norm: As in `ece`.
        binning: As in `ece`.
        kind: As in `ece`.

    Returns:
        One error a class; their mean is the class-wise ECE.

    Raises:
        InputError: As in `ece`.

    Reference:
        Kull et al. (2019), "Beyond temperature scaling", arXiv:1910.12656.

    >>> [round(e, 3) for e in classwise_ece(torch.tensor([[0.2, 0.8], [0.4, 0.6]]), torch.tensor([1, 0]))]
    [0.4, 0.4]
    """
    return [_gap(p, y, bins, norm, binning) for p, y in class_events(logits_or_probs, labels, kind)]


def reliability(
    logits_or_probs: Scores, labels: Labels, bins: int = 15, *, binning: Binning = "width", kind: Kind = "auto"
) -> Reliability:
    """The points of a reliability diagram, binned as in `ece`.

    Args:
        logits_or_probs: As in `ece`.
        labels: As in `ece`.
        bins: As in `ece`.
        binning: As in `ece`.
        kind: As in `ece`.

    Returns:
        One point a bin that holds samples, with the 95 % Wilson interval of its accuracy.

    Raises:
        InputError: As in `ece`.

    Reference:
        Wilson (1927), doi:10.1080/01621459.1927.10502953, for the interval.

    >>> reliability(torch.tensor([[0.2, 0.8], [0.4, 0.6]]), torch.tensor([1, 1]), bins=2).count
    [2]
    """
    count, confidence, accuracy, edges = binned(*statements(logits_or_probs, labels, kind), bins, binning)
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
        logits: `(N, C)`, or `(N,)` for two classes; log-probabilities are logits too. With labels `(N, C)` of zeros and
            ones, the logits of N·C events.
        labels: Class numbers, `(N,)`, or zeros and ones, `(N, C)`.

    Returns:
        The mean, in nats.

    Raises:
        InputError: If shapes, values or labels do not fit.

    >>> nll(torch.zeros(1, 4), torch.tensor([2]))
    1.3862943611198906
    """
    marks = torch.as_tensor(labels)
    if marks.ndim == 2:
        inputs.events(logits, labels, "logits", "logits")
        z = torch.as_tensor(logits).detach().double()
        return float(torch.nn.functional.binary_cross_entropy_with_logits(z, marks.to(z)))
    table = inputs.scores(logits, "logits")
    return float(torch.nn.functional.cross_entropy(table, inputs.labels(labels, table)))


def brier(logits_or_probs: Scores, labels: Labels, *, kind: Kind = "auto") -> float:
    """Brier score, mean over samples of Σ_c (p_c - 1[y=c])²; with labels `(N, C)`, mean over events of (p - y)².

    Args:
        logits_or_probs: As in `ece`; for two classes the sum has two equal terms, as in the original.
        labels: As in `ece`.
        kind: As in `ece`.

    Returns:
        The score, in [0, 2].

    Raises:
        InputError: As in `ece`.

    Reference:
        Brier (1950), doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.

    >>> round(brier(torch.tensor([[0.2, 0.8], [0.4, 0.6]]), torch.tensor([1, 1])), 6)
    0.2
    """
    several = inputs.events(logits_or_probs, labels, "logits_or_probs", kind)
    if several is not None:
        return float(((several.p - several.y) ** 2).mean())
    return sum(float(((p - y) ** 2).mean()) for p, y in class_events(logits_or_probs, labels, kind))


def class_events(values: Scores, labels: Labels, kind: Kind = "auto") -> list[tuple[Tensor, Tensor]]:
    """Each class's probability and whether the sample is of that class, float64.

    Args:
        values: Scores.
        labels: Labels.
        kind: What the scores hold.

    Returns:
        A pair `(N,)`, `(N,)` a class.

    Raises:
        InputError: If they do not fit.
    """
    several = inputs.events(values, labels, "logits_or_probs", kind)
    if several is not None:
        classes = torch.as_tensor(labels).shape[1]
        return list(zip(several.p.reshape(-1, classes).T, several.y.reshape(-1, classes).T, strict=True))
    probs = inputs.probabilities(values, "logits_or_probs", kind)
    y = inputs.labels(labels, probs)
    return [(probs[:, c], (y == c).double()) for c in range(probs.shape[1])]


def _gap(p: Tensor, y: Tensor, bins: int, norm: Norm, binning: Binning) -> float:
    if norm not in ("l1", "l2", "max"):
        raise InputError(f'`norm` must be "l1", "l2" or "max", got {norm!r}')
    count, confidence, accuracy, _ = binned(p, y, bins, binning)
    share, gap = count / count.sum(), (accuracy - confidence).abs()
    if norm == "max":
        return float(gap.max())
    return float((share * gap).sum()) if norm == "l1" else math.sqrt(float((share * gap**2).sum()))
