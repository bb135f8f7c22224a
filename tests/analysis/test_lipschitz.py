"""Lipschitz constants of networks: against closed forms, dense matrices, and the slopes a search finds."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as f
from torch import nn

import residyn as rd
from residyn.branch import Dense, Spectral
from residyn.nets import MLP, ResNet


def slope(module, shape, pairs=200, seed=0):
    """The largest ‖y(x + δ) - y(x)‖/‖δ‖ of random small δ, a few power steps taken on each: a lower bound."""
    module = copy.deepcopy(module).double()
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for _ in range(pairs // 50):
        x = torch.randn(1, *shape, dtype=torch.float64, generator=generator)
        jacobian = torch.autograd.functional.jacobian(module, x).reshape(-1, math.prod(shape))
        worst = max(worst, float(torch.linalg.matrix_norm(jacobian, 2)))
    return worst


def norm(linear):
    return float(torch.linalg.matrix_norm(linear.weight.detach().double(), 2))


def test_sequential_is_a_product():
    torch.manual_seed(0)
    net = MLP(5, 8, 3)
    found = rd.lipschitz(net, 5)
    assert found.kind == "certified"
    assert float(found) == pytest.approx(norm(net[0]) * norm(net[2]), rel=1e-12)
    assert float(found) >= slope(net, (5,))


def test_a_residual_block_has_one_plus_h_times_k():
    torch.manual_seed(1)
    branch = MLP(6, 12, 6)
    k = norm(branch[0]) * norm(branch[2])
    assert float(rd.lipschitz(rd.Residual(branch, 0.3), 6)) == pytest.approx(1 + 0.3 * k, rel=1e-12)
    assert float(rd.lipschitz(rd.Residual(branch, -0.3), 6)) == pytest.approx(1 + 0.3 * k, rel=1e-12)
    stack = rd.Stack([rd.Residual(branch, 0.3) for _ in range(3)])
    assert float(rd.lipschitz(stack, 6)) == pytest.approx((1 + 0.3 * k) ** 3, rel=1e-12)
    steps = rd.Residual(branch, torch.tensor([0.1, -0.4, 0.2, 0.1, 0.1, 0.1]))
    assert float(rd.lipschitz(steps, 6)) == pytest.approx(1 + 0.4 * k, rel=1e-6)


def test_dropped_branches_count_as_they_are_scaled():
    torch.manual_seed(1)
    branch = MLP(6, 12, 6)
    k = norm(branch[0]) * norm(branch[2])
    block = rd.Residual(branch, 0.3, keep=0.5)
    assert float(rd.lipschitz(block, 6)) == pytest.approx(1 + 0.6 * k, rel=1e-12)
    assert float(rd.lipschitz(block.eval(), 6)) == pytest.approx(1 + 0.3 * k, rel=1e-12)


def test_a_linear_branch_is_taken_together_with_the_identity():
    # a descent step of a convex quadratic: 1 + h·K would say 1 + 0.5·4 = 3, the truth is max|1 - 0.5·λ| = 1
    branch = Dense(-torch.diag(torch.tensor([0.0, 1.0, 4.0])))
    assert float(rd.lipschitz(rd.Residual(branch, 0.5), 3)) == pytest.approx(1.0, rel=1e-12)
    assert float(rd.lipschitz(rd.Residual(Spectral(torch.tensor([-1.0, -3.0])), 0.5), 2)) == pytest.approx(0.5, rel=1e-12)
    torch.manual_seed(2)
    linear = nn.Linear(4, 4)
    exact = float(torch.linalg.matrix_norm(torch.eye(4).double() + 0.7 * linear.weight.detach().double(), 2))
    assert float(rd.lipschitz(rd.Residual(linear, 0.7), 4)) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
def test_a_convolution_is_taken_together_with_the_identity(mode):
    torch.manual_seed(3)
    block = rd.Residual(
        nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode=mode, bias=False), nn.BatchNorm2d(2)), -0.5
    ).eval()
    exact = slope(block, (2, 6, 5), pairs=50)  # linear: one Jacobian is the map
    assert exact * (1 - 1e-12) <= float(rd.lipschitz(block, (2, 6, 5))) <= exact * 1.001


def test_batch_norm_is_folded_into_the_layer_before_it():
    torch.manual_seed(4)
    conv, bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
    with torch.no_grad():  # rows of very different size, evened out by the batch norm
        conv.weight[0] *= 100
        bn.running_var[0] = 1e4
    net = nn.Sequential(conv, bn, nn.ReLU()).eval()
    separate = float(rd.operator_norm(conv, (3, 6, 6))) * float(rd.operator_norm(bn, (4, 6, 6)))
    folded = float(rd.lipschitz(net, (3, 6, 6)))
    assert slope(net, (3, 6, 6)) <= folded < 0.1 * separate


class Basic(nn.Module):
    """The usual block, written by someone else."""

    def __init__(self, inputs, outputs, stride=1, inplace=False):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace)
        self.down = None
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        skip = x if self.down is None else self.down(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += skip
        return self.relu(out)


def test_blocks_of_others_are_traced():
    torch.manual_seed(5)
    net = Basic(3, 3).eval()
    first = rd.operator_norm(nn.Sequential(net.conv1, net.bn1), (3, 6, 6))
    second = rd.operator_norm(nn.Sequential(net.conv2, net.bn2), (3, 6, 6))
    assert float(rd.lipschitz(net, (3, 6, 6))) == pytest.approx(1 + float(first) * float(second), rel=1e-12)
    assert float(rd.lipschitz(Basic(3, 3, inplace=True).eval(), (3, 6, 6))) > 1
    wide = Basic(3, 4, 2).eval()
    assert float(rd.lipschitz(wide, (3, 6, 6))) >= slope(wide, (3, 6, 6))


class Functions(nn.Module):
    """Everything that a graph may hold besides layers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.tensor([0.5, -2.0, 1.0, 1.0, 0.1, 0.3]))

    def forward(self, x):
        y = f.relu(self.linear(x)) * self.scale
        a, b = torch.chunk(y, 2, -1)
        y = torch.cat([a, 2 * b], -1) - x / 4
        y = y + y.mean(-1, keepdim=True)
        y = f.dropout(f.gelu(y), 0.5, self.training)
        y = torch.stack([y, torch.tanh(y)], 1)
        y = f.max_pool1d(y, 2)
        return -y.flatten(1).sum(-1, keepdim=True)


