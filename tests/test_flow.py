"""`solve`, `Flow` and `Solution` against closed forms and SciPy; and every word of their errors."""

import functools
import math
import re
import warnings

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import residyn as rd
from residyn.schemes import Bosh3

F64 = torch.float64
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ONE = torch.ones(2, dtype=F64)
TIGHT = rd.Adaptive(rtol=1e-10, atol=1e-12)
per_sample = pytest.mark.parametrize("per_sample", [False, True], ids=["joint", "per_sample"])


def lotka_volterra(t, x):
    a, b = x[..., 0], x[..., 1]
    return torch.stack([a * (1.5 - b), b * (a - 3.0)], -1)


def scipy_reference(f, x0, t):
    def g(time, y):
        return f(torch.tensor(time, dtype=F64), torch.from_numpy(y.reshape(x0.shape))).numpy().ravel()

    found = scipy.integrate.solve_ivp(
        g, (float(t[0]), float(t[-1])), x0.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-14, t_eval=t
    )
    return torch.from_numpy(found.y.T).reshape(len(t), *x0.shape)


@per_sample
@pytest.mark.parametrize("t", [[0.0, 1.0, 2.5, 4.0], [4.0, 3.0, 0.5]])
def test_lotka_volterra_as_scipy_has_it(per_sample, t):
    x0 = torch.tensor([[1.0, 1.0], [2.0, 0.5]], dtype=F64)
    x = rd.solve(lotka_volterra, x0, t, control=rd.Adaptive(rtol=1e-8, atol=1e-10, per_sample=per_sample)).x
    # Global error: the local tolerance times the amplification over a turn and a half, some hundreds.
    torch.testing.assert_close(x, scipy_reference(lotka_volterra, x0, t), rtol=2e-5, atol=1e-6)


@per_sample
@pytest.mark.parametrize("scheme", [rd.Heun(), Bosh3(), rd.Tsit5(), rd.Dopri5(), rd.Dopri8()], ids=repr)
def test_a_tighter_tolerance_gives_a_smaller_error(scheme, per_sample):
    """Error proportional to tolerance: a tolerance 1e-3 as large gives an error at most 1e-2 as large."""
    x0, t = torch.tensor([[1.0, 1.0], [2.0, 0.5]], dtype=F64), [0.0, 2.0]
    exact = scipy_reference(lotka_volterra, x0, t)[-1]
    coarse, fine = (
        float((rd.solve(lotka_volterra, x0, t, scheme=scheme, control=rd.Adaptive(rtol=tol, atol=tol, per_sample=per_sample))
               .x[-1] - exact).norm())
        for tol in (1e-3, 1e-6)
    )  # fmt: skip
    assert fine < 1e-2 * coarse


@given(
    st.integers(1, 4),
    st.integers(0, 2**31),
    st.floats(0.1, 2.0),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_linear_flow_is_the_matrix_exponential(n, seed, end, backwards):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, n, dtype=F64, generator=generator)
    x0 = torch.randn(n, dtype=F64, generator=generator)
    end = -end if backwards else end
    x = rd.solve(lambda t, x: a @ x, x0, [0.0, end], control=TIGHT).x[-1]
    exact = torch.from_numpy(scipy.linalg.expm(end * a.numpy())) @ x0
    # the local tolerance 1e-10 times a growth that the exact exponential bounds
    torch.testing.assert_close(x, exact, rtol=1e-6, atol=1e-7)


