import numpy as np
import pytest
import torch

from residyn.analysis import spectrum
from residyn.branch import Dense, Gradient, Spectral
from residyn.errors import InputError, SolveError

from .branches import Attention, dense_jacobian


def _largest(values, k):
    return values[np.argsort(-np.abs(values))][:k]


def _same(found, truth, atol):
    """Equal as sets, since ties in modulus have no order."""
    found, truth = np.sort_complex(np.round(found.numpy(), 12)), np.sort_complex(np.round(truth, 12))
    np.testing.assert_allclose(np.abs(found - truth), 0, atol=atol)


def _random(n, seed=0, dtype=torch.float64):
    return torch.randn(n, n, dtype=dtype, generator=torch.Generator().manual_seed(seed)) / n**0.5


def test_small_jacobian_is_written_out():
    torch.manual_seed(0)
    branch, x = Attention().eval(), torch.randn(1, 4, 6, dtype=torch.float64)
    found = spectrum(branch, x, k=24)
    # LAPACK on two Jacobians equal to 1e-15: eigenvalues of condition < 1e3 agree to 1e-11.
    np.testing.assert_allclose(
        np.sort(found.abs().numpy()), np.sort(np.abs(np.linalg.eigvals(dense_jacobian(branch, x)))), atol=1e-11
    )
    assert found.dtype == torch.complex128
    assert (found.abs().diff() <= 1e-12).all()


def test_large_jacobian_by_arnoldi():
    matrix = _random(150)
    matrix[:8, :8] += torch.diag(torch.arange(2.0, 10.0, dtype=torch.float64))
    found = spectrum(lambda x: torch.sin(x) @ matrix.T, torch.zeros(150, dtype=torch.float64), k=5)
    _same(found, _largest(np.linalg.eigvals(matrix.numpy()), 5), atol=1e-8)  # residual 1e-10, condition below 100


def test_symmetric_branch_has_real_eigenvalues():
    scale = torch.linspace(1, 50, 200, dtype=torch.float64)
    found = spectrum(Gradient(lambda x: 0.5 * (scale * x**2).sum()), torch.zeros(200, dtype=torch.float64), k=3)
    np.testing.assert_allclose(found.numpy(), -scale.flip(0)[:3].numpy(), rtol=1e-9)


def test_complex_linear_branch_has_the_complex_spectrum():
    for n in (5, 80):
        matrix = _random(n, dtype=torch.complex128)
        matrix[0, 0] += 4j
        x = torch.zeros(n, dtype=torch.complex128)
        truth = _largest(np.linalg.eigvals(matrix.numpy()), 1)
        for branch in (Dense(matrix), lambda v, a=matrix: v @ a.T):
            _same(spectrum(branch, x, k=1), truth, atol=1e-8)


def test_branch_that_is_only_real_linear_is_taken_in_real_and_imaginary_parts():
    # x̄ has the eigenvalues 1 (real parts) and -1 (imaginary parts); over the complex numbers it has none.
    found = spectrum(lambda x: 2 * x.conj().clone(), torch.zeros(1, dtype=torch.complex128))
    assert sorted(found.real.tolist()) == [-2.0, 2.0]


def test_listed_eigenvalues_are_taken_at_their_word():
    values = torch.tensor([1.0, -5.0, 2.0])
    found = spectrum(Spectral(values), torch.zeros(4, 3), k=2)
    assert found.tolist() == [-5.0, 2.0]
    assert found.dtype == torch.complex64


def test_skew_jacobian_is_exactly_imaginary():
    matrix = _random(10)
    assert (spectrum(lambda x: x @ (matrix - matrix.T), torch.zeros(10, dtype=torch.float64)).real == 0).all()


def test_zero_jacobian_of_any_size():
    assert spectrum(torch.zeros_like, torch.zeros(200), k=2).tolist() == [0.0, 0.0]


def test_fewer_than_asked_are_all_there_are():
    assert spectrum(lambda x: -2 * x, torch.zeros(3), k=6).tolist() == [-2.0] * 3


def test_refuses_no_eigenvalues():
    with pytest.raises(InputError, match="`k` must be a positive number of eigenvalues, got 0; 6 is the default"):
        spectrum(torch.sin, torch.zeros(2), k=0)


def test_says_so_if_arnoldi_does_not_converge(monkeypatch):
    from scipy.sparse import linalg

    def stuck(*args, **options):
        raise linalg.ArpackNoConvergence("no convergence", np.array([1.0]), np.ones((200, 1)))

    monkeypatch.setattr(linalg, "eigs", stuck)
    with pytest.raises(SolveError, match="Arnoldi found 1 of 2 eigenvalues in 1 products; ask for a smaller `k`"):
        spectrum(torch.sin, torch.zeros(200), k=2)
