"""The equilibrium layer: solutions, exact gradients, warm starts, and what it says when it fails."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.optimize import root as scipy_root
from torch import nn

import residyn as rd
from residyn.errors import InputError, ResidynWarning, SolveError
from residyn.gradients import Implicit
from residyn.roots import Anderson, Broyden, FixedPoint, Newton

FINDERS = [FixedPoint, Anderson, Broyden, Newton]


class Cell(nn.Module):
    """tanh(Wx + Uu + b), ‖W‖₂ = norm."""

    def __init__(self, width=5, inputs=3, norm=0.7, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        W = torch.randn(width, width, generator=generator, dtype=torch.float64)
        self.W = nn.Parameter((norm * W / torch.linalg.matrix_norm(W, 2)).to(dtype))
        self.U = nn.Parameter(torch.randn(width, inputs, generator=generator, dtype=torch.float64).to(dtype))
        self.b = nn.Parameter(torch.randn(width, generator=generator, dtype=torch.float64).to(dtype))

    def forward(self, x, u):
        return torch.tanh(x @ self.W.T + u @ self.U.T + self.b)


def data(batch=4, inputs=3, dtype=torch.float64):
    return torch.randn(batch, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def layer(finder, tol=1e-11, **options):
    root = finder(tol=tol, max_iterations=300)
    return rd.Equilibrium(Cell(**options), root=root, gradient=Implicit(root))


def test_agrees_with_scipy():
    equilibrium, u = layer(Anderson), data()
    x = equilibrium(u, torch.zeros(4, 5, dtype=torch.float64))
    f = equilibrium.f
    W, U, b = (p.detach().numpy() for p in (f.W, f.U, f.b))
    for row, v in zip(x.detach(), u, strict=True):
        other = scipy_root(lambda z, v=v: np.tanh(W @ z + U @ v.numpy() + b) - z, np.zeros(5), tol=1e-13)
        # ‖x - x*‖ ≤ 1e-11·√5/(1 - 0.7) < 1e-10
        assert np.abs(row.numpy() - other.x).max() < 1e-10


@pytest.mark.parametrize("finder", FINDERS)
def test_gradients_of_inputs_and_parameters(finder):
    equilibrium, u = layer(finder), data().requires_grad_()
    names = [name for name, _ in equilibrium.named_parameters()]
    x0 = torch.zeros(4, 5, dtype=torch.float64)

    def run(u, *values):
        return torch.func.functional_call(equilibrium, dict(zip(names, values, strict=True)), (u, x0))

    # Solutions are off by 1e-11·√5/0.3 < 1e-10, so a difference quotient with step 1e-5 by less than 1e-5.
    assert torch.autograd.gradcheck(run, (u, *equilibrium.parameters()), eps=1e-5, atol=2e-5, rtol=1e-5)


def test_agrees_with_backpropagation_through_the_iteration():
    equilibrium, u = layer(Broyden), data()
    x0 = torch.zeros(4, 5, dtype=torch.float64)
    ours = torch.autograd.grad(equilibrium(u, x0).square().sum(), list(equilibrium.parameters()))
    x = x0
    for _ in range(120):  # 0.7^120 = 3e-19
        x = equilibrium.f(x, u)
    unrolled = torch.autograd.grad(x.square().sum(), list(equilibrium.parameters()))
    for a, b in zip(ours, unrolled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_gradient_reaches_what_made_the_input():
    equilibrium = layer(Anderson)
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    x0 = torch.zeros(4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: equilibrium(s * data(), x0), scale, eps=1e-5, atol=2e-5, rtol=1e-5)


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


@pytest.mark.parametrize("wrap", [lambda a, b: (a, b), lambda a, b: [a, b], Pair, lambda a, b: {"a": a, "b": b}])
def test_inputs_in_a_structure(wrap):
    def f(x, u):
        a, b = u.values() if isinstance(u, dict) else u
        return 0.5 * x + a * b

    a = torch.tensor([[2.0], [3.0]], requires_grad=True)
    b = torch.tensor([[5.0], [7.0]], requires_grad=True)
    equilibrium = rd.Equilibrium(f)
    x = equilibrium(wrap(a, b), torch.zeros(2, 1))
    x.sum().backward()
    # x = 2ab; the tolerance is 1e-5 relative, and the solution twice as far as the residual
    torch.testing.assert_close(x, 2 * a * b, rtol=3e-5, atol=0)
    torch.testing.assert_close(a.grad, 2 * b.detach(), rtol=1e-5, atol=0)


def test_inputs_other_than_tensors():
    x = rd.Equilibrium(lambda x, u: 0.5 * x + u)(1.0, torch.zeros(2, 1))
    torch.testing.assert_close(x, torch.full((2, 1), 2.0), rtol=3e-5, atol=0)


def test_complex_state():
    u = torch.tensor([[1 + 1j], [2 - 1j]], dtype=torch.complex128, requires_grad=True)
    k = torch.tensor(0.3 + 0.4j, dtype=torch.complex128, requires_grad=True)
    root = Anderson(tol=1e-12)
    equilibrium = rd.Equilibrium(lambda x, u: k * torch.sin(x) + u, root=root, gradient=Implicit(root))

    def run(u, k):
        return rd.Equilibrium(lambda x, u: k * torch.tanh(x) + u, root=root, gradient=equilibrium.gradient)(u)

    assert torch.autograd.gradcheck(run, (u, k), atol=2e-5, rtol=1e-5, eps=1e-5)


def test_same_value_with_and_without_autograd():
    equilibrium, u = layer(Anderson, tol=1e-4), data()
    x0 = torch.zeros(4, 5, dtype=torch.float64)
    with torch.no_grad():
        quiet = equilibrium(u, x0)
    assert torch.equal(equilibrium(u, x0).detach(), quiet)


def test_warm_start_saves_iterations():
    equilibrium, u = layer(Anderson, tol=1e-6), data()
    x = equilibrium(u, torch.zeros(4, 5, dtype=torch.float64))
    cold = equilibrium.forward_root.iterations
    again = equilibrium(u, x)  # with its history: it takes no part in the gradient
    assert equilibrium.forward_root.iterations == 1 < cold
    assert torch.equal(again, x)


def test_reports_both_residuals():
    equilibrium, u = layer(Anderson, tol=1e-7), data()
    x = equilibrium(u, torch.zeros(4, 5, dtype=torch.float64))
    assert equilibrium.forward_root.residual.shape == (4,)
    assert equilibrium.forward_root.residual.max() <= 1e-7
    assert equilibrium.backward_root is None
    x.sum().backward()
    assert equilibrium.backward_root.residual.max() <= 1e-7


@pytest.mark.parametrize("finder", [Broyden, Newton])
def test_expanding_layer_with_its_gradient(finder):
    """‖W‖₂ = 2.5, single precision: the plain iteration fails, these do not, and the gradient is right."""
    root = finder(tol=1e-5)
    equilibrium = rd.Equilibrium(Cell(64, 8, 2.5, torch.float32), root=root, gradient=Implicit(root))
    u = data(16, 8, torch.float32)
    x0 = torch.zeros(16, 64)
    equilibrium(u, x0).square().sum().backward()
    fine = rd.Equilibrium(
        Cell(64, 8, 2.5), root=Newton(tol=1e-12), gradient=Implicit(Newton(tol=1e-12))
    )  # in double precision, from the solution found
    y = fine(data(16, 8), equilibrium(u, x0).detach().double())
    y.square().sum().backward()
    # residuals of 1e-5 forward and backward, each through an inverse whose norm is of the order of 10
    error = (equilibrium.f.W.grad - fine.f.W.grad).norm() / fine.f.W.grad.norm()
    assert error < 1e-3


def test_one_step_gradient_is_far_off():
    """What is left out by the one-step gradient that others default to; why ours is exact."""
    equilibrium, u = layer(Anderson, norm=0.9), data()
    x0 = torch.zeros(4, 5, dtype=torch.float64)
    x = equilibrium(u, x0)
    (exact,) = torch.autograd.grad(x.sum(), equilibrium.f.W)
    (one_step,) = torch.autograd.grad(equilibrium.f(x.detach(), u).sum(), equilibrium.f.W)
    assert (one_step - exact).norm() > 0.1 * exact.norm()


def test_failure_raises_with_cause_and_fix():
    words = r"the equilibrium was not reached: relative residual .* on sample 1 after 7 iterations, tolerance 1e-05 \(max_iter"
    rates = torch.tensor([[0.1], [3.0]])
    equilibrium = rd.Equilibrium(lambda x, u: rates * x + u, root=FixedPoint(max_iterations=7))
    with pytest.raises(SolveError, match=words) as caught:
        equilibrium(torch.ones(2, 1))
    assert caught.value.outcome.kind == "root_failed"
    assert caught.value.outcome.sample == 1
    assert "Newton() of residyn.roots" in caught.value.outcome.fix


def test_failure_warns_where_asked():
    equilibrium = rd.Equilibrium(lambda x, u: 3 * x + u, root=FixedPoint(max_iterations=7), throw=False)
    with pytest.warns(ResidynWarning, match="the equilibrium was not reached"):
        equilibrium(torch.ones(2, 1))
    assert not equilibrium.forward_root


@pytest.mark.parametrize("throw", [True, False])
def test_backward_failure_follows_throw(throw):
    backward = Implicit(FixedPoint(max_iterations=5))
    equilibrium = rd.Equilibrium(lambda x, u: 3 * x + u, root=Newton(), gradient=backward, throw=throw)
    x = equilibrium(torch.ones(2, 1, requires_grad=True))
    words = "the backward solve of the equilibrium stopped"
    with pytest.raises(SolveError, match=words) if throw else pytest.warns(ResidynWarning, match=words):
        x.sum().backward()
    assert not equilibrium.backward_root


def test_stall_is_the_reason():
    equilibrium = rd.Equilibrium(lambda x, u: x + x * x + u, root=Anderson(max_iterations=1000))
    with pytest.raises(SolveError, match="the residual of sample 0 has not improved for 30 iterations"):
        equilibrium(torch.ones(2, 1))


def test_input_is_checked():
    equilibrium = rd.Equilibrium(lambda x, u: x[:, :1])
    with pytest.raises(InputError, match="`x0` must be given where u is no tensor, got u of type tuple"):
        equilibrium((torch.ones(2, 1),))
    with pytest.raises(InputError, match="`f` must return the shape of x"):
        equilibrium(torch.ones(2, 3))
    with pytest.raises(InputError, match="`x0` must have a sample axis"):
        equilibrium(torch.tensor(1.0))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own forward mode
def test_derivatives_inside_transforms_are_the_implicit_ones():
    """jvp, jacfwd, grad, second derivatives and dual numbers, by u and by W, against the closed form of a linear layer."""
    generator = torch.Generator().manual_seed(0)
    W = 0.2 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    u = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    root = Anderson(tol=1e-12)
    inverse = torch.linalg.inv(torch.eye(3, dtype=torch.float64) - W)

    def by_u(u):
        return rd.Equilibrium(lambda x, u: x @ W.T + u, root=root)(u)

    def by_w(W):
        return rd.Equilibrium(lambda x, u: x @ W.T + u, root=root)(u).square().sum()

    def exact(W):
        return (u @ torch.linalg.inv(torch.eye(3, dtype=torch.float64) - W).T).square().sum()

    v = torch.ones_like(u)
    wanted = v @ inverse.T
    # solved to 1e-12 of the state, times the norm of (I - W)⁻¹, about 2
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(torch.func.jvp(by_u, (u,), (v,))[1], wanted, **close)
    with torch.autograd.forward_ad.dual_level():
        dual = by_u(torch.autograd.forward_ad.make_dual(u, v))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, wanted, **close)
    torch.testing.assert_close(torch.func.grad(by_w)(W), torch.func.grad(exact)(W), **close)
    hessian = torch.func.jacfwd(torch.func.jacrev(by_w))(W)
    torch.testing.assert_close(hessian, torch.func.hessian(exact)(W), **close)


def test_vmap_over_an_equilibrium_is_refused_in_words():
    layer = rd.Equilibrium(lambda x, u: 0.5 * x + u)
    with pytest.raises(InputError, match="hand the whole batch to the layer, without vmap"):
        torch.func.vmap(layer)(torch.ones(3, 2))
