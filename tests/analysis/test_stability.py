import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residyn.analysis import max_stable_step
from residyn.analysis.region import Region, first_rise
from residyn.branch import Dense, Gradient, Linear, Spectral, autonomous
from residyn.errors import InputError
from residyn.schemes import (
    RK4,
    BackwardEuler,
    Bosh3,
    Dopri5,
    Dopri8,
    Euler,
    ExponentialMidpoint,
    Heun,
    ImplicitMidpoint,
    Kvaerno5,
    Midpoint,
    Rodas5P,
    Trapezoid,
    Tsit5,
)
from residyn.step import Residual

from .branches import BACKWARD_EULER, EXPONENTIAL, TRAPEZOID, Attention, Known, dense_jacobian

DOUBLE = torch.float64


def _oscillator(x):
    return torch.stack([x[..., 1], -x[..., 0]], -1)


def _step(branch, x, scheme=None, **options):
    return float(max_stable_step(branch, x, scheme, **options))


def _random(n, seed=0, dtype=DOUBLE):
    return torch.randn(n, n, dtype=dtype, generator=torch.Generator().manual_seed(seed)) / n**0.5


# Ends of the intervals of absolute stability on the negative real axis: roots of R(-s) = ±1, to the digits of the literature
# (Hairer & Wanner 1996, IV.2; Bosh3 2.5127 as any three-stage third order).
REAL = [(Euler(), 2.0), (Midpoint(), 2.0), (Heun(), 2.0), (Bosh3(), 2.51274533), (RK4(), 2.78529356), (Dopri5(), 3.30656789)]
# On the imaginary axis: 0 for orders 1 and 2 with as many stages; √3 and √8 for the Taylor polynomials of degree 3 and 4.
IMAGINARY = [(Euler(), 0.0), (Midpoint(), 0.0), (Heun(), 0.0), (Bosh3(), 3**0.5), (RK4(), 8**0.5), (Dopri8(), 0.0)]


@pytest.mark.parametrize("scheme, limit", REAL)
@pytest.mark.parametrize("criterion", ["spectrum", "norm"])
def test_real_interval(scheme, limit, criterion):
    rate = torch.tensor([0.5, 4.0, 0.0], dtype=DOUBLE)
    found = max_stable_step(lambda x: -rate * x, torch.ones(2, 3, dtype=DOUBLE), scheme, criterion=criterion)
    assert float(found) == pytest.approx(limit / 4, rel=1e-8)
    assert found.kind == "estimate"


@pytest.mark.parametrize("scheme, limit", IMAGINARY)
@pytest.mark.parametrize("criterion", ["spectrum", "norm"])
def test_imaginary_interval_is_exact_and_zero_is_zero(scheme, limit, criterion):
    for x in (torch.ones(2), torch.ones(3, 2, dtype=DOUBLE)):
        h = _step(_oscillator, x, scheme, criterion=criterion)
        assert h == pytest.approx(limit, rel=1e-12, abs=0)  # abs=0: a zero must be 0.0


@pytest.mark.parametrize("scheme", [Tsit5(), Dopri5(), Dopri8(), RK4()])
def test_ends_of_rays_are_where_the_stability_function_crosses_one(scheme):
    region = Region(scheme)
    for angle in np.linspace(0.5, 1.0, 23)[:-1] * math.pi:
        direction = complex(math.cos(angle), math.sin(angle)) if angle > math.pi / 2 else 1j
        end = region.reach(direction)
        # At s ≈ 5 the terms of |R|² grow to e¹⁰ before they cancel: 2e4·eps = 5e-12 of rounding.
        inside = np.linspace(0, end, 400)[1:-1] * direction
        assert (region(inside) <= 1 + 1e-11).all()
        if end > 0:
            assert region(np.array([end * direction]))[0] == pytest.approx(1.0, abs=1e-11)
            assert region(np.array([(1 + 1e-4) * end * direction])) > 1


