"""Activations between two straight lines: given l <= z <= u, slopes and offsets with a·z + b <= f(z) <= c·z + d there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as f
from torch import Tensor, nn

_EPS = torch.finfo(torch.float64).eps
_CELLS = 48


@dataclass(frozen=True)
class Lines:
    """a·z + b <= f(z) <= c·z + d, each `(B, …)`.

    Where b is `None` it is 0, and c·z <= f(z) besides: the lower line may be taken parallel to the upper one.
    """

    a: Tensor
    b: Tensor | None
    c: Tensor
    d: Tensor


@dataclass(frozen=True)
class Activation:
    """An elementwise function.

    Attributes:
        value: f, in the precision of its argument.
        kinks: Where a piecewise linear f bends; `None` for a smooth one.
        curvature: A bound on |f″| of a smooth one.
        slope: A bound on |f′|.
        ulps: Roundings of a computed value, in units of the last place of max(|f|, 1); 0 where it is exact.
        jump: Height of a step that an implementation has where it changes formula.
    """

    value: Callable[[Tensor], Tensor]
    kinks: tuple[float, ...] | None = None
    curvature: float = 0.0
    slope: float = 1.0
    ulps: float = 8.0
    jump: float = 0.0

    def lines(self, low: Tensor, high: Tensor) -> Lines:
        """The two lines over [low, high], float64; rounding is on the safe side."""
        raise NotImplementedError

    def reach(self, low: Tensor, high: Tensor) -> Tensor:
        """A bound on |f| over [low, high]."""
        middle = (low + high) / 2
        return (self.value(middle).abs() + self.slope * (high - low) / 2) * (1 + 16 * _EPS) + 16 * _EPS


class Bent(Activation):
    """f(z) = z for z > 0 and s·z below, 0 <= s <= 1: convex, with one kink."""

    def lines(self, low: Tensor, high: Tensor) -> Lines:
        """The chord above; below whichever of the two pieces leaves the smaller area."""
        s = self.slope_below
        on, off = low >= 0, high <= 0
        chord = (high - s * low) / (high - low).clamp(min=1e-300)
        c = torch.where(on, 1.0, torch.where(off, s, chord))
        # between: the line through (l, s·l), raised by the rounding of both products
        d = torch.where(on | off, 0.0, (s - c) * low + 8 * _EPS * (low.abs() + high.abs()))
        a = torch.where(on | (~off & (high > -low)), 1.0, s).to(low.dtype)
        return Lines(a, None, c, d)

    @property
    def slope_below(self) -> float:
        """s."""
        return float(self.value(torch.tensor(-1.0, dtype=torch.float64)).neg())


class Sampled(Activation):
    """Any f that is piecewise linear with known kinks, or whose f″ is bounded: the chord, moved up and down."""

    def lines(self, low: Tensor, high: Tensor) -> Lines:
        """f(z) - a·z is largest at a kink or end, or within a·h²/8 of its largest sample, h the distance of samples."""
        width = high - low
        ends = self.value(low), self.value(high)
        middle = (low + high) / 2
        near = (self.value(middle + 1e-4) - self.value(middle - 1e-4)) / 2e-4
        a = torch.where(width > 1e-6, (ends[1] - ends[0]) / width.clamp(min=1e-6), near)
        size = torch.maximum(low.abs(), high.abs())
        rounding = self.jump + 64 * _EPS * (self.reach(low, high) + a.abs() * size + 1)
        points = [low, high]
        if self.kinks is not None:
            points += [torch.minimum(torch.maximum(torch.full_like(low, k), low), high) for k in self.kinks]
            slack = rounding
        else:
            points += [low + width * (k / _CELLS) for k in range(1, _CELLS)]
            cell = width / _CELLS * (1 + 1e-9)
            slack = rounding + torch.minimum(self.curvature * cell**2 / 8, (self.slope + a.abs()) * cell)
        least = most = self.value(low) - a * low
        for z in points[1:]:
            gap = self.value(z) - a * z
            least, most = torch.minimum(least, gap), torch.maximum(most, gap)
        return Lines(a, least - slack, a, most + slack)


def _bent(s: float) -> Activation | None:
    if not 0 <= s <= 1:
        return None if not math.isfinite(s) else Sampled(lambda z: torch.where(z > 0, z, s * z), (0.0,), slope=max(1.0, abs(s)))
    return Bent(lambda z: torch.where(z > 0, z, s * z), ulps=0.0 if s in (0.0, 1.0) else 1.0)


RELU = Bent(lambda z: z.clamp(min=0), ulps=0.0)

# |f″| and |f′| rounded up: tanh 4/(3√3); sigmoid 1/(6√3); GELU at 0, 2φ(0), its slope at √2; SiLU at 0; Mish by search over
# [-20, 20]; both have limits 0 beyond.
_SMOOTH: dict[type[nn.Module], Callable[[Any], Activation]] = {
    nn.Tanh: lambda m: Sampled(torch.tanh, None, 0.7699, 1.0),
    nn.Sigmoid: lambda m: Sampled(torch.sigmoid, None, 0.09623, 0.25),
    nn.GELU: lambda m: Sampled(lambda z: f.gelu(z, approximate=m.approximate), None, 0.82, 1.13),
    nn.SiLU: lambda m: Sampled(f.silu, None, 0.5, 1.0999),
    nn.Mish: lambda m: Sampled(f.mish, None, 0.65, 1.0885),
    nn.Softplus: lambda m: Sampled(
        lambda z: f.softplus(z, m.beta, m.threshold),
        None,
        abs(m.beta) / 4 + 1e-7,
        1.0,
        jump=math.exp(-m.threshold) / abs(m.beta),
    ),
    nn.LogSigmoid: lambda m: Sampled(f.logsigmoid, None, 0.25, 1.0),
    nn.Softsign: lambda m: Sampled(f.softsign, None, 2.0, 1.0),
    nn.Tanhshrink: lambda m: Sampled(f.tanhshrink, None, 0.7699, 1.0),
}


def activation(layer: nn.Module) -> Activation | None:
    """The activation of a layer; `None` for one that is not known here."""
    kind: Any = next((k for k in type(layer).__mro__ if k.__module__.startswith("torch.nn.modules")), nn.Module)
    known = kind in _KNOWN and type(layer).forward is kind.forward
    return _KNOWN[kind](layer) if known else None


def _elu(m: Any) -> Activation | None:
    """exp(z) - 1 below 0: |f″| <= 1, and f′ has no jump at 0."""
    return Sampled(f.elu, None, 1.0, 1.0) if float(m.alpha) == 1.0 else None


def _celu(m: Any) -> Activation | None:
    """α·(exp(z/α) - 1) below 0: |f″| <= 1/α."""
    alpha = float(m.alpha)
    return Sampled(lambda z: f.celu(z, alpha), None, 1 / alpha, 1.0) if alpha > 0 else None


def _hardtanh(m: Any) -> Activation:
    low, high = float(m.min_val), float(m.max_val)
    return Sampled(lambda z: z.clamp(low, high), (low, high), ulps=0.0)


_KNOWN: dict[type[nn.Module], Callable[[Any], Activation | None]] = {
    **_SMOOTH,
    nn.ReLU: lambda m: RELU,
    nn.LeakyReLU: lambda m: _bent(float(m.negative_slope)),
    nn.RReLU: lambda m: _bent((float(m.lower) + float(m.upper)) / 2),
    nn.PReLU: lambda m: _bent(float(m.weight.detach())) if m.weight.numel() == 1 else None,
    nn.ReLU6: lambda m: Sampled(f.relu6, (0.0, 6.0), ulps=0.0),
    nn.Hardtanh: _hardtanh,
    nn.Hardsigmoid: lambda m: Sampled(f.hardsigmoid, (-3.0, 3.0), slope=1 / 6 + 1e-9),
    nn.ELU: _elu,
    nn.CELU: _celu,
}
