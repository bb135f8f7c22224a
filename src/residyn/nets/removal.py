"""What a trained model loses when blocks are taken out of it at test time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from residyn import audit
from residyn.errors import InputError


@dataclass(frozen=True)
class RemovalCurve:
    """A metric by the number of blocks that were taken out.

    Args:
        counts: How many blocks.
        mean: The metric, mean over the random choices of that many.
        spread: Its standard deviation over them; 0 of one choice.
        blocks: Number of blocks that the model has.
    """

    counts: list[int]
    mean: list[float]
    spread: list[float]
    blocks: int


def removal_curve(
    model: nn.Module,
    x: Any,
    y: Tensor,
    *,
    counts: Sequence[int] | None = None,
    draws: int = 8,
    metric: Callable[[Any, Tensor], float] | None = None,
    seed: int = 0,
) -> RemovalCurve:
    """Take random blocks out of a model in evaluation, more and more of them, and see what is left of a metric.

    With shortcuts a block that is gone leaves x as it is, so that the loss is graceful; most so after stochastic depth.

    Args:
        model: Any model; the audit finds its blocks. It is left as it was.
        x: Its input, two samples at least; a tuple for several.
        y: What the metric compares the output with.
        counts: How many blocks to take out; 0, 1 and eighths up to half of them if not given.
        draws: Random choices for each.
        metric: Function of output and y; the share of right classes if not given.
        seed: Of the choices.

    Returns:
        The curve.

    Raises:
        InputError: If the model has no block, or a count is out of range.

    Reference:
        Veit, Wilber & Belongie (2016), "Residual Networks Behave Like Ensembles of Relatively Shallow Networks",
        arXiv:1605.06431.

    >>> from residyn.nets import MLP, ResNet
    >>> net = ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(8)], nn.Linear(8, 2))
    >>> removal_curve(net, torch.randn(6, 4), torch.zeros(6)).counts
    [0, 1, 2, 3, 4]
    """
    inputs = x if isinstance(x, tuple) else (x,)
    score = metric or _accuracy
    seen = audit.audit(model, *inputs, budget=0)
    names = [block.name for block in seen.blocks]
    if not names:
        raise InputError("`model` must have a residual block x + F(x), got none")
    if draws < 1:
        raise InputError(f"`draws` must be at least 1, got {draws}")
    eighths = {round(i * len(names) / 8) for i in range(5)} | {0, 1}
    wanted = sorted(eighths) if counts is None else list(counts)
    wrong = next((count for count in wanted if not 0 <= count <= len(names)), None)
    if wrong is not None:
        raise InputError(f"`counts` must lie in 0…{len(names)}, the number of blocks, got {wrong}")
    generator = torch.Generator().manual_seed(seed)
    training = model.training
    mean, spread = [], []
    model.eval()
    try:
        for count in wanted:
            values = []
            for _ in range(draws if 0 < count < len(names) else 1):
                gone = torch.randperm(len(names), generator=generator)[:count].tolist()
                with torch.no_grad(), seen.patch(drop=[names[i] for i in gone]) as patched:
                    values.append(float(score(patched(*inputs), y)))
            found = torch.tensor(values, dtype=torch.float64)
            mean.append(float(found.mean()))
            spread.append(float(found.std()) if len(values) > 1 else 0.0)
    finally:
        model.train(training)
    return RemovalCurve(wanted, mean, spread, len(names))


def _accuracy(output: Any, y: Tensor) -> float:
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", output)
    return float((logits.argmax(-1) == y).double().mean())
