"""Implicit residual networks: the step's equation, the bound on expansion, gradients, refusals."""

import pytest
import torch
from torch import nn

import residyn as rd
from residyn.errors import InputError
from residyn.nets import Dissipative, ImplicitResidual, ImplicitResNet

F64 = torch.float64


def branch(margin=0.0, gain=2.0, seed=0):
    torch.manual_seed(seed)
    return Dissipative(6, 12, margin=margin, gain=gain).double()


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_branch_is_dissipative_by_construction(margin, seed):
    f = branch(margin, seed=seed)
    x, y = torch.randn(2, 200, 6, dtype=F64) * 3
    inner = ((f(x) - f(y)) * (x - y)).sum(-1)
    assert bool((inner <= -margin * (x - y).pow(2).sum(-1) + 1e-12).all())
    jacobian = torch.autograd.functional.jacobian(f, x[0])
    assert float(torch.linalg.eigvalsh((jacobian + jacobian.T) / 2).max()) <= -margin + 1e-12


@pytest.mark.parametrize("h", [1e-3, 1.0, 1e2, 1e4])
def test_the_equation_of_the_step_is_solved(h):
    f = branch()
    x = torch.randn(5, 6, dtype=F64)
    with torch.no_grad():
        after = ImplicitResidual(f, h)(x)
        # Newton's last step is below 1e-10 of x; times 1 + h·|J|, with |J| below 40 here
        assert float((after - x - h * f(after)).abs().max()) <= 1e-9 * (1 + 40 * h)


@pytest.mark.parametrize("h", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_two_states_come_closer_by_the_bound(h, margin):
    block = ImplicitResidual(branch(margin), h)
    x, y = torch.randn(2, 20, 6, dtype=F64)
    with torch.no_grad():
        after = (block(x) - block(y)).norm(dim=1)
    assert bool((after <= (x - y).norm(dim=1) / (1 + h * margin) + 1e-8).all())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, on the first jvp
def test_the_explicit_twin_expands_where_the_implicit_one_does_not():
    f = branch()
    x, y = torch.randn(2, 20, 6, dtype=F64)
    h = 10 * float(rd.max_stable_step(f, x[0], criterion="norm"))
    with torch.no_grad():
        explicit = ((x + h * f(x)) - (y + h * f(y))).norm(dim=1) / (x - y).norm(dim=1)
    assert float(explicit.max()) > 1


@pytest.mark.parametrize("h", [0.5, 20.0])
def test_gradients_of_a_block(h):
    block = ImplicitResidual(branch(gain=0.7), h)
    x = torch.randn(2, 6, dtype=F64, requires_grad=True)
    # Newton's 1e-10 over the difference quotient's 1e-6
    assert torch.autograd.gradcheck(block, (x,), atol=1e-3 / 4, rtol=1e-3)
    names = [name for name, _ in block.named_parameters()]

    def of_parameters(*values):
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (x.detach(),))

    assert torch.autograd.gradcheck(of_parameters, tuple(block.parameters()), atol=1e-3 / 4, rtol=1e-3)


def test_a_network_learns_at_a_step_far_past_the_explicit_limit():
    torch.manual_seed(0)
    net = ImplicitResNet(nn.Linear(2, 6), [Dissipative(6, 12, gain=0.3) for _ in range(2)], nn.Linear(6, 1), step=10.0)
    u = torch.randn(64, 2)
    y = torch.tanh(2 * u[:, :1] + u[:, 1:])
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (net(u) - y).pow(2).mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_states_and_recurrence():
    shared = Dissipative(4, 4)
    net = ImplicitResNet(nn.Identity(), [shared] * 5, nn.Identity(), step=2.0)
    x = torch.randn(3, 4)
    states = net.states(x)
    assert len(states) == 6
    assert len(list(net.parameters())) == 4
    torch.testing.assert_close(net(x), states[-1])


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_step_is_checked(bad):
    with pytest.raises(InputError, match="`step` must be > 0 and finite, got"):
        ImplicitResidual(nn.Identity(), bad)


def test_branches_are_checked():
    with pytest.raises(InputError, match="`branches` must hold at least one module, got none; each becomes a block"):
        ImplicitResNet(nn.Identity(), [], nn.Identity())


@pytest.mark.parametrize("margin", [-0.1, float("inf"), float("nan")])
def test_margin_is_checked(margin):
    with pytest.raises(InputError, match="`margin` must be ≥ 0 and finite, got .*; 0 is non-expansive already"):
        Dissipative(2, 2, margin=margin)


def test_widths_are_checked():
    with pytest.raises(InputError, match="`width` and `hidden` must be at least 1, got 0 and 3"):
        Dissipative(0, 3)