def test_hamiltonian_propagated_by_rk4():
    hamiltonian = _random(20, dtype=torch.complex128)
    hamiltonian = hamiltonian + hamiltonian.mH
    edge = float(torch.linalg.eigvalsh(hamiltonian).abs().max())
    x = torch.ones(20, dtype=torch.complex128)
    for branch in (Dense(-1j * hamiltonian), lambda v: -1j * (v @ hamiltonian.T)):
        for criterion in ("spectrum", "norm"):
            assert _step(branch, x, RK4(), criterion=criterion) == pytest.approx(8**0.5 / edge, rel=1e-12)
            assert _step(branch, x, Euler(), criterion=criterion) == 0.0


def test_gradient_descent_on_a_blur():
    response = torch.fft.fft(torch.tensor([0.5, 0.25, 0, 0, 0, 0, 0, 0.25], dtype=DOUBLE))
    blur = Spectral(-(response.abs() ** 2), torch.fft.fft, lambda v: torch.fft.ifft(v).real)
    found = max_stable_step(blur, torch.zeros(8, dtype=DOUBLE), criterion="norm")
    assert float(found) == 2.0  # the largest |H|² is exactly 1
    assert found.iterations == 0


class _Path(Linear):
    """x → -L·x on a path of n nodes, which knows that it is normal and not what its eigenvalues are."""

    normal = True

    def matvec(self, x):
        step = x.diff(dim=-1)
        return torch.nn.functional.pad(step, (0, 1)) - torch.nn.functional.pad(step, (1, 0))

    def adjoint(self, y):
        return self.matvec(y)


@pytest.mark.parametrize("n", [20, 400])
def test_graph_filter(n):
    largest = 2 - 2 * math.cos(math.pi * (n - 1) / n)  # eigenvalues of a path: 2 - 2·cos(πk/n)
    found = max_stable_step(_Path(), torch.ones(n, dtype=DOUBLE), criterion="norm")
    # The Ritz residual is below 1e-10 of the eigenvalue; dense is exact.
    assert float(found) == pytest.approx(2 / largest, rel=1e-12 if n == 20 else 1e-9)
    assert found.kind == ("estimate" if n == 20 else "upper")
    assert _step(_Path(), torch.ones(n, dtype=DOUBLE), BACKWARD_EULER) == math.inf


def test_attention_needs_more_care_than_its_spectrum_tells():
    torch.manual_seed(3)
    attention, x = Attention().eval(), torch.randn(1, 3, 6, dtype=DOUBLE)

    def branch(z):  # a pull back to 0 that wins over the expansion of attention
        return attention(z) - 1.5 * z

    j = dense_jacobian(branch, x)
    spectrum, norm = _step(branch, x), _step(branch, x, criterion="norm")
    assert norm < 0.99 * spectrum
    values = np.linalg.eigvals(j)
    assert spectrum == pytest.approx(np.min(-2 * values.real / np.abs(values) ** 2), rel=1e-9)
    identity = np.eye(18)
    assert np.linalg.norm(identity + norm * j, 2) == pytest.approx(1.0, abs=1e-12)
    assert np.linalg.norm(identity + 1.001 * norm * j, 2) > 1
    # Plain attention expands: no step is non-expansive, but growth over a stack has a limit.
    assert _step(attention, x, criterion="norm") == 0.0
    grown = _step(attention, x, criterion="growth", growth=2.0, depth=12)
    assert np.linalg.norm(identity + grown * dense_jacobian(attention, x), 2) ** 12 == pytest.approx(2.0, rel=1e-9)
    assert grown >= math.log(2) / 12 / np.linalg.norm(dense_jacobian(attention, x), 2)  # the bound by the norm alone


@pytest.mark.parametrize("scheme", [BACKWARD_EULER, TRAPEZOID, EXPONENTIAL])
def test_a_stable_schemes_on_dissipative_branches_have_no_limit(scheme):
    matrix = _random(6) - 3 * torch.eye(6, dtype=DOUBLE)
    x = torch.zeros(6, dtype=DOUBLE)
    for options in ({}, {"criterion": "norm"}, {"criterion": "growth", "growth": 2.0, "depth": 3}):
        assert _step(lambda v: v @ matrix.T, x, scheme, **options) == math.inf
        assert _step(_oscillator, x[:2], scheme, **options) == math.inf
    assert _step(lambda v: 0.1 * v, x, scheme, criterion="norm") == 0.0
    assert _step(lambda v: 0.1 * v, x, scheme) == 0.0


