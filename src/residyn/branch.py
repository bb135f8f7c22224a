"""What a branch may know of itself. Any callable is a branch; some know more, and the core uses it instead of guessing.

The core asks by type: a `Linear` branch is a matrix in all but name, a `Spectral` one also knows its eigenvalues (k equal
steps then are one function of it), a `Gradient` branch descends a potential (its Jacobian is symmetric), and a `Generator`
has the form A(t, x)·x that exponential schemes need.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.results import Estimate
from residyn.state import inside_transform


class Linear(nn.Module, abc.ABC):
    """A branch that is affine, F(x) = A·x + b, known by what A does.

    Subclasses write `matvec` and `adjoint`; they override the others where they know more.

    Attributes:
        offset: b, of the shape of x, or `None` for zero.
        normal: Whether A·Aᴴ = Aᴴ·A, so that the spectrum alone tells every norm.
    """

    normal: bool = False
    offset: Tensor | None

    def __init__(self, offset: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("offset", offset)

    @abc.abstractmethod
    def matvec(self, x: Tensor) -> Tensor:
        """A·x, of the shape of x."""

    @abc.abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᴴ·y, of the shape of y."""

    def eigenvalues(self) -> Tensor | None:
        """All eigenvalues of A, with or without multiplicity, complex or real; `None` if they are not known."""
        return None

    def norm_bound(self) -> Estimate | None:
        """A bound on ‖A‖₂ that is never below the truth; `None` if none is known."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """A·x + b."""
        y = self.matvec(x)
        return y if self.offset is None else y + self.offset


class Dense(Linear):
    """F(x) = A·x + b with A written out, applied to the last axis of x.

    Args:
        matrix: A, `(n, n)`, real or complex.
        offset: b, `(n,)`.

    Raises:
        InputError: If `matrix` is not square.

    >>> Dense(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))(torch.tensor([1.0, 0.0]))
    tensor([ 0., -1.])
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor, offset: Tensor | None = None) -> None:
        super().__init__(offset)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"`matrix` must be square, (n, n), got {tuple(matrix.shape)}; a branch keeps the shape of x")
        self.register_buffer("matrix", matrix)
        gram = matrix @ matrix.mH
        gap = torch.linalg.matrix_norm(gram - matrix.mH @ matrix)
        # Rounding of a product of n-vectors is below n·eps of the norms; a defect of normality above that is real.
        self.normal = bool(gap <= 4 * matrix.shape[0] * torch.finfo(matrix.dtype).eps * torch.linalg.matrix_norm(gram))

    def matvec(self, x: Tensor) -> Tensor:
        """A·x along the last axis."""
        return x @ self.matrix.mT

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᴴ·y along the last axis."""
        return y @ self.matrix.conj()

    def eigenvalues(self) -> Tensor:
        """All n eigenvalues; exactly real or imaginary where A is Hermitian or skew-Hermitian."""
        matrix = self.matrix
        if torch.equal(matrix, matrix.mH):
            return torch.linalg.eigvalsh(matrix)
        if torch.equal(matrix, -matrix.mH):
            return 1j * torch.linalg.eigvalsh(matrix * -1j)
        return torch.linalg.eigvals(matrix)


class Spectral(Linear):
    """A linear branch diagonal in a unitary basis: A = V·diag(λ)·Vᴴ, e.g. a blur with periodic borders.

    Any function of A costs one change of basis each way, so k equal steps of any scheme cost as much as one.

    Args:
        values: λ, in the shape in which `analyse` returns coordinates (or broadcasting to it).
        analyse: x → coordinates, the unitary Vᴴ (or any invertible map that diagonalises a normal A).
        synthesise: coordinates → x, its inverse.
        offset: b, of the shape of x.

    >>> damped = Spectral(torch.tensor([-1.0, -2.0]))
    >>> damped.function(torch.exp, torch.ones(2))
    tensor([0.3679, 0.1353])
    """

    normal = True
    values: Tensor

    def __init__(
        self,
        values: Tensor,
        analyse: Callable[[Tensor], Tensor] | None = None,
        synthesise: Callable[[Tensor], Tensor] | None = None,
        *,
        offset: Tensor | None = None,
    ) -> None:
        super().__init__(offset)
        if (analyse is None) != (synthesise is None):
            raise InputError("`analyse` and `synthesise` must be given together, got one; each inverts the other")
        self.register_buffer("values", values)
        self.analyse = analyse or _identity
        self.synthesise = synthesise or _identity

    def function(self, phi: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """φ(A)·x = V·φ(λ)·Vᴴ·x for a scalar function φ, applied elementwise to the eigenvalues."""
        return self.synthesise(phi(self.values) * self.analyse(x))

    def matvec(self, x: Tensor) -> Tensor:
        """A·x."""
        return self.synthesise(self.values * self.analyse(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᴴ·y."""
        return self.synthesise(self.values.conj() * self.analyse(y))

    def eigenvalues(self) -> Tensor:
        """λ, flat."""
        return self.values.flatten()

    def norm_bound(self) -> Estimate:
        """max |λ|, exact because A is normal; raised by one rounding so that it is never below the truth."""
        top = float(self.values.abs().max())
        return Estimate(top * (1 + 4 * torch.finfo(self.values.dtype).eps), "certified")


