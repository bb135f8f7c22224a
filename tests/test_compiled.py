"""The compiled tiers take the steps of the eager one, and return its states and gradients to rounding.

Most tests run the compiled programs as traced graphs, without machine code: that is the same arithmetic, in seconds.

Tolerances. A state is a sum of some 10 products a step; a rounding of 1.1e-16 in each is carried on by the flow, whose factor over
these spans is below 100: after 20 equal steps that is 20·10·100·1.1e-16 = 2e-12 (`FIXED`). An adaptive step of order q follows from
the error ratio r of the step before, a difference of stages that is known to 13·1.1e-16/(tol·r), so its length is to a (q+1)th of
that, and its own error tol·r' changes by 1.4e-15·r'/r. From one step to the next r may grow by 10^(q+1), but stays between 1e-6 and
1 in these problems, which makes 1.4e-9 in the state and, with the same factors, in a gradient (`ADAPTIVE`); a wrong weight or a
wrong step size shows at 1e-5. Step counts are equal unless a ratio lies that close to 1.
"""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import residyn as rd
from residyn.compiled import build, columns, field, forward, march
from residyn.errors import InputError, ResidynWarning, SolveError
from residyn.schemes import Bosh3, Dopri5, Dopri8, Euler, Heun, Midpoint, Tsit5

ADAPTIVE = {"rtol": 2e-9, "atol": 2e-9}
FIXED = {"rtol": 2e-12, "atol": 2e-12}


def interpret(function, example):
    """In the place of the compiler: the traced program, run operation by operation."""
    build.compilations += 1
    with torch.no_grad():
        return make_fx(function, tracing_mode="fake")(*example)


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setattr(build, "compile_program", interpret)
    monkeypatch.setattr(march, "has_compiler", lambda: True)


def predators(t, z, rates):
    x, y = z[..., 0], z[..., 1]
    return torch.stack((rates[0] * x - x * y + 0.1 * torch.sin(t).reshape(-1), x * y - rates[1] * y), -1)


def starts(batch=5, dtype=torch.float64):
    return torch.rand(batch, 2, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 2 + 0.5


def both(f, x0, t, tier, leaves=(), args=(), *, tol=ADAPTIVE, **options):
    """Solve with the eager and the compiled tier, with gradients; hold them together and return the compiled solution."""
    found = []
    for compiled in (None, tier):
        x = x0.detach().clone().requires_grad_()
        gradient = rd.Replay(keep=0) if compiled is None else None
        solution = rd.solve(f, x, t, args=args, compile=compiled, gradient=gradient, **options)
        weight = torch.linspace(0.5, 1.5, solution.x.numel(), dtype=x.dtype).view_as(solution.x)
        found.append((solution, torch.autograd.grad((solution.x * weight).sum(), [x, *leaves], retain_graph=True)))
    (eager, wanted), (ours, got) = found
    assert (ours.stats.accepted, ours.stats.rejected) == (eager.stats.accepted, eager.stats.rejected)
    assert ours.outcome.kind == eager.outcome.kind == "success"
    torch.testing.assert_close(ours.x, eager.x, **tol)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, **tol)
    return ours


@pytest.fixture
def rates():
    return torch.tensor([1.5, 3.0], dtype=torch.float64, requires_grad=True)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("scheme", "per_sample", "tier"),
    [
        (Dopri5(), False, "solve"),
        (Dopri5(), True, "solve"),
        pytest.param(Dopri5(), False, "step", marks=slow),
        pytest.param(Dopri5(), True, "step", marks=slow),
        pytest.param(Heun(), False, "solve", marks=slow),
        pytest.param(Bosh3(), True, "solve", marks=slow),
        pytest.param(Tsit5(), False, "solve", marks=slow),
        pytest.param(Dopri8(), False, "solve", marks=slow),
        pytest.param(Dopri8(), True, "step", marks=slow),
    ],
)
def test_adaptive_steps_states_and_gradients_are_those_of_the_eager_tier(interpreted, rates, scheme, per_sample, tier):
    control = rd.Adaptive(rtol=1e-3 if scheme.order == 2 else 1e-5, atol=1e-6, per_sample=per_sample)
    t = [0.0, 0.3, 0.31, 1.0] if tier == "solve" else [0.0, 1.0]
    both(predators, starts(), t, tier, [rates], (rates,), scheme=scheme, control=control)


