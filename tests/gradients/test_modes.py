"""Every gradient mode against finite differences, closed forms, and each other."""

import functools
import math

import pytest
import torch
from torch import nn

import residyn as rd
from residyn.schemes import Bosh3

F64, C128 = torch.float64, torch.complex128
TINY = 3000  # bytes: a leg or two of the problems here
MODES = [rd.Backprop(), rd.Checkpoint(), rd.Checkpoint(segments=3), rd.Replay(), rd.Replay(keep=0), rd.Replay(keep=TINY)]
CONTROLS = {
    "fixed": rd.Fixed(steps=4),
    "joint": rd.Adaptive(rtol=1e-3, atol=1e-4),
    "per_sample": rd.Adaptive(rtol=1e-3, atol=1e-4, per_sample=True),
}
EIGHT = rd.Fixed(steps=8)
every_mode = pytest.mark.parametrize("mode", MODES, ids=repr)
every_control = pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
T = [0.0, 0.3, 0.5, 1.2]
FEW = [rd.Backprop(), rd.Checkpoint(segments=3), rd.Replay(keep=0), rd.Replay(keep=TINY)]


def net(dtype=F64, width=5):
    """The same numbers in every precision."""
    made = nn.Sequential(nn.Linear(3, width, dtype=dtype), nn.Tanh(), nn.Linear(width, 2, dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        wide = torch.randn(parameter.shape, dtype=C128 if dtype.is_complex else F64, generator=generator)
        parameter.data.copy_(0.5 * wide)
    return made


class Field(nn.Module):
    """A network of the state and the time."""

    def __init__(self, dtype=F64):
        super().__init__()
        self.net = net(dtype)

    def forward(self, t, x):
        return self.net(torch.cat([x, (t + 0 * x[..., :1].real).to(x.dtype)], -1))


def x0_of(dtype=F64, batch=3, device="cpu"):
    generator = torch.Generator().manual_seed(1)
    wide = torch.complex128 if dtype.is_complex else F64
    return torch.randn(batch, 2, dtype=wide, generator=generator).to(device, dtype).requires_grad_()


def pulled(mode, control, scheme=None, *, dtype=F64, t=T, f=None, device="cpu"):
    """Values, and gradients of a fixed weighting of all reports to x0 and the parameters."""
    f = (Field(dtype) if f is None else f).to(device)
    x0 = x0_of(dtype, device=device)
    x = rd.solve(f, x0, t, scheme=scheme or rd.Dopri5(), control=control, gradient=mode).x
    weights = torch.randn(x.shape, dtype=F64, generator=torch.Generator().manual_seed(2)).to(x)
    loss = (weights * x).sum()
    loss = loss.real if loss.is_complex() else loss
    return x.detach(), torch.autograd.grad(loss, [x0, *f.parameters()])


# gradcheck: every mode, real and complex, x0 and parameters, whole trajectories


@pytest.mark.parametrize("mode", FEW, ids=repr)
@every_control
@pytest.mark.parametrize("dtype", [F64, C128])
def test_gradcheck(mode, control, dtype):
    def run(x0, rate, drift):
        def f(t, x, rate, drift):
            return -rate * x**2 + drift * torch.cos(t)

        # finite differences would see the steps move with the data, so adaptive control is made to keep them
        kept = control
        if not isinstance(control, rd.Fixed):
            kept = rd.Adaptive(rtol=0.5, atol=10.0, first_step=0.2, max_step=0.2, per_sample=control.per_sample)
        return rd.solve(f, x0, [0.0, 0.3, 0.7], args=(rate, drift), control=kept, scheme=rd.Dopri5(), gradient=mode).x

    x0 = x0_of(dtype, batch=2)[:, :1].detach().requires_grad_()
    rate, drift = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.3, -0.7))
    assert torch.autograd.gradcheck(run, (x0, rate, drift), check_undefined_grad=False)


