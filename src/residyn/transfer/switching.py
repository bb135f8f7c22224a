"""Which adapters are at work, and what hangs on a model's modules to ask for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from residyn.audit.absent import replaced
from residyn.audit.trace import tensors
from residyn.errors import InputError
from residyn.transfer import branches
from residyn.transfer.sites import Site

Group = tuple[tuple[str, ...], Tensor | None]


class Switch:
    """Which adapters are at work: the same ones for a whole batch, or others for each sample.

    Attributes:
        active: Adapters of the whole batch, one after the other.
        rows: Adapters of each sample; `None` if all have the same.
        strength: The user's factor for each adapter.
    """

    def __init__(self) -> None:
        self.active: tuple[str, ...] = ()
        self.rows: tuple[tuple[str, ...], ...] | None = None
        self.strength: dict[str, float] = {}

    def groups(self, known: Any, size: int, where: str) -> list[Group]:
        """Adapters with the samples that go through them; `None` are all samples.

        Args:
            known: The adapters that there are at a place; others are left out.
            size: Samples of the batch there.
            where: The place, for the message.

        Raises:
            InputError: If the batch is not that which `rows` were named for.
        """
        if self.rows is None:
            return [(tuple(name for name in self.active if name in known), None)]
        if len(self.rows) != size:
            raise InputError(
                f"`rows` must name an adapter for each sample, got {len(self.rows)} names for {size} rows at `{where}`; "
                "samples must lie on the first axis all the way through the model"
            )
        found: dict[tuple[str, ...], list[int]] = {}
        for i, names in enumerate(self.rows):
            found.setdefault(tuple(name for name in names if name in known), []).append(i)
        if len(found) == 1:
            return [(next(iter(found)), None)]
        return [(names, torch.tensor(rows)) for names, rows in found.items()]


class Hung:
    """A forward hook that sends what a module returns through branches.

    Args:
        switch: Which adapters are at work.
        path: The module, for messages.

    Attributes:
        sites: For each adapter, its places at the module.
    """

    def __init__(self, switch: Switch, path: str) -> None:
        self.switch, self.path = switch, path
        self.sites: dict[str, list[Site]] = {}

    @property
    def idle(self) -> bool:
        """Whether the module returns what it would without: no adapter of this place is at work."""
        return self.switch.rows is None and not any(name in self.sites for name in self.switch.active)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        """What the module returns from now on; `None` leaves it."""
        if self.idle:
            return None
        entering = next(tensors((args, kwargs)), None)
        if isinstance(out, Tensor):
            return self._changed(module, 0, out, entering)
        return replaced(out, lambda place, y: self._changed(module, place, y, entering))

    def _changed(self, module: nn.Module, place: int, y: Tensor, entering: Tensor | None) -> Tensor:
        """One of the returned tensors, through the branches at it."""
        if not any(site.place == place for sites in self.sites.values() for site in sites):
            return y
        for names, rows in self.switch.groups(self.sites, len(y), self.path):
            if not names:
                continue
            if rows is None:
                y = self._through(module, names, place, y, entering)
            else:
                there = rows.to(y.device)
                some = None if entering is None else entering[there]
                y = y.index_copy(0, there, self._through(module, names, place, y[there], some))
        return y

    def _through(self, module: nn.Module, names: Sequence[str], place: int, y: Tensor, x: Tensor | None) -> Tensor:
        for name in names:
            strength = self.switch.strength.get(name, 1.0)
            for site in self.sites[name]:
                if site.place == place and strength != 0:
                    y = branches.update(module, name, site, y, x, strength)
        return y


class Owned:
    """A module's forward in which some of its tensors are those of the adapter at work: statistics, or all of a head.

    Args:
        switch: Which adapters are at work; of several that own tensors here the last one's count.
        path: The module, for messages.
        module: The module.

    Attributes:
        names: For each adapter, the tensors of the module that it has for itself.
    """

    def __init__(self, switch: Switch, path: str, module: nn.Module) -> None:
        self.switch, self.path, self.module = switch, path, module
        self.before: Callable[..., Any] | None = module.__dict__.get("forward")
        self.names: dict[str, tuple[str, ...]] = {}

    @property
    def idle(self) -> bool:
        """Whether the module's own forward runs on the module's own tensors."""
        return self.before is None and self.switch.rows is None and not any(name in self.names for name in self.switch.active)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns."""
        size = next((len(t) for t in tensors((args, kwargs)) if t.ndim), 0)
        groups = self.switch.groups(self.names, size, self.path)
        if len(groups) == 1:
            return self._with(groups[0][0][-1:], args, kwargs)
        made = [self._with(names[-1:], *_taken((args, kwargs), rows, size)) for names, rows in groups if rows is not None]
        order = torch.cat([rows for _, rows in groups if rows is not None]).argsort()
        columns = zip(*(tensors(part) for part in made), strict=True)
        whole = [torch.cat(column)[order.to(column[0].device)] for column in columns]
        return replaced(made[0], lambda place, _: whole[place])

    def _with(self, names: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the module returns with an adapter's tensors in the place of its own."""
        forward = self.before or type(self.module).forward.__get__(self.module)
        taken: list[tuple[dict[str, Any], str, Any]] = []
        try:
            for adapter in names:
                for name in self.names[adapter]:
                    home, last = _table(self.module, name)
                    taken.append((home, last, home[last]))
                    mine, there = _table(self.module, own(adapter, name))
                    home[last] = mine[there]
            return forward(*args, **kwargs)
        finally:
            for home, last, tensor in reversed(taken):
                home[last] = tensor


def own(adapter: str, name: str) -> str:
    """The name under which a module keeps an adapter's own version of one of its tensors.

    >>> own("task", "0.weight")
    'residyn_task_own_0/weight'
    """
    return f"{branches.PREFIX}{adapter}_own_{name.replace('.', '/')}"


def _table(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """The table that holds a tensor, of the module or of one below it."""
    path, _, last = name.rpartition(".")
    home = module.get_submodule(path)
    return (home._parameters if last in home._parameters else home._buffers), last


def _taken(tree: Any, rows: Tensor, size: int) -> Any:
    """Arguments on some of the samples; what has no sample axis stays."""
    args, kwargs = tree

    def some(value: Any) -> Any:
        return value[rows.to(value.device)] if isinstance(value, Tensor) and value.ndim and len(value) == size else value

    return tuple(some(value) for value in args), {name: some(value) for name, value in kwargs.items()}
