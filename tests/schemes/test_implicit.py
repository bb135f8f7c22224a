"""What stiff schemes promise: order, stability, failures that speak, any state, gradients of the exact solution."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

import residyn as rd
from residyn.errors import InputError, SolveError
from residyn.schemes import ImplicitMidpoint, Trapezoid

F64 = torch.float64
STIFF = [rd.BackwardEuler(), ImplicitMidpoint(), Trapezoid(), rd.Kvaerno5(), rd.Rodas5P()]
ADAPTIVE = [rd.Kvaerno5(), rd.Rodas5P()]


def riccati(t, x):
    """x' = x²·cos t; x(t) = 1/(1/x0 - sin t)."""
    return x**2 * torch.cos(t)


def riccati_by_number(t, x):
    """The same, with a time that autograd cannot see."""
    return x**2 * math.cos(float(t))


def exact_riccati(t, x0=0.5):
    return 1 / (1 / x0 - math.sin(t))


def robertson(t, x, k=None):
    """Robertson's chemical kinetics; rates 0.04, 3e7, 1e4."""
    k1, k2, k3 = (0.04, 3e7, 1e4) if k is None else k
    a, b, c = x.unbind(-1)
    slow, fast, back = k1 * a, k2 * b * b, k3 * b * c
    return torch.stack([back - slow, slow - back - fast, fast], -1)


def van_der_pol(t, x, mu=1000.0):
    """x'' = µ·(1 - x²)·x' - x."""
    u, v = x.unbind(-1)
    return torch.stack([v, mu * (1 - u * u) * v - u], -1)


def slope(hs, errors):
    """Least-squares slope of log error over log h."""
    logs = torch.tensor([hs, errors], dtype=F64).log()
    logs = logs - logs.mean(1, keepdim=True)
    return float((logs[0] * logs[1]).sum() / (logs[0] ** 2).sum())


each = pytest.mark.parametrize("scheme", STIFF, ids=repr)
each_adaptive = pytest.mark.parametrize("scheme", ADAPTIVE, ids=repr)
NEWTON = [scheme for scheme in STIFF if not isinstance(scheme, rd.Rodas5P)]
L_STABLE = ("BackwardEuler", "Kvaerno5", "Rodas5P")
STEPS = {1: (200, 400, 800), 2: (50, 100, 200), 5: (48, 68, 96)}


@each
@pytest.mark.parametrize("f", [riccati, riccati_by_number])
def test_order_of_convergence_on_a_non_autonomous_problem(scheme, f):
    errors = []
    counts = STEPS[scheme.order]
    for n in counts:
        x = rd.solve(f, torch.tensor([0.5], dtype=F64), [0.0, 2.0], scheme=scheme, control=rd.Fixed(steps=n)).x[-1]
        errors.append(abs(float(x) - exact_riccati(2.0)))
    assert slope([2.0 / n for n in counts], errors) == pytest.approx(scheme.order, abs=0.15)


DENSE_ORDER = {"BackwardEuler": 1, "ImplicitMidpoint": 2, "Trapezoid": 2, "Kvaerno5": 3, "Rodas5P": 4}


@each
def test_dense_output_has_its_order_and_meets_both_ends(scheme):
    """One step from an exact value: the local error of an interpolant of order q is O(h^(q+1))."""
    hs = [0.4, 0.2, 0.1]
    t0, x0 = 0.3, torch.tensor([exact_riccati(0.3)], dtype=F64)
    worst = []
    for h in hs:
        step = scheme.step(lambda t, x: riccati(torch.as_tensor(t, dtype=F64), x), t0, t0 + h, x0, None)
        torch.testing.assert_close(step.dense(0.0), x0, rtol=0, atol=1e-15)
        torch.testing.assert_close(step.dense(1.0), step.x, rtol=0, atol=1e-14)
        worst.append(max(abs(float(step.dense(i / 8)) - exact_riccati(t0 + i / 8 * h)) for i in range(1, 8)))
    assert slope(hs, worst) > DENSE_ORDER[type(scheme).__name__] + 1 - 0.35


ANGLES = [math.pi / 2, 0.55 * math.pi, 0.7 * math.pi, 0.85 * math.pi, math.pi]
SIZES = [10.0**k for k in range(-3, 7)]


