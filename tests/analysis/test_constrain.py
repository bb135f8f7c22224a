"""Constraints that hold through training, blocks that never expand, and that all of it comes off again."""

import copy
import math

import pytest
import torch
from torch import nn

import residyn as rd
from residyn.analysis.constrain import release
from residyn.analysis.convex import ConvexPotential
from residyn.analysis.uniform import uniform_norm
from residyn.nets import MLP, ResNet


def trained(net, x, y, steps=30, rate=0.5):
    optimiser = torch.optim.SGD(net.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()
    return float(loss.detach())


@pytest.mark.parametrize("lipschitz", [0.3, 1.0, 20.0])
def test_the_bound_holds_after_every_training_step(lipschitz):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(54, 3),
    )
    assert rd.constrain(net, lipschitz) is net
    x, y = torch.randn(30, 1, 16, 16), torch.arange(30) % 3
    before = float(nn.functional.cross_entropy(net(x), y).detach())
    for _ in range(5):
        loss = trained(net, x, y, steps=5)
        assert float(rd.lipschitz(net, (1, 16, 16))) <= lipschitz
    assert loss < before  # it learns, the norm being differentiated through


def test_residual_networks_share_the_allowance():
    torch.manual_seed(1)
    stack = rd.Stack([rd.Residual(MLP(5, 9, 5), 0.5) for _ in range(3)])
    rd.constrain(stack, 2.0)
    found = float(rd.lipschitz(stack, 5))
    assert 1.99 < found <= 2.0  # He's initialisation is above the cap everywhere, so that all of it is used
    net = ResNet(nn.Linear(6, 5), [MLP(5, 9, 5) for _ in range(2)], nn.Linear(5, 3))
    rd.constrain(net, 4.0, input_shape=6)
    assert float(rd.lipschitz(net, 6)) <= 4.0
    trained(net, torch.randn(20, 6), torch.arange(20) % 3)
    assert float(rd.lipschitz(net, 6)) <= 4.0


def test_weights_within_the_cap_are_left_alone():
    layer = nn.Linear(4, 4)
    nn.init.eye_(layer.weight)
    layer.weight.data *= 0.25
    before = layer.weight.detach().clone()
    rd.constrain(layer, 1.0)
    assert torch.equal(layer.weight, before)


def test_it_comes_off_and_state_dicts_go_round():
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.ConvTranspose1d(3, 2, 2, stride=2))
    names = list(net.state_dict())
    twin = copy.deepcopy(net)
    rd.constrain(net, 0.5)
    rd.constrain(twin, 0.5)
    nn.init.normal_(twin[0].parametrizations.weight.original)
    twin.load_state_dict(net.state_dict())
    x = torch.randn(1, 2, 8)
    assert torch.equal(net(x), twin(x))
    value = net(x)
    release(net)
    assert list(net.state_dict()) == names or set(net.state_dict()) == set(names)
    assert torch.allclose(net(x), value)
    assert type(net[0]) is nn.Conv1d
    assert float(rd.lipschitz(net, (2, 8))) <= 0.5


@pytest.mark.parametrize(
    "layer",
    [nn.Conv1d(2, 3, 5, dilation=2, padding=4), nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Conv2d(3, 2, 3, stride=2, padding=1),
     nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1), nn.Linear(5, 4)],
    ids=str,
)  # fmt: skip
def test_the_norm_over_all_sizes_is_above_that_of_each(layer):
    torch.manual_seed(3)
    nn.init.normal_(layer.weight)
    uniform = float(uniform_norm(layer)(layer.weight.detach()))
    if isinstance(layer, nn.Linear):
        assert uniform == pytest.approx(float(rd.operator_norm(layer, 5)), rel=1e-12)
        return
    axes = layer.weight.ndim - 2
    for n in (10, 18, 36):
        found = float(rd.operator_norm(layer, (layer.in_channels, *[n] * axes)))
        assert found <= uniform
    # at 36 cells the border costs (π/36)² of a curvature up to ((k-1)·d/2)² = 16, and sampling 0.9 % a direction
    assert uniform <= 1.15 * found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_rounded_weights_stay_within_the_bound(dtype, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16)).to(dtype)
    rd.constrain(net, 0.7, input_shape=(3, 6, 6))
    assert float(rd.lipschitz(net, (3, 6, 6))) <= 0.7
    assert float(rd.lipschitz(copy.deepcopy(net), (3, 6, 6))) <= 0.7