@given(st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_a_linear_flow_with_fixed_steps_is_linear_to_rounding(p, q, seed):
    generator = torch.Generator().manual_seed(seed)
    a, x, y = (torch.randn(*s, dtype=F64, generator=generator) for s in ((3, 3), (3,), (3,)))

    def flow(z):
        return rd.solve(lambda t, x: torch.cos(t) * (a @ x), z, [0.0, 1.0], scheme=rd.RK4(), control=rd.Fixed(steps=5)).x[-1]

    torch.testing.assert_close(flow(p * x + q * y), p * flow(x) + q * flow(y), rtol=1e-11, atol=1e-11)


@given(st.floats(0.2, 0.8), st.booleans())
@settings(max_examples=20, deadline=None)
def test_flows_compose(split, backwards):
    """φ(0→1) = φ(s→1)∘φ(0→s), either direction."""
    x0 = torch.tensor([1.0, 0.7], dtype=F64)
    ends = (1.0, 0.0) if backwards else (0.0, 1.0)
    whole = rd.solve(lotka_volterra, x0, ends, control=TIGHT).x[-1]
    first = rd.solve(lotka_volterra, x0, (ends[0], split), control=TIGHT).x[-1]
    second = rd.solve(lotka_volterra, first, (split, ends[1]), control=TIGHT).x[-1]
    torch.testing.assert_close(second, whole, rtol=1e-8, atol=1e-9)


@per_sample
def test_there_and_back_is_where_it_began(per_sample):
    x0 = torch.tensor([[1.0, 1.0], [2.0, 0.5]], dtype=F64)
    control = rd.Adaptive(rtol=1e-10, atol=1e-12, per_sample=per_sample)
    there = rd.solve(lotka_volterra, x0, [0.0, 2.0], control=control).x[-1]
    back = rd.solve(lotka_volterra, there, [2.0, 0.0], control=control).x[-1]
    torch.testing.assert_close(back, x0, rtol=1e-7, atol=1e-8)


# Reported times


@pytest.mark.parametrize("scheme", [rd.Heun(), Bosh3(), rd.Tsit5(), rd.Dopri5(), rd.Dopri8()], ids=repr)
@per_sample
def test_many_reports_inside_a_step(scheme, per_sample):
    """Two hundred reports, a handful of steps: each is as accurate as the tolerance, and no step is spent on it."""
    t = torch.linspace(0.0, 3.0, 201, dtype=F64)
    control = rd.Adaptive(rtol=1e-5, atol=1e-7, per_sample=per_sample)
    x0 = torch.tensor([[1.0], [-2.0]], dtype=F64)
    many = rd.solve(lambda t, x: -x * torch.cos(t), x0, t, scheme=scheme, control=control)
    few = rd.solve(lambda t, x: -x * torch.cos(t), x0, t[[0, -1]], scheme=scheme, control=control)
    assert many.stats.accepted == few.stats.accepted
    assert scheme.order < 5 or many.stats.accepted < 100
    torch.testing.assert_close(many.x[-1], few.x[-1], rtol=1e-12, atol=1e-13)
    exact = x0 * torch.exp(-torch.sin(t))[:, None, None]
    torch.testing.assert_close(many.x, exact, rtol=3e-4, atol=3e-4)


@per_sample
def test_reports_that_coincide_with_ends_of_steps(per_sample):
    """first_step and max_step make the steps end on the grid; each value is then the end of a step itself."""
    t = [0.0, 0.25, 0.5, 0.75, 1.0]
    control = rd.Adaptive(rtol=1e-2, atol=1e-2, first_step=0.25, max_step=0.25, per_sample=per_sample)
    x0 = torch.ones(1, 1, dtype=F64)
    adaptive = rd.solve(lambda t, x: -x, x0, t, control=control)
    fixed = rd.solve(lambda t, x: -x, x0, t, scheme=rd.Dopri5(), control=rd.Fixed(steps=1))
    assert adaptive.stats.accepted == 4
    torch.testing.assert_close(adaptive.x, fixed.x, rtol=1e-14, atol=0)


def test_times_of_a_list_are_doubles():
    """0.1 is not representable in single precision: x(t) = t shows which 0.1 was meant."""
    solution = rd.solve(lambda t, x: torch.ones_like(x), torch.zeros(1, dtype=F64), [0.0, 0.1])
    assert float(solution.x[-1]) == pytest.approx(0.1, abs=1e-15)
    assert float(solution.t[-1]) == 0.1


@pytest.mark.parametrize(
    "t",
    [
        [0, 1],
        (0.0, 1.0),
        np.array([0.0, 1.0]),
        np.array([0, 1]),
        range(2),
        torch.tensor([0, 1]),
        torch.tensor([0.0, 1.0]).half(),
    ],
)
def test_times_in_any_form(t):
    assert float(rd.solve(lambda t, x: -x, ONE, t).x[-1, 0]) == pytest.approx(math.exp(-1), rel=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_times_a_sample(device):
    x0 = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=F64, device=device)
    t = torch.tensor([[0.0, 0.5, 1.0, 3.0], [1.0, 1.5, 1.75, 1.8], [2.0, 0.0, -1.0, -2.0]], dtype=F64)

    def f(t, x):
        assert t.shape == (3, 1)
        return -x * torch.cos(t)

    solution = rd.solve(f, x0, t)
    assert solution.t.shape == (4, 3)
    assert solution.x.shape == (4, 3, 2)
    exact = x0 * torch.exp(torch.sin(t[:, :1]) - torch.sin(t)).T[..., None].to(device)
    torch.testing.assert_close(solution.x, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "control", [rd.Adaptive(), rd.Adaptive(per_sample=True), rd.Fixed(steps=30)], ids=["joint", "own", "fixed"]
)
def test_times_a_sample_under_any_control(control):
    x0 = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=F64)
    t = torch.tensor([[0.0, 0.5, 1.0], [1.0, 1.5, 1.75]], dtype=F64)
    x = rd.solve(lambda t, x: -x * torch.cos(t), x0, t, scheme=rd.Dopri5(), control=control).x
    exact = x0 * torch.exp(torch.sin(t[:, :1]) - torch.sin(t)).T[..., None]
    torch.testing.assert_close(x, exact, rtol=1e-5, atol=1e-6)


# Per-sample control


def van_der_pol(mu):
    def f(t, x):
        q, p = x[..., 0], x[..., 1]
        return torch.stack([p, mu * (1 - q**2) * p - q], -1)

    return f


