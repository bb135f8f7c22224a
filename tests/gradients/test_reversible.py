"""The reversible scheme and its gradient: order, exact inverse, gradient equal to backpropagation, memory, refusals."""

import math

import pytest
import torch

import residyn as rd
from residyn.errors import InputError, ResidynWarning
from residyn.gradients import Reversible
from residyn.schemes import CoupledReversible

F64 = torch.float64
BASES = [rd.Midpoint(), rd.RK4(), rd.Tsit5()]
each = pytest.mark.parametrize("base", BASES, ids=repr)


def pendulum(t, x):
    return torch.cat([x[..., 1:], -torch.sin(x[..., :1]) + 0.3 * torch.cos(torch.as_tensor(t))], -1)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()

    def forward(self, t, x):
        return self.inner(x) * torch.cos(torch.as_tensor(t, dtype=F64))


X0 = torch.tensor([1.0, 0.5], dtype=F64)


@each
def test_it_has_the_order_of_its_base(base):
    scheme = CoupledReversible(base, coupling=0.95)
    exact = rd.solve(pendulum, X0, [0.0, 2.0], scheme=rd.Dopri8(), control=rd.Adaptive(rtol=1e-12, atol=1e-13)).x[-1]
    counts = (20, 40, 80)
    errors = [float((rd.solve(pendulum, X0, [0.0, 2.0], scheme=scheme, control=rd.Fixed(steps=n)).x[-1] - exact).norm())
              for n in counts]  # fmt: skip
    rate = math.log2(errors[1] / errors[2])
    assert rate > base.order - 0.2  # at least; the copy may cancel a term


@each
@pytest.mark.parametrize("coupling", [1.0, 0.9, 0.5])
def test_a_step_back_undoes_a_step(base, coupling):
    scheme = CoupledReversible(base, coupling=coupling)
    z = X0 + 0.01
    step = scheme.step(pendulum, 0.2, 0.5, X0, z)
    x, back = scheme.back(pendulum, 0.2, 0.5, step.x, step.state)
    # a handful of roundings of numbers of size one, times 1/c
    torch.testing.assert_close((x, back), (X0, z), rtol=0, atol=2e-14)


@each
def test_stability_is_the_spectral_radius_of_the_pair(base):
    scheme = CoupledReversible(base, coupling=0.9)
    for z in (-0.3 + 0j, -0.1 + 0.2j, 0.4j):
        columns = []
        for start in ((1.0, 0.0), (0.0, 1.0)):
            x, y = (torch.tensor([v], dtype=torch.complex128) for v in start)
            step = scheme.step(lambda t, v, z=z: z * v, 0.0, 1.0, x, y)
            columns.append(torch.cat([step.x, step.state]))
        radius = torch.linalg.eigvals(torch.stack(columns, 1)).abs().max()
        assert float(scheme.stability(torch.tensor(z, dtype=torch.complex128)).abs()) == pytest.approx(float(radius), rel=1e-9)


def gradients(gradient, control, times, x0=None):
    net = Net()
    x = torch.tensor([[0.5, -0.2, 0.1], [0.1, 0.3, -0.4]], dtype=F64, requires_grad=True)
    found = rd.solve(net, x, times, scheme=CoupledReversible(rd.Tsit5(), coupling=0.99), control=control, gradient=gradient)
    loss = (found.x[1:] * torch.arange(1.0, len(times), dtype=F64)[:, None, None]).pow(2).sum()
    return torch.autograd.grad(loss, [x, *net.parameters()])


@pytest.mark.parametrize("control", [rd.Fixed(steps=5), rd.Adaptive(rtol=1e-5, atol=1e-7)], ids=["fixed", "adaptive"])
def test_the_gradient_is_that_of_backpropagation(control):
    times = [0.0, 0.7, 1.0, 2.5]
    found, exact = gradients(Reversible(), control, times), gradients(rd.Backprop(), control, times)
    # rounding, times 1/0.99 a step over some dozen steps
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)


def test_gradient_against_finite_differences():
    def end(x):
        return rd.solve(
            pendulum, x, [0.0, 1.0], scheme=CoupledReversible(), control=rd.Fixed(steps=10), gradient=Reversible()
        ).x[-1]

    assert torch.autograd.gradcheck(end, X0.clone().requires_grad_())


