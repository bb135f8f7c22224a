"""Adapters: small residual branches on a frozen model, one set a task, that can be taken away without a trace."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from residyn.audit.gains import started
from residyn.errors import InputError
from residyn.transfer import branches, sites
from residyn.transfer.sites import Kind, Site
from residyn.transfer.switching import Hung, Owned, Switch, own

_HOME = "_residyn_adapters"


@dataclass(frozen=True)
class Adapter:
    """One set of branches.

    Args:
        kind: `"bottleneck"` or `"low_rank"`.
        rank: Width r of each branch.
        sites: Where they stand.
        owned: Tensors of which the adapter has a version of its own, by module: statistics of batch norms, heads.
        left: Residual blocks without a branch, and why.
    """

    kind: Kind
    rank: int
    sites: tuple[Site, ...]
    owned: dict[str, tuple[str, ...]]
    left: tuple[str, ...] = ()


def add_adapters(
    model: nn.Module,
    *inputs: Any,
    modules: Sequence[str] | None = None,
    kind: Kind = "bottleneck",
    rank: int = 8,
    scale: float = 1.0,
    name: str = "default",
    norms: bool = True,
    heads: Sequence[str] = (),
    freeze: bool = True,
    seed: int = 0,
    **kwargs: Any,
) -> Adapters:
    """Put small branches on a model, x → x + s·A(x), behind the residual blocks that the audit finds or at named modules.

    A is a bottleneck, A(x) = U·relu(D·x + d) + u, or of low rank, A(x) = U·D·x, on the channels of x; U and u start at zero, so
    the output is that of the model bit for bit, and so it is, after training too, whenever the adapter is switched off (of the
    model when frozen: for some layers torch adds in another order where a parameter needs gradients). The gate s is learned,
    one a branch and adapter. Batch norms have statistics of the adapter's own, so that training it leaves the model's as they
    were. Where a block's sum is returned by a module, perhaps normalised or activated, that is x; elsewhere
    x is what the block's branch ends with.

    A low-rank branch at a named `Linear` or convolution stands beside it and reads what it reads, W·x → W·x + s·A(x), as in
    LoRA; `merge` and `to_peft` know such ones.

    The model is changed in place, and its own parameters are frozen. Called again with another name it adds a second adapter,
    and switches to it.

    Args:
        model: Any module.
        *inputs: What it is called with, two samples or more, for the audit; made up where its configuration or its first layer
            says enough.
        modules: Paths of modules, or their last parts, to put branches at; the residual blocks if not given.
        kind: `"bottleneck"` or `"low_rank"`.
        rank: Width of each branch.
        scale: Where s starts.
        name: The adapter's name: letters, digits, `_` and `-`.
        norms: Whether it has its own statistics in batch norms.
        heads: Modules of which it has a trainable copy of its own, starting as the model's.
        freeze: Whether the model's parameters are frozen.
        seed: Seed of D.
        **kwargs: More inputs, by name.

    Returns:
        The adapters of the model; the new one is at work.

    Raises:
        InputError: If an argument breaks its rule, or the model has no place for a branch; it is then as it was.

    Reference:
        Houlsby et al. (2019), "Parameter-Efficient Transfer Learning for NLP", arXiv:1902.00751; Rebuffi, Bilen & Vedaldi
        (2017), "Learning multiple visual domains with residual adapters", arXiv:1705.08045; Hu et al. (2021), "LoRA",
        arXiv:2106.09685.

    >>> from residyn.nets import MLP, ResNet
    >>> net, x = ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(3)], nn.Linear(8, 2)), torch.ones(2, 4)
    >>> before = net(x)
    >>> adapters = add_adapters(net, x, rank=2)
    >>> bool((net(x) == before).all()), [site.module for site in adapters["default"].sites]
    (True, ['body.blocks.0', 'body.blocks.1', 'body.blocks.2'])
    >>> adapters.count(), sum(p.numel() for p in net.parameters() if p.requires_grad)
    (129, 129)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"`model` must be a torch module, got {type(model).__name__}")
    known = model.__dict__.get(_HOME)
    _check(known, kind, rank, scale, name)
    _unscripted(model, [""])
    owned = {path: tuple(key for key, _ in state_of(model.get_submodule(path))) for path in _paths(model, heads)}
    if norms:
        owned = {path: names for path, names in _statistics(model).items() if not _within(path, owned)} | owned
    with (known or Adapters(model)).disabled():
        found, left = sites.find(model, inputs, kwargs, modules, kind)
    _unscripted(model, [site.module for site in found])
    adapters = known or Adapters(model)
    generator = torch.Generator().manual_seed(seed)
    adapter = Adapter(kind, rank, tuple(found), owned, tuple(left))
    start = {site: started(branches.shapes(model.get_submodule(site.module), site, kind, rank), generator) for site in found}
    for parts in start.values():
        parts["gate"].fill_(scale)
    adapters.put(name, adapter, start, {})
    if freeze:
        adapters.freeze()
    adapters.use(name)
    return adapters


