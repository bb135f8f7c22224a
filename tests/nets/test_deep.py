"""Hundreds of layers: memory, gradients that are exact, and initialisations under which depth does no harm."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from residyn import Adjoint, Checkpoint, InputError, Residual, Stack
from residyn.errors import ResidynWarning
from residyn.gradients import InvertibleBlock, Reversible
from residyn.nets import MLP, Coupling, ResNet, ReversibleStack, fixup_, skip_init

F64 = torch.float64


def branches(depth, width=8):
    torch.manual_seed(0)
    return [nn.Sequential(nn.LayerNorm(width), MLP(width, 16, width)) for _ in range(depth)]


def coupled(parts, h, x):
    """The steps of `ReversibleStack`, left to autograd."""
    pair = [x, x]
    for k, part in enumerate(parts):
        pair[k % 2] = pair[k % 2] + h * part(pair[1 - k % 2])
    return (pair[0] + pair[1]) / 2


@pytest.mark.parametrize("depth", [1, 2, 7, 40])
def test_reversible_gradient_is_that_of_the_steps(depth):
    body = ReversibleStack(branches(depth)).to(F64)
    x = torch.randn(3, 8, dtype=F64, requires_grad=True)
    w = torch.randn(3, 8, dtype=F64)
    truth = coupled(body.branches, depth**-0.5, x)
    leaves = [x, *body.parameters()]
    wanted = torch.autograd.grad((w * truth).sum(), leaves)
    y = body(x)
    torch.testing.assert_close(y, truth, atol=1e-13, rtol=0)  # a fused multiply-add or not: some 1e-16 a step
    # a state found again is off by a few roundings a step, 1e-16·40 relative, times the branches' second derivatives
    torch.testing.assert_close(torch.autograd.grad((w * y).sum(), leaves), wanted, atol=1e-12, rtol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(body(x), truth)
    assert "step=" in repr(body)


def test_reversible_keeps_two_states_whatever_the_depth():
    for depth in (4, 64):
        kept = []
        with saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            ReversibleStack(branches(depth))(torch.randn(3, 8)).sum().backward()
        # the two last states; what a branch keeps while it is pulled back is made and freed block by block
        outer = kept[:2]
        assert outer == [24, 24]


def couplings(depth, width=8):
    torch.manual_seed(0)
    half = width // 2
    return [Coupling(MLP(half, 16, half), nn.Sequential(nn.LayerNorm(half), MLP(half, 16, half)), 0.5) for _ in range(depth)]


@pytest.mark.parametrize("depth", [1, 30])
def test_a_stack_of_invertible_blocks_has_the_gradients_of_a_plain_one(depth):
    blocks = couplings(depth)
    blocks[0].first.requires_grad_(False)
    plain, back = Stack(blocks).to(F64), Stack(blocks, gradient=Reversible())
    x = torch.randn(3, 8, dtype=F64, requires_grad=True)
    w = torch.randn(3, 8, dtype=F64)
    leaves = [x, *(p for p in plain.parameters() if p.requires_grad)]
    wanted = torch.autograd.grad((w * plain(x)).sum(), leaves)
    y = back(x)
    torch.testing.assert_close(y, plain(x), atol=0, rtol=0)
    # the state found again is off by a few roundings a block, 30 blocks, times the branches' second derivatives
    torch.testing.assert_close(torch.autograd.grad((w * y).sum(), leaves), wanted, atol=1e-12, rtol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(back(x), y, atol=0, rtol=0)
    # weights that are shared by all blocks get the sum of their gradients
    tied = [Stack([blocks[0]] * 3, gradient=mode) for mode in (None, Reversible())]
    grads = [torch.autograd.grad(net(x).square().sum(), [x, *blocks[0].second.parameters()]) for net in tied]
    torch.testing.assert_close(*grads, atol=1e-12, rtol=1e-10)
    assert "step=0.5" in repr(blocks[0])


def test_a_stack_of_invertible_blocks_keeps_two_states_whatever_the_depth():
    for depth in (4, 64):
        kept = []
        net = Stack(couplings(depth), gradient=Reversible())
        with saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            net(torch.randn(3, 8))
        parameters = {id(p) for p in net.parameters()}
        assert [t.numel() for t in kept if id(t) not in parameters] == [24, 24]  # input and output


def test_a_lost_state_is_said_and_no_gradient_is_made_of_it():
    class Off(InvertibleBlock):
        def __init__(self, error):
            super().__init__()
            self.error = error

        def forward(self, x):
            return 2 * x

        def inverse(self, y):
            return (0.5 + self.error) * y

    x = torch.ones(2, 2, requires_grad=True)
    with pytest.warns(ResidynWarning, match="taken back over 1 blocks, the state came to 2.0e-02 from the input"):
        Stack([Off(0.01)], gradient=Reversible())(x).sum().backward()
    with pytest.raises(InputError, match="`blocks` must have inverses that find their inputs again"):
        Stack([Off(0.2)], gradient=Reversible())(x).sum().backward()
    y = Stack([Off(0.0)], gradient=Reversible())(x)
    first = torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
    with pytest.raises(InputError, match="got Reversible\\(\\), whose graph is gone"):
        first.sum().backward()


def test_a_gradient_that_would_be_missing_is_refused():
    scale = torch.ones(4, requires_grad=True)

    class Scaled(nn.Module):
        def forward(self, x):
            return scale * x

    net = Stack([Coupling(Scaled(), Scaled())], gradient=Reversible())
    with pytest.raises(InputError, match=r"besides their input and parameters .* got one of shape \(4,\) in no. 0"):
        net(torch.ones(2, 8, requires_grad=True)).sum().backward()


def test_frozen_branches_get_no_gradient():
    parts = branches(3)
    parts[1].requires_grad_(False)
    body = ReversibleStack(parts)
    body(torch.randn(2, 8)).sum().backward()
    assert all((p.grad is None) == (not p.requires_grad) for p in body.parameters())
    assert body.branches[0][1][0].weight.grad.any()


def test_checkpointed_network_has_the_gradients_of_a_plain_one():
    parts = branches(25)
    found = []
    for gradient in (None, Checkpoint()):
        torch.manual_seed(1)
        net = ResNet(nn.Linear(4, 8), parts, nn.Linear(8, 2), gradient=gradient)
        net(torch.ones(3, 4)).sum().backward()
        found.append([p.grad.clone() for p in parts[3].parameters()])
        net.zero_grad()
    torch.testing.assert_close(*found)


def test_fixup_starts_as_the_identity_and_scales_the_other_layers():
    parts = [MLP(8, 8, 8, 8) for _ in range(16)]
    before = [part[0].weight.detach().clone() for part in parts]
    net = fixup_(ResNet(nn.Linear(4, 8), parts, nn.Linear(8, 2), step=1.0))
    x = torch.randn(5, 4)
    torch.testing.assert_close(net(x), net.head(net.stem(x)))
    for part, weight in zip(parts, before, strict=True):
        torch.testing.assert_close(part[0].weight, weight * 16 ** (-1 / 4))  # three layers: L^(-1/(2·3 - 2))
    bare = fixup_(nn.Sequential(Residual(nn.Linear(3, 3))))
    torch.testing.assert_close(bare(torch.ones(1, 3)), torch.ones(1, 3))
    fixup_(nn.Sequential(Residual(nn.Linear(3, 3, bias=False))))


def test_skip_init_learns_a_number_a_block():
    net = skip_init(ResNet(nn.Linear(4, 8), branches(9), nn.Linear(8, 2), step=0.5))
    x = torch.randn(5, 4)
    torch.testing.assert_close(net(x), net.head(net.stem(x)))
    net(x).sum().backward()
    assert all(float(block.step.grad.abs()) > 0 for block in net.body.blocks)
    kept = skip_init(nn.Sequential(Residual(nn.Linear(3, 3), torch.full((3,), 0.5))), init=0.2)
    torch.testing.assert_close(kept[0].step.detach(), torch.full((3,), 0.1))
    assert "0.step" in dict(kept.named_parameters())


@pytest.mark.parametrize("make", [fixup_, skip_init])
def test_a_step_of_training_changes_the_output_by_as_much_at_any_depth(make):
    changes = []
    for depth in (10, 160):
        torch.manual_seed(0)
        net = make(
            ResNet(
                nn.Linear(4, 16),
                [MLP(16, 16, 16) for _ in range(depth)],
                nn.Linear(16, 1),
                step=1.0 if make is fixup_ else None,
            )
        )
        x, rate = torch.randn(64, 4), 1e-3
        y = net(x)
        y.square().mean().backward()
        with torch.no_grad():
            for p in net.parameters():
                p.sub_(rate * p.grad)
            changes.append(float((net(x) - y).norm()))
    # Fixup's claim is Θ(η) at any depth; He's start at h = 1 would differ by the factor 2^150
    assert 0.2 < changes[1] / changes[0] < 5


@pytest.mark.slow
def test_a_thousand_layers_train():
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = (x[:, 0] * x[:, 1] > 0).long()
    for body in (ReversibleStack([MLP(16, 16, 16) for _ in range(500)]), None):
        net = (
            nn.Sequential(nn.Linear(8, 16), body, nn.Linear(16, 2))
            if body is not None
            else fixup_(
                ResNet(
                    nn.Linear(8, 16), [MLP(16, 16, 16) for _ in range(500)], nn.Linear(16, 2), step=1.0, gradient=Checkpoint()
                )
            )
        )
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(45):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
        assert float(loss.detach()) < 0.35  # half of guessing, ln 2


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: ReversibleStack([]), "`branches` must hold at least one module, got none"),
        (
            lambda: ReversibleStack([nn.Linear(3, 4)])(torch.zeros(1, 3)),
            r"`branches` must keep the shape of x, \(1, 3\), got \(1, 4\) from no. 0",
        ),
        (lambda: ReversibleStack([nn.Dropout(0.5)])(torch.ones(4, 3)), "`branches` must draw no random numbers"),
        (
            lambda: Stack([Residual(torch.tanh)], gradient=Reversible())(torch.ones(1, 2)),
            "`gradient` Reversible needs blocks that know their inverse .* got Residual",
        ),
        (
            lambda: Stack([nn.Tanh()], gradient=Adjoint())(torch.ones(1, 2)),
            r"must be Backprop\(\), Checkpoint\(\) or Reversible",
        ),
        (
            lambda: Stack([Coupling(nn.Dropout(), nn.Tanh())], gradient=Reversible())(torch.ones(1, 2)),
            "`blocks` must draw no random numbers",
        ),
        (lambda: Coupling(nn.Tanh(), nn.Tanh())(torch.ones(1, 3)), "`x` must have an even number of channels"),
        (lambda: Coupling(nn.Linear(2, 1), nn.Tanh())(torch.ones(1, 4)), "branches must keep the shape of half"),
        (lambda: fixup_(nn.Linear(2, 2)), "`model` must have Residual blocks, got none"),
        (
            lambda: fixup_(nn.Sequential(Residual(torch.tanh))),
            "`model` must have a linear or convolutional layer in each branch",
        ),
        (lambda: skip_init(nn.Sequential(Residual(torch.tanh)), float("nan")), "`init` must be finite, got nan"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
