"""Trainings at several strengths: bounds kept, the same again for the same seed, and what is refused; measured stretching."""

import math

import pytest
import torch
from tests.robust.networks import zoo
from torch import nn

import residyn as rd
from residyn.nets import MLP, ResNet
from residyn.results import Result
from residyn.robust import stretch, trade_off


def blobs(n=150, seed=0):
    """Two classes about two points of the unit square."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = 0.3 + 0.4 * y[:, None] + 0.12 * torch.randn(n, 2, generator=generator)
    return x.clamp(0, 1), y


def build():
    return ResNet(nn.Linear(2, 8), [MLP(8, 8, 8) for _ in range(2)], nn.Linear(8, 2))


def run(**change):
    options = {"eps": 0.05, "bounds": (None, 2.0), "epochs": 2, "judged": 8, "steps": 2, "batch": 30} | change
    return trade_off(build, blobs(), blobs(60, 1), **options)


def test_bounds_are_kept_and_the_same_seed_gives_the_same_curve():
    state = torch.get_rng_state()
    told = []
    one = run(watch=lambda share, text: told.append((share, text)))
    two = run()
    assert one.points == two.points
    assert run(seed=1).points != one.points
    assert torch.equal(torch.get_rng_state(), state)
    free, tight = one.points
    assert free.bound == math.inf
    assert tight.lipschitz <= 2.0 < free.lipschitz
    for point, net in zip(one.points, one.networks, strict=True):
        assert point.lipschitz == float(rd.lipschitz(net, 2))
        assert 0 <= point.certified <= point.attacked <= 1
    assert one.table.rows[0][0] == "none"
    assert len(one.table.rows) == 2
    assert Result.from_dict(one.result.to_dict()) == one.result
    assert one.result.verdict == "pass"
    assert [text for _, text in told][:2] == ["training, no constraint", "certifying and attacking, no constraint"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bounds": ()}, "`bounds` must hold at least one Lipschitz constant or None"),
        ({"bounds": (0.0,)}, "`bounds` must hold constants > 0 or None, got 0.0"),
        ({"eps": 0}, "`eps` must be > 0"),
        ({"epochs": 0}, "`epochs` must be a whole number >= 1, got 0"),
        ({"norm": "l3"}, '`norm` must be "l2" or "linf"'),
        ({"box": (0, 0.5)}, r"`x` must lie in the box \[0, 0.5\]"),
    ],
)
def test_bad_input_is_named(change, words):
    with pytest.raises(rd.InputError, match=words):
        run(**change)
    with pytest.raises(rd.InputError, match="`build` must make an nn.Module, got function"):
        trade_off(lambda: run, blobs(), blobs(), eps=0.1)


@pytest.mark.parametrize(("name", "net", "shape"), zoo(), ids=[name for name, _, _ in zoo()])
def test_no_network_stretches_beyond_its_lipschitz_constant(name, net, shape):
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    bound = rd.lipschitz(net, shape)
    found = stretch(net, x, steps=25)
    assert found.kind == "lower"
    # differences of outputs are rounded: 2⁻²⁴ of their size, some hundreds of roundings, over a δ of 1 % of x
    assert 0 < float(found) <= float(bound) * (1 + 1e-3)
    small = stretch(net.double(), x.double(), steps=5)
    assert float(small) <= float(bound) * (1 + 1e-9)
    net.float()


def test_stretch_of_a_linear_map_is_its_norm():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=1).double()
    found = stretch(layer, torch.randn(8, 2, 6, 6, dtype=torch.float64), steps=100)
    exact = float(rd.operator_norm(layer, (2, 6, 6)))
    assert 0.98 * exact <= float(found) <= exact  # power steps on 8 samples
    with pytest.raises(rd.InputError, match="`size` must be > 0 and `steps` a whole number >= 0, got 0 and 1"):
        stretch(layer, torch.zeros(1, 2, 6, 6), size=0, steps=1)