@pytest.mark.parametrize("scheme", [rd.Heun(), Bosh3(), rd.Tsit5(), rd.Dopri5(), rd.Dopri8()], ids=repr)
def test_a_sample_does_not_know_its_batch_mates(scheme):
    """Bit for bit: the field is elementwise, so nothing but the control could mix samples."""
    x0 = torch.tensor([[2.0, 0.0], [0.01, 0.0], [-1.0, 3.0], [0.0, 0.0]], dtype=F64)
    control = rd.Adaptive(rtol=1e-3, atol=1e-5, per_sample=True)
    t = [0.0, 1.0, 1.1, 7.0]
    together = rd.solve(van_der_pol(3.0), x0, t, scheme=scheme, control=control).x
    for i in range(len(x0)):
        alone = rd.solve(van_der_pol(3.0), x0[i : i + 1], t, scheme=scheme, control=control).x
        assert torch.equal(together[:, i], alone[:, 0])


def test_a_sample_with_its_own_steps_takes_those_of_a_joint_solve_of_it_alone():
    x0 = torch.tensor([[2.0, 0.0], [-1.0, 3.0]], dtype=F64)
    together = rd.solve(van_der_pol(3.0), x0, [0.0, 7.0], control=rd.Adaptive(rtol=1e-4, per_sample=True)).x
    for i in range(2):
        alone = rd.solve(van_der_pol(3.0), x0[i], [0.0, 7.0], control=rd.Adaptive(rtol=1e-4)).x
        torch.testing.assert_close(together[:, i], alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("field", ["integral", "proportional"])
def test_both_controls_hear_the_weights_of_the_controller(field):
    """A single sample has the same steps under either control, up to rounding in the first, tiny, error estimates."""
    options = {"integral": 0.3, "proportional": 0.4} if field == "proportional" else {"integral": 0.7}
    x0 = torch.tensor([[2.0, 0.0]], dtype=F64)
    joint, own = (
        rd.solve(van_der_pol(5.0), x0, [0.0, 10.0], control=rd.Adaptive(rtol=1e-4, per_sample=flag, **options))
        for flag in (False, True)
    )
    assert joint.stats.accepted == own.stats.accepted
    assert joint.stats.rejected == own.stats.rejected
    torch.testing.assert_close(joint.x, own.x, rtol=1e-3, atol=1e-3)


def test_absolute_tolerance_a_component():
    """The second component is noise that need not be resolved."""

    def f(t, x):
        return torch.stack([-x[..., 0], 100 * torch.cos(100 * t) * torch.ones_like(x[..., 1])], -1)

    x0 = torch.tensor([1.0, 0.0], dtype=F64)
    strict = rd.solve(f, x0, [0.0, 2.0], control=rd.Adaptive(rtol=1e-6, atol=1e-8))
    loose = rd.solve(f, x0, [0.0, 2.0], control=rd.Adaptive(rtol=1e-6, atol=torch.tensor([1e-8, 1e3], dtype=F64)))
    assert loose.stats.accepted < strict.stats.accepted / 3
    torch.testing.assert_close(loose.x[-1, 0], x0[0] * math.exp(-2), rtol=1e-5, atol=0)


# interpolate


@pytest.mark.parametrize("gradient", [rd.Replay(), rd.Replay(keep=0), rd.Backprop(), rd.Checkpoint()], ids=repr)
@pytest.mark.parametrize("scheme", [rd.Tsit5(), rd.Dopri5(), rd.Dopri8()], ids=repr)
@pytest.mark.parametrize("t", [[0.0, 1.0, 3.0], [3.0, 2.0, 0.0]])
def test_interpolate_gives_the_state_anywhere(gradient, scheme, t):
    x0 = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True)
    solution = rd.solve(lambda t, x: -x * torch.cos(t), x0, t, scheme=scheme, gradient=gradient)
    times = [1.3, 3.0, 0.0, 0.7, 0.7, 1.0]
    x = solution.interpolate(times)
    exact = torch.stack([x0 * math.exp(math.sin(t[0]) - math.sin(s)) for s in times])
    torch.testing.assert_close(x, exact, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(solution.interpolate(1.3), x[0], rtol=1e-14, atol=0)
    (pulled,) = torch.autograd.grad(x[0].sum(), x0)
    torch.testing.assert_close(pulled, torch.full_like(x0, math.exp(math.sin(t[0]) - math.sin(1.3))), rtol=1e-4, atol=0)


def test_interpolate_agrees_with_reports():
    t = torch.linspace(0, 2, 23, dtype=F64)
    x0 = {"a": torch.tensor([[1.0, 2.0]], dtype=F64), "b": torch.tensor(0.5, dtype=torch.complex128)}

    def f(t, s):
        return {"a": -s["a"] * torch.cos(t), "b": 1j * s["b"]}

    reported = rd.solve(f, x0, t)
    walked = rd.solve(f, x0, [0.0, 2.0]).interpolate(t)
    for key in x0:
        torch.testing.assert_close(walked[key], reported.x[key], rtol=1e-13, atol=1e-14)
    assert rd.solve(f, x0, [0.0, 2.0]).interpolate(1.0)["b"].shape == ()


def test_interpolate_what_was_solved_before_a_failure():
    solution = rd.solve(lambda t, x: x**2, torch.ones(1, dtype=F64), [0.0, 2.0], throw=False)
    assert float(solution.interpolate(0.9)) == pytest.approx(10.0, rel=1e-4)
    with pytest.raises(rd.InputError, match="`t` must lie in the span solved"):
        solution.interpolate(1.5)


def test_interpolate_outside_the_span_is_refused():
    solution = rd.solve(lambda t, x: -x, ONE, [0.0, 1.0])
    with pytest.raises(rd.InputError, match=r"`t` must lie in the span solved, \[0, 1\], got 1.5"):
        solution.interpolate([0.5, 1.5])


@pytest.mark.parametrize(
    "make",
    [
        lambda: rd.solve(lambda t, x: -x, torch.ones(2, 1), [0.0, 1.0], control=rd.Adaptive(per_sample=True)),
        lambda: rd.solve(
            rd.autonomous(rd.branch.Spectral(-ONE)), ONE, [0.0, 1.0], scheme=rd.Euler(), control=rd.Fixed(steps=2)
        ),
    ],
)
def test_interpolate_without_shared_steps_is_refused(make):
    with pytest.raises(
        rd.InputError, match="`interpolate` must be asked of a solve with shared steps.*report the times in `t`"
    ):
        make().interpolate(0.5)


# Flow


def test_flow_is_a_module():
    net = torch.nn.Linear(2, 2, dtype=F64)
    flow = rd.Flow(rd.autonomous(net), (0.0, 0.7), scheme=rd.RK4(), control=rd.Fixed(steps=20))
    assert set(dict(flow.named_parameters())) == {"f.branch.weight", "f.branch.bias"}
    x0 = torch.randn(5, 2, dtype=F64)
    x = flow(x0)
    a = net.weight.detach().numpy()
    decay = torch.from_numpy(scipy.linalg.expm(0.7 * a))
    drift = torch.from_numpy(np.linalg.solve(a, (scipy.linalg.expm(0.7 * a) - np.eye(2)))) @ net.bias
    torch.testing.assert_close(x, x0 @ decay.T + drift, rtol=1e-6, atol=1e-7)
    x.sum().backward()
    assert net.weight.grad is not None
    assert flow.last.stats.accepted == 20
    assert flow.last.outcome.ok


def test_flow_keeps_structures_and_runs_backwards():
    flow = rd.Flow(lambda t, s: {"q": s["p"], "p": -s["q"]}, (1.0, 0.0))
    x = flow({"q": ONE, "p": 0 * ONE})
    torch.testing.assert_close(x["p"], torch.full_like(ONE, math.sin(1.0)), rtol=1e-5, atol=0)


def test_flow_moves_with_its_module_and_copies():
    import copy

    flow = rd.Flow(rd.autonomous(torch.nn.Linear(2, 2)))
    flow(torch.ones(1, 2))
    twin = copy.deepcopy(flow).double()
    assert twin(torch.ones(1, 2, dtype=F64)).dtype == F64


# Arguments


def test_arguments_reach_f():
    def f(t, x, rate, table, word):
        assert word == "go"
        return -rate * x * table["scale"][0]

    x = rd.solve(f, ONE, [0.0, 1.0], args=(torch.tensor(2.0, dtype=F64), {"scale": [0.5]}, "go")).x[-1]
    torch.testing.assert_close(x, ONE * math.exp(-1), rtol=1e-5, atol=0)


def test_f_sees_the_time_as_a_tensor_of_real_dtype():
    seen = []

    def f(t, x):
        seen.append((t.dtype, t.shape))
        return 0 * x

    rd.solve(f, torch.ones(1, dtype=torch.complex64), [0.0, 1.0], scheme=rd.Euler(), control=rd.Fixed())
    rd.solve(f, torch.ones(1, dtype=torch.bfloat16), [0.0, 1.0], scheme=rd.Euler(), control=rd.Fixed())
    assert seen == [(torch.float32, torch.Size([]))] * 2


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 2), (2, 2, 2, 2)])
def test_any_shape(shape):
    x0 = torch.full(shape, 2.0, dtype=F64)
    assert rd.solve(lambda t, x: -x, x0, [0.0, 1.0]).x.shape == (2, *shape)
    if shape:
        own = rd.solve(lambda t, x: -x, x0, [0.0, 1.0], control=rd.Adaptive(per_sample=True)).x
        torch.testing.assert_close(own[-1], x0 * math.exp(-1), rtol=1e-5, atol=0)


