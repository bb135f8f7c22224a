"""A fit judged on data it has not seen."""

import pytest
import torch

from residyn.dynamics import Trajectories
from residyn.dynamics.assessment import assess
from residyn.errors import InputError

T = torch.arange(0, 12, 0.2, dtype=torch.float64)


def test_a_single_trajectory_is_held_out_at_its_end():
    model, section = assess(Trajectories([T], [torch.stack([T.cos(), -T.sin()], 1)], ["x", "v"]), name="a/b.csv", epochs=100)
    assert section.title == "Dynamics of b.csv"
    assert {f.id for f in section.findings} == {"dynamics.target", "dynamics.residual", "dynamics.forecast", "dynamics.band"}
    assert section.verdict == "pass"
    assert [f.title for f in section.figures] == ["Forecast of x", "Forecast of v", "Phase plot", "Learned field"]
    band = section.figures[0].series[0]
    assert band.mark == "band"
    assert all(a <= b for a, b in zip(band.y, band.y2, strict=True))
    assert model.names == ["x", "v"]


def test_noise_alone_cannot_be_forecast():
    x = torch.randn(60, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, section = assess(Trajectories([T], [x], ["x"]), epochs=100)
    forecast = next(f for f in section.findings if f.id == "dynamics.forecast")
    assert forecast.verdict in ("warn", "fail")
    assert forecast.fix


def test_a_constant_column_spoils_nothing():
    states = torch.stack([T.cos(), -T.sin(), torch.full_like(T, 0.1)], 1)
    _, section = assess(Trajectories([T], [states], ["x", "v", "c"]), epochs=100)
    assert section.verdict == "pass"
    assert next(f for f in section.findings if f.id == "dynamics.forecast").value < 1  # it was divided by a spread of zero


def test_data_that_never_change():
    with pytest.raises(InputError, match=r"`data` must change over time, got x, v constant; there is nothing to learn"):
        assess(Trajectories([T], [torch.ones(len(T), 2, dtype=torch.float64)], ["x", "v"]))


def test_too_few_samples():
    with pytest.raises(InputError, match=r"`data` must have at least 5 samples to hold some out, got 3; record more"):
        assess(Trajectories([T[:3]], [T[:3, None]], ["x"]))
