"""The Jacobian of a branch as an operator: products with it and with its transpose, never the matrix unless asked."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from residyn.analysis.boundary import Branch, as_branch, as_state
from residyn.analysis.undisturbed import undisturbed
from residyn.branch import Gradient, Linear
from residyn.errors import InputError

# Forward-mode products before the derivative is traced once and replayed. On convolutional blocks a trace costs 20 to 130
# forward passes and then saves one or two a product, so the few products of a norm are cheaper without it.
_EAGER = 16


class Jacobian:
    """J = ∂F/∂x at x as an operator on flat real vectors; a complex state counts as its real and imaginary parts.

    The whole of x is one vector: for a batch `(B, …)` of independent samples J is block diagonal. In the real representation
    a complex-linear map has the norm of its complex matrix, and its transpose is the conjugate transpose.

    Args:
        branch: F, which keeps shape and dtype. A `Linear` branch is asked for its own products, a `Gradient` for one kind
            only, as its Jacobian is symmetric.
        x: Where; any shape, floating point or complex.

    Attributes:
        size: Number of real components of x.
        products: Products with J or Jᵀ made so far.
        symmetric: Whether J = Jᵀ is known from the type of the branch.

    Raises:
        InputError: If `branch` is a whole block or a field, or changes the form of x, or x or F(x) is not finite.

    >>> Jacobian(torch.sin, torch.zeros(2)).apply(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """

    def __init__(self, branch: Branch, x: Tensor) -> None:
        self.branch = as_branch(branch)
        self.x = as_state(x)
        self.size = self.x.numel() * (2 if self.x.is_complex() else 1)
        self.products = 0
        self.symmetric = isinstance(self.branch, Gradient)
        self._value()

    @property
    def dtype(self) -> torch.dtype:
        """Real dtype of the flat vectors: that of x, but at least single precision."""
        return torch.promote_types(self.x.dtype.to_real(), torch.float32)

    @property
    def eps(self) -> float:
        """Relative rounding error of one operation on x."""
        return torch.finfo(self.x.dtype).eps

    def random(self, seed: int = 0) -> Tensor:
        """A unit vector, `(size,)`, the same for the same size whatever the caller's generators have drawn."""
        generator = torch.Generator().manual_seed(seed)
        vector = torch.randn(self.size, generator=generator, dtype=torch.float64).to(self.x.device, self.dtype)
        unit: Tensor = vector / torch.linalg.vector_norm(vector)
        return unit

    def apply(self, vector: Tensor) -> Tensor:
        """J·v for a flat real v, `(size,)`."""
        return self.adjoint(vector) if self.symmetric else self._product(self._forward, vector, "J·v")

    def adjoint(self, vector: Tensor) -> Tensor:
        """Jᵀ·w for a flat real w, `(size,)`."""
        return self._product(self._backward, vector, "Jᵀ·w")

    def dense(self) -> Tensor:
        """The matrix, `(size, size)`, by as many products; complex and half as large if the map is complex linear."""
        stride = 2 if self.holomorphic else 1
        columns = []
        for j in range(0, self.size, stride):
            unit = torch.zeros(self.size, dtype=self.dtype, device=self.x.device)
            unit[j] = 1.0
            columns.append(self.apply(unit))
        matrix = torch.stack(columns)
        if self.holomorphic:
            matrix = torch.view_as_complex(matrix.reshape(len(columns), -1, 2).contiguous())
        return matrix.T

    @functools.cached_property
    def holomorphic(self) -> bool:
        """Whether x is complex and J is linear over the complex numbers, J·(i·v) = i·J·v."""
        if not self.x.is_complex() or isinstance(self.branch, Linear):
            return self.x.is_complex()
        v = self.random(1)
        turned, image = self.apply(self.turn(v)), self.turn(self.apply(v))
        # A random v shows any conjugate part at its full size, up to a factor ~1; rounding is below 1e3 operations deep.
        return bool((turned - image).norm() <= 1e3 * self.eps * (turned.norm() + image.norm()))

    def turn(self, vector: Tensor) -> Tensor:
        """i·v in the real representation."""
        parts = vector.reshape(-1, 2)
        return torch.stack([-parts[:, 1], parts[:, 0]], dim=-1).reshape(-1)

    @functools.cached_property
    def _forward(self) -> Branch:
        return self.branch.matvec if isinstance(self.branch, Linear) else _Forward(self.branch, self.x)

    @functools.cached_property
    def _backward(self) -> Branch:
        if isinstance(self.branch, Linear):
            return self.branch.adjoint
        with undisturbed(self.x.device):
            return _Backward(self.branch, self.x)

    def _product(self, operator: Branch, vector: Tensor, name: str) -> Tensor:
        self.products += 1
        if self.x.is_complex():
            shaped = torch.view_as_complex(vector.reshape(*self.x.shape, 2).contiguous())
        else:
            shaped = vector.reshape(self.x.shape)
        with undisturbed(self.x.device):
            image = operator(shaped.to(self.x.dtype)).detach()
        flat = (torch.view_as_real(image.resolve_conj()) if image.is_complex() else image).reshape(-1).to(self.dtype)
        if not bool(torch.isfinite(flat).all()):
            raise InputError(
                f"`branch` must have a finite derivative at x, got nan or inf in {name}; look for a square root, norm or "
                "logarithm at 0, or for overflow"
            )
        return flat

    def _value(self) -> None:
        """Call F once and check what it returns."""
        with undisturbed(self.x.device), torch.no_grad():
            y = self.branch(self.x)
        if not isinstance(y, Tensor):
            raise InputError(f"`branch` must return one tensor, got {type(y).__name__}; select the tensor in a lambda")
        if y.shape != self.x.shape:
            raise InputError(
                f"`branch` must keep the shape of x, {tuple(self.x.shape)}, got {tuple(y.shape)}; "
                "project x to the new shape before the step"
            )
        if y.dtype != self.x.dtype:
            raise InputError(f"`branch` must keep the dtype of x, {self.x.dtype}, got {y.dtype}; convert x or the branch")
        if not bool(torch.isfinite(y).all()):
            raise InputError("`branch` must be finite at x, got nan or inf; look at its parameters and at the range of x")


class _Forward:
    """v → J·v by forward mode, after `_EAGER` products by a trace.

    Where an operation of F has no forward derivative, two reverse passes do it.
    """

    def __init__(self, branch: Branch, x: Tensor) -> None:
        self.branch, self.x = branch, x
        self.count = 0
        self.replay: Branch | None = None

    def __call__(self, v: Tensor) -> Tensor:
        self.count += 1
        if self.replay is not None:
            with torch.no_grad():
                return self.replay(v)
        try:
            with torch.no_grad():
                image: Tensor = torch.func.jvp(self.branch, (self.x,), (v,))[1]
        except RuntimeError as error:
            self.replay = _double_reverse(self.branch, self.x, error)
            return self.replay(v)
        if self.count == _EAGER:
            self.replay = self._trace(v, image)
        return image

    def _trace(self, v: Tensor, image: Tensor) -> Branch | None:
        """The traced derivative, if there is one and it gives what the plain way gave."""
        try:
            with torch.no_grad():
                replay: Branch = torch.func.linearize(self.branch, self.x)[1]
                replay(v)
                again = replay(v)
        except RuntimeError:  # control flow that looks at values
            return None
        # Where F writes in place (torch 2.13: GRU) each run of the trace spoils its constants, without a word, for the next.
        close = torch.linalg.vector_norm(again - image) <= eps_root(self.x) * torch.linalg.vector_norm(image)
        return replay if bool(close) else None


class _Backward:
    """w → Jᵀ·w by reverse mode, through one recorded evaluation of F."""

    def __init__(self, branch: Branch, x: Tensor) -> None:
        with torch.enable_grad():
            self.x = x.clone().requires_grad_()
            self.y = branch(self.x)
        if not self.y.requires_grad:
            _refuse_if_varying(branch, x)

    def __call__(self, w: Tensor) -> Tensor:
        if not self.y.requires_grad:
            return torch.zeros_like(w)
        (gradient,) = torch.autograd.grad(self.y, self.x, w, retain_graph=True, allow_unused=True)
        return torch.zeros_like(w) if gradient is None else gradient


def _double_reverse(branch: Branch, x: Tensor, cause: RuntimeError) -> Branch:
    """v → J·v as the derivative of w → Jᵀ·w, which is linear: two reverse passes, for what has no forward derivative."""
    reverse = _Backward(branch, x)
    if not reverse.y.requires_grad:
        return torch.zeros_like
    error: RuntimeError | None = cause
    try:
        with torch.enable_grad():
            w = torch.zeros_like(reverse.y, requires_grad=True)
            (g,) = torch.autograd.grad(reverse.y, reverse.x, w, create_graph=True, allow_unused=True)
        if g is None:
            return torch.zeros_like

        def product(v: Tensor) -> Tensor:
            (image,) = torch.autograd.grad(g, w, v, retain_graph=True)
            return image

        # A backward that cannot be differentiated fails here, or drops out without a word; <w, J·v> = <Jᵀ·w, v> shows both.
        v = torch.linspace(1.0, 2.0, x.numel(), dtype=x.dtype.to_real(), device=x.device).reshape(x.shape).to(x.dtype)
        forward, back = product(v), reverse(v)
        scale = torch.linalg.vector_norm(v) * (torch.linalg.vector_norm(forward) + torch.linalg.vector_norm(back))
        if bool(((forward - back).conj() * v).sum().real.abs() <= eps_root(x) * scale):
            return product
    except RuntimeError as second:
        error = second
    raise InputError(
        f"`branch` must be differentiable forwards, or twice backwards, got: {str(cause).splitlines()[0]}; give its "
        "autograd.Function a `jvp`, or a backward made of differentiable operations"
    ) from error


def eps_root(x: Tensor) -> float:
    """√eps of the dtype of x: above any rounding, below any mistake."""
    return float(torch.finfo(x.dtype).eps ** 0.5)


def _refuse_if_varying(branch: Branch, x: Tensor) -> None:
    """A constant F rightly has no gradient; one that varies and has none hides its derivative."""
    with torch.no_grad():
        if not torch.equal(branch(x), branch(x + 0.01 * (1 + x.abs()))):
            raise InputError(
                "`branch` must be differentiable in x, got a value without gradient; look for detach(), .data, NumPy, or "
                "parameters made in inference mode"
            )
