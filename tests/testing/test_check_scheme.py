import dataclasses

import pytest
import torch

from residyn.errors import InputError, ResidynError
from residyn.schemes import (
    RK4,
    BackwardEuler,
    Bosh3,
    Dopri5,
    Dopri8,
    Euler,
    ExplicitRungeKutta,
    ExponentialMidpoint,
    Heun,
    ImplicitMidpoint,
    Kvaerno5,
    Midpoint,
    Rodas5P,
    Trapezoid,
    Tsit5,
    tableaus,
)
from residyn.schemes.base import Rational
from residyn.testing import ConformanceError, check_scheme

EXPLICIT = [Euler(), Midpoint(), Heun(), Bosh3(), RK4(), Tsit5(), Dopri5(), Dopri8()]
OTHERS = [BackwardEuler(), ImplicitMidpoint(), Trapezoid(), Kvaerno5(), Rodas5P(), ExponentialMidpoint()]


@pytest.mark.parametrize("scheme", [*EXPLICIT, *OTHERS], ids=repr)
def test_every_scheme_is_what_it_says(scheme):
    findings = {finding.id: finding for finding in check_scheme(scheme)}
    assert {finding.verdict for finding in findings.values()} == {"pass"}
    assert findings["scheme.order"].value == pytest.approx(scheme.order, abs=0.15)
    assert findings["scheme.backwards"].value == pytest.approx(scheme.order, abs=0.15)
    assert ("scheme.error_order" in findings) == (scheme.error_order > 0)


class _Node(ExplicitRungeKutta):
    """RK4 with one node wrong: right on every autonomous field."""

    order = 4
    tableau = dataclasses.replace(tableaus.RK4, c=(0.0, 0.5, 0.6, 1.0))


class _Claims(ExplicitRungeKutta):
    """Heun, said to be of order 3."""

    order = 3
    tableau = dataclasses.replace(tableaus.HEUN, error=())


class _Overstated(Heun):
    error_order = 2


class _Silent(Heun):
    error_order = 0


class _Stability(RK4):
    def stability(self, z):
        return 1 + z + z**2 / 2

    def rational(self):
        return None


class _TwoMinds(RK4):
    def stability(self, z):
        return RK4().stability(z)

    def rational(self):
        return Rational((1.0, 1.0, 0.5))


class _Forwards(Euler):
    """Takes the length of the step, not its sign."""

    def step(self, f, t0, t1, x, state):
        return super().step(f, t0, t0 + abs(t1 - t0), x, state)


class _Ends(RK4):
    def step(self, f, t0, t1, x, state):
        return super().step(f, t0, t1, x, state)._replace(dense=lambda theta: x)


class _Bent(RK4):
    """A straight line between the ends."""

    def step(self, f, t0, t1, x, state):
        step = super().step(f, t0, t1, x, state)
        return step._replace(dense=lambda theta: torch.lerp(x, step.x, theta))


class _Double(Euler):
    def step(self, f, t0, t1, x, state):
        step = super().step(f, t0, t1, x, state)
        return step._replace(dense=lambda theta: step.dense(theta).double())


class _Stale(Euler):
    """Hands on the slope at the start of the step as if it were that at its end."""

    def step(self, f, t0, t1, x, state):
        slope = f(t0, x) if t0 == 0.0 or isinstance(t0, torch.Tensor) or state is None else state
        x1 = x + (t1 - t0) * slope
        return super().step(f, t0, t1, x, None)._replace(x=x1, dense=lambda theta: torch.lerp(x, x1, theta), state=slope)

    def init(self, f, t0, x0):
        return None


BROKEN = [
    (_Node(), "order", "got .*must be 4 ± 0.15; check every order condition"),
    (_Claims(), "order", "got 2.*must be 3 ± 0.15"),
    (_Overstated(), "error_order", r"got 2.*must be 3 ± 0.35; set `error_order` to q"),
    (_Silent(), "estimate", "got error_order = 0, estimate: True; set `error_order`"),
    (_Stability(), "stability", "got .*, must be at most 1e-07; derive R from the scheme"),
    (_TwoMinds(), "rational", "return the same function"),
    (_Forwards(), "backwards", "use t1 - t0 with its sign"),
    (_Ends(), "dense_ends", "check the weights at θ = 0 and 1"),
    (_Bent(), "dense_order", "got 2.*must be 4 ± 0.35"),
    (_Double(), "dtype", "make tensors like x"),
]


@pytest.mark.parametrize("scheme, law, words", BROKEN, ids=lambda value: value if isinstance(value, str) else repr(value))
def test_a_broken_scheme_is_named_with_its_law(scheme, law, words):
    with pytest.raises(ConformanceError, match=f"^{scheme!r} breaks the law `{law}` .*{words}".replace("()", r"\(\)")):
        check_scheme(scheme)


def test_a_state_that_is_not_what_init_makes_breaks_a_law():
    with pytest.raises(ConformanceError, match=r"_Stale\(\) breaks the law `(state|order)`"):
        check_scheme(_Stale())


def test_errors_are_of_both_kinds():
    assert issubclass(ConformanceError, ResidynError)
    assert issubclass(ConformanceError, AssertionError)


def test_refuses_a_class():
    with pytest.raises(InputError, match=r"`scheme` must be a Scheme such as RK4\(\), got <class"):
        check_scheme(RK4)
