"""Autocast, half precision, inference mode and the meta device: what a caller's loops bring along."""

import pytest
import torch

import residyn as rd
from residyn.gradients import Adjoint, Backprop, Checkpoint, Implicit, Replay, Reversible
from residyn.roots import Anderson, Broyden, FixedPoint, Newton
from residyn.schemes import RK4, BackwardEuler, CoupledReversible, ImplicitMidpoint, Kvaerno5, Rodas5P, Trapezoid

HALVES = [torch.bfloat16, torch.float16]
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3)).to(dtype)


def gradients(mode, net, dtype, scheme=None, control=None):
    x0 = torch.tensor([[1.0, -0.5, 0.25], [0.3, 0.7, -1.0]], dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = rd.solve(
            lambda t, x: net(x).to(dtype),
            x0,
            [0.0, 0.5, 1.0],
            scheme=scheme or RK4(),
            control=control or rd.Fixed(steps=3),
            gradient=mode,
        ).x
    return torch.autograd.grad(x[-1].float().square().sum(), [x0, net[0].weight])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_is_taken_again_under_the_autocast_it_was_taken_under(dtype):
    """`backward()` is called outside of autocast, as torch asks for; Replay's states must be those of the way forward."""
    net = network()
    by_x, by_weight = gradients(Backprop(), net, dtype)
    for mode in (Replay(keep=0), Checkpoint()):
        again_x, again_weight = gradients(mode, net, dtype)
        # the same roundings of products; their sums over steps are kept in x's precision here, in autograd's there
        torch.testing.assert_close(again_x, by_x, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)
        # autograd casts a weight once and sums its gradient over all steps in bfloat16, 2^-8
        torch.testing.assert_close(again_weight, by_weight, rtol=0, atol=2**-6 * float(by_weight.abs().max()))


@pytest.mark.parametrize("mode", [Adjoint(), Reversible(tol=0.1)], ids=repr)
def test_other_gradients_come_back_under_the_same_autocast(mode):
    """A state of half precision does not meet weights of single precision on the way back."""
    net, scheme = network(), CoupledReversible() if isinstance(mode, Reversible) else RK4()
    exact = gradients(Backprop(), net, torch.bfloat16, scheme)
    for found, known in zip(gradients(mode, net, torch.bfloat16, scheme), exact, strict=True):
        # 12 evaluations, each rounded to 2^-8, run again from states that are themselves rounded
        torch.testing.assert_close(found, known, rtol=0, atol=12 * 2**-8 * float(known.abs().max()))


@pytest.mark.parametrize("mode", [Replay(keep=0), Adjoint()], ids=repr)
def test_autocast_around_backward_alone_is_left_out(mode):
    net = network()
    x0 = torch.ones(2, 3, requires_grad=True)

    def pulled(around):
        x = rd.solve(lambda t, x: net(x), x0, [0.0, 1.0], scheme=RK4(), control=rd.Fixed(steps=3), gradient=mode).x
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=around):
            return torch.autograd.grad(x[-1].sum(), x0)[0]

    assert torch.equal(pulled(True), pulled(False))


@pytest.mark.parametrize("scheme", [BackwardEuler(), ImplicitMidpoint(), Kvaerno5(), Rodas5P()], ids=repr)
def test_implicit_schemes_work_under_autocast(scheme):
    net = network()
    rough = gradients(Replay(), net, torch.float32, scheme)
    x0 = torch.tensor([[1.0, -0.5, 0.25], [0.3, 0.7, -1.0]], requires_grad=True)
    x = rd.solve(lambda t, x: net(x), x0, [0.0, 0.5, 1.0], scheme=scheme, control=rd.Fixed(steps=3)).x
    fine = torch.autograd.grad(x[-1].square().sum(), [x0, net[0].weight])
    for found, known in zip(rough, fine, strict=True):
        # products rounded to 2^-8 in each of 6 steps' evaluations; a wrong solve would be off by its whole size
        torch.testing.assert_close(found, known, rtol=0, atol=6 * 2**-7 * float(known.abs().max()))


@each_half
@pytest.mark.parametrize("scheme", [BackwardEuler(), ImplicitMidpoint(), Trapezoid(), Kvaerno5(), Rodas5P()], ids=repr)
def test_implicit_schemes_solve_states_of_half_precision(scheme, dtype):
    """LAPACK has no half precision: torch's own error came up."""
    x0 = torch.tensor([[1.0, -0.5], [0.25, 2.0]], dtype=dtype, requires_grad=True)
    x = rd.solve(lambda t, x: -x, x0, [0.0, 0.5], scheme=scheme, control=rd.Fixed(steps=4)).x[-1]
    (pulled,) = torch.autograd.grad(x.sum(), x0)
    # (1 + h)^-4 = 0.6243 at h = 1/8 for backward Euler, e^-0.5 = 0.6065 for the others; 4 steps of a few roundings, which the
    # weights of Rodas5P, up to 12 on eight stages, make more
    factor = 1.125**-4 if isinstance(scheme, BackwardEuler) else 0.6065
    rtol = (64 if isinstance(scheme, Rodas5P) else 16) * torch.finfo(dtype).eps
    torch.testing.assert_close(x.float(), factor * x0.float(), rtol=rtol, atol=0)
    torch.testing.assert_close(pulled.float(), torch.full_like(pulled.float(), factor), rtol=rtol, atol=0)


