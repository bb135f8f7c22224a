"""Exchange and correlation on PySCF's grid, with the basis functions evaluated once: LDA, GGA, meta-GGA, and their kernels."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BLOCK = 4096
"""Grid points at a time: some megabytes, which stay in the cache."""


class Grid:
    """E_xc and V_xc of a density matrix in the orthonormal basis.

    Args:
        mf: The mean-field object: its functional, its grid and its molecule.
        X: Orthonormal basis in atomic orbitals, `(n_ao, n)`.
        spins: 1 (closed shell) or 2.
    """

    def __init__(self, mf: Any, X: Tensor, spins: int) -> None:
        self.numint, self.xc, self.spins = mf._numint, mf.xc, spins
        self.kind: str = self.numint._xc_type(self.xc)
        if mf.grids.coords is None:
            mf.grids.build(with_non0tab=True)
        values = self.numint.eval_ao(mf.mol, mf.grids.coords, deriv=0 if self.kind == "LDA" else 1)
        values = values[None] if self.kind == "LDA" else values
        self.values = torch.from_numpy(np.ascontiguousarray(values)) @ X  # (1 or 4, points, n)
        self.weights = torch.from_numpy(mf.grids.weights)
        self.seconds = 0.0

    def density(self, P: Tensor) -> Tensor:
        """ρ, then ∇ρ and τ where the functional takes them, `(s, rows, points)`, of real symmetric P `(s, n, n)`."""
        v = self.values
        found = []
        for p in P:
            half = v[0] @ p
            rows = [(half * v[0]).sum(-1)]
            if self.kind != "LDA":
                rows += [2 * (half * v[k]).sum(-1) for k in (1, 2, 3)]
            if self.kind == "MGGA":
                rows.append(0.5 * sum(((v[k] @ p) * v[k]).sum(-1) for k in (1, 2, 3)))
            found.append(torch.stack(rows))
        return torch.stack(found)

    def __call__(self, P: Tensor) -> tuple[Tensor, float]:
        """V_xc, real symmetric `(s, n, n)`, and E_xc."""
        start = time.process_time()
        rho = self.density(P)
        exc, vxc = self._libxc(rho, 1)[:2]
        energy = float((self.weights * rho[:, 0].sum(0)) @ exc)
        w = vxc * self.weights  # (s, rows, points)
        v, found = self.values, []
        for row in w:
            left = 0.5 * row[0, :, None] * v[0]
            if self.kind != "LDA":
                left = left + sum(row[k, :, None] * v[k] for k in (1, 2, 3))
            matrix = v[0].T @ left
            if self.kind == "MGGA":
                matrix = matrix + sum(v[k].T @ (0.25 * row[4, :, None] * v[k]) for k in (1, 2, 3))
            found.append(matrix + matrix.T)
        self.seconds += time.process_time() - start
        return torch.stack(found), energy

    def kernel(self, P: Tensor, lower: Tensor) -> Tensor:
        """f_xc as a matrix over (spin, pair), `(s·p, s·p)`, at a density matrix: Σ over the grid, pairs `lower` of (i, j).

        Args:
            P: Where, real symmetric `(s, n, n)`.
            lower: Flat indices i·n + j of the pairs, `(p,)`.
        """
        rho = self.density(P)
        f = self._libxc(rho, 2)[2] * self.weights  # (s, rows, s, rows, points)
        n, p = self.values.shape[-1], len(lower)
        i, j = lower // n, lower % n
        total = torch.zeros(self.spins * p, self.spins * p, dtype=torch.float64)
        for start in range(0, len(self.weights), _BLOCK):
            part = slice(start, start + _BLOCK)
            features = self._features(self.values[:, part], i, j)  # (rows, points, p)
            for a in range(self.spins):
                for b in range(self.spins):
                    weighted = torch.einsum("xyg,ygp->xgp", f[a, :, b, :, part], features)
                    block = features.reshape(-1, p).T @ weighted.reshape(-1, p)
                    total[a * p : (a + 1) * p, b * p : (b + 1) * p] += block
        return total

    def _features(self, v: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """What one pair of functions adds to ρ, ∇ρ and τ, `(rows, points, p)`."""
        rows = [v[0][:, i] * v[0][:, j]]
        if self.kind != "LDA":
            rows += [v[k][:, i] * v[0][:, j] + v[0][:, i] * v[k][:, j] for k in (1, 2, 3)]
        if self.kind == "MGGA":
            rows.append(0.5 * sum((v[k][:, i] * v[k][:, j] for k in (1, 2, 3)), torch.zeros(())))
        return torch.stack(rows)

    def _libxc(self, rho: Tensor, order: int) -> tuple[Any, ...]:
        """ε_xc, v_xc `(s, rows, points)` and, for order 2, f_xc `(s, rows, s, rows, points)`."""
        numbers = rho.numpy()
        given = numbers if self.spins == 2 else numbers[0]
        given = given[..., 0, :] if self.kind == "LDA" else given
        exc, vxc, fxc = self.numint.eval_xc_eff(self.xc, given, deriv=order, xctype=self.kind)[:3]
        points = rho.shape[-1]
        rows = rho.shape[1]
        v = torch.from_numpy(np.ascontiguousarray(vxc)).reshape(self.spins, rows, points)
        f = None
        if order == 2:
            f = torch.from_numpy(np.ascontiguousarray(fxc)).reshape(self.spins, rows, self.spins, rows, points)
        return torch.from_numpy(np.ascontiguousarray(exc)), v, f
