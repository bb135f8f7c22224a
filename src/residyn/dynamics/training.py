"""Pairs of neighbouring samples, the residuals of each rule, and the loop that makes them small."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residyn.dynamics.networks import Scaled
from residyn.dynamics.theory import Rule
from residyn.dynamics.trajectories import Trajectories
from residyn.errors import InputError, SolveError
from residyn.results import Outcome

CHUNK = 20
JITTER = 0.1
"""Of the mean step: the least by which steps are told apart."""
PATIENCE = 4

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Pairs:
    """Neighbouring samples of some trajectories.

    Args:
        points: All samples with their controls, `(n, d + m)`.
        left: Index of the first of each pair, `(p,)`; the second is the next sample.
        step: Its length, `(p, 1)`.
        slope: (x_{k+1} - x_k)/h of each pair, `(p, d)`.
        measured: Measured derivative at each sample, `(n, d)`, if there is one.
        controls: m.
    """

    points: Tensor
    left: Tensor
    step: Tensor
    slope: Tensor
    measured: Tensor | None
    controls: int

    @classmethod
    def of(cls, data: Trajectories) -> Pairs:
        """The pairs of some trajectories."""
        x, t = torch.cat(data.x), torch.cat(data.t)
        ends = torch.tensor([len(one) for one in data.t]).cumsum(0) - 1
        keep = torch.ones(len(t), dtype=torch.bool)
        keep[ends] = False
        left = keep.nonzero()[:, 0]
        step = (t[left + 1] - t[left])[:, None]
        u = torch.cat(data.control) if data.control is not None else x.new_zeros(len(x), 0)
        measured = torch.cat(data.derivative) if data.derivative is not None else None
        return cls(torch.cat([x, u], 1), left, step, (x[left + 1] - x[left]) / step, measured, u.shape[1])

    @property
    def weight(self) -> Tensor:
        """Of each pair's residual, `(p, 1)`, of mean square 1: noise in x makes the slope of a short step as uncertain as 1/h.

        Steps longer than the median are not favoured further, for there the truncation error counts; equal steps weigh 1.
        """
        share = (self.step.abs() / self.step.abs().median()).clamp(max=1.0)
        return share / share.square().mean().sqrt()

    def flow_inputs(self) -> Tensor:
        """State, controls at both ends, and step of each pair: what a flow map sees."""
        ahead = self.points[self.left + 1][:, self.points.shape[1] - self.controls :]
        return torch.cat([self.points[self.left], ahead, self.step], 1)


Residual = Callable[[Scaled], Tensor]


def residual(pairs: Pairs, target: str, rule: Rule) -> Residual:
    """What a fit makes small, in units of the scaled rate.

    Args:
        pairs: The data.
        target: `"derivative"` or `"flow"`.
        rule: How a derivative meets the data.

    Returns:
        A function from the network to its residuals, `(p, d)`.
    """
    weight = pairs.weight
    if target == "flow":
        inputs = pairs.flow_inputs()
        return lambda net: weight * (net(inputs) - pairs.slope) / net.scale
    if rule == "measured":
        if pairs.measured is None:
            raise InputError('`rule` "measured" needs measured derivatives, got none; pass `derivative`, or leave rule="auto"')
        measured = pairs.measured
        return lambda net: (net(pairs.points) - measured) / net.scale
    if rule == "euler":
        left = pairs.points[pairs.left]
        return lambda net: weight * (net(left) - pairs.slope) / net.scale

    def trapezoid(net: Scaled) -> Tensor:
        rates: Tensor = net(pairs.points)
        off: Tensor = weight * ((rates[pairs.left] + rates[pairs.left + 1]) / 2 - pairs.slope) / net.scale
        return off

    return trapezoid


def train(
    net: Scaled, residuals: Residual, held_out: Residual | None, *, epochs: int, decay: float, progress: Progress | None
) -> float:
    """Fit by L-BFGS on all data at once; the weights that did best on the held-out pairs are kept.

    Args:
        net: The network, changed in place.
        residuals: Residuals on the data to fit.
        held_out: Residuals that decide when to stop; those to fit if `None`.
        epochs: Iterations at most.
        decay: Weight of the squared parameters.
        progress: Called with the share done and the loss.

    Returns:
        Root mean square of the held-out residuals.

    Raises:
        SolveError: If the loss is not finite.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=CHUNK, history_size=20, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = residuals(net).square().mean() + decay * sum(p.square().sum() for p in parameters)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    best, kept, waited = math.inf, copy.deepcopy(net.state_dict()), 0
    for chunk in range(max(1, epochs // CHUNK)):
        loss = float(optimiser.step(closure).detach())  # type: ignore[no-untyped-call]
        with torch.no_grad():
            score = float((held_out or residuals)(net).square().mean())
        if not math.isfinite(loss) or not math.isfinite(score):
            fix = "scale the data, or pass a smaller `epochs` or a `decay` above 0"
            raise SolveError(Outcome("non_finite", f"the fit lost its way after {chunk * CHUNK} iterations", fix))
        waited = 0 if score < best * (1 - 1e-4) else waited + 1
        if score < best:
            best, kept = score, copy.deepcopy(net.state_dict())
        if progress:
            progress((chunk + 1) * CHUNK / epochs, f"residual {math.sqrt(best):.3g}")
        if waited >= PATIENCE:
            break
    net.load_state_dict(kept)
    return math.sqrt(best)


def split(data: Trajectories, share: float, seed: int) -> tuple[Trajectories, Trajectories | None]:
    """Training and held-out data: whole trajectories, or the last block of a single one.

    Args:
        data: All data.
        share: Held out, in [0, 1).
        seed: Decides which trajectories.

    Returns:
        Both parts; `None` for the second where there is too little data.

    >>> one = Trajectories([torch.arange(10.0)], [torch.zeros(10, 1)], ["x"])
    >>> [part.samples for part in split(one, 0.2, seed=0)]
    [8, 2]
    """
    if not 0.0 <= share < 1.0:
        raise InputError(f"`validation` must lie in [0, 1), got {share}; 0.2 is usual, 0 keeps all data for the fit")
    if share == 0.0:
        return data, None
    if len(data) > 1:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
        held = max(1, round(share * len(data)))
        return data.pick(sorted(order[held:])), data.pick(sorted(order[:held]))
    count = len(data.t[0])
    held = max(2, round(share * count))
    if count - held < 3:
        return data, None
    return data.cut(0, None, count - held), data.cut(0, count - held, None)


def wrap(net: nn.Module, pairs: Pairs, target: str, order: int) -> Scaled:
    """A network in the scalings of some data."""
    inputs = pairs.flow_inputs() if target == "flow" else pairs.points
    # a step that never changes tells nothing; its scaled value is then 0 wherever the map is asked
    spread = inputs.std(0) if len(inputs) > 1 else torch.ones_like(inputs[0])
    constant = spread <= 1e-9 * inputs.abs().amax(0).clamp_min(1e-300)
    measured = pairs.measured is not None and target == "derivative"
    rates = pairs.measured if pairs.measured is not None and measured else pairs.slope
    share = torch.ones_like(rates[:, :1]) if measured else pairs.weight.square()
    middle = (share * rates).sum(0) / share.sum()
    deviation = ((share * (rates - middle).square()).sum(0) / max(len(rates) - 1, 1)).sqrt()
    deviation = deviation if len(rates) > 1 else torch.ones_like(middle)
    deviation = torch.where(deviation > 1e-12 * rates.abs().amax(0).clamp_min(1e-300), deviation, 1.0)
    centre, spread = inputs.mean(0), torch.where(constant, 1.0, spread)
    if target == "flow" and not bool(constant[-1]):
        # steps that differ by the rounding of a clock are one step: in units of that they would be noise, and any other far off
        spread[-1] = torch.maximum(spread[-1], JITTER * centre[-1].abs())
    return Scaled(net, centre, spread, middle, deviation, order)
