"""Solves inside vmap, jvp, jacfwd, grad, their nestings, and with dual numbers: each against plain autograd."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import residyn as rd
from residyn import schemes

# torch's own forward mode loads its decompositions by torch.jit.script, and warns of that
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

F64 = torch.float64
X0 = torch.tensor([1.0, 0.5], dtype=F64)
A = torch.tensor(0.7, dtype=F64)
EXPLICIT = [getattr(schemes, name)() for name in ("Euler", "Midpoint", "Heun", "RK4", "Bosh3", "Tsit5", "Dopri5", "Dopri8")]
IMPLICIT = [schemes.BackwardEuler(), schemes.ImplicitMidpoint(), schemes.Trapezoid(), rd.Kvaerno5(), rd.Rodas5P()]
SCHEMES = [*EXPLICIT, *IMPLICIT, schemes.CoupledReversible(rd.RK4())]
FIXED, JOINT, OWN = rd.Fixed(steps=3), rd.Adaptive(rtol=1e-5), rd.Adaptive(rtol=1e-5, per_sample=True)
CASES = [(scheme, FIXED) for scheme in SCHEMES]
CASES += [(scheme, control) for scheme in (rd.Dopri5(), rd.Kvaerno5(), rd.Rodas5P()) for control in (JOINT, OWN)]
each = pytest.mark.parametrize("scheme, control", CASES, ids=lambda item: repr(item)[:40])
MODES = [rd.Backprop(), rd.Checkpoint(), rd.Replay(keep=0), rd.Adjoint()]


def field(t, x, a):
    """Stiff enough to matter, not autonomous, and its components are coupled."""
    return -a * x**3 + torch.sin(t) * x.flip(-1)


def run(x0, a=A, scheme=None, control=FIXED, gradient=None):
    x0 = x0 if not getattr(control, "per_sample", False) else x0.expand(2, 2)
    return rd.solve(field, x0, [0.0, 1.0], args=(a,), scheme=scheme, control=control, gradient=gradient).x[-1]


def close(found, wanted):
    # Newton's own tolerance, 3e-7 of the state at most, is all that a derivative by another way may differ by
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@each
def test_derivatives_forwards_and_backwards_are_those_of_autograd(scheme, control):
    def f(x0):
        return run(x0, scheme=scheme, control=control, gradient=rd.Backprop())

    wanted = torch.autograd.functional.jacobian(f, X0)
    close(jacfwd(f)(X0), wanted)
    close(jvp(f, (X0,), (torch.ones(2, dtype=F64),))[1], wanted.sum(-1))
    close(grad(lambda x: f(x).sum())(X0), wanted.reshape(-1, 2).sum(0))
    by_a = torch.autograd.functional.jacobian(lambda a: run(X0, a, scheme, control, rd.Backprop()), A)
    close(jvp(lambda a: run(X0, a, scheme, control), (A,), (torch.ones_like(A),))[1], by_a)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X0, torch.ones(2, dtype=F64))
        close(forward_ad.unpack_dual(f(dual)).tangent, wanted.sum(-1))


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_lanes_of_vmap_are_solved_like_the_samples_of_a_batch(scheme):
    batch = torch.stack([X0, 1.2 * X0, -X0])
    together = run(batch, scheme=scheme)
    close(vmap(lambda x: run(x, scheme=scheme))(batch), together)
    if scheme.error_order:
        # the lanes share their steps, by the mean of their errors, as the samples of a batch do; not to rounding, for Newton
        close(vmap(lambda x: run(x, scheme=scheme, control=JOINT))(batch), run(batch, scheme=scheme, control=JOINT))
    wanted = torch.stack([torch.autograd.functional.jacobian(lambda x: run(x, scheme=scheme), row) for row in batch])
    close(vmap(jacrev(lambda x: run(x, scheme=scheme)))(batch), wanted)
    close(vmap(jacfwd(lambda x: run(x, scheme=scheme)))(batch), wanted)


@pytest.mark.parametrize("scheme", [rd.RK4(), *IMPLICIT], ids=repr)
def test_second_derivatives_are_those_of_difference_quotients(scheme):
    """Also of implicit schemes, whose reverse mode outside transforms is differentiable once."""

    def f(x):
        return run(x, scheme=scheme).square().sum()

    e = 1e-4
    rows = [(grad(f)(X0 + e * d) - grad(f)(X0 - e * d)) / (2 * e) for d in torch.eye(2, dtype=F64)]
    # e² of the fourth derivative, about 10
    torch.testing.assert_close(jacfwd(grad(f))(X0), torch.stack(rows, 1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(jacrev(jacrev(f))(X0), torch.stack(rows, 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gradient", MODES, ids=repr)
@pytest.mark.parametrize("scheme", [rd.Dopri5(), rd.Kvaerno5()], ids=repr)
def test_every_gradient_mode_steps_aside_inside_a_transform(scheme, gradient):
    wanted = torch.autograd.functional.jacobian(lambda x: run(x, scheme=scheme, gradient=rd.Backprop()), X0)
    close(jacfwd(lambda x: run(x, scheme=scheme, gradient=gradient))(X0), wanted)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X0, torch.ones(2, dtype=F64))
        close(forward_ad.unpack_dual(run(dual, scheme=scheme, gradient=gradient)).tangent, wanted.sum(-1))


def test_steps_a_sample_are_refused_inside_vmap():
    with pytest.raises(rd.InputError, match="hand the whole batch to solve, without vmap"):
        vmap(lambda x: run(x, control=OWN))(torch.stack([X0, X0]))


def test_too_many_unknowns_are_refused_inside_a_transform_too():
    with pytest.raises(rd.InputError, match="at most 256 unknowns a sample"):
        jvp(lambda x: run(x, scheme=rd.Rodas5P()), (torch.ones(300, dtype=F64),), (torch.ones(300, dtype=F64),))
