"""Attacks: as strong as closed forms allow, within ε and box in floating point, and without a trace."""

import math

import pytest
import torch
from tests.robust.networks import digits
from torch import nn

import residyn as rd
from residyn.nets import MLP
from residyn.robust import attack, nearest
from residyn.robust.ascent import checkpoints
from residyn.robust.ball import Ball


def linear(scale=1.0):
    """Logits of two classes; the boundary is w·x = 1."""
    w = torch.tensor([0.6, -0.8, 0.3], dtype=torch.float64)

    def model(x):
        z = scale * (x.flatten(1) @ w - 1)
        return torch.stack([z, -z], 1)

    return model, w


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_linear_classifier_breaks_exactly_beyond_its_distance(norm, scale):
    # with logits of 1e4 the softmax saturates, and the cross-entropy has no gradient
    model, w = linear(scale)
    x = 3 * torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = (model(x)[:, 0] < 0).long()
    distance = (x @ w - 1).abs() / (w.norm() if norm == "l2" else w.abs().sum())
    assert attack(model, x, y, distance * 1.001, norm, None).success.all()
    assert not attack(model, x, y, distance * 0.999, norm, None, steps=20).success.any()
    found = nearest(model, x, y, norm, None)
    # drawn back by 2⁻¹⁶, and the steps of the search leave 1 %
    assert torch.allclose(found.radius, distance, rtol=1e-2)
    assert bool((found.radius >= distance * (1 - 1e-12)).all())
    assert torch.equal(model(found.x).argmax(1), 1 - y)


def test_the_search_for_the_nearest_refuses_what_it_cannot_do():
    model, _ = linear()
    with pytest.raises(rd.InputError, match="`steps` must be a whole number >= 1 and `rounds` >= 0, got 100 and -1"):
        nearest(model, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0]), box=None, rounds=-1)


def test_the_box_is_a_wall():
    # the boundary x₁ = 0.9 beyond a box that ends at 0.8
    def model(x):
        return torch.stack([0.9 - x[:, 0], x[:, 0] - 0.9], 1)

    x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    assert not attack(model, x, y, 10.0, box=(0, 0.8)).success.any()
    assert attack(model, x, y, 0.5, box=(0, 1)).success.all()
    assert nearest(model, x, y, box=(0, 0.8)).radius.item() == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("eps", [1e-3, 0.1, 8 / 255, 2.0])
def test_projections_are_inside_in_floating_point(dtype, norm, eps):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(40, 3, 5, generator=generator).to(dtype)
    ball = Ball(x, torch.full((40,), eps, dtype=torch.float64), norm, (0.0, 1.0))
    z = ball.project(x + torch.randn(x.shape, generator=generator).to(dtype))
    delta = (z.double() - x.double()).flatten(1)
    length = delta.norm(dim=1) if norm == "l2" else delta.abs().amax(1)
    assert bool((length <= eps).all())
    assert bool(((z >= 0) & (z <= 1)).all())
    assert z.dtype == dtype
    if dtype != torch.bfloat16 and eps < 1:  # the ball is used up: random steps are longer, and walls are few
        assert float(length.median()) > 0.8 * eps


def test_what_is_returned_is_what_was_asked():
    net, x, y = digits()
    x, y = x[:16], y[:16]
    for norm, eps in (("l2", 0.6), ("linf", 0.1)):
        found = attack(net, x, y, eps, norm, steps=12, targets=2)
        delta = (found.x.double() - x.double()).flatten(1)
        assert bool(((delta.norm(dim=1) if norm == "l2" else delta.abs().amax(1)) <= eps).all())
        assert bool(((found.x >= 0) & (found.x <= 1)).all())
        z = net(found.x).detach()
        assert torch.equal(found.success, z.argmax(1) != y)
        assert found.success.any()
        own = z.gather(1, y[:, None])[:, 0]
        assert torch.allclose(found.margin, own - z.scatter(1, y[:, None], -math.inf).amax(1), atol=1e-4)
        assert found.accuracy == 1 - float(found.success.double().mean())


