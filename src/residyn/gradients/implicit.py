"""The gradient of a solution of x = g(x), from the solution alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from residyn.errors import ResidynWarning
from residyn.roots.base import Root, RootFinder
from residyn.roots.fixed_point import Anderson


@dataclass(frozen=True)
class Implicit:
    """The implicit function theorem: with x = g(x, θ), the gradient w at x gives (∂g/∂θ)ᵀ·u where u = w + (∂g/∂x)ᵀ·u.

    The linear equation for u is itself a fixed point and is solved by a root finder; no iterate of the forward solve is kept.

    Args:
        root: Solves the backward equation; its tolerance bounds the relative residual of u.

    Reference:
        Bai, Kolter & Koltun (2019), "Deep Equilibrium Models", arXiv:1909.01377.

    >>> Implicit().root.tol
    1e-06
    """

    root: RootFinder = Anderson(tol=1e-6, max_iterations=200)

    def attach(self, g: Callable[[Tensor], Tensor], x: Tensor, report: Callable[[Root], Any] | None = None) -> Tensor:
        """Give a solution found without autograd its gradient.

        Args:
            g: The map, called once with autograd on.
            x: The solution, x = g(x), detached.
            report: Called with the backward solve, once the gradient has come back.

        Returns:
            g(x), whose gradient is that of the exact solution.
        """
        start = x.detach().requires_grad_()
        gx = g(start)
        if not gx.requires_grad:
            return gx

        def hook(w: Tensor) -> Tensor:
            def backward(u: Tensor) -> Tensor:
                (pulled,) = torch.autograd.grad(gx, start, u, retain_graph=True, allow_unused=True)
                return w if pulled is None else w + pulled

            found = self.root.solve(backward, w)
            if report is not None:
                report(found)
            if not bool(found.converged.all()):
                worst = float(found.residual.max())
                warnings.warn(
                    f"the backward solve of the equilibrium stopped at residual {worst:.2e} after {found.iterations} "
                    f"iterations, tolerance {self.root.tol:.0e}: the gradient is that accurate; give Implicit(root=...) more "
                    "iterations",
                    ResidynWarning,
                    stacklevel=2,
                )
            return found.x

        result: Tensor = _Hooked.apply(gx, hook)  # type: ignore[no-untyped-call]
        return result


class _Hooked(torch.autograd.Function):
    """Identity forward; `hook` on the gradient, with autograd's graph of g free to be walked."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.hook = hook
        return x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.hook(grad), None
