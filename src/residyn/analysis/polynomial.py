"""R(h·J) for an explicit scheme and a J that is only multiplied: R is a polynomial, one product with J a degree."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from residyn.analysis.jacobian import Jacobian
from residyn.analysis.lanczos import Map, golub_kahan, normalised
from residyn.analysis.norms import memory
from residyn.analysis.region import Region

_RTOL = 1e-4
"""Relative accuracy of the step; each halving of a bracket costs a few products."""


class PolynomialStep:
    """The map v → R(h·J)·v and its transpose, by Horner's rule.

    Args:
        jacobian: J.
        region: An explicit scheme and the growth g allowed in a step.
    """

    def __init__(self, jacobian: Jacobian, region: Region) -> None:
        assert region.rational is not None
        self.jacobian, self.region = jacobian, region
        self.coefficients = np.trim_zeros(region.rational[0] / region.rational[1][0], "b").tolist()
        self.warm = jacobian.random().unsqueeze(0)
        self.converged = True

    def _horner(self, product: Map, h: float, v: Tensor) -> Tensor:
        value: Tensor = self.coefficients[-1] * v
        for c in self.coefficients[-2::-1]:
            value = h * product(value) + c * v
        return value

    def within(self, h: float) -> bool:
        """Whether ‖R(h·J)‖₂ ≤ g, as far as Golub–Kahan sees; starts from where the last norm was attained."""
        limit = self.region.bound * (1 + 10 * self.jacobian.eps)
        found = golub_kahan(
            lambda v: self._horner(self.jacobian.apply, h, v[0]).unsqueeze(0),
            lambda w: self._horner(self.jacobian.adjoint, h, w[0]).unsqueeze(0),
            self.warm,
            rtol=1e-5,
            limit=60,
            enough=limit,
            keep=memory(self.jacobian),
        )
        # A little of a fresh direction keeps the start from being blind to what the last norm was not made of.
        self.warm = normalised(found.vector + 0.1 * self.jacobian.random(3))[1]
        self.converged &= found.converged
        return float(found.value) <= limit

    def largest(self, mu: float) -> tuple[float, bool]:
        """The largest h with ‖R(h·J)‖₂ ≤ g, and whether every norm on the way converged.

        ‖I + h·J‖ is convex in h, so for Euler one sign change is all there is. For others a first step outside is found from
        below, at a quarter of the scale 1/‖J‖ each time.

        Args:
            mu: The logarithmic norm of J.
        """
        norm = float(
            golub_kahan(
                lambda v: self.jacobian.apply(v[0]).unsqueeze(0),
                lambda w: self.jacobian.adjoint(w[0]).unsqueeze(0),
                self.warm,
                rtol=1e-2,
                keep=memory(self.jacobian),
            ).value
        )
        if norm == 0.0:
            return math.inf, True
        low, high = 0.0, 0.25 / norm
        while high < 1e6 / norm and self.within(high):
            low, high = high, (2 * high if len(self.coefficients) == 2 else high + 0.25 / norm)
        while high - low > _RTOL * high and high * norm > 1e-9:
            middle = (low + high) / 2
            low, high = (middle, high) if self.within(middle) else (low, middle)
        if self.region.bound == 1.0 and mu == 0.0 and low * norm < 0.1:
            return 0.0, self.converged
        return low, self.converged

    def eigenvalues(self, h: float) -> np.ndarray:
        """Eigenvalues λ of J for which |R(h·λ)| is largest, as Rayleigh quotients of eigenvectors of R(h·J)."""
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

        jacobian = self.jacobian
        device, dtype = jacobian.x.device, jacobian.dtype

        def torched(v: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(v, dtype=np.float64).reshape(-1)).to(device, dtype)

        def product(v: np.ndarray) -> np.ndarray:
            return np.asarray(self._horner(jacobian.apply, h, torched(v)).cpu().double().numpy())

        operator = LinearOperator((jacobian.size, jacobian.size), matvec=product, dtype=np.float64)
        start = jacobian.random().cpu().double().numpy()
        try:
            _, vectors = eigs(operator, k=4, which="LM", v0=start, tol=1e-6, maxiter=20, ncv=24)
        except ArpackNoConvergence as error:
            vectors = np.asarray(error.eigenvectors)
        quotients = []
        for v in vectors.T:
            image = (
                jacobian.apply(torched(v.real)).cpu().double().numpy()
                + 1j * jacobian.apply(torched(v.imag)).cpu().double().numpy()
            )
            value = np.vdot(v, image) / np.vdot(v, v)
            # Only what is an eigenvector of J binds: two eigenvalues with the same R(hλ) can mix.
            if np.linalg.norm(image - value * v) <= 1e-3 * np.linalg.norm(image):
                quotients.append(value)
        return np.array(quotients, dtype=np.complex128)
