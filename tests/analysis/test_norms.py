import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from residyn.analysis import log_norm, spectral_norm
from residyn.analysis.jacobian import Jacobian
from residyn.analysis.lanczos import golub_kahan, lanczos
from residyn.branch import Dense, Gradient, Linear, Spectral, autonomous
from residyn.errors import InputError

from .branches import Attention, conv_blocks, dense_jacobian, true_norm


def test_norm_of_convolutional_blocks_to_one_percent_in_few_products():
    for name, (block, x, matrix) in conv_blocks().items():
        found, truth = spectral_norm(block, x), float(np.linalg.norm(matrix, 2))
        # The estimated error is r²/gap with the gap from Ritz values, which may be optimistic; 1 % asked, 1 % held here.
        assert 0.99 * truth <= float(found) <= truth * (1 + 1e-5), name  # 1e-5: rounding of a float32 block
        assert (found.kind, found.converged) == ("lower", True), name
        assert found.iterations <= 20, name  # with JᵀJ that is 10; a third of it is spent to know that it may stop


def test_fewer_products_than_the_power_method_to_the_same_accuracy():
    spent = []
    for block, x, matrix in conv_blocks().values():
        target, j = 0.99 * float(np.linalg.norm(matrix, 2)), torch.from_numpy(matrix)
        start = Jacobian(block, x).random().double().unsqueeze(0)
        counted = []

        def product(v, a, count=counted):
            count.append(1)
            return v @ a

        golub_kahan(lambda v: product(v, j.T), lambda w: product(w, j), start, rtol=1e-9, enough=target)  # noqa: B023
        v, power = start, 0
        while True:
            image = v @ (j if power % 2 else j.T)
            power += 1
            if float(image.norm()) >= target:
                break
            v = image / image.norm()
        spent.append((len(counted), power))
    assert all(ours <= theirs for ours, theirs in spent)
    assert sum(ours for ours, _ in spent) <= 0.75 * sum(theirs for _, theirs in spent)


def test_batch_is_block_diagonal_and_per_sample_norms_come_in_one_run():
    torch.manual_seed(1)
    branch = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5)).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    each = [true_norm(branch, sample) for sample in x]
    norms = spectral_norm(branch, x, rtol=1e-8, per_sample=True)
    assert norms.shape == (4,)
    np.testing.assert_allclose(norms.numpy(), each, rtol=1e-8)
    assert math.isclose(float(spectral_norm(branch, x, rtol=1e-8)), max(each), rel_tol=1e-8)


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 12), seed=st.integers(0, 10_000), rank=st.integers(0, 12))
def test_any_matrix_any_rank(n, seed, rank):
    generator = torch.Generator().manual_seed(seed)
    k = min(rank, n)
    left, right = (torch.randn(n, k, generator=generator, dtype=torch.float64) for _ in range(2))
    matrix = left @ right.T
    x = torch.zeros(n, dtype=torch.float64)
    # To rtol 1e-12 the process runs to the end; n·eps·‖A‖ of rounding is below 1e-12 for n ≤ 12.
    found = float(spectral_norm(lambda v: v @ matrix.T, x, rtol=1e-12))
    assert found == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-11, abs=1e-14)
    truth = float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])
    scale = float(torch.linalg.matrix_norm(matrix, 2))
    assert float(log_norm(lambda v: v @ matrix.T, x, rtol=1e-10)) == pytest.approx(truth, abs=1e-9 * scale + 1e-14)


def test_restart_keeps_what_was_found():
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(60, 60, generator=generator, dtype=torch.float64)
    start = torch.nn.functional.normalize(torch.ones(1, 60, dtype=torch.float64))
    found = golub_kahan(lambda v: v @ matrix.T, lambda v: v @ matrix, start, rtol=1e-6, keep=6, limit=2000)
    assert float(found.value) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-5)
    assert found.converged
    symmetric = matrix + matrix.T
    top, scale = lanczos(lambda v: v @ symmetric, start, tolerance=1e-6, keep=8, limit=2000)
    assert float(top.value) == pytest.approx(float(torch.linalg.eigvalsh(symmetric)[-1]), rel=1e-5)
    assert scale <= float(torch.linalg.matrix_norm(symmetric, 2)) * (1 + 1e-12)
    assert not golub_kahan(lambda v: v @ matrix.T, lambda v: v @ matrix, start, rtol=1e-6, limit=3).converged
    vector = found.vector
    assert float((vector @ matrix.T).norm()) == pytest.approx(float(found.value), rel=1e-6)


def test_complex_states():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 6, dtype=torch.complex128, generator=generator)
    x = torch.randn(6, dtype=torch.complex128, generator=generator)
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    for branch in (Dense(matrix), lambda v: v @ matrix.T):
        assert float(spectral_norm(branch, x, rtol=1e-10)) == pytest.approx(truth, rel=1e-9)
    mixed = lambda v: v @ matrix.T + 0.5 * v.conj() * v  # noqa: E731 - not holomorphic: real and imaginary parts count
    assert float(spectral_norm(mixed, x, rtol=1e-10)) == pytest.approx(true_norm(mixed, x), rel=1e-9)
    hermitian = float(torch.linalg.eigvalsh((matrix + matrix.mH) / 2)[-1])
    assert float(log_norm(lambda v: v @ matrix.T, x, rtol=1e-10)) == pytest.approx(hermitian, rel=1e-9)


