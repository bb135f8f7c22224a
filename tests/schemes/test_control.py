"""What a control does at the edges: spans of a few roundings, tolerances of zero, a least step, samples that have arrived."""

import math

import pytest
import torch

import residyn as rd
from residyn.schemes import Bosh3

F64 = torch.float64
own_or_shared = pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])


def decay(t, x):
    return -x


@own_or_shared
@pytest.mark.parametrize("times", [[1.0, 1 + 2**-52], [1.0, 1 - 2**-53, 0.0], [1e15, 1e15 + 0.5], [0.0, 5e-324, 1.0]], ids=str)
def test_a_span_of_a_few_roundings_is_solved(own, times):
    """One step is the least that the time resolves, and that is accurate here; it used to be called an underflow."""
    control = rd.Adaptive(rtol=1e-3, atol=1e-3, per_sample=own)
    solution = rd.solve(decay, torch.ones(2, 1, dtype=F64), times, control=control)
    exact = torch.tensor([math.exp(times[0] - t) for t in times], dtype=F64)
    # a step errs by 1e-3 at most, and there are few
    torch.testing.assert_close(solution.x[:, 0, 0], exact, rtol=0, atol=1e-2)


@own_or_shared
def test_a_time_that_resolves_no_shorter_step_says_so(own):
    control = rd.Adaptive(rtol=1e-9, atol=1e-9, per_sample=own)
    solution = rd.solve(decay, torch.ones(1, 1, dtype=F64), [1e15, 1e15 + 8], control=control, throw=False)
    assert solution.outcome.kind == "step_underflow"
    assert own or "count time from the start of the span" in solution.outcome.fix


@own_or_shared
@pytest.mark.parametrize("x0, f, exact", [
    ([0.0, 0.0], torch.zeros_like, [0.0, 0.0]),
    ([1.0, 0.0], torch.neg, [math.exp(-1), 0.0]),
    ([0.0, 0.0], torch.ones_like, [1.0, 1.0]),
], ids=["rest", "one_at_rest", "from_zero"])  # fmt: skip
def test_no_absolute_tolerance(own, x0, f, exact):
    """0/0 is no error: a component that is and stays zero has none; it used to end in an underflow."""
    control = rd.Adaptive(rtol=1e-8, atol=0.0, per_sample=own)
    x = rd.solve(rd.autonomous(f), torch.tensor([x0], dtype=F64), [0.0, 1.0], control=control).x[-1, 0]
    torch.testing.assert_close(x, torch.tensor(exact, dtype=F64), rtol=1e-6, atol=0)


@own_or_shared
def test_a_zero_that_is_passed_with_no_absolute_tolerance_is_an_outcome(own):
    """x = 1 - t has a relative error at its zero that no step can meet, but no step needs to: Dopri5 is exact on it."""
    control = rd.Adaptive(rtol=1e-8, atol=0.0, per_sample=own)
    solution = rd.solve(lambda t, x: -torch.ones_like(x), torch.ones(1, 1, dtype=F64), [0.0, 2.0], control=control, throw=False)
    assert solution.outcome.kind in ("success", "step_underflow", "max_steps")
    assert solution.outcome.ok == (abs(float(solution.x[-1, 0, 0]) + 1) < 1e-6)


@own_or_shared
def test_what_the_least_step_keeps_is_told(own):
    solution = rd.solve(
        lambda t, x: -100 * x, torch.ones(1, 1, dtype=F64), [0.0, 1.0], control=rd.Adaptive(min_step=0.5, per_sample=own)
    )
    assert solution.outcome.ok
    assert "steps of min_step = 0.5 were kept although their errors exceed the tolerances" in str(solution.outcome)
    fine = rd.solve(decay, torch.ones(1, 1, dtype=F64), [0.0, 1.0], control=rd.Adaptive(min_step=1e-6, per_sample=own))
    assert str(fine.outcome) == "success"


@pytest.mark.parametrize("scheme", [Bosh3(), rd.Dopri5(), rd.Dopri8(), rd.Kvaerno5(), rd.Rodas5P()], ids=repr)
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.3, 0.4)], ids=["I", "PI"])
def test_a_sample_is_solved_as_if_it_were_alone(scheme, weights):
    """Spans of their own, 1000 to 1, both directions: times, steps, error memory and verdicts are each sample's own."""
    finite = []

    def f(t, x):
        finite.append(bool(torch.isfinite(x).all()))
        u, v = x[..., :1], x[..., 1:]
        return torch.cat([1.5 * u - u * v, u * v - 3 * v], -1) * (1 + 0.1 * torch.cos(t))

    x0 = torch.tensor([[1.0, 2.0], [0.5, 1.0], [0.3, 0.2], [2.0, 1.0]], dtype=F64)
    t = torch.tensor([[0, 0.001, 0.002], [0, 1, 3], [2.0, 1.0, -1.0], [0, 1, 2]], dtype=F64)
    control = rd.Adaptive(rtol=1e-5, atol=1e-7, per_sample=True, integral=weights[0], proportional=weights[1])
    together = rd.solve(f, x0, t, scheme=scheme, control=control)
    assert all(finite)
    rounds = 0
    for i in range(4):
        alone = rd.solve(f, x0[i : i + 1], t[i : i + 1], scheme=scheme, control=control)
        # the same arithmetic; Newton may iterate once more than one sample needs: 0.03·1e-5 a step, 60 steps, errors that grow tenfold
        newton = 2e-4 if scheme.real_state and scheme.failure == "root_failed" else 1e-12
        torch.testing.assert_close(together.x[:, i], alone.x[:, 0], rtol=newton, atol=newton)
        rounds = max(rounds, alone.stats.accepted + alone.stats.rejected)
    # the slowest sample sets the number of rounds, up to a step that Newton's iterations have moved
    assert together.stats.accepted + together.stats.rejected <= rounds + 2