def adapters_of(model: nn.Module) -> Adapters:
    """The adapters of a model, or of a copy of it.

    Args:
        model: The model.

    Returns:
        They.

    Raises:
        InputError: If it has none.
    """
    found: Adapters | None = model.__dict__.get(_HOME)
    if found is None:
        raise InputError("`model` must have adapters, got one without; call add_adapters(model, x) first")
    return found


class Adapters:
    """The adapters of a model: switch between them, stack them, name one for each sample, save them, take them away.

    Args:
        model: The model. Adapters are made by `add_adapters`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.switch = model, Switch()
        self._known: dict[str, Adapter] = {}
        self._hung: dict[str, tuple[Hung, Any]] = {}
        self._owned: dict[str, Owned] = {}
        self._flags: dict[str, bool] = {}

    # -- which there are --------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The adapters, in the order in which they were added."""
        return list(self._known)

    def __getitem__(self, name: str) -> Adapter:
        """An adapter by its name.

        Raises:
            InputError: If there is none of this name.
        """
        if name not in self._known:
            raise InputError(f"`name` must be that of an adapter, got {name!r}; there are {', '.join(self._known) or 'none'}")
        return self._known[name]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns."""
        return self.model(*args, **kwargs)

    def tensors(self, name: str = "default") -> dict[str, Tensor]:
        """All tensors of an adapter, statistics included, by module and part."""
        adapter, made = self[name], {}
        for site in adapter.sites:
            for part, tensor in branches.tensors(self.model.get_submodule(site.module), name, site).items():
                made[branches.entry(site, part)] = tensor
        for path, parts in adapter.owned.items():
            module = self.model.get_submodule(path)
            for part in parts:
                made[f"{path}|own|{part}"] = getattr(module, own(name, part))
        return made

    def parameters(self, name: str | None = None) -> list[nn.Parameter]:
        """What is to be trained: the parameters of one adapter, or of all."""
        names = self.names if name is None else [name]
        return [p for one in names for p in self.tensors(one).values() if isinstance(p, nn.Parameter)]

    def count(self, name: str | None = None) -> int:
        """How many numbers those are."""
        return sum(p.numel() for p in self.parameters(name))

    # -- which are at work ------------------------------------------------------------------------------------------------

    @property
    def active(self) -> tuple[str, ...]:
        """The adapters at work, one after the other."""
        return self.switch.active

    def use(self, *names: str) -> None:
        """Put adapters to work, stacked in this order; none of them leaves the model as it was.

        Args:
            *names: The adapters.

        Raises:
            InputError: If there is none of a name.
        """
        for name in names:
            _ = self[name]
        self.switch.active, self.switch.rows = tuple(names), None

    @contextmanager
    def using(self, *names: str) -> Iterator[nn.Module]:
        """While this lasts, these adapters are at work.

        Args:
            *names: The adapters, stacked in this order.

        Yields:
            The model.
        """
        before = self.switch.active, self.switch.rows
        self.use(*names)
        try:
            yield self.model
        finally:
            self.switch.active, self.switch.rows = before

    def disabled(self) -> Any:
        """While this lasts, the model is what it was before: a context manager."""
        return self.using()

    @contextmanager
    def rows(self, names: Sequence[str | Sequence[str] | None]) -> Iterator[nn.Module]:
        """While this lasts, each sample of a batch has an adapter of its own.

        Args:
            names: One name a sample; several of them are stacked, `None` is the model without.

        Yields:
            The model; its batches must be of as many samples.

        Raises:
            InputError: If there is no adapter of a name, or, when the model is called, the batch is of another size.
        """
        wanted = tuple((name,) if isinstance(name, str) else tuple(name or ()) for name in names)
        for name in dict.fromkeys(one for row in wanted for one in row):
            _ = self[name]
        before = self.switch.rows
        self.switch.rows = wanted
        try:
            yield self.model
        finally:
            self.switch.rows = before

    def strength(self, name: str, factor: float) -> None:
        """Scale all branches of an adapter by a factor of yours, beside what its gates have learned; 0 leaves them out.

        Args:
            name: The adapter.
            factor: The factor.

        Raises:
            InputError: If there is no such adapter, or the factor is not finite.
        """
        _ = self[name]
        if not abs(factor) < float("inf"):
            raise InputError(f"`factor` must be finite, got {factor}; 1 is the adapter as it was trained")
        self.switch.strength[name] = float(factor)

    def gates(self, name: str = "default") -> dict[str, Tensor]:
        """The gates s of an adapter, by module."""
        return {key.rpartition("|")[0]: t for key, t in self.tensors(name).items() if key.endswith("|gate")}

    # -- on disk ----------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], name: str = "default") -> None:
        """Write an adapter to a `.safetensors` file; see `residyn.transfer.storage.save`."""
        from residyn.transfer import storage

        storage.save(self.model, path, name)

    def load(self, path: str | os.PathLike[str], name: str | None = None, *, strict: bool = True) -> None:
        """Put an adapter from a file on the model, and to work; see `residyn.transfer.load_adapter`."""
        from residyn.transfer import storage

        storage.load_adapter(self.model, path, name, strict=strict)

    def to_peft(self, folder: str | os.PathLike[str], name: str = "default") -> None:
        """Write a low-rank adapter as PEFT reads it; see `residyn.transfer.peft.write`."""
        from residyn.transfer import peft

        peft.write(self.model, folder, name)

    def merge(self, name: str = "default") -> None:
        """Add low-rank branches to the weights beside which they stand, for good; see `residyn.transfer.peft.merge`."""
        from residyn.transfer import peft

        peft.merge(self.model, name)

    # -- how they come and go ---------------------------------------------------------------------------------------------

    def put(self, name: str, adapter: Adapter, start: dict[Site, dict[str, Tensor]], owned: dict[str, Tensor]) -> None:
        """Hang an adapter on the model: what was checked before cannot fail any more.

        Args:
            name: Its name.
            adapter: What it is.
            start: The tensors of its branches.
            owned: Its versions of the model's tensors, by `path|own|part`; the model's own where there is none.
        """
        self.model.__dict__[_HOME] = self
        example = next((p for p in self.model.parameters() if p.is_floating_point()), torch.zeros(()))
        for site, parts in start.items():
            module = self.model.get_submodule(site.module)
            near = next((p for p in module.parameters() if p.is_floating_point()), example)
            for part, tensor in parts.items():
                module.register_parameter(branches.key(name, site, part), nn.Parameter(tensor.to(near.device, near.dtype)))
            if site.module not in self._hung:
                hook = Hung(self.switch, site.module)
                self._hung[site.module] = hook, module.register_forward_hook(hook, with_kwargs=True)
            self._hung[site.module][0].sites.setdefault(name, []).append(site)
        for path, names in adapter.owned.items():
            module = self.model.get_submodule(path)
            if path not in self._owned:
                self._owned[path] = Owned(self.switch, path, module)
                module.__dict__["forward"] = self._owned[path]
            for key, tensor in state_of(module):
                if key in names:
                    value = owned.get(f"{path}|own|{key}", tensor).detach().to(tensor.device, tensor.dtype).clone()
                    if isinstance(tensor, nn.Parameter):
                        module.register_parameter(own(name, key), nn.Parameter(value, tensor.is_floating_point()))
                    else:
                        module.register_buffer(own(name, key), value)
            self._owned[path].names[name] = names
        self._known[name] = adapter

    def remove(self, name: str) -> None:
        """Take an adapter off the model.

        Args:
            name: The adapter.

        Raises:
            InputError: If there is none of this name.
        """
        adapter = self[name]
        for path in dict.fromkeys([*(site.module for site in adapter.sites), *adapter.owned]):
            module = self.model.get_submodule(path)
            for table in (module._parameters, module._buffers):
                for key in [k for k in table if _belongs(k, name, adapter)]:
                    del table[key]
                    module._non_persistent_buffers_set.discard(key)
        for path in dict.fromkeys(site.module for site in adapter.sites):
            hook, handle = self._hung[path]
            del hook.sites[name]
            if not hook.sites:
                handle.remove()
                del self._hung[path]
        for path in adapter.owned:
            owned = self._owned[path]
            del owned.names[name]
            if not owned.names:
                home = owned.module.__dict__
                del home["forward"], self._owned[path]
                if owned.before is not None:
                    home["forward"] = owned.before
        del self._known[name]
        self.switch.strength.pop(name, None)
        self.switch.active = tuple(one for one in self.switch.active if one != name)

    def freeze(self) -> None:
        """Freeze the model's own parameters; `undo` lets them be as they were."""
        mine = {id(p) for p in self.parameters()}
        for key, parameter in self.model.named_parameters():
            if id(parameter) not in mine:
                self._flags.setdefault(key, parameter.requires_grad)
                parameter.requires_grad_(False)

    def undo(self) -> None:
        """Take all adapters off; the model is what it was."""
        for name in self.names:
            self.remove(name)
        for key, parameter in self.model.named_parameters():
            if key in self._flags:
                parameter.requires_grad_(self._flags[key])
        self._flags.clear()
        self.model.__dict__.pop(_HOME, None)


