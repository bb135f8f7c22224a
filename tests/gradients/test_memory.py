"""Schemes that carry a memory from step to step: the gradient modes that take steps again hand it through."""

import pytest
import torch
from torch import nn

import residyn as rd
from residyn.branch import Generator
from residyn.gradients import Checkpoint, Replay
from residyn.schemes import CoupledReversible, ExponentialMidpoint, Trapezoid

F64 = torch.float64


class Field(nn.Module):
    """A stiff mode, a slow one, and the time."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([50.0, 0.5], dtype=F64))
        self.unused = nn.Parameter(torch.ones(3, dtype=F64))

    def forward(self, t, x):
        return -self.rate * (x - torch.cos(t)) + 0.1 * x.flip(-1) ** 2


class Turn(Generator):
    """A(t, x), of the state too."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=F64))

    def matrix(self, t, x):
        size = self.w * (1 + 0.3 * torch.cos(t) + 0.1 * x.pow(2).sum(-1))
        zero = torch.zeros_like(size)
        return torch.stack([torch.stack([zero, size], -1), torch.stack([-size, zero], -1)], -2)


CASES = {
    "kvaerno_fixed": (rd.Kvaerno5(), rd.Fixed(steps=5), Field),
    "kvaerno_shared": (rd.Kvaerno5(), rd.Adaptive(rtol=1e-4, atol=1e-6), Field),
    "kvaerno_own": (rd.Kvaerno5(), rd.Adaptive(rtol=1e-4, atol=1e-6, per_sample=True), Field),
    "trapezoid": (Trapezoid(), rd.Fixed(steps=6), Field),
    "coupled_reversible": (CoupledReversible(rd.RK4()), rd.Fixed(steps=9), Turn),
    "exponential_history": (ExponentialMidpoint(history=True), rd.Fixed(steps=7), Turn),
}


def pulled(case, mode, times):
    scheme, control, make = CASES[case]
    f = make()
    x0 = torch.tensor([[1.0, 0.5], [0.2, -1.0]], dtype=F64, requires_grad=True)
    x = rd.solve(f, x0, times, scheme=scheme, control=control, gradient=mode).x
    weights = torch.arange(1.0, 1.0 + x.numel(), dtype=F64).reshape(x.shape)
    return x.detach(), torch.autograd.grad((weights * x).sum(), [x0, *f.parameters()], allow_unused=True)


@pytest.mark.parametrize("mode", [Checkpoint(), Checkpoint(segments=2), Replay(keep=0), Replay(keep=20_000)], ids=repr)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("times", [[0.0, 0.4, 1.0], [1.0, 0.99, 0.98]], ids=["forwards", "backwards"])
def test_a_memory_gives_the_gradient_of_backprop(mode, case, times):
    x, wanted = pulled(case, rd.Backprop(), times)
    other, found = pulled(case, mode, times)
    torch.testing.assert_close(other, x, rtol=1e-13, atol=1e-14)
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:  # the same operations, summed in another order
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("scheme", [rd.Kvaerno5(), Trapezoid()], ids=repr)
def test_a_memory_costs_two_states_a_step(scheme):
    """Replay(keep=0) used to fall back to Backprop here, whose nodes grow with the steps."""

    def nodes(steps):
        f = Field()
        x0 = torch.ones(4, 2, dtype=F64, requires_grad=True)
        control = rd.Fixed(steps=steps)
        x = rd.solve(f, x0, [0.0, 1.0], scheme=scheme, control=control, gradient=Replay(keep=0)).x
        seen, todo = set(), [x.grad_fn]
        while todo:
            node = todo.pop()
            if node is not None and node not in seen:
                seen.add(node)
                todo += [upstream for upstream, _ in node.next_functions]
        return len(seen)

    assert nodes(4) == nodes(40)


class Forgetful(rd.Euler):
    """A scheme of the user's own that carries something and does not say what."""

    carries_memory = True


@pytest.mark.parametrize("mode", [Checkpoint(), Replay(keep=0)], ids=repr)
def test_a_memory_that_is_not_handed_out_is_left_to_autograd(mode):
    rate = torch.tensor(0.5, dtype=F64, requires_grad=True)
    x0 = torch.ones(1, dtype=F64)
    control = rd.Fixed(steps=4)
    x = rd.solve(lambda t, x: -rate * x, x0, [0.0, 1.0], scheme=Forgetful(), control=control, gradient=mode).x[-1]
    (found,) = torch.autograd.grad(x.sum(), rate)
    assert float(found) == pytest.approx(-((1 - 0.125) ** 3))  # d/dr (1 - r/4)⁴


