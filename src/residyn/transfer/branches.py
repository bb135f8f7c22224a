"""The branch of an adapter: a few tensors that are the module's own, and what is computed with them.

They are parameters of the module they stand at, and no child of it, so that a module which runs its children one after the
other is not changed by them; they are trained, moved, copied and saved with the model.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as f
from torch import Tensor, nn

from residyn.audit.gains import bottleneck
from residyn.transfer.sites import CONVOLUTIONS, Kind, Site

PREFIX = "residyn_"


def key(adapter: str, site: Site, part: str) -> str:
    """The name of a tensor of a branch among the parameters of its module.

    >>> key("task", Site("body", 0, 8, -1), "up")
    'residyn_task_0_up'
    """
    return f"{PREFIX}{adapter}_{'in' if site.inputs else site.place}_{part}"


def entry(site: Site, part: str) -> str:
    """The name of a tensor of a branch in a file.

    >>> entry(Site("body", 0, 8, -1), "up")
    'body|0|up'
    """
    return f"{site.module}|{'in' if site.inputs else site.place}|{part}"


def shapes(module: nn.Module, site: Site, kind: Kind, rank: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a branch: `down` (r, n), `up` (m, r), their biases if it is a bottleneck, and the gate s.

    Args:
        module: The module at the site.
        site: The site.
        kind: `"bottleneck"` or `"low_rank"`.
        rank: r.
    """
    entering = site.inputs or site.channels
    window = tuple(module.kernel_size) if site.inputs and isinstance(module, CONVOLUTIONS) else ()
    made: dict[str, tuple[int, ...]] = {"down": (rank, entering, *window), "up": (site.channels, rank)}
    if kind == "bottleneck":
        made |= {"downbias": (rank,), "upbias": (site.channels,)}
    return made | {"gate": ()}


def tensors(module: nn.Module, adapter: str, site: Site) -> dict[str, Tensor]:
    """The tensors of a branch, by part."""
    start = key(adapter, site, "")
    return {name.removeprefix(start): p for name, p in module._parameters.items() if name.startswith(start) and p is not None}


def linear(module: nn.Module, adapter: str, site: Site, x: Tensor) -> Tensor:
    """-A(x) of a branch beside a linear module, U·(D·x): x is what enters it."""
    own: dict[str, Any] = module._parameters
    down, up = own[key(adapter, site, "down")], own[key(adapter, site, "up")]
    if isinstance(module, CONVOLUTIONS):
        convolve: Any = (f.conv1d, f.conv2d, f.conv3d)[down.ndim - 3]
        hidden = convolve(x, down, None, module.stride, module.padding, module.dilation)
        return f.linear(hidden.movedim(1, -1), up).movedim(-1, 1)
    return f.linear(f.linear(x, down), up)


def update(module: nn.Module, adapter: str, site: Site, y: Tensor, x: Tensor | None, strength: float) -> Tensor:
    """y + s·A(·), where A reads y itself, or x, what entered the module.

    A(z) = -(U·relu(D·z + d) + u), or -U·D·z: with the minus a branch of zeros is taken away and not added, which leaves even a
    negative zero what it is, so that the start is the model bit for bit.

    Args:
        module: The module at the site.
        adapter: Name of the adapter.
        site: The site.
        y: What the module returned, `(B, …)`.
        x: What entered it.
        strength: A factor of the user's own.
    """
    own: dict[str, Any] = module._parameters
    gate = own[key(adapter, site, "gate")]
    if site.inputs:
        assert x is not None
        taken = linear(module, adapter, site, x)
    else:
        taken = bottleneck(module, key(adapter, site, ""), y, site.axis)
    return y - (gate * strength * taken).to(y.dtype)
