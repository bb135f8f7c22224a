"""How one step is taken: schemes and step-size control."""

from residyn.schemes.adams import AdamsMagnus
from residyn.schemes.base import Rational, Scheme, Step
from residyn.schemes.control import Adaptive, Control, Fixed
from residyn.schemes.event import Event, steady_state
from residyn.schemes.explicit import RK4, Bosh3, Dopri5, Dopri8, Euler, ExplicitRungeKutta, Heun, Midpoint, Tsit5
from residyn.schemes.exponential import ExponentialMidpoint
from residyn.schemes.implicit import BackwardEuler, DiagonallyImplicit, ImplicitMidpoint, Kvaerno5, Trapezoid
from residyn.schemes.magnus import CFM4, ETRS, MMUT, CrankNicolson, ExtrapolatedMidpoint, Magnus2
from residyn.schemes.reversible import CoupledReversible, Invertible
from residyn.schemes.rosenbrock import Rodas5P, Rosenbrock
from residyn.schemes.splitting import ForwardBackward

__all__ = [
    "CFM4",
    "ETRS",
    "MMUT",
    "RK4",
    "AdamsMagnus",
    "Adaptive",
    "BackwardEuler",
    "Bosh3",
    "Control",
    "CoupledReversible",
    "CrankNicolson",
    "DiagonallyImplicit",
    "Dopri5",
    "Dopri8",
    "Euler",
    "Event",
    "ExplicitRungeKutta",
    "ExponentialMidpoint",
    "ExtrapolatedMidpoint",
    "Fixed",
    "ForwardBackward",
    "Heun",
    "ImplicitMidpoint",
    "Invertible",
    "Kvaerno5",
    "Magnus2",
    "Midpoint",
    "Rational",
    "Rodas5P",
    "Rosenbrock",
    "Scheme",
    "Step",
    "Trapezoid",
    "Tsit5",
    "steady_state",
]