def test_x0_is_not_touched():
    x0 = torch.ones(3, dtype=F64)
    for control in (rd.Adaptive(), rd.Adaptive(per_sample=True), rd.Fixed(steps=3)):
        rd.solve(lambda t, x: -x, x0, [0.0, 1.0], scheme=rd.Dopri5(), control=control)
    assert torch.equal(x0, torch.ones(3, dtype=F64))


def test_linear_branch_in_closed_form_is_used():
    """No evaluation: the states come from the eigenvalues."""
    branch = rd.branch.Spectral(torch.tensor([-1.0, -2.0], dtype=F64))
    solution = rd.solve(rd.autonomous(branch), ONE, [0.0, 0.5, 1.0], scheme=rd.Euler(), control=rd.Fixed(steps=10))
    assert solution.stats.evaluations == 0
    assert solution.stats.accepted == 20
    torch.testing.assert_close(solution.x[-1], (1 + torch.tensor([-1.0, -2.0], dtype=F64) / 20) ** 20, rtol=1e-12, atol=0)


def test_a_closed_form_that_blows_up_says_so():
    branch = rd.branch.Spectral(torch.tensor([-1.0, -1e9], dtype=F64))
    run = functools.partial(
        rd.solve, rd.autonomous(branch), ONE, [0.0, 1.0, 2.0], scheme=rd.Euler(), control=rd.Fixed(steps=100)
    )
    with pytest.raises(rd.SolveError, match="inf"):
        run()
    solution = run(throw=False)
    assert solution.outcome.kind == "non_finite"
    assert len(solution.x) == 1