@pytest.mark.parametrize(
    "scheme", [BackwardEuler(), ImplicitMidpoint(), Trapezoid(), Kvaerno5(), Rodas5P(), ExponentialMidpoint()]
)
def test_the_stiff_schemes_of_the_library_are_a_stable(scheme):
    matrix = _random(6) - 3 * torch.eye(6, dtype=DOUBLE)
    for criterion in ("spectrum", "norm"):
        assert _step(lambda v: v @ matrix.T, torch.zeros(6, dtype=DOUBLE), scheme, criterion=criterion) == math.inf
        assert _step(_oscillator, torch.zeros(2), scheme, criterion=criterion) == math.inf
        assert _step(lambda v: -v, torch.zeros(300), scheme, criterion=criterion) == math.inf


def test_growth_of_implicit_and_exponential_schemes():
    x = torch.zeros(2, dtype=DOUBLE)
    # x' = x/2: 1/(1 - h/2) = 2 and exp(h/2) = 2.
    assert _step(lambda v: 0.5 * v, x, BACKWARD_EULER, criterion="growth", growth=2.0) == pytest.approx(1.0, rel=1e-12)
    assert _step(lambda v: 0.5 * v, x, EXPONENTIAL, criterion="growth", growth=2.0) == pytest.approx(2 * math.log(2), rel=1e-9)
    # Stable, but far from normal: the flow itself grows before it decays.
    matrix = torch.tensor([[-1.0, 20.0], [0.0, -2.0]], dtype=DOUBLE)
    for scheme, power in ((BACKWARD_EULER, None), (EXPONENTIAL, torch.linalg.matrix_exp)):
        h = _step(lambda v: v @ matrix.T, x, scheme, criterion="growth", growth=2.0)
        eye = torch.eye(2, dtype=DOUBLE)
        reached = torch.linalg.inv(eye - h * matrix) if power is None else power(h * matrix)
        assert float(torch.linalg.matrix_norm(reached, 2)) == pytest.approx(2.0, rel=1e-9)
        assert _step(lambda v: v @ matrix.T, x, scheme) == math.inf


def test_eigenvalues_zero_impose_nothing():
    assert _step(lambda x: 0 * x, torch.zeros(3)) == math.inf
    assert _step(lambda x: 0 * x, torch.zeros(3), criterion="norm") == math.inf
    assert _step(lambda x: 0 * x, torch.zeros(300), criterion="norm") == math.inf
    shear = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=DOUBLE)
    assert _step(lambda x: x @ shear.T, torch.zeros(2, dtype=DOUBLE)) == math.inf
    assert _step(lambda x: x @ shear.T, torch.zeros(2, dtype=DOUBLE), criterion="norm") == 0.0


def test_marginal_and_not_normal_is_zero_and_not_the_root_of_eps():
    # λ_max((J+Jᵀ)/2) = 0 along e₁, and J·e₁ ≠ 0: ‖I + hJ‖ = 1 + O(h²).
    matrix = torch.tensor([[0.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [0.0, 0.5, -1.0]], dtype=DOUBLE)
    symmetric = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    shifted = matrix - symmetric[-1] * torch.eye(3, dtype=DOUBLE)
    assert _step(lambda x: x @ shifted.T, torch.zeros(3, dtype=DOUBLE), criterion="norm") == 0.0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 9999), n=st.integers(1, 6), shift=st.floats(0.5, 4.0), which=st.integers(0, 3))
def test_the_step_is_stable_and_a_longer_one_is_not(seed, n, shift, which):
    scheme = (Euler(), Heun(), RK4(), Dopri5())[which]
    matrix = _random(n, seed) - shift * torch.eye(n, dtype=DOUBLE)
    x = torch.zeros(n, dtype=DOUBLE)
    values = np.linalg.eigvals(matrix.numpy())
    spectral, norm = (_step(lambda v: v @ matrix.T, x, scheme, criterion=c) for c in ("spectrum", "norm"))
    if values.real.max() > 0:
        assert spectral == 0.0
    else:
        region = Region(scheme)
        # Eigenvalues of two Jacobians that agree to 1e-15, n ≤ 6: condition numbers stay below 1e4.
        assert region(spectral * values).max() == pytest.approx(1.0, abs=1e-9)
        for s in np.linspace(0.01, 1, 30):
            assert region(s * spectral * values).max() <= 1 + 1e-9
    assert norm <= spectral * (1 + 1e-9)