@pytest.mark.parametrize("mode", [rd.Backprop(), rd.Checkpoint(), rd.Replay()], ids=repr)
def test_gradgradcheck(mode):
    """Replay leaves a problem this small to autograd."""

    def run(x0, rate):
        return rd.solve(
            lambda t, x, r: -r * x**2 + torch.cos(t),
            x0,
            T,
            args=(rate,),
            scheme=rd.RK4(),
            control=rd.Fixed(steps=2),
            gradient=mode,
        ).x

    x0 = x0_of(batch=1)[:, :1].detach().requires_grad_()
    assert torch.autograd.gradgradcheck(run, (x0, torch.tensor(0.3, dtype=F64, requires_grad=True)))


def test_replay_says_that_it_can_not_be_differentiated_twice():
    x0 = x0_of()
    x = rd.solve(lambda t, x: -(x**2), x0, T, gradient=rd.Replay(keep=0)).x
    (once,) = torch.autograd.grad(x.sum(), x0, create_graph=True)
    with pytest.raises(
        rd.InputError, match=r"`gradient` must be one that can be differentiated twice, got Replay.*Backprop\(\) or Ch"
    ):
        torch.autograd.grad(once.sum(), x0)


# Modes against each other


@pytest.mark.parametrize(
    "scheme", [rd.Euler(), rd.Midpoint(), rd.Heun(), Bosh3(), rd.RK4(), rd.Tsit5(), rd.Dopri5(), rd.Dopri8()], ids=repr
)
@every_control
@pytest.mark.parametrize("dtype", [F64, C128])
def test_all_modes_give_one_gradient(scheme, control, dtype):
    if scheme.error_order == 0 and not isinstance(control, rd.Fixed):
        control = rd.Fixed(steps=3)
    x, wanted = pulled(MODES[0], control, scheme, dtype=dtype)
    for mode in FEW[1:]:
        x_other, found = pulled(mode, control, scheme, dtype=dtype)
        # sums of the same numbers in another order
        torch.testing.assert_close(x_other, x, rtol=1e-12, atol=1e-13)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("keep", [0, 1, 500, TINY, 10 * TINY, 2**20, 2**40])
@every_control
@pytest.mark.parametrize("t", [T, T[::-1]], ids=["forwards", "backwards"])
def test_replay_is_backprop_whatever_it_keeps(keep, control, t):
    x, wanted = pulled(rd.Backprop(), control, t=t)
    x_other, found = pulled(rd.Replay(keep=keep), control, t=t)
    assert torch.equal(x_other, x)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@every_mode
@every_control
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("device", DEVICES)
def test_single_precision_on_every_device(mode, control, dtype, device):
    double = F64 if dtype == torch.float32 else C128
    _, wanted = pulled(rd.Backprop(), rd.Adaptive(rtol=1e-9), dtype=double)
    _, found = pulled(mode, rd.Fixed(steps=4) if isinstance(control, rd.Fixed) else control, dtype=dtype, device=device)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.cpu().to(double), b, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("mode", FEW, ids=repr)
@pytest.mark.parametrize("control", [CONTROLS["fixed"], CONTROLS["joint"]], ids=["fixed", "joint"])
def test_torchdiffeq_gives_the_same_gradient(mode, control):
    odeint = pytest.importorskip("torchdiffeq").odeint
    f, x0 = Field(), x0_of()
    t = torch.tensor(T, dtype=F64)
    x = odeint(f, x0, t, rtol=1e-9, atol=1e-11)
    wanted = torch.autograd.grad(x.pow(2).sum(), [x0, *f.parameters()])
    control = EIGHT if isinstance(control, rd.Fixed) else rd.Adaptive(rtol=1e-9, atol=1e-11)
    x = rd.solve(f, x0, t, scheme=rd.Dopri8(), control=control, gradient=mode).x
    found = torch.autograd.grad(x.pow(2).sum(), [x0, *f.parameters()])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


# Structures


