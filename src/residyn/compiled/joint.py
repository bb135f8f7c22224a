"""Adaptive control in tensors, one step size for the whole state: what `Adaptive` does in Python, operation by operation.

Within, time runs forwards: it is multiplied by the sign of its direction, which floating point does without error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from residyn.compiled.stages import LeafField, Leaves, choose, combine, scales, squares, take
from residyn.schemes.tableaus import Tableau

Number = Any
"""A float on the host, a tensor in a program."""

RUNNING, ARRIVED, LOST, BROKEN = 0.0, 1.0, 2.0, 3.0


class Clock(NamedTuple):
    """Where a march stands; counts are doubles too, so that all of it is one tensor."""

    t: Number
    h: Number
    """The next step to try; negative: choose the first."""
    previous: Number
    """Error ratio of the last step kept."""
    ideal: Number
    """The step that would just have been right there, h*; 0 before the first."""
    broke: Number
    """The first step from t that gave nan, or 0."""
    retry: Number
    tries: Number
    accepted: Number
    kept: Number
    """Steps accepted only because they could not be shorter."""
    status: Number
    row: Number
    """Where the next accepted step is recorded."""


class Limits(NamedTuple):
    """Numbers that a control is made of; inputs of the program, so that others do not recompile it."""

    end: Number
    sign: Number
    least: Number
    tries: Number
    rows: Number
    rtol: Number
    safety: Number
    min_factor: Number
    max_factor: Number
    min_step: Number
    max_step: Number
    power: Number
    change: Number


class Law(NamedTuple):
    """How the next step follows from the errors: what programs are made for. The numbers of it are in `Limits`.

    Args:
        simple: Whether that is h·safety·r^(-1/(q+1)).
        damped: Whether it looks at the error before.
        predictive: Whether a step that has to shrink is foreseen.
    """

    simple: bool
    damped: bool
    predictive: bool


def more(clock: Tensor, limits: Tensor) -> Tensor:
    """Whether to go on."""
    c, lim = Clock(*clock.unbind(0)), Limits(*limits.unbind(0))
    return (c.status == RUNNING) & (c.tries < lim.tries) & (c.row < lim.rows)


def step(
    f: LeafField,
    tableau: Tableau,
    order: int,
    clock: Tensor,
    x: Leaves,
    k: Leaves,
    limits: Tensor,
    atol: Leaves,
    law: Law,
) -> tuple[Tensor, Leaves, Leaves, Tensor]:
    """Try a step: the clock after it, state and slope there, and the times between which it was tried."""
    c, lim = Clock(*clock.unbind(0)), Limits(*limits.unbind(0))
    retry = c.retry != 0
    shortest = torch.maximum(4 * (torch.nextafter(c.t.abs(), torch.full_like(c.t, torch.inf)) - c.t.abs()), lim.least)
    t1 = _ahead(c.t, c.h, lim.end)
    small = (t1 - c.t <= shortest) & ((t1 != lim.end) | retry)
    lost = small & (retry | ~torch.isfinite(c.h) | (c.h == 0))
    h = torch.where(small, 2 * shortest, c.h)
    t1 = torch.where(small, _ahead(c.t, h, lim.end), t1)
    taken = take(f, tableau, c.t * lim.sign, t1 * lim.sign, x, k)
    end = f(t1 * lim.sign, taken.x)
    error = combine(None, taken.h, tableau.error, [*taken.slopes, end])
    mean = squares(error, scales(lim.rtol, atol, x, taken.x)).sum().double() / (len(x) * x[0].numel())
    ratio = mean.sqrt()
    forced = h <= lim.min_step
    good = ~lost & ((ratio <= 1.0) | (forced & (ratio < torch.inf)))
    most = 100 ** (1 / (order + 1))
    floored = ratio.clamp_min(1e-100)
    share = floored ** (-1 / (order + 1))
    factor = lim.safety * (share if law.simple else floored**lim.power)
    if law.damped:
        factor = factor * c.previous**lim.change
    ideal = (t1 - c.t) * share.clamp_max(most)
    fits = ratio <= 1.0
    if law.predictive:
        falls = fits & (ideal < c.ideal)
        factor = torch.where(falls, torch.minimum(factor, lim.safety * share * ideal / c.ideal), factor)
    factor = torch.minimum(torch.maximum(factor, lim.min_factor), lim.max_factor)
    factor = torch.where(ratio < torch.inf, factor, lim.min_factor)
    factor = torch.where(good, factor, factor.clamp_max(1.0))
    after = torch.where((ratio > 1.0) | torch.isnan(ratio), t1 - c.t, h) * factor
    after = torch.minimum(torch.maximum(after, lim.min_step), lim.max_step)
    broken = ~lost & ~good & forced
    broke = torch.where(torch.isnan(ratio) & (c.broke == 0) & ~lost, h, c.broke)
    broke = torch.where(good, torch.zeros_like(broke), torch.where(broken, h, broke))
    arrived = good & (t1 >= lim.end)
    status = torch.where(lost, LOST, torch.where(broken, BROKEN, torch.where(arrived, ARRIVED, RUNNING))).double()
    done = good.double()
    new = Clock(
        torch.where(good, t1, c.t), torch.where(lost | broken, h.where(~lost, c.h), after),
        torch.where(good & fits, ratio.clamp_min(1e-10), c.previous),
        torch.where(good & fits, ideal, c.ideal), broke, torch.where(lost, c.retry, 1 - done),
        c.tries + (~lost).double(), c.accepted + done, c.kept + (good & (ratio > 1.0)).double(), status, c.row + done,
    )  # fmt: skip
    return torch.stack(new), choose(good, taken.x, x), choose(good, end, k), torch.stack([c.t, t1])


def _ahead(t: Tensor, h: Tensor, end: Tensor) -> Tensor:
    """Where a step ends; a last one is stretched by a hundredth rather than followed by a tiny one."""
    return torch.where(t + 1.01 * h >= end, end, t + h)


def first_step(f: LeafField, order: int, clock: Tensor, x: Leaves, k: Leaves, limits: Tensor, atol: Leaves) -> Tensor:
    """The clock with a first step, if none was given; see `residyn.schemes.control.initial_step`."""
    c, lim = Clock(*clock.unbind(0)), Limits(*limits.unbind(0))
    span, count = lim.end - c.t, len(x) * x[0].numel()
    scale = scales(lim.rtol, atol, x)

    def norm(leaves: Leaves) -> Tensor:
        return (squares(leaves, scale).sum().double() / count).sqrt()

    d0, d1 = norm(x), norm(k)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).minimum(span)
    signed = h0 * lim.sign
    ahead = f(c.t * lim.sign + signed, combine(x, signed.to(x[0].dtype), (1.0,), [k]))
    d2 = norm([a - b for a, b in zip(ahead, k, strict=True)]) / h0
    top = torch.where(d2 > d1, d2, d1)
    h1 = torch.where(top <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), (0.01 / top) ** (1 / (order + 1)))
    h = torch.where(torch.isfinite(top), torch.minimum(100 * h0, h1).minimum(span), h0)
    finite = torch.stack([torch.isfinite(leaf).all() for leaf in k]).all()
    fallback = torch.where(finite, span.clamp_max(1e-6), 0.0)
    h = torch.where(torch.isfinite(d1), h, fallback).minimum(lim.max_step)
    return torch.stack(c._replace(h=torch.where(c.h < 0, h, c.h)))
