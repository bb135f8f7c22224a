"""How one step is taken: schemes and step-size control."""

from residyn.schemes.base import Rational, Scheme, Step
from residyn.schemes.control import Adaptive, Control, Fixed
from residyn.schemes.explicit import RK4, Bosh3, Dopri5, Dopri8, Euler, ExplicitRungeKutta, Heun, Midpoint, Tsit5

__all__ = [
    "RK4",
    "Adaptive",
    "Bosh3",
    "Control",
    "Dopri5",
    "Dopri8",
    "Euler",
    "ExplicitRungeKutta",
    "Fixed",
    "Heun",
    "Midpoint",
    "Rational",
    "Scheme",
    "Step",
    "Tsit5",
]
