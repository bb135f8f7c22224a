"""Ways of learning one task after the other: a branch a task, one branch for all, fine-tuning, replay."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.training import Plan
from residyn.transfer.adapters import Adapters, add_adapters
from residyn.transfer.sites import Kind
from residyn.transfer.tasks import Task

Fit = Callable[[nn.Module, Task, Tensor, Tensor, Callable[[], Tensor] | None], None]
"""Trains what requires a gradient: model, task, inputs, labels, and what is added to the loss."""


class Method(abc.ABC):
    """A way of learning: `learn` is called for each task in turn, `recall` arranges the model to be asked about one."""

    name: str
    plan: Plan | None = None
    """How this method trains, if not as the others."""

    @abc.abstractmethod
    def learn(self, model: nn.Module, task: Task, fit: Fit) -> int:
        """Learn a task.

        Args:
            model: The model, changed in place.
            task: The task.
            fit: What trains.

        Returns:
            Numbers that were added to the model for this task.
        """

    @contextmanager
    def recall(self, model: nn.Module, task: Task) -> Iterator[nn.Module]:
        """The model as it answers a task."""
        yield model


@dataclass
class _Placed(Method):
    """What both kinds of branches share: where they stand and how wide they are."""

    share: float = 0.05
    rank: int | None = None
    kind: Kind = "bottleneck"
    modules: Sequence[str] | None = None
    heads: Sequence[str] = ()
    scale: float = 1.0
    plan: Plan | None = None

    def add(self, model: nn.Module, x: Tensor, name: str) -> Adapters:
        """A new adapter, and only it is to be trained."""
        rank = self.rank or widest(model, x, share=self.share, kind=self.kind, modules=self.modules, heads=self.heads)
        adapters = add_adapters(
            model, x, name=name, rank=rank, kind=self.kind, modules=self.modules, heads=self.heads, scale=self.scale
        )
        only(model, adapters.parameters(name))
        return adapters


@dataclass
class Branches(_Placed):
    """A branch of its own for each task beside the frozen model: what was learned before stays what it was, bit for bit.

    Args:
        share: The most that a branch may add, as a share of the model's parameters; statistics of norms count.
        rank: Its width; the largest within `share` if not given.
        kind: As in `add_adapters`.
        modules: As there; the residual blocks if not given.
        heads: As there.
        scale: As there.
        plan: How this method trains, if not as the others.
    """

    name: str = "a branch a task"
    adapters: Adapters | None = field(default=None, repr=False)

    def learn(self, model: nn.Module, task: Task, fit: Fit) -> int:
        """Add a branch and train it."""
        self.adapters = self.add(model, _few(task, model), task.name)
        fit(model, task, task.x, task.y, None)
        return sum(t.numel() for t in self.adapters.tensors(task.name).values())

    @contextmanager
    def recall(self, model: nn.Module, task: Task) -> Iterator[nn.Module]:
        """With the task's branch, or without any if it has none."""
        if self.adapters is None:
            yield model
            return
        with self.adapters.using(*[task.name] if task.name in self.adapters.names else []):
            yield model


@dataclass
class Shared(_Placed):
    """One branch for all tasks, whose size is penalised: loss + μ·Σ (s·‖U‖·‖D‖)², Frobenius norms, ≥ the branch's constant².

    Small branches disturb old decisions little: `residyn.transfer.disturbance` says how little.

    Args:
        share: As in `Branches`.
        rank: As there.
        kind: As there.
        modules: As there.
        heads: Must be empty: a head that is trained on is no small branch.
        scale: As there.
        plan: As in `Branches`.
        penalty: μ.
    """

    penalty: float = 0.0
    name: str = "one branch"
    adapters: Adapters | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.penalty < float("inf"):
            raise InputError(f"`penalty` must be finite and >= 0, got {self.penalty}; 0 lets the branch grow")
        if self.heads:
            raise InputError(
                f"`heads` must be empty for a shared branch, got {list(self.heads)}; use Branches for heads a task"
            )

    def learn(self, model: nn.Module, task: Task, fit: Fit) -> int:
        """Train the branch on; the first task adds it."""
        fresh = self.adapters is None
        if self.adapters is None:
            self.adapters = self.add(model, _few(task, model), "shared")
        adapters = self.adapters
        fit(model, task, task.x, task.y, (lambda: self.penalty * squared(adapters, "shared")) if self.penalty else None)
        return sum(t.numel() for t in adapters.tensors("shared").values()) if fresh else 0


