"""Events against closed forms and SciPy: where they are, what ends, and the gradients of their times and states."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import residyn as rd
from residyn.roots.bracket import bracket
from residyn.schemes import BackwardEuler, Dopri8, Kvaerno5, steady_state

D = torch.float64
TIGHT = rd.Adaptive(rtol=1e-9, atol=1e-11)
MODES = [rd.Replay(), rd.Replay(keep=0), rd.Backprop(), rd.Checkpoint(), rd.Adjoint()]
NAMES = ["replay", "replay all", "backprop", "checkpoint", "adjoint"]


def _landing(g, start):
    """Time and speed at which a ball thrown from start = (height, speed) lands."""
    t = (start[1] + torch.sqrt(start[1] ** 2 + 2 * g * start[0])) / g
    return t, start[1] - g * t


def _ball(mode, **kwargs):
    g = torch.tensor(9.8, dtype=D, requires_grad=True)
    start = torch.tensor([10.0, 1.0], dtype=D, requires_grad=True)
    solution = rd.solve(
        lambda t, x: torch.stack([x[1], -g]), start, [0.0, 1.0, 5.0], gradient=mode, event=rd.Event(lambda t, x: x[0]), **kwargs
    )
    return g, start, solution


@pytest.mark.parametrize("mode", MODES, ids=NAMES)
def test_a_ball_lands_and_its_landing_has_gradients(mode):
    g, start, solution = _ball(mode, control=TIGHT)
    time, speed = _landing(g, start)
    event = solution.event
    # the path is a parabola, which Dopri5 and its dense output have exactly: rounding of some 30 operations, 1e-14 relative
    torch.testing.assert_close(event.t, time, rtol=1e-13, atol=0)
    torch.testing.assert_close(event.x[1], speed, rtol=1e-13, atol=0)
    assert solution.outcome.kind == "event"
    assert solution.t.tolist() == [0.0, 1.0, event.t.item()]
    torch.testing.assert_close(solution.x[-1], event.x)
    for ours, truth in ((event.t, time), (event.x[1], speed), (solution.x[-1, 1], speed)):
        for a, b in zip(
            torch.autograd.grad(ours, (g, start), retain_graph=True),
            torch.autograd.grad(truth, (g, start), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", MODES, ids=NAMES)
@pytest.mark.parametrize("scheme", [Dopri8(), rd.Tsit5(), rd.RK4(), rd.Heun(), Kvaerno5()])
def test_the_search_for_an_event_takes_no_gradient_away(scheme, mode):
    # the last slope of a step, where a continuous result needs it, is first asked for by the search, which wants no gradient
    fixed = isinstance(scheme, (rd.RK4, rd.Heun))
    g, start, solution = _ball(mode, scheme=scheme, control=rd.Fixed(steps=4) if fixed else TIGHT)
    for ours, truth in zip((solution.event.t, solution.event.x[1]), _landing(g, start), strict=True):
        a, b = (torch.autograd.grad(value, (g, start), retain_graph=True) for value in (ours, truth))
        # all of them exact on a parabola; Newton's iteration of the implicit one ends at a hundredth of 1e-9
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mode", MODES[:1] + MODES[3:], ids=NAMES[:1] + NAMES[3:])
@pytest.mark.parametrize("scheme", [rd.RK4(), rd.Midpoint()])
def test_fixed_steps_stop_at_events_too(scheme, mode):
    _, _, solution = _ball(mode, scheme=scheme, control=rd.Fixed(steps=7))
    # both schemes and their dense outputs are exact on a parabola
    assert solution.event.t.item() == pytest.approx((1 + math.sqrt(1 + 196)) / 9.8, rel=1e-12)


def test_the_gradient_is_that_of_finite_differences_where_condition_and_field_are_crooked():
    def when(p):
        k, level = p.unbind()
        event = rd.Event(lambda t, x, level: x[0] * torch.exp(0.3 * t) - level * torch.cos(t))
        solution = rd.solve(
            lambda t, x, level: torch.stack([x[1], -k * torch.sin(x[0]) - 0.1 * x[1] + level * torch.sin(t)]),
            torch.stack([0.2 * k, level]),
            torch.tensor([0.0, 10.0], dtype=D),
            args=(level,),
            event=event,
            control=rd.Adaptive(rtol=1e-11, atol=1e-13),
        )
        return torch.cat([solution.event.t[None], solution.event.x])

    p = torch.tensor([4.0, 0.7], dtype=D)
    exact = torch.autograd.functional.jacobian(when, p)
    h = 1e-5
    steps = torch.eye(2, dtype=D) * h
    finite = torch.stack([(when(p + s) - when(p - s)) / (2 * h) for s in steps], dim=1)
    # central differences err by h²·|third derivative| ~ 1e-9 and by the solver's 1e-11/h ~ 1e-6
    torch.testing.assert_close(exact, finite, rtol=1e-5, atol=1e-5)


def test_where_scipy_finds_them():
    def f(t, x):
        return np.array([x[1], (1 - x[0] ** 2) * x[1] - x[0]])

    rise, fall = (lambda t, x: x[0]), (lambda t, x: x[1] - 0.5)
    rise.direction, fall.direction = 1, -1
    truth = solve_ivp(f, (0, 20), [2.0, 0.0], events=(rise, fall), rtol=1e-10, atol=1e-12, method="DOP853")
    found = rd.solve(
        lambda t, x: torch.stack([x[1], (1 - x[0] ** 2) * x[1] - x[0]]),
        torch.tensor([2.0, 0.0], dtype=D),
        [0.0, 20.0],
        event=[rd.Event(rise, terminal=False, direction=1), rd.Event(fall, terminal=False, direction=-1)],
        control=rd.Adaptive(rtol=1e-10, atol=1e-12),
    )
    assert found.outcome.kind == "success"
    assert found.event is None
    for which in (0, 1):
        times = [item.t.item() for item in found.events if item.which == which]
        # both hold 1e-10 a step over 20 time units; the dense outputs are of order 4 and 7
        assert times == pytest.approx(truth.t_events[which].tolist(), abs=1e-7)
    assert [item.t.item() for item in found.events] == sorted(item.t.item() for item in found.events)


@pytest.mark.parametrize("mode", MODES[:4], ids=NAMES[:4])
def test_each_sample_stops_at_its_own(mode):
    g = torch.tensor(9.8, dtype=D, requires_grad=True)
    start = torch.tensor([[10.0, 1.0], [5.0, 0.0], [20.0, -1.0], [1000.0, 0.0]], dtype=D, requires_grad=True)
    solution = rd.solve(
        lambda t, x: torch.stack([x[:, 1], -g.expand(len(x))], dim=1),
        start,
        [0.0, 1.0, 1.3, 5.0],
        event=[rd.Event(lambda t, x: x[:, 0]), rd.Event(lambda t, x: x[:, 0] - 4, terminal=False)],
        control=rd.Adaptive(rtol=1e-9, per_sample=True),
        gradient=mode,
    )
    assert solution.outcome.kind == "event"
    assert "3 of 4 samples" in str(solution.outcome)
    reached = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)
    assert torch.equal(torch.isfinite(solution.x[:, :, 0]), reached)
    landings = {}
    for item in solution.events:
        if item.terminal:
            landings |= {int(s): (t, x) for s, t, x in zip(item.samples, item.t, item.x, strict=True)}
    assert sorted(landings) == [0, 1, 2]
    levels = sorted(int(s) for item in solution.events if not item.terminal for s in item.samples)
    assert levels == [0, 1, 2]
    for i, (t, x) in landings.items():
        time, speed = _landing(g, start[i])
        torch.testing.assert_close(t, time, rtol=1e-12, atol=0)
        torch.testing.assert_close(x[1], speed, rtol=1e-12, atol=0)
    total = sum(t for t, _ in landings.values()) + landings[0][1][1]
    truth = sum(_landing(g, start[i])[0] for i in range(3)) + _landing(g, start[0])[1]
    for a, b in zip(torch.autograd.grad(total, (g, start)), torch.autograd.grad(truth, (g, start)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_bounce_goes_on_from_where_it_was():
    x, t, times = torch.tensor([1.0, 0.0], dtype=D), 0.0, []
    for _ in range(3):
        solution = rd.solve(
            lambda t, x: torch.stack([x[1], torch.tensor(-9.8, dtype=D)]),
            x,
            [t, t + 10.0],
            event=rd.Event(lambda t, x: x[0], direction=-1),
        )
        t = solution.event.t.item()
        times.append(t)
        x = solution.event.x * torch.tensor([0.0, -0.5], dtype=D)
    first = math.sqrt(2 / 9.8)
    assert times == pytest.approx([first, 2 * first, 2.5 * first], rel=1e-9)


def test_steady_state():
    solution = rd.solve(
        lambda t, x: -x * (x - 1) * (x + 2), torch.tensor([0.5], dtype=D), [0.0, 1e3], event=steady_state(rtol=1e-6, atol=1e-9)
    )
    # near x = 1 the rate is 3: |f| = 3·|x - 1| ≤ 1.001e-6 there
    assert abs(float(solution.event.x) - 1) < 4e-7
    assert solution.event.t.item() < 10
    rest = rd.solve(lambda t, x: -x, torch.zeros(1, dtype=D), [0.0, 1.0], event=steady_state())
    assert rest.event.t.item() == pytest.approx(0.0, abs=1e-12)
    each = rd.solve(
        lambda t, x: -x * torch.tensor([[1.0], [3.0]], dtype=D),
        torch.ones(2, 1, dtype=D),
        [0.0, 50.0],
        event=steady_state(rtol=0.0, atol=1e-3),
        control=rd.Adaptive(rtol=1e-8, atol=1e-10, per_sample=True),
    )
    found = {int(s): float(t) for item in each.events for s, t in zip(item.samples, item.t, strict=True)}
    assert found == pytest.approx({0: math.log(1e3), 1: math.log(3e3) / 3}, rel=1e-5)


@pytest.mark.parametrize(("scheme", "control"), [(Kvaerno5(), TIGHT), (BackwardEuler(), rd.Fixed(steps=400))])
def test_implicit_schemes_have_events(scheme, control):
    k = torch.tensor(2.0, dtype=D, requires_grad=True)
    event = rd.Event(lambda t, x: x[0] - 0.5)
    solution = rd.solve(lambda t, x: -k * x, torch.ones(1, dtype=D), [0.0, 1.0], event=event, scheme=scheme, control=control)
    # t = ln 2/k. Backward Euler: h·k/2 = 2.5e-3 relative; Kvaerno5 by its dense output of order 3, h³ over its steps
    tol = 3e-3 if isinstance(scheme, BackwardEuler) else 1e-5
    assert solution.event.t.item() == pytest.approx(math.log(2) / 2, rel=tol)
    (slope,) = torch.autograd.grad(solution.event.t, k)
    assert float(slope) == pytest.approx(-math.log(2) / 4, rel=3 * tol)


def test_tuple_states_complex_states_and_backwards_in_time():
    solution = rd.solve(
        lambda t, x: {"q": x["p"], "p": -x["q"]},
        {"q": torch.zeros(1, dtype=D), "p": torch.ones(1, dtype=D)},
        [0.0, -5.0],
        event=rd.Event(lambda t, x: x["q"].sum() + 0.5),
        control=TIGHT,
    )
    assert solution.event.t.item() == pytest.approx(-math.pi / 6, rel=1e-8)
    assert solution.x["q"].shape == (2, 1)
    assert float(solution.interpolate(solution.event.t.item())["q"]) == pytest.approx(-0.5, abs=1e-9)
    with pytest.raises(rd.InputError, match="must lie in the span solved"):
        solution.interpolate(solution.event.t.item() - 1e-3)
    turn = rd.solve(
        lambda t, x: 1j * x,
        torch.ones(1, dtype=torch.complex128),
        [0.0, 5.0],
        event=rd.Event(lambda t, x: x.real),
        control=TIGHT,
    )
    assert turn.event.t.item() == pytest.approx(math.pi / 2, rel=1e-8)


def test_gradients_by_the_start_time():
    # x' = t·x from t0: x = exp((t² - t0²)/2) = 2 at t* = sqrt(2·ln 2 + t0²), dt*/dt0 = t0/t*
    t = torch.tensor([0.5, 5.0], dtype=D, requires_grad=True)
    event = rd.Event(lambda t, x: x[0] - 2)
    when = rd.solve(lambda t, x: t * x, torch.ones(1, dtype=D), t, event=event, control=TIGHT).event.t
    when.backward()
    truth = math.sqrt(2 * math.log(2) + 0.25)
    assert when.item() == pytest.approx(truth, rel=1e-8)
    assert t.grad.tolist() == pytest.approx([0.5 / truth, 0.0], rel=1e-7)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rd.Event(3), "`condition` must be callable.*got int"),
        (lambda: rd.Event(lambda t, x: x, direction=2), "`direction` must be -1, 0 or 1, got 2"),
        (lambda: steady_state(rtol=-1), "`rtol` and `atol` must be ≥ 0"),
    ],
)
def test_bad_events_are_refused(make, words):
    with pytest.raises(rd.InputError, match=words):
        make()


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (rd.Event(lambda t, x: x), r"`condition` must return 1 number.*got shape \(3,\).*per_sample=True"),
        (rd.Event(lambda t, x: 1j * x.sum()), "`condition` must be real"),
        (lambda t, x: x.sum(), r"`event` must be an Event or|object is not iterable"),
        ([3], "`event` must be an Event"),
    ],
)
def test_bad_conditions_are_refused(event, words):
    with pytest.raises((rd.InputError, TypeError), match=words):
        rd.solve(lambda t, x: -x, torch.ones(3), [0.0, 1.0], event=event)


def test_adjoint_refuses_samples_on_their_own_with_events():
    with pytest.raises(rd.InputError, match=r"Adjoint\(\) where samples on steps of their own have events.*Replay"):
        rd.solve(
            lambda t, x: -x,
            torch.ones(2, 1, requires_grad=True),
            [0.0, 1.0],
            event=rd.Event(lambda t, x: x[:, 0] - 0.5),
            control=rd.Adaptive(rtol=1e-4, per_sample=True),
            gradient=rd.Adjoint(),
        )


def test_bracket_reaches_rounding_in_few_evaluations():
    calls = []

    def g(x):
        calls.append(1)
        return torch.stack([x[0] ** 3 - 2, torch.cos(x[1]) - x[1], (x[2] - 0.3) ** 9])

    a, b = torch.zeros(3, dtype=D), torch.full((3,), 2.0, dtype=D)
    found = bracket(g, a, b, g(a), g(b))
    truth = torch.tensor([2 ** (1 / 3), 0.7390851332151607, 0.3], dtype=D)
    # a root of ninth order is flat, but its sign is exact, and bisection follows the sign
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-14)
    assert len(calls) < 70


@pytest.mark.parametrize("per_sample", [True, False])
def test_single_precision(per_sample):
    x0 = torch.full((3, 1), 2.0, requires_grad=True)
    event = rd.Event(lambda t, x: x[:, 0] - 1 if per_sample else x.mean() - 1)
    control = rd.Adaptive(rtol=1e-5, atol=1e-6, per_sample=per_sample)
    solution = rd.solve(lambda t, x: -x, x0, [0.0, 1.0], event=event, control=control)
    when = solution.events[0].t
    # single precision: 1.2e-7 in x, of slope one
    torch.testing.assert_close(when.double(), torch.full_like(when.double(), math.log(2)), rtol=0, atol=1e-5)
    when.sum().backward()
    torch.testing.assert_close(x0.grad, torch.full((3, 1), 0.5 if per_sample else 0.5 / 3), rtol=1e-4, atol=0)


def test_a_refused_step_has_no_event():
    # the first step, far too long, is refused for some samples and not for others
    rate = torch.tensor([[0.1], [1.0], [30.0]], dtype=D)
    control = rd.Adaptive(rtol=1e-9, atol=1e-12, per_sample=True, first_step=1.0)
    event = rd.Event(lambda t, x: x[:, 0] - 0.5)
    x0 = torch.tensor([[1.0, 0.0]] * 3, dtype=D)
    solution = rd.solve(
        lambda t, x: rate * torch.stack([-x[:, 1], x[:, 0]], dim=1), x0, [0.0, 12.0], event=event, control=control
    )
    assert solution.stats.rejected > 0
    found = {int(s): t.item() for item in solution.events for s, t in zip(item.samples, item.t, strict=True)}
    assert found == pytest.approx({0: math.acos(0.5) / 0.1, 1: math.acos(0.5), 2: math.acos(0.5) / 30}, rel=1e-8)
