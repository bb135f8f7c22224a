"""Tableaus that torchdiffeq's method names stand for and that our schemes do not have."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

from residyn.schemes.tableaus import DOPRI8, Row, Tableau

_NONE: Row = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

# Weights of the thirteen stages and of f at the end of the step in a continuous result of order 5, C1 from step to step,
# that costs no evaluation. They solve the order conditions for each power of θ (Hairer, Nørsett & Wanner 1993, II.6) with, of
# the freedom left, the least defect in the conditions of order 6: at most 3e-6 within the step. A test computes both.
DOPRI8_DENSE = dataclasses.replace(
    DOPRI8,
    dense=(
        (1.0, -6.672504043679518, 19.94994834828118, -30.006449753501176, 22.10355558372607, -6.332802643685027),
        _NONE,
        _NONE,
        _NONE,
        _NONE,
        (0.0, -7.342889799344417, 51.495285753846694, -120.660610963219, 115.87420989060816, -39.42144721050267),
        (0.0, 10.653727380335601, -46.69349267582258, 82.94888069361818, -66.99631603790391, 20.326513446973898),
        (0.0, 0.3735549983835972, 0.2985866331354549, 9.004947000271219, -16.17880987706254, 7.205231914675709),
        (0.0, 3.9302981872560467, -34.92731977200611, 86.94153148317125, -89.3808540822351, 32.676584569999456),
        (0.0, -0.36995301412092496, 5.475834991759949, -16.485588997628376, 21.986863261994305, -9.946593211082664),
        (0.0, -1.3414431506551276, 10.531706749146592, -28.84837212403219, 32.41652149830581, -12.600225490254967),
        (0.0, 5.028125266766708, -33.768951677740155, 80.58706834777071, -81.40843996190497, 29.324088486354835),
        (0.0, -6.586836278810581, 46.491196495600114, -113.40018947679582, 115.1741345820337, -41.428305322027406),
        (0.0, 2.3279204538686193, -18.85279484620113, 49.918783790345174, -53.590864857561506, 20.196955459548835),
    ),
)  # fmt: skip

# Fehlberg (1969), NASA TR R-315: 2(1), whose embedded result is Euler's in disguise.
FEHLBERG2 = Tableau(
    c=(0.0, 1 / 2, 1.0),
    a=((), (1 / 2,), (1 / 256, 255 / 256)),
    b=(1 / 512, 255 / 256, 1 / 512),
    error=(-1 / 512, 0.0, 1 / 512),
)

# Kutta (1901), the rule of three eighths: what the name "rk4" means here.
RK38 = Tableau(
    c=(0.0, 1 / 3, 2 / 3, 1.0),
    a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
)

# Heun (1900), order 3.
HEUN3 = Tableau(c=(0.0, 1 / 3, 2 / 3), a=((), (1 / 3,), (0.0, 2 / 3)), b=(1 / 4, 0.0, 3 / 4))


@dataclasses.dataclass(frozen=True)
class Implicit:
    """A full tableau: y⁺ = y + h·Σ b_i·k_i, k_i = f(t + c_i·h, y + h·Σ_j a_ij·k_j)."""

    c: Row
    a: tuple[Row, ...]
    b: Row


_G = 1 - math.sqrt(2) / 2
_W = math.sqrt(2) / 4
_R3, _R6, _R15 = math.sqrt(3), math.sqrt(6), math.sqrt(15)

# Hairer & Wanner (1996), "Solving Ordinary Differential Equations II", IV.5: Gauss and Radau IIA.
# Alexander (1977), doi:10.1137/0714068: the two-stage SDIRK.
# Hosea & Shampine (1996), doi:10.1016/0168-9274(95)00115-8: TR-BDF2.
IMPLICIT = {
    "implicit_euler": Implicit((1.0,), ((1.0,),), (1.0,)),
    "implicit_midpoint": Implicit((0.5,), ((0.5,),), (1.0,)),
    "trapezoid": Implicit((0.0, 1.0), ((0.0, 0.0), (0.5, 0.5)), (0.5, 0.5)),
    "radauIIA3": Implicit((1 / 3, 1.0), ((5 / 12, -1 / 12), (3 / 4, 1 / 4)), (3 / 4, 1 / 4)),
    "gl4": Implicit((0.5 - _R3 / 6, 0.5 + _R3 / 6), ((1 / 4, 1 / 4 - _R3 / 6), (1 / 4 + _R3 / 6, 1 / 4)), (0.5, 0.5)),
    "radauIIA5": Implicit(
        (0.4 - _R6 / 10, 0.4 + _R6 / 10, 1.0),
        (
            (11 / 45 - 7 * _R6 / 360, 37 / 225 - 169 * _R6 / 1800, -2 / 225 + _R6 / 75),
            (37 / 225 + 169 * _R6 / 1800, 11 / 45 + 7 * _R6 / 360, -2 / 225 - _R6 / 75),
            (4 / 9 - _R6 / 36, 4 / 9 + _R6 / 36, 1 / 9),
        ),
        (4 / 9 - _R6 / 36, 4 / 9 + _R6 / 36, 1 / 9),
    ),
    "gl6": Implicit(
        (0.5 - _R15 / 10, 0.5, 0.5 + _R15 / 10),
        (
            (5 / 36, 2 / 9 - _R15 / 15, 5 / 36 - _R15 / 30),
            (5 / 36 + _R15 / 24, 2 / 9, 5 / 36 - _R15 / 24),
            (5 / 36 + _R15 / 30, 2 / 9 + _R15 / 15, 5 / 36),
        ),
        (5 / 18, 4 / 9, 5 / 18),
    ),
    "sdirk2": Implicit((_G, 1.0), ((_G, 0.0), (1 - _G, _G)), (1 - _G, _G)),
    "trbdf2": Implicit((0.0, 2 * _G, 1.0), ((0.0, 0.0, 0.0), (_G, _G, 0.0), (_W, _W, _G)), (_W, _W, _G)),
}


def adams(order: int, *, implicit: bool) -> Row:
    """Weights of the latest slopes, newest first, in one Adams step: Bashforth's, or Moulton's with the slope to come first.

    The integral over the step of the polynomial through the slopes at equal distances, in exact fractions.

    Reference:
        Hairer, Nørsett & Wanner (1993), "Solving Ordinary Differential Equations I", III.1.

    >>> adams(2, implicit=False)
    (1.5, -0.5)
    >>> adams(2, implicit=True)
    (0.5, 0.5)
    """
    nodes = [(1 - j if implicit else -j) for j in range(order)]
    weights = []
    for j, node in enumerate(nodes):
        polynomial = [Fraction(1)]  # of s, the basis polynomial that is 1 at this node and 0 at the others
        for other in (n for i, n in enumerate(nodes) if i != j):
            scale = Fraction(1, node - other)
            shifted = [Fraction(0), *polynomial]
            polynomial = [scale * (s - other * p) for s, p in zip(shifted, [*polynomial, Fraction(0)], strict=True)]
        weights.append(float(sum((c / (k + 1) for k, c in enumerate(polynomial)), Fraction(0))))
    return tuple(weights)
