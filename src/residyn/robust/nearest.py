"""The smallest move that changes the answer, as far as gradients find it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.robust.attacking import attack, prepared
from residyn.robust.ball import Ball
from residyn.robust.inputs import Model, logits, margins, quietly
from residyn.robust.losses import ratio


class Nearest(NamedTuple):
    """What the search found.

    Attributes:
        x: Samples whose class is not y, `(B, …)`; the given ones where nothing was found.
        radius: Their distance from the given ones, `(B,)`; 0 where those are misclassified, inf where nothing was found.
    """

    x: Tensor
    radius: Tensor


def nearest(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: str = "l2",
    box: tuple[float, float] | None = (0, 1),
    *,
    steps: int = 100,
    rounds: int = 3,
    limit: float | None = None,
    seed: int = 0,
) -> Nearest:
    """Look for the δ of least norm at which a classifier no longer answers y: an upper bound on every certified radius.

    First the radius is decoupled from the direction: it shrinks where the last point was misclassified and grows where not.
    Then `attack` is asked for better at a radius 5 % below the best one, again and again, and what is found is drawn back to
    the boundary.

    Args:
        model: The classifier; nothing of it is changed.
        x: Samples, in the box.
        y: Their classes.
        norm: `"l2"` or `"linf"`.
        box: Least and largest value of inputs; none for None.
        steps: Iterations of the first search, and of each attack.
        rounds: Attacks below the best radius.
        limit: Radius beyond which it is not looked; the diameter of the box if not given, 100 without box.
        seed: Seed of the attacks' starts.

    Returns:
        A `Nearest`.

    Raises:
        InputError: As `attack`.

    Reference:
        Rony, Hafemann, Oliveira, Ben Ayed, Sabourin & Granger (2019), "Decoupling Direction and Norm for Efficient
        Gradient-Based L2 Adversarial Attacks and Defenses", arXiv:1811.09600.

    >>> found = nearest(lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1), torch.full((1, 2), 0.7), torch.tensor([0]))
    >>> round(found.radius.item(), 3)  # from (0.7, 0.7) to the line x₁ + x₂ = 1/2
    0.636
    """
    whole = limit if limit is not None else 100.0
    if limit is None and box is not None:
        size = float(box[1]) - float(box[0])
        whole = size * (x[0].numel() ** 0.5 if str(norm).lower() == "l2" else 1.0)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0 or not isinstance(steps, int) or steps < 1:
        raise InputError(f"`steps` must be a whole number >= 1 and `rounds` >= 0, got {steps!r} and {rounds!r}")
    ball, y = prepared(model, x, y, whole, norm, box)
    with quietly(model, ball.x):
        best, radius = _decoupled(model, ball, y, steps)
        for round_ in range(rounds):
            left = ((radius > 0) & (radius < torch.inf)).nonzero().flatten()
            lost = (radius == torch.inf).nonzero().flatten() if round_ == 0 else left[:0]
            left = torch.cat([left, lost])
            if not len(left):
                break
            inside = torch.where(radius[left] < torch.inf, 0.95 * radius[left], torch.full_like(radius[left], whole))
            found = attack(model, ball.x[left], y[left], inside, norm, box, steps=steps, seed=seed + round_)
            won = found.success.nonzero().flatten()
            at = left[won]
            best[at], radius[at] = _drawn_back(model, ball.rows(at), y[at], found.x[won])
    return Nearest(best, radius.to(ball.x.dtype))


def _decoupled(model: Model, ball: Ball, y: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Points beyond the boundary and their distances, float64."""
    x = ball.x
    best, radius = x.clone(), torch.full((len(y),), torch.inf, dtype=torch.float64, device=x.device)
    z, size = x.clone(), _first_guess(model, ball, y)
    for k in range(steps):
        z = z.detach().requires_grad_()
        scores = logits(model, z)
        wrong = margins(scores.detach(), y) < 0
        distance = ball.length(z.detach().double() - x.double())
        better = wrong & (distance < radius)
        radius = torch.where(better, distance, radius)
        best = torch.where(better.reshape(-1, *[1] * (x.ndim - 1)), z.detach(), best)
        (gradient,) = torch.autograd.grad(ratio(scores, y).sum(), z, allow_unused=True)
        gradient = torch.zeros_like(z) if gradient is None else torch.nan_to_num(gradient)
        step = 0.5 * (1 - k / steps) + 0.02
        rate = 0.1 * (1 - k / steps) + 0.005
        size = (torch.where(wrong, torch.minimum(size, distance) * (1 - rate), size * (1 + rate))).clamp(min=1e-12)
        size = torch.minimum(size, ball.eps)
        target = Ball(x, size, ball.norm, ball.box)
        ahead = z.detach() + ball.spread(step * size) * ball.steepest(gradient)
        shift = (ahead - x) * ball.spread(size / ball.length(ahead - x).clamp(min=1e-300))
        z = target.project(x + (shift if ball.norm == "l2" else ahead - x))
    found = (radius < torch.inf) & (radius > 0)
    index = found.nonzero().flatten()
    if len(index):
        best[index], radius[index] = _drawn_back(model, ball.rows(index), y[index], best[index])
    return best, radius


def _first_guess(model: Model, ball: Ball, y: Tensor) -> Tensor:
    """margin/‖∇margin‖: the distance of the boundary of the linearised classifier."""
    z = ball.x.clone().requires_grad_()
    margin = margins(logits(model, z), y)
    (gradient,) = torch.autograd.grad(margin.sum(), z, allow_unused=True)
    flat = (torch.zeros_like(z) if gradient is None else torch.nan_to_num(gradient)).double().flatten(1)
    slope = flat.norm(dim=1) if ball.norm == "l2" else flat.abs().sum(1)
    guess = margin.detach().double().clamp(min=0) / slope.clamp(min=1e-12)
    return torch.minimum(guess.clamp(min=1e-6), ball.eps)


@torch.no_grad()
def _drawn_back(model: Model, ball: Ball, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The point nearest to x on the way to z that is still misclassified, by bisection, and its distance."""
    near, far = torch.zeros(len(y), dtype=torch.float64, device=z.device), torch.ones_like(y, dtype=torch.float64)
    best = z
    for _ in range(16):
        middle = (near + far) / 2
        trial = ball.x + ball.spread(middle) * (z - ball.x)
        wrong = margins(logits(model, trial), y) < 0
        best = torch.where(wrong.reshape(-1, *[1] * (z.ndim - 1)), trial, best)
        near, far = torch.where(wrong, near, middle), torch.where(wrong, middle, far)
    return best, ball.length(best.double() - ball.x.double())