@pytest.mark.parametrize(
    ("scheme", "tier"),
    [
        (rd.RK4(), "solve"),
        *(pytest.param(scheme, "solve", marks=slow) for scheme in (Euler(), Midpoint(), Heun(), Tsit5(), Dopri8())),
        pytest.param(Bosh3(), "step", marks=slow),
    ],
)
def test_fixed_steps(interpreted, rates, scheme, tier):
    control = rd.Fixed(steps=3)
    both(predators, starts(3), [1.0, 0.5, 0.0], tier, [rates], (rates,), tol=FIXED, scheme=scheme, control=control)


@slow
@pytest.mark.parametrize("control", [rd.Fixed(steps=2), rd.Adaptive(rtol=1e-5)], ids=["fixed", "adaptive"])
def test_samples_with_times_of_their_own(interpreted, rates, control):
    t = torch.tensor([[0.0, 0.4, 1.0], [0.5, 0.2, -0.5], [0.0, 0.001, 0.002]], dtype=torch.float64)
    both(predators, starts(3), t, "solve", [rates], (rates,), scheme=Dopri5(), control=control)


@slow
@pytest.mark.parametrize(
    "options",
    [
        {"first_step": 0.01},
        {"max_step": 0.05},
        {"min_step": 0.2},
        {"proportional": 0.4, "integral": 0.3},
        {"atol": torch.tensor([1e-6, 1e-4], dtype=torch.float64)},
        {"atol": 0.0},
    ],
    ids=lambda o: next(iter(o)),
)
@pytest.mark.parametrize("per_sample", [False, True])
def test_every_number_of_the_control_counts(interpreted, rates, options, per_sample):
    control = rd.Adaptive(**{"rtol": 1e-5, "per_sample": per_sample, **options})
    with torch.no_grad():
        ours, eager = (
            rd.solve(predators, starts(3), [0.0, 1.0], args=(rates,), control=control, compile=tier) for tier in ("solve", None)
        )
    assert (ours.stats.accepted, ours.stats.rejected) == (eager.stats.accepted, eager.stats.rejected)
    assert ours.outcome == eager.outcome
    torch.testing.assert_close(ours.x, eager.x, **ADAPTIVE)


@slow
def test_single_precision(interpreted):
    rates = torch.tensor([1.5, 3.0], requires_grad=True)
    # 1.2e-7 in place of 1.1e-16 in the bound above, some 10 steps
    tol = {"rtol": 1e-4, "atol": 1e-4}
    both(predators, starts(3, torch.float32), [0.0, 1.0], "solve", [rates], (rates,), tol=tol, control=rd.Adaptive(rtol=1e-4))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    def forward(self, x):
        return self.body(x)


def test_a_network_by_parameters_it_holds(interpreted):
    torch.manual_seed(0)
    net = Net()
    both(rd.autonomous(net), torch.randn(4, 3, dtype=torch.float64), [0.0, 0.5, 2.0], "solve", list(net.parameters()))


@slow
def test_a_wide_record_in_stretches(interpreted, rates, monkeypatch):
    monkeypatch.setattr(forward, "ROOM", 1)  # the least number of rows, so that a march has several stretches
    for per_sample in (False, True):
        control = rd.Adaptive(rtol=1e-7, per_sample=per_sample)
        both(predators, starts(3), [0.0, 0.6, 2.0], "solve", [rates], (rates,), control=control)


@slow
def test_structured_states_and_gradients_of_times(interpreted):
    def f(t, state):
        return {"v": -state["q"], "q": state["v"] * torch.cos(t)}

    x0 = {"q": torch.ones(2, dtype=torch.float64), "v": torch.zeros(2, dtype=torch.float64)}
    found = []
    for tier in (None, "solve"):
        t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
        x = rd.solve(f, x0, t, compile=tier).x
        found.append((x["q"], torch.autograd.grad(x["q"].sum() + x["v"][1].sum(), t)[0]))
    torch.testing.assert_close(found[0], found[1], **ADAPTIVE)