def test_branches_that_know_themselves_are_asked():
    values = torch.tensor([-3.0, 1.0, 0.5])
    assert spectral_norm(Spectral(values), torch.zeros(2, 3)).iterations == 0
    assert float(spectral_norm(Spectral(values), torch.zeros(2, 3))) == 3.0
    assert float(log_norm(autonomous(Spectral(values)), torch.zeros(3))) == 1.0
    assert float(log_norm(Spectral(1j * values), torch.zeros(3, dtype=torch.complex64))) == 0.0


def test_gradient_needs_one_kind_of_product():
    calls = []

    def potential(x):
        calls.append(1)
        return (0.5 * torch.tensor([1.0, 4.0]) * x**2).sum(-1)

    x = torch.zeros(1, 2)
    assert float(spectral_norm(Gradient(potential), x, rtol=1e-6)) == pytest.approx(4.0, rel=1e-5)
    assert len(calls) == 2  # once to look at the value, once to record it; no trace
    assert float(log_norm(Gradient(potential), x)) == pytest.approx(-1.0, rel=1e-5)


def test_log_norm_of_a_skew_branch_is_exactly_zero_and_of_attention_positive():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(9, 9, generator=generator)
    assert float(log_norm(lambda v: v @ (a - a.T), torch.zeros(9))) == 0.0
    torch.manual_seed(0)
    branch, x = Attention().eval(), torch.randn(2, 4, 6, dtype=torch.float64)
    j = dense_jacobian(branch, x)
    truth = np.linalg.eigvalsh((j + j.T) / 2)[-1]
    assert float(log_norm(branch, x, rtol=1e-8)) == pytest.approx(truth, rel=1e-7)
    assert float(spectral_norm(branch, x, rtol=1e-8)) == pytest.approx(np.linalg.norm(j, 2), rel=1e-7)


def test_half_precision_keeps_its_vectors_in_single():
    layer = nn.Linear(6, 6).to(torch.bfloat16).requires_grad_(False)
    x = torch.zeros(2, 6, dtype=torch.bfloat16)
    truth = float(torch.linalg.matrix_norm(layer.weight.float(), 2))
    # Products in bfloat16 round at 2⁻⁸ = 0.4 %.
    assert float(spectral_norm(layer, x)) == pytest.approx(truth, rel=0.03)


class _Offset(Linear):
    """A linear branch that knows nothing but its products."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def matvec(self, x):
        return x @ self.matrix.T

    def adjoint(self, y):
        return y @ self.matrix


def test_linear_branch_is_multiplied_not_differentiated():
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    found = spectral_norm(_Offset(matrix), torch.zeros(5), rtol=1e-5)
    assert float(found) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-4)


@pytest.mark.parametrize("rtol", [0.0, 1.0, -1.0])
def test_refuses_a_tolerance_out_of_range(rtol):
    with pytest.raises(InputError, match=r"`rtol` must be a relative error in \(0, 1\).*1e-2 is the default"):
        spectral_norm(torch.sin, torch.zeros(2), rtol=rtol)
    with pytest.raises(InputError, match=r"`rtol` must be a relative error in \(0, 1\).*1e-3 is the default"):
        log_norm(torch.sin, torch.zeros(2), rtol=rtol)


def test_refuses_per_sample_without_a_batch():
    with pytest.raises(InputError, match=r"`x` must be a batch \(B, …\).*got shape \(3,\); add an axis"):
        spectral_norm(torch.sin, torch.zeros(3), per_sample=True)


@pytest.mark.parametrize("scale", [1e25, 1e35])
def test_norms_whose_squares_overflow_are_right(scale):
    # float32 ends at 3e38: the entries of J·v are representable, their squares are not
    J = scale * torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    found = float(spectral_norm(lambda x: x @ J.T, torch.zeros(2)))
    assert found == pytest.approx(float(torch.linalg.matrix_norm(J.double(), 2)), rel=1e-2)


def test_log_norm_of_a_small_stiff_branch_is_right_relative_to_itself():
    """Eigenvalues from -1e-3 to -1e5: Lanczos at 1e-3 of the norm would be off by a hundred."""
    d = -(10.0 ** torch.linspace(-3, 5, 6, dtype=torch.float64))
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    A = q @ torch.diag(d) @ q.T
    # A has rounded entries of 1e5·1e-16, which move an eigenvalue by no more than 6 of these
    assert float(log_norm(lambda x: x * d, torch.ones(6, dtype=torch.float64))) == pytest.approx(-1e-3, rel=1e-12)
    assert float(log_norm(lambda x: A @ x, torch.ones(6, dtype=torch.float64))) == pytest.approx(-1e-3, abs=1e-9)


@pytest.mark.parametrize("n", [3, 20, 40])
def test_log_norm_of_a_complex_branch_is_that_of_the_hermitian_part(n):
    generator = torch.Generator().manual_seed(n)
    A = torch.randn(n, n, dtype=torch.complex128, generator=generator)
    truth = float(torch.linalg.eigvalsh((A + A.mH) / 2)[-1])
    found = log_norm(lambda x: A @ x, torch.ones(n, dtype=torch.complex128))
    assert float(found) == pytest.approx(truth, rel=1e-10 if n < 33 else 2e-3)
