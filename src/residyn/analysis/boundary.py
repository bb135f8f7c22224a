"""What an analysis accepts: a branch F(x), and a state at which it can be differentiated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from residyn.branch import Autonomous, Generator
from residyn.errors import InputError
from residyn.state import held
from residyn.step import Residual, Stack

Branch = Callable[[Tensor], Tensor]


def as_branch(branch: Branch) -> Branch:
    """The branch in what was handed in: fields that do not look at the time are unwrapped, whole blocks refused."""
    while isinstance(branch, Autonomous):
        branch = branch.branch
    if isinstance(branch, (Residual, Stack)):
        raise InputError(
            f"`branch` must be F, not the block x + h·F(x), got {type(branch).__name__}; hand in its `.branch`, or "
            "`lambda x: block(x) - x` for what it adds"
        )
    if isinstance(branch, Generator):
        raise InputError(
            f"`branch` must be F(x), got the field {type(branch).__name__}(t, x); hand in `lambda x: field(t, x)` for one t"
        )
    if not callable(branch):
        raise InputError(f"`branch` must be callable, F(x), got {type(branch).__name__}; hand in a function or module")
    return branch


def as_state(x: Tensor) -> Tensor:
    """A copy of x to differentiate at, once it is known to be a finite tensor of numbers that have derivatives."""
    if not isinstance(x, Tensor):
        raise InputError(f"`x` must be a tensor, got {type(x).__name__}; did `branch` and `x` change places?")
    if not (x.is_floating_point() or x.is_complex()):
        raise InputError(f"`x` must be floating point or complex, got {x.dtype}; convert it with x.float()")
    if x.numel() == 0:
        raise InputError(f"`x` must have at least one component, got shape {tuple(x.shape)}; hand in a state")
    if not bool(torch.isfinite(held(x, "x")).all()):
        raise InputError("`x` must be finite, got nan or inf; hand in a state that the branch sees in use")
    with torch.inference_mode(False):
        return x.detach().clone()