@pytest.mark.parametrize("mode", [Checkpoint(), Replay(keep=0), Replay(keep=2000)], ids=repr)
@pytest.mark.parametrize("own", [False, True])
def test_rodas_looks_at_the_time(mode, own):
    """The time that a Rosenbrock step differentiates by is its own, and no tensor of f's that would have been missed."""
    f = Field()
    x0 = torch.tensor([[1.0, 0.5], [0.2, -1.0]], dtype=F64, requires_grad=True)
    found = []
    for gradient in (rd.Backprop(), mode):
        control = rd.Adaptive(rtol=1e-4, atol=1e-6, per_sample=own)
        x = rd.solve(f, x0, [0.0, 0.4, 1.0], scheme=rd.Rodas5P(), control=control, gradient=gradient).x
        found.append(torch.autograd.grad(x.pow(2).sum(), [x0, f.rate]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


class Hamiltonian(nn.Module):
    """Differentiates on its way, by a leaf of its own where it is asked without autograd."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 0.5], dtype=F64))

    def forward(self, t, x):
        with torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad((self.w * torch.cosh(leaf)).sum(), leaf, create_graph=True)
        return torch.stack([slope[..., 1], -slope[..., 0]], -1)


@pytest.mark.parametrize("scheme", [rd.BackwardEuler(), rd.Kvaerno5(), rd.Rodas5P(), rd.RK4()], ids=repr)
@pytest.mark.parametrize("mode", [Checkpoint(), Replay(keep=0)], ids=repr)
def test_f_may_differentiate_on_its_way(scheme, mode):
    f = Hamiltonian()
    x0 = torch.tensor([[1.0, 0.5], [0.2, -1.0]], dtype=F64, requires_grad=True)
    found = []
    for gradient in (rd.Backprop(), mode):
        x = rd.solve(f, x0, [0.0, 0.5, 1.0], scheme=scheme, control=rd.Fixed(steps=3), gradient=gradient).x
        found.append(torch.autograd.grad(x.pow(2).sum(), [x0, f.w]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("scheme", [rd.BackwardEuler(), Trapezoid(), rd.Kvaerno5()], ids=repr)
def test_a_second_derivative_that_is_not_there_is_refused(scheme):
    """It used to be a wrong number: the solved equation's own dependence on x0 was left out."""
    x0 = torch.ones(1, dtype=F64, requires_grad=True)
    control = rd.Fixed(steps=4)
    x = rd.solve(lambda t, x: -(x**2), x0, [0.0, 1.0], scheme=scheme, control=control, gradient=rd.Backprop()).x[-1]
    (once,) = torch.autograd.grad(x.sum(), x0, create_graph=True)
    with pytest.raises(
        rd.InputError, match=r"differentiated twice, got the implicit gradient.*use an explicit scheme or Rodas5P"
    ):
        torch.autograd.grad(once.sum(), x0)


def test_rodas_is_differentiated_twice():
    x0 = torch.ones(1, dtype=F64, requires_grad=True)
    control = rd.Adaptive(rtol=1e-10, atol=1e-12)
    x = rd.solve(lambda t, x: -(x**2), x0, [0.0, 1.0], scheme=rd.Rodas5P(), control=control, gradient=rd.Backprop()).x[-1]
    (once,) = torch.autograd.grad(x.sum(), x0, create_graph=True)
    (twice,) = torch.autograd.grad(once.sum(), x0)
    # x0/(1 + x0·t), to the tolerance of the solve
    assert (float(once.detach()), float(twice)) == pytest.approx((0.25, -0.25), rel=1e-7)


def test_the_adjoint_is_not_differentiated_twice():
    x0 = torch.ones(1, dtype=F64, requires_grad=True)
    x = rd.solve(lambda t, x: -(x**2), x0, [0.0, 1.0], gradient=rd.Adjoint()).x[-1]
    (once,) = torch.autograd.grad(x.sum(), x0, create_graph=True)
    with pytest.raises(
        rd.InputError, match=r"differentiated twice, got Adjoint\(\).*use gradient=Backprop\(\) or Checkpoint\(\)"
    ):
        torch.autograd.grad(once.sum(), x0)


@pytest.mark.parametrize("own", [False, True])
def test_the_adjoint_leaves_an_unused_parameter_alone(own):
    f = Field()
    control = rd.Adaptive(rtol=1e-4, atol=1e-6, per_sample=own)
    x = rd.solve(f, torch.ones(2, 2, dtype=F64), [0.0, 0.1], scheme=rd.Dopri5(), control=control, gradient=rd.Adjoint()).x
    x.sum().backward()
    assert f.unused.grad is None
    assert f.rate.grad is not None


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, t, x):
        return -self.drop(x)


@pytest.mark.parametrize("scheme", [rd.BackwardEuler(), rd.Kvaerno5(), rd.Rodas5P()], ids=repr)
@pytest.mark.parametrize("mode", [rd.Backprop(), Checkpoint(), Replay(keep=0)], ids=repr)
def test_an_equation_in_a_random_f_is_refused(scheme, mode):
    """Rodas5P took the noise for ∂f/∂t, times 1e8; the others ended in a Newton that can not converge."""
    x0 = torch.ones(4, 3, dtype=F64, requires_grad=True)
    with pytest.raises(rd.InputError, match=r"`f` must be a function of \(t, x\).*draws random numbers; put its dropout"):
        rd.solve(Noisy(), x0, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=2), gradient=mode)