# Bad input: each error names the parameter, the rule, the value and the fix.


def decay(t, x):
    return -x


def bad(words, *args, error=rd.InputError, **kwargs):
    return pytest.param(args, kwargs, error, words, id=words[:60])


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "words"),
    [
        bad(
            r"`x0` must be floating point or complex, got torch.int64; use x0.float\(\)",
            decay,
            torch.tensor([1, 2]),
            [0.0, 1.0],
        ),
        bad("`x0` must be floating point or complex, got torch.bool", decay, torch.tensor([True]), [0.0, 1.0]),
        bad(r"`x0` must not be empty, got shape \(0, 2\)", decay, torch.ones(0, 2), [0.0, 1.0]),
        bad("`x0` must be finite, got nan at flat index 1; clean", decay, torch.tensor([1.0, math.nan]), [0.0, 1.0]),
        bad("`x0` must be finite, got -inf at flat index 2", decay, torch.tensor([1.0, 0.0, -math.inf]), [0.0, 1.0]),
        bad("`x0` must be a tensor, or a tuple or dict of tensors, got float.*torch.as_tensor", decay, 1.0, [0.0, 1.0]),
        bad("`x0` must be a tensor.* got ndarray", decay, np.ones(2), [0.0, 1.0]),
        bad(r"`x0` must have a sample axis, \(B, …\)", decay, torch.tensor(1.0), [0, 1], control=rd.Adaptive(per_sample=True)),
        bad(r"`t` must be \(n,\) or \(B, n\) with at least 2 times, got shape \(1,\)", decay, ONE, [0.0]),
        bad(r"`t` must be \(n,\) or \(B, n\) with at least 2 times, got shape \(\)", decay, ONE, 1.0),
        bad(r"got shape \(2, 2, 2\).*if x0 and t are swapped: solve\(f, x0, t\)", decay, ONE, torch.zeros(2, 2, 2)),
        bad(
            r"strictly increasing or decreasing, got \[1.0, 1.0\] at index 1; sort it, drop repeats",
            decay,
            ONE,
            [0.0, 1.0, 1.0],
        ),
        bad(r"strictly increasing or decreasing, got \[2.0, 1.0\] at index 1", decay, ONE, [0.0, 2.0, 1.0]),
        bad(r"strictly increasing or decreasing, got \[0.0, 0.0\] at index 0", decay, ONE, [0.0, 0.0]),
        bad("`t` must be finite, got nan or inf", decay, ONE, [0.0, math.nan]),
        bad("`t` must be finite, got nan or inf", decay, ONE, [0.0, math.inf]),
        bad("`t` must be real, got torch.complex", decay, ONE, torch.tensor([0.0, 1j])),
        bad(r"`t` must be real times, .* got \[0.0, 1j\]; write", decay, ONE, [0.0, 1j]),
        bad("`t` must be real, got torch.bool", decay, ONE, torch.tensor([False, True])),
        bad("`t` must be .*times.*got .*'start'", decay, ONE, ["start", "end"]),
        bad("`t` must be .*got None", decay, ONE, None),
        bad(
            r"`t` must have a row for each sample, \(2, n\), got shape \(3, 2\)",
            decay,
            ONE[:, None],
            torch.tensor([[0.0, 1.0]] * 3),
        ),
        bad(r"swapped: solve\(f, x0, t\)", decay, torch.tensor([0.0, 1.0]), torch.randn(4, 2)),
        bad(
            r"`f` must take \(t, x\), got \(x, t\); swap its arguments: lambda t, x: f\(x, t\)",
            lambda x, t: -x,
            ONE,
            [0.0, 1.0],
        ),
        bad(r"`f` must take \(t, x\), got \(state, time\)", lambda state, time: -state, ONE, [0.0, 1.0]),
        bad("`f` must be callable as f.t, x., got Tensor", ONE, decay, [0.0, 1.0]),
        bad(
            r"`f` must return the shape of x, \(2,\), got \(\); it looks as if f takes \(x, t\)",
            lambda a, b: -a,
            ONE,
            [0.0, 1.0],
        ),
        bad(r"`f` must return the shape of x, \(2,\), got \(1,\); return dx/dt", lambda t, x: x[:1], ONE, [0.0, 1.0]),
        bad(r"`f` must return the shape of x, \(2,\), got \(3, 2\)", lambda t, x: x.expand(3, 2), ONE, [0.0, 1.0]),
        bad(
            "`f` must return the dtype of x, torch.float64, got torch.float32; convert", lambda t, x: x.float(), ONE, [0.0, 1.0]
        ),
        bad("`f` must return the dtype of x, torch.float32, got torch.complex64", lambda t, x: x * 1j, ONE.float(), [0.0, 1.0]),
        bad("`f` must return a tensor like x, got NoneType; return dx/dt", lambda t, x: None, ONE, [0.0, 1.0]),
        bad("`f` must return a tensor like x, got tuple", lambda t, x: (x,), ONE, [0.0, 1.0]),
        bad("`args` must be a tuple, got Tensor; write args=.a,.", lambda t, x, a: x, ONE, [0.0, 1.0], args=ONE),
        bad("`scheme` must be a scheme such as Dopri5.., got <class .*pass an instance", decay, ONE, [0, 1], scheme=rd.Dopri5),
        bad("`scheme` must be a scheme such as Dopri5.., got 'dopri5'", decay, ONE, [0, 1], scheme="dopri5"),
        bad(
            "`control` must be given for RK4, which has no error estimate, got None; pass control=Fixed",
            decay,
            ONE,
            [0, 1],
            scheme=rd.RK4(),
        ),
        bad(
            "`control` must be Fixed.* for Euler, .* got Adaptive", decay, ONE, [0, 1], scheme=rd.Euler(), control=rd.Adaptive()
        ),
        bad("`control` must be Fixed.steps=N. or Adaptive.*, got 0.1", decay, ONE, [0, 1], control=0.1),
        bad("`gradient` must be .*Replay.*, got 'adjoint'", decay, ONE, [0, 1], gradient="adjoint"),
        bad("`gradient` must be .*Replay.*, got <class", decay, ONE, [0, 1], gradient=rd.Backprop),
    ],
)
def test_bad_input(args, kwargs, error, words):
    with pytest.raises(error, match=words) as caught:
        rd.solve(*args, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", [rd.Euler(), rd.Dopri5()], ids=repr)
def test_a_branch_that_changes_its_mind_later(scheme):
    """Shapes and dtypes are looked at each time, not only the first."""

    def f(t, x):
        return x if t < 0.5 else x.float()

    with pytest.raises(rd.InputError, match="`f` must return the dtype of x"):
        rd.solve(f, ONE, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=4))


