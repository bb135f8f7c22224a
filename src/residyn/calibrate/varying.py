"""Shrinkage that varies: by the predicted class, or by how sure the logits of a row are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from residyn.calibrate.calibrator import Calibrator
from residyn.calibrate.shrink import best_scale
from residyn.errors import InputError
from residyn.statistics import inputs
from residyn.statistics.inputs import Labels, Scores


class ClassShrink(Calibrator):
    """One λ a predicted class: z⁺ = (1 - λ_c)·z with c = argmax z.

    s_c = 1 - λ_c minimises Σ_{i: argmax = c} nll_i(s) + (prior/2)·(s/s₀ - 1)², with s₀ the scale of all samples: a class
    that is seldom predicted stays near s₀. The factor depends on the prediction alone, so no prediction changes, which
    a factor a column would not grant.

    Args:
        prior: Weight of s₀, in samples.

    Attributes:
        lam: λ_c, `(C,)`, after `fit`.

    >>> z = torch.tensor([[4.0, 0.0]] * 4 + [[0.0, 4.0]] * 4)
    >>> ClassShrink(prior=1e-6).fit(z, torch.tensor([0, 0, 0, 1, 1, 1, 0, 0])).lam.round(decimals=2)
    tensor([0.7300, 1.0000], dtype=torch.float64)
    """

    lam: Tensor

    def __init__(self, prior: float = 10.0) -> None:
        self.prior = prior

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """As `Calibrator.get_params`."""
        return {"prior": self.prior}

    def fit(self, logits: Scores, labels: Labels) -> Self:
        """Find λ_c of every class.

        Args:
            logits: Held-out logits, `(N, C)`.
            labels: Their class numbers, `(N,)`.

        Returns:
            Itself.

        Raises:
            InputError: As `Shrink.fit`; or if `prior` <= 0.
        """
        _positive(self.prior)
        z = inputs.log_scores(logits, "logits")
        y = inputs.labels(labels, z)
        common, _ = best_scale(z, y)
        guess = z.argmax(1)
        z = z - z.amax(1, keepdim=True)
        scales = [_penalised(z[guess == c], y[guess == c], common, self.prior) for c in range(z.shape[1])]
        self.lam = 1 - torch.tensor(scales, dtype=torch.float64)
        self._fitted(z.shape[1])
        return self

    def scale(self, logits: Tensor) -> Tensor:
        """As `Calibrator.scale`."""
        return (1 - self.lam).to(logits)[logits.argmax(1)][:, None]


class InputShrink(Calibrator):
    """λ as a function of the row: 1 - λ(z) = exp(w₀ + w₁·m + w₂·q), a factor that is positive whatever w is.

    m is the logarithm of 1 + the gap between the two largest logits, q that of 1 + their spread (standard deviation), both
    standardised on the held-out data. w minimises the mean negative log-likelihood plus (prior/2N)·(w₁² + w₂²).

    Args:
        prior: Weight that holds w₁ and w₂ near 0, in samples.

    Attributes:
        weights: w, `(3,)`, after `fit`.

    >>> z = torch.tensor([[4.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)
    >>> shrink = InputShrink().fit(z, torch.tensor([0, 0, 0, 1, 1, 1, 1, 0]))
    >>> bool((shrink.scale(z) > 0).all())
    True
    """

    weights: Tensor

    def __init__(self, prior: float = 10.0) -> None:
        self.prior = prior

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """As `Calibrator.get_params`."""
        return {"prior": self.prior}

    def fit(self, logits: Scores, labels: Labels) -> Self:
        """Find w.

        Args:
            logits: Held-out logits, `(N, C)`.
            labels: Their class numbers, `(N,)`.

        Returns:
            Itself.

        Raises:
            InputError: As `Shrink.fit`; or if `prior` <= 0.
        """
        from scipy.optimize import minimize

        _positive(self.prior)
        z = inputs.log_scores(logits, "logits")
        y = inputs.labels(labels, z)
        common, _ = best_scale(z, y)
        raw = _shape(z)
        self._centre, self._spread = raw.mean(0), raw.std(0, correction=0).clamp(min=1e-12)
        features = self._features(z)
        z = z - z.amax(1, keepdim=True)
        right = z.gather(1, y[:, None])[:, 0]

        def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
            w = torch.from_numpy(weights)
            s = torch.exp(features @ w)
            log_p = torch.log_softmax(s[:, None] * z, 1)
            value = -log_p.gather(1, y[:, None]).mean()
            slope = ((log_p.exp() * z).sum(1) - right) * s  # d nll_i / d log s_i
            ridge = self.prior / len(z) * w * torch.tensor([0.0, 1.0, 1.0])
            return float(value + (w * ridge).sum() / 2), ((slope[:, None] * features).mean(0) + ridge).numpy()

        start = np.array([np.log(common), 0.0, 0.0])
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9})
        self.weights = torch.from_numpy(found.x.copy())
        self._fitted(z.shape[1])
        return self

    def scale(self, logits: Tensor) -> Tensor:
        """As `Calibrator.scale`."""
        return torch.exp(self._features(logits.double()) @ self.weights.to(logits.device)).to(logits.dtype)[:, None]

    def _features(self, z: Tensor) -> Tensor:
        shape = (_shape(z) - self._centre.to(z)) / self._spread.to(z)
        # Beyond what the held-out data showed the factor stays where it was: an exponential must not run away.
        return torch.cat([torch.ones_like(shape[:, :1]), shape.clamp(-4, 4)], 1)


def cross_fit(calibrator: Calibrator, logits: Scores, labels: Labels, *, folds: int = 5, seed: int = 0) -> np.ndarray:
    """Calibrated logits of every sample, each by a calibrator that has not seen it.

    Args:
        calibrator: What to fit on the other folds; left as it is.
        logits: `(N, C)`.
        labels: Class numbers, `(N,)`.
        folds: Number of parts.
        seed: Seed of the parting.

    Returns:
        Logits, `(N, C)`, float64.

    Raises:
        InputError: If `folds` is not in [2, N], or as `Shrink.fit`.

    >>> from residyn.calibrate import Shrink
    >>> z = torch.tensor([[4.0, 0.0]] * 8)
    >>> cross_fit(Shrink(), z, torch.tensor([0, 1, 0, 0] * 2), folds=4, seed=1).shape
    (8, 2)
    """
    z = inputs.log_scores(logits, "logits")
    y = inputs.labels(labels, z)
    if type(folds) is not int or not 2 <= folds <= len(z):
        raise InputError(f"`folds` must be a whole number from 2 to the {len(z)} samples, got {folds!r}; 5 is usual")
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed)).to(z.device)
    out = torch.empty_like(z)
    for part in parts(order, folds):
        rest = torch.ones(len(z), dtype=torch.bool, device=z.device)
        rest[part] = False
        fresh = type(calibrator)(**calibrator.get_params()).fit(z[rest], y[rest])
        out[part] = fresh.transform(z[part])
    return out.cpu().numpy()


def parts(order: Tensor, folds: int) -> Iterable[Tensor]:
    """A permutation cut into folds whose sizes differ by one at most."""
    return torch.tensor_split(order, folds)


def _shape(z: Tensor) -> Tensor:
    """Logarithms of 1 + gap and 1 + spread, `(N, 2)`."""
    two = z.topk(2, 1).values
    return torch.stack([torch.log1p(two[:, 0] - two[:, 1]), torch.log1p(z.std(1, correction=0))], 1)


def _penalised(z: Tensor, y: Tensor, common: float, prior: float) -> float:
    """The s > 0 where Σ(E_p[z] - z_y) + prior·(s/s₀ - 1)/s₀ = 0, by bisection: the left side rises with s."""
    if not len(z):
        return common
    right = float(z.gather(1, y[:, None]).sum())

    def slope(s: float) -> float:
        return float((torch.softmax(s * z, 1) * z).sum()) - right + prior * (s / common - 1) / common

    low, high = 0.0, common
    while slope(high) < 0:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2


def _positive(prior: float) -> None:
    if not prior > 0:
        raise InputError(f"`prior` must be > 0, got {prior!r}; 10 samples is usual")
