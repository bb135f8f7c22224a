"""Where adapters go: behind the residual blocks that the audit finds, or at modules that are named."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from residyn import audit
from residyn.audit import operations
from residyn.audit.auditing import Audit
from residyn.audit.endings import endings
from residyn.audit.find import Sum
from residyn.audit.graph import Graph
from residyn.errors import InputError

Kind = Literal["bottleneck", "low_rank"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Site:
    """A place for a branch: what a module returns, x → x + s·A(x), or beside a linear module, W·x → W·x + s·A(x).

    Args:
        module: Path of the module; empty for the model itself.
        place: Which of the tensors that it returns.
        channels: Size of the axis that the branch mixes, in what is returned.
        axis: That axis, 1 or -1.
        inputs: The same of what enters, if the branch reads that; 0 if it reads what is returned.
    """

    module: str
    place: int
    channels: int
    axis: int
    inputs: int = 0


def find(
    model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], modules: Sequence[str] | None, kind: Kind
) -> tuple[list[Site], list[str]]:
    """Places for adapters.

    Args:
        model: The model.
        inputs: What it is called with.
        kwargs: More of it, by name.
        modules: Paths of modules, or their ends ("query" is each `….query`); the residual blocks if `None`.
        kind: What the branch is: a low-rank branch stands beside a linear or convolutional module that is named.

    Returns:
        The places, and the blocks that have none, with the reason.

    Raises:
        InputError: If there is no such module, or no place at all.
    """
    if modules is None:
        return _behind_blocks(_traced(model, inputs, kwargs))
    names = [modules] if isinstance(modules, str) else list(modules)
    paths = list(dict.fromkeys(path for name in names for path in named(model, name)))
    if not paths:
        raise InputError("`modules` must name at least one module, got none; leave it out for the residual blocks")
    lines = {path: beside(model.get_submodule(path), path) for path in paths} if kind == "low_rank" else {}
    rest = [path for path in paths if lines.get(path) is None]
    seen = _traced(model, inputs, kwargs) if rest else None
    sites = []
    for path in paths:
        line = lines.get(path)
        if line is None:
            assert seen is not None
            line = _returned(seen, path)
        sites.append(line)
    return sites, []


def named(model: nn.Module, name: str) -> list[str]:
    """Paths of the modules that a name stands for.

    Args:
        model: The model.
        name: A path, or the end of paths.

    Raises:
        InputError: If there is none.
    """
    paths = [path for path, _ in model.named_modules()]
    if name in paths:
        return [name]
    found = [path for path in paths if path.endswith(f".{name}")]
    if not found:
        near = difflib.get_close_matches(name, paths, 3, 0.3)
        hint = f"near to it are {', '.join(near)}" if near else "model.named_modules() lists them"
        raise InputError(f"`modules` must be paths of modules or their ends, got {name!r}; {hint}")
    return found


def _traced(model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Audit:
    if inputs or kwargs:
        return audit.audit(model, *inputs, budget=0, **kwargs)
    for guess in _guesses(model):
        try:
            return audit.audit(model, budget=0, **guess) if isinstance(guess, dict) else audit.audit(model, guess, budget=0)
        except (InputError, audit.ModelError):
            continue
    raise InputError(
        "`inputs` must hold what the model is called with, got none, and no batch that was made up fits; "
        "write add_adapters(model, x) with two samples"
    )


def _guesses(model: nn.Module) -> list[Any]:
    """Batches that the model may take, by its configuration or its first layer."""
    config, name = getattr(model, "config", None), getattr(model, "main_input_name", "")
    if name == "pixel_values" and isinstance(getattr(config, "num_channels", None), int):
        size = getattr(config, "image_size", 64)
        sides = (size, size) if isinstance(size, int) else tuple(size)
        return [{name: torch.randn(2, config.num_channels, *sides, generator=_generator())}]  # type: ignore[union-attr]
    if name == "input_ids":
        return [{name: torch.arange(1, 17).reshape(2, 8)}]
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            return [torch.randn(2, *more, layer.in_features, generator=_generator()) for more in ((), (4,))]
        if isinstance(layer, CONVOLUTIONS):
            axes = len(layer.kernel_size)
            return [torch.randn(2, layer.in_channels, *[n] * axes, generator=_generator()) for n in (32, 64, 224, 8)]
        if isinstance(layer, nn.Embedding):
            return [torch.arange(8).reshape(2, 4) % layer.num_embeddings]
    return []


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# -- named modules ----------------------------------------------------------------------------------------------------------


def beside(module: nn.Module, path: str) -> Site | None:
    """A place beside a linear module, for a branch that is linear too; `None` for any other module.

    Args:
        module: The module.
        path: Its path.

    Raises:
        InputError: If it is a convolution of a kind that has none.
    """
    if isinstance(module, nn.Linear):
        return Site(path, 0, module.out_features, -1, module.in_features)
    if isinstance(module, CONVOLUTIONS):
        if module.groups != 1 or module.padding_mode != "zeros":
            raise InputError(
                f"`modules` must be convolutions without groups and padded by zeros to have a low-rank branch beside them, got "
                f"{path!r}; name the module around it"
            )
        return Site(path, 0, module.out_channels, 1, module.in_channels)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # GPT-2's linear layer, whose weight is transposed
        weight: Any = module.weight
        return Site(path, 0, weight.shape[1], -1, weight.shape[0])
    return None


def _returned(seen: Audit, path: str) -> Site:
    """The first floating tensor that a module returns."""
    graph = seen.graph
    for call in graph.calls:
        if call.path != path:
            continue
        for place, value in enumerate(call.outs):
            if value >= 0 and graph.values[value].floating and len(graph.values[value].shape) >= 2:
                return _site(graph, path, place, value)
        raise InputError(f"`modules` must return a tensor (B, …) of floating point, got {path!r}, which does not")
    raise InputError(f"`modules` must be called in a forward pass, got {path!r}, which is not; hand in other inputs")


# -- residual blocks --------------------------------------------------------------------------------------------------------


def _behind_blocks(seen: Audit) -> tuple[list[Site], list[str]]:
    sites: list[Site] = []
    left: list[str] = []
    for block, found in zip(seen.blocks, seen.sums, strict=True):
        site = _behind(seen.graph, found)
        if site is not None:
            sites.append(site)
            continue
        try:
            ends = endings(seen.graph, block, found)
        except InputError as error:
            left.append(str(error))
            continue
        made = {end.module: _made(seen.graph, end.module, end.place) for end in ends}
        sites += [_site(seen.graph, end.module, end.place, made[end.module]) for end in ends]
    if not sites:
        raise InputError(
            "`model` must have a residual block x + F(x) whose sum or branch a module returns, got none; "
            + (left[0] if left else "name modules instead: modules=[…]")
        )
    return list(dict.fromkeys(sites)), left


def _behind(graph: Graph, found: Sum) -> Site | None:
    """What the module returns that makes the sum, if that is the sum, perhaps normalised or activated."""
    here = graph.nodes[found.nodes[-1]].call
    if here < 0 or graph.calls[here].path == "?":
        return None
    value = found.out
    while True:
        outs = graph.calls[here].outs
        if value in outs:
            return _site(graph, graph.calls[here].path, outs.index(value), value)
        after = [graph.nodes[i] for i in graph.consumers[value]]
        if len(after) != 1 or len(after[0].outputs) != 1 or here not in graph.around(after[0].call):
            return None
        node = after[0]
        if not (node.form == "same" or node.op in operations.NORMS or node.op in operations.ACTIVATIONS):
            return None
        value = node.outputs[0]


def _made(graph: Graph, path: str, place: int) -> int:
    return next(call.outs[place] for call in graph.calls if call.path == path)


def _site(graph: Graph, path: str, place: int, value: int) -> Site:
    shape = graph.values[value].shape
    axis = _axis(graph, value)
    return Site(path, place, shape[axis], axis)


def _axis(graph: Graph, value: int) -> int:
    """Where the channels lie: first behind the batch after convolutions, last after linear layers."""
    rank = len(graph.values[value].shape)
    if rank == 2:
        return -1
    todo, seen = [value], {value}
    while todo:
        node = graph.producer(todo.pop(0))
        if node is None or any(len(graph.values[v].shape) != rank for v in node.outputs):
            continue
        if "conv" in node.op or node.op in ("batch_norm", "group_norm", "instance_norm"):
            return 1
        if node.op in ("linear", "layer_norm", "rms_norm", "embedding", "addmm"):
            return -1
        fresh = [v for v in node.inputs if v not in seen and graph.dynamic >> v & 1]
        seen.update(fresh)
        todo += fresh
    return 1 if rank >= 4 else -1
