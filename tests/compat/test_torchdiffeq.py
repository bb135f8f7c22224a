"""The façade against torchdiffeq itself, closed forms and finite differences: one test a behaviour."""

import math
import warnings

import numpy as np
import pytest
import torch
import torchdiffeq as peer

from residyn.compat import methods, tableaus
from residyn.compat import torchdiffeq as ours

D = torch.float64
GRIDS = [name for name in methods.METHODS if name not in methods.ADAPTIVE and name != "scipy_solver"]
SHARED_GRIDS = [*methods.EXPLICIT, *methods.ADAMS]  # those that the released version has as well


def _field(t, y):
    return torch.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0] + 0.1 * torch.sin(t)])


Y0 = torch.tensor([1.0, 0.5], dtype=D)
T = torch.linspace(0, 3, 7, dtype=D)


class Counted:
    """A field that counts its calls and keeps the times it was asked at."""

    def __init__(self, f):
        self.f, self.times = f, []

    def __call__(self, t, y):
        self.times.append(t.item())
        return self.f(t, y)


@pytest.mark.parametrize("t", [T, T.flip(0)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("options", [{}, {"step_size": 0.1}, {"step_size": 0.07, "interp": "cubic"}])
@pytest.mark.parametrize("method", SHARED_GRIDS)
def test_grids_are_the_peers_to_rounding(method, options, t):
    if method == "explicit_adams" and options:
        options = options | {"max_order": 5}  # at order 12 both blow up
    # functional iteration does not reach the default tolerance at these steps, in either library
    loose = {"rtol": 1e-1, "atol": 1e-1} if method in ("implicit_adams", "fixed_adams") else {}
    expected = peer.odeint(_field, Y0, t, method=method, options=options, **loose)
    found = ours.odeint(_field, Y0, t, method=method, options=options, **loose)
    # the same operations in another order: some hundred roundings of 1e-16, amplified by the flow's e^3 at most
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("t", [T, T.flip(0)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("method", methods.ADAPTIVE)
def test_adaptive_methods_are_no_worse_than_the_peers(method, t):
    truth = ours.odeint(_field, Y0, t, method="dopri8", rtol=1e-12, atol=1e-14)
    other = "dopri5" if method == "tsit5" else method  # the released version has no tsit5, which is of the same order
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = peer.odeint(_field, Y0, t, method=other, rtol=1e-5, atol=1e-7)
    found = ours.odeint(_field, Y0, t, method=method, rtol=1e-5, atol=1e-7)
    assert (found - truth).abs().max() <= 1.5 * (expected - truth).abs().max()


@pytest.mark.parametrize(
    ("method", "order"),
    [
        ("implicit_euler", 1), ("implicit_midpoint", 2), ("trapezoid", 2), ("sdirk2", 2), ("trbdf2", 2), ("radauIIA3", 3),
        ("gl4", 4), ("radauIIA5", 5), ("gl6", 6),
    ],
)  # fmt: skip
def test_implicit_methods_have_their_order(method, order):
    t = torch.tensor([0.0, 1.0], dtype=D)
    truth = ours.odeint(_field, Y0, t, method="dopri8", rtol=1e-12, atol=1e-14)[-1]
    coarse, fine = (0.25, 0.125) if order < 5 else (0.5, 0.25)
    errors = [(ours.odeint(_field, Y0, t, method=method, options={"step_size": h})[-1] - truth).norm() for h in (coarse, fine)]
    # halving h divides the error by 2^p up to its next term, a fifth of a power at these h
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.45)


def test_implicit_methods_are_stable_where_explicit_ones_are_not():
    f = lambda t, y: -1e4 * (y - torch.cos(t))  # noqa: E731
    t = torch.tensor([0.0, 1.0], dtype=D)
    for method in ("implicit_euler", "radauIIA5", "sdirk2", "trbdf2"):
        y = ours.odeint(f, torch.zeros(1, dtype=D), t, method=method, options={"step_size": 0.1})[-1]
        # y follows cos(t) with a lag of 1e-4; L-stable schemes forget the start
        assert y.item() == pytest.approx(math.cos(1.0), abs=1e-3)


@pytest.mark.parametrize("method", [*methods.ADAPTIVE, *GRIDS])
def test_gradients_by_state_times_and_parameters(method):
    options = {"step_size": 0.4, "interp": "cubic"} if method not in methods.ADAPTIVE else {}
    kwargs = {"rtol": 1e-9, "atol": 1e-11} if method in ("dopri5", "dopri8") else {"rtol": 1e-6, "atol": 1e-8}
    kwargs = {"rtol": 1e-2, "atol": 1e-2} if method in methods.ADAMS else kwargs

    def solve(y0, t, k):
        return ours.odeint(lambda t, y: -k * y * torch.cos(t), y0, t, method=method, options=options, **kwargs)

    y0 = torch.tensor([1.0, 2.0], dtype=D, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=D, requires_grad=True)
    k = torch.tensor(0.8, dtype=D, requires_grad=True)
    found = torch.autograd.grad(solve(y0, t, k)[1:].sum(), (y0, t, k))
    # y = y0·exp(-k·(sin t - sin t0)); low orders and coarse grids are off by their own error, here at most a tenth
    exact = (y0 * torch.exp(-k * (torch.sin(t[1:, None]) - torch.sin(t[0])))).sum()
    close = {"euler": 0.3, "implicit_euler": 0.3}.get(method, 0.1 if options else 1e-3)
    for a, b in zip(found, torch.autograd.grad(exact, (y0, t, k)), strict=True):
        torch.testing.assert_close(a, b, rtol=close, atol=close)


@pytest.mark.parametrize("method", ["rk4", "heun3", "implicit_adams", "radauIIA3", "trbdf2", "gl4"])
def test_gradients_on_grids_are_exactly_those_of_the_steps(method):
    y0 = torch.tensor([0.3, 1.0], dtype=D, requires_grad=True)
    t = torch.linspace(0, 1, 6, dtype=D, requires_grad=True)
    k = torch.tensor(0.8, dtype=D, requires_grad=True)

    def solve(y0, t, k):
        return ours.odeint(lambda t, y: torch.sin(k * y.flip(0)) + t * y, y0, t, method=method, rtol=1e-3, atol=1e-3)

    # the order of a sum depends on where its memory lies: roundings differ from run to run
    assert torch.autograd.gradcheck(solve, (y0, t, k), nondet_tol=1e-11)


def test_adjoint_agrees_with_the_peers():
    def gradients(lib):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()

        class F(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.unused = net, torch.nn.Linear(2, 2).double()

            def forward(self, t, y):
                return self.net(y) * torch.cos(t)

        f = F()
        y0, t = Y0.clone().requires_grad_(), T.clone().requires_grad_()
        lib.odeint_adjoint(f, y0, t, rtol=1e-9, atol=1e-11).pow(2).sum().backward()
        assert f.unused.weight.grad.abs().max() == 0
        return [y0.grad, t.grad, *(p.grad for p in net.parameters())]

    for a, b in zip(gradients(ours), gradients(peer), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def test_complex_states():
    w = torch.tensor(2.0, dtype=D, requires_grad=True)
    y0 = torch.tensor([1.0 + 0.5j], dtype=torch.complex128, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=D)

    def f(t, y):
        return 1j * w * y

    truth = torch.exp(1j * w) * y0
    expected = torch.autograd.grad(truth.real.sum(), (w, y0))
    for method in ("dopri5", "dopri8", "rk4", "gl6", "implicit_adams"):
        options = {} if method in methods.ADAPTIVE else {"step_size": 0.01}
        y = ours.odeint(f, y0, t, method=method, options=options)[-1]
        torch.testing.assert_close(y, truth, rtol=1e-6, atol=0)
        for a, b in zip(torch.autograd.grad(y.real.sum(), (w, y0)), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    y = ours.odeint_adjoint(f, y0, t, adjoint_params=(w,))[-1]
    for a, b in zip(torch.autograd.grad(y.real.sum(), (w, y0)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_tuples_are_views_of_one_solution():
    f = lambda t, y: (-y[0], torch.zeros_like(y[1]))  # noqa: E731
    y = ours.odeint(f, (torch.ones(2, 3), torch.tensor(4.0)), torch.tensor([0.0, 1.0, 2.0]))
    assert isinstance(y, tuple)
    assert [item.shape for item in y] == [(3, 2, 3), (3,)]
    assert y[0].untyped_storage().data_ptr() == y[1].untyped_storage().data_ptr()
    torch.testing.assert_close(y[0][1], torch.full((2, 3), math.exp(-1)), rtol=1e-5, atol=0)


def test_one_time_is_no_integration():
    for method in methods.METHODS:
        y = ours.odeint(_field, Y0, T[:1], method=method)
        torch.testing.assert_close(y, Y0[None], rtol=0, atol=0)


def test_tolerances_for_each_tensor_of_a_tuple():
    f = Counted(lambda t, y: (torch.cos(9 * t)[None], -y[1]))
    y0, t = (torch.zeros(1, dtype=D), torch.ones(1, dtype=D)), torch.tensor([0.0, 2.0], dtype=D)
    calls = []
    for tight in (1e-3, 1e-10):
        f.times.clear()
        ours.odeint(f, y0, t, rtol=(tight, 1e-3), atol=(torch.tensor(tight), 1e-3))
        calls.append(len(f.times))
    assert calls[0] < calls[1]
    with pytest.raises(AssertionError, match="tupled rtol it must have the same length"):
        ours.odeint(f, y0, t, rtol=(1e-3,))


def test_norms():
    seen = []

    def norm(state):
        seen.append(state)
        return state[0].abs().max() if isinstance(state, tuple) else state.abs().max()

    t = torch.tensor([0.0, 1.0])
    ours.odeint(lambda t, y: -y, torch.ones(2), t, options={"norm": norm})
    assert seen
    assert all(isinstance(item, torch.Tensor) and item.shape == (2,) for item in seen)
    seen.clear()
    ours.odeint(lambda t, y: (-y[0], y[1]), (torch.ones(2), torch.ones(())), t, options={"norm": norm})
    assert seen
    assert all(isinstance(item, tuple) and [i.shape for i in item] == [(2,), ()] for item in seen)


@pytest.mark.parametrize("asked", [None, "seminorm", "own"])
def test_the_adjoints_norm_stands_on_the_node(asked):
    shapes = []

    def own(parts):
        shapes.append([tuple(item.shape) for item in parts])
        return torch.stack([item.abs().max() for item in parts]).max()

    w = torch.full((7,), 0.1, requires_grad=True)
    kwargs = {} if asked is None else {"adjoint_options": {"norm": own if asked == "own" else asked}}
    y = ours.odeint_adjoint(
        lambda t, y: (-y[0] * w.sum(), y[1]),
        (torch.ones(()), torch.ones(2)),
        torch.tensor([0.0, 1.0]),
        adjoint_params=(w,),
        **kwargs,
    )
    node = y[0].grad_fn.next_functions[0][0].next_functions[0][0]
    assert node is y[1].grad_fn.next_functions[0][0].next_functions[0][0]
    inner = node.adjoint_options["norm"]
    if asked != "own":
        parts = (torch.tensor(0.5), torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.0, 3.0, 3.0]), torch.full((7,), 9.0))
        assert float(inner(parts)) == pytest.approx(9.0 if asked is None else 3.0)

    def spy(parts):
        shapes.append([tuple(item.shape) for item in parts])
        return inner(parts)

    node.adjoint_options["norm"] = spy  # what stands there when the gradient comes back is used
    y[0].sum().backward()
    assert [(), (3,), (3,), (7,)] in shapes
    assert ([(), (), (2,), (), (2,), (7,)] in shapes) == (asked == "own")


def test_jumps():
    def f(t, y):
        return -0.5 * y if t < 0.5 else y**2

    t = torch.tensor([0.0, 1.0], dtype=D)
    blind, told = Counted(f), Counted(f)
    ours.odeint(blind, Y0, t, rtol=1e-6, atol=1e-6)
    y = ours.odeint(told, Y0, t, rtol=1e-6, atol=1e-6, options={"jump_t": torch.tensor([0.5])})[-1]
    assert len(told.times) < len(blind.times)
    assert 0.5 not in told.times  # asked just before and just after
    assert np.nextafter(0.5, 0) in told.times
    assert np.nextafter(0.5, 1) in told.times
    half = Y0 * math.exp(-0.25)
    torch.testing.assert_close(y, 1 / (1 / half - 0.5), rtol=1e-5, atol=0)  # y' = y² from t = 0.5 to 1
    back = ours.odeint(f, y, t.flip(0), rtol=1e-8, atol=1e-8, options={"jump_t": torch.tensor([0.5])})[-1]
    torch.testing.assert_close(back, Y0, rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="must not have any repeated elements"):
        ours.odeint(f, Y0, t, options={"jump_t": torch.tensor([0.5]), "step_t": torch.tensor([0.5])})


def test_prescribed_least_greatest_and_first_steps():
    steps = []

    class F(torch.nn.Module):
        def callback_accept_step(self, t0, y0, dt):
            steps.append((float(t0), float(dt)))

        def forward(self, t, y):
            return -y

    t = torch.tensor([0.0, 2.0], dtype=D)
    ours.odeint(F(), Y0, t, options={"step_t": torch.tensor([0.3, 1.1], dtype=D)})
    assert {0.3, 1.1} <= {round(start, 12) for start, _ in steps}
    steps.clear()
    ours.odeint(F(), Y0, t, options={"max_step": 0.05})
    assert max(h for _, h in steps) <= 0.05 + 1e-12
    steps.clear()
    ours.odeint(F(), Y0, t, rtol=1e-10, atol=1e-12, options={"min_step": 0.5})
    assert len(steps) == 4
    steps.clear()
    ours.odeint(F(), Y0, t.flip(0), options={"first_step": 0.01})
    assert steps[0] == (2.0, pytest.approx(0.01))
    with pytest.raises(AssertionError, match=r"max_num_steps exceeded \(3>=3\)"):
        ours.odeint(F(), Y0, t, options={"max_num_steps": 3})


def test_perturbation_keeps_off_the_grid():
    t = torch.tensor([0.0, 1.0])
    for method in GRIDS:
        for nudged in (True, False):
            f = Counted(lambda t, y: -y)
            ours.odeint(f, torch.ones(2), t, method=method, options={"step_size": 0.5, "perturb": nudged})
            assert (0.0 in f.times) != nudged
            assert (0.5 in f.times) != nudged


@pytest.mark.parametrize("adjoint", [False, True])
def test_grid_constructor(adjoint):
    asked = []

    def constructor(f, y0, t):
        asked.append(t.tolist())
        return torch.linspace(float(t[0]), float(t[1]), 11)

    y0 = torch.tensor(1.0, requires_grad=True)
    solve = ours.odeint_adjoint if adjoint else ours.odeint
    kwargs = {"adjoint_params": ()} if adjoint else {}
    options = {"grid_constructor": constructor}
    y = solve(lambda t, y: y, y0, torch.tensor([0.0, 1.0]), method="euler", options=options, **kwargs)[1]
    y.backward()
    assert y.item() == pytest.approx(1.1**10, rel=1e-6)
    assert y0.grad.item() == pytest.approx(1.1**10, rel=1e-6)
    assert asked == ([[0.0, 1.0], [1.0, 0.0]] if adjoint else [[0.0, 1.0]])
    with pytest.raises(ValueError, match="mutually exclusive"):
        ours.odeint(_field, Y0, T, method="euler", options={"step_size": 0.1, "grid_constructor": constructor})
    with pytest.raises(AssertionError, match="grid_constructor must return a grid from"):
        ours.odeint(_field, Y0, T, method="euler", options={"grid_constructor": lambda f, y0, t: t[1:]})


def test_callbacks_and_their_adjoint_twins():
    counts = {}

    class F(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(1.0, dtype=D))

        def forward(self, t, y):
            return -self.w * y * (1 + 5 * torch.sin(9 * t))

    for name in ("callback_step", "callback_accept_step", "callback_reject_step"):
        for twin in ("", "_adjoint"):

            def callback(self, t0, y0, dt, _name=name + twin):
                assert dt > 0
                assert isinstance(y0, tuple) == _name.endswith("_adjoint")
                counts[_name] = counts.get(_name, 0) + 1

            setattr(F, name + twin, callback)
    y = ours.odeint_adjoint(F(), Y0, torch.tensor([0.0, 2.0], dtype=D))
    assert "callback_step_adjoint" not in counts
    y.sum().backward()
    for twin in ("", "_adjoint"):
        parts = counts[f"callback_accept_step{twin}"] + counts[f"callback_reject_step{twin}"]
        assert counts[f"callback_step{twin}"] == parts
        assert counts[f"callback_reject_step{twin}"] > 0


def test_callbacks_that_a_method_does_not_make_warn():
    class F(torch.nn.Module):
        def callback_accept_step(self, t0, y0, dt):
            raise AssertionError

        def forward(self, t, y):
            return -y

    for method in ("rk4", "scipy_solver", "gl4"):
        with pytest.warns(UserWarning, match="does not support callbacks {'callback_accept_step'}"):
            ours.odeint(F(), Y0, T, method=method)


def test_unknown_options_warn():
    for method in ("dopri5", "rk4", "scipy_solver", "gl4"):
        with pytest.warns(UserWarning, match="Unexpected arguments {'stepsize': 3}"):
            ours.odeint(_field, Y0, T, method=method, options={"stepsize": 3})
    with pytest.warns(UserWarning, match="max_order is below 4"):
        ours.odeint(_field, Y0, T, method="implicit_adams", options={"max_order": 3, "step_size": 0.1})
    with pytest.warns(UserWarning, match="Functional iteration did not converge"):
        ours.odeint(lambda t, y: -50 * y, Y0, T, method="implicit_adams", rtol=1e-12, atol=1e-14)


def test_a_frozen_parameter_in_the_adjoint_norm_warns():
    w = torch.ones(1)
    with pytest.warns(UserWarning, match="An adjoint parameter was passed without requiring gradient"):
        ours.odeint_adjoint(
            lambda t, y: -w * y,
            torch.ones(1, requires_grad=True),
            torch.tensor([0.0, 1.0]),
            adjoint_params=(w,),
            adjoint_options={"norm": lambda parts: parts[1].abs().max()},
        )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ours.odeint(_field, Y0, T, method="adams"), ValueError, 'Invalid method "adams". Must be one of'),
        (lambda: ours.odeint(_field, Y0, [0.0, 1.0]), AssertionError, "t must be a torch.Tensor"),
        (lambda: ours.odeint(_field, Y0, torch.tensor([0, 1])), TypeError, "must be a floating point Tensor"),
        (lambda: ours.odeint(_field, Y0, T[None]), AssertionError, "t must be one dimensional"),
        (lambda: ours.odeint(_field, Y0, T[[0, 2, 1]]), AssertionError, "strictly increasing or decreasing"),
        (lambda: ours.odeint(_field, [Y0], T), AssertionError, "y0 must be either a torch.Tensor or a tuple"),
        (
            lambda: ours.odeint(_field, Y0, T, rtol=torch.tensor(1e-3, requires_grad=True)),
            AssertionError,
            "rtol cannot require gradient",
        ),
        (lambda: ours.odeint_adjoint(_field, Y0, T), ValueError, "func must be an instance of nn.Module"),
        (
            lambda: ours.odeint_adjoint(_field, Y0, T, adjoint_params=(), options={"max_step": 1.0}, adjoint_method="rk4"),
            ValueError,
            "adjoint_method != method",
        ),
        (lambda: ours.odeint(_field, Y0, T, event_fn=lambda t, y: y[0]), ValueError, r"got len\(t\)=7"),
        (
            lambda: ours.odeint(_field, Y0, T[:2], event_fn=lambda t, y: y[0], method="rk4"),
            AssertionError,
            "requires `step_size`",
        ),
        (
            lambda: ours.odeint(_field, Y0, T, method="rk4", options={"step_size": 0.0}),
            RuntimeError,
            "step_size must be > 0, got 0.0",
        ),
        (
            lambda: ours.odeint(_field, Y0, T, method="rk4", options={"interp": "x"}),
            ValueError,
            "Unknown interpolation method x",
        ),
        (
            lambda: ours.odeint(lambda t, y: y**2, 10 * Y0, T, options={"max_num_steps": 10_000}),
            AssertionError,
            "underflow in dt|non-finite values",
        ),
        (lambda: ours.odeint(_field, Y0, T, options={"max_step": -1.0}), AssertionError, "underflow in dt -1.0 at t = 0.0"),
        (lambda: ours.odeint(_field, Y0 * math.nan, T), AssertionError, "non-finite values in state"),
        (lambda: ours.odeint_dense(_field, Y0, T[0], T[1], method="rk4"), AssertionError, "method must be adaptive"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("method", methods.ADAPTIVE)
def test_a_state_without_entries(method):
    assert ours.odeint(_field_of_nothing, torch.zeros(0, 3, dtype=D), T, method=method).shape == (7, 0, 3)


def _field_of_nothing(t, y):
    return -y


@pytest.mark.parametrize("method", [m for m in methods.METHODS if m != "explicit_adams"])
@pytest.mark.parametrize("back", [False, True])
def test_events(method, back):
    # y = cos t is 0.2 first at acos(0.2), and at -acos(0.2) backwards
    options = {} if method in methods.ADAPTIVE or method == "scipy_solver" else {"step_size": 0.02, "interp": "cubic"}
    f = lambda t, y: torch.stack([-y[1], y[0]])  # noqa: E731
    t = torch.tensor([0.0, -1.0 if back else 1.0], dtype=D)
    start = torch.tensor([1.0, 0.0], dtype=D)
    kwargs = {"rtol": 1e-6, "atol": 1e-8}
    when, y = ours.odeint(f, start, t, event_fn=lambda t, y: y[0] - 0.2, method=method, options=options, **kwargs)
    tol = {"euler": 2e-2, "implicit_euler": 2e-2}.get(method, 2e-4)
    assert when.item() == pytest.approx((-1 if back else 1) * math.acos(0.2), abs=tol)
    assert y.shape == (2, 2)
    assert y[1, 0].item() == pytest.approx(0.2, abs=1e-3 if method == "scipy_solver" else 1e-12)


EVENT_METHODS = ["dopri5", "dopri8", "tsit5", "bosh3", "rk4"]  # all of them exact on a parabola


@pytest.mark.parametrize("method", EVENT_METHODS)
@pytest.mark.parametrize("interface", [ours.odeint, ours.odeint_adjoint])
@pytest.mark.parametrize("back", [False, True])
def test_events_have_the_gradient_of_the_implicit_function_theorem(interface, back, method):
    # a ball from (h, v) at t0 under g lands at level c: closed forms, both ways in time
    h, v, g, c, t0 = (torch.tensor(x, dtype=D, requires_grad=True) for x in (10.0, 1.0, 9.8, 2.0, 0.5))
    sign = -1.0 if back else 1.0
    kwargs = {"adjoint_params": (g,)} if interface is ours.odeint_adjoint else {}
    when, y = ours.odeint_event(
        lambda t, y: (y[1], -g),
        (h, v),
        t0,
        event_fn=lambda t, y: y[0] - c,
        reverse_time=back,
        odeint_interface=interface,
        method=method,
        options={"step_size": 0.3, "interp": "cubic"} if method == "rk4" else None,
        **kwargs,
    )
    duration = (v + sign * torch.sqrt(v**2 + 2 * g * (h - c))) / g
    for found, truth in ((when, t0 + duration), (y[0][-1], c), (y[1][-1], v - g * duration)):
        torch.testing.assert_close(found.detach(), truth.detach(), rtol=1e-9, atol=0)
        leaves = (h, v, g, c, t0)
        a = torch.autograd.grad(found, leaves, retain_graph=True, allow_unused=True)
        b = torch.autograd.grad(truth, leaves, retain_graph=True, allow_unused=True)
        for x, z in zip(a, b, strict=True):
            torch.testing.assert_close(
                torch.zeros((), dtype=D) if x is None else x, torch.zeros((), dtype=D) if z is None else z, rtol=1e-7, atol=1e-9
            )


def test_several_conditions_end_at_the_first():
    when, _ = ours.odeint_event(
        lambda t, y: torch.ones_like(y),
        torch.zeros(1, dtype=D),
        torch.tensor(0.0, dtype=D),
        event_fn=lambda t, y: torch.cat([y - 3, 2 - y, y + 1]),
    )
    assert when.item() == pytest.approx(2.0, rel=1e-12)


def test_adjoint_through_an_event_treats_its_time_as_given():
    w = torch.tensor(-1.0, dtype=D, requires_grad=True)
    y0 = torch.ones(1, dtype=D, requires_grad=True)
    when, y = ours.odeint_adjoint(
        lambda t, y: w * y, y0, torch.tensor([0.0, 1.0], dtype=D), event_fn=lambda t, y: y - 0.5, adjoint_params=(w,)
    )
    when.backward(retain_graph=True)
    assert y0.grad.abs().max() == 0
    y[-1].sum().backward()
    torch.testing.assert_close(w.grad, 0.5 * torch.log(torch.tensor(2.0, dtype=D)), rtol=1e-6, atol=0)


def test_scipy_solver():
    for solver in ("RK45", "LSODA", "Radau"):
        y = ours.odeint(_field, Y0, T.flip(0), method="scipy_solver", options={"solver": solver}, rtol=1e-8, atol=1e-10)
        truth = ours.odeint(_field, Y0, T.flip(0), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(y, truth, rtol=1e-5, atol=1e-5)


def test_dense():
    at = ours.odeint_dense(_field, Y0, T[0], T[-1], rtol=1e-9, atol=1e-11)
    truth = ours.odeint(_field, Y0, T, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(at(T), truth, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(at(T[2]), truth[2], rtol=1e-6, atol=1e-6)


def test_single_precision_keeps_its_dtype_and_times():
    f = Counted(lambda t, y: -y)
    y = ours.odeint(f, torch.ones(3), torch.tensor([0.0, 1.0], dtype=D))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y[-1], torch.full((3,), math.exp(-1)), rtol=1e-5, atol=0)


def test_nothing_beyond_the_last_time_is_asked():
    f = Counted(lambda t, y: torch.sqrt(1 - t) * y)
    ours.odeint(f, Y0, torch.tensor([0.0, 1.0], dtype=D), rtol=1e-4, atol=1e-6)
    assert max(f.times) <= 1.0


def test_a_field_may_return_another_dtype_or_broadcast():
    y = ours.odeint(lambda t, y: torch.ones(1), torch.zeros(3, dtype=D), torch.tensor([0.0, 1.0], dtype=D))
    torch.testing.assert_close(y[-1], torch.ones(3, dtype=D))


def _trees(order):
    """Rooted trees of an order, as sorted tuples of their branches."""
    if order == 1:
        return [()]
    found = set()

    def forests(left, largest, chosen):
        if left == 0:
            found.add(tuple(sorted(chosen)))
            return
        for size in range(min(left, largest), 0, -1):
            for tree in _trees(size):
                forests(left - size, size, (*chosen, tree))

    forests(order - 1, order - 1, ())
    return sorted(found)


def _size(tree):
    return 1 + sum(_size(branch) for branch in tree)


def _density(tree):
    return _size(tree) * math.prod(_density(branch) for branch in tree)


def _order_defect(a, weights, order, theta):
    """The largest defect in the conditions of one order for a result at a fraction θ of the step."""

    def stage(tree):
        value = np.ones(len(a))
        for branch in tree:
            value = value * (a @ stage(branch))
        return value

    return max(abs(weights @ stage(tree) - theta**order / _density(tree)) for tree in _trees(order))


@pytest.mark.parametrize("theta", [0.1, 0.37, 0.5, 0.8, 1.0])
def test_the_dense_result_of_dopri8(theta):
    t = tableaus.DOPRI8_DENSE
    a = np.zeros((14, 14))
    for i, row in enumerate([*t.a, t.b]):
        a[i, : len(row)] = row
    weights = np.array([sum(c * theta ** (j + 1) for j, c in enumerate(row)) for row in t.dense])
    for order in range(1, 6):
        assert _order_defect(a, weights, order, theta) < 1e-12  # weights of size 100 in double precision
    assert _order_defect(a, weights, 6, theta) < 4e-6
    if theta == 1.0:
        np.testing.assert_allclose(weights, [*t.b, 0.0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "order"), [("gl4", 4), ("gl6", 6), ("radauIIA3", 3), ("radauIIA5", 5), ("sdirk2", 2), ("trbdf2", 2)]
)
def test_the_order_conditions_of_implicit_tableaus(name, order):
    t = tableaus.IMPLICIT[name]
    a = np.array(t.a)
    np.testing.assert_allclose(a.sum(1), t.c, atol=1e-15)
    for p in range(1, order + 1):
        assert _order_defect(a, np.array(t.b), p, 1.0) < 1e-14


@pytest.mark.parametrize("tableau", [tableaus.FEHLBERG2, tableaus.HEUN3, tableaus.RK38], ids=["fehlberg2", "heun3", "rk4"])
def test_the_order_conditions_of_explicit_tableaus(tableau):
    order = {3: 2 if tableau.error else 3, 4: 4}[tableau.stages]
    a = np.zeros((tableau.stages,) * 2)
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = row
    for p in range(1, order + 1):
        assert _order_defect(a, np.array(tableau.b), p, 1.0) < 1e-15


@pytest.mark.parametrize("implicit", [False, True])
def test_adams_weights_integrate_polynomials(implicit):
    for order in range(1, 13):
        weights = tableaus.adams(order, implicit=implicit)
        nodes = np.array([(1 - j if implicit else -j) for j in range(order)], dtype=float)
        for p in range(order):
            scale = np.abs(np.array(weights) * nodes**p).sum()
            assert np.dot(weights, nodes**p) == pytest.approx(1 / (p + 1), abs=1e-14 * max(scale, 1))