@each
@pytest.mark.parametrize("angle", ANGLES)
def test_a_stable_over_nine_decades(scheme, angle):
    z = torch.polar(torch.tensor(SIZES, dtype=F64), torch.tensor(angle, dtype=F64).expand(len(SIZES)))
    z = torch.complex(z.real.clamp(max=0.0), z.imag)  # cos(π/2) rounds to 6e-17
    # R is a quotient of sums of up to nine terms, each rounded; where |R| = 1 exactly that shows
    assert float(scheme.stability(z).abs().max()) <= 1 + 1e-12
    if type(scheme).__name__ in L_STABLE:
        # R = P/Q with deg P < deg Q: |R| ≤ C/|z|, C = |p_(s-1)/q_s| below 100 for all three
        assert float(scheme.stability(z[-1]).abs()) <= 100 / SIZES[-1]
    else:
        assert float(scheme.stability(z[-1:]).abs()) == pytest.approx(1.0, abs=1e-5)  # A-stable, and not L-stable


@each
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("angle", ANGLES)
def test_a_step_of_the_linear_problem_is_the_stability_function(scheme, size, angle):
    lam = torch.tensor(complex(min(math.cos(angle), 0.0) * size, math.sin(angle) * size), dtype=torch.complex128)
    x0 = torch.ones(1, dtype=torch.complex128)
    x1 = rd.solve(lambda t, x: lam * x, x0, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=1)).x[-1]
    # stages are solved to 1e-10, relative to x0, and Rodas5P's u_i, of up to 150·x0, are rounded at |z|·eps each
    assert abs(complex(x1) - complex(scheme.stability(lam))) <= 1e-8
    assert abs(complex(x1)) <= 1 + 1e-8


@each
def test_max_stable_step_of_a_dissipative_branch_is_infinite(scheme):
    from residyn.branch import Dense

    branch = Dense(torch.tensor([[-1e3, 5.0], [0.0, -0.1]], dtype=F64))
    assert float(rd.max_stable_step(branch, torch.zeros(2, dtype=F64), scheme)) == math.inf


@each_adaptive
def test_robertson_agrees_with_scipy_radau(scheme):
    x0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    control = rd.Adaptive(rtol=1e-7, atol=1e-11)
    found = rd.solve(robertson, x0, [0.0, 1.0, 100.0, 1e4], scheme=scheme, control=control)

    def f(t, x):
        return robertson(t, torch.tensor(x)).numpy()

    reference = solve_ivp(f, (0, 1e4), [1.0, 0, 0], method="Radau", rtol=1e-10, atol=1e-14, t_eval=[0, 1, 100, 1e4])
    # 1e-7 a step over three dozen steps, and the cubic between steps, which is of lower order: a hundred times that
    torch.testing.assert_close(found.x, torch.tensor(reference.y.T), rtol=3e-5, atol=1e-10)
    assert found.stats.accepted < 400
    torch.testing.assert_close(found.x.sum(-1), torch.ones(4, dtype=F64), rtol=0, atol=1e-7)  # mass


@each_adaptive
def test_van_der_pol_agrees_with_scipy_radau(scheme):
    x0 = torch.tensor([2.0, 0.0], dtype=F64)
    control = rd.Adaptive(rtol=1e-7, atol=1e-9)
    found = rd.solve(van_der_pol, x0, [0.0, 500.0], scheme=scheme, control=control)
    reference = solve_ivp(
        lambda t, x: van_der_pol(t, torch.tensor(x)).numpy(), (0, 500), [2.0, 0.0], method="Radau", rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(found.x[-1], torch.tensor(reference.y[:, -1]), rtol=1e-5, atol=1e-8)
    assert found.stats.accepted < 300  # an explicit scheme needs about µ·t/3, 1.6e5


def test_what_newton_leaves_is_a_small_part_of_the_tolerance():
    # on the slow manifold the steps are hundreds of units long, and all that is left of an error is that of the last stages
    x0, rtol, atol = torch.tensor([2.0, 0.0], dtype=F64), 1e-6, 1e-9
    found = rd.solve(van_der_pol, x0, [0.0, 500.0], scheme=rd.Kvaerno5(), control=rd.Adaptive(rtol=rtol, atol=atol)).x[-1]
    truth = solve_ivp(
        lambda t, x: van_der_pol(t, torch.tensor(x)).numpy(), (0, 500), [2.0, 0.0], method="Radau", rtol=1e-11, atol=1e-14
    ).y[:, -1]
    off = (found - torch.tensor(truth)).abs() / (atol + rtol * torch.tensor(truth).abs())
    assert off.max() < 1.0  # a step may err by one; nothing that came before the last few steps is left


@pytest.mark.parametrize("per_sample", [False, True])
def test_newton_ends_at_the_rounding_of_single_precision(per_sample):
    x0 = torch.tensor([[2.0, 0.0]])
    control = rd.Adaptive(rtol=1e-7, atol=1e-9, per_sample=per_sample, max_steps=300)  # a hundredth of it is below rounding
    found = rd.solve(lambda t, x: van_der_pol(t, x, 100.0), x0, [0.0, 50.0], scheme=rd.Kvaerno5(), control=control)
    truth = rd.solve(lambda t, x: van_der_pol(t, x, 100.0), x0.double(), [0.0, 50.0], scheme=rd.Rodas5P()).x[-1]
    # some fifty steps of a rounding of 6e-8 each, relative to the state's 1.6
    torch.testing.assert_close(found.x[-1].double(), truth, rtol=0, atol=50 * 6e-8 * 1.6)


@pytest.mark.parametrize("scheme", NEWTON, ids=repr)
def test_root_iterations_are_counted(scheme):
    x0 = torch.tensor([0.5], dtype=F64)
    stats = rd.solve(riccati, x0, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=5)).stats
    stages = sum(row[-1] != 0 for row in scheme.tableau.a)
    assert 5 * stages <= stats.root_iterations <= 10 * 5 * stages
    again = rd.solve(riccati, x0, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=5)).stats
    assert again.root_iterations == stats.root_iterations  # each solve counts its own