class _Transport(torch.nn.Module):
    """Upwind transport on n cells: not normal at the ends, eigenvalues -n all alike; with a little diffusion."""

    def forward(self, x):
        left = torch.nn.functional.pad(x[..., :-1], (1, 0))
        right = torch.nn.functional.pad(x[..., 1:], (0, 1))
        return (left - x) + 0.2 * (left - 2 * x + right)


@pytest.mark.parametrize("scheme", [Euler(), RK4()])
def test_large_and_matrix_free(scheme):
    n = 205
    branch, x = _Transport(), torch.zeros(n, dtype=DOUBLE)
    j = dense_jacobian(branch, x)
    found = max_stable_step(branch, x, scheme, criterion="norm")
    coefficients = scheme.rational().numerator

    def norm(h):
        value = coefficients[-1] * np.eye(n)
        for c in coefficients[-2::-1]:
            value = value @ (h * j) + c * np.eye(n)
        return np.linalg.norm(value, 2)

    # Golub–Kahan sees a norm from below, here to 1e-5; the step is found to 1e-4, and errs upwards.
    assert norm(0.99 * float(found)) <= 1 + 1e-9
    assert norm(1.01 * float(found)) > 1
    assert found.kind == "upper"
    assert found.iterations > 0
    if len(coefficients) == 2:
        assert norm(_step(branch, x, scheme, criterion="growth", growth=4.0, depth=2)) == pytest.approx(2.0, rel=2e-3)
    assert _step(branch, x, BACKWARD_EULER, criterion="norm") == math.inf
    assert _step(branch, x, EXPONENTIAL, criterion="norm") == math.inf


def test_large_spectrum_by_arnoldi_finds_what_binds_inside():
    # A slow mode that barely decays and turns fast binds for Euler: -2·Re λ/|λ|², though it is neither the longest ...
    blocks = [(-3.0 - 0.01 * i, 0.0) for i in range(290)] + [(-0.05, 2.0)]
    matrix = torch.zeros(300, 300, dtype=DOUBLE)
    row = 0
    for real, imag in blocks:
        width = 1 if imag == 0.0 else 2
        matrix[row : row + width, row : row + width] = torch.tensor([[real, imag], [-imag, real]], dtype=DOUBLE)[:width, :width]
        row += width
    matrix[:row, :row] += 0.05 * torch.triu(torch.ones(row, row, dtype=DOUBLE), 3) / row  # not normal
    values = np.linalg.eigvals(matrix.numpy())
    values = values[np.abs(values) > 1e-9]
    truth = np.min(-2 * values.real / np.abs(values) ** 2)
    found = max_stable_step(lambda x: x @ matrix.T, torch.zeros(300, dtype=DOUBLE))
    assert float(found) == pytest.approx(truth, rel=1e-3)
    assert found.kind == "upper"


def test_large_symmetric_and_skew_need_two_ends():
    scale = torch.linspace(0.1, 30, 500, dtype=DOUBLE)
    x = torch.zeros(500, dtype=DOUBLE)
    found = max_stable_step(Gradient(lambda v: 0.5 * (scale * v**2).sum()), x, criterion="norm")
    assert float(found) == pytest.approx(2 / 30, rel=1e-9)
    turn = torch.linspace(0.1, 5, 250, dtype=DOUBLE)

    def rotate(v):
        return torch.cat([turn * v[250:], -turn * v[:250]])

    assert _step(rotate, x, RK4()) == pytest.approx(8**0.5 / 5, rel=1e-9)
    assert _step(rotate, x, Euler()) == 0.0
    assert _step(rotate, x, TRAPEZOID, criterion="norm") == math.inf
    assert _step(lambda v: v * scale, x, criterion="norm") == 0.0