def _check(known: Adapters | None, kind: Any, rank: Any, scale: float, name: Any) -> None:
    """The rules for what is handed to `add_adapters`."""
    if kind not in get_args(Kind):
        raise InputError(f'`kind` must be "bottleneck" or "low_rank", got {kind!r}')
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise InputError(f"`rank` must be a whole number >= 1, got {rank!r}; it is the width of each branch")
    if not abs(scale) < float("inf"):
        raise InputError(f"`scale` must be finite, got {scale}; 1 is usual")
    check_name(known, name)


def check_name(known: Adapters | None, name: Any) -> None:
    """Refuse a name that is none, or is taken."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"`name` must be letters, digits, _ and -, got {name!r}")
    if known is not None and name in known.names:
        raise InputError(f"`name` must be new, got {name!r}, which the model has; remove it first, or give another name")


def _unscripted(model: nn.Module, paths: Sequence[str]) -> None:
    modules = dict(model.named_modules())
    if any(isinstance(modules[path], torch.jit.ScriptModule) for path in paths):
        raise InputError("`model` must not be scripted where branches go, got a ScriptModule; add them before torch.jit.script")


def _paths(model: nn.Module, heads: Sequence[str]) -> list[str]:
    wanted = [heads] if isinstance(heads, str) else heads
    return list(dict.fromkeys(path for head in wanted for path in sites.named(model, head)))


def state_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The tensors of a module that are not those of adapters."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return [(name, tensor) for name, tensor in named if not name.rpartition(".")[2].startswith(branches.PREFIX)]


def _statistics(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The running statistics of a model's norms, by module."""
    keys = ("running_mean", "running_var", "num_batches_tracked")
    norms = {path: m for path, m in model.named_modules() if isinstance(m, _NormBase) and m.running_mean is not None}
    return {path: tuple(key for key in keys if getattr(m, key, None) is not None) for path, m in norms.items()}


def _within(path: str, others: dict[str, Any]) -> bool:
    return any(path == other or path.startswith(f"{other}.") or not other for other in others)


def _belongs(key: str, name: str, adapter: Adapter) -> bool:
    """Whether a tensor of a module is one of this adapter."""
    parts = ("down", "up", "downbias", "upbias", "gate")
    mine = {branches.key(name, site, part) for site in adapter.sites for part in parts}
    return key in mine or key in {own(name, part) for parts_ in adapter.owned.values() for part in parts_}