def steep(t, x):
    return -1e6 * x**3


def test_newton_that_fails_with_fixed_steps_is_an_outcome_with_a_fix():
    scheme = rd.BackwardEuler(max_iterations=1)
    x0 = torch.tensor([[0.0], [1e4]], dtype=F64)
    found = rd.solve(steep, x0, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=1), throw=False)
    assert (found.outcome.kind, found.outcome.sample, found.outcome.ok) == ("root_failed", 1, False)
    with pytest.raises(SolveError, match=r"BackwardEuler met equations that Newton's method did not solve at t = 0 with h = 1, "
                       r"for sample 1; use more steps, or raise `max_iterations`"):  # fmt: skip
        rd.solve(steep, x0, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=1))


@pytest.mark.parametrize("per_sample", [False, True])
def test_newton_that_fails_is_a_rejected_step_and_the_solution_is_right(per_sample):
    x0 = torch.tensor([[1.0], [0.5]], dtype=F64)
    scheme = rd.Kvaerno5(max_iterations=3)
    control = rd.Adaptive(rtol=1e-6, atol=1e-9, first_step=5.0, per_sample=per_sample)
    found = rd.solve(lambda t, x: -1e3 * x**3, x0, [0.0, 1.0], scheme=scheme, control=control)
    assert found.stats.rejected > 0
    # x' = -k·x³ has x = (x0⁻² + 2kt)^(-1/2); error of the order of rtol, and its sum over steps below ten times that
    torch.testing.assert_close(found.x[-1], (x0**-2 + 2e3) ** -0.5, rtol=1e-5, atol=0)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_field_that_ends_is_said_so(per_sample):
    x0 = torch.tensor([[1.0]], dtype=F64)
    control = rd.Adaptive(per_sample=per_sample)
    found = rd.solve(lambda t, x: -1 / (2 * x), x0, [0.0, 2.0], scheme=rd.Kvaerno5(), control=control, throw=False)  # √(1-t)
    assert found.outcome.kind in ("step_underflow", "root_failed", "non_finite")
    assert found.outcome.t == pytest.approx(1.0, abs=1e-3)
    assert found.outcome.fix


@pytest.mark.parametrize(
    "scheme, h, kind, words",
    [
        (rd.BackwardEuler(), 1.0, "root_failed", "equations that Newton's method did not solve"),
        (rd.Rodas5P(), 1 / 0.25, "singular", "a singular linear system"),
    ],
    ids=["BackwardEuler", "Rodas5P"],
)
def test_a_singular_system_is_an_outcome(scheme, h, kind, words, monkeypatch):
    """x' = x/(γ·h): the matrix 1/(γh) - λ is 0 exactly, as γ and h are powers of two."""
    if isinstance(scheme, rd.Rodas5P):
        import dataclasses

        monkeypatch.setattr(type(scheme), "tableau", dataclasses.replace(scheme.tableau, gamma=0.25))
    x0 = torch.ones(1, dtype=F64)
    found = rd.solve(lambda t, x: 1.0 * x, x0, [0.0, h], scheme=scheme, control=rd.Fixed(steps=1), throw=False)
    assert found.outcome.kind == kind
    assert words in found.outcome.message


