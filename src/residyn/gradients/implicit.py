"""The gradient of a solution of x = g(x), from the solution alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from residyn.errors import ResidynWarning, SolveError
from residyn.results import Outcome
from residyn.roots.anderson import Anderson
from residyn.roots.base import Map, Root, RootFinder
from residyn.roots.differentiate import Pullback, implicit_gradient
from residyn.schemes.linearised import Transformed, differentiable_root, linear_solver
from residyn.state import inside_transform


@dataclass(frozen=True)
class Implicit:
    """The implicit function theorem: with x = g(x, θ), the gradient w at x gives (∂g/∂θ)ᵀ·u where u = w + (∂g/∂x)ᵀ·u.

    The linear equation for u is itself a fixed point and is solved by a root finder (`Newton()` solves it directly); no iterate
    of the forward solve is kept. The gradient is that of the exact solution, to the tolerances of both solves.

    Args:
        root: Solves the backward equation; its tolerance bounds the relative residual of u.

    Reference:
        Bai, Kolter & Koltun (2019), "Deep Equilibrium Models", arXiv:1909.01377.

    >>> Implicit().root.tol
    1e-06
    """

    root: RootFinder = Anderson(tol=1e-6, max_iterations=200)

    def attach(
        self,
        g: Map,
        x: Tensor,
        report: Callable[[Root], Any] | None = None,
        *,
        local: Map | None = None,
        throw: bool = False,
    ) -> Tensor:
        """Give a solution found without autograd its gradient.

        Args:
            g: The map; called once with autograd on, and once more when a gradient comes back.
            x: The solution, x = g(x), detached.
            report: Called with the backward solve, once the gradient has come back.
            local: g with all that does not depend on x cut from its history; g itself if not given.
            throw: Whether to raise where the backward solve does not converge; otherwise it is a warning.

        Returns:
            x, whose gradient is that of the exact solution.

        Raises:
            SolveError: When the gradient comes back, if the backward solve does not converge and `throw` is set.
        """

        if inside_transform():
            return differentiable_root(
                lambda v: g(v) - v, lambda v: linear_solver(Transformed(lambda _, w: g(w), 0.0, v), 1.0), x.detach()
            )

        def solve(image: Tensor, leaf: Tensor, pullback: Pullback, w: Tensor) -> Tensor:
            found = self.root.solve_adjoint(image, leaf, pullback, w)
            if report is not None:
                report(found)
            if not found:
                _complain(found, self.root.tol, throw)
            return found.x

        gx = implicit_gradient(g, x, solve, local)
        # the value stays that whose residual was measured: one more g would move it, and by more than tol where g expands
        return x + (gx - gx.detach()) if gx.requires_grad else x


def _complain(found: Root, tol: float, throw: bool) -> None:
    sample, residual = found.worst
    outcome = Outcome(
        "root_failed",
        f"the backward solve of the equilibrium stopped at relative residual {residual:.2e} on sample {sample} after "
        f"{found.iterations} iterations, tolerance {tol:.0e} ({found.reason}); the gradient is no better than that",
        "give Implicit(root=...) more iterations, a larger tol, or another root finder: Newton() solves this equation directly",
        sample=sample,
    )
    if throw:
        raise SolveError(outcome)
    warnings.warn(str(outcome), ResidynWarning, stacklevel=2)
