"""What depth does to the energy of node features: measured step by step, and computed from the spectrum they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.graph.diffusion import Diffusion
from residyn.graph.measures import dirichlet_energy, rank
from residyn.graph.product import multiply
from residyn.graph.solving import as_dense

KINDS = ("plain", "residual", "anchored", "implicit")


@dataclass(frozen=True)
class Law:
    """A step on a graph as functions of an eigenvalue λ of L: x_k = g_k(L)·x_0.

    Args:
        eta: Step of the residual law, x - η·L·x.
        anchor: α of the anchored law, (1-α)·(x - L·x) + α·x_0.
        h: Step of the implicit law, x⁺ = x - h·L·x⁺.
    """

    eta: float = 0.5
    anchor: float = 0.1
    h: float = 1.0

    def step(self, kind: str, heat: Diffusion, x: Tensor, start: Tensor) -> Tensor:
        """One step of a kind."""
        if kind == "plain":
            return heat.step(x, 1.0)
        if kind == "residual":
            return heat.step(x, self.eta)
        if kind == "anchored":
            return torch.add(heat.matrix.product(x, 1 - self.anchor, self.anchor - 1), start, alpha=self.anchor)
        return heat.resolvent(x, self.h)

    def gain(self, kind: str, values: Tensor, k: int) -> Tensor:
        """g_k(λ)."""
        if kind == "plain":
            return (1 - values) ** k
        if kind == "residual":
            return (1 - self.eta * values) ** k
        if kind == "anchored":
            r = (1 - self.anchor) * (1 - values)
            return r**k + self.anchor * (1 - r**k) / (1 - r)
        return (1 + self.h * values) ** -float(k)


_ROUNDING = 1e5 * 2.0**-52
"""Ten units of rounding, seen to four digits."""


@dataclass(frozen=True)
class Profile:
    """The energy of features by depth, relative to that at the start, and how many directions they span.

    Args:
        measured: E_k/E_0, k = 0 … depth.
        theory: The same from the spectrum; empty if it was too large to compute.
        rank: Numerical rank of the features at the end.
        floor: Below this share rounding decides: xᵀ·L·x is known to some units of rounding of ‖x‖².
    """

    measured: list[float]
    theory: list[float]
    rank: int
    floor: float = 1e-20


def profiles(
    heat: Diffusion,
    x: Tensor,
    depth: int,
    law: Law,
    *,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Profile]:
    """Energies of plain, residual, anchored and implicit steps by depth.

    E_k = Σ_i λ_i·g_k(λ_i)²·|c_i|² with c_i the share of the features in eigenvector i. The shares are taken from the
    eigenvectors of a small graph; of a large one from the quadrature that a Lanczos process from the features is, which is
    exact for the polynomials that explicit steps are.

    Args:
        heat: The graph, in double precision.
        x: Features, `(n, d)`.
        depth: Number of steps.
        law: Their sizes.
        progress: Told the share done.

    Returns:
        A profile a kind.

    Raises:
        InputError: If the features have no energy, so that there is nothing to lose.

    Reference:
        Golub & Meurant (2010), "Matrices, Moments and Quadrature", ch. 4.

    >>> from residyn.graph import laplacian
    >>> ring = Diffusion(laplacian(torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]]), 5, dtype=torch.float64))
    >>> found = profiles(ring, torch.eye(5, dtype=torch.float64), 3, Law())
    >>> max(abs(a - b) for a, b in zip(found["plain"].measured, found["plain"].theory)) < 1e-12
    True
    """
    first = float(dirichlet_energy(x, heat))
    if not first > 1e-12 * float((x * x).sum()):
        raise InputError("`features` must differ along an edge, got features without energy; give others, or none")
    measure = spectral_measure(heat, x, depth + 16)
    found = {}
    for i, kind in enumerate(KINDS):
        energies, y, largest = [1.0], x, float((x * x).sum())
        for k in range(depth):
            y = law.step(kind, heat, y, x)
            energies.append(max(float(dirichlet_energy(y, heat)), 0.0) / first)
            largest = max(largest, float((y * y).sum()))
            if progress is not None and k % 8 == 0:
                progress((i + k / depth) / len(KINDS), f"{kind} steps")
        theory: list[float] = []
        if measure is not None:
            values, weights = measure
            terms = [values * law.gain(kind, values, k) ** 2 * weights for k in range(depth + 1)]
            theory = [float(term.sum() / terms[0].sum()) for term in terms]
        found[kind] = Profile(energies, theory, rank(y), _ROUNDING * largest / first)
    return found


def spectral_measure(heat: Diffusion, x: Tensor, steps: int, *, memory: float = 1e9) -> tuple[Tensor, Tensor] | None:
    """Points λ and weights w with tr(xᵀ·f(L)·x) = Σ w·f(λ): all eigenvalues, or the Gauss points of a Lanczos process a column.

    Args:
        heat: The graph.
        x: Features, `(n, d)`, double precision.
        steps: Points a column; the sum is exact for polynomials up to degree 2·steps - 1.
        memory: Bytes that the process may take.

    Returns:
        λ and w, flat; `None` if there is not the memory.
    """
    if heat.n <= 1000:
        values, vectors = torch.linalg.eigh(as_dense(heat.matrix))
        return values.clamp_min(0), (vectors.T @ x).square().sum(1)
    if steps * x.numel() * 8 > memory:
        return None
    norm = torch.linalg.vector_norm(x, dim=0)
    basis = [x / norm.clamp_min(1e-300)]
    diagonal, off = [], []
    for _ in range(steps):
        w = multiply(heat.matrix, basis[-1], 0.0, 1.0)
        diagonal.append((w * basis[-1]).sum(0))
        for _ in range(2):  # twice is enough to stay orthogonal to rounding
            for v in basis:
                w = w - v * (v * w).sum(0)
        beta = torch.linalg.vector_norm(w, dim=0)
        off.append(beta)
        basis.append(torch.where(beta > 1e-10, w / beta.clamp_min(1e-300), 0.0))
    main, side = torch.stack(diagonal, 1), torch.stack(off[:-1], 1)
    matrices = torch.diag_embed(main) + torch.diag_embed(side, 1) + torch.diag_embed(side, -1)  # (d, steps, steps)
    values, vectors = torch.linalg.eigh(matrices)
    weights = vectors[:, 0].square() * norm.square()[:, None]
    return values.clamp_min(0).flatten(), weights.flatten()
