"""ExponentialMidpoint against closed forms, fine reference solutions, and its promise to be unitary."""

import itertools
import math

import pytest
import torch

import residyn as rd
from residyn.branch import Dense, Generator, autonomous
from residyn.errors import InputError
from residyn.schemes import ExponentialMidpoint

F64, C128 = torch.float64, torch.complex128
VARIANTS = [ExponentialMidpoint(), ExponentialMidpoint(corrections=1), ExponentialMidpoint(history=True),
            ExponentialMidpoint(corrections=1, history=True)]  # fmt: skip
each = pytest.mark.parametrize("scheme", VARIANTS, ids=repr)


class Driven(Generator):
    """A nonlinear, driven two-level system: A = -i·(H0 + cos(t)·V + |x₀|²·Z), skew-Hermitian."""

    skew = True

    def __init__(self):
        super().__init__()
        self.coupling = torch.nn.Parameter(torch.tensor(0.7, dtype=F64))

    def matrix(self, t, x):
        h0 = torch.tensor([[1.0, 0.3], [0.3, -1.0]], dtype=C128)
        v = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=C128)
        z = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=C128)
        weight = (x[..., 0].abs() ** 2)[..., None, None].to(C128)
        drive = torch.cos(torch.as_tensor(t)).to(F64)
        drive = drive[..., None] if drive.ndim else drive
        return -1j * (h0 + self.coupling * drive * v + weight * z)


X0 = torch.tensor([1.0, 0.0], dtype=C128)


def run(scheme, steps, x0=X0, t=2.0):
    with torch.no_grad():
        return rd.solve(Driven(), x0, [0.0, t], scheme=scheme, control=rd.Fixed(steps=steps))


@each
def test_order_two_on_a_nonlinear_non_autonomous_field(scheme):
    with torch.no_grad():
        exact = rd.solve(Driven(), X0, [0.0, 2.0], scheme=rd.Dopri8(), control=rd.Adaptive(rtol=1e-12, atol=1e-13)).x[-1]
    counts = (40, 80, 160)
    errors = [float((run(scheme, n).x[-1] - exact).norm()) for n in counts]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([2.0, 2.0], abs=0.15)


@each
def test_unitary_to_rounding(scheme):
    x = run(scheme, 1000, t=50.0).x[-1]
    # each exponential is unitary to about 2n·eps with n = 2; a thousand of them, all in one direction, at worst
    assert abs(float(x.norm()) - 1.0) < 1000 * 4 * 2.3e-16


def test_evaluations_of_each_variant():
    assert run(VARIANTS[0], 10).stats.evaluations == 20
    assert run(VARIANTS[1], 10).stats.evaluations == 30
    assert run(VARIANTS[2], 10).stats.evaluations == 11


@each
def test_dense_output_is_of_order_two_and_unitary(scheme):
    field = Driven()
    errors = []
    for h in (0.2, 0.1, 0.05):
        with torch.no_grad():
            step = scheme.step(field, 0.3, 0.3 + h, X0, None)
            exact = rd.solve(field, X0, [0.3, 0.3 + h / 2], scheme=rd.Dopri8(), control=rd.Adaptive(rtol=1e-12, atol=1e-13)).x[
                -1
            ]
            half = step.dense(0.5)
            torch.testing.assert_close(step.dense(1.0), step.x, rtol=0, atol=1e-15)
            torch.testing.assert_close(step.dense(0.0), X0, rtol=0, atol=1e-15)
        assert float(half.norm()) == pytest.approx(1.0, abs=1e-14)
        errors.append(float((half - exact).norm()))
    assert math.log2(errors[1] / errors[2]) > 2.65  # local error O(h³)


def test_a_constant_matrix_is_exact_in_one_step():
    matrix = torch.tensor([[-1e4, 3.0], [0.0, -1.0]], dtype=F64)
    x0 = torch.tensor([1.0, 1.0], dtype=F64)
    x = rd.solve(autonomous(Dense(matrix)), x0, [0.0, 2.0], scheme=ExponentialMidpoint(), control=rd.Fixed(steps=1)).x[-1]
    # [1, 1]: first component relaxes to 3/(1e4 - 1)·e^-2
    torch.testing.assert_close(x, torch.tensor([3 / 9999, 1.0], dtype=F64) * math.exp(-2.0), rtol=1e-10, atol=0)


