"""The data of a training: rows by number, in an order that only the seed and the epoch decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from residyn.errors import InputError


class Samples:
    """Samples by number: tensors that share their first axis, or anything with a length and items.

    Args:
        data: A tensor, a tuple of tensors, or a dataset `data[i]` whose items are stacked to batches.

    Raises:
        InputError: If there are no samples, or the tensors have different numbers of them.

    >>> Samples((torch.arange(4.0), torch.arange(4)))[torch.tensor([2, 0])]
    (tensor([2., 0.]), tensor([2, 0]))
    """

    def __init__(self, data: Any) -> None:
        self.whole = isinstance(data, Tensor) or (
            isinstance(data, tuple) and bool(data) and all(isinstance(part, Tensor) for part in data)
        )
        self.data = data
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            raise InputError(
                f"`data` must be tensors or a dataset with a length and items, got {type(data).__name__}; "
                "gather a stream into a list first"
            )
        sizes = {len(part) for part in data} if self.whole and isinstance(data, tuple) else {len(data)}
        if len(sizes) > 1:
            raise InputError(f"`data` must have tensors of one length, got {sorted(sizes)}; each row is a sample")
        self.size = sizes.pop()
        if self.size == 0:
            raise InputError("`data` must hold at least one sample, got none")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, rows: Tensor) -> Any:
        """A batch of some rows, `(b,)`."""
        if not self.whole:
            return default_collate([self.data[i] for i in rows.tolist()])
        if isinstance(self.data, Tensor):
            return self.data[rows]
        return tuple(part[rows] for part in self.data)


def steps_of(size: int, group: int, processes: int) -> int:
    """Steps of one epoch: groups of `group` samples, the last one smaller; fewer than `processes` samples are left out.

    >>> steps_of(103, 20, 2), steps_of(101, 20, 2)
    (6, 5)
    """
    whole, rest = divmod(size, group)
    return whole + (rest >= processes)


def order_of(size: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: a permutation drawn from (seed, epoch) and from nothing else."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def passes(order: Tensor, step: int, group: int, batch: int, place: tuple[int, int]) -> Sequence[Tensor]:
    """The rows that one process sees in one step, a tensor for each pass.

    Each process takes its share of the step's rows, so that p processes together take the step that one would take with p
    times the batch.

    Args:
        order: The order of the epoch.
        step: Number of the step in it.
        group: Samples of a step over all processes.
        batch: Samples of a pass.
        place: Number of this process, and of how many.

    >>> passes(torch.arange(10), 1, 4, 2, (0, 2)), passes(torch.arange(10), 1, 4, 2, (1, 2))
    ((tensor([4, 6]),), (tensor([5, 7]),))
    """
    process, processes = place
    rows = order[step * group : (step + 1) * group]
    rows = rows[: len(rows) // processes * processes]
    return torch.split(rows[process::processes], batch)
