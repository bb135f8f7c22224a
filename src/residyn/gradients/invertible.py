"""A chain of blocks that can be taken back: nothing is kept on the way, each input is found again from the output."""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError, ResidynWarning
from residyn.gradients.dependence import leaves_of
from residyn.roots.differentiate import only_once

REFUSE = 0.1
"""Relative error of what was found again from which on a gradient from it means nothing."""


class InvertibleBlock(nn.Module, abc.ABC):
    """A block that knows its inverse: what `Stack(blocks, gradient=Reversible())` asks of each of its blocks.

    Both directions are functions of their argument and of the block's own parameters: no dropout, no running statistics.
    """

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The output y, of the shape of x."""

    @abc.abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """The x of which `forward(x)` is y."""


def chained(blocks: Sequence[InvertibleBlock], x: Tensor, tol: float) -> Tensor:
    """The output of the last block, whose gradient comes back through inverses.

    Args:
        blocks: The blocks.
        x: The input of the first.
        tol: Relative error of the input found again, from which on to warn.

    Returns:
        The output.

    Raises:
        InputError: If a block draws random numbers.
    """
    parts = [[p for p in block.parameters() if p.requires_grad] for block in blocks]
    flat = [p for part in parts for p in part]
    y: Tensor = _Chain.apply(x, list(blocks), tol, [len(part) for part in parts], *flat)  # type: ignore[no-untyped-call]
    return y


class _Chain(torch.autograd.Function):
    """All blocks as one node."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, blocks: list[InvertibleBlock], tol: float, counts: list[int], *parameters: Tensor
    ) -> Tensor:
        before = torch.get_rng_state()
        y = x
        for block in blocks:
            y = block(y)
        if not torch.equal(before, torch.get_rng_state()):
            raise InputError(
                "`blocks` must draw no random numbers with Reversible(), got one that does; a block that is another one each "
                "time has no way back: put dropout behind the stack, or use Checkpoint()"
            )
        ctx.blocks, ctx.tol, ctx.counts = blocks, tol, counts
        ctx.save_for_backward(x, y, *parameters)
        return y if y is not x else y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, y, *parameters = ctx.saved_tensors
        flow: Tensor | None = gradients[0]
        found: list[Tensor | None] = [None] * len(parameters)
        end = len(parameters)
        with torch.no_grad():
            for k in range(len(ctx.blocks) - 1, -1, -1):
                begin = end - ctx.counts[k]
                y = ctx.blocks[k].inverse(y)
                flow, found[begin:end] = _pulled(ctx.blocks[k], k, y, parameters[begin:end], flow)
                end = begin
            _compare(y, x, ctx.tol, len(ctx.blocks))
        words = "got Reversible(), whose graph is gone; use gradient=Backprop() or Checkpoint()"
        once = [None if item is None else only_once(item, (gradients[0], x), words) for item in (flow, *found)]
        return once[0], None, None, None, *once[1:]


def _pulled(
    block: InvertibleBlock, k: int, x: Tensor, parameters: list[Tensor], flow: Tensor | None
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradient at a block's input and parameters, of that at its output."""
    if flow is None:  # a later block forgot its input
        return None, [None] * len(parameters)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        out = block(leaf)
        if not out.requires_grad:
            return None, [None] * len(parameters)
        known = {id(tensor) for tensor in (leaf, *parameters)}
        strange = [tensor for tensor in leaves_of(out) if id(tensor) not in known]
        if strange:
            raise InputError(
                "`blocks` must use no tensor that wants a gradient besides their input and parameters with Reversible(), got "
                f"one of shape {tuple(strange[0].shape)} in no. {k}; register it as a parameter, or use Checkpoint()"
            )
        pulled = torch.autograd.grad(out, [leaf, *parameters], flow, allow_unused=True)
    return pulled[0], list(pulled[1:])


def _compare(found: Tensor, there: Tensor, tol: float, count: int) -> None:
    error = float(torch.linalg.vector_norm(found - there) / (torch.linalg.vector_norm(there) + 1e-300))
    if math.isfinite(error) and error <= tol:
        return
    told = f"taken back over {count} blocks, the state came to {error:.1e} from the input (relative; tolerance {tol:.0e})"
    fix = "use Checkpoint(), smaller steps, or double precision"
    if not error <= REFUSE:
        raise InputError(f"`blocks` must have inverses that find their inputs again: {told}; {fix}")
    warnings.warn(f"{told}: the gradient is about that accurate; {fix}", ResidynWarning, stacklevel=2)
