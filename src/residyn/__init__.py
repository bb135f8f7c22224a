"""Residyn: the residual step x⁺ = x + h·F(x), repeated, analysed, and put to work.

The names below load on first use, so that `import residyn` costs nothing and the command line answers without torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from residyn.analysis import constrain, lipschitz, log_norm, max_stable_step, operator_norm, spectral_norm, spectrum
    from residyn.branch import autonomous
    from residyn.errors import InputError, ResidynError, SolveError
    from residyn.flow import Equilibrium, Flow, Solution, solve
    from residyn.gradients import Adjoint, Backprop, Checkpoint, Implicit, Replay
    from residyn.results import Estimate
    from residyn.roots import Anderson, FixedPoint, Newton
    from residyn.schemes import (
        RK4,
        Adaptive,
        BackwardEuler,
        Dopri5,
        Dopri8,
        Euler,
        Event,
        Fixed,
        Heun,
        Kvaerno5,
        Midpoint,
        Rodas5P,
        Tsit5,
    )
    from residyn.step import Residual, Stack

_HOMES = {
    "residyn.analysis": ("constrain", "lipschitz", "log_norm", "max_stable_step", "operator_norm", "spectral_norm", "spectrum"),
    "residyn.branch": ("autonomous",),
    "residyn.errors": ("InputError", "ResidynError", "SolveError"),
    "residyn.flow": ("Equilibrium", "Flow", "Solution", "solve"),
    "residyn.gradients": ("Adjoint", "Backprop", "Checkpoint", "Implicit", "Replay"),
    "residyn.results": ("Estimate",),
    "residyn.roots": ("Anderson", "FixedPoint", "Newton"),
    "residyn.schemes": (
        "RK4",
        "Adaptive",
        "BackwardEuler",
        "Dopri5",
        "Dopri8",
        "Euler",
        "Event",
        "Fixed",
        "Heun",
        "Kvaerno5",
        "Midpoint",
        "Rodas5P",
        "Tsit5",
    ),
    "residyn.step": ("Residual", "Stack"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_SUBPACKAGES = frozenset(
    name.removesuffix(".py") for name in os.listdir(__path__[0]) if name[0] not in "_." and name != "py.typed"
)

__all__ = [
    "RK4",
    "Adaptive",
    "Adjoint",
    "Anderson",
    "Backprop",
    "BackwardEuler",
    "Checkpoint",
    "Dopri5",
    "Dopri8",
    "Equilibrium",
    "Estimate",
    "Euler",
    "Event",
    "Fixed",
    "FixedPoint",
    "Flow",
    "Heun",
    "Implicit",
    "InputError",
    "Kvaerno5",
    "Midpoint",
    "Newton",
    "Replay",
    "Residual",
    "ResidynError",
    "Rodas5P",
    "Solution",
    "SolveError",
    "Stack",
    "Tsit5",
    "autonomous",
    "constrain",
    "lipschitz",
    "log_norm",
    "max_stable_step",
    "operator_norm",
    "solve",
    "spectral_norm",
    "spectrum",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _SUBPACKAGES:
        value = importlib.import_module(f"residyn.{name}")
    else:
        raise AttributeError(f"module 'residyn' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBPACKAGES, "__version__"})
