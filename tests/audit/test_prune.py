"""Smaller models: what leaves, what that costs and saves, and that the audited model stays whole."""

import copy

import pytest
import torch
from torch import nn

import residyn as rd
from residyn.nets import MLP, ResNet

from . import networks as N
from .test_find import same, state


def built(idle=(1, 2, 4)):
    """A net in which some blocks do next to nothing."""
    torch.manual_seed(0)
    net = ResNet(nn.Linear(4, 32), [MLP(32, 64, 32) for _ in range(6)], nn.Linear(32, 3))
    with torch.no_grad():
        for i in idle:
            for p in net.body.blocks[i].branch.parameters():
                p.mul_(1e-3)
    return net


X = torch.randn(64, 4, generator=torch.Generator().manual_seed(3))


def test_idle_blocks_leave():
    net = built()
    y = net(X)
    found = rd.audit(net, X, targets=y.argmax(1), budget=0)
    before = copy.deepcopy(state(net))
    before["identities"] = state(net)["identities"]
    pruned = found.retrofit.prune(loss=0.0)
    assert {"body.blocks.1", "body.blocks.2", "body.blocks.4"} <= set(pruned.dropped)
    assert (pruned.before, pruned.after, pruned.loss) == (1.0, 1.0, 0.0)
    assert pruned.parameters[1] == pruned.parameters[0] - len(pruned.dropped) * (32 * 64 + 64 + 64 * 32 + 32)
    assert bool((pruned.model(X).argmax(1) == y.argmax(1)).all())
    assert min(pruned.seconds) > 0
    assert pruned.saved == pytest.approx(1 - 1 / pruned.speedup)
    after = state(net)
    assert [key for key in before if not same(before[key], after[key])] == []


def test_without_targets_the_output_counts():
    net = built()
    pruned = rd.audit(net, X, budget=0).retrofit.prune(loss=0.01)
    assert set(pruned.dropped) == {"body.blocks.1", "body.blocks.2", "body.blocks.4"}
    change = float((pruned.model(X) - net(X)).detach().norm() / net(X).detach().norm())
    assert pruned.loss == pytest.approx(change, rel=1e-4)
    assert change <= 0.01


def test_copy_trains_and_takes_other_sizes():
    net = built()
    small = rd.audit(net, X, budget=0).retrofit.prune(loss=0.01).model
    assert small(X[:7]).shape == (7, 3)
    small(X).pow(2).sum().backward()
    assert net.stem.weight.grad is None
    assert small.stem.weight.grad is not None


def test_nothing_leaves_where_all_counts():
    pruned = rd.audit(built(idle=()), X, budget=0).retrofit.prune(loss=1e-6)
    assert pruned.dropped == []
    assert pruned.parameters[0] == pruned.parameters[1]


def test_what_cannot_leave_says_why():
    torch.manual_seed(0)
    net = N.Fn(lambda s, x: x + 1e-4 * torch.relu(s.f(x)), f=N.mlp())
    pruned = rd.audit(net, torch.randn(4, 8), budget=0).retrofit.prune(loss=0.5)
    assert pruned.dropped == []
    assert "not at a module" in pruned.refused["model"]


def test_convolutions_with_inner_sizes():
    """Modules inside a branch change channels and size; their stand-ins follow."""
    torch.manual_seed(0)

    class Inverted(nn.Module):
        def __init__(self, n=4):
            super().__init__()
            self.up, self.deep, self.down = N.conv(n, 3 * n, 1), N.conv(3 * n, 3 * n, groups=3 * n), N.conv(3 * n, n, 1)

        def forward(self, x):
            return x + 1e-4 * self.down(torch.relu(self.deep(torch.relu(self.up(x)))))

    net = nn.Sequential(nn.Conv2d(3, 4, 3), Inverted(), Inverted()).eval()
    pruned = rd.audit(net, torch.randn(2, 3, 10, 10), budget=0).retrofit.prune(loss=0.01)
    assert len(pruned.dropped) == 2
    assert sum(p.numel() for p in pruned.model.parameters()) == sum(p.numel() for p in net[0].parameters())
    assert pruned.model(torch.randn(3, 3, 14, 12)).shape == net(torch.randn(3, 3, 14, 12)).shape
