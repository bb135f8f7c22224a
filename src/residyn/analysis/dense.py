"""‖R(h·J)‖₂ where the matrix is at hand."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from residyn.analysis.arnoldi import rounding
from residyn.analysis.region import Region
from residyn.errors import InputError

_GRID = 64


class DenseStep:
    """One step R(h·J) of a scheme as a matrix.

    Args:
        matrix: J, `(n, n)`.
        region: The scheme and the growth g allowed in a step.
        eps: Relative error of the entries.
    """

    def __init__(self, matrix: np.ndarray, region: Region, eps: float) -> None:
        self.matrix, self.region = matrix, region
        self.slack = rounding(len(matrix), eps)
        self.size = float(np.linalg.norm(matrix, 2))

    @functools.cached_property
    def normal(self) -> bool:
        """Whether J·Jᴴ = Jᴴ·J up to rounding: then the eigenvalues tell the norm."""
        a = self.matrix
        return bool(np.linalg.norm(a @ a.conj().T - a.conj().T @ a) <= 2 * self.slack * np.linalg.norm(a) * self.size)

    def norm(self, h: float) -> float:
        """‖R(h·J)‖₂; inf at a pole."""
        z = h * self.matrix
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                step = self._rational(z) if self.region.rational is not None else self._exponential(z)
            return float(np.linalg.norm(step, 2)) if np.all(np.isfinite(step)) else math.inf
        except np.linalg.LinAlgError:
            return math.inf

    def _rational(self, z: np.ndarray) -> np.ndarray:
        assert self.region.rational is not None
        identity = np.eye(len(z))
        parts = []
        for coefficients in self.region.rational:
            value = coefficients[-1] * identity
            for c in coefficients[-2::-1]:
                value = value @ z + c * identity
            parts.append(value)
        return np.asarray(parts[0] if self.region.polynomial else np.linalg.solve(parts[1], parts[0]))

    def _exponential(self, z: np.ndarray) -> np.ndarray:
        from scipy.linalg import expm

        points = torch.tensor([-1.0, 0.5j, -0.3 + 2j], dtype=torch.complex128)
        if not torch.allclose(self.region.scheme.stability(points), torch.exp(points), rtol=1e-12):
            raise InputError(
                f'`criterion` must be "spectrum" for {self.region.scheme!r}, whose R(z) is neither rational nor exp, got a '
                "norm; write `rational()` for it if it has one"
            )
        return np.asarray(expm(z))

    def largest(self, eigenvalues: np.ndarray) -> float:
        """The largest h with ‖R(s·J)‖₂ ≤ g for all s in [0, h]; 0 and inf where that is so."""
        symmetric = (self.matrix + self.matrix.conj().T) / 2
        mu = float(np.linalg.eigvalsh(symmetric)[-1])
        mu = 0.0 if abs(mu) <= self.slack * self.size else mu
        if self.region.bound == 1.0 and mu > 0:
            return 0.0  # d/dh ‖R(h·J)‖ at 0 is the logarithmic norm
        if mu <= 0 and self.region.a_stable:
            return math.inf  # von Neumann
        ceiling = self.region.largest_step(eigenvalues)  # the norm is at least the spectral radius
        if ceiling == 0.0 or self.size == 0.0:
            return ceiling
        grid = (
            np.linspace(0, ceiling, _GRID + 1)[1:] if math.isfinite(ceiling) else np.geomspace(1e-3, 1e6, 4 * _GRID) / self.size
        )
        limit = self.region.bound * (1 + self.slack)
        # Below the grid lies an interval too: the norm of a marginal J leaves 1 only with a high power of h.
        outside = next((i for i, h in enumerate(grid.tolist()) if self.norm(h) > limit), None)
        if outside is None:
            return ceiling
        h = self._bisect(float(grid[outside - 1]) if outside else 0.0, float(grid[outside]), limit)
        return 0.0 if mu == 0.0 and self._leaves_at_once(h) else h

    def _bisect(self, low: float, high: float, limit: float) -> float:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.norm(middle) <= limit else (low, middle)
        return low

    def _leaves_at_once(self, h: float) -> bool:
        """With μ = 0 the norm is 1 + O(h^(p+1)) near 0: a violation first seen where that drowns in rounding began at 0."""
        power = self.region.scheme.order + 1
        return self.region.bound == 1.0 and h * self.size <= 10 * self.slack ** (1 / power)
