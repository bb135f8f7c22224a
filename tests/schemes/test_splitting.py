"""ForwardBackward against the optimality conditions of the problems it solves."""

import pytest
import torch

import residyn as rd
from residyn.branch import Gradient, Spectral, autonomous
from residyn.errors import InputError
from residyn.schemes import ForwardBackward

F64 = torch.float64


def shrink(v, h):
    """The proximal map of h·0.3·|x|₁."""
    return torch.sign(v) * (v.abs() - 0.3 * h).clamp(min=0)


def lasso():
    torch.manual_seed(0)
    a, b = torch.randn(20, 8, dtype=F64), torch.randn(20, dtype=F64)
    branch = Gradient(lambda x: 0.5 * ((x @ a.T - b) ** 2).sum(-1))
    return branch, a, b, 1 / float(torch.linalg.matrix_norm(a, 2) ** 2)


def test_lasso_is_solved_to_its_optimality_condition():
    branch, a, b, h = lasso()
    x = rd.solve(autonomous(branch), torch.zeros(8, dtype=F64), [0.0, 2000 * h], scheme=ForwardBackward(shrink),
                 control=rd.Fixed(steps=2000)).x[-1]  # fmt: skip
    slope = a.T @ (b - a @ x)
    # 0 ∈ ∂(φ + 0.3|x|₁): the slope is 0.3·sign where x ≠ 0 and at most 0.3 where x = 0; linear convergence, to rounding
    on = x != 0
    torch.testing.assert_close(slope[on], 0.3 * torch.sign(x[on]), rtol=0, atol=1e-8)
    assert bool((slope[~on].abs() <= 0.3 + 1e-8).all())


def test_the_objective_never_rises():
    branch, a, b, h = lasso()
    states = rd.solve(autonomous(branch), torch.ones(8, dtype=F64), [i * h for i in range(30)], scheme=ForwardBackward(shrink),
                      control=rd.Fixed(steps=1)).x  # fmt: skip
    values = 0.5 * ((states @ a.T - b) ** 2).sum(-1) + 0.3 * states.abs().sum(-1)
    assert bool((values.diff() <= 1e-12).all())


def test_order_one_where_both_halves_are_smooth():
    """x' = -x + cos t - 2x, the last part by its prox v/(1 + 2h); closed form by variation of constants."""
    x0 = torch.tensor([1.0], dtype=F64)
    exact = 0.3 * torch.cos(torch.tensor(1.0, dtype=F64)) + 0.1 * torch.sin(torch.tensor(1.0, dtype=F64))
    exact = exact + (1 - 0.3) * torch.exp(torch.tensor(-3.0, dtype=F64))
    errors = [
        float((rd.solve(lambda t, x: torch.cos(t) - x, x0, [0.0, 1.0], scheme=ForwardBackward(lambda v, h: v / (1 + 2 * h)),
                        control=rd.Fixed(steps=n)).x[-1] - exact).abs())
        for n in (100, 200)
    ]  # fmt: skip
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.15)


def test_a_gradient_branch_lends_its_prox():
    ball = Gradient(lambda x: (x**2).sum(-1), prox=lambda v, h: v / (1 + 2 * h))
    flow = rd.Flow(lambda t, x: torch.zeros_like(x), scheme=ForwardBackward(ball), control=rd.Fixed(steps=2))
    torch.testing.assert_close(flow(torch.ones(1)), torch.tensor([0.25]))


def test_a_linear_branch_does_not_collapse_past_the_prox():
    branch = autonomous(Spectral(torch.tensor([0.0, 0.0], dtype=F64)))
    x0 = torch.tensor([1.0, 0.1], dtype=F64)
    x = rd.solve(branch, x0, [0.0, 1.0], scheme=ForwardBackward(shrink), control=rd.Fixed(steps=4)).x[-1]
    torch.testing.assert_close(x, torch.tensor([0.7, 0.0], dtype=F64))


class Learned(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.log = torch.nn.Parameter(torch.tensor(-1.0, dtype=F64))

    def forward(self, v, h):
        return torch.sign(v) * (v.abs() - self.log.exp() * h).clamp(min=0)


@pytest.mark.parametrize("gradient", [rd.Backprop(), rd.Replay(keep=0), rd.Checkpoint()], ids=repr)
def test_a_learned_prox_gets_its_gradient(gradient):
    prox, branch = Learned(), torch.nn.Linear(1, 1, dtype=F64)
    torch.nn.init.zeros_(branch.weight), torch.nn.init.zeros_(branch.bias)
    flow = rd.Flow(autonomous(branch), scheme=ForwardBackward(prox), control=rd.Fixed(steps=3), gradient=gradient)
    assert len(list(flow.parameters())) == 3
    flow(torch.ones(1, 1, dtype=F64)).sum().backward()
    # x(1) = 1 - e^log: ∂/∂log = -e^-1
    assert float(prox.log.grad) == pytest.approx(-torch.exp(torch.tensor(-1.0)).item(), rel=1e-6)


def test_times_a_sample():
    x0 = torch.ones(2, 1, dtype=F64)
    times = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=F64)
    x = rd.solve(lambda t, x: 0 * x, x0, times, scheme=ForwardBackward(shrink), control=rd.Fixed(steps=2)).x[-1]
    torch.testing.assert_close(x[:, 0], torch.tensor([0.7, 0.4], dtype=F64))


def test_dense_output_is_a_shorter_step():
    step = ForwardBackward(shrink).step(lambda t, x: -x, 0.0, 0.5, torch.tensor([2.0], dtype=F64), None)
    assert float(step.dense(0.4)) == pytest.approx(2 * 0.8 - 0.06)
    assert ForwardBackward(shrink).stability(torch.tensor(-1.0)) == 0


def test_what_cannot_be_called_is_refused():
    with pytest.raises(InputError, match=r"`prox` must be callable as prox\(v, h\), got 3; pass the proximal map of g"):
        ForwardBackward(3)


def test_backwards_is_refused():
    with pytest.raises(InputError, match="`t` must increase for ForwardBackward, got a step of -1; a proximal step has no way"):
        rd.solve(lambda t, x: -x, torch.ones(1), [1.0, 0.0], scheme=ForwardBackward(shrink), control=rd.Fixed(steps=1))


def test_a_prox_that_changes_the_shape_is_refused():
    with pytest.raises(InputError, match=r"`prox` must return the shape of x, \(2,\), got \(\)"):
        rd.solve(lambda t, x: -x, torch.ones(2), [0.0, 1.0], scheme=ForwardBackward(lambda v, h: v.sum()), control=rd.Fixed())