def test_flow_says_the_same():
    with pytest.raises(rd.InputError, match="`control` must be given for Euler"):
        rd.Flow(decay, scheme=rd.Euler())
    with pytest.raises(rd.InputError, match="`t` must be strictly increasing or decreasing"):
        rd.Flow(decay, (1.0, 1.0))(ONE)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rd.Fixed(steps=0), "`steps` must be a whole number of at least 1, got 0"),
        (lambda: rd.Fixed(steps=2.0), "`steps` must be a whole number of at least 1, got 2.0"),
        (lambda: rd.Fixed(steps=True), "`steps` must be a whole number of at least 1, got True"),
        (lambda: rd.Adaptive(rtol=0.0), r"`rtol` must lie in \(0, 1\), got 0.0; 1e-6 is usual"),
        (lambda: rd.Adaptive(rtol=math.nan), r"`rtol` must lie in \(0, 1\), got nan"),
        (lambda: rd.Adaptive(rtol="1e-3"), r"`rtol` must lie in \(0, 1\), got '1e-3'"),
        (lambda: rd.Adaptive(atol=-1e-9), "`atol` must be ≥ 0 and finite, got -1e-09"),
        (lambda: rd.Adaptive(atol=math.nan), "`atol` must be ≥ 0 and finite, got nan"),
        (lambda: rd.Adaptive(atol=torch.tensor([1.0, -2.0])), "`atol` must be ≥ 0 and finite, got -2.0"),
        (lambda: rd.Adaptive(atol=torch.tensor([math.inf, math.inf])), "`atol` must be ≥ 0 and finite, got inf"),
        (lambda: rd.Adaptive(atol="small"), "`atol` must be ≥ 0 and finite, got 'small'"),
        (lambda: rd.Adaptive(max_steps=0), "`max_steps` must be a whole number of at least 1, got 0"),
        (lambda: rd.Adaptive(first_step=-0.1), "`first_step` must be > 0, got -0.1; the direction comes from the times"),
        (lambda: rd.Adaptive(min_step=1.0, max_step=0.5), r"`min_step` must lie in \[0, max_step = 0.5\], got 1.0"),
        (lambda: rd.Adaptive(max_step=0.0), "`max_step` must be > 0, got 0.0"),
        (lambda: rd.Adaptive(safety=0.0), "`min_factor`, `max_factor`, `safety` must satisfy .* got 0.2, 10.0, 0.0"),
        (lambda: rd.Adaptive(min_factor=1.5), "`min_factor`, `max_factor`, `safety` must satisfy"),
        (lambda: rd.Adaptive(integral=-1.0), "`integral` .* must be ≥ 0.* got -1.0"),
    ],
)
def test_controls_check_themselves(make, words):
    with pytest.raises(rd.InputError, match=words):
        make()


