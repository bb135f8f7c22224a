"""A score in its parts: what recalibration would mend, what the scores tell apart, and what the labels leave open."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from residyn.calibrate.shrink import Shrink
from residyn.errors import InputError
from residyn.statistics import inputs
from residyn.statistics.inputs import Kind, Labels, Scores
from residyn.statistics.measures import class_events, nll


@dataclass(frozen=True)
class Parts:
    """score = miscalibration - discrimination + uncertainty; none of the three is negative.

    Args:
        score: The score itself.
        miscalibration: What the best recalibration of the same samples takes off.
        discrimination: By how much recalibrated scores beat the bare class frequencies.
        uncertainty: The score of those frequencies.
    """

    score: float
    miscalibration: float
    discrimination: float
    uncertainty: float


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval from the bootstrap."""

    value: float
    low: float
    high: float


def decompose(
    logits_or_probs: Scores, labels: Labels, *, loss: Literal["brier", "nll"] = "brier", kind: Kind = "auto"
) -> Parts:
    """Split a proper score: S = MCB - DSC + UNC.

    The Brier score is a sum over classes, and each class is recalibrated by isotonic regression, the best monotone map
    there is; so is the log-likelihood of two classes or of events. The log-likelihood of several classes is
    recalibrated by the best `Shrink`, the best map of one parameter, so its miscalibration is a lower bound.

    Args:
        logits_or_probs: As in `ece`.
        labels: As in `ece`.
        loss: `"brier"` or `"nll"` (in nats).
        kind: As in `ece`.

    Returns:
        The parts, which add up to the score exactly.

    Raises:
        InputError: As in `ece`, or if `loss` is unknown.

    Reference:
        Dimitriadis, Gneiting & Jordan (2021), doi:10.1073/pnas.2016191118; Murphy (1973),
        doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2.

    >>> parts = decompose(torch.tensor([0.9, 0.8, 0.7, 0.4]), torch.tensor([1, 1, 0, 0]))
    >>> round(parts.miscalibration - parts.discrimination + parts.uncertainty - parts.score, 12)
    0.0
    """
    if loss not in ("brier", "nll"):
        raise InputError(f'`loss` must be "brier" or "nll", got {loss!r}')
    pairs = class_events(logits_or_probs, labels, kind)
    multilabel = torch.as_tensor(labels).ndim == 2
    if loss == "brier":
        parts = _sum([_isotonic(p, y, _square) for p, y in pairs])
        return _scaled(parts, 1 / len(pairs)) if multilabel else parts
    if multilabel:
        return _scaled(_sum([_isotonic(p, y, _log) for p, y in pairs]), 1 / len(pairs))
    if len(pairs) == 2:
        return _isotonic(*pairs[1], _log)
    return _shrunk(logits_or_probs, labels, kind, pairs)


def bootstrap(
    measure: Callable[[Tensor, Tensor], float],
    logits_or_probs: Scores,
    labels: Labels,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A percentile interval of a measure, by drawing the samples anew with replacement.

    Args:
        measure: Takes scores and labels, as `ece`, `brier` and `nll` do.
        logits_or_probs: Scores, `(N, C)` or `(N,)`.
        labels: Labels.
        draws: Number of resamples.
        level: Share of them inside the interval.
        seed: Seed of the draws; the global generator is left alone.

    Returns:
        The measure of all samples, and the interval.

    Raises:
        InputError: If scores and labels differ in length, `draws` < 1, or `level` is not in (0, 1).

    Reference:
        Efron (1979), doi:10.1214/aos/1176344552.

    >>> from residyn.calibrate import ece
    >>> scores, truth = torch.tensor([[0.2, 0.8], [0.4, 0.6]]), torch.tensor([1, 1])
    >>> bootstrap(ece, scores, truth, draws=50).value
    0.3
    """
    inputs.whole(draws, "draws", 1000)
    if not 0 < level < 1:
        raise InputError(f"`level` must lie in (0, 1), got {level!r}; 0.95 is usual")
    table, truth = torch.as_tensor(logits_or_probs).detach(), torch.as_tensor(labels).detach()
    if len(table) != len(truth):
        raise InputError(f"`labels` must be ({len(table)},), one a row of scores, got {tuple(truth.shape)}")
    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(draws, dtype=torch.float64)
    for draw in range(draws):
        rows = torch.randint(len(table), (len(table),), generator=generator).to(table.device)
        values[draw] = measure(table[rows], truth[rows])
    low, high = values.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Interval(measure(table, truth), low, high)


def _square(p: Tensor, y: Tensor) -> float:
    return float(((p - y) ** 2).mean())


def _log(p: Tensor, y: Tensor) -> float:
    """Mean of -y log p - (1-y) log(1-p); inf where an impossible event happened."""
    return float(-(torch.xlogy(y, p) + torch.xlogy(1 - y, 1 - p)).mean())


def _isotonic(p: Tensor, y: Tensor, score: Callable[[Tensor, Tensor], float]) -> Parts:
    """The parts of one event's score, recalibrated by pooling adjacent violators; equal p stay equal."""
    from scipy.optimize import isotonic_regression

    values, place, count = torch.unique(p, return_inverse=True, return_counts=True)
    sums = torch.zeros_like(values).index_add_(0, place, y)
    fitted = isotonic_regression((sums / count).cpu().numpy(), weights=count.double().cpu().numpy()).x
    recalibrated = torch.as_tensor(np.asarray(fitted), dtype=torch.float64, device=p.device).clamp(0, 1)[place]
    raw, best, bare = score(p, y), score(recalibrated, y), score(y.mean().expand_as(y), y)
    return Parts(raw, raw - best, bare - best, bare)


def _shrunk(values: Scores, labels: Labels, kind: Kind, pairs: list[tuple[Tensor, Tensor]]) -> Parts:
    """The parts of the log-likelihood of several classes, recalibrated by one λ or by the bare frequencies."""
    logits = inputs.log_scores(values, "logits_or_probs", kind)
    raw = nll(logits, labels)
    share = torch.stack([y.mean() for _, y in pairs])
    bare = float(-torch.xlogy(share, share).sum())
    best = min(raw, bare)
    with contextlib.suppress(InputError):  # all right, or worse than chance: no λ is best
        best = min(best, nll(Shrink().fit(logits, labels).transform(logits), labels))
    return Parts(raw, raw - best, bare - best, bare)


def _sum(parts: list[Parts]) -> Parts:
    return Parts(
        sum(p.score for p in parts),
        sum(p.miscalibration for p in parts),
        sum(p.discrimination for p in parts),
        sum(p.uncertainty for p in parts),
    )


def _scaled(parts: Parts, factor: float) -> Parts:
    return Parts(parts.score * factor, parts.miscalibration * factor, parts.discrimination * factor, parts.uncertainty * factor)
