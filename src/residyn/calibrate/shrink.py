"""One residual step on logits, z⁺ = z - λz, with λ from held-out data."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from residyn.calibrate.calibrator import Calibrator, S
from residyn.errors import InputError
from residyn.statistics import inputs
from residyn.statistics.inputs import Labels, Scores
from residyn.step import Residual

_ITERATIONS = 100
_ROWS = 256
"""Rows at a time: 256 by 100 classes in double precision stay in the second-level cache."""


class Shrink(Calibrator):
    """Calibration as a residual step on the logits, z⁺ = z + λ·F(z) with F(z) = -z, that is z⁺ = (1 - λ)·z.

    λ minimises the negative log-likelihood of held-out data, which is convex in the scale s = 1 - λ (s = 1/T for those
    who know it as a temperature). 0 < λ < 1 mends an over-confident network, λ < 0 an under-confident one. As s > 0,
    the order of the classes in each row, and so every prediction, stays as it was.

    Newton's method on the logarithm of the derivative's two sides, with a bracket: a step that leaves the bracket is
    replaced by one from the data's own scale, because where the network is saturated the curvature underflows and the bare
    Newton step is NaN. The last steps are taken in float64.

    Args:
        start: λ < 1 to start from; by default Newton's step from λ = 1, which follows the scale of the logits. The λ found is
            the same.

    Attributes:
        lam: λ, after `fit`.
        iterations: Newton and bisection steps that `fit` took.
        classes_: Class numbers, as scikit-learn's tools ask for them.

    Reference:
        Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern Neural Networks", arXiv:1706.04599.

    >>> logits, labels = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    >>> shrink = Shrink().fit(logits, labels)
    >>> torch.softmax(shrink.transform(logits), 1)[0, 0]
    tensor(0.75)
    """

    lam: float
    iterations: int

    def __init__(self, start: float | None = None) -> None:
        self.start = start

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """As `Calibrator.get_params`."""
        return {"start": self.start}

    def fit(self, logits: Scores, labels: Labels) -> Shrink:
        """Find λ.

        Args:
            logits: Held-out logits, `(N, C)`, or `(N,)` for two classes, torch or NumPy; rows of probabilities stand for
                their logarithms.
            labels: Their class numbers, `(N,)`.

        Returns:
            Itself.

        Raises:
            InputError: If shapes, values or labels do not fit; or if no λ < 1 minimises the likelihood's negative
                logarithm, because all predictions are right or the scores say nothing of the labels; or if `start` is not
                a number < 1.
        """
        if self.start is not None and not -math.inf < self.start < 1:
            raise InputError(f"`start` must be a number < 1, got {self.start!r}; leave it out to start from the data's scale")
        z = inputs.log_scores(logits, "logits")
        y = inputs.labels(labels, z)
        scale, self.iterations = best_scale(z, y, None if self.start is None else 1.0 - self.start)
        self.lam = 1.0 - scale
        self._fitted(z.shape[1])
        return self

    def transform(self, logits: S) -> S:
        """(1 - λ)·z.

        Args:
            logits: z, `(N, C)` or any other shape, torch or NumPy; not probabilities.

        Returns:
            The calibrated logits, of the same type, shape and dtype.

        Raises:
            ResidynError: If `fit` was not called before.
        """
        self._require_fit()
        if isinstance(logits, Tensor):
            shrunk: Any = Residual(torch.neg, self.lam)(logits)
            return shrunk
        return super().transform(logits)

    def scale(self, logits: Tensor) -> Tensor:
        """1 - λ.

        Args:
            logits: z.

        Returns:
            A scalar.
        """
        return torch.tensor(1.0 - self.lam, dtype=logits.dtype, device=logits.device)


def best_scale(z: Tensor, y: Tensor, start: float | None = None) -> tuple[float, int]:
    """The s > 0 that minimises the mean negative log-likelihood of softmax(s·z).

    Args:
        z: Logits, `(N, C)`, float64.
        y: Class numbers, `(N,)`.
        start: Where to start; from the data if not given.

    Returns:
        s, and the steps it took.

    Raises:
        InputError: If there is none.
    """
    right = z.gather(1, y[:, None])[:, 0]
    top = z.amax(1)
    z, right = z - top[:, None], right - top
    if not bool(z.any()):
        raise InputError(
            "`logits` must differ between classes for a sample at least, got rows of equal ones; check the model's output"
        )
    if bool((right == 0).all()):
        raise InputError(
            "`labels` must differ from the top class at least once, got none that does: every growth of the logits "
            "makes them likelier, so no λ is best; fit on more held-out data"
        )
    if float(z.mean() - right.mean()) >= 0:
        raise InputError(
            "`logits` must on average be higher for the labelled class than for the others, got the contrary: λ >= "
            "1 would be best, which turns the predictions round; check that labels and columns correspond"
        )
    return _root(z, float(right.mean()), start)


def stationarity(logits: Scores, labels: Labels, lam: float) -> tuple[float, float]:
    """Both sides of the condition that holds at the best λ: mean z_y = mean Σ_c p_c·z_c with p = softmax((1 - λ)·z).

    In words: the labelled class has the logit that the calibrated probabilities expect. Logits are taken relative to
    the largest of their row, which changes neither the condition nor p.

    Args:
        logits: `(N, C)`.
        labels: Class numbers, `(N,)`.
        lam: λ.

    Returns:
        The left side and the right side.

    Raises:
        InputError: If shapes, values or labels do not fit.

    >>> stationarity(torch.tensor([[0.0, 2.0]]), torch.tensor([1]), 1.0)
    (0.0, -1.0)
    """
    z = inputs.scores(logits, "logits")
    y = inputs.labels(labels, z)
    z = z - z.amax(1, keepdim=True)
    return float(z.gather(1, y[:, None]).mean()), float((torch.softmax((1.0 - lam) * z, 1) * z).sum(1).mean())


def _derivatives(z: Tensor, right: float, scale: float) -> tuple[float, float]:
    """g(s) = mean(Σ p·z) - mean z_y, which rises with s, and its slope mean Var_p(z); a few rows at a time, in the cache."""
    weight = torch.empty_like(z[:_ROWS])
    first, second = 0.0, 0.0
    for rows in torch.split(z, _ROWS):
        # the largest of each row is 0, so no exponential overflows
        p = torch.mul(rows, scale, out=weight[: len(rows)]).exp_()
        total = p.sum(1)
        mean = p.mul_(rows).sum(1) / total
        square = p.mul_(rows).sum(1) / total
        first += float(mean.sum())
        second += float((square - mean * mean).sum())
    return first / len(z) - right, second / len(z)


def _root(z: Tensor, right: float, start: float | None) -> tuple[float, int]:
    """The s > 0 with g(s) = 0, and the steps it took: far from it in single precision, at a quarter of the cost."""
    # From s = 0, where p is uniform, Newton's step needs no exponential, and scales with the logits as s does.
    single = z.float()
    slope = float(torch.linalg.vector_norm(single, dim=1).double().square().mean()) / z.shape[1] - float(
        single.mean(1).double().square().mean()
    )
    first = (right - float(single.mean())) / max(slope, torch.finfo(torch.float64).tiny)
    rough, steps = _newton(single, right, first if start is None else start, first, 1e-4)
    s, more = _newton(z, right, rough, first, 1e-6)
    return s, steps + more


def _newton(z: Tensor, right: float, s: float, first: float, rtol: float) -> tuple[float, int]:
    """Safeguarded Newton steps from s until one is below rtol·s: g(0) < 0 < g(∞) is known.

    The steps are Newton's for log(-m) in log s, with m(s) = mean(Σ p·z): close to a straight line above the root, as the
    logits' gaps are spread out, so that no start is too far. Below it that step goes beyond the root and the plain one falls
    short; the limit is ten of these. Newton's error is squared by a step: after one of 1e-6 some 1e-12 is left.
    """
    low, high = 0.0, math.inf
    for iteration in range(1, _ITERATIONS + 1):
        g, slope = _derivatives(z, right, s)
        if g == 0.0:
            return s, iteration
        low, high = (s, high) if g < 0 else (low, s)
        mean = g + right
        new = math.nan
        if slope > 0 > mean:
            new = s * math.exp(max(-50.0, min(50.0, math.log(right / mean) * mean / (s * slope))))
            if g < 0:
                new = min(new, 10 * (s - g / slope))
        newton = low < new < high
        if not newton:
            new = first if low < first < high else _between(low, high)
        if abs(new - s) <= (rtol if newton else min(rtol, 1e-13)) * new:
            return new, iteration
        s = new
    return s, _ITERATIONS


def _between(low: float, high: float) -> float:
    """A point of the bracket, by orders of magnitude."""
    if high == math.inf:
        return 100 * low
    return math.sqrt(low * high) if low > 0 else high / 100
