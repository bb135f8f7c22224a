"""The Jacobian of a branch at the inputs: its norm and leading eigenvalues, from a few products that share their set-up."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from residyn.analysis.jacobian import Jacobian, _double_reverse
from residyn.analysis.lanczos import golub_kahan
from residyn.audit.blocks import Measured
from residyn.audit.eigen import leading, step_limit
from residyn.audit.replay import Branch
from residyn.errors import InputError

if TYPE_CHECKING:
    from residyn.audit.blocks import Block

_MOST = 40  # products for a norm; what has not settled then is told as not converged
_RITZ = 12


class Local(Jacobian):
    """J = ∂F/∂x of a branch, with the cheaper of two forward products.

    Two reverse passes cost one forward pass once they are set up, a forward derivative two to three, as it computes F anew.
    Convolutions are the exception: the derivative of their backward is slow.
    """

    def __init__(self, branch: Branch, x: Tensor) -> None:
        def kept(x: Tensor) -> Tensor:
            y = branch(x)
            return y if y.dtype == x.dtype else y.to(x.dtype)  # a stream in one precision, branches in another

        super().__init__(kept, x)
        self.__dict__["_forward"] = self._derivative
        if not any("conv" in branch.graph.nodes[i].op for i in branch.steps):
            with contextlib.suppress(InputError, RuntimeError):  # not twice differentiable: forwards, then
                self.__dict__["_forward"] = _double_reverse(kept, self.x, RuntimeError("no second derivative"))

    def _derivative(self, v: Tensor) -> Tensor:
        """J·v by forward mode; a trace of it would cost more than these few products."""
        with torch.no_grad():
            image: Tensor = torch.func.jvp(self.branch, (self.x,), (v,))[1]
        return image

    def moves(self) -> bool:
        """Whether F changes by more than rounding if x does by a hundredth of its size."""
        with torch.no_grad():
            here, there = self.branch(self.x), self.branch(self.x + 0.01 * self.noise())
            sizes = torch.linalg.vector_norm(self.x) + torch.linalg.vector_norm(here)
            return bool(torch.linalg.vector_norm(here - there) > 64 * torch.finfo(self.x.dtype).eps * sizes)

    def noise(self) -> Tensor:
        """Normal numbers of the size of x, the same ones every time."""
        noise = torch.randn(self.x.shape, generator=torch.Generator().manual_seed(0), dtype=self.x.dtype)
        return noise.to(self.x.device) * self.x.abs().mean()

    def rows(self) -> int:
        """How many samples x holds that do not act on each other; 1 if they do.

        Each has a Krylov space of its own in the same products, which together hold that of the whole batch.
        """
        if self.x.ndim < 2 or len(self.x) < 2:
            return 1
        try:
            return 1 if self._coupled() else len(self.x)
        except (RuntimeError, LookupError, ValueError):  # away from x it takes another course: experts that nobody asks for
            return 1

    def _coupled(self) -> bool:
        """Whether F of some sample changes with another: any two differ in some bit of their numbers, which says who moves."""
        places = torch.arange(len(self.x), device=self.x.device)
        with torch.no_grad():
            moved = self.x.roll(1, 0) + 0.1 * self.noise()
            here = self.branch(self.x)
            scale = torch.linalg.vector_norm(here) / len(self.x) ** 0.5
            for bit in range((len(self.x) - 1).bit_length()):
                for side in (0, 1):
                    still = (places >> bit & 1) == side
                    there = self.branch(torch.where(still.reshape(-1, *[1] * (self.x.ndim - 1)), self.x, moved))
                    if not bool(torch.linalg.vector_norm((here - there)[still]) <= 1e-4 * scale):
                        return True
        return False


def measure(block: Block, branch: Branch, x: Tensor, deadline: float | None) -> None:
    """Fill in the norm, the eigenvalues and the step that they allow.

    Args:
        block: The block.
        branch: Its F.
        x: The skip's source.
        deadline: When to stop, by `time.perf_counter`.
    """
    if x.shape != torch.Size(block.shape):
        return  # a projection: F does not keep the shape of its source
    jacobian = Local(branch, x)
    block.jacobian_norm = norm(jacobian, deadline)
    if float(block.jacobian_norm) == 0 and jacobian.moves():
        block.jacobian_norm = None
        raise InputError("the branch changes with its input, but autograd knows no derivative of it: quantised or detached")
    if deadline is None or time.perf_counter() < deadline:
        values = leading(jacobian, _RITZ)
        block.spectrum = tuple(values)
        block.max_step = Measured(step_limit(values), iterations=_RITZ)


def norm(jacobian: Local, deadline: float | None = None, rtol: float = 1e-2) -> Measured:
    """‖J‖₂, the largest over the samples, from below."""
    rows, before = jacobian.rows(), jacobian.products
    start = jacobian.random().reshape(rows, -1)
    start = start / torch.linalg.vector_norm(start, dim=-1, keepdim=True)

    def product(vector: Tensor, *, back: bool) -> Tensor:
        if deadline is not None and time.perf_counter() > deadline + 2.0:
            raise InputError("the budget was spent")
        flat = vector.reshape(-1)
        return (jacobian.adjoint(flat) if back else jacobian.apply(flat)).reshape(rows, -1)

    found = golub_kahan(
        lambda v: product(v, back=False), lambda w: product(w, back=True), start, rtol=rtol, limit=_MOST, keep=_MOST
    )
    return Measured(float(found.value.max()), "lower", jacobian.products - before, found.converged)
