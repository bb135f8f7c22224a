"""Jacobians, dense solves and GMRES against torch.linalg; which samples depend on each other."""

import pytest
import torch

from residyn.roots.linear import DenseSolver, gmres, is_coupled, jacobian, rows_of

F64 = torch.float64


def graph(f, x):
    leaf = x.clone().requires_grad_()
    return f(leaf), leaf


@pytest.mark.parametrize("n", [3, 8, 9, 20])
def test_jacobian_of_independent_samples_is_that_of_each_alone(n):
    torch.manual_seed(0)
    w, x = torch.randn(n, n, dtype=F64), torch.randn(4, n, dtype=F64)
    image, leaf = graph(lambda v: torch.tanh(v @ w), x)
    found = jacobian(image, leaf, coupled=False)
    alone = torch.stack([torch.autograd.functional.jacobian(lambda v: torch.tanh(v @ w), row) for row in x])
    torch.testing.assert_close(found, alone, rtol=1e-14, atol=1e-14)  # the same products, a few roundings


def test_jacobian_of_coupled_samples_is_one_matrix():
    image, leaf = graph(lambda v: v * v.mean(0), torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=F64))
    found = jacobian(image, leaf, coupled=True)
    whole = torch.autograd.functional.jacobian(lambda v: v * v.mean(0), leaf.detach()).reshape(4, 4)
    torch.testing.assert_close(found, whole[None])


@pytest.mark.parametrize("n", [3, 12])
def test_jacobian_of_what_does_not_depend_on_x_is_zero(n):
    other = torch.ones(2, n, requires_grad=True)
    image, leaf = graph(lambda v: other * 2, torch.ones(2, n))
    assert not jacobian(image, leaf, coupled=False).any()
    assert not jacobian(torch.ones(2, n), leaf, coupled=False).any()


COUPLED = {
    "mean": (lambda v: v - v.mean(0), True),
    "each alone": (torch.sin, False),
    "constant": (torch.ones_like, False),
    "the last looks at the first": (lambda v: torch.cat([v[:-1], v[:1]]), True),
    "the first looks at the last": (lambda v: torch.cat([v[-1:], v[1:]]), True),
    "second looks at third": (lambda v: torch.stack([v[0], v[2], *v[2:]]), True),
}


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("batch", [5, 8])
def test_any_pair_of_samples_that_depend_is_found(name, batch):
    f, expected = COUPLED[name]
    image, leaf = graph(f, torch.randn(batch, 2, dtype=F64))
    assert is_coupled(image, leaf) == expected


def test_a_state_without_samples_is_not_coupled():
    assert not is_coupled(*graph(lambda v: v - v.mean(), torch.ones(3)))
    assert not is_coupled(*graph(lambda v: v - v.mean(), torch.ones(1, 3)))


@pytest.mark.parametrize("n", [4, 16, 17, 40])
def test_dense_solver_solves_each_system(n):
    torch.manual_seed(1)
    matrix = torch.eye(n, dtype=F64) * 5 + torch.randn(3, n, n, dtype=F64) / n
    r = torch.randn(3, n, dtype=F64)
    solver = DenseSolver(matrix, coupled=False)
    # condition number below 2: a few roundings
    torch.testing.assert_close(solver(r), torch.linalg.solve(matrix, r), rtol=1e-12, atol=1e-13)
    assert not solver.singular.any()


@pytest.mark.parametrize("n", [2, 20])
def test_dense_solver_says_which_system_is_singular(n):
    matrix = torch.eye(n, dtype=F64).repeat(2, 1, 1)
    matrix[1, 0, 0] = 0.0
    assert DenseSolver(matrix, coupled=False).singular.tolist() == [False, True]


def test_rows_of():
    assert rows_of(torch.zeros(3, 2, 2), False).shape == (3, 4)
    assert rows_of(torch.zeros(3, 2, 2), True).shape == (1, 12)
    assert rows_of(torch.zeros(5), False).shape == (1, 5)


@pytest.mark.parametrize("restart", [5, 30])
def test_gmres_reaches_its_tolerance_on_every_system(restart):
    torch.manual_seed(2)
    matrix = torch.eye(50, dtype=F64) + 0.3 * torch.randn(3, 50, 50, dtype=F64) / 50**0.5
    b = torch.randn(3, 50, dtype=F64) * torch.tensor([[1.0], [1e6], [1e-6]], dtype=F64)
    found = gmres(lambda v: (matrix @ v.unsqueeze(-1)).squeeze(-1), b, tol=1e-10, restart=restart)
    assert bool((found.residual <= 1e-10).all())
    exact = torch.linalg.solve(matrix, b)
    # error/|x| ≤ condition (below 10 for a perturbation of norm 0.6) × residual
    assert bool(((found.x - exact).norm(dim=1) <= 1e-9 * exact.norm(dim=1)).all())


def test_gmres_of_zero_is_zero_and_needs_no_more_than_one_product_a_cycle():
    found = gmres(lambda v: 2 * v, torch.zeros(2, 4), tol=1e-6)
    assert not found.x.any()
    assert torch.isfinite(found.x).all()


def test_gmres_stops_when_it_may_not_go_on():
    torch.manual_seed(3)
    matrix = torch.randn(1, 60, 60, dtype=F64)
    found = gmres(lambda v: (matrix @ v.unsqueeze(-1)).squeeze(-1), torch.ones(1, 60, dtype=F64), tol=1e-14, max_products=20)
    assert found.products <= 22
    assert float(found.residual) > 1e-14
