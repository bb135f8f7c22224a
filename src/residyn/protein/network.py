"""Elastic networks of a protein: springs between Cα that are near. One residual step x - η·L·x is diffusion on one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import linalg, sparse
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from scipy.spatial import cKDTree
from torch import Tensor

from residyn.analysis.levels import near_resistance
from residyn.branch import Linear
from residyn.errors import InputError
from residyn.protein.structure import Floats, Ints
from residyn.results import Estimate

GNM_CUTOFF = 10.0
ANM_CUTOFF = 15.0
"""Å; the usual ones."""

_DENSE = 300
"""Up to this many rows all eigenvectors cost less than an iteration for some."""


@dataclass(frozen=True)
class Modes:
    """Slow modes of a network.

    Args:
        values: Eigenvalues, ascending, without the rigid-body zeros, `(k,)`.
        vectors: Unit eigenvectors, `(rows, k)`.
    """

    values: Floats
    vectors: Floats

    @property
    def mobility(self) -> Floats:
        """What these modes contribute to each node's mean square displacement, Σ v²/λ (three rows a node summed for an ANM)."""
        share: Floats = (self.vectors**2 / self.values).sum(axis=1)
        return share


class Network(Linear):
    """F(x) = -L·x, with L the stiffness matrix of an elastic network: symmetric, positive semidefinite, sparse.

    Args:
        stiffness: L, `(m, m)`.
        zeros: Dimension of its null space, if the network is connected: 1, or 6 rigid-body motions.
        axes: Rows a node.
    """

    normal = True

    def __init__(self, stiffness: sparse.csr_array, *, zeros: int, axes: int) -> None:
        super().__init__()
        self.stiffness, self.zeros, self.axes = stiffness, zeros, axes
        coo = stiffness.tocoo()
        index = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
        self.register_buffer("_index", index)
        self.register_buffer("_value", torch.from_numpy(coo.data.copy()))

    _index: Tensor
    _value: Tensor

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return int(self.stiffness.shape[0] // self.axes)

    def matvec(self, x: Tensor) -> Tensor:
        """-L·x along the last axis, of length `m`."""
        rows, columns = self._index
        return torch.zeros_like(x).index_add(-1, rows, -self._value.to(x.dtype) * x[..., columns])

    def adjoint(self, y: Tensor) -> Tensor:
        """The same: L is symmetric."""
        return self.matvec(y)

    def eigenvalues(self) -> Tensor | None:
        """All of them, where that is quick (2,000 rows); the largest step η is then exactly 2/λ_max."""
        if self.stiffness.shape[0] > 2000:
            return None
        values = linalg.eigvalsh(self.stiffness.toarray(), check_finite=False)
        values[: self._null(values)] = 0.0
        return torch.from_numpy(-values)

    def norm_bound(self) -> Estimate:
        """Largest row sum of |L|, which no eigenvalue exceeds."""
        top = float(abs(self.stiffness).sum(axis=1).max())
        return Estimate(float(top * (1 + 4 * np.finfo(float).eps * self.stiffness.shape[0])), "certified")

    def modes(self, k: int = 20) -> Modes:
        """The k slowest modes that change the shape.

        Args:
            k: How many, at most what there are.

        Returns:
            The modes; eigenvectors have no sign of their own.

        Raises:
            InputError: If `k` is below 1.
        """
        size = self.stiffness.shape[0]
        if k < 1:
            raise InputError(f"`k` must be at least 1, got {k}; it is a number of modes")
        wanted = min(k + self.zeros, size)
        values, vectors = self._lowest(wanted)
        null = self._null(values)
        if null > self.zeros:  # parts that move freely against each other: ask for what is behind them
            values, vectors = self._all()
            null = self._null(values)
        return Modes(values[null : null + k], vectors[:, null : null + k])

    def _lowest(self, wanted: int) -> tuple[Floats, Floats]:
        size = self.stiffness.shape[0]
        if size <= _DENSE or wanted > size // 6:
            return self._all(min(wanted, size))
        shift = -1e-3 * float(self.stiffness.diagonal().mean())  # L - shift is definite, and near the slow end
        try:
            start = np.random.default_rng(0).standard_normal(size)
            values, vectors = eigsh(self.stiffness.tocsc(), wanted, sigma=shift, which="LM", v0=start, tol=0)
        except (ArpackNoConvergence, RuntimeError):
            return self._all(wanted)
        order = np.argsort(values)
        return values[order], vectors[:, order]

    def _all(self, wanted: int | None = None) -> tuple[Floats, Floats]:
        dense = self.stiffness.toarray()
        some = None if wanted is None or wanted >= len(dense) else (0, wanted - 1)
        values, vectors = linalg.eigh(dense, subset_by_index=some, check_finite=False, overwrite_a=True)
        return values, vectors

    def _null(self, values: Floats) -> int:
        """How many are zero up to rounding of a sum over a row."""
        scale = 2 * float(self.stiffness.diagonal().max(initial=0.0))
        return int((np.abs(values) < 1e-8 * max(scale, 1e-300)).sum())


@dataclass(frozen=True)
class Flexibility:
    """How far residues move, in Å², from the Gaussian network scaled to B factors.

    Args:
        variance: Variance of the distance of each pair along the line between them, `(m,)` Å².
        spring: γ, kT/Å²: the network's one parameter.
        correlation: Of predicted and measured B factors; nan where the file has none to compare.
        measured: Whether B factors set the scale; if not, their usual mean did.
    """

    variance: Floats
    spring: float
    correlation: float
    measured: bool


def gnm(xyz: Floats, cutoff: float = GNM_CUTOFF) -> Network:
    """Gaussian network: the graph Laplacian of contacts, L = Γ, spring 1.

    Args:
        xyz: Coordinates of the nodes, usually Cα, `(n, 3)` Å.
        cutoff: Å; nodes within it are joined.

    Returns:
        The network, `(n, n)`.

    Raises:
        InputError: If coordinates or cutoff are no such thing.

    Reference:
        Bahar, Atilgan & Erman (1997), doi:10.1016/S1359-0278(97)00024-2.

    >>> from residyn.analysis import max_stable_step
    >>> pair = gnm(np.array([[0.0, 0, 0], [3.8, 0, 0]]))
    >>> float(max_stable_step(pair, torch.zeros(2, dtype=torch.float64)))   # 2/λ_max of [[1, -1], [-1, 1]]
    1.0
    """
    n = len(_checked(xyz, cutoff))
    pairs = cKDTree(xyz).query_pairs(cutoff, output_type="ndarray")
    return Network(_laplacian(n, pairs), zeros=1, axes=1)


def anm(xyz: Floats, cutoff: float = ANM_CUTOFF) -> Network:
    """Anisotropic network: the Hessian of unit springs between near nodes, blocks -d·dᵀ/|d|² for d their difference.

    Args:
        xyz: Coordinates of the nodes, `(n, 3)` Å.
        cutoff: Å.

    Returns:
        The network, `(3·n, 3·n)`, rows x, y, z of node 0, then of node 1, …

    Raises:
        InputError: If coordinates or cutoff are no such thing.

    Reference:
        Atilgan et al. (2001), doi:10.1016/S0006-3495(01)76033-X.
    """
    n = len(_checked(xyz, cutoff))
    pairs = cKDTree(xyz).query_pairs(cutoff, output_type="ndarray")
    d = xyz[pairs[:, 1]] - xyz[pairs[:, 0]]
    length = np.linalg.norm(d, axis=1, keepdims=True)
    if (length == 0).any():
        raise InputError("`xyz` must hold different points, got two nodes in one place; drop one of them")
    d = d / length
    block = d[:, :, None] * d[:, None, :]  # (m, 3, 3)
    i, j = pairs.T
    axis = np.arange(3)
    ends = [(i, j, -block), (j, i, -block), (i, i, block), (j, j, block)]
    rows = np.concatenate([np.broadcast_to((3 * a)[:, None, None] + axis[:, None], b.shape).ravel() for a, _, b in ends])
    columns = np.concatenate([np.broadcast_to((3 * c)[:, None, None] + axis, b.shape).ravel() for _, c, b in ends])
    values = np.concatenate([b.ravel() for _, _, b in ends])
    return Network(sparse.csr_array((values, (rows, columns)), shape=(3 * n, 3 * n)), zeros=6, axes=3)


def flexibility(xyz: Floats, b_factors: Floats | None, pairs: Ints, cutoff: float = GNM_CUTOFF) -> Flexibility:
    """Variance of distances from the Gaussian network, scaled to B factors: var(d_ij) = R_ij/γ, B_i = 8π²·Γ⁺_ii/γ.

    R_ij is the effective resistance of the contact network between i and j, the same quantity as a loop's length on the chain.

    Args:
        xyz: Cα coordinates, `(n, 3)`.
        b_factors: B factors, `(n,)` Å²; `None`, or nan and zeros only, for none: then their usual mean of 20 Å² sets the scale.
        pairs: Pairs of nodes, `(m, 2)`, near each other: within the cutoff.
        cutoff: Å.

    Returns:
        The variances and the scale; a variance is nan where the network does not tell.
    """
    joined = cKDTree(xyz).query_pairs(cutoff, output_type="ndarray")
    L = _laplacian(len(xyz), joined)
    near = near_resistance(L, pairs)
    mobility = _pseudo_diagonal(L, near.diagonal)
    usable = np.isfinite(b_factors) & (b_factors > 0) if b_factors is not None else np.zeros(len(xyz), dtype=bool)
    measured = bool(usable.sum() >= max(2, len(xyz) // 2))
    mean_b = float(b_factors[usable].mean()) if measured and b_factors is not None else 20.0
    mean = float(mobility[usable].mean() if measured else mobility.mean())
    spring = 8 * math.pi**2 * mean / mean_b if mean > 0 else 1.0
    correlation = math.nan
    if measured and b_factors is not None and b_factors[usable].std() > 1e-6 * mean_b and mobility[usable].std() > 0:
        correlation = float(np.corrcoef(b_factors[usable], mobility[usable])[0, 1])
    return Flexibility(near.resistance / spring, spring, correlation, measured)


def _pseudo_diagonal(L: sparse.csr_array, grounded: Floats) -> Floats:
    """Γ⁺_ii = G_ii - 2·(G·1)_i/n + 1ᵀ·G·1/n² of each component, from the diagonal of a grounded inverse G and one solve."""
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import cg

    count, component = connected_components(L, directed=False)
    found = np.zeros(len(grounded))
    for number in range(count):
        nodes = np.flatnonzero(component == number)
        ground = nodes[np.argmin(grounded[nodes])]  # the grounded node is the one with G_ii = 0
        live = nodes[nodes != ground]
        if len(live) == 0:
            continue
        part = L[live][:, live]
        scale = sparse.diags_array(1 / part.diagonal())
        total, _ = cg(part, np.ones(len(live)), rtol=1e-10, maxiter=20 * len(live), M=scale)  # G·1
        n = len(nodes)
        found[live] = grounded[live] - 2 * total / n + total.sum() / n**2
        found[ground] = total.sum() / n**2
    return found


def _laplacian(n: int, pairs: Ints) -> sparse.csr_array:
    i, j = pairs.T
    one = np.ones(len(pairs))
    rows, columns = np.concatenate([i, j, i, j]), np.concatenate([j, i, i, j])
    return sparse.csr_array((np.concatenate([-one, -one, one, one]), (rows, columns)), shape=(n, n))


def _checked(xyz: Floats, cutoff: float) -> Floats:
    if xyz.ndim != 2 or xyz.shape[1] != 3 or len(xyz) < 2 or not np.isfinite(xyz).all():
        raise InputError(f"`xyz` must be finite coordinates of at least two nodes, (n, 3), got the shape {xyz.shape}")
    if not 0 < cutoff < math.inf:
        raise InputError(f"`cutoff` must be > 0 Å, got {cutoff:g}; 10 (GNM) and 15 (ANM) are usual")
    return xyz