class Symmetric(Linear, abc.ABC):
    """A linear branch with A = Aᴴ that solves with itself: implicit and exponential steps ask it, and iterate no more.

    Subclasses write `matvec`, `extent`, `resolvent` and `exponential`, the last two differentiable in their first argument.
    """

    normal = True

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᴴ·y = A·y."""
        return self.matvec(y)

    @abc.abstractmethod
    def extent(self) -> tuple[float, float]:
        """The least and the largest eigenvalue of A."""

    @abc.abstractmethod
    def resolvent(self, r: Tensor, h: float) -> Tensor:
        """(I - h·A)⁻¹·r, of the shape of r: one implicit step."""

    @abc.abstractmethod
    def exponential(self, x: Tensor, h: float) -> Tensor:
        """exp(h·A)·x, of the shape of x."""


class Gradient(nn.Module):
    """A branch that descends a potential, F(x) = -∇φ(x).

    Its Jacobian -∇²φ is symmetric, which the analysis uses; `prox` is what a forward–backward scheme uses.

    Args:
        potential: φ, from `(B, …)` to one number a sample, `(B,)`, or to a scalar.
        prox: `prox(x, h)` = argmin_z φ(z) + ‖z - x‖²/2h, if it is known.

    >>> Gradient(lambda x: 0.5 * (x**2).sum(-1))(torch.tensor([[3.0, 4.0]]))
    tensor([[-3., -4.]])
    """

    def __init__(self, potential: Callable[[Tensor], Tensor], prox: Callable[[Tensor, float], Tensor] | None = None) -> None:
        super().__init__()
        self.potential = potential
        self._prox = prox

    def forward(self, x: Tensor) -> Tensor:
        """-∇φ(x), by automatic differentiation, itself differentiable."""
        if inside_transform():
            return -torch.func.grad(lambda z: self.potential(z).sum())(x)
        # plain autograd elsewhere: torch.func refuses to run where a gradient mode counts or packs what is saved
        with torch.enable_grad():
            z = x if x.requires_grad and torch.is_grad_enabled() else x.detach().requires_grad_()
            total = self.potential(z).sum()
        if not total.requires_grad:
            return torch.zeros_like(x)
        track = torch.is_grad_enabled() and (z is x or _uses_others(total, z))
        (slope,) = torch.autograd.grad(total, z, create_graph=track, allow_unused=True)
        return torch.zeros_like(x) if slope is None else -slope

    def prox(self, x: Tensor, h: float) -> Tensor:
        """The proximal map of h·φ at x.

        Raises:
            InputError: If this branch was made without one.
        """
        if self._prox is None:
            raise InputError("`prox` must be given to take proximal steps, got None; pass it to Gradient(potential, prox)")
        return self._prox(x, h)


class Generator(nn.Module, abc.ABC):
    """A field of the form F(t, x) = A(t, x)·x, e.g. the Kohn–Sham equation with A = -i·H[ρ(x)].

    Attributes:
        skew: Whether A + Aᴴ = 0 always, so that the exact flow keeps the norm.
    """

    skew: bool = False

    @abc.abstractmethod
    def matrix(self, t: float | Tensor, x: Tensor) -> Tensor:
        """A(t, x), `(…, n, n)`, acting on x of shape `(…, n, m)`, or `(…, n)` with one column."""

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """A(t, x)·x."""
        return apply_matrix(self.matrix(t, x), x)


class Autonomous(nn.Module):
    """A branch F(x) as a field f(t, x) that does not look at the time."""

    def __init__(self, branch: Callable[..., Tensor]) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, t: float | Tensor, x: Tensor, *args: Any) -> Tensor:
        """F(x)."""
        return self.branch(x, *args)


def autonomous(branch: Callable[..., Tensor]) -> Autonomous:
    """Turn a branch F(x) into a field f(t, x) = F(x); what the branch knows of itself stays known.

    Args:
        branch: The callable `branch(x, *args)`.

    Returns:
        A module to hand to `solve` or `Flow`.

    >>> autonomous(torch.sin)(0.0, torch.zeros(2))
    tensor([0., 0.])
    """
    return branch if isinstance(branch, Autonomous) else Autonomous(branch)


def apply_matrix(matrix: Tensor, x: Tensor) -> Tensor:
    """A·x for x with columns, `(…, n, m)`, or without, `(…, n)`."""
    if x.ndim >= matrix.ndim and x.ndim >= 2:
        return matrix @ x
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


def _uses_others(total: Tensor, z: Tensor) -> bool:
    """Whether a number was computed from leaves besides z, such as parameters."""
    todo, seen = [total.grad_fn], {total.grad_fn}
    while todo:
        node = todo.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not z:
            return True
        for upstream, _ in node.next_functions if node is not None else ():
            if upstream is not None and upstream not in seen:
                seen.add(upstream)
                todo.append(upstream)
    return False


def _identity(x: Tensor) -> Tensor:
    return x
