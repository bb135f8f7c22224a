"""What explicit schemes promise: order, dense order, stability function, reuse of stages, either direction, any dtype."""

import math

import numpy as np
import pytest
import torch

import residyn as rd
from residyn.schemes import Bosh3, ExplicitRungeKutta

SCHEMES = [rd.Euler(), rd.Midpoint(), rd.Heun(), Bosh3(), rd.RK4(), rd.Tsit5(), rd.Dopri5(), rd.Dopri8()]
ADAPTIVE = [scheme for scheme in SCHEMES if scheme.error_order]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
F64 = torch.float64
each_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
each_adaptive = pytest.mark.parametrize("scheme", ADAPTIVE, ids=repr)


def riccati(t, x):
    """x' = x²·cos t, nonlinear and non-autonomous; x(t) = 1/(1/x0 - sin t)."""
    return x**2 * torch.cos(t)


def exact_riccati(t, x0=0.5):
    return 1 / (1 / x0 - math.sin(t))


def slope(hs, errors):
    """Least-squares slope of log error over log h."""
    logs = torch.tensor([hs, errors], dtype=F64).log()
    logs = logs - logs.mean(1, keepdim=True)
    return float((logs[0] * logs[1]).sum() / (logs[0] ** 2).sum())


def coupled(t, x):
    """A Riccati equation beside a rotation whose speed depends on the time and on its own radius (which stays 1)."""
    r, u, v = x.unbind()
    speed = (1 + t) * (1 + u * u + v * v) / 2
    return torch.stack([r**2 * torch.cos(t), speed * v, -speed * u])


def exact_coupled(t):
    angle = t + t * t / 2
    return torch.tensor([exact_riccati(t, 0.8), math.sin(angle), math.cos(angle)], dtype=F64)


# Final time and numbers of steps between the pre-asymptotic range and rounding (a few 1e-14).
RANGE = {
    1: (1.0, (200, 400, 800)),
    2: (1.0, (100, 200, 400)),
    3: (1.0, (50, 100, 200)),
    4: (1.0, (50, 100, 200)),
    5: (3.0, (144, 192, 256)),
    8: (4.0, (80, 96, 112, 128)),
}


@each_scheme
def test_order_of_convergence_on_a_non_autonomous_problem(scheme):
    end, counts = RANGE[scheme.order]
    x0 = exact_coupled(0.0)
    errors = []
    for n in counts:
        x = rd.solve(coupled, x0, [0.0, end], scheme=scheme, control=rd.Fixed(steps=n)).x[-1]
        errors.append(float((x - exact_coupled(end)).norm()))
    assert slope([end / n for n in counts], errors) == pytest.approx(scheme.order, abs=0.15)


# Schemes without an interpolant of their own get one that is wrong by O(h^p) in a single step, so that it keeps the order p
# of the solution as a whole; the published ones, and the first two, are an order better.
LOCAL = {"Euler": 2, "Midpoint": 3, "Heun": 3, "Bosh3": 4, "RK4": 4, "Tsit5": 5, "Dopri5": 5, "Dopri8": 8}


@each_scheme
def test_dense_output_has_its_order(scheme):
    """One step from an exact value, seen at interior points."""
    t0, x0 = 0.3, exact_coupled(0.3)
    hs = [0.5, 0.35, 0.25] if scheme.order == 8 else [0.1, 0.05, 0.025]

    def f(t, x):
        return coupled(torch.as_tensor(t, dtype=F64), x)

    worst = []
    for h in hs:
        dense = scheme.step(f, t0, t0 + h, x0, None).dense
        worst.append(max(float((dense(i / 16) - exact_coupled(t0 + i / 16 * h)).norm()) for i in range(17)))
    assert slope(hs, worst) > LOCAL[type(scheme).__name__] - 0.25