@pytest.mark.parametrize("mode", [rd.Backprop(), rd.Checkpoint(), rd.Replay(keep=0), rd.Adjoint()], ids=repr)
@pytest.mark.parametrize("scheme", [rd.Dopri5(), rd.Kvaerno5(), rd.Rodas5P()], ids=repr)
def test_gradients_where_samples_arrive_at_different_times(mode, scheme):
    """Against x = x0·exp(-a(sin t - sin t0)); a sample that waits for the others must not turn a gradient into nan."""
    a = torch.tensor(0.7, dtype=F64, requires_grad=True)
    x0 = torch.tensor([[1.0, 0.5], [2.0, 1.0], [0.3, -1.0]], dtype=F64, requires_grad=True)
    t = torch.tensor([[0, 0.01, 0.02], [1.0, 0.5, -1.0], [0.2, 0.4, 1.6]], dtype=F64)
    control = rd.Adaptive(rtol=1e-6, atol=1e-8)
    x = rd.solve(lambda t, x: -a * torch.cos(t) * x, x0, t, scheme=scheme, control=control, gradient=mode).x
    exact = x0 * torch.exp(-a * (torch.sin(t.T) - torch.sin(t[:, 0])))[..., None]
    weights = torch.arange(1.0, 19.0, dtype=F64).reshape(3, 3, 2)
    for found, wanted in zip(*(torch.autograd.grad((weights * y).sum(), (x0, a)) for y in (x, exact)), strict=True):
        # a hundred steps of error 1e-6 each, summed over weights of 170
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-2)


def van_der_pol(t, x):
    u, v = x[..., :1], x[..., 1:]
    return torch.cat([v, 5 * (1 - u * u) * v - u], -1)


@own_or_shared
def test_a_step_that_has_to_shrink_is_foreseen(own):
    """Fewer steps are refused on the way into the jumps of Van der Pol's oscillator, and none is taken for less accuracy."""
    x0 = torch.linspace(1.0, 2.5, 32, dtype=F64)[:, None] * torch.tensor([1.0, 0.0], dtype=F64)
    truth = rd.solve(van_der_pol, x0, [0.0, 10.0], scheme=rd.Dopri8(), control=rd.Adaptive(rtol=1e-11, atol=1e-13)).x[-1]
    found = {}
    for flag in (True, False):
        control = rd.Adaptive(rtol=1e-6, atol=1e-8, per_sample=own, predictive=flag)
        solution = rd.solve(van_der_pol, x0, [0.0, 10.0], control=control)
        stats = solution.stats
        found[flag] = stats.accepted + stats.rejected, float((solution.x[-1] - truth).abs().max())
    assert found[True][0] < found[False][0]
    # the errors of both are made of some 200 local errors of 1e-6 at most, carried on by a flow that expands at the jumps
    assert found[True][1] < 2 * found[False][1] + 1e-5


@pytest.mark.parametrize("gradient", [rd.Backprop(), rd.Replay(keep=0)], ids=repr)
def test_samples_that_arrived_are_reported_where_another_fails(gradient):
    """x' = 1 and x' = x² from 1, which ends at t = 1: the first arrives at t = 2, the second never does."""
    x0 = torch.tensor([[1.0], [1.0]], dtype=F64, requires_grad=True)
    power = torch.tensor([[0.0], [2.0]], dtype=F64)
    solution = rd.solve(
        lambda t, x: x**power, x0, [0.0, 0.5, 2.0], control=rd.Adaptive(per_sample=True), gradient=gradient, throw=False
    )
    assert solution.outcome.kind in ("step_underflow", "non_finite")
    # a straight line is exact; 1/(1 - t) at a half is 2, to 1e-6 a step
    torch.testing.assert_close(solution.x[1].detach(), torch.tensor([[1.5], [2.0]], dtype=F64), rtol=1e-4, atol=0)
    assert float(solution.x[2, 0].detach()) == pytest.approx(3.0, rel=1e-12)
    assert math.isnan(float(solution.x[2, 1].detach()))
    (by_x0,) = torch.autograd.grad(solution.x[2, 0, 0], x0)
    assert float(by_x0[0, 0]) == pytest.approx(1.0, rel=1e-12)
