"""Blur: convolution with a point spread function, at one of three borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from residyn.errors import InputError, check_choice
from residyn.inverse.operators.base import Operator, check_shape, nonnegative_bound, scale_bound
from residyn.inverse.operators.border import Mode, cosine_transform, extend, fold, inverse_cosine_transform
from residyn.inverse.operators.convolve import Backend, Transform, choose, direct, factors, separable
from residyn.results import Estimate

Boundary = Literal["symmetric", "circular", "unknown"]
_TABLE = 48
"""Largest side of a PSF whose transfer function is summed by tables."""

BOUNDARIES = ("symmetric", "circular", "unknown")


class Blur(Operator):
    """Convolution with a point spread function h, (H·x)[i] = Σ_j h[j]·x[i - j + c], its centre c = k//2 on each axis.

    Args:
        psf: h, of any number of axes (2 for pictures, 3 for volumes), centred in its array; of an even side k the centre is
            the element k//2, the right one of the two in the middle. It is taken as it is: `normalised` makes its sum one.
        shape: Shape of the blurred picture, one size an axis of the PSF; channels and batch stand in front of it in x.
        boundary: `"symmetric"`: the picture goes on as its mirror image, edge pixel repeated. `"circular"`: periodically;
            then H is diagonal in the Fourier basis. `"unknown"`: nothing is assumed, x is larger than H·x by k - 1.
        backend: `"direct"`, `"separable"` or `"fft"`; the cheapest if not given.

    Raises:
        InputError: If the PSF does not fit the shape, is not finite or is zero, or the boundary is not known.

    Reference:
        Hansen, Nagy & O'Leary (2006), "Deblurring Images", doi:10.1137/1.9780898718874.

    >>> blur = Blur(torch.full((3, 3), 1 / 9), (32, 32))
    >>> blur(torch.ones(32, 32)).sum().round()
    tensor(1024.)
    """

    psf: Tensor

    def __init__(
        self, psf: Any, shape: Sequence[int], boundary: Boundary = "symmetric", *, backend: Backend | None = None
    ) -> None:
        kernel = check_kernel(psf)
        check_choice("boundary", boundary, BOUNDARIES)
        if len(shape) != kernel.ndim:
            raise InputError(
                f"`shape` must have one size for each of the PSF's {kernel.ndim} axes, got {tuple(shape)}; channels and batch "
                "stand in front of the picture in x, not in `shape`"
            )
        if any(k > n for k, n in zip(kernel.shape, shape, strict=True)):
            raise InputError(
                f"`psf` must not be larger than the picture, {tuple(shape)}, got {tuple(kernel.shape)}; crop it to where it is "
                "not negligible"
            )
        margins = [(k - 1 - k // 2, k // 2) for k in kernel.shape]
        grown = [n + k - 1 for n, k in zip(shape, kernel.shape, strict=True)]
        super().__init__(grown if boundary == "unknown" else shape, shape, kernel.dtype)
        self.register_buffer("psf", kernel)
        self.boundary: Boundary = boundary
        self.backend: Backend = choose(kernel) if backend is None else backend
        self.margins = margins
        self._lines = factors(kernel) if self.backend == "separable" else None
        if self.backend == "separable" and self._lines is None:
            raise InputError("`backend` must not be 'separable' where the PSF is no outer product; take 'fft'")
        circular = boundary == "circular"
        self._fft = Transform(tuple(shape)) if circular else Transform.smooth(tuple(grown))
        # the transfer function has the centre at 0 where the grid is periodic, and the corner at 0 where it is padded
        self.register_buffer("_transfer", transfer(kernel, self._fft.size, centred=circular), persistent=False)
        self.register_buffer("_power", squared(self._transfer) if circular else None, persistent=False)
        mirrored = boundary == "symmetric" and _mirrored(kernel)
        self.register_buffer("_cosine", _cosine_spectrum(kernel, shape) if mirrored else None, persistent=False)

    _transfer: Tensor
    _power: Tensor | None
    _cosine: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """The blurred picture, `(…, *shape)`."""
        check_shape(x, self.domain, "x")
        if self.boundary == "circular" and self.backend == "fft":
            return self._fft.backward(self._fft.forward(x).mul_(self._transfer))
        wide = x if self.boundary == "unknown" else extend(x, self.margins, self._mode())
        if self.backend == "direct":
            return direct(wide, self.psf)
        if self._lines is not None:
            return separable(wide, self._lines)
        y = self._fft.backward(self._fft.forward(wide).mul_(self._transfer))
        return crop(y, [k - 1 for k in self.psf.shape], self.range)

    def adjoint(self, y: Tensor) -> Tensor:
        """Correlation with the PSF, and the margins folded back, `(…, *domain)`."""
        check_shape(y, self.range, "y")
        if self.boundary == "circular" and self.backend == "fft":
            return self._fft.backward(self._fft.forward(y).mul_(self._transfer.conj()))
        d = self.psf.ndim
        if self.backend == "direct":
            wide = direct(y, self.psf.flip(tuple(range(d))), full=True)
        elif self._lines is not None:
            wide = separable(y, [line.flip(0) for line in self._lines], full=True)
        else:
            # corner at 0: the conjugate shifts to the left, so the measurements start k - 1 to the right
            padded = extend(y, [(k - 1, 0) for k in self.psf.shape], "zero")
            product = self._fft.forward(padded).mul_(self._transfer.conj())
            grown = torch.Size(n + k - 1 for n, k in zip(self.range, self.psf.shape, strict=True))
            wide = crop(self._fft.backward(product), [0] * d, grown)
        return wide if self.boundary == "unknown" else fold(wide, self.margins, self._mode())

    def normal(self, x: Tensor) -> Tensor:
        """HᵀH·x, with one pair of FFTs where the borders are periodic."""
        if self._power is None:
            return self.adjoint(self(x))
        check_shape(x, self.domain, "x")
        return self._fft.backward(self._fft.forward(x).mul_(self._power))

    @property
    def spectrum(self) -> Tensor | None:
        """H by frequency: on the half plane of `rfftn` (circular), of the DCT (mirrored, symmetric PSF), else `None`."""
        return self._transfer if self.boundary == "circular" else self._cosine

    def analyse(self, x: Tensor) -> Tensor:
        """Its Fourier coefficients (circular), or those of the DCT (mirrored borders and a PSF symmetric on each axis)."""
        if self.boundary == "circular":
            return self._fft.forward(x)
        if self._cosine is None:
            return super().analyse(x)
        for axis in range(-self.psf.ndim, 0):
            x = cosine_transform(x, axis)
        return x

    def synthesise(self, coordinates: Tensor) -> Tensor:
        """The picture with these coefficients."""
        if self.boundary == "circular":
            return self._fft.backward(coordinates)
        if self._cosine is None:
            return super().synthesise(coordinates)
        for axis in range(-self.psf.ndim, 0):
            coordinates = inverse_cosine_transform(coordinates, axis)
        return coordinates

    def back(self, y: Tensor) -> Tensor:
        """H̄ times the coefficients of y: rounding of y's is damped where H is small, which it would not be the other way."""
        spectrum = self.spectrum
        return super().back(y) if spectrum is None else self.analyse(y).mul_(spectrum.conj())

    def norm_bound(self) -> Estimate:
        """max |H| over the frequencies where they diagonalise H, which is exact; a Lanczos bound otherwise."""
        spectrum = self.spectrum
        if spectrum is None:
            found = nonnegative_bound(self) if bool((self.psf >= 0).all()) else None
            return super().norm_bound() if found is None else found
        depth = max(1.0, float(torch.tensor(self.psf.numel()).log2()))
        size = float(self.psf.abs().sum())  # the rounding of the transform is relative to the sum of what it adds
        top = float(spectrum.abs().max())
        return scale_bound(top, self.dtype, depth * size / top if top > 0 else 1.0)

    def _mode(self) -> Mode:
        return "circular" if self.boundary == "circular" else "symmetric"

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"psf={tuple(self.psf.shape)}, shape={tuple(self.range)}, boundary={self.boundary!r}, backend={self.backend!r}"


