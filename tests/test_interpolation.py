"""Control inputs: values, slopes, gradients, and their use in a solve."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline

import residyn as rd
from residyn.interpolation import CubicHermite, PiecewiseLinear

D = torch.float64
T = torch.tensor([0.0, 0.5, 1.5, 2.0, 4.0], dtype=D)
U = torch.tensor([1.0, -1.0, 2.0, 0.0, 3.0], dtype=D)
AT = np.linspace(0, 4, 41)


def test_linear_is_numpys():
    u = PiecewiseLinear(T, U)
    ours = [float(u(float(t))) for t in AT]
    np.testing.assert_allclose(ours, np.interp(AT, T, U), rtol=0, atol=1e-14)
    np.testing.assert_allclose(u(torch.from_numpy(AT)), ours, rtol=0, atol=0)
    assert float(u(5.0)) == pytest.approx(4.5)  # the last piece goes on


def test_hermite_is_scipys_with_backward_differences():
    d = np.diff(U.numpy()) / np.diff(T.numpy())
    truth = CubicHermiteSpline(T.numpy(), U.numpy(), np.concatenate([d[:1], d]))
    np.testing.assert_allclose([float(CubicHermite(T, U)(float(t))) for t in AT], truth(AT), rtol=0, atol=1e-13)


def test_hermite_is_causal():
    changed = U.clone()
    changed[3] = 100.0
    for t in (0.2, 1.0, 1.5):
        assert float(CubicHermite(T, U)(t)) == float(CubicHermite(T, changed)(t))


@pytest.mark.parametrize("kind", [PiecewiseLinear, CubicHermite])
def test_gradients_by_samples_knots_and_time(kind):
    t = torch.tensor(1.2, dtype=D, requires_grad=True)
    samples, knots = torch.randn(5, 2, dtype=D, requires_grad=True), T.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, k, t: kind(k, s)(t), (samples, knots, t))


@pytest.mark.parametrize("kind", [PiecewiseLinear, CubicHermite])
def test_batched_signals(kind):
    batch = torch.stack([U, -2 * U, U + 1])[..., None]  # (B, n, 1)
    u = kind(T, batch, batched=True)
    one = kind(T, U)
    expected = torch.stack([one(1.2), -2 * one(1.2), one(1.2) + 1])[:, None]
    torch.testing.assert_close(u(1.2), expected)
    own = torch.tensor([0.3, 1.2, 3.1], dtype=D)
    expected = torch.stack([one(0.3), -2 * one(1.2), one(3.1) + 1])[:, None]
    torch.testing.assert_close(u(own[:, None]), expected)  # (B, 1), as a field gets times of samples on their own


def test_a_control_in_a_solve_as_an_argument():
    # x' = u(t), u = t exactly: x(2) = 2; ∂x/∂u_k are the trapezoidal weights of the knots
    knots = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=D)
    samples = knots.clone().requires_grad_()

    def f(t, x, samples):
        return PiecewiseLinear(knots, samples)(t).expand_as(x)

    x = rd.solve(f, torch.zeros(1, dtype=D), knots, args=(samples,), scheme=rd.Midpoint(), control=rd.Fixed(steps=1)).x[-1]
    x.sum().backward()
    torch.testing.assert_close(x.detach(), torch.tensor([2.0], dtype=D))
    torch.testing.assert_close(samples.grad, torch.tensor([0.25, 0.5, 0.75, 0.5], dtype=D))


def test_samples_on_their_own_steps():
    batch = torch.stack([torch.zeros(5, dtype=D), torch.ones(5, dtype=D)])
    u = PiecewiseLinear(T, batch, batched=True)
    x = rd.solve(
        lambda t, x: u(t)[:, None] - x if t.ndim == 0 else u(t).view_as(x) - x,
        torch.ones(2, 1, dtype=D),
        [0.0, 4.0],
        control=rd.Adaptive(rtol=1e-8, per_sample=True),
    ).x[-1]
    torch.testing.assert_close(x, torch.tensor([[np.exp(-4.0)], [1.0]], dtype=D), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("t", "u", "batched", "words"),
    [
        (T[:1], U[:1], False, r"`t` must be \(n,\) with at least 2 knots, got shape \(1,\)"),
        (T, U[:3], False, r"`u` must be \(n, …\) with n = 5"),
        (T, U, True, r"`u` must be \(B, n, …\) with n = 5"),
        (T, torch.arange(5), False, "`u` must be floating point or complex, got torch.int64"),
        (T, U.clone().fill_(float("nan")), False, "must be finite, got nan or inf; fill or drop"),
        (T.flip(0), U, False, r"`t` must be strictly increasing, got \[4.0, 2.0\] at index 0"),
    ],
)
def test_bad_signals_are_refused(t, u, batched, words):
    with pytest.raises(rd.InputError, match=words):
        PiecewiseLinear(t, u, batched=batched)


def test_the_number_of_own_times_must_fit():
    u = PiecewiseLinear(T, torch.ones(2, 5, dtype=D), batched=True)
    with pytest.raises(rd.InputError, match="`t` must have a time for each of 2 samples"):
        u(torch.zeros(3))
