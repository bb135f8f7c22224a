"""What is hung on the end of a branch: gains, random drops and adapters, as forward hooks; what they learn is the module's."""

from __future__ import annotations

from typing import Any

import torch
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
    """Through an adapter, a submodule of the module under a name.

    Args:
        place: Which of the returned tensors.
        name: The name.
    """

    def __init__(self, place: int, name: str) -> None:
        super().__init__(place)
        self.name = name

    def change(self, module: nn.Module, branch: Tensor) -> Tensor:
        """The adapter's output."""
        adapter: Any = getattr(module, self.name)
        adapted: Tensor = adapter(branch)
        return adapted


class Adapter(nn.Module):
    """A bottleneck z + B·relu(A·z) that starts as the identity, on the channels of a branch.

    Args:
        channels: Their number.
        rank: Width of the bottleneck.
        axis: Which axis they lie on: 1 for images, -1 otherwise.

    Reference:
        Houlsby et al. (2019), "Parameter-Efficient Transfer Learning for NLP", arXiv:1902.00751.
    """

    def __init__(self, channels: int, rank: int, axis: int) -> None:
        super().__init__()
        self.down, self.up, self.axis = nn.Linear(channels, rank), nn.Linear(rank, channels), axis
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, z: Tensor) -> Tensor:
        """z + B·relu(A·z)."""
        last = z.movedim(self.axis, -1)
        return z + self.up(torch.relu(self.down(last))).movedim(-1, self.axis)
