"""Gradients through stiff solves: Rodas5P and Kvaerno5 against finite differences, in every gradient mode."""

import pytest
import torch

import residyn as rd

F64 = torch.float64
each_scheme = pytest.mark.parametrize("scheme", [rd.Rodas5P(), rd.Kvaerno5()], ids=repr)
each_mode = pytest.mark.parametrize("gradient", [rd.Backprop(), rd.Replay(keep=0), rd.Checkpoint()], ids=repr)


def robertson(t, x, log_k):
    k1, k2, k3 = log_k.exp()
    a, b, c = x
    slow, fast, back = k1 * a, k2 * b * b, k3 * b * c
    return torch.stack([back - slow, slow - back - fast, fast])


def van_der_pol(t, x, mu):
    return torch.stack([x[1], mu * (1 - x[0] ** 2) * x[1] - x[0]])


PROBLEMS = {
    "robertson": (robertson, [1.0, 0.0, 0.0], torch.tensor([0.04, 3e7, 1e4], dtype=F64).log(), 1e4),
    "van der pol": (van_der_pol, [2.0, 0.0], torch.tensor(1000.0, dtype=F64), 500.0),
}


@each_scheme
@each_mode
@pytest.mark.parametrize("name", PROBLEMS)
def test_gradient_of_a_stiff_solve_against_finite_differences(name, scheme, gradient):
    f, start, parameter, end = PROBLEMS[name]
    x0 = torch.tensor(start, dtype=F64)

    def value(p, rtol):
        control = rd.Adaptive(rtol=rtol, atol=1e-3 * rtol)
        return rd.solve(f, x0, [0.0, end], args=(p,), scheme=scheme, control=control, gradient=gradient).x[-1][0]

    leaf = parameter.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(leaf, 1e-6), leaf)
    with torch.no_grad():
        shift = 1e-3 * parameter.abs()
        expected = torch.zeros_like(parameter).flatten()
        for i in range(parameter.numel()):
            step = torch.zeros_like(expected)
            step[i] = shift.flatten()[i]
            step = step.view_as(parameter)
            up, down = value(parameter + step, 1e-10), value(parameter - step, 1e-10)
            expected[i] = (up - down) / (2 * shift.flatten()[i])
    # rtol 1e-6 of the solve, some ten times that in its derivative; 1e-3 steps: truncation of 1e-6 relative
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@each_scheme
def test_gradcheck_of_fixed_steps_to_state_and_parameters(scheme):
    def run(x0, mu):
        return rd.solve(
            van_der_pol, x0, [0.0, 0.5], args=(mu,), scheme=scheme, control=rd.Fixed(steps=3), gradient=rd.Backprop()
        ).x[-1]

    inputs = (torch.tensor([2.0, 0.1], dtype=F64, requires_grad=True), torch.tensor(5.0, dtype=F64, requires_grad=True))
    assert torch.autograd.gradcheck(run, inputs, atol=1e-5, rtol=1e-3)  # Newton's 1e-10 over the quotient's 1e-6


def test_a_field_without_graph_has_no_jacobian_and_is_integrated_all_the_same():
    x = rd.solve(lambda t, x: torch.full_like(x, 2.0), torch.ones(2, dtype=F64), [0.0, 1.0], scheme=rd.Rodas5P()).x[-1]
    torch.testing.assert_close(x, torch.full((2,), 3.0, dtype=F64))
