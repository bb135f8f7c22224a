"""The steps of restoration: data steps x - α·Hᵀ(Hx - b) as residual branches, explicit and proximal."""

from __future__ import annotations

import torch
from torch import Tensor

from residyn.branch import Linear, Spectral
from residyn.errors import InputError
from residyn.inverse.operators import Operator
from residyn.inverse.operators.base import check_shape
from residyn.inverse.operators.blur import squared
from residyn.results import Estimate
from residyn.step import Residual


class DataStep(Linear):
    """The branch F(x) = -Hᵀ(H·x - b): k steps of size α are k blocks of a residual network, and gradient descent.

    Args:
        op: H.
        b: The measurement, `(…, *op.range)`.

    >>> from residyn.inverse.operators import Inpainting
    >>> DataStep(Inpainting(torch.ones(2)), torch.tensor([1.0, 2.0]))(torch.zeros(2))
    tensor([1., 2.])
    """

    normal = True

    def __init__(self, op: Operator, b: Tensor) -> None:
        check_shape(b, op.range, "b")
        super().__init__(op.adjoint(b))
        self.op = op
        diagonal = op.spectrum is not None
        self.register_buffer("_b", b, persistent=False)
        self.register_buffer("_back", op.back(b) if diagonal else None, persistent=False)
        self.register_buffer("_power", power_of(op) if diagonal else None, persistent=False)
        # complex coefficients as pairs of reals: a real factor applied in one pass, without its copy as a complex number
        pairs = self._back is not None and self._power is not None and self._back.is_complex()
        self.register_buffer("_factor", -torch.stack([self._power] * 2, -1) if pairs else None, persistent=False)  # type: ignore[list-item]

    _b: Tensor
    _back: Tensor | None
    _power: Tensor | None
    _factor: Tensor | None

    def matvec(self, x: Tensor) -> Tensor:
        """-HᵀH·x."""
        return self.op.normal(x).neg_()

    def adjoint(self, y: Tensor) -> Tensor:
        """The same: HᵀH is its own adjoint."""
        return self.matvec(y)

    def prox(self, x: Tensor, h: float) -> Tensor:
        """argmin_z ½‖H·z - b‖² + ‖z - x‖²/2h, the implicit step of size h, for H diagonal in a known basis.

        Raises:
            InputError: If H is not diagonal in a known basis.
        """
        power = power_of(self.op)
        back = self.op.back(self._b) if self._back is None else self._back
        return self.op.synthesise((self.op.analyse(x) + h * back) / (1 + h * power))

    def norm_bound(self) -> Estimate:
        """‖H‖², from the operator's bound."""
        bound = self.op.norm_bound()
        return Estimate(float(bound) ** 2 * (1 + 4 * torch.finfo(torch.float64).eps), bound.kind, bound.iterations)

    def forward(self, x: Tensor) -> Tensor:
        """Hᵀb - HᵀH·x; where H is diagonal, subtracted there, so that rounding is relative to what is left of it."""
        if self._back is None or self._power is None:
            return self.op.adjoint(self._b - self.op(x))
        if self._factor is not None:
            coordinates = torch.view_as_real(self.op.analyse(x))
            out = None if coordinates.requires_grad else coordinates
            moved = torch.addcmul(torch.view_as_real(self._back), self._factor, coordinates, out=out)
            return self.op.synthesise(torch.view_as_complex(moved))
        return self.op.synthesise(torch.addcmul(self._back, self._power, self.op.analyse(x), value=-1))


