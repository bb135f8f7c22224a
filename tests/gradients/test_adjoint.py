"""The continuous adjoint against closed forms, the discrete gradient at tight tolerance, and finite differences."""

import pytest
import torch

import residyn as rd

# Both solves hold their local errors to rtol = 1e-9; over spans of order one their sum stays below 1e3 of it, relative to
# gradients of order one to ten. Replay is exact for its steps, which lie as close to the flow.
TIGHT = rd.Adaptive(rtol=1e-9, atol=1e-11)
CLOSE = {"rtol": 1e-6, "atol": 1e-7}


def _net(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()


def _gradients(mode, control, t):
    """Gradients of a loss on all reported states by x0, an argument, the times, and captured parameters."""
    net = _net()
    x0 = (torch.arange(1, 5, dtype=torch.float64)[:, None] / torch.tensor([4.0, 5.0, 6.0])).requires_grad_()
    s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    t = t.clone().requires_grad_()
    solution = rd.solve(lambda t, x, s: net(x) * s + 0.1 * torch.sin(t), x0, t, args=(s,), gradient=mode, control=control)
    (solution.x[1:].sin().sum() + solution.x[1].pow(2).sum()).backward()
    return [x0.grad, s.grad, t.grad, *(p.grad for p in net.parameters())]


FORTH = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)
OWN = FORTH + torch.linspace(0, 0.6, 4, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("seminorm", [True, False])
@pytest.mark.parametrize("t", [FORTH, FORTH.flip(0), OWN], ids=["forwards", "backwards", "times of their own"])
@pytest.mark.parametrize(
    "control",
    [TIGHT, rd.Adaptive(rtol=1e-9, atol=1e-11, per_sample=True), rd.Fixed(steps=60)],
    ids=["joint", "per sample", "fixed"],
)
def test_equals_the_discrete_gradient_where_both_are_tight(control, t, seminorm):
    expected = _gradients(rd.Replay(), control, t)
    found = _gradients(rd.Adjoint(seminorm=seminorm), control, t)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_linear_decay_has_its_closed_form():
    # x(T) = x0·exp(-kT): ∂x/∂x0 = exp(-kT), ∂x/∂k = -T·x, ∂x/∂T = -k·x
    k = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    x0 = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.8], dtype=torch.float64, requires_grad=True)
    x = rd.solve(lambda t, x: -k * x, x0, t, gradient=rd.Adjoint(), control=TIGHT).x[-1]
    x.sum().backward()
    decay = torch.exp(torch.tensor(-1.3 * 0.8, dtype=torch.float64))
    torch.testing.assert_close(x0.grad, decay[None], **CLOSE)
    torch.testing.assert_close(k.grad, -0.8 * 2 * decay, **CLOSE)
    torch.testing.assert_close(t.grad, torch.stack([1.3 * 2 * decay, -1.3 * 2 * decay]), **CLOSE)


def test_complex_states_give_real_parameters_real_gradients():
    # x = x0·exp((i·w - k)·T), L = Re(c̄·x): ∂L/∂w = Re(c̄·iT·x), ∂L/∂k = -T·Re(c̄·x); for x0 torch returns conj(∂x/∂x0)·c
    w, k = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (2.0, 0.3))
    x0 = torch.tensor([1.0 + 0.5j, -0.2 + 1.0j], dtype=torch.complex128, requires_grad=True)
    c = torch.tensor([0.3 - 1.0j, 2.0 + 0.1j], dtype=torch.complex128)
    x = rd.solve(lambda t, x: (1j * w - k) * x, x0, [0.0, 1.5], gradient=rd.Adjoint(), control=TIGHT).x[-1]
    (c.conj() * x).real.sum().backward()
    turn = torch.exp(torch.tensor((2j - 0.3) * 1.5, dtype=torch.complex128))
    end = turn * x0.detach()
    assert w.grad.dtype == torch.float64
    torch.testing.assert_close(w.grad, (c.conj() * 1.5j * end).real.sum(), **CLOSE)
    torch.testing.assert_close(k.grad, -1.5 * (c.conj() * end).real.sum(), **CLOSE)
    torch.testing.assert_close(x0.grad, turn.conj() * c, **CLOSE)


