"""The strongest answer-changing move within a ball, as far as gradients find it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.robust.ascent import Ascent
from residyn.robust.ball import Ball
from residyn.robust.inputs import Box, Model, as_box, as_eps, as_labels, as_model, as_norm, as_samples, logits, margins, quietly
from residyn.robust.losses import Loss, cross_entropy, ratio, towards

_CHUNK = 256
"""Samples attacked at a time."""


class Adversarial(NamedTuple):
    """What an attack found.

    Attributes:
        x: Samples of least margin within the ball, `(B, …)`; the given ones where they are misclassified already.
        success: Whether their class is no longer y, `(B,)`.
        margin: z_y - max_{j≠y} z_j there, `(B,)`: negative where it succeeded.
    """

    x: Tensor
    success: Tensor
    margin: Tensor

    @property
    def accuracy(self) -> float:
        """Share of samples that withstood."""
        return 1 - float(self.success.double().mean())


def attack(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor,
    norm: str = "l2",
    box: tuple[float, float] | None = (0, 1),
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    seed: int = 0,
) -> Adversarial:
    """Look for δ with ‖δ‖ ≤ ε, x + δ in the box, at which a classifier no longer answers y.

    Projected gradient ascent with momentum and a step that halves where progress stalls, on the cross-entropy, on the ratio
    of logit differences, and on the margin to each of the likeliest other classes, from x and from random starts; each on
    the samples that withstood what came before. ‖δ‖ ≤ ε and the box hold for the returned numbers in floating point.

    Args:
        model: The classifier, from `(B, …)` to logits `(B, C)`; a module is evaluated in evaluation mode, and nothing of it
            is changed.
        x: Samples, in the box.
        y: Their classes, `(B,)`.
        eps: ε, in units of x; one number, or one a sample.
        norm: `"l2"`, the Euclidean norm over all values of a sample, or `"linf"`, the largest.
        box: Least and largest value of inputs; none for None.
        steps: Iterations of each ascent.
        restarts: Random starts of the first two losses.
        targets: How many other classes are aimed at one by one.
        seed: Seed of the starts; the global generators are left alone.

    Returns:
        An `Adversarial`.

    Raises:
        InputError: If an argument breaks its rule, or the model returns something else than logits.

    Reference:
        Croce & Hein (2020), arXiv:2003.01690; Madry, Makelov, Schmidt, Tsipras & Vladu (2018), arXiv:1706.06083.

    >>> found = attack(lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1), torch.full((1, 2), 0.4), torch.tensor([0]), 0.3)
    >>> found.success.item(), round((found.x - 0.4).norm().item(), 3)
    (True, 0.3)
    """
    ball, y = prepared(model, x, y, eps, norm, box)
    for name, value, least in (("steps", steps, 1), ("restarts", restarts, 1), ("targets", targets, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"`{name}` must be a whole number >= {least}, got {value!r}")
    generator = torch.Generator().manual_seed(seed)
    with quietly(model, ball.x):
        parts = [
            _chunk(model, ball.rows(rows), y[rows], steps, restarts, targets, generator)
            for rows in torch.split(torch.arange(len(y), device=y.device), _CHUNK)
        ]
    z, margin = (torch.cat(values) for values in zip(*parts, strict=True))
    return Adversarial(z, margin < 0, margin.to(ball.x.dtype))


def prepared(model: Model, x: Tensor, y: Tensor, eps: float | Tensor, norm: str, box: Box) -> tuple[Ball, Tensor]:
    """All that was handed in, checked: balls and labels."""
    as_model(model)
    limits = as_box(box)
    x = as_samples(x, limits)
    radius = as_eps(eps, x)
    kind = as_norm(norm)
    with quietly(model, x), torch.no_grad():
        scores = logits(model, x[: min(2, len(x))])
    return Ball(x, radius, kind, limits), as_labels(y, x, scores.shape[1])


def _chunk(
    model: Model, ball: Ball, y: Tensor, steps: int, restarts: int, targets: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Points of least margin, and the margins."""
    with torch.no_grad():
        scores = logits(model, ball.x)
    best, margin = ball.x.clone(), margins(scores, y).double()
    others = scores.scatter(1, y.unsqueeze(1), -torch.inf).argsort(1, descending=True)[:, : min(targets, scores.shape[1] - 1)]
    jobs: list[tuple[Loss | int, bool]] = [(loss, False) for loss in (ratio, cross_entropy)]
    jobs += [(loss, True) for _ in range(restarts) for loss in (cross_entropy, ratio)]
    jobs += [(k, False) for k in range(others.shape[1])]
    for kind, random in jobs:
        left = (margin >= 0).nonzero().flatten()
        if not len(left):
            break
        part = ball.rows(left)
        loss = towards(others[left, kind]) if isinstance(kind, int) else kind
        ascent = Ascent(model, part, y[left], loss)
        ascent.run(part.random(generator) if random else part.x, steps)
        less = (ascent.margin < margin[left]).nonzero().flatten()
        best[left[less]], margin[left[less]] = ascent.best[less], ascent.margin[less]
    return best, margin
