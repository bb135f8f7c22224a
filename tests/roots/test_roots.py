"""Root finders against SciPy and closed forms; what stalls, is singular or has no root is said."""

import numpy as np
import pytest
import torch
from scipy.optimize import root as scipy_root

from residyn.errors import InputError
from residyn.roots import Anderson, Broyden, FixedPoint, Newton

FINDERS = [FixedPoint, Anderson, Broyden, Newton]


def tanh_layer(norm, batch=8, n=12, dtype=torch.float64, seed=0):
    """x = tanh(Wx + b), ‖W‖₂ = norm: the map, its W and b."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(n, n, generator=generator, dtype=torch.float64)
    W = (norm * W / torch.linalg.matrix_norm(W, 2)).to(dtype)
    b = torch.randn(batch, n, generator=generator, dtype=torch.float64).to(dtype)
    return lambda x: torch.tanh(x @ W.T + b), W, b


@pytest.mark.parametrize("finder", FINDERS)
def test_agrees_with_scipy(finder):
    g, W, b = tanh_layer(0.8)
    found = finder(tol=1e-10).solve(g, torch.zeros_like(b))
    assert found
    assert found.reason == ""
    for x, row in zip(found.x, b, strict=True):
        other = scipy_root(lambda z, row=row: np.tanh(W.numpy() @ z + row.numpy()) - z, np.zeros(len(row)), tol=1e-13)
        # ‖x - x*‖ ≤ ‖x - g(x)‖/(1 - 0.8) ≤ 5·1e-10·‖x‖, and ‖x‖ ≤ √12 < 4
        assert np.abs(x.numpy() - other.x).max() < 2e-9


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_linear_map_in_each_dtype(finder, dtype):
    generator = torch.Generator().manual_seed(1)
    A = torch.randn(5, 5, generator=generator, dtype=torch.complex128)
    A = 0.7 * A / torch.linalg.matrix_norm(A, 2)
    b = torch.randn(3, 5, generator=generator, dtype=torch.complex128)
    A, b = (A, b) if dtype.is_complex else (A.real, b.real)
    A, b = A.to(dtype), b.to(dtype)
    exact = torch.linalg.solve(torch.eye(5, dtype=dtype) - A, b.mT).mT
    found = finder(tol=1e-5).solve(lambda x: x @ A.T + b, torch.zeros_like(b))
    assert found
    assert found.x.dtype == dtype
    # error ≤ residual/(1 - 0.7) ≤ 1e-5·‖g(x)‖·3.4
    assert torch.linalg.vector_norm(found.x - exact) < 3.4e-5 * torch.linalg.vector_norm(exact) * 1.01


@pytest.mark.parametrize("finder", [Anderson, Broyden, Newton])
def test_a_map_that_is_not_holomorphic(finder):
    b = torch.tensor([[1 + 2j, -0.5j]], dtype=torch.complex128)
    # x = conj(x)/2 + b: real part 2·Re b, imaginary part Im b/1.5
    exact = torch.complex(2 * b.real, b.imag / 1.5)
    found = finder(tol=1e-12).solve(lambda x: 0.5 * x.conj() + b, torch.zeros_like(b))
    torch.testing.assert_close(found.x, exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize("finder", [Anderson(max_iterations=200), Broyden(), Newton()])
def test_expanding_layer(finder):
    """‖W‖₂ = 2.5, where the plain iteration fails on some samples; inputs of 0.7 leave fewer units saturated than those of 1."""
    _, W, b = tanh_layer(2.5, batch=32, n=128, dtype=torch.float32)

    def g(x):
        return torch.tanh(x @ W.T + 0.7 * b)

    assert not FixedPoint().solve(g, torch.zeros_like(b))
    found = finder.solve(g, torch.zeros_like(b))
    assert found, found.reason
    residual = (g(found.x) - found.x).norm(dim=1) / g(found.x).norm(dim=1)
    assert residual.max() <= 1.01e-5  # what was reported is of the x returned; 1e-8 in the denominator and rounding


@pytest.mark.parametrize("finder", FINDERS)
def test_residual_reported_is_that_of_x(finder):
    g, _, b = tanh_layer(0.9)
    found = finder(tol=1e-6).solve(g, torch.zeros_like(b))
    gx = g(found.x)
    expected = (gx - found.x).norm(dim=1) / (1e-8 + gx.norm(dim=1))
    torch.testing.assert_close(found.residual, expected, rtol=1e-6, atol=1e-14)
    assert found.worst == (int(expected.argmax()), float(found.residual.max()))


def test_every_sample_counts():
    """A sample that is slow keeps all waiting; the mean would have stopped long before."""
    rate = torch.tensor([0.1, 0.1, 0.1, 0.99], dtype=torch.float64)[:, None]
    found = FixedPoint(tol=1e-6, max_iterations=3000).solve(lambda x: rate * x + 1, torch.zeros(4, 1, dtype=torch.float64))
    assert found
    # 0.99^k/100 = 1e-6·(1 - …): k = ln(1e-4·1e-0)/ln(0.99) ≈ 916
    assert 900 < found.iterations < 930


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 3, 2, 2)])
@pytest.mark.parametrize("finder", FINDERS)
def test_shapes(finder, shape):
    found = finder(tol=1e-8).solve(torch.cos, torch.ones(shape, dtype=torch.float64))
    assert found.x.shape == shape
    # cos x = x at 0.7390851332151607 (Dottie number); error ≤ 1e-8·0.74·√12/(1 - …) < 1e-7
    torch.testing.assert_close(found.x, torch.full(shape, 0.7390851332151607, dtype=torch.float64), rtol=0, atol=1e-7)


def test_newton_converges_quadratically():
    # x = (x + 2/x)/2 is itself Newton for √2, so take x = x - (x² - 2): M = 2x
    found = Newton(tol=1e-14).solve(lambda x: x - (x * x - 2), torch.tensor([[1.0], [3.0]], dtype=torch.float64))
    assert found.iterations <= 7
    torch.testing.assert_close(found.x, torch.full((2, 1), 2**0.5, dtype=torch.float64), rtol=1e-14, atol=0)


def test_newton_krylov_above_the_dense_limit():
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(300, 300, generator=generator, dtype=torch.float64)
    W *= 1.5 / torch.linalg.matrix_norm(W, 2)
    b = torch.randn(2, 300, generator=generator, dtype=torch.float64)
    found = Newton(tol=1e-10).solve(lambda x: torch.tanh(x @ W.T + b), torch.zeros_like(b))
    assert found
    dense = Broyden(tol=1e-10).solve(lambda x: torch.tanh(x @ W.T + b), torch.zeros_like(b))
    torch.testing.assert_close(found.x, dense.x, rtol=0, atol=1e-7)


def test_newton_solves_coupled_samples_as_one_system():
    b = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    # x = -2·mean(x) + b: mean = 7/3 / 3
    exact = b - 2 * b.mean() / 3
    found = Newton(tol=1e-12).solve(lambda x: -2 * x.mean() + b, torch.zeros_like(b))
    assert found
    assert found.iterations == 2
    torch.testing.assert_close(found.x, exact, rtol=0, atol=1e-12)


def test_newton_backtracks():
    """arctan: full Newton steps diverge from |x| > 1.39."""
    found = Newton(tol=1e-12).solve(lambda x: x - torch.atan(x - 1), torch.tensor([[6.0], [1.2]], dtype=torch.float64))
    assert found
    torch.testing.assert_close(found.x, torch.ones(2, 1, dtype=torch.float64), rtol=0, atol=1e-11)


@pytest.mark.parametrize("finder", [Broyden, Newton])
def test_a_trial_that_is_nan_is_taken_back(finder):
    """x = x - log(x) has its root at 1; a full step from 4 leads to x < 0, where log is nan."""
    found = finder(tol=1e-10).solve(lambda x: x - 3 * torch.log(x), torch.tensor([[4.0]], dtype=torch.float64))
    assert found, found.reason
    assert float(found.x) == pytest.approx(1.0, abs=1e-9)


def test_singular_jacobian_is_said():
    found = Newton().solve(lambda x: x + 1, torch.zeros(2, 3, dtype=torch.float64))
    assert not found
    assert "the Jacobian I - ∂g/∂x of sample 0 is singular" in found.reason
    assert "the residual of sample 0 has not improved for 30 iterations" in found.reason


def test_singular_but_solvable():
    """I - ∂g/∂x of rank 1, the equation consistent: the shortest step solves it."""
    A = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    found = Newton().solve(lambda x: x @ A.T + torch.tensor([1.0, -1.0], dtype=torch.float64), torch.zeros(1, 2).double())
    assert found
    torch.testing.assert_close(found.x, torch.tensor([[0.5, -0.5]], dtype=torch.float64))


@pytest.mark.parametrize("finder", FINDERS)
def test_stall_is_noticed(finder):
    """No fixed point: x + 1 + x²; the smallest residual is 1, at x = 0."""
    found = finder(max_iterations=5000, patience=20).solve(
        lambda x: x + 1 + x * x, torch.full((2, 1), 0.5, dtype=torch.float64)
    )
    assert not found.converged.any()
    assert found.iterations < 1000
    assert "has not improved for 20 iterations" in found.reason


def test_stalled_sample_does_not_stop_the_others():
    rate = torch.tensor([[2.0], [0.97]], dtype=torch.float64)  # the first runs away from its fixed point
    found = FixedPoint(max_iterations=1000, patience=10).solve(lambda x: rate * x + 1, torch.zeros(2, 1, dtype=torch.float64))
    assert found.converged.tolist() == [False, True]


def test_max_iterations_is_said():
    found = FixedPoint(max_iterations=3).solve(torch.cos, torch.ones(1, 1))
    assert found.iterations == 3
    assert found.reason == "max_iterations=3 was reached"


@pytest.mark.parametrize("finder", FINDERS)
def test_nan_from_the_start(finder):
    found = finder().solve(lambda x: x * float("nan"), torch.ones(2, 2))
    assert not found
    assert "g returned nan or inf on sample 0 from the first guess on" in found.reason
    assert torch.equal(found.x, torch.ones(2, 2))


@pytest.mark.parametrize(("dtype", "far"), [(torch.float32, 4e18), (torch.float64, 3e153)])
@pytest.mark.parametrize("others", [0.5, float("nan")])
def test_a_norm_that_overflows_is_no_convergence(dtype, far, others):
    # x = 3x + 1 from far away: the squares of x - g(x) sum to 16·far², still a number, those of g(x) to 36·far², no more
    slope = torch.tensor([[3.0], [others]], dtype=dtype)
    found = FixedPoint(max_iterations=5).solve(lambda x: slope * x + 1, torch.full((2, 4), far, dtype=dtype))
    assert not found.converged[0]
    assert not found


@pytest.mark.parametrize("finder", FINDERS)
def test_exact_start_costs_one_call(finder):
    found = finder().solve(lambda x: 0.5 * x, torch.zeros(2, 3))
    assert found.iterations == 1
    assert found


@pytest.mark.parametrize("finder", FINDERS)
def test_memory_may_be_used_up(finder):
    options = {Anderson: {"history": 2}, Broyden: {"memory": 2}}.get(finder, {})
    g, _, b = tanh_layer(0.8)
    assert finder(tol=1e-9, max_iterations=200, **options).solve(g, torch.zeros_like(b))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Anderson(tol=0.0), r"`tol` must lie in \(0, 1\), got 0.0; 1e-5 is usual"),
        (lambda: Newton(tol=1.0), r"`tol` must lie in \(0, 1\), got 1.0"),
        (lambda: Broyden(max_iterations=0), "`max_iterations` must be a whole number of at least 1, got 0"),
        (lambda: FixedPoint(patience=0), "`patience` must be a whole number of at least 1, got 0"),
        (lambda: FixedPoint(damping=0.0), r"`damping` must lie in \(0, 1\], got 0.0"),
        (lambda: Anderson(history=1), "`history` must be a whole number of at least 2, got 1"),
        (lambda: Anderson(ridge=-1.0), r"`ridge` must lie in \[0, 1\), got -1.0"),
        (lambda: Broyden(memory=0), "`memory` must be a whole number of at least 1, got 0"),
        (lambda: Broyden(growth=0.5), "`growth` must be at least 1, got 0.5"),
        (lambda: Newton(linear_tol=0.0), r"`linear_tol` must lie in \(0, 1\), got 0.0"),
        (lambda: Anderson().solve(torch.cos, torch.tensor(1.0)), r"`x0` must have a sample axis, \(B, …\), and not be empty"),
        (lambda: Anderson().solve(torch.cos, torch.ones(2, 1, dtype=torch.int64)), "`x0` must be floating point or complex"),
        (lambda: Anderson().solve(lambda x: x[:, :1], torch.ones(2, 3)), r"`f` must return the shape of x, \(2, 3\)"),
        (lambda: Anderson().solve(lambda x: x * 1j, torch.ones(2, 3)), "`f` must return the kind of x, torch.float32"),
    ],
)
def test_input_is_checked(make, words):
    with pytest.raises(InputError, match=words):
        make()
