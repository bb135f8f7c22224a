"""Projected gradient ascent with momentum and a step that halves where progress stalls."""

from __future__ import annotations

import torch
from torch import Tensor

from residyn.robust.ball import Ball
from residyn.robust.inputs import Model, logits, margins
from residyn.robust.losses import Loss

_MOMENTUM = 0.75
_RISES = 0.75


def checkpoints(steps: int) -> list[int]:
    """The iterations at which the step is looked at: 22 % of the way, then at intervals that shrink by 3 % to 6 %.

    >>> checkpoints(100)[:5]
    [22, 41, 57, 70, 80]
    """
    before, at, found = 0.0, 0.22, []
    while at < 1:
        found.append(max(1, round(at * steps)))
        before, at = at, at + max(at - before - 0.03, 0.06)
    return sorted(set(found))


class Ascent:
    """Raises a loss within balls, sample by sample, and keeps the point of each at which the margin was least.

    Args:
        model: The classifier.
        ball: Where to look.
        y: Labels, `(B,)`.
        loss: What is raised.

    Attributes:
        best: Points of least margin so far.
        margin: Their margins.

    Reference:
        Croce & Hein (2020), arXiv:2003.01690, Algorithm 1: the schedule; written from the paper.
    """

    def __init__(self, model: Model, ball: Ball, y: Tensor, loss: Loss) -> None:
        self.model, self.ball, self.y, self.loss = model, ball, y, loss
        self.best, self.margin = ball.x.clone(), torch.full((len(y),), torch.inf, dtype=torch.float64, device=y.device)

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Loss `(B,)` and its gradient at points of the ball; notes points of least margin."""
        z = z.detach().requires_grad_()
        scores = logits(self.model, z)
        value = self.loss(scores, self.y)
        (gradient,) = torch.autograd.grad(value.sum(), z, allow_unused=True)
        gradient = torch.zeros_like(z) if gradient is None else torch.nan_to_num(gradient)
        margin = margins(scores.detach(), self.y).double()
        less = margin < self.margin
        self.margin = torch.where(less, margin, self.margin)
        self.best = torch.where(self._wide(less), z.detach(), self.best)
        return torch.nan_to_num(value.detach().double(), nan=-torch.inf), gradient.detach()

    def _wide(self, mask: Tensor) -> Tensor:
        return mask.reshape(-1, *[1] * (self.ball.x.ndim - 1))

    def run(self, start: Tensor, steps: int) -> None:
        """Climb from `start`; ends early once every sample has a negative margin."""
        z, last = start, start
        value, gradient = self.evaluate(z)
        size = 2 * self.ball.eps
        top, top_z, top_gradient = value, z, gradient
        at_check, size_at_check = top.clone(), size.clone()
        rises = torch.zeros_like(value)
        marks, since = checkpoints(steps), 0
        for k in range(steps):
            if bool((self.margin < 0).all()):
                return
            move = self.ball.project(z + self.ball.spread(size) * self.ball.steepest(gradient))
            share = _MOMENTUM if k else 1.0
            ahead = self.ball.project(z + share * (move - z) + (1 - share) * (z - last))
            last, z, before = z, ahead, value
            value, gradient = self.evaluate(z)
            rises += (value > before).double()
            higher = value > top
            top = torch.where(higher, value, top)
            top_z = torch.where(self._wide(higher), z, top_z)
            top_gradient = torch.where(self._wide(higher), gradient, top_gradient)
            since += 1
            if k + 1 in marks:
                stalled = (rises < _RISES * since) | ((size == size_at_check) & (top == at_check))
                size_at_check = size.clone()
                size = torch.where(stalled, size / 2, size)
                z, last = torch.where(self._wide(stalled), top_z, z), torch.where(self._wide(stalled), top_z, last)
                gradient = torch.where(self._wide(stalled), top_gradient, gradient)
                value = torch.where(stalled, top, value)
                at_check, rises, since = top.clone(), torch.zeros_like(rises), 0
