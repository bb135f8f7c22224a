"""Propagators of fields A(t, x)·x: orders, unitarity, what each costs, and what they refuse."""

import itertools
import math

import pytest
import torch

import residyn as rd
from residyn.branch import Generator
from residyn.errors import InputError, SolveError
from residyn.schemes import CFM4, ETRS, MMUT, AdamsMagnus, CrankNicolson, ExtrapolatedMidpoint, Magnus2
from residyn.schemes.magnus import exponential
from residyn.testing import check_scheme

C128 = torch.complex128
ALL = [AdamsMagnus(), ExtrapolatedMidpoint(), Magnus2(), CFM4(), ETRS(), MMUT(), CrankNicolson()]
each = pytest.mark.parametrize("scheme", ALL, ids=repr)


class Driven(Generator):
    """i·x' = (H0 + cos(t)·V + |x₀|²·Z)·x."""

    skew = True

    def matrix(self, t, x):
        h0 = torch.tensor([[1.0, 0.3], [0.3, -1.0]], dtype=C128)
        v = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=C128)
        z = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=C128)
        return -1j * (h0 + 0.7 * math.cos(float(t)) * v + (x[0].abs() ** 2).to(C128) * z)


X0 = torch.tensor([1.0, 0.0], dtype=C128)


def run(scheme, steps, end=2.0):
    with torch.no_grad():
        return rd.solve(Driven(), X0, [0.0, end], scheme=scheme, control=rd.Fixed(steps=steps))


@each
def test_keeps_the_laws_of_a_scheme(scheme):
    assert all(finding.verdict == "pass" for finding in check_scheme(scheme))


@each
def test_order_on_a_complex_field(scheme):
    with torch.no_grad():
        exact = rd.solve(Driven(), X0, [0.0, 2.0], scheme=rd.Dopri8(), control=rd.Adaptive(rtol=1e-13, atol=1e-14)).x[-1]
    errors = [float((run(scheme, n).x[-1] - exact).norm()) for n in (80, 160, 320)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    # one that starts at a lower order (AdamsMagnus) may show more than its order while the start's share is small
    assert min(slopes) > scheme.order - 0.2
    assert max(slopes) < scheme.order + 1.2


@each
def test_unitary_to_rounding(scheme):
    # each exponential (or Cayley transform) is unitary to some 2n·eps, n = 2; two a step, all in a line at worst
    assert abs(float(run(scheme, 300, 15.0).x[-1].norm()) - 1.0) < 300 * 8 * 2.3e-16


def test_builds_a_step():
    found = {repr(scheme): run(scheme, 100).stats.evaluations for scheme in ALL}
    assert found["AdamsMagnus()"] == 101
    assert found["ExtrapolatedMidpoint()"] == 101
    assert found["MMUT()"] == 101
    assert found["ETRS()"] == found["CrankNicolson(corrections=1)"] == 200


def test_crank_nicolson_without_a_correction_has_order_one():
    assert CrankNicolson(corrections=0).order == 1
    assert all(finding.verdict == "pass" for finding in check_scheme(CrankNicolson(corrections=0)))


@each
def test_gradient_modes_agree(scheme):
    def grad(mode):
        x0 = torch.tensor([0.8, 0.6j], dtype=C128, requires_grad=True)
        rd.solve(Driven(), x0, [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=5), gradient=mode).x[-1][0].abs().backward()
        return x0.grad

    torch.testing.assert_close(grad(rd.Replay(keep=0)), grad(rd.Backprop()), rtol=1e-8, atol=1e-9)


def test_a_step_of_another_length_starts_the_history_anew():
    scheme, field = AdamsMagnus(), Driven()
    first = scheme.step(field, 0.0, 0.1, X0, None)
    longer = scheme.step(field, 0.1, 0.3, first.x, first.state)
    again = scheme.step(field, 0.1, 0.3, first.x, None)
    torch.testing.assert_close(longer.x, again.x, rtol=0, atol=0)


def test_exponential_by_eigenvectors_is_the_matrix_exponential():
    H = torch.randn(2, 5, 5, dtype=C128, generator=torch.Generator().manual_seed(0))
    A = -1j * (H + H.mH)
    x = torch.randn(2, 5, 3, dtype=C128, generator=torch.Generator().manual_seed(1))
    exact = torch.linalg.matrix_exp(0.3 * A) @ x
    torch.testing.assert_close(exponential(Driven(), A, 0.3, x), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [Magnus2, CFM4])
def test_iterations_are_checked(make):
    with pytest.raises(InputError, match=r"`tol` must lie in \(0, 1\), got 2; 1e-10 is usual"):
        make(tol=2)
    with pytest.raises(InputError, match="`max_iterations` must be a whole number of at least 1, got 0"):
        make(max_iterations=0)
    with pytest.raises(SolveError):
        run(make(max_iterations=1), 2)


def test_corrections_are_checked():
    with pytest.raises(InputError, match="`corrections` must be a whole number of at least 0, got -1; 1 gives order 2"):
        CrankNicolson(corrections=-1)


@each
def test_another_field_is_refused_by_name(scheme):
    with pytest.raises(InputError, match=rf"`f` must be of the form A\(t, x\)·x for {type(scheme).__name__}, got function"):
        rd.solve(lambda t, x: -x, torch.ones(2), [0.0, 1.0], scheme=scheme, control=rd.Fixed(steps=1))
