"""How far a branch can move old decisions: margins over Lipschitz constants, before anything is measured."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residyn.analysis import lipschitz
from residyn.errors import InputError
from residyn.step import Stack
from residyn.transfer import branches
from residyn.transfer.adapters import Adapters, adapters_of
from residyn.transfer.sites import Site


@dataclass(frozen=True)
class Disturbance:
    """What a branch does to the decisions of the model without it.

    Args:
        norm: Certified Lipschitz constant of s·A, the largest of its branches.
        reach: For each sample, how far its logits can move apart at most, over their margin: below 1 the decision stays.
        moved: For each sample, whether the decision did change.
    """

    norm: float
    reach: Tensor
    moved: Tensor

    @property
    def bound(self) -> float:
        """Share of the samples whose decision may change: never below the share that does."""
        return float((self.reach >= 1).double().mean())

    @property
    def measured(self) -> float:
        """Share of the samples whose decision changes."""
        return float(self.moved.double().mean())


def disturbance(model: nn.Module, x: Tensor, name: str = "shared", *, certain: bool = True) -> Disturbance:
    """Bound what an adapter does to the decisions of the model without it, and measure it.

    With K_k the certified constant of s·A at block k, L_k that of the block, and y_k the state of the model without the adapter
    behind it, the state moves by at most δ_k = L_k·δ_{k-1} + K_k·(‖y_k‖ + L_k·δ_{k-1}) + ‖s·A(0)‖, from δ_0 = 0; the decision i
    stays if for all j the margin z_i - z_j exceeds ‖w_i - w_j‖·δ (a linear head; √2·L·δ otherwise).

    Args:
        model: Modules one after the other: a `Sequential`, a `Stack`, or a network of `stem`, `body` and `head`. The branches
            stand behind some of them.
        x: Inputs, `(B, …)`.
        name: The adapter.
        certain: Whether the size of the branch is bounded by K_k·‖y_k‖ + ‖s·A(0)‖, which holds for every input; with `False`
            it is taken from the samples, ‖s·A(y_k)‖, and only what comes of the moved state is bounded.

    Returns:
        Norm, bound and measurement.

    Raises:
        InputError: If the model is no chain, or a branch stands elsewhere; and as `residyn.lipschitz` does.

    Reference:
        Tsuzuku, Sato & Sugiyama (2018), "Lipschitz-Margin Training", arXiv:1802.04034, for margin over constant.

    >>> from residyn.nets import MLP, ResNet
    >>> from residyn.transfer import add_adapters
    >>> net, x = ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(3)], nn.Linear(8, 2)), torch.randn(20, 4)
    >>> adapters = add_adapters(net, x, rank=2)
    >>> found = disturbance(net, x, "default")
    >>> found.norm, found.bound, found.measured
    (0.0, 0.0, 0.0)
    """
    adapters = adapters_of(model)
    places: dict[str, list[Site]] = {}
    for site in adapters[name].sites:
        places.setdefault(site.module, []).append(site)
    links = chain(model)
    elsewhere = [path for path in places if path not in dict(links)] + [s.module for s in adapters[name].sites if s.inputs]
    if elsewhere or adapters[name].owned:
        what = elsewhere[0] if elsewhere else next(iter(adapters[name].owned))
        raise InputError(
            f"`name` must be an adapter whose branches stand behind modules of the chain, got {name!r} at `{what}`; "
            f"the chain is {', '.join(path for path, _ in links)}"
        )
    with torch.no_grad(), adapters.disabled():
        states = list(itertools.accumulate(links, lambda y, link: link[1](y), initial=x))
        moves = torch.zeros(len(x), dtype=torch.float64)
        norm = 0.0
        for (path, module), before, after in zip(links[:-1], states[:-2], states[1:-1], strict=True):
            moves = moves * _constant(module, before)
            for site in places.get(path, []):
                K, size = _branch(adapters, name, site, after, certain=certain)
                norm = max(norm, K)
                moves = moves + K * moves + size
        reach = _apart(links[-1][1], states[-2], states[-1], moves)
    with torch.no_grad(), adapters.using(name):
        now = model(x)
    return Disturbance(norm, reach, now.argmax(1) != states[-1].argmax(1))


def chain(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """A model as modules one after the other, with their paths.

    Raises:
        InputError: If it is none.
    """
    links: list[tuple[str, nn.Module]] = []

    def walk(path: str, module: nn.Module) -> None:
        start = f"{path}." if path else ""
        if type(module).forward is nn.Sequential.forward:
            for key, child in module.named_children():
                walk(f"{start}{key}", child)
        elif isinstance(module, Stack):
            for key, child in module.blocks.named_children():
                walk(f"{start}blocks.{key}", child)
        elif {"stem", "body", "head"} == {key for key, _ in module.named_children()}:
            for key in ("stem", "body", "head"):
                walk(f"{start}{key}", module.get_submodule(key))
        else:
            links.append((path, module))

    walk("", model)
    if len(links) < 2:
        raise InputError(
            "`model` must be modules one after the other (Sequential, Stack, or stem, body and head), got "
            f"{type(model).__name__}"
        )
    return links


def _constant(module: nn.Module, before: Tensor) -> float:
    return float(lipschitz(module, tuple(before.shape[1:])))


def _branch(adapters: Adapters, name: str, site: Site, y: Tensor, *, certain: bool) -> tuple[float, Tensor]:
    """Certified constant of s·A, and for each sample a bound on ‖s·A(y)‖ or that itself."""
    module = adapters.model.get_submodule(site.module)
    own = branches.tensors(module, name, site)
    factor = abs(float(own["gate"].detach()) * adapters.switch.strength.get(name, 1.0))
    down = nn.Linear(own["down"].shape[1], own["down"].shape[0], "downbias" in own)
    up = nn.Linear(own["up"].shape[1], own["up"].shape[0], "upbias" in own)
    for layer, part in ((down, "down"), (up, "up")):
        layer.weight = nn.Parameter(own[part].detach())
        if f"{part}bias" in own:
            layer.bias = nn.Parameter(own[f"{part}bias"].detach())
    A = nn.Sequential(down, *[nn.ReLU()] if "downbias" in own else [], up)
    K = factor * float(lipschitz(A, own["down"].shape[1]))
    last = y.detach().movedim(site.axis, -1).double()
    A = A.double()
    with torch.no_grad():
        if not certain:
            return K, factor * A(last).flatten(1).norm(dim=1)
        positions = math.prod(last.shape[1:-1])
        at_zero = float(A(torch.zeros(last.shape[-1], dtype=torch.float64)).norm()) * math.sqrt(positions)
        return K, K * last.flatten(1).norm(dim=1) + factor * at_zero


def _apart(head: nn.Module, before: Tensor, z: Tensor, moves: Tensor) -> Tensor:
    """The largest of (how far two logits can move apart)/(their margin), over the runners-up."""
    guess = z.argmax(1)
    margin = (z.gather(1, guess[:, None]) - z).double()
    if isinstance(head, nn.Linear):
        W = head.weight.detach().double()
        apart = torch.cdist(W, W)[guess] * moves[:, None]
    else:
        apart = math.sqrt(2) * _constant(head, before) * moves[:, None].expand_as(margin)
    ratio = torch.where(apart > 0, apart / margin, 0.0)  # a margin of 0 does not stand anything but 0
    return ratio.scatter(1, guess[:, None], 0.0).max(1).values