@each_adaptive
def test_states_between_long_adaptive_steps_are_as_accurate_as_at_their_ends(scheme):
    """Bessel's equation, 29 steps of Dopri8 over 20; its continuous result was once 1000 times worse than its ends."""
    tol = 1e-8 if scheme.order >= 5 else 1e-5

    def bessel(t, x):
        return torch.stack([x[1], -x[1] / t - (1 - 0.25 / t**2) * x[0]])

    def exact(t):  # of order 1/2: x = sin t / √t
        return np.sin(t) / np.sqrt(t)

    x0 = torch.tensor([exact(1.0), math.cos(1.0) - math.sin(1.0) / 2], dtype=F64)
    solution = rd.solve(bessel, x0, [1.0, 21.0], scheme=scheme, control=rd.Adaptive(rtol=tol, atol=tol))
    assert solution._problem is not None
    ends = [leg.t1 for leg in solution._problem.legs]
    between = np.linspace(1.0, 21.0, 300)
    at_ends, inside = (np.abs(solution.interpolate(list(t))[:, 0].numpy() - exact(np.array(t))).max() for t in (ends, between))
    # An interpolant of the scheme's order adds about the local tolerance, of which the error at the ends is a sum.
    assert inside < at_ends + 2 * tol


@each_scheme
def test_dense_output_meets_both_ends(scheme):
    x0 = torch.tensor([0.5, 0.25], dtype=F64)
    step = scheme.step(lambda t, x: x**2, 0.0, 0.5, x0, None)
    torch.testing.assert_close(step.dense(0.0), x0, rtol=0, atol=1e-15)
    torch.testing.assert_close(step.dense(1.0), step.x, rtol=0, atol=1e-14)


@each_scheme
def test_dense_output_with_a_time_a_sample_equals_that_with_one_time(scheme):
    x0 = torch.tensor([[0.5, 0.25], [0.1, -0.3]], dtype=F64)
    step = scheme.step(lambda t, x: x**2, 0.0, 0.5, x0, None)
    theta = torch.tensor([[0.3], [0.8]], dtype=F64)
    both = torch.stack([step.dense(0.3)[0], step.dense(0.8)[1]])
    torch.testing.assert_close(step.dense(theta), both, rtol=1e-14, atol=1e-15)


@each_scheme
def test_stability_function_is_what_a_step_does(scheme):
    z = torch.tensor([0.3, -1.0, 0.5 + 1j, 2j, -2.5 + 0.1j], dtype=torch.complex128)
    x1 = scheme.step(lambda t, x: z * x, 0.0, 1.0, torch.ones_like(z), None).x
    # Dopri8 has stage weights of size 50, which cancel.
    torch.testing.assert_close(scheme.stability(z), x1, rtol=1e-12, atol=1e-12)


@each_scheme
def test_growth_does_not_cancel(scheme):
    z = torch.tensor([1e-12, -1e-9], dtype=F64)
    torch.testing.assert_close(scheme.growth(z), torch.expm1(z), rtol=1e-8 if scheme.order == 1 else 1e-14, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES[:5], ids=repr)
def test_stability_interval_on_the_negative_axis(scheme):
    """|R| ≤ 1 up to the textbook's real stability limit, and not beyond it."""
    limit = {1: 2.0, 2: 2.0, 3: 2.5127, 4: 2.7853}[scheme.order]
    inside, outside = scheme.stability(torch.tensor([-limit + 1e-3, -limit - 1e-3], dtype=F64)).abs().tolist()
    assert inside <= 1 < outside


@each_scheme
@pytest.mark.parametrize("steps", [1, 7])
def test_fixed_steps_cost_their_stages_and_nothing_else(scheme, steps):
    calls = []

    def f(t, x):
        calls.append(float(t))
        return -x

    solution = rd.solve(f, torch.ones(2, dtype=F64), [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=steps))
    assert len(calls) == solution.stats.evaluations == steps * scheme.tableau.stages