def test_large_expanding_branch():
    matrix = _random(300)
    x = torch.zeros(300, dtype=DOUBLE)
    assert _step(lambda v: v @ matrix.T, x, RK4(), criterion="norm") == 0.0
    found = max_stable_step(lambda v: v @ matrix.T, x, BACKWARD_EULER, criterion="growth", growth=2.0)
    assert found.kind == "lower"
    reached = torch.linalg.inv(torch.eye(300, dtype=DOUBLE) - float(found) * matrix)
    assert 1.2 < float(torch.linalg.matrix_norm(reached, 2)) <= 2.0 * (1 + 1e-3)  # log norm found to 1e-4 of the norm


def test_many_eigenvalues_agree_with_each_judged_alone():
    generator = torch.Generator().manual_seed(0)
    values = torch.complex(
        -torch.rand(1500, generator=generator, dtype=DOUBLE), torch.randn(1500, generator=generator).double()
    )
    found = _step(Spectral(values), torch.zeros(1500, dtype=torch.complex128), RK4())
    region = Region(RK4())
    each = min(region.reach(complex(v / abs(v))) / abs(v) for v in values.numpy())
    assert found == pytest.approx(each, rel=1e-9)


def test_first_rise():
    assert first_rise(np.array([0.0, -1.0, 0.0, 1.0])) == 1.0
    assert first_rise(np.array([0.0, 1.0, -1.0])) == 0.0
    assert first_rise(np.zeros(4)) == math.inf
    assert first_rise(np.array([-1.0, 0.0, -1.0])) == math.inf
    # -(s-1)²·(2-s)·(s+1): touches 0 at 1, rises at 2
    assert first_rise(-np.polynomial.polynomial.polyfromroots([1, 1, 2, -1]) * -1.0 * -1.0 * -1.0) == pytest.approx(
        2.0, rel=1e-6
    )


def test_autonomous_is_unwrapped_and_a_block_is_not():
    assert _step(autonomous(lambda x: -x), torch.zeros(2)) == 2.0
    with pytest.raises(InputError, match="`branch` must be F, not the block"):
        max_stable_step(Residual(torch.sin), torch.zeros(2))


class _Odd(Known):
    def rational(self):
        return None

    def stability(self, z):
        return 1 / (1 - z + z**2)


REFUSED = [
    ({"scheme": Euler}, "`scheme` must be a Scheme such as Euler"),
    ({"scheme": "rk4"}, r"`scheme` must be a Scheme such as Euler\(\), got 'rk4'"),
    ({"criterion": "l2"}, '`criterion` must be "spectrum", "norm" or "growth", got \'l2\'; "norm" is the safe one'),
    ({"criterion": "growth", "growth": 0.5}, "`growth` must be finite and at least 1, got 0.5; a step h → 0"),
    ({"growth": 2.0}, "`growth` must be 1 for criterion 'spectrum', got 2.0; set criterion=\"growth\""),
    ({"depth": 0}, "`depth` must be a whole number of blocks, at least 1, got 0; 1 judges one step"),
]


@pytest.mark.parametrize("options, words", REFUSED)
def test_refusals(options, words):
    with pytest.raises(InputError, match=words):
        max_stable_step(torch.sin, torch.zeros(2), **options)


def test_refuses_what_needs_the_matrix():
    unstable = Known((1.0, 0.9), (1.0, -0.1), order=1)  # θ-method with θ < 1/2: implicit, and not A-stable
    matrix = _random(300) - 3 * torch.eye(300, dtype=DOUBLE)
    with pytest.raises(InputError, match='`criterion` must be "spectrum" for Known.*300 components.*neither explicit'):
        max_stable_step(lambda v: v @ matrix.T, torch.zeros(300, dtype=DOUBLE), unstable, criterion="norm")
    odd = _Odd((1.0,), order=1)
    with pytest.raises(InputError, match='`criterion` must be "spectrum" for _Odd.*neither rational nor exp'):
        max_stable_step(lambda v: v @ matrix[:5, :5].T, torch.zeros(5, dtype=DOUBLE), odd, criterion="growth", growth=3.0)
    with pytest.raises(InputError, match="`branch` must have finite eigenvalues, got nan or inf"):
        max_stable_step(Spectral(torch.tensor([0.0, math.inf]), lambda v: v, lambda v: torch.zeros(2)), torch.zeros(2))
