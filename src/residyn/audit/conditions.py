"""Running someone's model without leaving a trace: evaluation mode, a seed, no cache, and all as before at the end."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import random
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_KEPT = ("_parameters", "_buffers", "_modules")


@contextlib.contextmanager
def untouched(
    model: nn.Module, seed: int = 0, *, gradients: bool = True, flags: bool = True, written: Sequence[Tensor] = ()
) -> Iterator[None]:
    """Arrange a model for measuring, and put everything back: mode, buffers, attributes, flags, configuration, random states.

    Modules are in evaluation mode, work on copies of their buffers, and keep no cache of keys and values; parameters require
    gradients (their `.grad` is not touched); attention takes the path of plain products; compiled parts run as written.

    Args:
        model: The model.
        seed: Seed of the random generators inside.
        gradients: Whether a graph is recorded.
        flags: Whether all parameters are to require gradients.
        written: Parameters that its forward is known to write into.
    """
    contents = [(p, p.detach().clone()) for p in written]
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [p.data.copy_(content) for p, content in contents])
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        stack.enter_context(_generators())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_plain_path())
        stack.enter_context(_modules(model, flags))
        stack.enter_context(_settings(model))
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - a model that draws from the global generator
        random.seed(seed)
        yield


@contextlib.contextmanager
def _generators() -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@contextlib.contextmanager
def _plain_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # Without torch._dynamo nothing can be compiled, and its import alone takes seconds.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
    try:
        with eager:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _modules(model: nn.Module, ask: bool) -> Iterator[None]:
    """Modes, buffers, plain attributes and gradient flags of all modules."""
    modules = list(model.modules())
    flags = [(p, p.requires_grad) for p in model.parameters()]
    modes = [(m, m.training) for m in modules]
    # a scripted module keeps its tables out of Python's reach
    plain = [m for m in modules if isinstance(m.__dict__.get("_buffers"), dict)]
    hidden = [b for m in modules if not isinstance(m.__dict__.get("_buffers"), dict) for b in m.buffers(recurse=False)]
    saved = [_Saved(m) for m in plain]
    contents = [(b, b.detach().clone()) for b in hidden]
    copies: dict[int, Tensor] = {}
    try:
        for m in plain:
            for name, buffer in m._buffers.items():
                if buffer is not None:
                    m._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
        for m in modules:
            m.training = False
        for p, _ in flags:
            if ask and (p.is_floating_point() or p.is_complex()):
                p.requires_grad_(True)
        yield
    finally:
        for one in saved:
            one.restore()
        for buffer, content in contents:
            buffer.data.copy_(content)
        for m, mode in modes:
            m.training = mode
        for p, flag in flags:
            p.requires_grad_(flag)


class _Saved:
    """The attributes and tables of a module, to be put back."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes = {k: v for k, v in module.__dict__.items() if k not in _KEPT}
        self.tables = {table: dict(module.__dict__[table]) for table in _KEPT}
        self.contents = [(v, v.copy()) for v in self.attributes.values() if type(v) in (dict, list, set)]

    def restore(self) -> None:
        """Put them back, and take away what came in between."""
        for container, content in self.contents:  # a cache that is filled while the model runs
            container.clear()
            container.extend(content) if type(container) is list else container.update(content)
        now = self.module.__dict__
        for name in set(now) - set(self.attributes) - set(_KEPT):
            del now[name]
        now.update(self.attributes)
        for table, entries in self.tables.items():
            now[table].clear()
            now[table].update(entries)


@contextlib.contextmanager
def _settings(model: nn.Module) -> Iterator[None]:
    """Switch `use_cache` off in every configuration object that has it."""
    found = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None and hasattr(c, "use_cache")}
    before = [(c, c.use_cache) for c in found.values()]
    try:
        for c, _ in before:
            c.use_cache = False
        yield
    finally:
        for c, value in before:
            c.use_cache = value


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tree of tuples, lists, mappings and dataclasses with its tensors changed; other things stay what they are.

    >>> mapped({"a": (torch.tensor(1), "b")}, lambda t: t + 1)
    {'a': (tensor(2), 'b')}
    """
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(item, change) for item in tree))
    if isinstance(tree, (tuple, list)) and type(tree) in (tuple, list):
        return type(tree)(mapped(item, change) for item in tree)
    if isinstance(tree, Mapping) and type(tree) is dict:
        return {key: mapped(item, change) for key, item in tree.items()}
    if isinstance(tree, MutableMapping):  # a class of the user's, or a tokenizer's batch: its own kind of copy
        batch = copy.copy(tree)
        for key, item in tree.items():
            batch[key] = mapped(item, change)
        return batch
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        made = copy.copy(tree)
        for part in dataclasses.fields(tree):
            object.__setattr__(made, part.name, mapped(getattr(tree, part.name), change))  # frozen ones too
        return made
    return tree