def test_functions_in_a_graph():
    torch.manual_seed(6)
    net = Functions().eval()
    bound = float(rd.lipschitz(net, 6))
    assert slope(net, (6,)) <= bound < 300
    assert float(rd.lipschitz(net.train(), 6)) == pytest.approx(2 * bound)


class Overwrites(nn.Module):
    """Returns its input after having added to it in place."""

    def forward(self, x):
        y = x.clone()
        y.add_(torch.tanh(x), alpha=3)
        return y


class Turned(nn.Module):
    """3·x, by attributes of tensors that are views of them."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        y = getattr(x, self.name)
        return 3 * (y if self.name in ("real", "data") else getattr(y, self.name))


@pytest.mark.parametrize("name", ["mT", "mH", "real", "data"])
def test_attributes_that_are_views_are_no_constants(name):
    assert float(rd.lipschitz(Turned(name), (3, 4))) == pytest.approx(3)


def _hooked(where, kind="register_forward_hook"):
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    getattr(net if where is None else net[where], kind)(lambda m, i, *o: 10 * (o[0] if o else i[0]))
    return net


def _patched():
    net = nn.Sequential(nn.Linear(3, 3))
    net[0].forward = lambda x: 10 * x
    return net


def _older():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it old itself
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)))


def _folded():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    net[1].register_forward_hook(lambda m, i, o: 10 * o)
    return net


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _hooked(1), r"`Sequential.1` \(ReLU\) must be bounded as its class computes, got forward hooks on it \(<lambda>\): take them"),
        (lambda: _hooked(None), r"`Sequential` \(Sequential\) must be bounded as its class computes, got forward hooks"),
        (lambda: _hooked(2, "register_forward_pre_hook"), r"`Sequential.2` \(Linear\) must be bounded as its class computes, got forward hooks"),
        (_patched, r"`Sequential.0` \(Linear\) must be bounded as its class computes, got a `forward` put on the instance; give its"),
        (_older, r"got forward hooks on it \(WeightNorm\)"),
        (_folded, r"`Sequential.1` \(BatchNorm1d\) must be bounded as its class computes, got forward hooks"),
    ],
)  # fmt: skip
def test_what_hooks_may_change_is_not_certified(make, words):
    net = make()
    with pytest.raises(rd.InputError, match=words):
        rd.lipschitz(net, 3)
    assert float(rd.lipschitz(net, 3, known={type(net): 2.0})) == 2  # unless the user answers for it


def test_the_norm_of_a_layer_with_hooks_is_not_certified_either():
    for layer in (_hooked(2, "register_forward_pre_hook")[2], _older()[0], _patched()[0]):
        with pytest.raises(rd.InputError, match=r"`layer` must be bounded as its class computes, got"):
            rd.operator_norm(layer, 3)


def test_wrappers_that_compute_the_same_are_seen_through():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    whole = float(rd.lipschitz(net, 3))
    for wrapped in (torch.compile(net, backend="eager"), nn.DataParallel(net)):
        assert float(rd.lipschitz(wrapped, 3)) == whole


class Scaled(nn.Linear):
    """Weights used by functions: 2·W·x, a product from the right, and a convolution."""

    def forward(self, x):
        y = f.linear(x, 2 * self.weight, self.bias) @ self.weight.T
        return f.conv1d(y[:, None], self.weight[None, :1], padding=1)


def test_layers_by_their_functions():
    torch.manual_seed(8)
    net = Scaled(3, 3)
    weight = net.weight.detach()
    kernel = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    kernel.weight = nn.Parameter(weight[None, :1])
    truth = 2 * float(torch.linalg.matrix_norm(weight, 2)) ** 2 * float(rd.operator_norm(kernel, (1, 3)))
    assert float(rd.lipschitz(net, 3)) == pytest.approx(truth, rel=1e-3)  # the slack of a convolution
    assert float(rd.lipschitz(net, 3)) >= slope(net, (3,))


class Parts(nn.Module):
    """Tuples of parts, added and joined: two copies of x."""

    def forward(self, x):
        return torch.cat(tensors=x.chunk(2, -1) + x.chunk(2, -1), dim=-1)


def test_tuples_of_parts():
    assert float(rd.lipschitz(Parts(), 4)) == pytest.approx(2**0.5)


class Doubling(nn.Module):
    """x *= 3 writes into x, which is used again; torch.fx traces it as a new tensor."""

    def forward(self, x):
        y = x * 1
        z = y
        y *= 3
        return z + y


class Summing(nn.Module):
    def forward(self, x):
        return x + x.sum(0, keepdim=True)


def test_what_is_written_in_place_is_seen():
    assert float(rd.lipschitz(Overwrites(), 3)) >= slope(Overwrites(), (3,))


def test_resnets_of_this_house_and_any_depth():
    torch.manual_seed(7)
    net = ResNet(nn.Linear(5, 6), [MLP(6, 8, 6) for _ in range(4)], nn.Linear(6, 3))
    value = norm(net.stem) * norm(net.head)
    for block in net.body.blocks:
        value *= 1 + 0.5 * norm(block.branch[0]) * norm(block.branch[2])
    assert float(rd.lipschitz(net, 5)) == pytest.approx(value, rel=1e-12)
    assert float(rd.lipschitz(net, 5)) >= slope(net, (5,))


class Odd(nn.Module):
    def forward(self, x):
        return x * x


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_constant_may_be_given():
    torch.manual_seed(8)
    net = nn.Sequential(nn.Linear(3, 3), Branching())
    for key in (Branching, "1", net[1]):
        found = rd.lipschitz(net, 3, known={key: 1.5})
        assert float(found) == pytest.approx(1.5 * norm(net[0]))
        assert found.kind == "upper"
    assert rd.lipschitz(rd.Residual(Odd()), 3, known={Odd: 0.0}).value == 1.0
    traced = nn.Sequential(nn.Linear(3, 3), _Wrapper())
    assert float(rd.lipschitz(traced, 3, known={Branching: 2.0})) == pytest.approx(norm(traced[0]) * (2.0 + 1.0))


class _Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Branching()

    def forward(self, x):
        return x + self.inner(x)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Two(nn.Module):
    def forward(self, x, y):
        return x + y


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rd.lipschitz(nn.Sequential(nn.Linear(3, 3), Odd()), 3), r"depend on the input in `Sequential\.1` has no known.*`known`"),
        (lambda: rd.lipschitz(nn.Sequential(Branching()), 3), r"`Sequential\.0` \(Branching\) must be traceable.*known=\{'Sequential\.0': K\}"),
        (lambda: rd.lipschitz(nn.Sequential(nn.Hardshrink()), 3), r"`Sequential\.0` \(Hardshrink\) must be a module with a known"),
        (lambda: rd.lipschitz(rd.Residual(lambda x: 2 * x), 3), r"`Residual.branch` must be a module.*got the function '<lambda>'"),
        (lambda: rd.lipschitz(rd.Residual(nn.Linear(3, 4)), 3), r"`Residual.branch` must keep the shape \(3,\), got \(4,\)"),
        (lambda: rd.lipschitz(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), 3), r"call .eval\(\)"),
        (lambda: rd.lipschitz(Pair(), 3), "`Pair` must return one tensor to be bounded, got tuple"),
        (lambda: rd.lipschitz(Doubling(), 3), r"`Doubling` \(Doubling\) must compute what torch.fx traces of it to be bounded, got something"),
        (lambda: rd.lipschitz(Summing(), 3), r"`Summing` \(Summing\) must treat each sample by itself to be bounded, got a sum over"),
        (lambda: rd.lipschitz(Two(), 3), "`Two` must take one tensor to be bounded, got 2 inputs"),
        (lambda: rd.lipschitz(nn.Linear(3, 3), 3, known={"x": -1}), "`known` must hold constants >= 0, got -1"),
        (lambda: rd.lipschitz(math.sin, 3), "`module` must be an nn.Module"),
        (lambda: rd.lipschitz(nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)), 3), r"`input_shape` must end in 3 .* got \(4,\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, words):
    with pytest.raises(rd.InputError, match=words):
        call()


def test_nothing_of_the_module_changes():
    net = nn.Sequential(Basic(2, 2), nn.Dropout(0.3), nn.Flatten(), nn.Linear(32, 2)).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    random_state = torch.get_rng_state()
    rd.lipschitz(net, (2, 4, 4))
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m.training for m in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
