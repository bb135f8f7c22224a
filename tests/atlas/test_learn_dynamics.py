"""The entry learn-dynamics: its parts against independent truth, and the whole."""

import pytest
import torch
from scipy.integrate import solve_ivp

from residyn.atlas import run
from residyn.atlas.learn_dynamics import LOTKA_VOLTERRA, PENDULUM, REACH, Cell, simulate, temperatures


@pytest.mark.parametrize("system", [PENDULUM, LOTKA_VOLTERRA])
@pytest.mark.parametrize("step", [0.05, 1.2])
def test_simulation_against_scipy(system, step):
    times, states = simulate(system, step, 3, 5, torch.Generator().manual_seed(0))
    for i in range(3):
        exact = solve_ivp(
            lambda t, x: system.f(torch.as_tensor(x)).numpy(), (0, float(times[-1])), states[0, i].numpy(),
            t_eval=times.numpy(), rtol=1e-10, atol=1e-12,
        )  # fmt: skip
        # RK4 at 0.05: local error ~ 0.05⁵/120 ≈ 3e-9, over at most 100 steps with fifth derivatives up to some tens
        assert states[:, i].numpy() == pytest.approx(exact.y.T, abs=1e-5)


def test_a_cell_is_right_where_prediction_and_measurement_agree():
    assert Cell(0.1, 0.01, derivative=1.0, flow=2.0, predicted=0.2).right
    assert not Cell(0.3, 0.01, derivative=1.0, flow=2.0, predicted=0.2).right


def test_temperatures_are_real():
    values = temperatures()
    assert len(values) == 61 * 12
    assert values[0].item() == 23.11  # January 1950, as printed in the file
    assert 15 < float(values.min()) < float(values.max()) < 32  # °C, off Ecuador and Peru


@pytest.mark.slow
def test_fast_run_holds():
    result = run(["learn-dynamics"], fast=True)
    section = result.sections[0]
    assert section.error == ""
    assert section.verdict == "pass", [f for f in section.findings if f.verdict != "pass"]
    shares = [f.value for f in section.findings if f.id.startswith("learn-dynamics.map")]
    assert shares
    assert min(shares) >= REACH
