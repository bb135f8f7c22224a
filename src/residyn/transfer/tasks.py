"""A task of a sequence: what is learned, what is asked, and the checks at its boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from residyn.audit.trace import tensors
from residyn.errors import InputError


@dataclass(frozen=True)
class Task:
    """A classification task.

    Args:
        name: Its name: letters, digits, `_` and `-`.
        x: Inputs to learn from, `(N, …)`.
        y: Their class numbers, `(N,)`.
        x_test: Inputs to be asked, `(M, …)`.
        y_test: Their class numbers, `(M,)`.
        classes: The classes that may be answered, if not all that the model knows: the task says so when it is asked.
    """

    name: str
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[int, ...] | None = None

    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        """What a model says, `(B, C)`; classes that may not be answered are at -inf."""
        z = logits(model, x)
        if self.classes is None:
            return z
        allowed = torch.full((z.shape[1],), -torch.inf, device=z.device, dtype=z.dtype)
        allowed[list(self.classes)] = 0.0
        return z + allowed

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy, in nats."""
        return f.cross_entropy(self.logits(model, x), y)

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Share of the test inputs that a model in evaluation mode gets right."""
        home = next((p.device for p in model.parameters()), torch.device("cpu"))
        right = 0
        for x, y in zip(torch.split(self.x_test, 512), torch.split(self.y_test, 512), strict=True):
            right += int((self.logits(model, x.to(home)).argmax(1).cpu() == y.cpu()).sum())
        return right / len(self.y_test)


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """The logits of a model: what it returns, or the first tensor in that.

    Raises:
        InputError: If they are none.
    """
    out = model(x)
    found = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    found = next(tensors(out), None) if found is None else found
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(out).__name__
        raise InputError(f"`model` must return logits ({len(x)}, C), got {got}; wrap it in a module that does")
    return found


def check(task: Task, model: nn.Module, earlier: Sequence[Task]) -> None:
    """Refuse a task that cannot be learned by a model, before anything is changed.

    Args:
        task: The task.
        model: The model, which is asked for two samples.
        earlier: The tasks before it.

    Raises:
        InputError: With the rule that is broken.
    """
    if task.name in (known := [one.name for one in earlier]):
        raise InputError(f"`tasks` must have names of their own, got {task.name!r} twice; there are {', '.join(known)}")
    for what, x, y in (("x", task.x, task.y), ("x_test", task.x_test, task.y_test)):
        label = "y" + what[1:]
        if len(x) == 0:
            raise InputError(f"`{what}` of task {task.name!r} must hold a sample, got none")
        if y.ndim != 1 or len(y) != len(x):
            raise InputError(f"`{label}` of task {task.name!r} must be ({len(x)},), one class a sample, got {tuple(y.shape)}")
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
            raise InputError(f"`{label}` of task {task.name!r} must be class numbers, got {y.dtype}; pass y.long()")
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise InputError(f"`{what}` of task {task.name!r} must be finite, got nan or inf; mend the data first")
        like = earlier[0].x if earlier else task.x
        if x.shape[1:] != like.shape[1:]:
            raise InputError(
                f"`{what}` of task {task.name!r} must have the features of the tasks before, {tuple(like.shape[1:])}, got "
                f"{tuple(x.shape[1:])}"
            )
    _classes(task, model)


def _classes(task: Task, model: nn.Module) -> None:
    """Labels must be among what the model can answer, what the task allows, and what it teaches."""
    mode = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            home = next((p.device for p in model.parameters()), torch.device("cpu"))
            count = logits(model, task.x[:2].to(home)).shape[1]
    finally:
        for module, training in mode:
            module.training = training
    taught, asked = set(task.y.tolist()), set(task.y_test.tolist())
    allowed = set(range(count)) if task.classes is None else set(task.classes)
    if not allowed or min(allowed) < 0 or max(allowed) >= count:
        raise InputError(f"`classes` of task {task.name!r} must lie in 0 … {count - 1}, got {sorted(allowed)}")
    if taught - allowed:
        raise InputError(
            f"`y` of task {task.name!r} must be classes that the model can answer, {_some(allowed)}, got "
            f"{_some(taught - allowed)}; give the model an output for each"
        )
    if asked - taught:
        raise InputError(
            f"`y_test` of task {task.name!r} must be classes that `y` teaches, {_some(taught)}, got {_some(asked - taught)}"
        )


def _some(classes: set[int]) -> str:
    listed = sorted(classes)
    if len(listed) > 3 and listed == list(range(listed[0], listed[-1] + 1)):
        return f"{listed[0]} … {listed[-1]}"
    return ", ".join(map(str, listed[:8])) + (", …" if len(listed) > 8 else "")