def check_kernel(psf: Any) -> Tensor:
    """A point spread function as a floating-point tensor.

    Raises:
        InputError: If it is not finite, all zero, complex or without axes.
    """
    kernel = torch.as_tensor(psf).detach()
    if kernel.is_complex() or kernel.ndim not in (1, 2, 3) or kernel.numel() == 0:
        raise InputError(f"`psf` must be a real array of 1, 2 or 3 axes, got {kernel.dtype} {tuple(kernel.shape)}")
    if not kernel.is_floating_point() or kernel.dtype in (torch.float16, torch.bfloat16):
        kernel = kernel.to(torch.float32)
    if not bool(torch.isfinite(kernel).all()):
        raise InputError("`psf` must be finite, got nan or infinity in it; fill them in first")
    if not bool((kernel != 0).any()):
        raise InputError("`psf` must not be zero everywhere, got only zeros; nothing would be left of the picture")
    return kernel.contiguous()


def transfer(psf: Tensor, size: Sequence[int], *, centred: bool = True) -> Tensor:
    """The transfer function of a PSF on the half space of `rfftn` for a grid of this size.

    Computed in double precision, and returned in that of the PSF.

    Args:
        psf: Centred in its array, at k//2.
        size: Of the grid, no smaller than the PSF.
        centred: Whether its centre, and not its first element, is put at the origin.
    """
    values = psf.to(torch.complex128)
    if max(psf.shape) > _TABLE:
        wide = torch.zeros(list(size), dtype=torch.float64, device=psf.device)
        wide[tuple(slice(0, k) for k in psf.shape)] = psf.double()
        wide = wide.roll([-(k // 2) for k in psf.shape], tuple(range(psf.ndim))) if centred else wide
        values = torch.fft.rfftn(wide)
    else:  # a small PSF: a table of exp(-2πi·f·j) an axis costs less than the FFT of a large grid, and rounds less
        for axis, (n, k) in enumerate(zip(size, psf.shape, strict=True)):
            frequencies = torch.fft.rfftfreq if axis == psf.ndim - 1 else torch.fft.fftfreq
            offsets = torch.arange(k, dtype=torch.float64) - (k // 2 if centred else 0)
            angle = torch.outer(frequencies(n, dtype=torch.float64), offsets) * (-2 * torch.pi)
            table = torch.polar(torch.ones_like(angle), angle).to(psf.device)
            values = torch.movedim(torch.tensordot(table, values, dims=([1], [axis])), 0, axis)
    return values.to(torch.complex128 if psf.dtype == torch.float64 else torch.complex64).contiguous()


def squared(transfer: Tensor) -> Tensor:
    """|H|², without the square root that `abs` takes."""
    return transfer.real.square() + transfer.imag.square() if transfer.is_complex() else transfer.square()


def _mirrored(psf: Tensor) -> bool:
    """Whether the PSF is odd-sized and, to rounding, its own mirror image on each axis."""
    rounding = 4 * torch.finfo(psf.dtype).eps * float(psf.abs().max())
    odd = all(k % 2 == 1 for k in psf.shape)
    return odd and all(bool(((psf - psf.flip(axis)).abs() <= rounding).all()) for axis in range(psf.ndim))


def _cosine_spectrum(psf: Tensor, shape: Sequence[int]) -> Tensor:
    """H at the frequencies πk/n of the DCT: Σ_j h[j]·Π cos(π·k·(j - c)/n)."""
    values = psf.double()
    for axis, n in enumerate(shape):
        k = psf.shape[axis]
        offsets = torch.arange(k, dtype=torch.float64, device=psf.device) - k // 2
        table = torch.cos(torch.outer(torch.arange(n, dtype=torch.float64, device=psf.device) * (torch.pi / n), offsets))
        values = torch.movedim(torch.tensordot(table, values, dims=([1], [axis])), 0, axis)
    return values.to(psf.dtype)


def crop(y: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """The part of the last axes that starts there and has that size."""
    for axis, (s, n) in enumerate(zip(start, size, strict=True), start=-len(size)):
        y = y.narrow(axis, s, n)
    return y
