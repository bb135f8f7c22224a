"""A small residual classifier for those who bring a source and no model, and its training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.step import Residual
from residyn.training import Moment, Plan, Trainer


class _Scaled(nn.Module):
    """(x - mean)/spread, feature by feature; for pictures with one mean and spread a channel."""

    mean: Tensor
    spread: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        axes = [0, *range(2, x.ndim)]
        spread = x.std(axes, keepdim=True, correction=0)
        self.register_buffer("mean", x.mean(axes, keepdim=True))
        self.register_buffer("spread", torch.where(spread > 1e-6 * spread.max().clamp(min=1e-30), spread, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.spread


def _table_block(width: int) -> Residual:
    return Residual(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)))


def _picture_block(width: int) -> Residual:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return Residual(nn.Sequential(*layers[:-1]))


def network(x: Tensor, classes: int) -> nn.Module:
    """An untrained residual classifier for samples like these.

    Args:
        x: Samples, `(n, d)` or pictures `(n, C, H, W)`.
        classes: Number of classes.

    Raises:
        InputError: If samples are neither.
    """
    if x.ndim == 2:
        width = 128
        blocks = [_table_block(width) for _ in range(2)]
        return nn.Sequential(_Scaled(x), nn.Linear(x.shape[1], width), *blocks, nn.ReLU(), nn.Linear(width, classes))
    if x.ndim != 4:
        raise InputError(
            f"`x` must be a table (n, d) or pictures (n, C, H, W), got {tuple(x.shape)}; bring a model of your own"
        )
    width = 16
    steps: list[nn.Module] = [_Scaled(x), nn.Conv2d(x.shape[1], width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    steps += [_picture_block(width), nn.ReLU(), _picture_block(width), nn.ReLU(), nn.AdaptiveMaxPool2d(4), nn.Flatten()]
    return nn.Sequential(*steps, nn.Linear(16 * width, classes))


def trained(
    x: Tensor, y: Tensor, classes: int, *, steps: int = 900, seed: int = 0, watch: Callable[[float], None] | None = None
) -> nn.Module:
    """A classifier of the source, trained on all of it.

    Args:
        x: Samples.
        y: Class numbers, `(n,)`.
        classes: Number of classes.
        steps: Steps of AdamW on 64 samples, about.
        seed: Of weights and order.
        watch: Told the share that is done.

    Returns:
        The network in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network(x, classes)
    batch = min(64, len(x))
    plan = Plan(epochs=max(1, round(steps * batch / len(x))), batch=batch, rate=2e-3, decay=1e-2, warmup=0.05, seed=seed)
    told = None if watch is None else lambda moment: watch(_done(moment))
    Trainer(net, lambda model, rows: nn.functional.cross_entropy(model(rows[0]), rows[1]), (x, y), plan, progress=told).run()
    return net.eval()


def _done(moment: Moment) -> float:
    return moment.step / max(moment.steps, 1)
