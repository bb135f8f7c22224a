"""The training loop of the atlas: mini-batches of a table, cross-entropy, Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Watch = Callable[[float], None]
"""Called after each epoch with the share of the training that is done."""


def train(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    rate: float,
    batch: int = 100,
    clip: float | None = None,
    decay: bool = False,
    watch: Watch | None = None,
) -> list[float]:
    """Train a classifier with Adam on shuffled mini-batches; the torch generator draws the order.

    Args:
        net: The classifier; left in evaluation mode.
        x: Inputs, `(N, …)`.
        y: Class numbers, `(N,)`.
        epochs: Passes over the data.
        rate: Learning rate.
        batch: Samples a step; a smaller rest is left out.
        clip: Bound on the norm of the gradient; none if not given.
        decay: Whether the rate falls to zero along a half cosine.
        watch: Told of progress.

    Returns:
        Mean loss of each epoch, in nats.
    """
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    steps = epochs * (len(x) // batch)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps) if decay else None
    history = []
    net.train()
    for epoch in range(epochs):
        losses = []
        for rows in torch.split(torch.randperm(len(x)), batch)[: len(x) // batch]:
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimiser.step()
            if cosine is not None:
                cosine.step()
            losses.append(loss.detach())
        history.append(float(torch.stack(losses).mean()))
        if watch is not None:
            watch((epoch + 1) / epochs)
    net.eval()
    return history


@torch.no_grad()
def accuracy(predict: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """Share of right predictions."""
    return float((predict(x).argmax(1) == y).double().mean())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch draw from `seed` within, and from where it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