@each
def test_samples_that_depend_on_each_other_are_solved_together(scheme):
    """The mean of the samples is coupled in: the flat state, one system, is the truth."""
    torch.manual_seed(0)
    x0 = torch.randn(4, 2, dtype=F64)

    def f(t, x):
        return -3 * x + 2 * torch.tanh(x.mean(0)) - x**3

    found = rd.solve(f, x0, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=4)).x[-1]
    flat = rd.solve(
        lambda t, x: f(t, x.view(4, 2)).flatten(), x0.flatten(), [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=4)
    ).x[-1]
    torch.testing.assert_close(found.flatten(), flat, rtol=1e-9, atol=1e-9)  # Newton's own tolerance, 1e-10, a few times


@each
def test_a_sample_that_looks_at_another_has_the_right_gradient(scheme):
    x0 = torch.tensor([[0.5], [0.3], [0.2]], dtype=F64, requires_grad=True)

    def run(x):
        def f(t, y):
            return torch.cat([-y[:1], -y[1:2] * y[:1], -2 * y[2:]])

        return rd.solve(f, x, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=2), gradient=rd.Backprop()).x[-1]

    assert torch.autograd.gradcheck(run, x0, atol=1e-6)


@each
def test_complex_states_rotate(scheme):
    x0 = torch.tensor([[1.0 + 0.5j], [0.2 - 1.0j]], dtype=torch.complex128)
    steps = {1: 4000, 2: 400, 5: 20}[scheme.order]
    found = rd.solve(lambda t, x: (-0.5 + 2j) * x, x0, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=steps)).x[-1]
    # error constant·|λ|^(p+1)·h^p·t: below 2e-3 (p = 1), 1e-5 (p = 2), 1e-6 (p = 5)
    bound = {1: 2e-3, 2: 2e-5, 5: 1e-6}[scheme.order]
    assert float((found - x0 * torch.exp(torch.tensor(-0.5 + 2j))).abs().max()) < bound


@each
def test_tuple_states_are_solved_like_tensors(scheme):
    x0 = (torch.tensor([1.0], dtype=F64), torch.tensor([0.0, 0.5], dtype=F64))

    def f(t, x):
        u, v = x
        return -u + v[:1], -100 * v + torch.cat([u, u])

    found = rd.solve(f, x0, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=5)).x
    flat = rd.solve(lambda t, x: torch.cat(f(t, (x[:1], x[1:]))), torch.cat(x0), [0.0, 1.0], scheme=scheme,
                    control=rd.Fixed(steps=5)).x  # fmt: skip
    torch.testing.assert_close(torch.cat(found, -1), flat, rtol=1e-12, atol=1e-12)


@each_adaptive
def test_per_sample_control_is_solving_each_alone(scheme):
    mu = torch.tensor([[1.0], [30.0], [300.0]], dtype=F64)
    x0 = torch.tensor([2.0, 0.0], dtype=F64).expand(3, 2).contiguous()
    control = rd.Adaptive(rtol=1e-6, atol=1e-8, per_sample=True)

    def field(rows):
        return lambda t, x: van_der_pol(t, x, mu[rows, 0])

    together = rd.solve(field(slice(None)), x0, [0.0, 20.0], scheme=scheme, control=control).x[-1]
    alone = torch.cat([
        rd.solve(field(slice(i, i + 1)), x0[i : i + 1], [0.0, 20.0], scheme=scheme, control=control).x[-1] for i in range(3)
    ])  # fmt: skip
    # Newton stops when all are done, at 3 % of the tolerance or better: the steps then differ by as much
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def heat(n):
    """∂u/∂t = ∂²u/∂s² - u³ on n points with zero borders; the matrix has eigenvalues down to -4(n+1)²."""

    def f(t, x):
        padded = torch.nn.functional.pad(x, (1, 1))
        return (padded[..., 2:] - 2 * x + padded[..., :-2]) * (n + 1) ** 2 - x**3

    return f