def test_interpolation_after_a_compiled_solve(interpreted, rates):
    compiled, eager = (rd.solve(predators, starts(2), [0.0, 1.0], args=(rates,), compile=tier) for tier in ("solve", None))
    torch.testing.assert_close(compiled.interpolate([0.2, 0.9]), eager.interpolate([0.2, 0.9]), **ADAPTIVE)


def test_flow(interpreted):
    net = rd.autonomous(Net())
    x0 = torch.ones(2, 3, dtype=torch.float64)
    flow = rd.Flow(net, compile="solve")
    torch.testing.assert_close(flow(x0), rd.Flow(net)(x0), **ADAPTIVE)
    assert flow.last.stats.accepted > 0


FAILING = {
    "singular": (lambda t, x: x**2, {}),
    "too many": (lambda t, x: -50 * x, {"max_steps": 7}),
    "no number": (lambda t, x: torch.sqrt(0.5 - t) * x, {}),
    "nan at once": (lambda t, x: x * torch.nan, {}),
    "kept short": (lambda t, x: torch.where(t < 0.3, x, x * torch.nan), {"min_step": 0.05}),
}


@slow
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", FAILING)
def test_failures_are_told_as_the_eager_tier_does(interpreted, name, per_sample):
    f, options = FAILING[name]
    control = rd.Adaptive(rtol=1e-4, per_sample=per_sample, **options)
    x0 = torch.tensor([[0.5], [1.5]], dtype=torch.float64)
    eager, ours = (rd.solve(f, x0, [0.0, 0.1, 2.0], control=control, compile=tier, throw=False) for tier in (None, "solve"))
    assert not eager.outcome.ok
    assert (ours.outcome.kind, ours.outcome.component) == (eager.outcome.kind, eager.outcome.component)
    assert ours.outcome.t == pytest.approx(eager.outcome.t, rel=1e-9, abs=1e-12)
    assert ours.outcome.fix == eager.outcome.fix
    if name != "no number":  # the last steps there are as short as time resolves, and follow its rounding
        assert (ours.stats.accepted, ours.stats.rejected) == (eager.stats.accepted, eager.stats.rejected)
        assert ours.outcome.sample == eager.outcome.sample
    assert ours.x.shape == eager.x.shape
    torch.testing.assert_close(ours.x, eager.x, equal_nan=True, **ADAPTIVE)


def test_fixed_steps_that_blow_up(interpreted):
    x0 = torch.tensor([1.0], dtype=torch.float64)
    f = lambda t, x: 1e4 * x**2  # noqa: E731
    eager, ours = (
        rd.solve(f, x0, [0.0, 1.0, 2.0, 30.0], scheme=Euler(), control=rd.Fixed(steps=2), compile=tier, throw=False)
        for tier in (None, "solve")
    )
    assert ours.outcome == eager.outcome
    assert ours.stats.accepted == eager.stats.accepted
    torch.testing.assert_close(ours.x, eager.x)
    with pytest.raises(SolveError, match="inf"):
        rd.solve(f, x0, [0.0, 30.0], scheme=Euler(), control=rd.Fixed(steps=8), compile="solve")


@slow
def test_what_a_failed_solve_reported_has_gradients(interpreted):
    found = []
    for tier in (None, "solve"):
        x0 = torch.tensor([[0.5], [1.5]], dtype=torch.float64, requires_grad=True)
        x = rd.solve(lambda t, x: x**2, x0, [0.0, 0.1, 2.0], compile=tier, throw=False).x
        found.append(torch.autograd.grad(x[1].sum(), x0)[0])
    torch.testing.assert_close(found[0], found[1], **ADAPTIVE)


