"""Adaptive Dormand–Prince steps against torchdiffeq 0.2.5, eager, at equal tolerances; run by `python -m benchmarks.run`.

256 Lotka–Volterra systems forwards, and a 2-64-64-2 tanh network forwards and backwards with the default gradient mode.
"""

from __future__ import annotations

import torch
import torchdiffeq
from torch import Tensor, nn

import residyn as rd
from benchmarks.harness import Row, in_turn


def lotka_volterra(t: Tensor, z: Tensor) -> Tensor:
    """Prey and predators."""
    x, y = z[..., 0], z[..., 1]
    return torch.stack((1.5 * x - x * y, x * y - 3.0 * y), -1)


def forward(repeat: int) -> Row:
    """256 systems, rtol = atol = 1e-6, double precision."""
    z = torch.rand(256, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 0.5
    t = torch.tensor([0.0, 10.0], dtype=torch.float64)
    control = rd.Adaptive(rtol=1e-6, atol=1e-6)

    def ours() -> Tensor:
        return rd.solve(lotka_volterra, z, t, control=control).x[-1]

    def peer() -> Tensor:
        return torchdiffeq.odeint(lotka_volterra, z, t, rtol=1e-6, atol=1e-6, method="dopri5")[-1]

    truth = rd.solve(lotka_volterra, z, t, scheme=rd.Dopri8(), control=rd.Adaptive(rtol=1e-12, atol=1e-12)).x[-1]
    errors = [float((side() - truth).abs().max()) for side in (ours, peer)]
    mine, theirs, spread = in_turn(ours, peer, repeat)
    note = f"ratios {spread}; largest error {errors[0]:.1e}, peer {errors[1]:.1e}"
    return Row("Dopri5, 256 Lotka–Volterra systems, float64", 1e3 * mine, 1e3 * theirs, "ms", 3.0, note)


def training(batch: int, dtype: torch.dtype, repeat: int, *, adjoint: bool = False) -> Row:
    """Forwards and backwards through a small network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)).to(dtype)
    x0 = torch.randn(batch, 2, dtype=dtype, requires_grad=True)
    t = torch.tensor([0.0, 2.0, 4.0], dtype=dtype)
    tol = 1e-6 if dtype == torch.float64 else 1e-5
    field, control = rd.autonomous(net), rd.Adaptive(rtol=tol, atol=tol)

    class Field(nn.Module):
        """The network as torchdiffeq wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return self.net(x)

    other = Field()
    odeint = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint

    def ours() -> None:
        net.zero_grad()
        rd.solve(field, x0, t, control=control).x.pow(2).sum().backward()

    def peer() -> None:
        net.zero_grad()
        odeint(other, x0, t, rtol=tol, atol=tol, method="dopri5").pow(2).sum().backward()

    evaluations = rd.solve(field, x0, t, control=control).stats.evaluations

    def network() -> None:
        for _ in range(evaluations):
            net(x0).sum().backward()

    mine, theirs, spread = in_turn(ours, peer, repeat)
    floor = in_turn(network, network, repeat)[0]
    name = f"Dopri5 and its gradient, tanh MLP 2-64-64-2, batch {batch}, {str(dtype)[6:]}" + (
        ", peer odeint_adjoint" if adjoint else ""
    )
    alone = f"the {evaluations} passes through the network alone: {1e3 * floor:.3g} ms"
    note = f"ratios {spread}; {alone}, so at most {theirs / floor:.2f}"
    return Row(name, 1e3 * mine, 1e3 * theirs, "ms", None if adjoint else 1.5, note)


def per_sample(repeat: int) -> Row:
    """Steps a sample against shared steps, both ours."""
    z = torch.rand(256, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 0.5
    t = [0.0, 10.0]

    def run(own: bool) -> int:
        stats = rd.solve(lotka_volterra, z, t, control=rd.Adaptive(rtol=1e-6, atol=1e-6, per_sample=own)).stats
        return stats.accepted + stats.rejected

    own, joint, spread = in_turn(lambda: run(True), lambda: run(False), repeat)
    rounds = [run(True), run(False)]
    note = (
        f"ratios {spread}; {rounds[0]} rounds against {rounds[1]}, for the hardest sample decides; "
        f"a round costs {own / joint * rounds[1] / rounds[0]:.2f} of a shared one, all of it calls on 256 numbers each: "
        "a third in the stages (times and steps that are tensors), the rest in the NumPy calls that judge, choose and merge. "
        "Tried: predictive steps (122 rounds became 110), NumPy for the ratios (-7 %), in the stages too (-7 %, but a sample "
        "was no longer bit for bit what it is alone), no look at nan and reports where there are none, a mask that is repeated "
        "and not broadcast (together within the noise of 5 %)"
    )
    return Row("Steps a sample (ours) against shared steps (ours too)", 1e3 * own, 1e3 * joint, "ms", 1 / 1.3, note)


def per_sample_network(repeat: int) -> Row:
    """The same on a network's field, whose weights are three times the usual start, so that there is something to solve."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)).double()
    x0, field, t = torch.randn(256, 2, dtype=torch.float64), rd.autonomous(net), [0.0, 4.0]
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(3)

    @torch.no_grad()
    def run(own: bool, tol: float = 1e-4) -> tuple[int, Tensor]:
        solution = rd.solve(field, x0, t, control=rd.Adaptive(rtol=tol, atol=tol, per_sample=own))
        return solution.stats.accepted + solution.stats.rejected, solution.x[-1]

    own, joint, spread = in_turn(lambda: run(True), lambda: run(False), repeat)
    truth = run(False, 1e-12)[1]
    (mine, x), (shared, y) = run(True), run(False)
    errors = [float((z - truth).abs().max()) for z in (x, y)]
    tol, equal = 1e-4, shared
    while float((y - truth).abs().max()) > errors[0]:
        tol /= 1.2
        equal, y = run(False, tol)
    note = (
        f"ratios {spread}; {mine} rounds against {shared}: the shared norm is a mean, in which the hardest sample hides. "
        f"Largest error {errors[0]:.1e} against {errors[1]:.1e}; for an error as small shared steps need {equal} rounds. "
        f"A round costs {own / joint * shared / mine:.2f} of a shared one"
    )
    name = "Steps a sample (ours) against shared steps (ours too), tanh MLP 2-64-64-2"
    return Row(name, 1e3 * own, 1e3 * joint, "ms", 1 / 1.3, note)


def rows(quick: bool) -> list[Row]:
    """The table."""
    repeat = 1 if quick else 7
    table = [forward(repeat)]
    table += [training(batch, dtype, repeat) for batch in (32, 256) for dtype in (torch.float32, torch.float64)]
    return [*table, training(256, torch.float32, repeat, adjoint=True), per_sample(repeat), per_sample_network(repeat)]
