"""What `deblur` returns, and what the model of the picture predicts of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from residyn.display import card
from residyn.inverse.filters import landweber_gain
from residyn.inverse.spectrum_model import SpectrumModel, _sample

I = TypeVar("I", Tensor, np.ndarray)  # noqa: E741 - the field's letter for an image


@dataclass(frozen=True)
class Restoration(Generic[I]):
    """A restored picture, and how it came about.

    Args:
        image: The picture, of the type, shape and dtype of the one that was given.
        sigma: σ, standard deviation of the noise that was assumed, given or estimated, in the units of the pixels.
        residuals: Root mean square of H·x - b after 0, 1, … steps; near σ where noise and nothing else is left.
        filter: The linear filter from measurement to picture on the half space of `rfftn` (of the DCT where borders are
            mirrored and `"landweber"` ran in closed form); `None` where what was done is not linear, or has no such form.
        transfer: H, on the same half space.
        method: What was done.
        steps: How many blocks or iterations.
        step: α of a block, where there is one.
        model: Noise and spectrum, as they were estimated.
        notes: What a user should know of this result.
    """

    image: I
    sigma: float
    residuals: list[float]
    filter: Tensor | None
    transfer: Tensor
    method: str
    steps: int
    step: float | None
    model: SpectrumModel
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        rows: list[tuple[str, object]] = [
            ("method", self.method),
            ("picture", tuple(self.image.shape)),
            ("noise σ", self.sigma),
        ]
        rows += [("blocks", self.steps), *([] if self.step is None else [("step α", self.step)])]
        rows += [("residual, the last", float(self.residuals[-1]))] if self.residuals else []
        return card("Restoration", rows, "; ".join(self.notes))


@dataclass(frozen=True)
class Forecast:
    """The mean squared error that the model of the picture predicts, for k blocks of gradient descent from x = 0.

    E_k = mean over f of (1 - αP)^2k·S + q_k²·P·σ²: detail not yet brought back, and noise brought along.

    Args:
        model: S and σ.
        transfer: H, on the half space of `rfftn`.
        size: Shape of the grid.
        step: α.
    """

    model: SpectrumModel
    transfer: Tensor
    size: tuple[int, ...]
    step: float

    def blurred(self) -> float:
        """The same for the picture as it was given: mean of |1 - H|²·S + σ²."""
        transfer, signal, weight = self._at_sample()
        error = (1 - transfer).abs() ** 2 * signal + self.model.sigma**2
        return float((error * weight).sum() / weight.sum())

    def after(self, steps: int) -> float:
        """E_k."""
        transfer, signal, weight = self._at_sample()
        power = transfer.abs() ** 2
        gain = landweber_gain(power, self.step, steps)
        error = (1 - gain * power) ** 2 * signal + gain**2 * power * self.model.sigma**2
        return float((error * weight).sum() / weight.sum())

    def best(self, most: int) -> int:
        """The k with the least error, up to `most`, on a grid of 5 %."""
        grid = sorted({min(most, round(1.05**i)) for i in range(math.ceil(math.log(max(2, most)) / math.log(1.05)) + 1)})
        return min(grid, key=self.after)

    def _at_sample(self) -> tuple[Tensor, Tensor, Tensor]:
        chosen, f2, weight = _sample(self.size)
        transfer = self.transfer.flatten()[chosen.to(self.transfer.device)].cpu().to(torch.complex128)
        return transfer, self.model.power(f2), weight
