"""Adaptive control in tensors, a step size for each sample: what `march_per_sample` does on the host, operation by operation.

Within, every sample runs forwards: its time is multiplied by the sign of its direction.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from residyn.compiled.joint import ARRIVED, LOST, RUNNING, Law, Number
from residyn.compiled.stages import LeafField, Leaves, choose, combine, scales, squares, take, wide
from residyn.schemes.tableaus import Tableau

NEVER = 1e-200
"""An ideal step that falls short of none."""


class Clocks(NamedTuple):
    """Where each sample stands, `(B,)` each."""

    t: Tensor
    h: Tensor
    """The next step to try; negative: choose the first."""
    tried: Tensor
    """The step tried last."""
    previous: Tensor
    ideal: Tensor
    """The step that would just have been right where it was last kept, h*."""
    broke: Tensor
    """The first step from t that gave nan, or 0."""
    refused: Tensor
    lost: Tensor
    """Whether it can go no further."""
    moved: Tensor
    """Whether it took a step in the last round."""


class Tally(NamedTuple):
    """Where the march stands."""

    rounds: Number
    accepted: Number
    kept: Number
    status: Number
    row: Number


class Limits(NamedTuple):
    """Numbers of the control, `()` each."""

    rounds: Number
    rows: Number
    rtol: Number
    safety: Number
    min_factor: Number
    max_factor: Number
    min_step: Number
    max_step: Number
    power: Number
    change: Number


class Ends(NamedTuple):
    """Numbers of the samples, `(B,)` each: the last time, the direction, and a step that any of its times resolves."""

    end: Tensor
    sign: Tensor
    least: Tensor


def more(tally: Tensor, limits: Tensor) -> Tensor:
    """Whether to go on."""
    c, lim = Tally(*tally.unbind(0)), Limits(*limits.unbind(0))
    return (c.status == RUNNING) & (c.rounds < lim.rounds) & (c.row < lim.rows)


def step(
    f: LeafField, tableau: Tableau, order: int, clocks: Tensor, tally: Tensor, x: Leaves, k: Leaves,
    limits: Tensor, ends: Tensor, atol: Leaves, law: Law,
) -> tuple[Tensor, Tensor, Leaves, Leaves, Tensor]:  # fmt: skip
    """Try a round of steps: clocks and tally after it, states and slopes, and the times of the steps that were kept."""
    c, n, lim, own = Clocks(*clocks.unbind(0)), Tally(*tally.unbind(0)), Limits(*limits.unbind(0)), Ends(*ends.unbind(0))
    refused = c.refused != 0
    t1 = torch.where(c.t + 1.01 * c.h >= own.end, own.end, c.t + c.h)
    ulp = torch.nextafter(c.t.abs(), torch.full_like(c.t, torch.inf)) - c.t.abs()
    shortest = torch.maximum(4 * ulp, 1e-20 * own.end.abs())
    small = (t1 - c.t <= own.least) & (t1 - c.t <= shortest) & (c.t != own.end)
    lost = (small & (refused | ~(c.h > 0))) | (c.lost != 0)
    t1 = torch.where(small & (t1 != own.end), torch.minimum(c.t + 2 * shortest, own.end), t1)
    tried = t1 - c.t
    taken = take(f, tableau, c.t * own.sign, t1 * own.sign, x, k)
    end = f(t1 * own.sign, taken.x)
    error = combine(None, taken.h, tableau.error, [*taken.slopes, end])
    square = mean(squares(error, scales(lim.rtol, atol, x, taken.x)), len(x)).double()
    nan = torch.isnan(square)
    square = torch.where(nan, torch.inf, square)
    limited = lim.min_step > 0
    least = limited & (c.h <= lim.min_step)
    hopeless = least & ~torch.isfinite(square) & (c.t != own.end)
    forced = (square > 1.0) & least & torch.isfinite(square)
    stop = lost.any()
    good = ((square <= 1.0) | forced) & ~stop
    floored = square.clamp_min(1e-200)
    share = floored ** (-0.5 / (order + 1))
    factor = lim.safety * (share if law.simple else floored ** (0.5 * lim.power))
    if law.damped:
        factor = factor * c.previous**lim.change
    ideal = (tried * share.clamp_max(100.0 ** (1 / (order + 1)))).clamp_min(NEVER)
    if law.predictive:
        fall = ideal / c.ideal
        factor = torch.where(good & (fall < 1.0), torch.minimum(factor, lim.safety * share * fall), factor)
    factor = torch.minimum(torch.maximum(factor, lim.min_factor), lim.max_factor)
    factor = torch.where(good, factor, factor.clamp_max(1.0))
    h = torch.minimum(torch.maximum(tried * factor, lim.min_step), lim.max_step)
    broke = torch.where(good, 0.0, torch.where(nan & (c.broke == 0), tried, c.broke))
    t = torch.where(good, t1, c.t)
    new = Clocks(
        t, torch.where(stop, c.h, h), torch.where(stop, c.tried, tried),
        torch.where(good, square.sqrt().clamp_min(1e-10), c.previous),
        torch.where(good, ideal, c.ideal), torch.where(stop, c.broke, broke),
        torch.where(stop, refused, ~good).double(), torch.where(stop, lost, hopeless).double(), good.double(),
    )  # fmt: skip
    went = (~stop).double()
    arrived = (t == own.end).all()
    total = Tally(
        n.rounds + went, n.accepted + (good.all() & ~stop).double(), n.kept + torch.where(stop, 0.0, forced.double().sum()),
        torch.where(stop, LOST, torch.where(arrived, ARRIVED, RUNNING)).double(), n.row + went,
    )  # fmt: skip
    return torch.stack(new), torch.stack(total), choose(good, taken.x, x), choose(good, end, k), torch.stack([c.t, t])


def mean(total: Tensor, count: int) -> Tensor:
    """The mean over a sample of a sum over leaves, `(B, …)` → `(B,)`."""
    rows = total.reshape(len(total), -1)
    return rows.sum(1) / (rows.shape[1] * count) if rows.shape[1] > 1 else total.reshape(-1) / count


def first_steps(
    f: LeafField, order: int, clocks: Tensor, x: Leaves, k: Leaves, limits: Tensor, ends: Tensor, atol: Leaves
) -> Tensor:
    """The clocks with first steps, if none were given; see `residyn.schemes.persample`."""
    c, lim, own = Clocks(*clocks.unbind(0)), Limits(*limits.unbind(0)), Ends(*ends.unbind(0))
    span = own.end - c.t
    scale = scales(lim.rtol, atol, x)

    def norm(leaves: Leaves) -> Tensor:
        return mean(squares(leaves, scale), len(x)).double().sqrt()

    d0, d1 = norm(x), norm(k)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5) | ~torch.isfinite(d1), 1e-6, 0.01 * d0 / d1).minimum(span)
    signed = h0 * own.sign
    ahead = f(c.t * own.sign + signed, combine(x, wide(signed.to(x[0].dtype), x[0]), (1.0,), [k]))
    top = torch.maximum(d1, norm([a - b for a, b in zip(ahead, k, strict=True)]) / h0)
    h1 = torch.where(top <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), (0.01 / top) ** (1 / (order + 1)))
    h1 = torch.where(torch.isfinite(top), h1, h0)
    h = torch.minimum(100 * h0, h1).minimum(span).minimum(lim.max_step)
    return torch.stack(c._replace(h=torch.where(c.h < 0, h, c.h)))
