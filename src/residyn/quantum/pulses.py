"""Electric fields E(t), `(3,)` in atomic units (1 a.u. = 51.42 V/Å); any function of the time will do as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError

Pulse = Callable[[float], Any]
"""E(t): a time in atomic units to three components."""


@dataclass(frozen=True)
class Continuous:
    """E(t) = amplitude·sin(ω·t)·min(t/ramp, 1), a wave that is switched on over `ramp`.

    Args:
        amplitude: Three components, atomic units.
        frequency: ω, hartree.
        ramp: How long it is switched on; 0 for at once.
    """

    amplitude: tuple[float, float, float]
    frequency: float
    ramp: float = 0.0

    def __post_init__(self) -> None:
        _vector("amplitude", self.amplitude)
        _number("ramp", self.ramp, least=0.0)

    def __call__(self, t: float) -> tuple[float, float, float]:
        """E(t)."""
        return _scaled(self.amplitude, math.sin(self.frequency * t) * (min(t / self.ramp, 1.0) if self.ramp else 1.0))


@dataclass(frozen=True)
class Gaussian:
    """E(t) = amplitude·exp(-(t - centre)²/2σ²)·cos(ω·(t - centre)).

    Args:
        amplitude: Three components, atomic units.
        centre: Time of the peak.
        width: σ of the field (that of the intensity is σ/√2).
        frequency: ω, hartree; 0 for a bare Gaussian.

    >>> Gaussian((0.0, 0.0, 0.01), centre=5.0, width=1.0)(5.0)
    (0.0, 0.0, 0.01)
    """

    amplitude: tuple[float, float, float]
    centre: float
    width: float
    frequency: float = 0.0

    def __post_init__(self) -> None:
        _vector("amplitude", self.amplitude)
        _number("width", self.width)

    def __call__(self, t: float) -> tuple[float, float, float]:
        """E(t)."""
        s = t - self.centre
        return _scaled(self.amplitude, math.exp(-0.5 * (s / self.width) ** 2) * math.cos(self.frequency * s))


@dataclass(frozen=True)
class CosineSquared:
    """E(t) = amplitude·cos²(π·(t - centre)/duration)·cos(ω·(t - centre)) for |t - centre| < duration/2, else 0.

    Args:
        amplitude: Three components, atomic units.
        centre: Time of the peak.
        duration: From zero to zero.
        frequency: ω, hartree.
    """

    amplitude: tuple[float, float, float]
    centre: float
    duration: float
    frequency: float = 0.0

    def __post_init__(self) -> None:
        _vector("amplitude", self.amplitude)
        _number("duration", self.duration)

    def __call__(self, t: float) -> tuple[float, float, float]:
        """E(t)."""
        s = t - self.centre
        if abs(s) >= 0.5 * self.duration:
            return (0.0, 0.0, 0.0)
        return _scaled(self.amplitude, math.cos(math.pi * s / self.duration) ** 2 * math.cos(self.frequency * s))


def field_at(pulse: Pulse | None, t: float) -> Tensor | None:
    """E(t) as a tensor `(3,)`, or `None` where there is no field.

    Raises:
        InputError: If the function does not return three finite numbers.
    """
    if pulse is None:
        return None
    try:
        value = torch.as_tensor(pulse(t), dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"`pulse` must return three numbers, (Ex, Ey, Ez), at t = {t:g}, got an error: {error}") from None
    if value.shape != (3,) or not bool(value.isfinite().all()):
        raise InputError(f"`pulse` must return three finite numbers, (Ex, Ey, Ez), got {value.tolist()} at t = {t:g}")
    return value if bool(value.any()) else None


def vector(name: str, value: Sequence[float] | Tensor) -> Tensor:
    """Three finite numbers as a tensor.

    Raises:
        InputError: If they are not.
    """
    try:
        found = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0)
    if found.shape != (3,) or not bool(found.isfinite().all()):
        raise InputError(f"`{name}` must be three finite numbers (x, y, z), got {value!r}")
    return found


def _vector(name: str, value: Any) -> None:
    vector(name, value)


def _number(name: str, value: float, least: float | None = None) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and (value > 0 if least is None else value >= least)):
        raise InputError(f"`{name}` must be a number {'> 0' if least is None else '≥ 0'}, got {value!r}")


def _scaled(amplitude: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    x, y, z = amplitude
    return (x * factor, y * factor, z * factor)