def test_gradient_to_args():
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    x = rd.solve(lambda t, x, k: -k * x, torch.ones(1, dtype=F64), [0.0, 1.0], args=(k,), scheme=CoupledReversible(),
                 control=rd.Fixed(steps=20), gradient=Reversible()).x[-1]  # fmt: skip
    x.sum().backward()
    assert float(k.grad) == pytest.approx(-math.exp(-0.7), rel=1e-6)  # RK4's error, h⁴/120 and below


def test_memory_does_not_grow_with_steps():
    def saved(steps, gradient):
        sizes = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t)
        with hooks:
            rd.solve(Net(), torch.ones(4, 3, dtype=F64), [0.0, 1.0], scheme=CoupledReversible(), control=rd.Fixed(steps=steps),
                     gradient=gradient)  # fmt: skip
        return sum(sizes)

    assert saved(200, Reversible()) == saved(2, Reversible())
    assert saved(20, rd.Backprop()) > 5 * saved(2, rd.Backprop())


def test_no_gradient_wanted_is_a_plain_march():
    with torch.no_grad():
        x = rd.solve(pendulum, X0, [0.0, 1.0], scheme=CoupledReversible(), control=rd.Fixed(steps=3), gradient=Reversible()).x
    assert x.shape == (2, 2)
    assert not x.requires_grad


def contracting(rate, steps, coupling=0.999, tol=None):
    x0 = torch.tensor([1.0, 0.5], dtype=F64, requires_grad=True)
    lam = torch.tensor([-0.1, -rate], dtype=F64)
    x = rd.solve(lambda t, x: lam * x, x0, [0.0, 1.0], scheme=CoupledReversible(coupling=coupling), control=rd.Fixed(steps=steps),
                 gradient=Reversible(tol))  # fmt: skip
    return x.x[-1].sum()


def test_amplified_errors_warn_with_numbers_and_a_fix():
    # (1/0.8)^100 = 5e9 times rounding, 1e-16: some 1e-7 to 1e-6 of error
    with pytest.warns(ResidynWarning, match=r"run backwards over 100 steps, CoupledReversible\(RK4\(\), coupling=0.8\) "
                      r"came to a state \d\.\de-\d+ from the one that was there at t = 0 .*use gradient=Replay\(\)"):  # fmt: skip
        contracting(1.0, 100, coupling=0.8, tol=1e-12).backward()


def test_a_way_back_that_loses_the_state_is_refused():
    # (1/0.5)^100 = 1e30
    with pytest.raises(
        InputError, match=r"`gradient` Reversible must be able to reconstruct the states: .*; use gradient=Replay"
    ):
        contracting(1.0, 100, coupling=0.5).backward()


def test_other_schemes_are_refused():
    with pytest.raises(
        InputError, match=r"`gradient` Reversible needs a scheme that runs backwards, got RK4\(\); use scheme=Coupled"
    ):
        rd.solve(pendulum, X0, [0.0, 1.0], scheme=rd.RK4(), control=rd.Fixed(steps=2), gradient=Reversible())


def test_steps_a_sample_are_refused():
    control = rd.Adaptive(per_sample=True)
    with pytest.raises(InputError, match="`gradient` Reversible needs steps that all samples share, got steps a sample"):
        rd.solve(pendulum, X0[None], [0.0, 1.0], scheme=CoupledReversible(rd.Tsit5()), control=control, gradient=Reversible())


def test_per_sample_control_without_it_works():
    control = rd.Adaptive(per_sample=True)
    x = rd.solve(pendulum, torch.stack([X0, 2 * X0]), [0.0, 1.0], scheme=CoupledReversible(rd.Tsit5()), control=control).x[-1]
    exact = rd.solve(pendulum, torch.stack([X0, 2 * X0]), [0.0, 1.0], scheme=rd.Dopri8(), control=rd.Adaptive(rtol=1e-11)).x[-1]
    torch.testing.assert_close(x, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [0.0, 1.5, -0.2])
def test_coupling_is_checked(bad):
    with pytest.raises(InputError, match=r"`coupling` must lie in \(0, 1\], got .*; 0.999 is usual"):
        CoupledReversible(coupling=bad)


def test_base_is_checked():
    with pytest.raises(InputError, match="`base` must be an explicit Runge–Kutta scheme such as RK4"):
        CoupledReversible(rd.BackwardEuler())


def test_tol_is_checked():
    with pytest.raises(InputError, match=r"`tol` must lie in \(0, 1\), got 2; 1e-6 is usual"):
        Reversible(2)
