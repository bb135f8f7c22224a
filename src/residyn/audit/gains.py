"""What is hung on the end of a branch: gains, random drops and adapters, as forward hooks; what they learn is the module's."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from residyn.audit.absent import replaced


class Hook:
    """Changes one of the tensors that a module returns.

    Args:
        place: Which one.
    """

    def __init__(self, place: int) -> None:
        self.place = place

    def __call__(self, module: nn.Module, args: Any, out: Any) -> Any:
        """What the module returns from now on."""
        return replaced(out, lambda i, t: self.change(module, t) if i == self.place else t)

    def change(self, module: nn.Module, branch: Tensor) -> Tensor:
        """The branch from now on."""
        raise NotImplementedError


class Gain(Hook):
    """Times a number or a tensor, F ← a·F; a name stands for a parameter of the module.

    Args:
        place: Which of the returned tensors.
        factor: a, or the name of the parameter.
    """

    def __init__(self, place: int, factor: float | Tensor | str) -> None:
        super().__init__(place)
        self.factor = factor

    def change(self, module: nn.Module, branch: Tensor) -> Tensor:
        """a·F."""
        factor: Any = getattr(module, self.factor) if isinstance(self.factor, str) else self.factor
        return branch * (factor.to(branch.dtype) if isinstance(factor, Tensor) else factor)


class Survival(Hook):
    """In training, F ← F·b/p with b ~ Bernoulli(p), drawn for each sample; in evaluation nothing.

    Args:
        place: Which of the returned tensors.
        keep: p.
    """

    def __init__(self, place: int, keep: float) -> None:
        super().__init__(place)
        self.keep = keep

    def change(self, module: nn.Module, branch: Tensor) -> Tensor:
        """F, dropped now and then."""
        if not module.training or self.keep >= 1:
            return branch
        shape = (branch.shape[0], *[1] * (branch.ndim - 1))
        return branch * ((torch.rand(shape, device=branch.device) < self.keep).to(branch.dtype) / self.keep)


class Adapted(Hook):
    """Through an adapter, z → z + B·relu(A·z + a) + b, whose tensors are parameters of the module.

    They are no child of it: a module that runs its children one after the other, as `Sequential` does, would run that too.

    Args:
        place: Which of the returned tensors.
        start: What the names of its parameters start with.
        axis: Which axis the channels lie on: 1 for images, -1 otherwise.

    Reference:
        Houlsby et al. (2019), "Parameter-Efficient Transfer Learning for NLP", arXiv:1902.00751.
    """

    def __init__(self, place: int, start: str, axis: int) -> None:
        super().__init__(place)
        self.start, self.axis = start, axis

    def change(self, module: nn.Module, branch: Tensor) -> Tensor:
        """The adapter's output."""
        return branch + bottleneck(module, self.start, branch, self.axis)


def bottleneck(module: nn.Module, start: str, z: Tensor, axis: int) -> Tensor:
    """U·relu(D·z + d) + u on the channels of z, or U·D·z where there is no d.

    Args:
        module: The module whose parameters `down` (r, n), `downbias` (r,), `up` (n, r) and `upbias` (n,) are.
        start: What their names start with.
        z: `(B, …)`.
        axis: Where the n channels lie.
    """
    own: dict[str, Any] = module._parameters
    hidden = f.linear(z.movedim(axis, -1), own[f"{start}down"], own.get(f"{start}downbias"))
    if f"{start}downbias" in own:
        hidden = torch.relu(hidden)
    return f.linear(hidden, own[f"{start}up"], own.get(f"{start}upbias")).movedim(-1, axis)


def started(shapes: dict[str, tuple[int, ...]], generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors of a branch that starts as nothing: `down` uniform with variance 1/(3n), all else zero.

    Args:
        shapes: Their shapes, by part.
        generator: What draws.
    """
    made = {part: torch.zeros(size) for part, size in shapes.items()}
    bound = 1 / math.sqrt(math.prod(shapes["down"][1:]))
    made["down"].uniform_(-bound, bound, generator=generator)
    return made
