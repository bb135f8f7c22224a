"""How one step is taken: schemes and step-size control."""

from residyn.schemes.base import Rational, Scheme, Step
from residyn.schemes.control import Adaptive, Control, Fixed
from residyn.schemes.event import Event, steady_state
from residyn.schemes.explicit import RK4, Bosh3, Dopri5, Dopri8, Euler, ExplicitRungeKutta, Heun, Midpoint, Tsit5
from residyn.schemes.exponential import ExponentialMidpoint
from residyn.schemes.implicit import BackwardEuler, DiagonallyImplicit, ImplicitMidpoint, Kvaerno5, Trapezoid
from residyn.schemes.reversible import CoupledReversible, Invertible
from residyn.schemes.rosenbrock import Rodas5P, Rosenbrock
from residyn.schemes.splitting import ForwardBackward

__all__ = [
    "RK4",
    "Adaptive",
    "BackwardEuler",
    "Bosh3",
    "Control",
    "CoupledReversible",
    "DiagonallyImplicit",
    "Dopri5",
    "Dopri8",
    "Euler",
    "Event",
    "ExplicitRungeKutta",
    "ExponentialMidpoint",
    "Fixed",
    "ForwardBackward",
    "Heun",
    "ImplicitMidpoint",
    "Invertible",
    "Kvaerno5",
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