def test_complex_state_agrees_with_autograd_per_sample_too():
    def grads(mode):
        w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        x0 = torch.tensor([[1.0 + 0.5j, 0.3j], [0.2 + 0.1j, 1.0]], dtype=torch.complex128, requires_grad=True)
        control = rd.Adaptive(rtol=1e-9, atol=1e-11, per_sample=True)
        x = rd.solve(lambda t, x: 1j * w * x * x.abs(), x0, [0.0, 1.0], gradient=mode, control=control).x[-1]
        (x.real + x.imag.sin()).sum().backward()
        return x0.grad, w.grad

    for a, b in zip(grads(rd.Adjoint()), grads(rd.Backprop()), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_states_of_several_tensors():
    def grads(mode):
        k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        x0 = {"q": torch.tensor([1.0], dtype=torch.float64, requires_grad=True), "p": torch.zeros(1, dtype=torch.float64)}
        x = rd.solve(lambda t, x: {"q": x["p"], "p": -k * x["q"]}, x0, [0.0, 1.0], gradient=mode, control=TIGHT).x
        (x["q"][-1] + 2 * x["p"][-1]).sum().backward()
        return x0["q"].grad, k.grad

    for a, b in zip(grads(rd.Adjoint()), grads(rd.Backprop()), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_single_precision_parameters_keep_their_dtype():
    net = torch.nn.Linear(2, 2)
    x0 = torch.ones(3, 2)
    rd.solve(lambda t, x: net(x), x0, [0.0, 1.0], gradient=rd.Adjoint(), control=rd.Adaptive(rtol=1e-4)).x[-1].sum().backward()
    assert net.weight.grad is not None
    assert net.weight.grad.dtype == torch.float32


def test_nothing_is_kept_between_reported_times():
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    x0 = torch.ones(100, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        solution = rd.solve(lambda t, x: torch.sin(20 * t) * x, x0, [0.0, 1.0], gradient=rd.Adjoint(), control=TIGHT)
    assert solution.stats.accepted > 20
    # two reported states, and the one evaluation that looks for captured tensors (sin's cosine, two factors)
    assert sum(kept) <= 2 * 100 + 2 * 100 + 10


def test_seminorm_takes_fewer_evaluations():
    def cost(seminorm):
        net, calls = _net(), [0]

        def f(t, x):
            calls[0] += 1
            return net(x) * torch.sin(9 * t)

        x0 = torch.ones(2, 3, dtype=torch.float64)
        mode = rd.Adjoint(seminorm=seminorm)
        x = rd.solve(f, x0, [0.0, 4.0], gradient=mode, control=rd.Adaptive(rtol=1e-6, atol=1e-9)).x[-1]
        calls[0] = 0
        # the gradient of g is a hundred times that of x here, so a norm over both is ruled by g
        (100 * x.sum()).backward()
        return calls[0]

    assert cost(True) <= cost(False)


def test_own_backward_control_and_scheme():
    x0 = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    mode = rd.Adjoint(scheme=rd.RK4(), control=rd.Fixed(steps=50))
    rd.solve(lambda t, x: -x, x0, [0.0, 1.0], gradient=mode, control=TIGHT).x[-1].sum().backward()
    # RK4 errs by h⁵/120 a step: 50·(1/50)⁵/120 ≈ 1.3e-9
    torch.testing.assert_close(x0.grad, torch.exp(torch.tensor([-1.0], dtype=torch.float64)), rtol=1e-8, atol=0)


def test_atol_as_a_tensor():
    control = rd.Adaptive(rtol=1e-8, atol=torch.tensor([1e-8, 1e-10], dtype=torch.float64))
    k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    x0 = torch.tensor([1.0 + 1j, 2.0], dtype=torch.complex128, requires_grad=True)
    rd.solve(lambda t, x: -k * x, x0, [0.0, 1.0], gradient=rd.Adjoint(), control=control).x[-1].abs().sum().backward()
    expected = -torch.exp(torch.tensor(-1.0, dtype=torch.float64)) * (2**0.5 + 2)
    torch.testing.assert_close(k.grad, expected, rtol=1e-5, atol=0)


def test_random_fields_are_refused():
    x0 = torch.ones(3, requires_grad=True)
    with pytest.raises(rd.InputError, match=r"`gradient` must not be Adjoint\(\) where f draws random numbers.*Replay"):
        rd.solve(lambda t, x: x * torch.rand(()), x0, [0.0, 1.0], gradient=rd.Adjoint())


def test_a_backward_solve_that_fails_says_so():
    # forwards a mode of rate -400 just decays; backwards it grows by e^400, beyond any step count
    x0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    mode = rd.Adjoint(control=rd.Adaptive(rtol=1e-9, max_steps=30))
    x = rd.solve(lambda t, x: -400 * (x - torch.cos(t)), x0, [0.0, 1.0], gradient=mode, control=TIGHT).x[-1]
    with pytest.raises(rd.SolveError, match="the backward solve of the adjoint failed.*gradient=Replay"):
        x.sum().backward()


def test_a_field_of_nothing_has_no_gradient_to_give():
    x0 = torch.ones(2, requires_grad=True)
    x = rd.solve(lambda t, x: torch.ones(2), x0, [0.0, 1.0], gradient=rd.Adjoint()).x[-1]
    x.sum().backward()
    torch.testing.assert_close(x0.grad, torch.ones(2))


def test_single_precision_per_sample():
    net = torch.nn.Linear(2, 2)
    x0 = torch.ones(3, 2, requires_grad=True)
    control = rd.Adaptive(rtol=1e-4, per_sample=True)

    def gradients(mode):
        x = rd.solve(lambda t, x: torch.tanh(net(x)) * t, x0, [0.0, 1.0], gradient=mode, control=control).x[-1]
        return torch.autograd.grad(x.sum(), (x0, net.weight))

    for a, b in zip(gradients(rd.Adjoint()), gradients(rd.Replay()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