def test_nothing_is_compiled_twice(interpreted):
    """Other values, times, tolerances, arguments and parameters, and a lambda made anew, use the programs there are."""
    net = Net()
    x0 = torch.randn(4, 3, dtype=torch.float64)

    def solve(scale, shift, rtol, end):
        solution = rd.solve(lambda t, x, s: s * net(x), x0 + shift, [0.0, end], args=(torch.tensor(scale),), compile="solve",
                            control=rd.Adaptive(rtol=rtol))  # fmt: skip
        solution.x.sum().backward()
        return solution

    first = solve(1.0, 0.0, 1e-4, 1.0)
    before = build.compilations
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.5)
    second = solve(2.0, 0.1, 1e-6, 1.5)
    assert build.compilations == before
    assert not torch.allclose(first.x[-1], second.x[-1])
    eager = rd.solve(lambda t, x: 2.0 * net(x), x0 + 0.1, [0.0, 1.5], control=rd.Adaptive(rtol=1e-6))
    torch.testing.assert_close(second.x, eager.x, **ADAPTIVE)


class Decay:
    rate = 1.0

    def __call__(self, t, x):
        return -self.rate * x

    def method(self, t, x):
        return -self.rate * x


def test_a_number_that_changed_is_seen(interpreted):
    decay = Decay()
    x0 = torch.ones(1, dtype=torch.float64)
    for rate in (1.0, 2.0, 3.0):
        decay.rate = rate
        for f in (decay, decay.method):
            x = rd.solve(f, x0, [0.0, 1.0], compile="solve", control=rd.Adaptive(rtol=1e-10, atol=1e-12)).x
            # local errors of 1e-10 each, some 40 of them
            assert float(x[-1]) == pytest.approx(torch.e**-rate, abs=1e-8)


SPEED = 1.0


def test_a_global_number_that_changed_is_seen(interpreted, monkeypatch):
    def f(t, x):
        return -SPEED * x

    for speed in (1.0, 2.0):
        monkeypatch.setitem(globals(), "SPEED", speed)
        x = rd.solve(f, x_64, [0.0, 1.0], compile="solve", scheme=Euler(), control=rd.Fixed(steps=1)).x[-1]
        assert torch.equal(x, (1 - speed) * x_64)


def plain(t, x):
    return torch.neg(x)


def test_a_function_of_torch_alone_needs_no_second_look(interpreted, monkeypatch):
    first = rd.solve(plain, x_64, [0.0, 1.0], compile="solve", scheme=Euler(), control=rd.Fixed(steps=1)).x
    monkeypatch.setattr(field._Probe, "__call__", lambda *_: pytest.fail("asked again"))
    again = rd.solve(plain, x_64, [0.0, 1.0], compile="solve", scheme=Euler(), control=rd.Fixed(steps=1)).x
    assert torch.equal(first, again)
    assert not field._reads_torch_only(predators.__get__(0))
    assert not field._reads_torch_only(lambda t, x: torch.func.vmap(lambda y: y)(x))


def test_a_field_is_let_go(interpreted):
    net = Net()
    rd.solve(rd.autonomous(net), torch.ones(1, 3, dtype=torch.float64), [0.0, 1.0], compile="solve").x.sum().backward()
    gone, count = weakref.ref(net), len(field._found)
    del net
    gc.collect()
    assert gone() is None
    assert len(field._found) < count


@slow
def test_tensors_of_closures_that_were_computed_get_gradients(interpreted):
    found = []
    for tier in (None, "solve"):
        base = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
        rate = base.exp()
        x = rd.solve(lambda t, x, rate=rate: -rate * x, torch.ones(1, dtype=torch.float64), [0.0, 1.0], compile=tier).x
        found.append(torch.autograd.grad(x[-1], base)[0])
    torch.testing.assert_close(found[0], found[1], **ADAPTIVE)


def test_a_gradient_comes_once(interpreted):
    x0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    x = rd.solve(lambda t, x: -(x**2), x0, [0.0, 1.0], compile="solve").x
    (slope,) = torch.autograd.grad(x[-1], x0, create_graph=True)
    with pytest.raises(InputError, match="`gradient` must be one that can be differentiated twice"):
        slope.backward()


def assigned(x):
    slope = torch.zeros_like(x)
    slope[..., 0] = x[..., 1]
    slope[..., 1:] = -x[..., :1]
    return slope


