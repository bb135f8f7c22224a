"""Undersampled Fourier measurements: magnetic resonance imaging, with one coil or several."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.inverse.operators.base import Operator, check_shape, scale_bound
from residyn.results import Estimate


class Fourier(Operator):
    """Fourier coefficients where they were measured, H·x = m·FFT(s·x), orthonormal, zero frequency in the corner.

    Args:
        mask: m, of the shape of the picture: truth values, or weights.
        coils: s, sensitivities `(C, *shape)`, complex; one coil that sees all alike if not given.

    Raises:
        InputError: If the mask is not finite or the coils have another shape.

    Reference:
        Pruessmann, Weiger, Scheidegger & Boesiger (1999), "SENSE", doi:10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S.

    >>> Fourier(torch.ones(2, 2))(torch.ones(2, 2, dtype=torch.complex64)).real
    tensor([[2., 0.],
            [0., 0.]])
    """  # noqa: E501 - the DOI is one word

    mask: Tensor
    coils: Tensor | None

    def __init__(self, mask: Any, coils: Any = None) -> None:
        weights = torch.as_tensor(mask).detach()
        weights = weights if weights.is_floating_point() else weights.to(torch.float32)
        if not bool(torch.isfinite(weights).all()):
            raise InputError("`mask` must be finite, got nan or infinity in it")
        dtype = torch.complex128 if weights.dtype == torch.float64 else torch.complex64
        maps = None if coils is None else torch.as_tensor(coils).detach().to(dtype)
        if maps is not None and maps.shape[1:] != weights.shape:
            raise InputError(f"`coils` must be (C, {', '.join(map(str, weights.shape))}), got {tuple(maps.shape)}")
        super().__init__(weights.shape, weights.shape if maps is None else maps.shape, dtype)
        self.register_buffer("mask", weights)
        self.register_buffer("coils", maps)
        self._axes = tuple(range(-weights.ndim, 0))

    def forward(self, x: Tensor) -> Tensor:
        """The measured coefficients, complex, `(…, *shape)` or `(…, C, *shape)`."""
        check_shape(x, self.domain, "x")
        if self.coils is not None:
            x = self.coils * x.unsqueeze(-self.mask.ndim - 1)
        return self.mask * torch.fft.fftn(x, dim=self._axes, norm="ortho")

    def adjoint(self, y: Tensor) -> Tensor:
        """The zero-filled picture, complex."""
        check_shape(y, self.range, "y")
        x = torch.fft.ifftn(self.mask * y, dim=self._axes, norm="ortho")
        return x if self.coils is None else (self.coils.conj() * x).sum(-self.mask.ndim - 1)

    @property
    def spectrum(self) -> Tensor | None:
        """m, for one coil."""
        return self.mask if self.coils is None else None

    def analyse(self, x: Tensor) -> Tensor:
        """Fourier coefficients, orthonormal."""
        return torch.fft.fftn(x, dim=self._axes, norm="ortho")

    def synthesise(self, coordinates: Tensor) -> Tensor:
        """The picture with these coefficients."""
        return torch.fft.ifftn(coordinates, dim=self._axes, norm="ortho")

    def norm_bound(self) -> Estimate:
        """max |m| for one coil, exact; a Lanczos bound for several."""
        if self.coils is not None:
            return super().norm_bound()
        depth = max(1.0, float(torch.tensor(float(self.mask.numel())).log2()))
        return scale_bound(float(self.mask.abs().max()), self.mask.dtype, depth)
