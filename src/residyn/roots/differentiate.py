"""The one implicit-differentiation rule that implicit stages and equilibria share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError

Pullback = Callable[[Tensor], Tensor]
"""u → (∂g/∂x)ᴴ·u at the solution."""


def implicit_gradient(
    g: Callable[[Tensor], Tensor],
    x: Tensor,
    solve: Callable[[Tensor, Tensor, Pullback, Tensor], Tensor],
    local: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Give a solution of x = g(x, θ), found without autograd, the gradient of the exact solution.

    With w the gradient at x, the gradient at θ is (∂g/∂θ)ᴴ·u where u = w + (∂g/∂x)ᴴ·u.

    Args:
        g: The map; called once with autograd on, and once more when a gradient comes back.
        x: The solution.
        local: g with all that does not depend on x cut from its history, so that products with ∂g/∂x do not walk it; g itself
            if not given.
        solve: `solve(image, leaf, pullback, w)` → u, from the graph of image = g(leaf) or from products with it.

    Returns:
        g(x).
    """
    with torch.enable_grad():
        result = g(x.detach())
    if not result.requires_grad:
        return result

    def hook(w: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            image = (local or g)(leaf)

        def pullback(u: Tensor) -> Tensor:
            (pulled,) = torch.autograd.grad(image, leaf, u, retain_graph=True, allow_unused=True)
            return torch.zeros_like(u) if pulled is None else pulled

        return solve(image, leaf, pullback, w)

    hooked: Tensor = _Hooked.apply(result, hook)  # type: ignore[no-untyped-call]
    return hooked


class _Hooked(torch.autograd.Function):
    """Identity forward; on the way back the gradient passes through a function that may walk the graph behind it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.hook = hook
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        with torch.no_grad():
            found = ctx.hook(grad)
        words = "got the implicit gradient of a solved equation; use an explicit scheme or Rodas5P() with gradient=Backprop()"
        return only_once(found, (grad, *ctx.saved_tensors), words), None


def only_once(item: Tensor, origin: tuple[Tensor, ...], words: str) -> Tensor:
    """A gradient that was found outside autograd; where its own gradient is asked for, an error and not a wrong number.

    Args:
        item: The gradient.
        origin: The tensors it was computed from.
        words: What was got, and what to use.
    """
    if not torch.is_grad_enabled():
        return item
    marked: Tensor = _OnlyOnce.apply(words, item, *origin)  # type: ignore[no-untyped-call]
    return marked


class _OnlyOnce(torch.autograd.Function):
    """Identity, with the error that a second differentiation deserves."""

    @staticmethod
    def forward(ctx: Any, words: str, x: Tensor, *origin: Tensor) -> Tensor:
        ctx.words = words
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise InputError(f"`gradient` must be one that can be differentiated twice, {ctx.words}")