def test_one_radius_a_sample_and_the_same_again():
    net, x, y = digits()
    x, y = x[:6], y[:6]
    state = torch.get_rng_state()
    eps = torch.tensor([1e-4, 3.0] * 3)
    one, two = (attack(net, x, y, eps, steps=20, seed=3) for _ in range(2))
    assert torch.equal(one.x, two.x)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.success[1::2].all()
    assert not (one.success & (net(x).argmax(1) == y))[::2].any()


def test_a_misclassified_sample_is_returned_as_it_is():
    model, _ = linear()
    x = torch.tensor([[3.0, 0.0, 0.0]], dtype=torch.float64)
    found = attack(model, x, torch.tensor([1]), 0.1, box=None)
    assert found.success.all()
    assert torch.equal(found.x, x)
    assert nearest(model, x, torch.tensor([1]), box=None).radius.item() == 0


def test_models_without_a_gradient_and_with_nan_are_survived():
    x = torch.rand(3, 4)
    steps = lambda z: torch.stack([z.sum(1).round(), 3 - z.sum(1).round()], 1)  # noqa: E731
    assert attack(steps, x, torch.zeros(3, dtype=torch.long), 0.1, steps=3).x.shape == x.shape
    constant = nn.Sequential(nn.Linear(4, 2))
    nn.init.zeros_(constant[0].weight)
    found = attack(constant, x, constant(x).argmax(1), 1.0, steps=3)
    assert not found.success.any()
    assert nearest(constant, x, constant(x).argmax(1), steps=3).radius.eq(math.inf).all()
    logs = lambda z: torch.stack([0 * z[:, 0] + 1, (z[:, 0] - 0.2).sqrt()], 1)  # noqa: E731
    found = attack(logs, torch.full((3, 1), 0.3), torch.zeros(3, dtype=torch.long), 0.5, box=None, steps=10)
    assert torch.isfinite(found.x).all()


def test_checkpoints_are_those_of_the_paper():
    # p = 0, 0.22, then p + max(p - p_before - 0.03, 0.06)
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": 3}, "`model` must be callable on a batch, got int"),
        ({"model": lambda x: (x, x)}, r"`model` must return one tensor of logits \(B, C\), got tuple; wrap it"),
        ({"eps": 0.0}, "`eps` must be > 0 and finite, got 0"),
        ({"eps": -1}, "`eps` must be > 0 and finite, got -1"),
        ({"eps": math.nan}, "`eps` must be > 0 and finite, got nan"),
        ({"eps": "big"}, r"`eps` must be a number or a tensor \(B,\), got str"),
        ({"eps": torch.ones(3)}, r"`eps` must be one number or \(2,\), one a sample, got shape \(3,\)"),
        ({"norm": "l1"}, '`norm` must be "l2" or "linf"'),
        ({"x": torch.full((2, 3), 2.0)}, r"`x` must lie in the box \[0, 1\], got values in \[2, 2\]; scale it"),
        ({"x": torch.ones(2, 3, dtype=torch.uint8)}, "`x` must be floating point, got torch.uint8"),
        ({"box": (1, 0)}, r"`box` must be a pair \(low, high\) with low < high"),
        ({"box": 3}, r"`box` must be a pair \(low, high\) or None"),
        ({"y": torch.tensor([0, 5])}, r"`y` must lie in \[0, 2\], got 5"),
        ({"y": torch.tensor([0, 1, 2])}, r"`y` must be \(2,\), one label a sample"),
        ({"y": "ab"}, r"`y` must be integer class numbers \(2,\), got str"),
        ({"steps": 0}, "`steps` must be a whole number >= 1, got 0"),
        ({"restarts": 1.5}, "`restarts` must be a whole number >= 1, got 1.5"),
        ({"targets": -1}, "`targets` must be a whole number >= 0, got -1"),
    ],
)
def test_bad_input_is_named(change, words):
    given = {"model": MLP(3, 4, 3), "x": torch.full((2, 3), 0.5), "y": torch.tensor([0, 1]), "eps": 0.1} | change
    with pytest.raises(rd.InputError, match=words):
        attack(**given)