def test_a_state_of_six_hundred_unknowns_is_solved_with_its_jacobian():
    n = 600
    x0 = torch.sin(math.pi * torch.linspace(0, 1, n + 2, dtype=F64)[1:-1])
    found = rd.solve(heat(n), x0, [0.0, 0.05], scheme=rd.Kvaerno5(), control=rd.Adaptive(rtol=1e-5, atol=1e-7))
    half = rd.solve(heat(n), x0, [0.0, 0.05], scheme=rd.BackwardEuler(), control=rd.Fixed(steps=40)).x[-1]
    # λ = -π² rules x0: t·λ²·h/2 = 3e-3 of error for backward Euler at h = 0.05/40
    assert float((found.x[-1] - half).abs().max()) < 4e-3
    assert found.stats.accepted < 60  # explicit schemes need t·4(n+1)²/3, 24,000


def wide(n):
    """x_i' = -k_i·x_i - x̄³ with k from 0.1 to 100: coupled through the mean, too large for a Jacobian."""
    rates = torch.linspace(0.1, 100.0, n, dtype=F64)
    return lambda t, x: -rates * x - x.mean(-1, keepdim=True) ** 3 * math.cos(float(t))


@pytest.mark.parametrize("scheme", [rd.BackwardEuler(), Trapezoid(), rd.Kvaerno5()], ids=repr)
def test_a_large_state_is_solved_by_newton_gmres(scheme):
    n = 1100
    x0 = torch.ones(n, dtype=F64)
    control = rd.Adaptive(rtol=1e-5, atol=1e-7) if scheme.error_order else rd.Fixed(steps=50)
    found = rd.solve(wide(n), x0, [0.0, 1.0], scheme=scheme, control=control)
    exact = rd.solve(wide(n), x0, [0.0, 1.0], scheme=rd.Dopri5(), control=rd.Adaptive(rtol=1e-9, atol=1e-11)).x[-1]
    # the mean falls from 1 within 0.01, which steps of 0.02 do not resolve: at most h/2·1³ = 1e-2 from that, twice for order 1
    bound = {1: 2e-2, 2: 1e-2, 5: 1e-5}[scheme.order]
    assert float((found.x[-1] - exact).abs().max()) < bound


def test_a_large_state_has_its_gradient():
    n = 1100
    x0 = torch.ones(n, dtype=F64, requires_grad=True)

    def end(x):
        return rd.solve(wide(n), x, [0.0, 0.2], scheme=rd.BackwardEuler(), control=rd.Fixed(steps=2)).x[-1].sum()

    (gradient,) = torch.autograd.grad(end(x0), x0)
    direction = torch.randn(n, dtype=F64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (end(x0 + 1e-3 * direction) - end(x0 - 1e-3 * direction)) / 2e-3
    # central difference: O(1e-6) of truncation, and Newton's 1e-10 on a sum of 1e3 over 2e-3
    assert float(gradient @ direction) == pytest.approx(float(difference), rel=1e-5, abs=1e-5)


def test_rosenbrock_says_where_large_states_are_solved():
    with pytest.raises(InputError, match=r"`x0` must have at most 256 unknowns a sample for Rodas5P.*got 300; use Kvaerno5"):
        rd.solve(heat(300), torch.zeros(300, dtype=F64), [0.0, 1.0], scheme=rd.Rodas5P())


@pytest.mark.parametrize("bad", [0, 1.5, -1])
def test_max_iterations_is_checked(bad):
    with pytest.raises(InputError, match="`max_iterations` must be a whole number of at least 1"):
        rd.BackwardEuler(max_iterations=bad)


@pytest.mark.parametrize("bad", [0, 1, -1e-3, math.nan])
def test_tol_is_checked(bad):
    with pytest.raises(InputError, match=r"`tol` must lie in \(0, 1\), got .*; 1e-8 is usual in double precision"):
        rd.Kvaerno5(tol=bad)


def test_implicit_midpoint_keeps_quadratic_invariants():
    """Cooper (1987): the energy of an oscillator is kept, to the tolerance of Newton; Euler's grows by (1 + h²) a step."""
    x0 = torch.tensor([1.0, 0.0], dtype=F64)
    x = rd.solve(
        lambda t, x: torch.stack([x[1], -x[0]]), x0, [0.0, 100.0], scheme=ImplicitMidpoint(), control=rd.Fixed(steps=500)
    )
    assert float(x.x[-1].norm()) == pytest.approx(1.0, abs=1e-7)


def test_backward_euler_dense_output_stays_between_the_ends():
    """At h·λ = -1e6, a cubic through the slope at the start would reach 1e5."""
    step = rd.BackwardEuler().step(lambda t, x: -1e6 * x, 0.0, 1.0, torch.ones(1, dtype=F64), None)
    assert all(0.0 <= float(step.dense(i / 10)) <= 1.0 for i in range(11))
