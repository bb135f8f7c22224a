"""The way forwards, compiled: adaptive steps, shared or a sample's own, and equal steps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from residyn.compiled import joint, persample
from residyn.compiled.build import Loop, Tensors
from residyn.compiled.run import Kit, Rows, Run, capacity
from residyn.compiled.stages import take
from residyn.results import Outcome
from residyn.schemes import failure
from residyn.schemes.control import Adaptive, Fixed
from residyn.schemes.failure import sample_failed

ROOM = 2**28
"""Bytes of states that one stretch of the record may hold; memory is taken only where a row is written."""


def adaptive(run: Run, *, record: bool) -> Tensor:
    """March; the leaves at the end `(leaves, …)`. What was recorded is in `run.rows`, how it ended in the problem."""
    control = run.problem.control
    assert isinstance(control, Adaptive)
    x = run.stack(run.problem.x0)
    given, key = _tolerances(run, control, x)
    march = _per_sample if run.own_times else _joint
    rows = max(8, min(1024, ROOM // (x.numel() * x.element_size()))) if record else 1024
    return march(run, control, x, given, (key, record), rows)


def _tolerances(run: Run, control: Adaptive, x: Tensor) -> tuple[Tensors, Any]:
    """The absolute tolerance as the programs take it, and what tells the programs apart."""
    atol = control.atol
    if isinstance(atol, Tensor) and atol.numel() > 1:
        full = run.stack(atol.detach().to(run.problem.x0).expand(run.problem.x0.shape))
    else:
        full = torch.tensor(float(atol), dtype=x.dtype)
    damped = control.proportional != 0.0
    law = joint.Law(control.integral == 1.0 and not damped, damped, control.predictive)
    return (full,), (full.ndim > 0, law)


def _buffers(run: Run, x: Tensor, rows: int, record: bool, samples: tuple[int, ...]) -> Rows:
    times = torch.empty(rows, 2, *samples, dtype=torch.float64)
    return Rows(times, torch.empty(rows, *x.shape, dtype=x.dtype) if record else None, 0)


def _numbers(run: Run, control: Adaptive) -> dict[str, float]:
    order = run.kit.scheme.error_order + 1
    change = control.proportional / order
    return {
        "rtol": control.rtol, "safety": control.safety, "min_factor": control.min_factor, "max_factor": control.max_factor,
        "min_step": control.min_step, "max_step": control.max_step, "power": -(control.integral / order + change),
        "change": change,
    }  # fmt: skip


def _joint(run: Run, control: Adaptive, x: Tensor, atol: Tensors, key: Any, rows: int) -> Tensor:
    problem, stats = run.problem, run.problem.stats
    start, last = problem.times[0], problem.times[-1]
    sign = math.copysign(1.0, last - start)
    first = -1.0 if control.first_step is None else min(control.first_step, control.max_step)
    limits = joint.Limits(
        end=last * sign, sign=sign, least=1e-20 * abs(last - start), tries=control.max_steps, rows=rows,
        **_numbers(run, control),
    )  # fmt: skip
    clock = joint.Clock(start * sign, first, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, joint.RUNNING, 0.0)
    bounds = torch.tensor(limits, dtype=torch.float64)
    while True:
        part = _buffers(run, x, rows, key[1], ())
        recorded = (part.times,) if part.starts is None else (part.times, part.starts)
        given = (bounds, *atol, *recorded, *run.tensors)
        now, state = run.loop(("joint", key), _joint_loop(run.kit, key), (torch.tensor(clock, dtype=torch.float64), x), given)
        clock = joint.Clock(*now.tolist())
        x = state[: len(x)]
        part.count = int(clock.row)
        part.times *= sign
        run.rows.append(part)
        problem.f.evaluations += 2
        if clock.status != joint.RUNNING or clock.tries >= control.max_steps:
            break
        clock = clock._replace(row=0.0)
    problem.f.evaluations += int(clock.tries) * run.stages
    stats.accepted, stats.rejected = int(clock.accepted), int(clock.tries - clock.accepted)
    problem.outcome = _outcome(run, control, clock, x, sign)
    return x


def _outcome(run: Run, control: Adaptive, clock: Any, leaves: Tensor, sign: float) -> Outcome:
    problem = run.problem
    if clock.status == joint.ARRIVED:
        return failure.inaccurate(int(clock.kept), control.min_step)
    x, t, h = run.trace.state(leaves), clock.t * sign, clock.h * sign
    if clock.status == joint.RUNNING:
        return failure.too_many(problem, control.max_steps, t, x, h)
    return failure.underflow(problem, t, x, h, clock.broke * sign)


def _joint_loop(kit: Kit, key: Any) -> Loop:
    (full, law), record = key
    tableau, order = kit.scheme.tableau, kit.scheme.error_order
    at = 3 + record

    def parts(state: Tensor, atol: Tensor, halves: int) -> tuple[Any, ...]:
        leaves = list(state.unbind(0))
        count = len(leaves) // halves
        return leaves[:count], leaves[count:], list(atol.unbind(0)) if full else [atol] * count

    def prepare(clock: Tensor, x: Tensor, *given: Tensor) -> Tensors:
        f = kit.field(given[at:])
        leaves, _, least = parts(x, given[1], 1)
        c, lim = joint.Clock(*clock.unbind(0)), joint.Limits(*given[0].unbind(0))
        k = f(c.t * lim.sign, leaves)
        return joint.first_step(f, order, clock, leaves, k, given[0], least), torch.stack([*leaves, *k])

    def body(clock: Tensor, state: Tensor, *given: Tensor) -> Tensors:
        limits, atol, times = given[:3]
        x, k, least = parts(state, atol, 2)
        row = (joint.Clock(*clock.unbind(0)).row.to(torch.int64),)
        f = kit.field(given[at:])
        after, x1, k1, tried = joint.step(f, tableau, order, clock, x, k, limits, least, law)
        times.index_put_(row, tried)
        if record:
            given[3].index_put_(row, torch.stack(x))
        return after, torch.stack([*x1, *k1])

    def more(clock: Tensor, state: Tensor, *given: Tensor) -> Tensor:
        return joint.more(clock, given[0])

    return Loop(more, body, kit.whole, tuple(range(4, 5 + record)), prepare)


def _per_sample(run: Run, control: Adaptive, x: Tensor, atol: Tensors, key: Any, rows: int) -> Tensor:
    problem, stats = run.problem, run.problem.stats
    size = len(problem.x0)
    table = sample_times(run)
    sign = torch.sign(table[-1] - table[0])
    own = table * sign
    largest = table.abs().amax(0)
    least = torch.maximum(
        4 * (torch.nextafter(largest, torch.full_like(largest, math.inf)) - largest), 1e-20 * (own[-1] - own[0])
    )
    ends = torch.stack(persample.Ends(own[-1], sign, least))
    numbers = persample.Limits(rounds=control.max_steps, rows=rows, **_numbers(run, control))
    limits = torch.tensor(numbers, dtype=torch.float64)
    first = -1.0 if control.first_step is None else min(control.first_step, control.max_step)
    zero = torch.zeros(size, dtype=torch.float64)
    clocks = torch.stack(persample.Clocks(own[0], zero + first, zero, zero + 1, zero + persample.NEVER, zero, zero, zero, zero))
    tally = torch.zeros(len(persample.Tally._fields), dtype=torch.float64)
    while True:
        part = _buffers(run, x, rows, key[1], (size,))
        recorded = (part.times,) if part.starts is None else (part.times, part.starts)
        given = (limits, *atol, *recorded, ends, *run.tensors)
        clocks, tally, state = run.loop(("own", key), _sample_loop(run.kit, key), (clocks, tally, x), given)
        total = persample.Tally(*tally.tolist())
        x = state[: len(x)]
        part.count = int(total.row)
        part.times = part.times * sign if bool((sign < 0).any()) else part.times
        run.rows.append(part)
        problem.f.evaluations += 2
        if total.status != joint.RUNNING or total.rounds >= control.max_steps:
            break
        tally[-1] = 0.0
    problem.f.evaluations += int(total.rounds) * run.stages
    stats.accepted, stats.rejected = int(total.accepted), int(total.rounds - total.accepted)
    if total.status == joint.ARRIVED:
        problem.outcome = failure.inaccurate(int(total.kept), control.min_step)
    else:
        problem.outcome = _sample_outcome(run, persample.Clocks(*clocks.unbind(0)), x, sign, own[-1], total.status)
    return x


def _sample_outcome(run: Run, clocks: persample.Clocks, leaves: Tensor, sign: Tensor, end: Tensor, status: Any) -> Outcome:
    which = clocks.lost != 0 if status == joint.LOST else clocks.t != end
    row = int(which.to(torch.uint8).argmax())
    t = (clocks.t * sign).reshape(-1, *[1] * (run.problem.x0.ndim - 1))
    h, broke = (float(sign[row] * v[row]) for v in (clocks.tried, clocks.broke))
    return sample_failed(
        run.problem, "step_underflow" if status == joint.LOST else "max_steps", row, t, h, broke, run.trace.state(leaves)
    )


def sample_times(run: Run) -> Tensor:
    """The times to report, `(n, B)`."""
    times, size = run.problem.times, len(run.problem.x0)
    if isinstance(times[0], Tensor):
        return torch.stack([t.reshape(-1) for t in times])
    return torch.tensor(times, dtype=torch.float64)[:, None].expand(-1, size).contiguous()


def _sample_loop(kit: Kit, key: Any) -> Loop:
    (full, law), record = key
    tableau, order = kit.scheme.tableau, kit.scheme.error_order
    at = 3 + record

    def parts(state: Tensor, atol: Tensor, halves: int) -> tuple[Any, ...]:
        leaves = list(state.unbind(0))
        count = len(leaves) // halves
        return leaves[:count], leaves[count:], list(atol.unbind(0)) if full else [atol] * count

    def prepare(clocks: Tensor, tally: Tensor, x: Tensor, *given: Tensor) -> Tensors:
        f, ends = kit.field(given[at + 1 :]), given[at]
        leaves, _, least = parts(x, given[1], 1)
        k = f(clocks[0] * ends[1], leaves)
        first = persample.first_steps(f, order, clocks, leaves, k, given[0], ends, least)
        return first, tally, torch.stack([*leaves, *k])

    def body(clocks: Tensor, tally: Tensor, state: Tensor, *given: Tensor) -> Tensors:
        limits, atol, times = given[:3]
        x, k, least = parts(state, atol, 2)
        f = kit.field(given[at + 1 :])
        row = (persample.Tally(*tally.unbind(0)).row.to(torch.int64),)
        after, total, x1, k1, kept = persample.step(f, tableau, order, clocks, tally, x, k, limits, given[at], least, law)
        times.index_put_(row, kept)
        if record:
            given[3].index_put_(row, torch.stack(x))
        return after, total, torch.stack([*x1, *k1])

    def more(clocks: Tensor, tally: Tensor, state: Tensor, *given: Tensor) -> Tensor:
        return persample.more(tally, given[0])

    return Loop(more, body, kit.whole, tuple(range(5, 6 + record)), prepare)


def fixed(run: Run, *, record: bool) -> Tensor:
    """Take the planned steps; the leaves at all reported times but the first, `(n - 1, leaves, …)`."""
    problem = run.problem
    control = problem.control
    assert isinstance(control, Fixed)
    legs = control.plan(problem)
    problem.legs = legs
    x, room = run.stack(problem.x0), capacity(len(legs))
    if isinstance(legs[0].t0, Tensor):
        table = torch.stack([torch.stack([torch.as_tensor(t).reshape(-1) for t in leg[:2]]) for leg in legs])
    else:
        table = torch.tensor([leg[:2] for leg in legs], dtype=torch.float64)
    times = torch.zeros(room, *table.shape[1:], dtype=torch.float64)
    times[: len(legs)] = table
    count, reports = len(legs), len(problem.times) - 1
    out = torch.empty(capacity(reports, 1), *x.shape, dtype=x.dtype)
    part = Rows(times, torch.empty(room, *x.shape, dtype=x.dtype) if record else None, count)
    run.rows.append(part)
    place, total, every = (torch.tensor(v, dtype=torch.int64) for v in (0, count, control.steps))
    recorded = (part.starts,) if part.starts is not None else ()
    given = (total, every, times, out, *recorded, *run.tensors)
    run.loop(("fixed", record), _fixed_loop(run.kit, record), (place, x), given)
    problem.f.evaluations += count * run.stages
    return _finite(run, control, out[:reports])


def _finite(run: Run, control: Fixed, out: Tensor) -> Tensor:
    """What was reported while it was finite; where it is not, the outcome says so."""
    problem, legs = run.problem, run.problem.legs
    good = torch.isfinite(out.reshape(len(out), -1)).all(1)
    reached = len(out) if bool(good.all()) else int((~good).to(torch.uint8).argmax())
    since = reached * control.steps
    problem.stats.accepted = since
    if reached < len(out):
        problem.stats.accepted += control.steps - 1
        sure = run.trace.state(out[reached - 1]) if reached else problem.x0.detach()
        failing = legs[since : since + control.steps]
        problem.outcome, _ = failure.first_non_finite(problem, failing, sure)
        problem.legs = legs[: problem.stats.accepted]
        run.rows[0] = replace(run.rows[0], count=since)
    return out[:reached]


def _fixed_loop(kit: Kit, record: bool) -> Loop:
    tableau = kit.scheme.tableau
    other = 4 + record

    def body(place: Tensor, x: Tensor, *given: Tensor) -> Tensors:
        _, every, times, out = given[:4]
        f = kit.field(given[other:])
        t0, t1 = times.index_select(0, place.reshape(1))[0].unbind(0)
        leaves = list(x.unbind(0))
        x1 = torch.stack(take(f, tableau, t0, t1, leaves, f(t0, leaves)).x)
        if record:
            given[4].index_put_((place,), x)
        out.index_put_((place // every,), x1)  # the last of the steps before a reported time is what stays
        return place + 1, x1

    def more(place: Tensor, x: Tensor, *given: Tensor) -> Tensor:
        return place < given[0]

    return Loop(more, body, kit.whole, (5, 6) if record else (5,))
