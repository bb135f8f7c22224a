"""Adapters on disk: only the branch, kilobytes, with what it takes to know the model again that it belongs to."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, get_args

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.training import load_weights, save_weights
from residyn.transfer import branches
from residyn.transfer.adapters import Adapter, Adapters, adapters_of, check_name, state_of
from residyn.transfer.sites import CONVOLUTIONS, Kind, Site

SCHEMA = "residyn.adapter/1"
_GROUPS, _SAMPLE = 16, 1024
_NEAR = 0.02
"""Prints of equal weights differ by roundings, a few thousandths in bfloat16; those of other weights by about 1."""


def save(model: nn.Module, path: str | os.PathLike[str], name: str = "default") -> None:
    """Write an adapter of a model, and nothing of the model.

    Args:
        model: The model.
        path: A `.safetensors` file.
        name: The adapter.

    Raises:
        InputError: If there is no such adapter, or the path is wrong.
        ResidynError: If the disk refuses it.
    """
    adapters = adapters_of(model)
    adapter = adapters[name]
    about = {
        "schema": SCHEMA,
        "name": name,
        "kind": adapter.kind,
        "rank": adapter.rank,
        "sites": [list(dataclasses.astuple(site)) for site in adapter.sites],
        "owned": {path: list(keys) for path, keys in adapter.owned.items()},
        "print": fingerprint(model),
    }
    save_weights(path, adapters.tensors(name), about)


def load_adapter(model: nn.Module, path: str | os.PathLike[str], name: str | None = None, *, strict: bool = True) -> Adapters:
    """Put an adapter from a file on a model, and to work.

    The file belongs to a model by the shapes of its modules and by its weights, to within the roundings of another precision.
    A file that does not fit is refused before anything is changed.

    Args:
        model: The model.
        path: What `save` wrote.
        name: What to call it; as in the file if not given.
        strict: Whether the model's weights must be those that the adapter was trained on, and not only their shapes.

    Returns:
        The model's adapters.

    Raises:
        InputError: If the file is none of an adapter, is one of another model, or the name is taken.

    >>> import tempfile
    >>> from residyn.nets import MLP, ResNet
    >>> from residyn.transfer import add_adapters
    >>> net, x = ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(3)], nn.Linear(8, 2)), torch.ones(2, 4)
    >>> adapters = add_adapters(net, x, rank=2, name="task")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     adapters.save(f"{folder}/task.safetensors", "task")
    ...     adapters.undo()
    ...     load_adapter(net, f"{folder}/task.safetensors").names
    ['task']
    """
    tensors, about = load_weights(path)
    if about.get("schema") != SCHEMA:
        raise InputError(f"{path}: must hold an adapter ({SCHEMA}), got {about.get('schema')!r}; write it with adapters.save")
    try:
        kind, rank = about["kind"], int(about["rank"])
        places = tuple(Site(str(m), int(p), int(c), int(a), int(i)) for m, p, c, a, i in about["sites"])
        owned = {str(key): tuple(map(str, parts)) for key, parts in about["owned"].items()}
        seen = [float(number) for number in about["print"]]
        name = str(about["name"]) if name is None else name
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{path}: must hold an adapter, got a header that is not whole; save it again") from None
    known = model.__dict__.get("_residyn_adapters")
    check_name(known, name)
    if kind not in get_args(Kind) or rank < 1 or any(s.axis not in (1, -1) or s.channels < 1 for s in places):
        raise InputError(
            f"{path}: must hold an adapter, got kind {kind!r} of rank {rank} at {len(places)} places; save it again"
        )
    adapter = Adapter(kind, rank, places, owned)
    start, versions = _fitting(model, path, adapter, tensors)
    if strict:
        _same(path, seen, fingerprint(model))
    adapters = known or Adapters(model)
    adapters.put(name, adapter, start, versions)
    adapters.freeze()
    adapters.use(name)
    return adapters


def fingerprint(model: nn.Module) -> list[float]:
    """Sixteen numbers that tell a model's weights from others, whatever their precision.

    Each parameter is thinned to 1,024 numbers at most and scaled to norm 1; their products with fixed signs are summed over
    sixteen groups of parameters. For other weights a group's sum differs by about the root of the parameters in it.
    """
    sums = torch.zeros(_GROUPS, dtype=torch.float64)
    own = [(name, p) for name, p in state_of(model) if isinstance(p, nn.Parameter)]
    signs = torch.randint(0, 2, (_SAMPLE,), generator=torch.Generator().manual_seed(9)).double() * 2 - 1
    for i, (_, parameter) in enumerate(own):
        flat = (torch.view_as_real(parameter) if parameter.is_complex() else parameter).detach().flatten()
        step = max(1, math.ceil(flat.numel() / _SAMPLE))
        thin = flat[::step].cpu().double()
        norm = float(thin.norm())
        if 0 < norm < math.inf:
            sums[i % _GROUPS] += signs[: len(thin)] @ thin / norm
    return [round(float(value), 6) for value in sums]


def _same(path: Any, seen: list[float], here: list[float]) -> None:
    apart = max((abs(a - b) / max(1.0, abs(a)) for a, b in zip(seen, here, strict=False)), default=math.inf)
    if len(seen) != len(here) or not apart <= _NEAR:
        raise InputError(
            f"{path}: must hold an adapter of this model, got one that was trained on other weights; load those, or pass "
            "strict=False if it is meant"
        )


def _fitting(
    model: nn.Module, path: Any, adapter: Adapter, tensors: dict[str, Tensor]
) -> tuple[dict[Site, dict[str, Tensor]], dict[str, Tensor]]:
    """The tensors of a file by site, and those that replace tensors of the model, if all of them fit."""
    modules = dict(model.named_modules())
    start: dict[Site, dict[str, Tensor]] = {}
    wanted: dict[str, tuple[int, ...]] = {}
    for site in adapter.sites:
        module = modules.get(site.module)
        if module is None:
            raise _foreign(path, f"branches at `{site.module}`, which it does not have")
        if site.inputs and _entering(module) != (site.inputs, site.channels):
            raise _foreign(path, f"a branch beside `{site.module}` from {site.inputs} to {site.channels}")
        shapes = branches.shapes(module, site, adapter.kind, adapter.rank)
        start[site] = {}
        for part, shape in shapes.items():
            key = branches.entry(site, part)
            wanted[key] = shape
            if key in tensors:
                start[site][part] = tensors[key]
    for place, parts in adapter.owned.items():
        state = dict(state_of(modules[place])) if place in modules else {}
        for part in parts:
            if part not in state:
                raise _foreign(path, f"its own `{place}.{part}`, which it does not have")
            wanted[f"{place}|own|{part}"] = tuple(state[part].shape)
    for key in [*wanted, *tensors]:
        got = tuple(tensors[key].shape) if key in tensors else None
        if wanted.get(key) != got:
            raise _foreign(path, f"`{key}` of shape {got}, where this one needs {wanted.get(key)}")
    return start, {key: tensor for key, tensor in tensors.items() if "|own|" in key}


def _entering(module: nn.Module) -> tuple[int, int] | None:
    """What a linear module maps from and to."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, CONVOLUTIONS):
        return module.in_channels, module.out_channels
    weight = getattr(module, "weight", None)
    return (weight.shape[0], weight.shape[1]) if isinstance(weight, Tensor) and weight.ndim == 2 else None


def _foreign(path: Any, what: str) -> InputError:
    return InputError(
        f"{path}: must hold an adapter of this model, got one with {what}; load it into the model it was made for"
    )
