"""How smooth node features are, and how many directions they still have: what depth takes from a graph network."""

from __future__ import annotations

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.graph.diffusion import Diffusion
from residyn.graph.forms import as_diffusion


def dirichlet_energy(x: Tensor, L: Tensor | Diffusion) -> Tensor:
    """E(x) = tr(xᵀ·L·x): for L = D - A the sum over the edges of w_ij·‖x_i - x_j‖²; 0 where all nodes are alike.

    Args:
        x: Features, `(n,)` or `(n, …)`; differentiable.
        L: The Laplacian; or a `Diffusion`.

    Returns:
        A number, in the dtype of x.

    Raises:
        InputError: If L or x breaks its rule.

    Reference:
        Cai & Wang (2020), "A Note on Over-Smoothing for Graph Neural Networks", arXiv:2006.13318.

    >>> from residyn.graph import laplacian
    >>> dirichlet_energy(torch.tensor([0.0, 1.0, 3.0]), laplacian(torch.tensor([[0, 1], [1, 2]]), 3, normalized=False))
    tensor(5.)
    """
    heat = L if isinstance(L, Diffusion) else as_diffusion(L, len(x)) if L.is_floating_point() else Diffusion(L)
    return -(x * heat.matvec(x)).sum()


def rayleigh_quotient(x: Tensor, L: Tensor | Diffusion) -> Tensor:
    """tr(xᵀ·L·x)/‖x‖²: the mean eigenvalue that the features are made of, which scaling x does not change.

    Args:
        x: Features, `(n,)` or `(n, …)`.
        L: The Laplacian, or a `Diffusion`.

    Returns:
        A number in [0, λ_max]; nan for x = 0.

    Raises:
        InputError: If L or x breaks its rule.

    >>> from residyn.graph import laplacian
    >>> rayleigh_quotient(torch.tensor([1.0, -1.0]), laplacian(torch.tensor([[0], [1]]), 2))
    tensor(2.)
    """
    return dirichlet_energy(x, L) / (x * x).sum()


def rank(x: Tensor, *, rtol: float = 1e-3) -> int:
    """How many directions the features span: singular values of x above `rtol` times the largest.

    Args:
        x: Features, `(n, d)`.
        rtol: What counts as nothing.

    Returns:
        A number in 0…min(n, d); 1 where all nodes are multiples of one another, which is what collapse is.

    Raises:
        InputError: If x is no matrix, or `rtol` no share.

    >>> rank(torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]))
    1
    """
    if x.ndim != 2:
        raise InputError(f"`x` must be (n, d), got {tuple(x.shape)}; one row a node")
    if not 0 < rtol < 1:
        raise InputError(f"`rtol` must lie in (0, 1), got {rtol}; 1e-3 is usual")
    # the eigenvalues of xᵀx, `(d, d)`, in double precision: their roots are right to 1e-8 of the largest
    tall = x.detach().double() if len(x) >= x.shape[1] else x.detach().double().T
    squares = torch.linalg.eigvalsh(tall.T @ tall).clamp_min(0)
    return int((squares.sqrt() > rtol * squares.max().sqrt()).sum())
