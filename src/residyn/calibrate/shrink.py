"""One residual step on logits, z⁺ = z - λz, with λ from held-out data."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from residyn.calibrate import inputs
from residyn.calibrate.inputs import Labels, Scores
from residyn.errors import InputError, ResidynError
from residyn.step import Residual

S = TypeVar("S", Tensor, np.ndarray)

_ITERATIONS = 100


class Shrink:
    """Calibration as a residual step on the logits, z⁺ = z + λ·F(z) with F(z) = -z, that is z⁺ = (1 - λ)·z.

    λ minimises the negative log-likelihood of held-out data, which is convex in the scale s = 1 - λ (s = 1/T for those
    who know it as a temperature). 0 < λ < 1 mends an over-confident network, λ < 0 an under-confident one. As s > 0,
    the order of the classes in each row, and so every prediction, stays as it was.

    Newton's method on the derivative, with a bracket: a Newton step that leaves the bracket is replaced by a bisection,
    because where the network is saturated the curvature underflows and the bare Newton step is NaN. All in float64.

    Attributes:
        lam: λ, after `fit`.
        iterations: Newton and bisection steps that `fit` took.

    Reference:
        Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern Neural Networks", arXiv:1706.04599.

    >>> logits, labels = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    >>> shrink = Shrink().fit(logits, labels)
    >>> torch.softmax(shrink.transform(logits), 1)[0, 0]
    tensor(0.75)
    """

    lam: float
    iterations: int

    def fit(self, logits: Scores, labels: Labels) -> Shrink:
        """Find λ.

        Args:
            logits: Held-out logits, `(N, C)`, torch or NumPy.
            labels: Their class numbers, `(N,)`.

        Returns:
            Itself.

        Raises:
            InputError: If shapes, values or labels do not fit; if `logits` are probabilities; or if no λ < 1 minimises
                the likelihood's negative logarithm, because all predictions are right or the scores say nothing of the
                labels.
        """
        z = inputs.scores(logits, "logits")
        y = inputs.labels(labels, z)
        if inputs.is_probabilities(z):
            raise InputError("`logits` must be logits, got rows that sum to 1; pass the logarithms of the probabilities")
        right = z.gather(1, y[:, None])[:, 0]
        z, right = z - z.amax(1, keepdim=True), right - z.amax(1)
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
        scale, self.iterations = _root(z, float(right.mean()))
        self.lam = 1.0 - scale
        return self

    def transform(self, logits: S) -> S:
        """(1 - λ)·z.

        Args:
            logits: z, `(N, C)` or any other shape, torch or NumPy.

        Returns:
            The calibrated logits, of the same type, shape and dtype.

        Raises:
            ResidynError: If `fit` was not called before.
        """
        if not hasattr(self, "lam"):
            raise ResidynError("`Shrink` must be fitted before `transform`; call fit(logits, labels) with held-out data")
        if isinstance(logits, Tensor):
            shrunk: Any = Residual(torch.neg, self.lam)(logits)
        else:
            shrunk = np.asarray(logits) * np.asarray(1.0 - self.lam, dtype=np.asarray(logits).dtype)
        return shrunk


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
    """g(s) = mean(Σ p·z) - mean z_y, which rises with s, and its slope mean Var_p(z)."""
    p = torch.softmax(scale * z, 1)
    mean = (p * z).sum(1)
    return float(mean.mean()) - right, float((p * z**2).sum(1).mean() - (mean**2).mean())


def _root(z: Tensor, right: float) -> tuple[float, int]:
    """The s > 0 with g(s) = 0, and the steps it took; g(0) < 0 < g(∞) is known."""
    low, high, s = 0.0, float("inf"), 1.0
    for iteration in range(1, _ITERATIONS + 1):
        g, slope = _derivatives(z, right, s)
        low, high = (s, high) if g < 0 else (low, s)
        newton = s - g / slope if slope > 0 else float("nan")
        # while nothing bounds s from above, a Newton step may go no further than tenfold
        limit = min(high, 10 * s)
        new = newton if low < newton < limit else (limit if high == float("inf") else (low + high) / 2)
        if abs(new - s) <= 1e-13 * new or g == 0.0:
            return new if g != 0.0 else s, iteration
        s = new
    return s, _ITERATIONS
