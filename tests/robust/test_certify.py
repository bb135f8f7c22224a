"""Certified radii: exact where the truth is known, never above what an attack breaks, and what they refuse."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.robust.networks import digits, zoo
from torch import nn

import residyn as rd
from residyn.nets import MLP, ResNet
from residyn.robust import attack, certify, nearest
from residyn.robust.enclosure import enclose
from residyn.robust.graph import UnknownError
from residyn.robust.linear_bounds import Balls, lower_bounds
from residyn.robust.lines import activation
from residyn.robust.lowering import lowered
from residyn.robust.radial import radial, tangent

ZOO = zoo()
NAMES = [name for name, _, _ in ZOO]


def samples(net, shape, n=6, seed=1):
    """Random samples, and the classes that the network itself gives them."""
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))
    return x, net(x).argmax(1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_linear_classifier_has_its_distance_to_the_nearest_boundary(norm):
    torch.manual_seed(0)
    net = nn.Linear(5, 4).double()
    x, y = samples(lambda x: net(x.double()), (5,), 20)
    x = x.double()
    W, z = net.weight.detach(), net(x).detach()
    gaps = z.gather(1, y[:, None]) - z
    rows = W[y][:, None] - W[None]
    lengths = rows.norm(dim=-1) if norm == "l2" else rows.abs().sum(-1)
    exact = (gaps / lengths.clamp(min=1e-30)).scatter(1, y[:, None], math.inf).amin(1)
    found = certify(net, x, y, norm, rtol=1e-3)
    assert bool((found <= exact).all())
    assert bool((found >= exact * (1 - 2e-3)).all())  # rtol, and roundings of 1e-13
    assert found.kind == "certified"
    assert found.reason == ""


@pytest.mark.parametrize(("name", "net", "shape"), ZOO, ids=NAMES)
def test_the_graph_computes_what_the_network_does(name, net, shape):
    x = torch.randn(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = lowered(net, shape)
    # scaled weights of a constrained network are rounded to single precision
    atol = 1e-5 if name == "constrained" else 1e-11
    assert torch.allclose(network.values(x)[-1], copy.deepcopy(net).double()(x), rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("name", "net", "shape", "norm"),
    [(*one, norm) for i, one in enumerate(ZOO) for norm in (("l2", "linf") if i % 4 == 0 else ("l2",))],
    ids=str,
)
def test_no_attack_succeeds_within_the_radius(name, net, shape, norm):
    x, y = samples(net, shape, 3)
    radius = certify(net, x, y, norm)
    assert radius.reason == ""
    assert bool((radius > 0).all())
    assert not attack(net, x, y, radius.double(), norm, None, steps=15, targets=2).success.any()
    assert bool((radius.local >= radius.product).all())


@pytest.mark.parametrize(("name", "net", "shape"), ZOO, ids=NAMES)
def test_linear_bounds_hold_at_sampled_points_however_loose(name, net, shape):
    network = lowered(net, shape)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    rows = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    owner = torch.arange(2).repeat_interleave(5)
    for radius in (1e-3, 0.3, 5.0):
        balls = Balls(x, torch.full((2,), radius, dtype=torch.float64), "l2", 0.0)
        enclose(network, balls, {}, columns=True, work=1e9)
        low = lower_bounds(network, balls, len(network.nodes) - 1, rows.flatten(0, 1), owner).reshape(2, 5)
        step = torch.randn(400, 2, *shape, dtype=torch.float64, generator=generator)
        step *= radius / step.flatten(2).norm(dim=2).reshape(400, 2, *[1] * len(shape))
        values = network.values((x + step).flatten(0, 1))[-1].reshape(400, 2, 1, 3)
        assert bool(((values * rows).sum(-1).amin(0) >= low).all())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 2.0), st.booleans(), st.sampled_from([0.0, 500.0, 1e9]))
def test_bounds_of_arguments_hold_in_random_residual_networks(seed, radius, columns, work):
    torch.manual_seed(seed)
    net = ResNet(nn.Linear(3, 4), [MLP(4, 6, 4) for _ in range(3)], nn.Linear(4, 3), step=1.0)
    network = lowered(net, (3,))
    x = torch.randn(1, 3, dtype=torch.float64)
    balls, known = Balls(x, torch.tensor([radius], dtype=torch.float64), "l2", 0.0), {}
    enclose(network, balls, known, columns=columns, work=work)
    step = torch.randn(500, 3, dtype=torch.float64)
    values = network.values(x + radius * torch.nn.functional.normalize(step, dim=1) * torch.rand(500, 1).double() ** (1 / 3))
    for k, (low, high) in known.items():
        argument = values[network.nodes[k].parents[0]]
        assert bool((argument >= low).all())
        assert bool((argument <= high).all())


@pytest.mark.parametrize(
    "layer",
    [nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(2.0), nn.PReLU(), nn.RReLU().eval(), nn.ReLU6(), nn.Hardtanh(-0.5, 2), nn.Hardsigmoid(),
     nn.ELU(), nn.CELU(0.5), nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Softplus(2.0, 5.0),
     nn.LogSigmoid(), nn.Softsign(), nn.Tanhshrink()],
    ids=str,
)  # fmt: skip
def test_lines_lie_on_either_side_of_the_activation(layer):
    generator = torch.Generator().manual_seed(3)
    low = 6 * torch.randn(300, 1, dtype=torch.float64, generator=generator)
    width = torch.rand(300, 1, dtype=torch.float64, generator=generator) ** 4 * 10
    width[::20] = 0
    lines = activation(layer).lines(low, low + width)
    z = low + width * torch.linspace(0, 1, 501, dtype=torch.float64)
    value = layer.double()(z).detach()
    below = lines.a * z + (0 if lines.b is None else lines.b)
    assert bool((value >= below - 1e-15 * z.abs()).all())  # the rounding of this check itself
    assert bool((value <= lines.c * z + lines.d + 1e-15 * z.abs()).all())
    if lines.b is None:
        assert bool((value >= lines.c * z - 1e-15 * z.abs()).all())
    reach = activation(layer).reach(low, low + width)
    assert bool((value.abs() <= reach).all())


@pytest.mark.slow
def test_a_trained_digits_network_gets_three_times_the_product_and_is_never_broken_within():
    net, x, y = digits()
    x, y = x[:8], y[:8]
    radius = certify(net, x, y)
    right = net(x).argmax(1) == y
    assert float((radius.local / radius.product)[right].median()) >= 3
    broken = nearest(net, x, y, box=None, steps=30, rounds=1).radius
    assert bool((radius <= broken).all())
    assert bool((radius[~right] == 0).all())


def test_the_networks_own_rounding_is_covered():
    # z₁ - z₂ = 2⁻¹⁴ is lost in sums of 2¹⁵ in single precision
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[2.0**16, 2.0**-18], [2.0**16, 0.0]]))
        net.bias.zero_()
    x, y = torch.tensor([[0.5, 16.0]]), torch.tensor([0])
    assert float(certify(net, x, y)) == 0
    # in double precision: the boundary is x₂ = 0
    assert float(certify(net.double(), x.double(), y)) == pytest.approx(16.0, rel=0.03)


def test_a_misclassified_sample_has_radius_zero():
    net = nn.Linear(2, 2)
    x, y = samples(net, (2,))
    assert bool((certify(net, x, 1 - y) == 0).all())


def test_half_precision_leaves_little_and_exact_arithmetic_more():
    torch.manual_seed(4)
    net = MLP(4, 8, 3).bfloat16()
    x = torch.randn(3, 4).bfloat16()
    y = net(x).argmax(1)
    computed, exact = certify(net, x, y), certify(net, x, y, rounding=False)
    assert computed.dtype == torch.float32
    assert bool((computed <= exact).all())
    assert bool((exact > 0).all())


def test_parts_without_linear_bounds_leave_the_global_constant():
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(4, 6), nn.Softmax(-1), nn.ReLU(), nn.Linear(6, 3))
    x, y = samples(net, (4,))
    radius = certify(net, x, y)
    assert "`Sequential.1` (Softmax) has no linear bounds" in radius.reason
    assert radius.kind == "certified"
    margin = net(x).sort(1).values
    theory = (margin[:, -1] - margin[:, -2]) / (math.sqrt(2) * float(rd.lipschitz(net, 4)))
    assert torch.allclose(radius.as_subclass(torch.Tensor), theory, rtol=1e-3)  # less 64 roundings of the logits


class Hidden(nn.Module):
    """Does something that a graph does not show."""

    def forward(self, x):
        y = x * 1.0
        with torch.no_grad():
            y.data.mul_(2.0)
        return y


def test_radii_are_a_tensor_that_copies_and_saves():
    net = nn.Linear(2, 2)
    radius = certify(net, *samples(net, (2,)))
    twin = copy.deepcopy(radius)
    assert torch.equal(twin, radius)
    assert twin.kind == "certified"
    assert type(radius + 0) is torch.Tensor
    assert torch.equal(pickle.loads(pickle.dumps(radius)), radius)
    assert radius.tolist() == radius.numpy().tolist()


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_the_tangent_of_a_normalisation_leaves_out_what_it_says(eps):
    generator = torch.Generator().manual_seed(0)
    c0 = torch.randn(50, 7, dtype=torch.float64, generator=generator)
    for size in (1e-3, 0.1, 1.0, 30.0):
        d = size * torch.randn(200, 50, 7, dtype=torch.float64, generator=generator)
        found = tangent(c0, eps, d.abs().amax(0), d.norm(dim=-1, keepdim=True).amax(0))
        left = radial(c0 + d, eps) - (found.times(c0 + d, slice(None)) + found.offset)
        assert bool((left.abs() <= found.rest + 1e-14).all())


def test_a_graph_that_does_not_give_the_outputs_is_not_used():
    net = nn.Sequential(nn.Linear(3, 3), Hidden())
    x, y = samples(net, (3,))
    with pytest.raises(
        rd.InputError, match="`model` must have linear bounds or a Lipschitz constant to be certified, got neither"
    ):
        certify(nn.Sequential(nn.Linear(3, 3), Hidden(), nn.Hardshrink()), x, y)
    with pytest.raises((UnknownError, rd.InputError)):
        lowered(nn.Sequential(nn.Hardshrink()), (3,))


class Square(nn.Module):
    def forward(self, x):
        return x * x


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": 3}, "`model` must be an nn.Module to be certified, got int"),
        ({"model": Square()}, "got neither: a product of two parts that both depend on the input"),
        ({"model": Pair()}, r"`model` must return one tensor of logits \(B, C\), got tuple; wrap it"),
        ({"model": nn.Linear(4, 2)}, r"`model` must accept x of shape \(2, 3\)"),
        ({"model": nn.Linear(3, 1)}, r"`model` must return logits \(2, C\) with C >= 2"),
        ({"x": [1.0]}, "`x` must be a tensor"),
        ({"x": torch.zeros(2, 3).long()}, "`x` must be floating point, got torch.int64"),
        ({"x": torch.zeros(3)}, r"`x` must be a batch \(B, …\)"),
        ({"x": torch.full((2, 3), math.nan)}, "`x` must be finite, got nan or inf"),
        ({"y": torch.tensor([0])}, r"`y` must be \(2,\), one label a sample"),
        ({"y": torch.tensor([0, 7])}, r"`y` must lie in \[0, 2\], got 7"),
        ({"y": torch.tensor([0, -1])}, r"`y` must lie in \[0, 2\], got -1"),
        ({"y": torch.tensor([0.0, 1.0])}, "`y` must be integer class numbers"),
        ({"norm": "l1"}, '`norm` must be "l2" or "linf"'),
        ({"work": -1}, "`work` must be a number of coefficients >= 0, got -1"),
        ({"rtol": 0}, r"`rtol` must be a relative accuracy in \(0, 1\)"),
    ],
)
def test_bad_input_is_named(change, words):
    given_ = {"model": nn.Linear(3, 3), "x": torch.zeros(2, 3), "y": torch.tensor([0, 1])} | change
    with pytest.raises(rd.InputError, match=words):
        certify(**given_)


def test_nothing_of_the_model_changes():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    net.train()
    net[0].eval()
    net[0].weight.requires_grad_(False)
    net[5].weight.grad = torch.ones_like(net[5].weight)
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    x, y = torch.rand(3, 1, 4, 4, requires_grad=True), torch.tensor([0, 1, 0])
    state = torch.get_rng_state()
    certify(net, x, y)
    attack(net, x, y, 0.5, steps=3)
    nearest(net, x, y, steps=3)
    assert x.grad is None
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True, True, True]
    assert torch.equal(net[5].weight.grad, torch.ones_like(net[5].weight))
    assert net[5].bias.grad is None