@each_half
@pytest.mark.parametrize("root", [Anderson(tol=0.02), Broyden(tol=0.02), Newton(tol=0.02), FixedPoint(tol=0.02)], ids=repr)
def test_equilibria_of_half_precision(root, dtype):
    u = torch.tensor([[1.0, -0.5, 0.25]], dtype=dtype, requires_grad=True)
    layer = rd.Equilibrium(lambda x, u: 0.5 * x.flip(-1) + u, root=root, gradient=Implicit(root=root))
    x = layer(u)
    (pulled,) = torch.autograd.grad(x.sum(), u)
    exact = ((u.float() + 0.5 * u.float().flip(-1)) / 0.75).detach()  # (I - P/2)⁻¹ with P² = I
    # a relative residual of 0.02 is an error of at most 0.02·‖(I - P/2)⁻¹‖·‖g‖ = 0.04·‖x‖
    torch.testing.assert_close(x.float(), exact, rtol=0, atol=0.05 * float(exact.norm()))
    torch.testing.assert_close(pulled.float(), torch.full((1, 3), 2.0), rtol=0, atol=0.05 * 12**0.5)


META = torch.ones(2, 3, device="meta")


@pytest.mark.parametrize(
    "name, call",
    [
        ("x0", lambda: rd.solve(lambda t, x: -x, META, [0.0, 1.0])),
        ("x0", lambda: rd.solve(lambda t, x: x, {"a": META}, [0.0, 1.0])),
        ("u", lambda: rd.Equilibrium(lambda x, u: 0.5 * x + u)(META)),
        ("x0", lambda: rd.Equilibrium(lambda x, u: 0.5 * x)(0, META)),
        ("x", lambda: rd.spectral_norm(torch.tanh, META)),
        ("x", lambda: rd.log_norm(torch.tanh, META)),
        ("x", lambda: rd.spectrum(torch.tanh, META)),
        ("x", lambda: rd.max_stable_step(torch.tanh, META)),
        ("Linear.weight", lambda: rd.lipschitz(torch.nn.Linear(3, 3, device="meta"), (1, 3))),
        ("Conv1d.weight", lambda: rd.operator_norm(torch.nn.Conv1d(3, 3, 3, device="meta"), (1, 3, 8))),
    ],
)
def test_the_meta_device_is_refused(name, call):
    with pytest.raises(rd.InputError, match=rf"`{name}` must hold numbers, got a tensor on the meta device.*to_empty"):
        call()


IMPLICIT = [BackwardEuler(), ImplicitMidpoint(), Trapezoid(), Kvaerno5(), Rodas5P()]


@pytest.mark.parametrize("scheme", IMPLICIT, ids=repr)
def test_implicit_schemes_do_the_same_in_inference_mode(scheme):
    """There a Jacobian by autograd is zero: Newton's method did not converge, and Rodas5P crept."""

    def solved():
        rate = torch.tensor(1000.0, dtype=torch.float64)
        x0 = {"a": torch.zeros(2, dtype=torch.float64)}
        control = rd.Adaptive(rtol=1e-6, atol=1e-6) if scheme.error_order else rd.Fixed(steps=20)
        f = lambda t, x, rate: {"a": -rate * (x["a"] - torch.cos(t))}  # noqa: E731
        return rd.solve(f, x0, torch.tensor([0.0, 1.0]), args=(rate,), scheme=scheme, control=control)

    with torch.no_grad():
        known = solved()
    with torch.inference_mode():
        found = solved()
    assert torch.equal(found.x["a"], known.x["a"])
    assert found.stats == known.stats


@pytest.mark.parametrize("root", [Anderson(), Broyden(), Newton()], ids=repr)
def test_equilibria_are_the_same_in_inference_mode(root):
    def found():
        u = torch.tensor([[1.0, -0.5, 0.25]])
        layer = rd.Equilibrium(lambda x, u: -3 * x * u[0] + u[1], root=root)
        return layer((u, 2 * u), torch.zeros(1, 3)), layer.forward_root.iterations

    x, iterations = found()
    with torch.inference_mode():
        again, count = found()
    assert torch.equal(again, x)
    assert count == iterations


@pytest.mark.parametrize("per_sample", [False, True])
def test_single_precision_with_a_time_that_autograd_does_not_see(per_sample):
    """x' = -x·cos t, read from a time without history; x(1) = e^(-sin 1)."""
    f = lambda t, x: -x * torch.cos(t.detach()).to(x.dtype)  # noqa: E731
    control = rd.Adaptive(rtol=1e-4, atol=1e-4, per_sample=per_sample)
    x = rd.solve(f, torch.ones(2, 1), [0.0, 1.0], scheme=Rodas5P(), control=control).x[-1]
    # a few local tolerances
    torch.testing.assert_close(x, torch.full((2, 1), 0.43108), rtol=0, atol=1e-3)
