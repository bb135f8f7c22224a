"""Operators that leave pixels out: masks, and down-sampling after a blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.inverse.operators.base import Operator, check_shape, scale_bound
from residyn.inverse.operators.blur import Blur
from residyn.results import Estimate


class Inpainting(Operator):
    """A mask, (H·x)[i] = m[i]·x[i]: what is known of a picture with holes.

    Args:
        mask: m, of the shape of the picture: truth values, or weights.

    Raises:
        InputError: If the mask is not finite.

    >>> Inpainting(torch.tensor([True, False]))(torch.tensor([3.0, 4.0]))
    tensor([3., 0.])
    """

    mask: Tensor

    def __init__(self, mask: Any) -> None:
        weights = torch.as_tensor(mask).detach()
        weights = weights if weights.is_floating_point() else weights.to(torch.float32)
        if not bool(torch.isfinite(weights).all()):
            raise InputError("`mask` must be finite, got nan or infinity in it")
        super().__init__(weights.shape, weights.shape, weights.dtype)
        self.register_buffer("mask", weights)

    def forward(self, x: Tensor) -> Tensor:
        """m·x."""
        check_shape(x, self.domain, "x")
        return self.mask * x

    def adjoint(self, y: Tensor) -> Tensor:
        """m·y."""
        check_shape(y, self.range, "y")
        return self.mask * y

    @property
    def spectrum(self) -> Tensor:
        """m: the pixels themselves are the basis."""
        return self.mask

    def analyse(self, x: Tensor) -> Tensor:
        """x."""
        return x

    def synthesise(self, coordinates: Tensor) -> Tensor:
        """x."""
        return coordinates

    def norm_bound(self) -> Estimate:
        """max |m|, exact."""
        return scale_bound(float(self.mask.abs().max()), self.dtype, 1.0)


class Downsample(Operator):
    """Every s-th pixel of a picture, after a blur if one is given: what a coarser sensor sees.

    Args:
        shape: Shape of the fine picture.
        factor: s, for all axes.
        blur: What comes before, of that shape; nothing if not given.

    Raises:
        InputError: If the factor is not a whole number of at least 1, or the blur has another shape.

    >>> Downsample((4,), 2)(torch.arange(4.0))
    tensor([0., 2.])
    """

    def __init__(
        self, shape: Sequence[int], factor: int, blur: Blur | None = None, *, dtype: torch.dtype | None = None
    ) -> None:
        if not isinstance(factor, int) or factor < 1:
            raise InputError(f"`factor` must be a whole number >= 1, got {factor!r}")
        if blur is not None and tuple(blur.range) != tuple(shape):
            raise InputError(
                f"`blur` must have the shape {tuple(shape)}, got {tuple(blur.range)}; make it for the fine picture"
            )
        kind = blur.dtype if blur is not None else dtype or torch.float32
        domain = tuple(shape) if blur is None else tuple(blur.domain)
        super().__init__(domain, [-(-n // factor) for n in shape], kind)
        self.factor, self.blur, self.fine = factor, blur, torch.Size(shape)

    def forward(self, x: Tensor) -> Tensor:
        """The coarse picture."""
        check_shape(x, self.domain, "x")
        wide = x if self.blur is None else self.blur(x)
        return wide[self._kept()]

    def adjoint(self, y: Tensor) -> Tensor:
        """Zeros between the pixels, then the blur's adjoint."""
        check_shape(y, self.range, "y")
        wide = y.new_zeros(*y.shape[: y.ndim - len(self.fine)], *self.fine)
        wide[self._kept()] = y
        return wide if self.blur is None else self.blur.adjoint(wide)

    def _kept(self) -> tuple[Any, ...]:
        return (..., *[slice(None, None, self.factor)] * len(self.fine))

    def norm_bound(self) -> Estimate:
        """1 without a blur; with a periodic one on sizes that s divides, the root mean square of |H| over aliases, at most."""
        if self.blur is None:
            return Estimate(1.0, "certified")
        if self.blur.boundary != "circular" or any(n % self.factor for n in self.fine):
            return super().norm_bound()
        axes = tuple(range(len(self.fine)))
        wide = torch.zeros(self.fine, dtype=torch.float64)
        psf = self.blur.psf.double().cpu()
        wide[tuple(slice(0, k) for k in psf.shape)] = psf
        power = torch.fft.fftn(wide).abs() ** 2
        for axis in axes:
            power = power.unflatten(axis, (self.factor, power.shape[axis] // self.factor)).mean(dim=axis)
        return scale_bound(float(power.max()) ** 0.5, self.dtype, 4 * float(torch.tensor(float(psf.numel() + 1)).log2()))