class ProximalStep(Linear):
    """The branch of the implicit data step, F(x) = -(HᵀH + ρ)⁻¹·Hᵀ(H·x - b), for H diagonal in a known basis.

    One step of size 1 is the proximal point x + F(x) = argmin_z ½‖H·z - b‖² + ρ/2·‖z - x‖²: stable at every ρ > 0.

    Args:
        op: H, with a spectrum.
        b: The measurement.
        rho: ρ > 0.

    Raises:
        InputError: If H is not diagonal in a known basis, or ρ is not positive.

    >>> from residyn.inverse.operators import Inpainting
    >>> ProximalStep(Inpainting(torch.ones(2)), torch.tensor([1.0, 2.0]), 1.0)(torch.zeros(2))
    tensor([0.5000, 1.0000])
    """

    normal = True

    def __init__(self, op: Operator, b: Tensor, rho: float) -> None:
        check_shape(b, op.range, "b")
        if not rho > 0:
            raise InputError(f"`rho` must be > 0, got {rho}; the smaller it is, the longer the step")
        power = power_of(op)
        super().__init__(op.synthesise(op.back(b) / (power + rho)))
        self.op, self.rho = op, rho
        self.register_buffer("gain", power / (power + rho), persistent=False)

    gain: Tensor

    def matvec(self, x: Tensor) -> Tensor:
        """-P/(P + ρ)·x in the basis of H."""
        return self.op.synthesise(self.op.analyse(x) * -self.gain)

    def adjoint(self, y: Tensor) -> Tensor:
        """The same: it is its own adjoint."""
        return self.matvec(y)

    def norm_bound(self) -> Estimate:
        """At most 1."""
        return Estimate(1.0, "certified")


def power_of(op: Operator) -> Tensor:
    """P = |H|² in the basis of `op.analyse`.

    Raises:
        InputError: If H is not diagonal in a known basis.
    """
    spectrum = op.spectrum
    if spectrum is None:
        raise InputError(
            f"`op` must be diagonal in a known basis for a closed-form step, got {type(op).__name__}; take explicit steps, or "
            'Blur(..., boundary="circular")'
        )
    return squared(spectrum)


def spectral_data_step(op: Operator, b: Tensor) -> Spectral:
    """`DataStep` of an operator that is diagonal in a known basis: k equal steps of any scheme collapse to one multiplier.

    >>> from residyn.inverse.operators import Inpainting
    >>> spectral_data_step(Inpainting(torch.ones(2)), torch.ones(2)).eigenvalues()
    tensor([-1., -1.])
    """
    check_shape(b, op.range, "b")
    return Spectral(-power_of(op), op.analyse, op.synthesise, offset=op.adjoint(b))


def data_block(op: Operator, b: Tensor, step: float) -> Residual:
    """One residual block x - α·Hᵀ(H·x - b).

    Args:
        op: H.
        b: The measurement.
        step: α.

    Returns:
        The block; a `Stack` of k of them from x = 0 is k steps of gradient descent.

    >>> from residyn.inverse.operators import Inpainting
    >>> data_block(Inpainting(torch.ones(1)), torch.ones(1), 0.5)(torch.zeros(1))
    tensor([0.5000])
    """
    return Residual(DataStep(op, b), step)


class FourierDescent:
    """Gradient descent that stays in the basis in which H is diagonal: X ← X - α·(P·X - H̄·B), one pass over memory a step.

    Args:
        op: H, with a spectrum.
        b: The measurement.
        step: α.

    Raises:
        InputError: If H is not diagonal in a known basis.

    >>> from residyn.inverse.operators import Inpainting
    >>> FourierDescent(Inpainting(torch.ones(1)), torch.ones(1), 0.5).advance(2).image()
    tensor([0.7500])
    """

    def __init__(self, op: Operator, b: Tensor, step: float) -> None:
        check_shape(b, op.range, "b")
        keep, back = 1 - step * power_of(op), step * op.back(b)
        self.op, self._complex = op, back.is_complex()
        # pairs of reals: the factor is applied in one pass, without its copy as a complex number
        self._keep = torch.stack([keep] * 2, -1) if self._complex else keep
        self._drive = torch.view_as_real(back) if self._complex else back
        self._x = torch.zeros_like(self._drive)

    @torch.no_grad()
    def advance(self, steps: int = 1) -> FourierDescent:
        """Take steps."""
        for _ in range(steps):
            torch.addcmul(self._drive, self._keep.expand_as(self._x), self._x, out=self._x)
        return self

    def image(self) -> Tensor:
        """x as it is now."""
        return self.op.synthesise(torch.view_as_complex(self._x.clone()) if self._complex else self._x.clone())
