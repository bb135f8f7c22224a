"""What branches say of themselves is true: adjoints, eigenvalues, bounds, and closed forms equal to the loop."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import residyn as rd
from residyn.branch import Autonomous, Dense, Generator, Gradient, Spectral, apply_matrix
from residyn.schemes import Bosh3

F64, C128 = torch.float64, torch.complex128
SCHEMES = [rd.Euler(), rd.Midpoint(), rd.Heun(), Bosh3(), rd.RK4(), rd.Tsit5(), rd.Dopri5(), rd.Dopri8()]


def inner(a, b):
    return (a.conj() * b).sum()


@given(st.integers(1, 5), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_the_adjoint_of_a_matrix(n, is_complex, seed):
    generator = torch.Generator().manual_seed(seed)
    dtype = C128 if is_complex else F64
    a, x, y = (torch.randn(*s, dtype=dtype, generator=generator) for s in ((n, n), (2, n), (2, n)))
    branch = Dense(a)
    torch.testing.assert_close(inner(branch.matvec(x), y), inner(x, branch.adjoint(y)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(branch(x), x @ a.mT)


def test_an_offset_is_added_and_moves_with_the_module():
    branch = Dense(torch.eye(2, dtype=F64), torch.tensor([1.0, 2.0], dtype=F64))
    assert branch(torch.zeros(2, dtype=F64)).tolist() == [1.0, 2.0]
    assert branch.float()(torch.zeros(2)).dtype == torch.float32


ROTATION = torch.tensor([[0.0, 2.0], [-2.0, 0.0]], dtype=F64)


@pytest.mark.parametrize(
    ("matrix", "normal", "eigenvalues"),
    [
        (torch.diag(torch.tensor([1.0, -2.0], dtype=F64)), True, [1, -2]),
        (ROTATION, True, [2j, -2j]),
        (1j * torch.diag(torch.tensor([1.0, -2.0], dtype=F64)), True, [1j, -2j]),
        (torch.tensor([[1.0, 5.0], [0.0, 2.0]], dtype=F64), False, [1, 2]),
        (torch.zeros(2, 2, dtype=F64), True, [0, 0]),
    ],
)
def test_matrices_know_their_eigenvalues(matrix, normal, eigenvalues):
    branch = Dense(matrix)
    assert branch.normal is normal
    found = sorted(branch.eigenvalues().to(C128).tolist(), key=lambda z: (z.real, z.imag))
    assert found == pytest.approx(sorted(map(complex, eigenvalues), key=lambda z: (z.real, z.imag)), abs=1e-14)


def test_skew_matrices_have_exactly_imaginary_eigenvalues():
    assert not Dense(ROTATION).eigenvalues().real.any()


def test_a_matrix_is_square():
    with pytest.raises(rd.InputError, match=r"`matrix` must be square, \(n, n\), got \(2, 3\); a branch keeps the shape of x"):
        Dense(torch.ones(2, 3))


# Spectral


def fourier(values, offset=None):
    def analyse(x):
        return torch.fft.fft(x, norm="ortho")

    def synthesise(c):
        return torch.fft.ifft(c, norm="ortho")

    return Spectral(values, analyse, synthesise, offset=offset)


VALUES = {
    "decay": torch.tensor([-1.9, -1.0, -1e-9, 0.0, -0.3], dtype=F64),
    "rotation": 1j * torch.tensor([0.9, -0.5, 1e-7, 0.0, 0.2], dtype=F64),
    "mixed": torch.tensor([-0.5 + 0.3j, 0.01j, -1e-12, 0.0, 1e-3], dtype=C128),
}


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
@pytest.mark.parametrize("steps", [1, 3, 1000])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("offset", [False, True])
def test_the_closed_form_equals_the_loop(scheme, steps, values, offset):
    """To 1e-12 of the size of the state, at eigenvalue 0 (where the offset grows linearly) as elsewhere."""
    generator = torch.Generator().manual_seed(0)
    x0, b = (torch.randn(2, 5, dtype=C128, generator=generator) for _ in range(2))
    branch = fourier(values.to(C128), b[0] if offset else None)
    end = float(steps) if scheme.order < 3 or steps == 1 else 0.9 * steps  # h = 0.9 … 1: inside the stability region
    closed = rd.solve(rd.autonomous(branch), x0, [0.0, end], scheme=scheme, control=rd.Fixed(steps=steps))
    loop = rd.solve(lambda t, x: branch(x), x0, [0.0, end], scheme=scheme, control=rd.Fixed(steps=steps))
    assert closed.stats.evaluations == 0
    assert loop.stats.evaluations > 0
    size = float(loop.x.abs().max())
    torch.testing.assert_close(closed.x, loop.x, rtol=0, atol=1e-12 * max(size, 1.0))


@pytest.mark.parametrize("backwards", [False, True])
def test_the_closed_form_reports_and_runs_backwards(backwards):
    branch = Spectral(torch.tensor([-1.0, 2.0, 0.0], dtype=F64), offset=torch.tensor([1.0, 0.5, -1.0], dtype=F64))
    t = [0.0, -0.5, -0.7] if backwards else [0.0, 0.2, 1.0]
    x0 = torch.ones(3, dtype=F64)
    closed = rd.solve(rd.autonomous(branch), x0, t, scheme=rd.RK4(), control=rd.Fixed(steps=4)).x
    loop = rd.solve(lambda t, x: branch(x), x0, t, scheme=rd.RK4(), control=rd.Fixed(steps=4)).x
    torch.testing.assert_close(closed, loop, rtol=1e-13, atol=1e-14)


def test_the_closed_form_has_gradients():
    """To x0, to the eigenvalues and to the offset."""
    values = torch.tensor([-1.0, -0.3], dtype=F64, requires_grad=True)
    offset = torch.tensor([0.5, 1.0], dtype=F64, requires_grad=True)

    def run(values, offset, x0):
        branch = Spectral(values, offset=offset)
        return rd.solve(rd.autonomous(branch), x0, [0.0, 0.5, 1.0], scheme=rd.RK4(), control=rd.Fixed(steps=3)).x

    assert torch.autograd.gradcheck(run, (values, offset, torch.ones(2, dtype=F64, requires_grad=True)))


def test_gradients_are_finite_at_eigenvalue_zero():
    values = torch.tensor([0.0, -1.0], dtype=F64, requires_grad=True)
    branch = Spectral(values, offset=torch.ones(2, dtype=F64))
    x = rd.solve(rd.autonomous(branch), torch.ones(2, dtype=F64), [0.0, 1.0], scheme=rd.RK4(), control=rd.Fixed(steps=50)).x
    (found,) = torch.autograd.grad(x[-1].sum(), values)
    # d/dλ of e^λ + (e^λ - 1)/λ at 0: 1 + 1/2; at -1: e^λ + (λe^λ - e^λ + 1)/λ²
    torch.testing.assert_close(found, torch.tensor([1.5, math.exp(-1) + 1 - 2 * math.exp(-1)], dtype=F64), rtol=1e-6, atol=0)


def test_any_function_of_a_spectral_branch():
    values = torch.tensor([-1.0, -2.0, 0.5, 0.0], dtype=F64).to(C128)
    branch = fourier(values)
    x = torch.randn(4, dtype=C128)
    matrix = torch.stack([branch.matvec(e) for e in torch.eye(4, dtype=C128)], 1)
    torch.testing.assert_close(branch.function(torch.exp, x), torch.linalg.matrix_exp(matrix) @ x, rtol=1e-12, atol=1e-13)
    y = torch.randn(4, dtype=C128)
    torch.testing.assert_close(inner(branch.matvec(x), y), inner(x, branch.adjoint(y)), rtol=1e-12, atol=1e-13)
    assert torch.equal(branch.eigenvalues(), values)


def test_the_norm_bound_is_certified():
    values = torch.tensor([3.0 + 4j, -1.0], dtype=C128)
    bound = Spectral(values).norm_bound()
    assert bound.kind == "certified"
    assert 5.0 <= float(bound) <= 5.0 * (1 + 1e-14)


def test_a_basis_has_two_directions():
    with pytest.raises(rd.InputError, match="`analyse` and `synthesise` must be given together, got one; each inverts"):
        Spectral(torch.ones(2), analyse=torch.fft.fft)


# Gradient, Generator, Autonomous


def test_a_gradient_branch_descends():
    branch = Gradient(lambda x: (x**4).sum(-1) / 4)
    x = torch.randn(3, 2, dtype=F64)
    torch.testing.assert_close(branch(x), -(x**3))
    assert not branch(x).requires_grad
    with torch.no_grad():
        torch.testing.assert_close(branch(x), -(x**3))
    assert torch.autograd.gradcheck(branch, (x.requires_grad_(),))
    assert torch.autograd.gradgradcheck(branch, (x,))
    assert not branch(x.detach()).requires_grad


def test_a_gradient_branch_inside_transforms():
    branch = Gradient(lambda x: (x**4).sum(-1) / 4)
    x = torch.randn(3, dtype=F64)
    torch.testing.assert_close(torch.func.jacrev(branch)(x), torch.diag(-3 * x**2))
    # jvp over grad loads decompositions of torch that warn of their own deprecation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.testing.assert_close(torch.func.jvp(branch, (x,), (torch.ones_like(x),))[1], -3 * x**2)
    torch.testing.assert_close(torch.func.vmap(branch)(x[:, None]), -(x[:, None] ** 3))


def test_a_proximal_map_is_used_as_given():
    """φ = |x|²/2: argmin_z φ(z) + |z - x|²/2h = x/(1 + h)."""
    branch = Gradient(lambda x: (x**2).sum(-1) / 2, prox=lambda x, h: x / (1 + h))
    assert float(branch.prox(torch.tensor(3.0), 0.5)) == pytest.approx(2.0)
    with pytest.raises(rd.InputError, match="`prox` must be given to take proximal steps, got None; pass it to Gradient"):
        Gradient(lambda x: x.sum()).prox(torch.ones(1), 0.1)


class Spin(Generator):
    skew = True

    def matrix(self, t, x):
        return torch.cos(torch.as_tensor(t, dtype=F64)) * ROTATION


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_a_generator_is_a_field(shape):
    """It turns x by the angle 2·sin t."""
    x0 = torch.randn(*shape, dtype=F64)
    x = rd.solve(Spin(), x0, [0.0, 1.0], control=rd.Adaptive(rtol=1e-10)).x[-1]
    exact = torch.linalg.matrix_exp(math.sin(1.0) * ROTATION) @ x0
    torch.testing.assert_close(x, exact, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("matrix", "x"),
    [((3, 3), (3,)), ((3, 3), (3, 2)), ((5, 3, 3), (5, 3)), ((5, 3, 3), (5, 3, 2))],
)
def test_matrices_apply_to_columns_or_to_one(matrix, x):
    a, v = torch.randn(matrix), torch.randn(x)
    columns = len(x) == len(matrix)
    expected = torch.einsum("...ij,...jk->...ik", a, v) if columns else torch.einsum("...ij,...j->...i", a, v)
    torch.testing.assert_close(apply_matrix(a, v), expected)


def test_autonomous_does_not_wrap_twice_and_passes_arguments():
    once = rd.autonomous(torch.mul)
    assert isinstance(once, Autonomous)
    assert rd.autonomous(once) is once
    assert float(once(0.0, torch.tensor(2.0), torch.tensor(3.0))) == 6.0