@each_adaptive
def test_adaptive_steps_reuse_the_last_stage(scheme):
    """Two evaluations choose the first step, the first of them is the first stage; each try costs its new stages."""
    count = 0

    def f(t, x):
        nonlocal count
        count += 1
        return riccati(t, x)

    x0 = torch.tensor([0.5], dtype=F64)
    with torch.no_grad():
        stats = rd.solve(f, x0, [0.0, 10.0], scheme=scheme, control=rd.Adaptive(rtol=1e-4)).stats
    fsal = len(scheme.tableau.error) > scheme.tableau.stages
    tries = stats.accepted + stats.rejected
    if fsal:
        expected = 2 + tries * scheme.tableau.stages
    else:  # the last step's end is not asked for, and the first stage of the first step is known
        expected = 2 + tries * (scheme.tableau.stages - 1) + stats.accepted - 1
    assert stats.accepted > 5
    assert count == stats.evaluations == expected


@each_scheme
def test_there_and_back(scheme):
    x0 = torch.tensor([0.5, 0.2], dtype=F64)
    n = 200 if scheme.order > 2 else 4000
    there = rd.solve(riccati, x0, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=n)).x[-1]
    back = rd.solve(riccati, there, [1.0, 0.0], scheme=scheme, control=rd.Fixed(steps=n)).x[-1]
    # Twice the global error: about h^p times a constant of size one.
    torch.testing.assert_close(back, x0, rtol=0, atol=2 * n**-scheme.order + 1e-13)


@each_scheme
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("device", DEVICES)
def test_dtype_and_device_are_kept(scheme, dtype, device):
    x0 = torch.ones(3, 2, dtype=dtype, device=device)
    lam = -0.5 + 1j if dtype.is_complex else -0.5
    solution = rd.solve(lambda t, x: lam * x, x0, [0.0, 0.5, 1.0], scheme=scheme, control=rd.Fixed(steps=64))
    assert solution.x.dtype == dtype
    assert solution.x.device == x0.device
    exact = torch.exp(torch.tensor(lam))
    tolerance = 2e-2 if scheme.order == 1 else 1e-4 if scheme.order == 2 else 1e-5
    torch.testing.assert_close(solution.x[-1], (exact * x0).to(dtype), rtol=tolerance, atol=tolerance)


@each_adaptive
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("per_sample", [False, True])
def test_adaptive_control_keeps_its_word_in_every_dtype(scheme, dtype, device, per_sample):
    x0 = torch.tensor([[1.0, 2.0], [0.1, -3.0]], dtype=dtype, device=device)
    lam = -0.5 + 2j if dtype.is_complex else -0.5
    rtol = 1e-4
    solution = rd.solve(
        lambda t, x: lam * x, x0, [0.0, 0.7, 2.0], scheme=scheme, control=rd.Adaptive(rtol=rtol, per_sample=per_sample)
    )
    t = torch.tensor([0.0, 0.7, 2.0], dtype=F64, device=device).view(3, 1, 1)
    exact = (torch.exp(lam * t) * x0).to(dtype)
    assert solution.x.dtype == dtype
    # The global error is a few times the local tolerance; Dopri5's own interpolant is an order worse than its ends.
    torch.testing.assert_close(solution.x, exact, rtol=20 * rtol, atol=20 * rtol)


@each_adaptive
def test_error_estimate_is_the_difference_to_the_embedded_result(scheme):
    """On x' = λx the embedded result is a polynomial in z whose first terms are those of exp up to its order."""
    x = torch.ones(1, dtype=F64)
    errors = []
    for z in (0.4, 0.2):
        step = scheme.step(lambda t, y, z=z: z * y, 0.0, 1.0, x, None)
        errors.append(float(step.error().abs()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(scheme.error_order + 1, abs=0.4)


def test_a_scheme_of_ones_own_is_a_tableau():
    from residyn.schemes.tableaus import Tableau

    class Ralston(ExplicitRungeKutta):
        order = 2
        tableau = Tableau(c=(0.0, 2 / 3), a=((), (2 / 3,)), b=(1 / 4, 3 / 4))

    errors = [
        abs(float(rd.solve(riccati, torch.tensor([0.5], dtype=F64), [0, 2], scheme=Ralston(), control=rd.Fixed(steps=n)).x[-1])
            - exact_riccati(2.0))
        for n in (100, 200)
    ]  # fmt: skip
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


@each_scheme
def test_repr_says_how_to_make_it(scheme):
    assert repr(scheme) == f"{type(scheme).__name__}()"