# Numerical failure: time, step, component and sample, stiffness, and what was solved before.


def nan_from(when):
    def f(t, x):
        slope = -x
        return torch.where((t >= when) & (torch.arange(x.shape[-1]) == 1), math.nan, slope)

    return f


CONTROLS = {
    "joint": rd.Adaptive(rtol=1e-5),
    "per_sample": rd.Adaptive(rtol=1e-5, per_sample=True),
    "fixed": rd.Fixed(steps=10),
}
every_control = pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
every_gradient = pytest.mark.parametrize(
    "gradient", [rd.Replay(), rd.Replay(keep=0), rd.Backprop(), rd.Checkpoint(), rd.Checkpoint(segments=1)], ids=repr
)


@every_control
@every_gradient
@pytest.mark.parametrize("when", [0.0, 0.42])
def test_nan_from_f(control, gradient, when):
    x0 = torch.ones(3, 4, dtype=F64, requires_grad=True)
    with pytest.raises(rd.SolveError, match=r"nan.* at t = .*component 1") as caught:
        rd.solve(nan_from(when), x0, [0.0, 0.2, 1.0, 2.0], scheme=rd.Dopri5(), control=control, gradient=gradient)
    outcome = caught.value.outcome
    assert outcome.kind == "non_finite"
    assert outcome.component == 1
    assert outcome.t == pytest.approx(when, abs=0.1)
    assert "\n" not in str(caught.value)


@every_control
@every_gradient
def test_what_was_solved_before_a_failure_is_returned(control, gradient):
    x0 = torch.ones(3, 4, dtype=F64, requires_grad=True)
    solution = rd.solve(
        nan_from(0.42), x0, [0.0, 0.2, 0.4, 1.0], scheme=rd.Dopri5(), control=control, gradient=gradient, throw=False
    )
    assert not solution.outcome.ok
    assert not bool(solution.outcome)
    known = solution.x[:3]
    torch.testing.assert_close(
        known, torch.exp(-torch.tensor([0.0, 0.2, 0.4], dtype=F64)).view(3, 1, 1) * x0, rtol=1e-4, atol=0
    )
    assert len(solution.x) == 3 or bool(torch.isnan(solution.x[3:]).all())
    assert len(solution.t) == len(solution.x)
    (pulled,) = torch.autograd.grad(known[2].sum(), x0)
    torch.testing.assert_close(pulled, torch.full_like(x0, math.exp(-0.4)), rtol=1e-4, atol=0)


@every_control
def test_blow_up_names_the_sample(control):
    """x' = x², x0 = 2 in sample 1: infinite at t = 1/2."""
    x0 = torch.tensor([[0.1, 0.1], [0.1, 2.0]], dtype=F64)
    if isinstance(control, rd.Fixed):
        control = rd.Fixed(steps=40)
    with pytest.raises(rd.SolveError, match="sample 1") as caught:
        rd.solve(lambda t, x: x**2, x0, [0.0, 2.0], scheme=rd.Dopri5(), control=control)
    outcome = caught.value.outcome
    assert outcome.kind in ("step_underflow", "non_finite")
    assert (outcome.sample, outcome.component) == (1, 1)
    assert 0.4 < outcome.t < 0.7


@pytest.mark.parametrize("per_sample", [False, True])
def test_too_many_steps_on_a_stiff_problem_says_stiff(per_sample):
    control = rd.Adaptive(max_steps=60, per_sample=per_sample)
    x0 = torch.tensor([[1.0, 1.0]], dtype=F64)
    rates = torch.tensor([1.0, 1e5], dtype=F64)
    with pytest.raises(rd.SolveError, match="60 steps were tried and .*stiff: use an implicit scheme") as caught:
        rd.solve(lambda t, x: -rates * (x - torch.cos(t)), x0, [0.0, 10.0], control=control)
    outcome = caught.value.outcome
    assert outcome.kind == "max_steps"
    assert outcome.stiff
    assert 0 < outcome.t < 1
    assert outcome.component == 1


