"""Diffusion against dense linear algebra: products, gradients, implicit and exponential steps, and the stability limit."""

import networkx
import numpy as np
import pytest
import scipy.linalg
import torch

from residyn import Euler, Fixed, InputError, autonomous, max_stable_step, solve, spectrum
from residyn.graph import Diffusion, laplacian
from residyn.schemes import BackwardEuler, ExponentialMidpoint, ImplicitMidpoint, Kvaerno5, Trapezoid
from residyn.testing import check_step


def edges_of(graph):
    return torch.tensor(list(graph.edges)).T


@pytest.fixture(scope="module")
def ring():
    """A weighted small world, 60 nodes; L dense in double precision beside the branch."""
    graph = networkx.connected_watts_strogatz_graph(60, 4, 0.3, seed=2)
    weight = torch.rand(graph.number_of_edges(), generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    L = laplacian(edges_of(graph), 60, normalized=False, weight=weight)
    return Diffusion(L), L.to_dense()


def features(shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("shape", [(60,), (60, 1), (60, 5), (60, 40), (60, 3, 7)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex128])
def test_product_and_step_agree_with_the_dense_matrix(ring, shape, dtype):
    heat, L = ring
    x = features(shape, dtype)
    wide = x.to(torch.complex128 if dtype.is_complex else torch.float64).reshape(60, -1)
    truth = (L.to(wide.dtype) @ wide).reshape(shape)
    # a row adds at most a dozen rounded products of entries up to ‖L‖ < 20 with x < 4
    atol = 16 * torch.finfo(dtype).eps * 80
    torch.testing.assert_close(heat(x).to(wide.dtype), -truth, atol=atol, rtol=0)
    torch.testing.assert_close(heat.step(x, 0.1).to(wide.dtype), wide.reshape(shape) - 0.1 * truth, atol=atol, rtol=0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward mode loads it
def test_gradients_to_second_order_forward_mode_and_batches():
    heat = Diffusion(laplacian(edges_of(networkx.lollipop_graph(5, 4)), 9, dtype=torch.float64))
    x = features((9, 2)).requires_grad_()
    check = {"check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(heat, x, **check)
    assert torch.autograd.gradcheck(lambda z: heat.step(z, 0.3), x, **check)
    assert torch.autograd.gradcheck(lambda z: heat.resolvent(z, 0.7), x, check_forward_ad=True)
    assert torch.autograd.gradcheck(lambda z: heat.exponential(z, 0.7), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda z: (heat(z) ** 2).sum(), x)
    stack = features((4, 9, 2))
    torch.testing.assert_close(torch.func.vmap(heat)(stack)[2], heat(stack[2]))
    torch.testing.assert_close(torch.func.vmap(lambda z: heat.resolvent(z, 0.7))(stack)[2], heat.resolvent(stack[2], 0.7))


def test_learned_step_size_gets_a_gradient(ring):
    heat, L = ring
    x, eta = features((60, 3)), torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    heat.step(x, eta).square().sum().backward()
    truth = -2 * ((x - 0.2 * L @ x) * (L @ x)).sum()
    torch.testing.assert_close(eta.grad, truth)


def test_keeps_the_laws_of_a_linear_branch(ring):
    assert len(check_step(ring[0], features((60, 2)))) > 8


@pytest.mark.parametrize("h", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("width", [1, 20])
def test_implicit_and_exponential_steps_are_functions_of_the_matrix(ring, h, width):
    heat, L = ring
    x = features((60, width))
    # conjugate gradients stop at 1e-12 of ‖r‖, and ‖(I + hL)⁻¹‖ ≤ 1; Chebyshev's rest is below rounding
    truth = torch.linalg.solve(torch.eye(60, dtype=torch.float64) + h * L, x)
    torch.testing.assert_close(heat.resolvent(x, h), truth, atol=1e-11, rtol=0)
    flow = torch.from_numpy(scipy.linalg.expm(-h * L.numpy())) @ x
    torch.testing.assert_close(heat.exponential(x, h), flow, atol=1e-12, rtol=0)


def test_exponential_of_nothing_and_backwards(ring):
    heat, L = ring
    x = features((60, 2))
    torch.testing.assert_close(heat.exponential(x, 0.0), x)
    back = torch.from_numpy(scipy.linalg.expm(0.1 * L.numpy())) @ x
    torch.testing.assert_close(heat.exponential(x, -0.1), back, rtol=1e-12, atol=1e-11)
    empty = Diffusion(torch.zeros(3, 3, dtype=torch.float64))
    torch.testing.assert_close(
        empty.exponential(torch.ones(3, 1, dtype=torch.float64), 2.0), torch.ones(3, 1, dtype=torch.float64)
    )


@pytest.mark.parametrize(
    "scheme", [Euler(), BackwardEuler(), ImplicitMidpoint(), Trapezoid(), ExponentialMidpoint(), Kvaerno5()]
)
def test_schemes_are_their_stability_function_of_the_matrix(ring, scheme):
    heat, L = ring
    x, h, n = features((60, 20)), 0.05, 3
    solution = solve(autonomous(heat), x, [0.0, n * h], scheme=scheme, control=Fixed(steps=n))
    values, vectors = torch.linalg.eigh(L)
    truth = vectors @ (scheme.stability(-h * values)[:, None] ** n * (vectors.T @ x))
    # Kvaerno5's slopes (z - base)/(hγ) carry the solver's 1e-12 up by 1/h
    torch.testing.assert_close(solution.x[-1], truth, atol=1e-9, rtol=0)


def test_gradient_through_implicit_steps_is_that_of_the_matrix(ring):
    heat, L = ring
    x = features((60, 3)).requires_grad_()
    w = features((60, 3))
    solution = solve(autonomous(heat), x, [0.0, 1.0], scheme=BackwardEuler(), control=Fixed(steps=2))
    (grad,) = torch.autograd.grad((w * solution.x[-1]).sum(), x)
    M = torch.linalg.inv(torch.eye(60, dtype=torch.float64) + 0.5 * L)
    torch.testing.assert_close(grad, M @ M @ w, atol=1e-10, rtol=0)


def test_implicit_steps_with_an_offset_and_in_time_reversed(ring):
    heat, L = ring
    driven = Diffusion(L)
    driven.offset = torch.ones(60, 2, dtype=torch.float64)
    x = features((60, 2))
    solution = solve(autonomous(driven), x, [0.0, 0.3], scheme=BackwardEuler(), control=Fixed(steps=1))
    truth = torch.linalg.solve(torch.eye(60, dtype=torch.float64) + 0.3 * L, x + 0.3)
    torch.testing.assert_close(solution.x[-1], truth, atol=1e-11, rtol=0)
    dense = solve(autonomous(heat), x, [0.0, 1.0], scheme=ExponentialMidpoint(), control=Fixed(steps=1)).interpolate(0.25)
    torch.testing.assert_close(dense, torch.from_numpy(scipy.linalg.expm(-0.25 * L.numpy())) @ x, atol=1e-11, rtol=0)


@pytest.mark.parametrize("n", [60, 900])
def test_largest_step_is_two_over_the_largest_eigenvalue(n):
    graph = networkx.connected_watts_strogatz_graph(n, 4, 0.3, seed=2)
    L = laplacian(edges_of(graph), n, dtype=torch.float64)
    heat = Diffusion(L)
    top = float(torch.linalg.eigvalsh(L.to_dense())[-1])
    for x in (features((n,)), features((n, 3))):
        # Lanczos stops at a residual of 1e-8, and the error of an eigenvalue is below it
        assert float(max_stable_step(heat, x)) == pytest.approx(2 / top, rel=1e-8)
        assert float(max_stable_step(heat, x, criterion="norm")) == pytest.approx(2 / top, rel=1e-8)
        assert max_stable_step(heat, x, BackwardEuler()).value == np.inf
    assert heat.largest == pytest.approx(top, rel=1e-8)
    assert float(heat.norm_bound()) >= top
    assert float(spectrum(heat, features((n,)), k=1).real[0]) == pytest.approx(-top, rel=1e-6)


def test_a_step_past_the_limit_grows_and_one_below_does_not():
    L = laplacian(edges_of(networkx.path_graph(300)), 300, normalized=False, dtype=torch.float64)
    heat = Diffusion(L)
    h = float(max_stable_step(heat, torch.zeros(300, dtype=torch.float64)))
    assert h == pytest.approx(2 / (2 - 2 * np.cos(np.pi * 299 / 300)), rel=1e-7)  # the path's spectrum in closed form
    x = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(150)
    below, above = x, x
    for _ in range(2000):
        below, above = heat.step(below, 0.99 * h), heat.step(above, 1.01 * h)
    assert float(below.norm()) < float(x.norm()) < 1e3 < float(above.norm())


def test_ends_of_a_crowded_spectrum_come_without_convergence():
    n = 1500  # neighbours in the spectrum of this path are 1e-6 apart at its ends
    L = laplacian(edges_of(networkx.path_graph(n)), n, normalized=False, dtype=torch.float64)
    assert Diffusion(L).largest == pytest.approx(4.0, rel=1e-3)
    assert Diffusion(L).extent()[1] == 0.0


def test_negative_eigenvalues_are_seen():
    n = 400
    L = laplacian(edges_of(networkx.cycle_graph(n)), n, normalized=False, dtype=torch.float64).to_dense()
    heat = Diffusion(L - 0.5 * torch.eye(n, dtype=torch.float64))
    assert heat.extent()[1] == pytest.approx(0.5, rel=1e-3)
    assert float(max_stable_step(heat, features((n,)))) == 0.0


def test_forms_of_the_matrix_give_the_same_branch(ring):
    _, L = ring
    x = features((60, 4))
    for form in (L, L.to_sparse_coo(), laplacian_csr(L)):
        torch.testing.assert_close(Diffusion(form)(x), -L @ x)


def laplacian_csr(L):
    coo = L.to_sparse_coo().coalesce()
    return torch.sparse_csr_tensor(
        torch.cat([torch.zeros(1, dtype=torch.int64), coo.indices()[0].bincount().cumsum(0)]),
        coo.indices()[1],
        coo.values(),
        L.shape,
        check_invariants=False,
    )


def test_moves_between_precisions_and_is_not_saved(ring):
    heat, L = ring
    assert Diffusion(L).state_dict() == {}
    single = Diffusion(L).to(torch.float32)
    assert single.matrix.values.dtype == torch.float32
    assert single(features((60, 20), torch.float32)).dtype == torch.float32
    assert "n=60" in repr(heat)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Diffusion(torch.zeros(2, 3)), r"`L` must be a square matrix, \(n, n\), got \(2, 3\)"),
        (lambda: Diffusion("graph"), "got str"),
        (lambda: Diffusion(torch.zeros(2, 2, dtype=torch.int64)), "must be real and floating point"),
        (lambda: Diffusion(torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]])), "`L` must be finite"),
        (
            lambda: Diffusion(torch.tensor([[1.0, -1.0], [0.0, 0.0]])),
            "`L` must be symmetric, got entries that differ .* by up to 1",
        ),
        (lambda: Diffusion(torch.eye(3))(torch.zeros(2)), r"`x` must have a row for each of 3 nodes, got \(2,\)"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
