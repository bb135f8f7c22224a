"""The largest radius of each sample at which its class is proved, from few bounds of its network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from residyn.robust.enclosure import Bounds, enclose
from residyn.robust.graph import Network
from residyn.robust.inputs import Norm
from residyn.robust.linear_bounds import Balls, lower_bounds

_TRIALS = 30
_HALVING = 3
"""Every third trial halves the bracket, so that it closes however far m(r) is from the model."""
_COLUMNS = 2**25
"""Forward columns of a node beyond which they are not made."""


class Search:
    """Radii at which all differences of logits z_y - z_j are proved positive.

    Args:
        network: The network.
        x: Samples, float64 `(B, …)`.
        y: Their classes.
        norm: Of the balls.
        unit: Relative rounding of the network.
        work: Coefficients that may be computed for a layer of a sample.
    """

    def __init__(self, network: Network, x: Tensor, y: Tensor, norm: Norm, unit: float, work: float) -> None:
        self.network, self.x, self.norm, self.unit, self.work = network, x, norm, unit, work
        classes = network.nodes[-1].shape[0]
        one = torch.eye(classes, dtype=torch.float64, device=x.device)
        others = torch.stack([torch.cat([torch.arange(t), torch.arange(t + 1, classes)]) for t in y.tolist()]).to(x.device)
        self.rows = one[y].unsqueeze(1) - one[others]  # (B, C - 1, C)
        self.known: dict[int, Bounds] = {}
        self.within = torch.full((len(x),), math.inf, dtype=torch.float64, device=x.device)  # radii at which they hold
        self.fresh: tuple[dict[int, Bounds], Tensor, Tensor] = {}, x.new_zeros(0), x.new_zeros(0)
        self.columns = x[0].numel() * max(math.prod(n.shape) for n in network.nodes) <= _COLUMNS

    def margin(self, radius: Tensor, index: Tensor) -> Tensor:
        """A proved lower bound of min_j z_y - z_j over the balls of some samples, `(n,)`.

        What was found on a larger ball of a sample holds on a smaller one.
        """
        balls = Balls(self.x[index], radius, self.norm, self.unit)
        usable = radius <= self.within[index]
        known: dict[int, Bounds] = {}
        for k, (low, high) in self.known.items():
            mask = usable.reshape(-1, *[1] * (low.ndim - 1))
            known[k] = torch.where(mask, low[index], -math.inf), torch.where(mask, high[index], math.inf)
        enclose(self.network, balls, known, columns=self.columns, work=self.work)
        self.fresh = known, radius, index
        rows = self.rows[index]
        owner = torch.arange(len(index), device=index.device).repeat_interleave(rows.shape[1])
        found = lower_bounds(self.network, balls, len(self.network.nodes) - 1, rows.flatten(0, 1), owner)
        return torch.nan_to_num(found.reshape(len(index), -1).amin(1), nan=-math.inf)

    def remember(self, failed: Tensor) -> None:
        """Keep the bounds of the last balls for samples that were not proved: later balls lie inside them."""
        known, radius, index = self.fresh
        at = index[failed]
        for k, (low, high) in known.items():
            if k not in self.known:
                whole = len(self.x), *low.shape[1:]
                self.known[k] = low.new_full(whole, -math.inf), low.new_full(whole, math.inf)
            self.known[k][0][at], self.known[k][1][at] = low[failed], high[failed]
        self.within[at] = radius[failed]

    def run(self, rtol: float, share: float) -> tuple[Tensor, float]:
        """The radii, `(B,)`, and the median share of the distance of the linearised boundary that they are.

        The proved margin is m(r) = m₀ - s·r - e(r), with the linearised slope s, and e(r) is taken to be a power of r: of
        degree 2 through the last point, or through one point on either side of the root.

        Args:
            rtol: Relative accuracy.
            share: Where to begin; that of other samples of the same network is a good place.
        """
        start, slope = self._linearised()
        low, high = torch.zeros_like(start), torch.full_like(start, math.inf)
        at_low, at_high = torch.zeros_like(start), torch.zeros_like(start)  # e(r) at both
        trial = share * start / slope
        active = (start > 0).nonzero().flatten()
        for k in range(_TRIALS):
            if not len(active):
                break
            got = self.margin(trial[active], active)
            proved = got > 0
            self.remember(~proved)
            lost = (start[active] - slope[active] * trial[active] - got).clamp(min=0)
            up, down = active[proved], active[~proved]
            low[up], at_low[up] = trial[up], lost[proved]
            high[down], at_high[down] = trial[down], lost[~proved]
            trial = self._next(start, slope, low, high, at_low, at_high)
            if k % _HALVING == _HALVING - 1:
                trial = torch.where(torch.isinf(high), trial, (low + high) / 2)
            active = active[(high - low > rtol * high)[active] | torch.isinf(high[active])]
        found = (low * slope / start)[start > 0]
        return low, float(found.median()) if len(found) else share

    def _next(self, start: Tensor, slope: Tensor, low: Tensor, high: Tensor, at_low: Tensor, at_high: Tensor) -> Tensor:
        """Where the model of the margin crosses 0, kept a little off both ends."""
        one, other = torch.isinf(high), low == 0
        tiny = 1e-30
        power = torch.log((at_high / at_low.clamp(min=tiny)).clamp(min=1 + 1e-9)) / torch.log((high / low).clamp(min=1 + 1e-9))
        power = torch.where(one | other, 2.0, torch.nan_to_num(power, nan=2.0, posinf=2.0)).clamp(1.0, 40.0)
        base, at = torch.where(other, high, low), torch.where(other, at_high, at_low).clamp(min=tiny)
        left, right = low.clone(), torch.where(one, 4 * low, high)
        for _ in range(50):
            middle = (left + right) / 2
            positive = start - slope * middle - at * (middle / base) ** power > 0
            left, right = torch.where(positive, middle, left), torch.where(positive, right, middle)
        width = torch.where(one, 3 * low, high - low)
        return torch.maximum(torch.minimum(left, low + 0.93 * width), low + 0.07 * width)

    def _linearised(self) -> tuple[Tensor, Tensor]:
        """min_j z_y - z_j at the samples, and the dual norm of its gradient."""
        with torch.enable_grad():
            z = self.x.clone().requires_grad_()
            scores = self.network.values(z)[-1]
            gaps = (self.rows * scores.unsqueeze(1)).sum(-1).amin(1)
            (gradient,) = torch.autograd.grad(gaps.sum(), z)
        flat = gradient.flatten(1)
        slope = flat.norm(dim=1) if self.norm == "l2" else flat.abs().sum(1)
        return gaps.detach(), slope.clamp(min=1e-12)