def test_stability_function_is_the_exponential():
    z = torch.tensor([-3.0 + 1j, 2j, 1e-12], dtype=C128)
    torch.testing.assert_close(ExponentialMidpoint().stability(z), torch.exp(z))
    torch.testing.assert_close(ExponentialMidpoint().growth(z), torch.expm1(z))
    assert (
        float(rd.max_stable_step(Dense(torch.tensor([[0.0, 9.0], [-9.0, 0.0]])), torch.zeros(2), ExponentialMidpoint()))
        == math.inf
    )


@each
def test_gradient_reaches_x0_and_parameters(scheme):
    field = Driven()

    def end(x0, coupling):
        return torch.view_as_real(torch.func.functional_call(_Solved(field, scheme), {"field.coupling": coupling}, (x0,)))

    x0 = torch.tensor([0.8, 0.6j], dtype=C128, requires_grad=True)
    assert torch.autograd.gradcheck(end, (x0, torch.tensor(0.7, dtype=F64, requires_grad=True)), atol=1e-6)


class _Solved(torch.nn.Module):
    def __init__(self, field, scheme):
        super().__init__()
        self.field, self.scheme = field, scheme

    def forward(self, x0):
        return rd.solve(self.field, x0, [0.0, 1.0], scheme=self.scheme, control=rd.Fixed(steps=3), gradient=rd.Backprop()).x[-1]


@pytest.mark.parametrize("gradient", [rd.Replay(keep=0), rd.Checkpoint()], ids=repr)
def test_gradient_modes_agree(gradient):
    def grad(mode):
        field = Driven()
        rd.solve(field, X0, [0.0, 1.0], scheme=ExponentialMidpoint(), control=rd.Fixed(steps=6), gradient=mode).x[-1][
            0
        ].abs().backward()
        return field.coupling.grad

    torch.testing.assert_close(grad(gradient), grad(rd.Backprop()), rtol=1e-12, atol=1e-14)


def test_a_batch_is_its_samples():
    x0 = torch.tensor([[1.0, 0.0], [0.6, 0.8j]], dtype=C128)
    together = run(ExponentialMidpoint(), 5, x0).x[-1]
    alone = torch.stack([run(ExponentialMidpoint(), 5, row).x[-1] for row in x0])
    torch.testing.assert_close(together, alone, rtol=1e-13, atol=1e-14)


def test_times_a_sample_equal_solving_each():
    x0 = torch.tensor([[1.0, 0.0], [0.6, 0.8j]], dtype=C128)
    times = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=F64)
    with torch.no_grad():
        together = rd.solve(Driven(), x0, times, scheme=ExponentialMidpoint(), control=rd.Fixed(steps=8)).x[-1]
    torch.testing.assert_close(together[1], run(ExponentialMidpoint(), 8, x0[1], 2.0).x[-1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("bad", [-1, 0.5, True])
def test_corrections_are_checked(bad):
    with pytest.raises(InputError, match="`corrections` must be a whole number of at least 0, got .*; 0 has order 2 already"):
        ExponentialMidpoint(corrections=bad)


def test_another_field_is_refused_with_the_way_out():
    with pytest.raises(
        InputError, match=r"`f` must be of the form A\(t, x\)·x for ExponentialMidpoint, got function; derive it"
    ):
        rd.solve(lambda t, x: -x, torch.ones(2), [0.0, 1.0], scheme=ExponentialMidpoint(), control=rd.Fixed(steps=1))


def test_structures_and_arguments_are_refused():
    with pytest.raises(InputError, match="`x0` must be one tensor and `args` empty for ExponentialMidpoint"):
        rd.solve(Driven(), X0, [0.0, 1.0], args=(1,), scheme=ExponentialMidpoint(), control=rd.Fixed(steps=1))
