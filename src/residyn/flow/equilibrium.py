"""A layer without depth: where repeating a map would end."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError, ResidynWarning, SolveError
from residyn.gradients.implicit import Implicit
from residyn.results import Outcome
from residyn.roots.anderson import Anderson
from residyn.roots.base import Root, RootFinder
from residyn.state import held, inside_transform, ordinary


class Equilibrium(nn.Module):
    """A layer without depth: x = f(x, u), found by a root finder, with the exact implicit gradient.

    Args:
        f: The map f(x, u) from a state `(B, …)` and the input to a state of the same shape.
        root: The root finder.
        gradient: The implicit gradient, with its own root finder for the backward equation.
        throw: Whether to raise where the solve, forward or backward, does not converge; otherwise it is a warning.

    Attributes:
        forward_root: The last forward solve: residuals, iterations, convergence a sample, and the reason if it failed.
        backward_root: The backward solve that belongs to it, once a gradient has come back.

    Raises:
        SolveError: On use, if the root finder does not converge and `throw` is set.

    Reference:
        Bai, Kolter & Koltun (2019), "Deep Equilibrium Models", arXiv:1909.01377.

    >>> layer = Equilibrium(lambda x, u: 0.5 * torch.tanh(x) + u)
    >>> x = layer(torch.ones(1, 1))
    >>> bool((x - 0.5 * torch.tanh(x) - 1).abs() < 1e-4)
    True
    """

    forward_root: Root | None
    backward_root: Root | None

    def __init__(
        self,
        f: Callable[[Tensor, Any], Tensor],
        *,
        root: RootFinder | None = None,
        gradient: Implicit | None = None,
        throw: bool = True,
    ) -> None:
        super().__init__()
        self.f = f
        self.root = root or Anderson()
        self.gradient = gradient or Implicit()
        self.throw = throw
        self.forward_root = self.backward_root = None

    def forward(self, u: Any, x0: Tensor | None = None) -> Tensor:
        """x with x = f(x, u).

        Args:
            u: The input: whatever f takes, a tensor or a tuple, list or dict of them; all get gradients.
            x0: The guess, `(B, …)`; zeros of the shape of u if not given. A solution for a similar input is a warm start. It
                takes no part in the gradient: the solution does not depend on it.

        Raises:
            InputError: If x0 is missing where u is no tensor, or f does not return its shape.
            SolveError: If the root finder does not converge and `throw` is set.
        """
        if torch.is_inference_mode_enabled():  # which has none of the derivatives that Newton's method asks for
            with torch.inference_mode(False), torch.no_grad():
                return self.forward(ordinary(u), ordinary(x0))
        if x0 is None:
            if not isinstance(u, Tensor):
                raise InputError(f"`x0` must be given where u is no tensor, got u of type {type(u).__name__}")
            x0 = torch.zeros_like(held(u, "u"))
        if torch._C._functorch.is_batchedtensor(held(x0, "x0")):
            raise InputError(
                "`u` must be a batch (B, …) whose samples the root finder can look at, got the lanes of vmap; "
                "hand the whole batch to the layer, without vmap"
            )
        cut = _detached(u)
        # what f has captured may carry derivatives that the iterates must not
        found = self.root.solve(lambda x: self.f(x, cut).detach() if inside_transform() else self.f(x, cut), x0)
        self.forward_root = found
        self.backward_root = None
        if not found:
            self._complain(found)
        if not torch.is_grad_enabled():
            return found.x
        return self.gradient.attach(
            lambda x: self.f(x, u), found.x, self._remember, local=lambda x: self.f(x, cut), throw=self.throw
        )

    def _remember(self, root: Root) -> None:
        self.backward_root = root

    def _complain(self, found: Root) -> None:
        sample, residual = found.worst
        outcome = Outcome(
            "root_failed",
            f"the equilibrium was not reached: relative residual {residual:.2e} on sample {sample} after "
            f"{found.iterations} iterations, tolerance {self.root.tol:.0e} ({found.reason})",
            "raise max_iterations, use Broyden() or Newton() of residyn.roots, or make f a contraction (spectral norm below 1)",
            sample=sample,
        )
        if self.throw:
            raise SolveError(outcome)
        warnings.warn(str(outcome), ResidynWarning, stacklevel=3)


def _detached(u: Any) -> Any:
    """An input without its history; what is no tensor stays."""
    if isinstance(u, Tensor):
        return u.detach()
    if isinstance(u, dict):
        return {key: _detached(item) for key, item in u.items()}
    if isinstance(u, (tuple, list)):
        items = [_detached(item) for item in u]
        return type(u)(*items) if hasattr(u, "_fields") else type(u)(items)
    return u
