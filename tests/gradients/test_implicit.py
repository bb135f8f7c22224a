"""The implicit gradient against closed forms, finite differences and backpropagation through many iterations."""

import pytest
import torch

from residyn.errors import ResidynWarning, SolveError
from residyn.gradients import Implicit
from residyn.roots import Anderson, Broyden, FixedPoint, Newton

BACKWARD = [FixedPoint(tol=1e-11, max_iterations=400), Anderson(tol=1e-11), Broyden(tol=1e-11), Newton(tol=1e-11)]


def linear(seed=0):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    A = (0.8 * A / torch.linalg.matrix_norm(A, 2)).requires_grad_()
    b = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    w = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    return A, b, w


@pytest.mark.parametrize("root", BACKWARD)
def test_linear_map_in_closed_form(root):
    A, b, w = linear()
    x = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - A, b.mT).mT
    exact = torch.autograd.grad((x * w).sum(), (A, b))
    found = Implicit(root).attach(lambda z: z @ A.T + b, x.detach())
    gradient = torch.autograd.grad((found * w).sum(), (A, b))
    for ours, theirs in zip(gradient, exact, strict=True):
        # the residual of u is 1e-11 relative, the condition of I - A at most 1.8/0.2 = 9
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("root", BACKWARD)
def test_complex_map_in_closed_form(root):
    generator = torch.Generator().manual_seed(3)
    A = torch.randn(4, 4, generator=generator, dtype=torch.complex128)
    A = (0.8 * A / torch.linalg.matrix_norm(A, 2)).requires_grad_()
    b = torch.randn(2, 4, generator=generator, dtype=torch.complex128).requires_grad_()
    x = torch.linalg.solve(torch.eye(4, dtype=A.dtype) - A, b.mT).mT
    exact = torch.autograd.grad(x.abs().square().sum(), (A, b))
    found = Implicit(root).attach(lambda z: z @ A.T + b, x.detach())
    for ours, theirs in zip(torch.autograd.grad(found.abs().square().sum(), (A, b)), exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_value_is_the_solution_handed_in():
    A, b, _ = linear()
    x = torch.zeros(3, 4, dtype=torch.float64)
    assert torch.equal(Implicit().attach(lambda z: z @ A.T + b, x), x)


def test_no_gradient_where_none_is_wanted():
    x = torch.zeros(3, 4)
    assert not Implicit().attach(lambda z: 0.5 * z, x).requires_grad


def test_map_that_does_not_depend_on_x():
    b = torch.ones(2, 3, requires_grad=True)
    Implicit().attach(lambda z: 2 * b, 2 * b.detach()).sum().backward()
    assert torch.equal(b.grad, torch.full((2, 3), 2.0))


def test_report_and_evaluations():
    A, b, w = linear()
    calls, reports = [], []
    x = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - A, b.mT).mT.detach()

    def g(z):
        calls.append(1)
        return z @ A.T + b

    found = Implicit(Anderson(tol=1e-8)).attach(g, x, reports.append)
    assert len(calls) == 1
    (found * w).sum().backward()
    assert len(calls) == 2  # not one for each iteration backwards
    assert reports[0].residual.max() <= 1e-8
    assert reports[0].iterations > 2


def expanding():
    b = torch.ones(2, 1, requires_grad=True)
    return b, lambda z: 3 * z + b, -0.5 * torch.ones(2, 1)


def test_backward_failure_warns():
    _, g, x = expanding()
    found = Implicit(FixedPoint(max_iterations=5)).attach(g, x)
    words = r"backward solve of the equilibrium stopped at relative residual .* after 5 iterations, tolerance 1e-05 \(max_iter"
    with pytest.warns(ResidynWarning, match=words):
        found.sum().backward()


def test_backward_failure_raises():
    _, g, x = expanding()
    found = Implicit(FixedPoint(max_iterations=5)).attach(g, x, throw=True)
    with pytest.raises(SolveError, match=r"Newton\(\) solves this equation directly"):
        found.sum().backward()


def test_newton_needs_no_contraction():
    b, g, x = expanding()
    Implicit(Newton()).attach(g, x, throw=True).sum().backward()
    # x = 3x + b: x = -b/2
    torch.testing.assert_close(b.grad, torch.full((2, 1), -0.5))


def test_singular_backward_equation_is_said():
    b = torch.ones(2, 1, requires_grad=True)
    found = Implicit(Newton()).attach(lambda z: z + b, torch.zeros(2, 1))
    with pytest.warns(ResidynWarning, match="the Jacobian I - ∂g/∂x of sample 0 is singular"):
        found.sum().backward()


def test_newton_backwards_above_the_dense_limit():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(300, 300, generator=generator, dtype=torch.float64)
    A *= 1.5 / torch.linalg.matrix_norm(A, 2)
    b = torch.zeros(2, 300, dtype=torch.float64, requires_grad=True)
    Implicit(Newton(tol=1e-10)).attach(lambda z: z @ A.T + b, torch.zeros_like(b), throw=True).sum().backward()
    exact = torch.linalg.solve(torch.eye(300, dtype=torch.float64) - A.T, torch.ones(300, 1, dtype=torch.float64)).squeeze()
    # A's spectral radius is about 0.75, and I - A's condition below 100
    torch.testing.assert_close(b.grad[0], exact, rtol=0, atol=1e-7)
