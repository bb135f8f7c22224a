"""Stochastic depth: gates, what is computed, expectations, and models of other people's making."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from residyn import InputError, Residual
from residyn.nets import MLP, ResNet, gates, removal_curve, stochastic_depth


class Basic(nn.Module):
    """A convolutional block as everybody writes it."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class Inline(nn.Module):
    """A block whose branch ends in an operation, not in a module."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        y = self.norm(x)
        return x + self.a(y) * torch.sigmoid(self.b(y))


def convolutional(depth=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), *[Basic(6) for _ in range(depth)], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )


def residual(depth=6):
    torch.manual_seed(0)
    return ResNet(nn.Linear(5, 8), [nn.Sequential(nn.LayerNorm(8), MLP(8, 16, 8)) for _ in range(depth)], nn.Linear(8, 3))


@pytest.fixture
def count(monkeypatch):
    """How many samples convolutions have computed."""
    found, real = SimpleNamespace(rows=0), nn.Conv2d._conv_forward

    def counted(self, x, weight, bias):
        found.rows += len(x)
        return real(self, x, weight, bias)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", counted)
    return found


@pytest.mark.parametrize("schedule, keep", [("linear", [1 - 0.1 * k for k in range(1, 7)]), ("uniform", [0.4] * 6)])
def test_schedules(schedule, keep):
    net = stochastic_depth(residual(), 0.6, schedule)
    assert gates(net).keep == pytest.approx(keep)
    assert len(gates(net).names) == 6


@pytest.mark.parametrize("mode", ["block", "row", "kept"])
@pytest.mark.parametrize("make, shape", [(residual, (5,)), (convolutional, (1, 8, 8))])
def test_evaluation_is_untouched_and_a_rate_of_zero_takes_it_back(mode, make, shape):
    net, x = make().eval(), torch.randn(4, *shape)
    before, state = net(x), {k: v.clone() for k, v in net.state_dict().items()}
    assert stochastic_depth(net, 0.5, inputs=(x,), mode=mode) is net
    assert torch.equal(net(x), before)
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    stochastic_depth(net, 0.0)
    assert torch.equal(net(x), before)
    assert not any(
        "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks for module in net.modules()
    )
    with pytest.raises(InputError, match="`model` must have stochastic depth, got one without"):
        gates(net)


@pytest.mark.parametrize("lazy", [True, False])
def test_a_dropped_block_is_not_computed(lazy, count):
    net, x = convolutional(), torch.randn(4, 1, 8, 8)
    stochastic_depth(net, 0.5, "uniform", inputs=None if lazy else (x,))
    net.eval()(x)
    net.train()
    count.rows, passes = 0, 60
    for _ in range(passes):
        net(x)
    found = gates(net)
    assert found.computed == []
    assert found.drawn == passes
    # the stem always, and two convolutions of each block that is kept
    assert count.rows == 4 * (passes + 2 * (4 * passes - found.dropped))
    # a binomial of 240 draws has a standard deviation of 7.7
    assert abs(found.dropped - 120) < 5 * 7.75


def test_kept_rows_only_are_computed(count):
    net, x = convolutional().train(), torch.randn(6, 1, 8, 8)
    stochastic_depth(net, 0.5, "uniform", inputs=(x,), mode="kept")
    count.rows = 0
    for _ in range(10):
        net(x)
    dropped = round(gates(net).dropped * 6)
    assert count.rows == 10 * 6 + 2 * (4 * 60 - dropped)
    assert 0 < dropped < 240


@pytest.mark.parametrize("mode", ["block", "row", "kept"])
@pytest.mark.parametrize("inputs", [True, False])
def test_the_expectation_of_a_step_is_that_of_evaluation(mode, inputs):
    torch.manual_seed(1)
    net = nn.Sequential(Residual(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), 0.7))  # one block, so that the mean is linear in it
    x = torch.randn(2, 4)
    with torch.no_grad():
        truth = net.eval()(x)
        stochastic_depth(net, 0.4, "uniform", inputs=(x,) if inputs else None, mode=mode)
        torch.manual_seed(0)
        found = torch.stack([net.train()(x) for _ in range(3000)])
    # each value is x or x + F/0.6: a standard deviation of |F|·√(0.4/0.6); five errors of the mean
    error = (truth - x).abs() * (0.4 / 0.6) ** 0.5 / 3000**0.5
    assert bool(((found.mean(0) - truth).abs() <= 5 * error + 1e-5).all())
    values = found[:, 0].mul(1e4).round().unique(dim=0)
    assert len(values) == 2  # dropped, or kept and scaled: nothing else
    rows_differ = bool(((found[:, 0] == x[0]).all(1) != (found[:, 1] == x[1]).all(1)).any())
    assert rows_differ == (mode != "block")


@pytest.mark.parametrize("mode", ["block", "row", "kept"])
def test_dropped_blocks_pass_the_gradient_and_get_none(mode):
    net, x = residual().train(), torch.randn(4, 5)
    stochastic_depth(net, 0.9, "uniform", inputs=(x,), mode=mode)
    with gates(net).without(range(1, 6)):
        net(x).sum().backward()
    assert net.stem.weight.grad is not None
    assert all(p.grad is None or not p.grad.any() for block in list(net.body.blocks)[1:] for p in block.parameters())


@pytest.mark.parametrize("mode", ["block", "row", "kept"])
def test_blocks_without_modules_of_their_own_are_dropped_all_the_same(mode):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(5, 8), Inline(8), Inline(8), nn.Linear(8, 2)), torch.randn(4, 5)
    with torch.no_grad():
        truth = net.eval()(x)
        stochastic_depth(net, 0.5, "uniform", inputs=(x,), mode=mode)
        assert len(gates(net).computed) == 2
        torch.testing.assert_close(net(x), truth)
        with gates(net).without([0, 1]):
            torch.testing.assert_close(net(x), net[3](net[0](x)))
        net.train()
        # without the second block the mean is linear in the first
        with gates(net).without([1]):
            mean = torch.stack([net(x) for _ in range(600)]).mean(0)
            net.eval()
            goal = net(x)
            with gates(net).without([0, 1]):
                start = net(x)
    assert bool(((mean - goal).abs() <= 5 * (goal - start).abs() / 600**0.5 + 1e-5).all())


def test_residuals_without_modules_and_with_learned_steps():
    for mode in ("block", "row", "kept"):
        step = nn.Parameter(torch.tensor([0.5, 1.0, 2.0]))
        net = stochastic_depth(nn.Sequential(Residual(torch.tanh, step)), 0.5, mode=mode).train()
        x = torch.randn(50, 3)
        torch.manual_seed(0)
        y = net(x)
        full = x + step / 0.5 * torch.tanh(x)
        kept = (y != x).all(1)
        torch.testing.assert_close(y[kept], full[kept])
        assert mode == "block" or 0 < int(kept.sum()) < 50


def test_the_same_seed_draws_the_same_and_copies_are_their_own():
    net, x = residual().train(), torch.randn(3, 5)
    stochastic_depth(net, 0.5, inputs=(x,))
    twin = copy.deepcopy(net)
    for model in (net, twin):
        torch.manual_seed(3)
        model.y = model(x)
    assert torch.equal(net.y, twin.y)
    with gates(twin).without(range(6)):
        assert not torch.equal(twin.eval()(x), net.eval()(x))
    stochastic_depth(twin, 0.0)
    assert gates(net).keep[0] < 1


def test_a_transformer_of_torch_is_dropped_block_by_block():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    net = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    x = torch.randn(4, 5, 8)
    truth = net.eval()(x)
    stochastic_depth(net, 0.5, inputs=(x,))
    assert len(gates(net).names) == 6
    torch.testing.assert_close(net(x), truth, atol=1e-5, rtol=1e-5)
    net.train()
    assert len({float(net(x).detach().sum()) for _ in range(10)}) > 1


def test_removal_curve_of_a_trained_net_is_graceful():
    net = residual().eval()
    x = torch.randn(200, 5)
    y = net(x).argmax(1)
    curve = removal_curve(net, x, y, draws=4)
    assert curve.blocks == 6
    assert curve.mean[0] == 1.0
    assert curve.spread[0] == 0.0
    assert curve.mean[1] >= curve.mean[-1]
    own = removal_curve(net, x, y, counts=[6], metric=lambda out, y: float(out[0, 0]))
    assert own.mean == [float(net.head(net.stem(x)).detach()[0, 0])]
    assert removal_curve(net, (x,), y, draws=4) == curve


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: stochastic_depth("net", 0.5), "`model` must be a torch module, got str"),
        (lambda: stochastic_depth(residual(), 1.0), r"`rate` must be a drop probability in \[0, 1\), got 1.0"),
        (lambda: stochastic_depth(residual(), 0.5, "square"), '`schedule` must be "linear" or "uniform"'),
        (lambda: stochastic_depth(residual(), 0.5, mode="half"), '`mode` must be "block", "row" or "kept", got \'half\''),
        (lambda: stochastic_depth(nn.Linear(2, 2), 0.5, inputs=(torch.zeros(2, 2),)), "`model` must have a residual block"),
        (lambda: removal_curve(nn.Linear(2, 2), torch.zeros(2, 2), torch.zeros(2)), "`model` must have a residual block"),
        (lambda: removal_curve(residual(), torch.zeros(2, 5), torch.zeros(2), draws=0), "`draws` must be at least 1, got 0"),
        (
            lambda: removal_curve(residual(), torch.zeros(2, 5), torch.zeros(2), counts=[7]),
            r"`counts` must lie in 0…6, .* got 7",
        ),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
