"""What if: sums of blocks changed while a model runs, without touching the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from residyn.audit import operations

Key = tuple[str, int, int]


def skipped(op: str, place: int, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor) -> Tensor:
    """What the skip contributes to a sum, with the factor that the operation gives it.

    Args:
        op: Name of the operation.
        place: Which of its terms is the skip.
        args: Its arguments, as they were before it ran.
        kwargs: More of them.
        out: What it returned.

    Returns:
        The skip's part of `out`.
    """
    first = args[0]
    if op in ("add", "sub", "rsub", "add_relu"):
        second = args[1] if len(args) > 1 else kwargs["other"]
        alpha = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
        factor = {"add": (1, alpha), "add_relu": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[op][place]
        term = (first, second)[place]
        return term if factor == 1 else factor * term
    if op == "lerp":
        weight = args[2] if len(args) > 2 else kwargs["weight"]
        return first * (1 - weight) if place == 0 else args[1] * weight
    if op in ("sum", "mean"):
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        part = first.select(dim[0] if isinstance(dim, (tuple, list)) else dim, place)
        return part / first.shape[dim] if op == "mean" else part
    beta = kwargs.get("beta", 1)
    base = first if beta == 1 else beta * first
    return base if place == 0 else out - base


class Patch:
    """Watches a model's calls and changes what some sums return.

    Args:
        model: The model; counting starts anew each time it is called.
        factors: For the key of each sum, which term is the skip and the factor for all that is added to it.
    """

    def __init__(self, model: nn.Module, factors: Mapping[Key, tuple[int, Any]]) -> None:
        self.model, self.factors = model, factors
        self.paths = {id(m): path for path, m in reversed(list(model.named_modules(remove_duplicate=False)))}
        self.stack: list[list[Any]] = []
        self.counts: dict[str, int] = {}

    def enter(self, module: nn.Module, _: Any) -> None:
        """A module's forward begins."""
        if module is self.model:
            self.stack, self.counts = [], {}
        path = self.paths.get(id(module), "?")
        self.counts[path] = self.counts.get(path, -1) + 1
        self.stack.append([path, self.counts[path], -1])

    def leave(self, *_: Any) -> None:
        """A module's forward ends."""
        if self.stack:
            self.stack.pop()

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation, changed if it is one of the sums."""
        op = operations.name_of(function)
        if op not in operations.COUNTED or not self.stack:
            return function(*args, **kwargs)
        self.stack[-1][2] += 1
        change = self.factors.get((self.stack[-1][0], self.stack[-1][1], self.stack[-1][2]))
        if change is None:
            return function(*args, **kwargs)
        place, factor = change
        before = tuple(a.clone() if isinstance(a, Tensor) else a for a in args[:2]) + args[2:]
        out = function(*args, **kwargs)
        skip = skipped(op, place, before, kwargs, out)
        new = skip if isinstance(factor, (int, float)) and factor == 0 else skip + factor * (out - skip)
        if isinstance(args[0], Tensor) and out is args[0]:  # the sum was made in place, and others hold the tensor
            return out.copy_(new)
        return new.clone() if new is skip else new


class _Functions(TorchFunctionMode):
    def __init__(self, patch: Patch) -> None:
        super().__init__()
        self.patch = patch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.patch.call(func, args, kwargs or {})


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own lack of types
    def __init__(self, patch: Patch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.patch = patch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.patch.call(func, args, kwargs or {})


@contextlib.contextmanager
def patched(model: nn.Module, factors: Mapping[Key, tuple[int, Any]], *, below: bool = False) -> Iterator[nn.Module]:
    """While this lasts, the model runs with some sums changed: skip + factor·(sum - skip).

    Args:
        model: The model.
        factors: As in `Patch`.
        below: Whether the keys were told by the operators below autograd.
    """
    patch = Patch(model, factors)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    hooks: list[Any] = []
    make: Callable[[Patch], Any] = _Operators if below else _Functions
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        hooks.append(register_module_forward_pre_hook(patch.enter))
        hooks.append(register_module_forward_hook(lambda *_: patch.leave(), always_call=True))
        with make(patch):
            yield model
    finally:
        for hook in hooks:
            hook.remove()
        torch.backends.mha.set_fastpath_enabled(fastpath)
