"""Proofs by Cholesky: a symmetric banded matrix whose factorisation goes through in floating point is positive definite.

If it completes on fl(cI - AᵀA), the exact matrix has no eigenvalue below minus a small known multiple of rounding, so
‖A‖₂² ≤ c + that. Nothing is assumed of where c came from: a Lanczos value that stopped too early makes it fail.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps
_SAFETY = 8.0
"""Over the textbook constants, for products summed in blocks and fused."""


class BandedGram:
    """AᵀA (or A·Aᵀ) of a block matrix A[o, i] = Σ_t S[t, o, i]·B_t, as blocks M[i, j] = Σ_{t,u} c[t, u, i, j]·B_tᵀ·B_u.

    Args:
        seen: S, `(taps, outer rows, outer columns)`, zeros and ones.
        blocks: B, `(taps, groups, rows, columns)`, float64; groups are separate matrices.

    Attributes:
        size: Order of a block.
        count: Blocks in a row.
        band: Blocks off the diagonal that are not all zero.
        work: Floating-point operations of one factorisation.
    """

    def __init__(self, seen: Tensor, blocks: Tensor) -> None:
        wide = seen.shape[2] * blocks.shape[3] > seen.shape[1] * blocks.shape[2]
        self.seen = seen.mT if wide else seen
        self.blocks = blocks.mT if wide else blocks
        self.count, self.size = self.seen.shape[2], self.blocks.shape[3]
        reach = torch.einsum("toi,uoj->ij", self.seen, self.seen).nonzero()
        self.band = int((reach[:, 0] - reach[:, 1]).abs().max()) if len(reach) else 0
        self.work = work(self.count, self.size, self.band, self.blocks.shape[1], len(self.blocks), self.blocks.shape[2])
        self._products: dict[tuple[int, int], Tensor] = {}
        self._sums: dict[bytes, Tensor] = {}
        self._made: dict[tuple[int, int], Tensor] = {}

    def block(self, i: int, j: int) -> Tensor:
        """M[i, j], `(groups, size, size)`; equal blocks are made once."""
        weights = torch.einsum("to,uo->tu", self.seen[:, :, i], self.seen[:, :, j])
        key = weights.numpy().tobytes()
        if key not in self._sums:
            total = torch.zeros(self.blocks.shape[1], self.size, self.size, dtype=torch.float64)
            for t, u in weights.nonzero().tolist():
                total += weights[t, u] * self._product(t, u)
            self._sums[key] = total
        return self._sums[key]

    def _product(self, t: int, u: int) -> Tensor:
        if t > u:
            return self._product(u, t).mT
        if (t, u) not in self._products:
            self._products[t, u] = self.blocks[t].mT @ self.blocks[u]
        return self._products[t, u]

    def proves(self, bound: float) -> bool:
        """Whether ‖A‖₂ ≤ `bound` is proved, rounding included."""
        square = bound * bound
        shift = square - self._margin(square)
        if not (shift > 0 and math.isfinite(shift)):
            return False
        groups, n, p = self.blocks.shape[1], self.count, self.band
        eye = torch.eye(self.size, dtype=torch.float64)
        window: dict[tuple[int, int], Tensor] = {}  # the trailing blocks that elimination has touched
        for i in range(n):
            pivot = window.pop((i, i), None)
            if pivot is None:
                pivot = shift * eye - self.block(i, i)
            factor, failed = torch.linalg.cholesky_ex(pivot.expand(groups, -1, -1))
            if bool(failed.any()):
                return False
            below = range(i + 1, min(i + p, n - 1) + 1)
            columns = {
                j: torch.linalg.solve_triangular(factor, self._take(window, i, j, shift, eye), upper=False) for j in below
            }
            for j in below:
                for k in range(j, below.stop):
                    window[j, k] = self._take(window, j, k, shift, eye) - columns[j].mT @ columns[k]
        return True

    def _take(self, window: dict[tuple[int, int], Tensor], i: int, j: int, shift: float, eye: Tensor) -> Tensor:
        block = window.pop((i, j), None)
        if block is not None:
            return block
        return shift * eye - self.block(i, j) if i == j else -self.block(i, j)

    def _margin(self, square: float) -> float:
        """How far below zero an eigenvalue of cI - AᵀA may lie though the factorisation of its rounded copy went through.

        The factor R of a matrix M̃ satisfies |RᵀR - M̃| ≤ γ·√(m_ii·m_jj) entry by entry, inner products being at most
        (band + 1)·size long, and the band has (2·band + 1)·size entries a row: in norm γ·width·c. To make the entries of AᵀA
        costs γ·‖|A|‖₁·‖|A|‖_∞ more, with as many terms as a column of A has entries.
        """
        inner, width = (self.band + 1) * self.size + 2, (min(2 * self.band, self.count - 1) + 1) * self.size
        size = self.blocks.abs()
        columns = float(torch.einsum("toi,tgc->gic", self.seen, size.sum(-2)).max())
        rows = float(torch.einsum("toi,tgr->gor", self.seen, size.sum(-1)).max())
        terms = len(self.blocks) * (self.blocks.shape[2] + len(self.blocks)) + 2
        return _SAFETY * _EPS * (inner * width * square + terms * columns * rows)


def work(count: int, size: int, band: int, groups: int, taps: int, rows: int) -> float:
    """Floating-point operations to make the products of blocks and to factor once."""
    band = min(band, count - 1)
    each = 1 / 3 + band + band * (band + 1)
    return groups * (count * each * size**3 + taps * (taps + 1) * rows * size**2)