def test_the_gradient_of_the_norm_is_right():
    torch.manual_seed(4)
    layer = nn.Conv2d(2, 3, 3)
    norm = uniform_norm(layer)
    weight = layer.weight.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(norm, weight, eps=1e-6)  # one simple largest value: differentiable there


@pytest.mark.parametrize(
    "layer", [nn.Linear(5, 9), nn.Conv2d(2, 6, 3, padding=1), nn.Conv1d(2, 4, 3, padding=2, dilation=2)], ids=str
)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()], ids=str)
def test_a_convex_potential_never_expands(layer, activation):
    torch.manual_seed(5)
    nn.init.normal_(layer.weight, std=3.0)
    block = ConvexPotential(layer, activation)
    shape = {nn.Linear: (5,), nn.Conv1d: (2, 9), nn.Conv2d: (2, 6, 6)}[type(layer)]
    assert float(rd.lipschitz(rd.Stack([block, block]), shape)) == 1.0
    double = copy.deepcopy(block).double()
    for _ in range(5):
        x = torch.randn(1, *shape, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(double, x).reshape(math.prod(shape), -1)
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= 1.0 + 1e-12
    x, y = torch.randn(4, *shape), torch.randn(4, *shape)
    loss = block(x).square().sum()
    loss.backward()
    assert layer.weight.grad.abs().max() > 0
    with torch.no_grad():
        layer.weight *= 2.0  # the step follows the weight
        assert float((block(x) - block(y)).norm()) <= float((x - y).norm()) * (1 + 1e-5)


def test_an_unconstrained_block_may_stay_inside():
    net = nn.Sequential(nn.Linear(4, 4), ConvexPotential(nn.Linear(4, 8)), nn.Linear(4, 2))
    rd.constrain(net, 1.0)
    assert not hasattr(net[1].layer, "parametrizations")
    assert float(rd.lipschitz(net, 4)) <= 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rd.constrain(3), "`module` must be an nn.Module, got int"),
        (lambda: rd.constrain(nn.Linear(2, 2), 0.0), "`lipschitz` must be > 0 and finite, got 0.0"),
        (lambda: rd.constrain(nn.ReLU()), "`module` must hold a linear layer or convolution"),
        (lambda: rd.constrain(rd.constrain(nn.Linear(2, 2))), "`module` must not be parametrised already"),
        (lambda: rd.constrain(rd.Residual(nn.Linear(2, 2)), 0.5), "`lipschitz` must be above 1, .*got 0.5; a residual block"),
        (lambda: rd.constrain(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))), r"`Sequential\.1` must not be a batch norm"),
        (lambda: rd.constrain(ResNet(nn.Linear(2, 2), [nn.Linear(2, 2)], nn.Linear(2, 2))), "`input_shape` must be given to constrain `ResNet`"),
        (lambda: rd.constrain(nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect")), "`padding_mode` must be zeros or circular"),
        (lambda: ConvexPotential(nn.ReLU()), "`layer` must be a Linear or a convolution, got ReLU"),
        (lambda: ConvexPotential(nn.Conv1d(1, 1, 3, stride=2)), "`layer` must have stride 1 and zero padding"),
        (lambda: ConvexPotential(nn.Linear(2, 2), nn.GELU()), "`activation` must be monotone with slope at most 1"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, words):
    with pytest.raises(rd.InputError, match=words):
        call()
