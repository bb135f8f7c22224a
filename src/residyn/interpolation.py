"""Sampled signals as functions of time: control inputs u(t) for a field, or as one of its `args`.

Both interpolants are plain tensors inside, differentiable by the samples, the knots and the time. Outside the knots the end
pieces go on.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from residyn.errors import InputError


class Signal(abc.ABC):
    """A signal u known at times t_k; called with a time it gives u there.

    Args:
        t: Knots, `(n,)`, strictly increasing, at least 2.
        u: Samples, `(n, …)`, or `(B, n, …)` with one signal a sample; NaN where one is missing is not allowed.
        batched: Whether u is `(B, n, …)`.

    Raises:
        InputError: If the knots do not increase, or do not fit the samples, or a number is not finite.
    """

    def __init__(self, t: Tensor, u: Tensor, *, batched: bool = False) -> None:
        if t.ndim != 1 or len(t) < 2:
            raise InputError(f"`t` must be (n,) with at least 2 knots, got shape {tuple(t.shape)}")
        if not (u.is_floating_point() or u.is_complex()):
            raise InputError(f"`u` must be floating point or complex, got {u.dtype}; use u.double()")
        axis = 1 if batched else 0
        if u.ndim <= axis or u.shape[axis] != len(t):
            where = "(B, n, …)" if batched else "(n, …)"
            raise InputError(f"`u` must be {where} with n = {len(t)} as in `t`, got shape {tuple(u.shape)}")
        if not bool(torch.isfinite(t).all()) or not bool(torch.isfinite(u).all()):
            raise InputError("`t` and `u` must be finite, got nan or inf; fill or drop missing samples first")
        if not bool((t.diff() > 0).all()):
            at = int((t.diff() <= 0).to(torch.uint8).argmax())
            raise InputError(f"`t` must be strictly increasing, got {t[at : at + 2].tolist()} at index {at}; sort it")
        self.t, self.batched = t.to(u.device), batched
        self.u = u.movedim(1, 0) if batched else u  # the knots first: (n, …) or (n, B, …)

    def __call__(self, t: float | Tensor) -> Tensor:
        """u(t).

        Args:
            t: A time without axes: `(…)`, or `(B, …)` of a batched signal. Or one a sample, `(B, 1, …)` as a field gets it:
                `(B, …)`, each sample at its own time.
        """
        real = self.u.dtype.to_real() if self.u.is_complex() else self.u.dtype
        time = torch.as_tensor(t, dtype=real, device=self.u.device)
        own = time.ndim > 0
        flat = time.reshape(-1)
        knots = self.t.to(real)
        piece = torch.searchsorted(knots.detach(), flat.detach().contiguous(), right=True).sub_(1).clamp_(0, len(knots) - 2)
        start, width = knots[piece], knots[piece + 1] - knots[piece]
        value = self._value(piece, (flat - start) / width, width)
        if not own:
            return value[0]
        if self.batched:  # (B times, B samples, …): each its own
            if len(flat) != self.u.shape[1]:
                raise InputError(f"`t` must have a time for each of {self.u.shape[1]} samples, got shape {tuple(time.shape)}")
            at = torch.arange(len(flat), device=value.device)
            return value[at, at]
        return value

    @abc.abstractmethod
    def _value(self, piece: Tensor, theta: Tensor, width: Tensor) -> Tensor:
        """u at a fraction θ of each piece, `(m, …)`."""

    def _shaped(self, v: Tensor) -> Tensor:
        return v.reshape(-1, *[1] * (self.u.ndim - 1))


class PiecewiseLinear(Signal):
    """Piecewise linear: u(t) = u_k + θ·(u_{k+1} - u_k), θ = (t - t_k)/(t_{k+1} - t_k); continuous.

    A field that uses it has kinks at the knots; report those times, so that no step passes over one, where accuracy counts.

    >>> u = PiecewiseLinear(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 2.0, 0.0]))
    >>> u(2.0)
    tensor(1.)
    """

    def _value(self, piece: Tensor, theta: Tensor, width: Tensor) -> Tensor:
        return self.u[piece] + self._shaped(theta) * (self.u[piece + 1] - self.u[piece])


class CubicHermite(Signal):
    """Piecewise cubic with backward differences as slopes: continuous with its derivative, and causal.

    On [t_k, t_{k+1}] it has the values u_k, u_{k+1} and the slopes d_k, d_{k+1}, d_k = (u_k - u_{k-1})/(t_k - t_{k-1}),
    d_0 = d_1: up to t_{k+1} nothing later than u_{k+1} is used, so a forecast can be continued as samples come in.

    Reference:
        Morrill, Kidger, Yang & Lyons (2021), "Neural Controlled Differential Equations for Online Prediction Tasks",
        arXiv:2106.11028.

    >>> u = CubicHermite(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 2.0]))
    >>> u(torch.tensor(1.5))
    tensor(1.5000)
    """

    def _value(self, piece: Tensor, theta: Tensor, width: Tensor) -> Tensor:
        theta, h = self._shaped(theta), self._shaped(width)
        knots = self.t.to(width.dtype)
        rise = self.u[piece + 1] - self.u[piece]
        before = (piece - 1).clamp(min=0)
        slope = (self.u[before + 1] - self.u[before]) / self._shaped(knots[before + 1] - knots[before])  # at the start
        gap = rise - h * slope
        # slope at the end is rise/h: u_k + θ·h·d_k + gap·(2θ² - θ³)
        return self.u[piece] + theta * h * slope + gap * (2 * theta**2 - theta**3)


__all__ = ["CubicHermite", "PiecewiseLinear", "Signal"]