@every_mode
@every_control
def test_structures_of_real_and_complex(mode, control):
    """d/dr of a = a0·exp(-r) and z = z0·exp(i·r·k): closed forms."""
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    a0 = torch.ones(2, 3, dtype=F64, requires_grad=True)
    z0 = torch.full((2,), 1 + 1j, dtype=C128, requires_grad=True)
    control = rd.Fixed(steps=40) if isinstance(control, rd.Fixed) else rd.Adaptive(rtol=1e-9, per_sample=control.per_sample)
    solution = rd.solve(
        lambda t, s: {"z": 1j * rate * s["z"], "a": -rate * s["a"]}, {"a": a0, "z": z0}, [0.0, 0.5, 1.0],
        scheme=rd.Dopri5(), control=control, gradient=mode,
    )  # fmt: skip
    loss = solution.x["a"][-1].sum() + solution.x["z"][-1].imag.sum()
    by_rate, by_a, by_z = torch.autograd.grad(loss, (rate, a0, z0))
    turn = torch.exp(1j * rate.detach())
    expected = -6 * torch.exp(-rate.detach()) + 2 * (1j * turn * (1 + 1j)).imag
    torch.testing.assert_close(by_rate, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(by_a, torch.full_like(a0, math.exp(-0.7)), rtol=1e-6, atol=0)
    # d Im(w·z0)/dz0, by autograd's convention the conjugate of i·w
    torch.testing.assert_close(by_z, (torch.tensor(1j) * turn.conj()).expand(2).to(C128), rtol=1e-6, atol=1e-7)


# Times that want a gradient


@every_mode
@every_control
@pytest.mark.parametrize("own", [False, True])
def test_gradient_to_the_times(mode, control, own):
    """Against the closed form x = x0·exp(sin t - sin t0)."""
    control = rd.Fixed(steps=40) if isinstance(control, rd.Fixed) else rd.Adaptive(rtol=1e-9, per_sample=control.per_sample)
    t = torch.tensor([[0.1, 0.5, 1.0], [0.3, 0.2, -1.0]] if own else [0.1, 0.5, 1.0], dtype=F64, requires_grad=True)
    x0 = torch.tensor([[1.0], [2.0]], dtype=F64)
    x = rd.solve(lambda t, x: x * torch.cos(t), x0, t, scheme=rd.Dopri5(), control=control, gradient=mode).x
    exact = x0 * torch.exp(torch.sin(t) - torch.sin(t[..., :1])).expand(2, 3).T[..., None]
    weights = torch.arange(1.0, 7.0, dtype=F64).reshape(3, 2, 1)
    (found,) = torch.autograd.grad((weights * x).sum(), t)
    (wanted,) = torch.autograd.grad((weights * exact).sum(), t)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@every_mode
def test_a_time_that_is_learned_stands_in_a_list(mode):
    end = torch.tensor(1.0, requires_grad=True)
    x = rd.solve(lambda t, x: -x, torch.ones(1, dtype=F64), [0.0, end], gradient=mode).x[-1]
    x.sum().backward()
    assert float(end.grad) == pytest.approx(-math.exp(-1), rel=1e-5)


def test_times_want_a_gradient_where_the_loop_is_collapsed():
    branch = rd.branch.Spectral(torch.tensor([-1.0], dtype=F64))
    t = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    x = rd.solve(rd.autonomous(branch), torch.ones(1, dtype=F64), t, scheme=rd.RK4(), control=rd.Fixed(steps=50)).x
    (found,) = torch.autograd.grad(x[-1].sum(), t)
    torch.testing.assert_close(found, torch.tensor([math.exp(-1), -math.exp(-1)], dtype=F64), rtol=1e-5, atol=0)


# Where parameters may hide


def rate_grad(mode, make):
    """d/dw of x(1) = exp(-2w) at w = 0.5, with f made from the leaf w; the closed form is -2·exp(-1)."""
    w = torch.tensor(0.5, dtype=F64, requires_grad=True)
    f, args = make(w)
    x = rd.solve(
        f, torch.ones(1, dtype=F64), [0.0, 1.0], args=args, scheme=rd.Dopri5(), control=CONTROLS["fixed"], gradient=mode
    ).x[-1]
    (found,) = torch.autograd.grad(x.sum(), w)
    return float(found)


class Holder(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = w  # a plain attribute: no parameter, as w is none

    def forward(self, t, x):
        return -2 * self.w * x


class Bound:
    def __init__(self, w):
        self.w = w

    def rhs(self, t, x):
        return -2 * self.w * x

    def __call__(self, t, x):
        return -2 * self.w * x


class WithBuffer(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.register_buffer("w", w)

    def forward(self, t, x):
        return -2 * self.w * x


def decay(v):
    return lambda t, x: -v * x


def decay_by(held):
    return lambda t, x: -2 * held[0] * x


def closed_over_twice(w):
    return lambda t, x, v: -(w + v) * x, (w,)


HIDING = {
    "closure": lambda w: (lambda t, x: -2 * w * x, ()),
    "non_leaf": lambda w: (decay(2 * w), ()),
    "deep_non_leaf": lambda w: (decay(torch.log(torch.exp(2 * w))), ()),
    "default": lambda w: ((lambda t, x, v=w: -2 * v * x), ()),
    "partial": lambda w: (functools.partial(lambda v, t, x: -2 * v * x, w), ()),
    "args": lambda w: (lambda t, x, v: -2 * v * x, (w,)),
    "args_non_leaf": lambda w: (lambda t, x, v: -v * x, (2 * w,)),
    "args_nested": lambda w: (lambda t, x, d: -d["a"][1] * x * d["c"], ({"a": [None, 2 * w], "c": 1.0},)),
    "args_twice": lambda w: (lambda t, x, u, v: -(u + v) * x, (w, w)),
    "args_and_closure": closed_over_twice,
    "buffer": lambda w: (WithBuffer(w), ()),
    "attribute": lambda w: (Holder(w), ()),
    "method": lambda w: (Bound(w).rhs, ()),
    "callable_object": lambda w: (Bound(w), ()),
    "list": lambda w: (decay_by([w]), ()),
    "autonomous": lambda w: (rd.autonomous(lambda x: -2 * w * x), ()),
}


@every_mode
@pytest.mark.parametrize("where", HIDING)
def test_wherever_a_parameter_hides(mode, where):
    assert rate_grad(mode, HIDING[where]) == pytest.approx(-2 * math.exp(-1), rel=1e-5)


@every_mode
def test_x0_in_the_closure_and_as_a_parameter(mode):
    """x' = x0 - 2x with x(0) = x0 gives x(1) = x0·(1 + e^-2)/2."""
    x0 = torch.ones(1, dtype=F64, requires_grad=True)
    x = rd.solve(lambda t, x: x0 - 2 * x, x0, [0.0, 1.0], gradient=mode, scheme=rd.Dopri5(), control=rd.Fixed(steps=10)).x[-1]
    (found,) = torch.autograd.grad(x.sum(), x0)
    assert float(found) == pytest.approx((1 + math.exp(-2)) / 2, rel=1e-6)


@every_mode
def test_x0_computed_from_the_same_leaf_as_f(mode):
    w = torch.tensor(0.5, dtype=F64, requires_grad=True)
    x0 = 3 * w * torch.ones(1, dtype=F64)
    x = rd.solve(lambda t, x: -2 * w * x, x0, [0.0, 1.0], gradient=mode).x[-1]
    (found,) = torch.autograd.grad(x.sum(), w)
    assert float(found) == pytest.approx(3 * math.exp(-1) * (1 - 2 * 0.5), abs=1e-5)


def late(kind, w):
    """A field that looks at w only from t = 1/2 on."""

    def forward(t, x):
        return -2 * w * x if t >= 0.5 else -x

    if kind == "function":
        return forward

    class Late(nn.Module):
        def forward(self, t, x):
            return forward(t, x)

    class LateParameter(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(w.detach().clone())

        def forward(self, t, x):
            return -2 * self.w * x if t >= 0.5 else -x

    return Late() if kind == "module" else LateParameter()


@pytest.mark.parametrize("kind", ["function", "module"])
@pytest.mark.parametrize("control", [rd.Fixed(steps=8), rd.Adaptive()], ids=["fixed", "adaptive"])
def test_a_tensor_used_only_later_is_never_missed_silently(kind, control):
    w = torch.tensor(0.5, dtype=F64, requires_grad=True)
    x0 = torch.ones(1, dtype=F64, requires_grad=True)
    x = rd.solve(late(kind, w), x0, [0.0, 1.0], scheme=rd.Dopri5(), control=control, gradient=rd.Replay(keep=0)).x[-1]
    words = r"`f` must use the same tensors at every time, got one of shape \(\).*`args`, make f an nn.Module.*Checkpoint\(\)"
    with pytest.raises(rd.InputError, match=words):
        x.sum().backward()


@pytest.mark.parametrize("mode", [rd.Backprop(), rd.Checkpoint(), rd.Replay()], ids=repr)
def test_a_tensor_used_only_later_gets_its_gradient_elsewhere(mode):
    w = torch.tensor(0.5, dtype=F64, requires_grad=True)
    x0 = torch.ones(1, dtype=F64, requires_grad=True)
    x = rd.solve(late("function", w), x0, [0.0, 0.5, 1.0], scheme=rd.RK4(), control=rd.Fixed(steps=40), gradient=mode).x[-1]
    (found,) = torch.autograd.grad(x.sum(), w)
    assert float(found) == pytest.approx(-math.exp(-1), rel=2e-2)  # f jumps within a step that ends at the jump


@every_mode
def test_a_parameter_used_only_later(mode):
    f = late("parameter", torch.tensor(0.5, dtype=F64))
    x0 = torch.ones(1, dtype=F64)
    x = rd.solve(f, x0, [0.0, 0.5, 1.0], scheme=rd.RK4(), control=rd.Fixed(steps=40), gradient=mode).x[-1]
    x.sum().backward()
    assert float(f.w.grad) == pytest.approx(-math.exp(-1), rel=2e-2)


# What f need not do


@every_mode
def test_f_that_ignores_the_state(mode):
    w = torch.tensor([2.0], dtype=F64, requires_grad=True)
    x0 = torch.zeros(1, dtype=F64, requires_grad=True)
    x = rd.solve(lambda t, x: w * torch.cos(t), x0, [0.0, 1.0], gradient=mode).x[-1]
    by_w, by_x = torch.autograd.grad(x.sum(), (w, x0))
    assert float(by_w) == pytest.approx(math.sin(1), rel=1e-5)
    assert float(by_x) == 1.0


@every_mode
def test_f_that_depends_on_nothing(mode):
    x0 = torch.zeros(2, dtype=F64, requires_grad=True)
    x = rd.solve(lambda t, x: torch.ones(2, dtype=F64), x0, [0.0, 1.0], gradient=mode).x[-1]
    x.sum().backward()
    torch.testing.assert_close(x0.grad, torch.ones(2, dtype=F64))


@every_mode
@every_control
def test_parameters_alone_want_a_gradient(mode, control):
    f, x0 = Field(), x0_of().detach()
    x = rd.solve(f, x0, T, scheme=rd.Dopri5(), control=control, gradient=mode).x
    found = torch.autograd.grad(x.pow(2).sum(), list(f.parameters()))
    x = rd.solve(f, x0, T, scheme=rd.Dopri5(), control=control, gradient=rd.Backprop()).x
    wanted = torch.autograd.grad(x.pow(2).sum(), list(f.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@every_mode
def test_frozen_parameters_get_none(mode):
    f, x0 = Field(), x0_of()
    frozen = next(f.parameters())
    frozen.requires_grad_(False)
    rd.solve(f, x0, T, gradient=mode).x.sum().backward()
    assert frozen.grad is None
    assert all(p.grad is not None for p in f.parameters() if p is not frozen)


@every_mode
def test_a_parameter_that_f_does_not_use(mode):
    f = Field()
    f.spare = nn.Parameter(torch.ones(3))
    rd.solve(f, x0_of(), T, gradient=mode).x.sum().backward()
    assert f.spare.grad is None or not bool(f.spare.grad.any())


@every_mode
@every_control
def test_no_grad_gives_no_graph(mode, control):
    with torch.no_grad():
        x = rd.solve(Field(), x0_of(), T, scheme=rd.Dopri5(), control=control, gradient=mode).x
    assert not x.requires_grad
    assert torch.equal(x, rd.solve(Field(), x0_of(), T, scheme=rd.Dopri5(), control=control, gradient=rd.Backprop()).x.detach())


@every_mode
def test_nothing_wants_a_gradient(mode):
    f = Field().requires_grad_(False)
    assert not rd.solve(f, x0_of().detach(), T, gradient=mode).x.requires_grad


@every_mode
def test_gradients_add_up_over_two_passes(mode):
    f, x0 = Field(), x0_of()
    for _ in range(2):
        rd.solve(f, x0, T, gradient=mode).x.sum().backward()
    twice = x0.grad.clone()
    x0.grad = None
    rd.solve(f, x0, T, gradient=mode).x.sum().backward()
    torch.testing.assert_close(twice, 2 * x0.grad, rtol=1e-14, atol=0)


@every_mode
def test_the_graph_may_be_walked_twice(mode):
    x0 = x0_of()
    x = rd.solve(Field(), x0, T, gradient=mode).x
    first = torch.autograd.grad(x[-1].sum(), x0, retain_graph=True)[0]
    second = torch.autograd.grad(x[-1].sum(), x0)[0]
    assert torch.equal(first, second)


@every_mode
def test_a_field_that_differentiates_inside(mode):
    """A Hamiltonian network: ẋ = J·∇H."""
    energy = nn.Sequential(nn.Linear(2, 4, dtype=F64), nn.Tanh(), nn.Linear(4, 1, dtype=F64))

    class Hamiltonian(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = energy

        def forward(self, t, x):
            with torch.enable_grad():
                x = x if x.requires_grad else x.detach().requires_grad_()
                (g,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
            return torch.stack([g[..., 1], -g[..., 0]], -1)

    def grads(mode):
        x0 = x0_of()
        f = Hamiltonian()
        x = rd.solve(f, x0, T, scheme=rd.Dopri5(), control=rd.Fixed(steps=4), gradient=mode).x
        return torch.autograd.grad(x.pow(2).sum(), [x0, *list(energy.parameters())[:3]])

    for a, b in zip(grads(mode), grads(rd.Backprop()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@every_mode
def test_a_potential_as_a_branch(mode):
    stiffness = torch.tensor(0.5, dtype=F64, requires_grad=True)
    branch = rd.branch.Gradient(lambda x: stiffness * (x**2).sum(-1))
    x = rd.solve(rd.autonomous(branch), torch.ones(1, 1, dtype=F64), [0.0, 1.0], gradient=mode).x[-1]
    (found,) = torch.autograd.grad(x.sum(), stiffness)
    assert float(found) == pytest.approx(-2 * math.exp(-1), rel=1e-5)


@pytest.mark.parametrize("mode", MODES, ids=repr)
def test_a_field_with_transforms_of_torch_func(mode):
    """What f does with torch.func either works or is an error that says what does."""
    w = torch.tensor(0.5, dtype=F64, requires_grad=True)

    def f(t, x):
        return -torch.func.grad(lambda z: w * (z**2).sum())(x)

    def run():
        x = rd.solve(f, torch.ones(1, dtype=F64), [0.0, 1.0], gradient=mode).x[-1]
        return torch.autograd.grad(x.sum(), w)[0]

    if isinstance(mode, rd.Checkpoint):
        with pytest.raises(rd.InputError, match=r"`gradient` must be Replay\(\) or Backprop\(\) where f uses torch.func.grad"):
            run()
    else:
        assert float(run()) == pytest.approx(-2 * math.exp(-1), rel=1e-5)


# Random numbers


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.w = nn.Parameter(torch.randn(2, 2, dtype=F64))
        self.drop = nn.Dropout(0.5)

    def forward(self, t, x):
        return torch.tanh(self.drop(x) @ self.w)


@pytest.mark.parametrize("mode", [rd.Replay(keep=0), rd.Replay(keep=TINY), rd.Replay()], ids=repr)
@pytest.mark.parametrize(
    ("scheme", "control"),
    [
        *((scheme, rd.Fixed(steps=5)) for scheme in (rd.Euler(), rd.RK4(), rd.Dopri5(), rd.Dopri8())),
        *((scheme, rd.Adaptive(rtol=0.3, atol=0.3, max_steps=50)) for scheme in (rd.Heun(), rd.Dopri5(), rd.Dopri8())),
    ],
    ids=repr,
)
def test_random_numbers_are_drawn_once(mode, scheme, control):

    def run(mode):
        f, x0 = Noisy(), x0_of()
        torch.manual_seed(7)
        x = rd.solve(f, x0, T, scheme=scheme, control=control, gradient=mode).x
        state = torch.get_rng_state()
        grads = torch.autograd.grad(x.pow(2).sum(), [x0, f.w])
        assert torch.equal(torch.get_rng_state(), state)  # the way back leaves the stream alone
        return [x.detach(), *grads]

    for a, b in zip(run(mode), run(rd.Backprop()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("scheme", [rd.Euler(), rd.RK4(), rd.Dopri5()], ids=repr)
def test_random_numbers_under_checkpoint_are_those_of_the_values(scheme):
    """The gradient is that of the values returned: linear in x0, so x = G·x0 with the gradient G."""
    w = 0.3 * torch.randn(2, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    x0 = torch.randn(2, dtype=F64, requires_grad=True)
    x = rd.solve(
        lambda t, x: torch.nn.functional.dropout(x @ w, 0.5),
        x0,
        T,
        scheme=scheme,
        control=rd.Fixed(steps=5),
        gradient=rd.Checkpoint(),
    ).x[-1]
    g = torch.stack([torch.autograd.grad(x[i], x0, retain_graph=True)[0] for i in range(2)])
    torch.testing.assert_close(g @ x0, x, rtol=1e-12, atol=1e-13)


def test_random_numbers_that_begin_later_are_an_error():
    def f(t, x):
        return -torch.nn.functional.dropout(x, 0.5) if t >= 0.5 else -x

    x0 = torch.ones(4, dtype=F64, requires_grad=True)
    x = rd.solve(f, x0, [0.0, 1.0], scheme=rd.RK4(), control=rd.Fixed(steps=8), gradient=rd.Replay(keep=0)).x
    with pytest.raises(rd.InputError, match=r"`f` must draw random numbers from t\[0\] on.*gradient=Checkpoint\(\)"):
        x.sum().backward()


# The values of each


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rd.Replay(keep=-1), "`keep` must be a number of bytes ≥ 0, got -1"),
        (lambda: rd.Replay(keep="all"), "`keep` must be a number of bytes ≥ 0, got 'all'"),
        (lambda: rd.Checkpoint(segments=0), "`segments` must be a whole number of at least 1, or None, got 0"),
        (lambda: rd.Checkpoint(segments=1.5), "`segments` must be a whole number of at least 1, or None, got 1.5"),
    ],
)
def test_modes_check_themselves(make, words):
    with pytest.raises(rd.InputError, match=words):
        make()