FIELDS = {
    "columns": lambda x: torch.stack((x[..., 1] * x[..., 0], -x[..., 0]), -1),
    "slices": lambda x: torch.cat((x[..., 1:], -x[..., :1].sin()), -1),
    "assignment": assigned,
    "split": lambda x: torch.cat(x.split(1, -1)[::-1], -1),
    "chunk": lambda x: torch.cat(x.chunk(2, dim=-1)[::-1], -1) * torch.tensor([1.0, -1.0], dtype=x.dtype),
    "sum": lambda x: -x * x.pow(2).sum(-1, keepdim=True) + x.mean(-1, keepdim=True),
    "norm by hand": lambda x: -x / (1 + x.square().sum(-1)).unsqueeze(-1),
    "roll": lambda x: torch.roll(x, 1, -1) - x.flip(-1).clamp(0, 1),
    "where": lambda x: torch.where(x > 0, -x, x.abs()),
    "expand": lambda x: -x[..., :1].expand_as(x),
    "transpose": lambda x: torch.stack([x.select(-1, 1), -x.unbind(-1)[0]]).T,
    "matrix": lambda x: x @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=x.dtype),
    "samples": lambda x: x.mean(0, keepdim=True) - x,
    "constant": torch.ones_like,
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_by_columns_is_the_field(name):
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    call = torch.func.functionalize(lambda x: (FIELDS[name](x),), remove="mutations")
    graph = make_fx(call, tracing_mode="fake")(x)
    try:
        slopes = columns.run(graph, [columns.Columns(list(x.unbind(-1)))])
    except columns.NotByColumnsError:
        assert name in ("transpose", "matrix", "samples")
        return
    torch.testing.assert_close(torch.stack([k.expand(6) for k in slopes], -1), FIELDS[name](x), rtol=1e-15, atol=1e-15)


def test_many_components_stay_together():
    with pytest.raises(columns.NotByColumnsError):
        columns.Columns([torch.zeros(1)] * (columns.LIMIT + 1))


x_64 = torch.ones(2, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compile": "fast"}, "`compile` must be 'step', 'solve' or None, got 'fast'"),
        ({"scheme": rd.BackwardEuler(), "control": rd.Fixed(steps=2)}, "got BackwardEuler; choose an explicit scheme"),
        ({"gradient": rd.Backprop()}, "gradient=Replay.* got gradient=Backprop"),
        ({"event": rd.Event(lambda t, x: x.sum())}, "got an event; leave `event` or `compile` out"),
    ],
)
def test_what_the_compiled_tiers_do_not_know_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        rd.solve(lambda t, x: -x, x_64, [0.0, 1.0], **{"compile": "solve", **options})


def test_a_field_is_checked_in_its_own_words(interpreted):
    with pytest.raises(InputError, match="`f` must return the shape of x"):
        rd.solve(lambda t, x: x.sum(), x_64, [0.0, 1.0], compile="solve")


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1).double()

    def forward(self, t, x):
        return self.norm(x)


class Silent:
    """A callable that nobody can hold weakly."""

    __slots__ = ()

    def __call__(self, t, x):
        return -x


def decay_outside_autograd(t, x):
    with torch.no_grad():
        scale = x.abs().max()
    return -x * scale


@pytest.mark.parametrize(
    ("f", "x0", "words"),
    [
        (lambda t, x: -x * torch.rand_like(x), x_64, "f draws random numbers"),
        (lambda t, x: -x if float(x.sum()) > 0 else x, x_64, "fell back to the eager tier"),
        (Normed(), x_64, "writes to a tensor of its own"),
        (Silent(), x_64, "cannot be told from others; make it a function or a module"),
        (decay_outside_autograd, x_64, "f switches autograd"),
        (lambda t, x: 1j * x, torch.ones(1, dtype=torch.complex128), "for float32 and float64, and x0 is torch.complex128"),
        (lambda t, x: (x * torch.tensor(1j)).imag - x, x_64, "complex"),
    ],
)
def test_what_cannot_be_traced_is_solved_eagerly_with_a_warning(interpreted, f, x0, words):
    torch.manual_seed(0)
    with pytest.warns(ResidynWarning, match=words):
        ours = rd.solve(f, x0, [0.0, 0.1], compile="solve", control=rd.Fixed(steps=2))
    torch.manual_seed(0)
    torch.testing.assert_close(ours.x, rd.solve(f, x0, [0.0, 0.1], control=rd.Fixed(steps=2)).x)


