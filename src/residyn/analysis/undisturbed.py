"""Evaluate someone's branch and leave no trace: random state, buffers and backend switches are afterwards as before."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Run branches so that nothing of theirs, or of torch's, is changed when the block ends.

    Every entry finds the random generators as the caller left them, so a branch that draws (dropout) draws the same numbers
    in each product and stays one function. Modules work on copies of their buffers, wherever they are called from (a lambda
    hides its modules from `named_buffers`, a hook on the call does not), so batch statistics do not move. Attention takes
    the path of plain products: the fused kernels have no forward-mode derivative and no second one.

    Args:
        device: Where the branch runs; its generator is put back besides the CPU's.
    """
    devices = [device] if device.type == "cuda" else []
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with (
        torch.inference_mode(False),
        torch.random.fork_rng(devices=devices, device_type="cuda"),
        sdpa_kernel(SDPBackend.MATH),
        _copied_buffers(),
        warnings.catch_warnings(),
    ):
        # `linearize` folds constants through torch.fx, which warns about its own way of naming them; the first forward-mode
        # derivative compiles decompositions with torch.jit.script, which torch itself deprecates.
        warnings.filterwarnings("ignore", message="Attempted to insert a get_attr Node", category=UserWarning)
        warnings.filterwarnings("ignore", message="`torch.jit.script", category=DeprecationWarning)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)


@contextlib.contextmanager
def _copied_buffers() -> Iterator[None]:
    """Give each module that is called in this thread copies of its buffers, and the originals back at the end."""
    here = threading.get_ident()
    originals: dict[nn.Module, dict[str, Tensor | None]] = {}

    def before(module: nn.Module, _: Any) -> None:
        # A scripted module keeps its buffers out of Python's reach; it has no dict to swap.
        if threading.get_ident() == here and module not in originals and isinstance(module._buffers, dict):
            originals[module] = dict(module._buffers)
            for name, buffer in originals[module].items():
                if buffer is not None:
                    module._buffers[name] = buffer.detach().clone()

    handle = register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
        for module, buffers in originals.items():
            module._buffers.clear()
            module._buffers.update(buffers)
