"""Rate errors and scales against closed forms, and the theorems that the choice of a target rests on."""

import math

import pytest
import torch
from scipy.linalg import expm, logm
from scipy.optimize import brentq

from residyn.dynamics.scales import derivative_rms, noise, scales
from residyn.dynamics.theory import RESOLUTION, Scales, crossover
from residyn.errors import InputError

A = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)  # x' = A·x, a rotation: x'' = -x, x''' = -x'


def rotation(h, count, seed=0, sigma=0.0, irregular=False):
    generator = torch.Generator().manual_seed(seed)
    jitter = 0.4 * torch.rand(count, generator=generator, dtype=torch.float64) if irregular else 0.0
    t = h * (torch.arange(count, dtype=torch.float64) + jitter)
    x = torch.stack([t.sin(), t.cos()], 1)
    return t, x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("irregular", [False, True])
@pytest.mark.parametrize("sigma", [0.01, 0.1])
def test_noise_is_found(sigma, irregular):
    found = noise([rotation(0.1, 4000, sigma=sigma, irregular=irregular)])
    # neighbouring combinations overlap: about 4000/7 independent ones, so 3 % a standard error, and the least of five is taken
    assert found.tolist() == pytest.approx([sigma, sigma], rel=0.1)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives_are_found_under_noise(order):
    found = derivative_rms([rotation(0.05, 4000, sigma=0.01)], order, torch.tensor([0.01, 0.01], dtype=torch.float64))
    # RMS of any derivative of sin is √½; differences over the stride that stands out of the noise flatten it by under 10 %
    assert found.tolist() == pytest.approx([math.sqrt(0.5)] * 2, rel=0.1)


@pytest.mark.parametrize("h", [0.1, 0.2, 0.4])
def test_truncation_is_that_of_the_exact_fit(h):
    # the fits without noise, in closed form: Euler (e^{hA} - 1)/h, trapezoid (2/h)·tanh(hA/2)
    step = torch.from_numpy(expm(h * A.numpy()))
    eye = torch.eye(2, dtype=torch.float64)
    euler = (step - eye) / h
    trapezoid = 2 / h * torch.linalg.solve(step + eye, step - eye)
    own = Scales(h, 0.0, 0.0, 1.0, 1.0, 1.0)
    # for a rotation ‖(B - A)·x‖/‖x‖ is the 2-norm; the next terms are h/3 (Euler) and h²/10 (trapezoid) of the first
    assert own.truncation("euler") == pytest.approx(float(torch.linalg.matrix_norm(euler - A, 2)), rel=h / 3)
    assert own.truncation("trapezoid") == pytest.approx(float(torch.linalg.matrix_norm(trapezoid - A, 2)), rel=h * h / 5)


def test_pull_is_that_of_the_linear_regression():
    # many independent starts, C = I: regressing y_1 on y_0 gives e^{hA}·C/(C + σ²), in the limit
    generator = torch.Generator().manual_seed(0)
    h, sigma, n = 0.1, 0.3, 200_000
    x0 = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x1 = x0 @ torch.from_numpy(expm(h * A.numpy())).T
    y0, y1 = (x + sigma * torch.randn(n, 2, generator=generator, dtype=torch.float64) for x in (x0, x1))
    flow = torch.linalg.lstsq(y0, y1).solution.T
    pulled = torch.from_numpy(logm(flow.numpy()).real) / h - A
    error = float((y0 @ pulled.T).square().mean().sqrt())
    expected = Scales(h, sigma, sigma**2 / math.sqrt(1 + sigma**2), 1.0, 1.0, 1.0).flow()
    assert error == pytest.approx(expected, rel=0.06)  # first order in σ²/(1+σ²) = 0.08; its half is 0.04
    middle = torch.linalg.lstsq((y0 + y1) / 2, (y1 - y0) / h).solution.T
    # the trapezoid: the pull cancels; what is left is of the size σ²·J and the sampling error 1/(h·√n)·σ = 0.007
    assert float((middle - A).norm()) < 0.15 * error + sigma**2 + 0.02


def test_at_equal_steps_euler_rule_and_flow_map_are_one_regression():
    _, x = rotation(0.3, 200, sigma=0.05)
    flow = torch.linalg.lstsq(x[:-1], x[1:]).solution
    euler = torch.linalg.lstsq(x[:-1], (x[1:] - x[:-1]) / 0.3).solution
    assert torch.allclose(torch.eye(2, dtype=torch.float64) + 0.3 * euler, flow, atol=1e-12)


def test_crossover_solves_its_equation():
    own = Scales(0.1, 0.05, 0.004, 0.9, 1.1, 1.3)
    rest = own.pull * own.second / own.rate

    def gap(h):
        return (h * h / 12 * own.third) ** 2 + min(rest, own.pull / h) ** 2 - (own.pull / h) ** 2 - (RESOLUTION * own.rate) ** 2

    assert crossover(own) == pytest.approx(brentq(gap, 1e-3, 10.0), rel=1e-9)
    assert crossover(own, "euler") == pytest.approx(2 * RESOLUTION * 0.9 / 1.1, rel=1e-9)
    assert crossover(own, "measured") == math.inf
    assert own.euler() == pytest.approx(math.hypot(0.055, 0.04))
    assert own.derivative("euler") == own.euler()
    assert own.derivative("measured") == pytest.approx(rest)


def test_noise_that_moves_the_system_is_told_from_noise_of_measurement():
    generator = torch.Generator().manual_seed(1)
    x = torch.zeros(3000, 1, dtype=torch.float64)
    kicks = 0.1 * torch.randn(3000, generator=generator, dtype=torch.float64)
    for k in range(1, 3000):  # Ornstein–Uhlenbeck: x' = -x + noise
        x[k] = 0.9 * x[k - 1] + kicks[k]
    moved = scales([(0.1 * torch.arange(3000, dtype=torch.float64), x)])
    # kicks add up in variance: √2 at twice the spacing, the pull-back of 0.9 takes a little off
    assert moved.growth == pytest.approx(math.sqrt(2), rel=0.1)
    assert crossover(moved) == 0.0
    measured = scales([rotation(0.1, 3000, sigma=0.05)])
    assert measured.growth == pytest.approx(1.0, rel=0.1)
    assert crossover(measured) > 0.1


def test_scales_must_be_finite():
    with pytest.raises(InputError, match=r"`scales` must be finite and ≥ 0, got .*; estimate them from at least 8 samples"):
        crossover(Scales(0.1, 0.0, math.nan, 1.0, 1.0, 1.0))


def test_a_constant_component_is_no_fault():
    t = torch.arange(20, dtype=torch.float64)
    assert math.isinf(crossover(scales([(t, torch.ones(20, 1, dtype=torch.float64))])))