def test_a_counter_in_the_field_does_not_recompile_for_ever(interpreted):
    class Counting(nn.Module):
        calls = 0

        def forward(self, t, x):
            self.calls += 1
            return -x

    f = Counting()
    before = build.compilations
    for _ in range(3):
        with pytest.warns(ResidynWarning, match="f keeps numbers from call to call, such as a counter of its calls"):
            rd.solve(f, x_64, [0.0, 1.0], compile="solve", control=rd.Fixed(steps=1))
    assert build.compilations == before


def test_a_number_that_keeps_changing_does_not_recompile_for_ever(interpreted):
    decay = Decay()
    before = build.compilations

    def solve(rate):
        decay.rate = float(rate)
        rd.solve(decay, x_64, [0.0, 1.0], compile="solve", control=rd.Fixed(steps=1), scheme=Euler())

    for rate in range(field.CHANGES):
        solve(rate)
    for rate in (-1, -2):
        with pytest.warns(ResidynWarning, match="f reads Python numbers that change from solve to solve; make them tensors"):
            solve(rate)
    assert build.compilations <= before + field.CHANGES


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(march, "has_compiler", lambda: False)
    with pytest.warns(ResidynWarning, match=r"no C\+\+ compiler; install g\+\+ or clang\+\+, or set CXX"):
        x = rd.solve(lambda t, x: -x, x_64, [0.0, 1.0], compile="step").x
    torch.testing.assert_close(x, rd.solve(lambda t, x: -x, x_64, [0.0, 1.0]).x)


def test_whether_there_is_a_compiler_is_asked_of_torch():
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}):  # monkeypatch would take the setting away when it puts it back
        assert not build.has_compiler()


def test_a_compiler_that_fails(monkeypatch):
    monkeypatch.setattr(march, "has_compiler", lambda: True)
    monkeypatch.setattr(
        torch._inductor, "compile", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("\n  no space left\nlong"))
    )
    with pytest.warns(ResidynWarning, match="fell back to the eager tier: RuntimeError: no space left"):
        rd.solve(lambda t, x: -x, x_64, [0.0, 1.0], compile="solve")


def test_inside_a_transform(interpreted):
    def end(x):
        return rd.solve(lambda t, x: -x, x, [0.0, 1.0], control=rd.Fixed(steps=4), scheme=rd.RK4(), compile="solve").x[-1]

    with pytest.warns(ResidynWarning, match="inside a transform of torch.func"):
        found = torch.func.vmap(end)(x_64)
    torch.testing.assert_close(found, end(x_64), **ADAPTIVE)


@slow
@pytest.mark.skipif(not build.has_compiler(), reason="no C++ compiler")
@pytest.mark.parametrize("per_sample", [False, True])
def test_machine_code(rates, per_sample):
    """Forwards and backwards, and nothing compiled again for other numbers."""
    control = rd.Adaptive(rtol=1e-6, per_sample=per_sample)
    both(predators, starts(), [0.0, 2.0], "solve", [rates], (rates,), control=control)
    before = build.compilations
    control = rd.Adaptive(rtol=1e-7, atol=1e-8, per_sample=per_sample)
    both(predators, starts() + 0.1, [1.0, 2.5], "solve", [rates], (rates * 1.1,), control=control)
    assert build.compilations == before


@slow
@pytest.mark.skipif(not build.has_compiler(), reason="no C++ compiler")
def test_machine_code_of_a_step():
    net = rd.autonomous(Net())
    x0 = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, eager = (rd.solve(net, x0, [0.0, 2.0], compile=tier) for tier in ("step", None))
    assert (ours.stats.accepted, ours.stats.rejected) == (eager.stats.accepted, eager.stats.rejected)
    torch.testing.assert_close(ours.x, eager.x, **ADAPTIVE)
