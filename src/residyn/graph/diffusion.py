"""Diffusion on a graph, the branch F(x) = -L·x: an explicit step smooths, an implicit or exponential one at any length."""

from __future__ import annotations

import functools

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from residyn.branch import Symmetric
from residyn.errors import InputError
from residyn.graph.product import SymmetricMatrix, as_scipy
from residyn.graph.solving import as_dense, extent, solved
from residyn.results import Estimate


class Diffusion(Symmetric):
    """F(x) = -L·x on node features x, `(n,)` or `(n, …)`: heat that flows along the edges.

    One step x⁺ = x - η·L·x is `step` (one pass over x), or any scheme: `solve(autonomous(Diffusion(L)), …)` with `Euler()`;
    `BackwardEuler()` by conjugate gradients; `ExponentialMidpoint()`, exact at every length. Explicit steps are stable up to
    η = 2/λ_max, which `max_stable_step` returns. L being symmetric, a gradient is the same product and costs no transpose.

    Diffusion alone only slows the collapse to a mean over each component; what stops it is an anchor (`ResidualGNN`).

    Args:
        L: The Laplacian, `(n, n)`: symmetric, sparse (CSR, COO) or dense. It is data and gets no gradient.

    Raises:
        InputError: If L is not square, finite and symmetric; on use, if x has not one row a node.

    Reference:
        Chamberlain, Rowbottom, Gorinova, Webb, Rossi & Bronstein (2021), "GRAND: Graph Neural Diffusion", arXiv:2106.10934.

    >>> from residyn.graph import laplacian
    >>> heat = Diffusion(laplacian(torch.tensor([[0, 1], [1, 2]]), 3, normalized=False))
    >>> heat(torch.tensor([0.0, 1.0, 0.0]))
    tensor([ 1., -2.,  1.])
    """

    def __init__(self, L: Tensor) -> None:
        super().__init__()
        self.matrix = as_matrix(L)

    @property
    def n(self) -> int:
        """Number of nodes."""
        return self.matrix.n

    def matvec(self, x: Tensor) -> Tensor:
        """-L·x."""
        return self.matrix.product(self._checked(x), 0.0, -1.0)

    def step(self, x: Tensor, eta: float | Tensor) -> Tensor:
        """x - η·L·x, in one pass over x where η is a number.

        Args:
            x: Features, `(n, …)`.
            eta: η; a tensor gets a gradient.

        Returns:
            x⁺, of the shape of x.

        >>> from residyn.graph import laplacian
        >>> heat = Diffusion(laplacian(torch.tensor([[0], [1]]), 2, normalized=False))
        >>> heat.step(torch.tensor([1.0, 0.0]), 0.25)
        tensor([0.7500, 0.2500])
        """
        if isinstance(eta, Tensor):
            return x + eta * self.matvec(x)
        return self.matrix.product(self._checked(x), 1.0, -eta)

    @functools.cached_property
    def _ends(self) -> tuple[float, float]:
        return extent(self.matrix)

    @property
    def largest(self) -> float:
        """λ_max of L; explicit steps are stable up to 2/λ_max."""
        return self._ends[1]

    def extent(self) -> tuple[float, float]:
        """The ends of the spectrum of -L: -λ_max and, for a Laplacian, 0."""
        least, most = self._ends
        return -most, (0.0 - least)

    def eigenvalues(self) -> Tensor | None:
        """All of them, up to 256 nodes; above, only the ends are known (`extent`)."""
        if self.n > 256:
            return None
        values = -torch.linalg.eigvalsh(as_dense(self.matrix))
        return torch.where(values.abs() <= 1e-12 * values.abs().max(), 0.0, values)

    def norm_bound(self) -> Estimate:
        """Gershgorin's bound on λ_max, the largest sum of moduli in a row, rounded up."""
        entries = self.matrix.values.abs().double()
        rows = torch.repeat_interleave(torch.arange(self.n, device=entries.device), self.matrix.rows.long().diff())
        sums = torch.zeros(self.n, dtype=torch.float64, device=entries.device).index_add_(0, rows, entries)
        eps = torch.finfo(self.matrix.values.dtype).eps
        return Estimate(float(sums.max()) * (1 + 4 * eps), "certified")

    def resolvent(self, r: Tensor, h: float) -> Tensor:
        """(I + h·L)⁻¹·r, by conjugate gradients; differentiable in r."""
        return solved(self, self._checked(r), h, "resolvent")

    def exponential(self, x: Tensor, h: float) -> Tensor:
        """exp(-h·L)·x, by a Chebyshev expansion; differentiable in x."""
        return solved(self, self._checked(x), h, "exponential")

    def _checked(self, x: Tensor) -> Tensor:
        if x.ndim == 0 or len(x) != self.n:
            raise InputError(f"`x` must have a row for each of {self.n} nodes, got {tuple(x.shape)}; features are (n, …)")
        return x

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"n={self.n}, entries={len(self.matrix.values)}"


def as_matrix(L: Tensor) -> SymmetricMatrix:
    """A Laplacian in the form that products want; checked to be square, finite and symmetric."""
    if not isinstance(L, Tensor) or L.ndim != 2 or L.shape[0] != L.shape[1] or L.shape[0] == 0:
        got = tuple(L.shape) if isinstance(L, Tensor) else type(L).__name__
        raise InputError(f"`L` must be a square matrix, (n, n), got {got}; laplacian(edge_index, n) makes one")
    if not L.is_floating_point():
        raise InputError(f"`L` must be real and floating point, got {L.dtype}")
    matrix = as_scipy(L.detach())
    if not np.isfinite(matrix.data).all():
        raise InputError("`L` must be finite, got nan or inf; look at the edge weights")
    transposed = sparse.csr_array(matrix.T)
    gap, size = abs(matrix - transposed), float(np.abs(matrix.data).max(initial=0.0))
    worst = float(gap.max()) if gap.nnz else 0.0
    if worst > 16 * torch.finfo(L.dtype).eps * size:  # some products of rounded weights in another order
        raise InputError(
            f"`L` must be symmetric, got entries that differ from their mirror by up to {worst:.3g}; "
            "laplacian(edge_index, n) lets each edge count both ways"
        )
    whole = sparse.csr_array(matrix + sparse.diags_array(np.full(len(L), 2 * size + 1.0), format="csr"))
    whole.sort_indices()
    rows = np.repeat(np.arange(len(L)), np.diff(whole.indptr))
    place = np.flatnonzero(rows == whole.indices)  # each row has one now: its diagonal entry was shifted away from zero
    whole.data[place] = matrix.diagonal()
    return SymmetricMatrix(
        torch.from_numpy(whole.indptr).to(L.device),
        torch.from_numpy(whole.indices).to(L.device),
        torch.from_numpy(whole.data).to(L.device, L.dtype),
        torch.from_numpy(place).to(L.device),
    )