@pytest.mark.parametrize("per_sample", [False, True])
def test_too_many_steps_on_a_fast_oscillation_does_not_say_stiff(per_sample):
    control = rd.Adaptive(max_steps=60, per_sample=per_sample)
    x0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    turn = torch.tensor([[0.0, 100.0], [-100.0, 0.0]], dtype=F64)
    with pytest.raises(rd.SolveError, match="raise `max_steps`") as caught:
        rd.solve(lambda t, x: x @ turn.T, x0, [0.0, 100.0], control=control)
    assert not caught.value.outcome.stiff


def test_fixed_steps_beyond_stability_say_stiff():
    with pytest.raises(rd.SolveError, match="stiff") as caught:
        rd.solve(lambda t, x: -1e6 * x, ONE, [0.0, 100.0], scheme=rd.RK4(), control=rd.Fixed(steps=1000))
    assert caught.value.outcome.kind == "non_finite"


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_least_step_does_not_carry_infinity_on(per_sample):
    """Steps at `min_step` are taken however wrong they are, but never where they leave the numbers."""
    control = rd.Adaptive(min_step=1e-3, per_sample=per_sample, max_steps=3000)
    with pytest.raises(rd.SolveError) as caught:
        rd.solve(lambda t, x: x**2, torch.full((1, 1), 2.0, dtype=F64), [0.0, 2.0], control=control)
    assert caught.value.outcome.kind == "non_finite"
    assert caught.value.outcome.t < 0.7


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_least_step_is_taken_however_wrong(per_sample):
    control = rd.Adaptive(rtol=1e-12, atol=1e-12, min_step=0.1, per_sample=per_sample)
    solution = rd.solve(lambda t, x: torch.cos(5 * t) * x, torch.ones(1, 1, dtype=F64), [0.0, 1.0], control=control)
    assert solution.stats.accepted <= 11
    assert float(solution.x[-1]) == pytest.approx(math.exp(math.sin(5) / 5), rel=1e-3)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_jump_of_f_is_stepped_over(per_sample):
    """x' = sign(t - 1/3): the exact solution has a corner, where an estimate from a few points is off by some factor."""
    control = rd.Adaptive(rtol=1e-6, atol=1e-8, per_sample=per_sample)
    x = rd.solve(lambda t, x: torch.sign(t - 1 / 3) + 0 * x, torch.zeros(1, 1, dtype=F64), [0.0, 1.0], control=control).x
    assert float(x[-1]) == pytest.approx(1 / 3, abs=1e-4)


def test_failures_in_structures_name_the_tensor():
    x0 = {"a": torch.ones(2, dtype=F64), "b": torch.ones(3, dtype=F64)}
    with pytest.raises(rd.SolveError, match="component 2 of tensor 1 of x"):
        rd.solve(lambda t, s: {"a": -s["a"], "b": s["b"] * torch.tensor([0, 0, math.inf])}, x0, [0.0, 1.0])


def test_an_error_inside_f_comes_through_unchanged():
    def f(t, x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        rd.solve(f, ONE, [0.0, 1.0])


def test_success_says_so():
    solution = rd.solve(decay, ONE, [0.0, 1.0])
    assert solution.outcome.kind == "success"
    assert solution.outcome.ok
    assert str(solution.outcome) == "success"
    assert re.fullmatch(r"Stats\(evaluations=\d+, accepted=\d+, rejected=\d+, root_iterations=0\)", repr(solution.stats))


def test_a_zero_field_and_a_zero_state():
    """Error ratio 0, state scale 0: the step grows, nothing divides by zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for flag in (False, True):
            control = rd.Adaptive(atol=0.0, per_sample=flag)
            solution = rd.solve(lambda t, x: 0 * x, torch.ones(2, 2, dtype=F64), [0.0, 1e6], control=control)
            assert solution.stats.accepted < 30
            solution = rd.solve(
                lambda t, x: -x, torch.zeros(2, 2, dtype=F64), [0.0, 10.0], control=rd.Adaptive(per_sample=flag)
            )
            assert float(solution.x.abs().max()) == 0.0


@pytest.mark.parametrize("per_sample", [False, True])
def test_times_far_from_zero(per_sample):
    """Steps of 1e-3 at t = 1e6 and a span of 1e-9 around 1: what a double resolves is resolved."""
    control = rd.Adaptive(per_sample=per_sample)
    x = rd.solve(lambda t, x: -1e3 * x, torch.ones(1, 1, dtype=F64), [1e6, 1e6 + 2**-7], control=control).x[-1]
    assert float(x) == pytest.approx(math.exp(-1000 * 2**-7), rel=1e-4)
    x = rd.solve(lambda t, x: 1e9 * x, torch.ones(1, 1, dtype=F64), [1.0, 1.0 + 2**-30], control=control).x[-1]
    assert float(x) == pytest.approx(math.exp(1e9 * 2**-30), rel=1e-4)