@dataclass
class FineTune(Method):
    """All parameters are trained on.

    Args:
        plan: As in `Branches`.
    """

    name: str = "full fine-tuning"
    plan: Plan | None = None

    def learn(self, model: nn.Module, task: Task, fit: Fit) -> int:
        """Train on."""
        fit(model, task, task.x, task.y, None)
        return 0


@dataclass
class Replay(Method):
    """Full fine-tuning with samples of earlier tasks among the new ones.

    Args:
        memory: Samples kept of each task.
        plan: As in `Branches`.
    """

    memory: int = 100
    name: str = "replay"
    plan: Plan | None = None
    kept: list[tuple[Task, Tensor, Tensor]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise InputError(f"`memory` must be >= 1 sample a task, got {self.memory}; FineTune keeps none")

    def keep(self, task: Task) -> None:
        """Keep some samples of a task."""
        rows = torch.randperm(len(task.x), generator=torch.Generator().manual_seed(0))[: self.memory]
        self.kept.append((task, task.x[rows], task.y[rows]))

    def learn(self, model: nn.Module, task: Task, fit: Fit) -> int:
        """Train on; each step also sees what was kept, each kept sample in its own task's terms."""
        old = list(self.kept)

        def again() -> Tensor:
            total = torch.zeros(())
            for before, x, y in old:
                rows = torch.randint(len(x), (max(1, 32 // len(old)),))
                total = total + before.loss(model, x[rows], y[rows]) / len(old)
            return total

        fit(model, task, task.x, task.y, again if old else None)
        self.keep(task)
        return 0


def squared(adapters: Adapters, name: str) -> Tensor:
    """Σ (s·‖U‖·‖D‖)² over the branches of an adapter, Frobenius norms: at least the sum of their squared Lipschitz constants.

    Args:
        adapters: The adapters of a model.
        name: One of them.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in adapters.tensors(name).items():
        home, _, part = key.rpartition("|")
        parts.setdefault(home, {})[part] = tensor
    sizes = [
        own["gate"] ** 2 * own["up"].square().sum() * own["down"].square().sum() for own in parts.values() if "gate" in own
    ]
    return torch.stack(sizes).sum()


def widest(
    model: nn.Module,
    x: Tensor,
    *,
    share: float,
    kind: Kind = "bottleneck",
    modules: Sequence[str] | None = None,
    heads: Sequence[str] = (),
) -> int:
    """The largest rank whose adapter adds no more than a share of the model's parameters.

    Args:
        model: The model, without the adapter.
        x: What it is called with.
        share: The share.
        kind: As in `add_adapters`.
        modules: As there.
        heads: As there.

    Raises:
        InputError: If even rank 1 adds more.
    """
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    sizes = []
    for rank in (1, 2):
        adapters = add_adapters(model, x, name="probe", rank=rank, kind=kind, modules=modules, heads=heads, freeze=False)
        sizes.append(sum(t.numel() for t in adapters.tensors("probe").values()))
        adapters.remove("probe")
        if not adapters.names:
            adapters.undo()
    for name, p in model.named_parameters():
        p.requires_grad_(flags[name])
    allowed = share * sum(p.numel() for name, p in model.named_parameters() if "residyn_" not in name)
    if sizes[0] > allowed:
        raise InputError(
            f"`share` must allow a branch of rank 1, {sizes[0]:,} numbers, got {share}, {int(allowed):,} of them; raise it, or "
            "name fewer modules"
        )
    return 1 + int((allowed - sizes[0]) // (sizes[1] - sizes[0]))


def only(model: nn.Module, parameters: list[nn.Parameter]) -> None:
    """Let these parameters be trained, and no others."""
    wanted = {id(p) for p in parameters}
    for p in model.parameters():
        p.requires_grad_(id(p) in wanted)


def _few(task: Task, model: nn.Module) -> Tensor:
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    return task.x[:2].to(home)
