"""How to train, as plain values: they are checked once, kept in the checkpoint, and compared when a run goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from residyn.errors import InputError

Schedule = Literal["cosine", "constant"]
Precision = Literal["float32", "bf16"]
Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Plan:
    """How a training runs.

    One step of the optimiser sees `batch` × `accumulate` × (number of processes) samples, and takes the mean over them.

    Args:
        epochs: Passes over the data, at most.
        batch: Samples in one pass forwards and backwards on one process.
        rate: Peak learning rate.
        decay: Weight decay of the default optimiser, AdamW.
        schedule: `"cosine"` lets the rate fall to zero along half a cosine; `"constant"` does not.
        warmup: Share of all steps, in [0, 1), in which the rate rises to its peak along a line.
        accumulate: Passes whose gradients are summed before a step.
        clip: Bound on the norm of the gradient; none if not given.
        precision: `"bf16"` runs the forward pass under autocast; weights and optimiser stay in their own precision.
        patience: Epochs without a better validation loss before the run stops; never if not given.
        seed: Seed of the data's order and of all that the model draws.
        parallel: What several processes do: `"ddp"` copies the model, `"fsdp"` shards it.

    Raises:
        InputError: If a value breaks its rule.

    Reference:
        Loshchilov & Hutter (2017), "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv:1608.03983; (2019),
        "Decoupled Weight Decay Regularization", arXiv:1711.05101.

    >>> [round(Plan(epochs=1, rate=1.0, warmup=0.2).rate_at(step, 10), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]
    """

    epochs: int = 10
    batch: int = 32
    rate: float = 1e-3
    decay: float = 0.0
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    accumulate: int = 1
    clip: float | None = None
    precision: Precision = "float32"
    patience: int | None = None
    seed: int = 0
    parallel: Parallel = "ddp"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate"):
            _whole(name, getattr(self, name), 1)
        _whole("seed", self.seed, 0)
        if self.patience is not None:
            _whole("patience", self.patience, 1)
        if not 0 < self.rate < math.inf:
            raise InputError(f"`rate` must be a finite learning rate > 0, got {self.rate}; 1e-3 is usual")
        if not 0 <= self.decay < math.inf:
            raise InputError(f"`decay` must be a finite weight decay >= 0, got {self.decay}; 0 has none")
        if not 0 <= self.warmup < 1:
            raise InputError(f"`warmup` must be a share of the steps in [0, 1), got {self.warmup}; 0.05 is usual")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise InputError(f"`clip` must be a finite norm > 0, or None, got {self.clip}; 1 is usual")
        for name, known in (("schedule", Schedule), ("precision", Precision), ("parallel", Parallel)):
            _one_of(name, getattr(self, name), get_args(known))

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step, a function of its number and of nothing else.

        Args:
            step: Number of the step, from 0.
            steps: Steps of the whole run.

        Returns:
            rate·(step + 1)/w in the w steps of warm-up, then rate·(1 + cos π·s)/2 with s the share of the others done.
        """
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return self.rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.rate
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        words = " or ".join(f'"{word}"' for word in known)
        raise InputError(f"`{name}` must be {words}, got {value!r}")


def _whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"`{name}` must be a whole number >= {least}, got {value!r}")
