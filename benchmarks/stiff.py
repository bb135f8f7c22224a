"""256 stiff systems in one batch, each with its own steps, rtol 1e-6, atol 1e-9: against jitted diffrax `vmap` Kvaerno5.

Van der Pol µ = 1000, from t = 0 to 500 (on the slow manifold) and to 2000 (through a jump), and Robertson to t = 1e4; forwards,
and forwards and backwards to the initial values and the parameters. Both sides are double precision; the peer's compilation
(3–30 s) is left out. *error* is that of the last state against Rodas5P at rtol 1e-11 (checked against SciPy's Radau), in units
of atol + rtol·|x|: the largest, and the median. *gradient* is that of the sum of the first components by the parameters,
against central differences of solves at rtol 1e-10. Kvaerno5 is the same method with the same tolerances on both sides; the
peer's Newton gives up on the longer steps, so that it tries 2 to 12 times as many and errs less than was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

import residyn as rd
from benchmarks.harness import Row, in_turn

RTOL, ATOL = 1e-6, 1e-9
Field = Callable[[Any, Any, Any], tuple[Any, ...]]
Gradient = Callable[[], tuple[Tensor, Tensor]]


def van_der_pol(t: Any, x: Any, p: Any) -> tuple[Any, ...]:
    """x'' = µ·(1 - x²)·x' - x, for torch and for jax."""
    u, v = x
    return v, p[0] * (1 - u * u) * v - u


def robertson(t: Any, x: Any, p: Any) -> tuple[Any, ...]:
    """Robertson's kinetics, for torch and for jax."""
    a, b, c = x
    slow, fast, back = p[0] * a, p[1] * b * b, p[2] * b * c
    return back - slow, slow - back - fast, fast


@dataclass(frozen=True)
class Case:
    """A problem: its field, parameters, last time, and most steps of the peer."""

    name: str
    field: Field
    p: tuple[float, ...]
    end: float
    most: int

    def starts(self, batch: int) -> Tensor:
        """Slightly different initial values."""
        shift = torch.linspace(0, 0.5, batch, dtype=torch.float64)
        if self.field is robertson:
            return torch.stack([1 - 0.2 * shift, 0 * shift, 0.2 * shift], -1)
        return torch.stack([2 + shift, 0 * shift], -1)


CASES = (
    Case("Van der Pol µ = 1000 to 500", van_der_pol, (1000.0,), 500.0, 512),
    Case("Van der Pol µ = 1000 to 2000", van_der_pol, (1000.0,), 2000.0, 8192),
    Case("Robertson to 1e4", robertson, (0.04, 3e7, 1e4), 1e4, 1024),
)


class Ours:
    """A case as Residyn solves it."""

    def __init__(self, case: Case, x0: Tensor, scheme: Any) -> None:
        self.case, self.x0, self.scheme = case, x0, scheme
        self.p = torch.tensor(case.p, dtype=torch.float64)

    def solve(self, x0: Tensor, p: Tensor, rtol: float = RTOL, atol: float = ATOL) -> Tensor:
        """The last state."""

        def f(t: Tensor, x: Tensor, p: Tensor) -> Tensor:
            return torch.stack(self.case.field(t, x.unbind(-1), p), -1)

        control = rd.Adaptive(rtol=rtol, atol=atol, per_sample=True)
        return rd.solve(f, x0, [0.0, self.case.end], args=(p,), scheme=self.scheme, control=control).x[-1]

    def forward(self) -> Tensor:
        """Without gradients."""
        with torch.no_grad():
            return self.solve(self.x0, self.p)

    def gradient(self) -> tuple[Tensor, Tensor]:
        """By the initial values and the parameters."""
        x0, p = self.x0.clone().requires_grad_(), self.p.clone().requires_grad_()
        found = torch.autograd.grad(self.solve(x0, p)[:, 0].sum(), (x0, p))
        return found[0], found[1]


class Peer:
    """A case as jitted diffrax solves it."""

    def __init__(self, case: Case, x0: Tensor) -> None:
        jax.config.update("jax_enable_x64", True)
        self.x0, self.p = jnp.asarray(x0.numpy()), jnp.asarray(case.p)

        def one(x: Any, p: Any, most: int) -> Any:
            term = diffrax.ODETerm(lambda t, x, p: jnp.stack(case.field(t, x, p)))
            control = diffrax.PIDController(rtol=RTOL, atol=ATOL)
            kvaerno = diffrax.Kvaerno5()
            found = diffrax.diffeqsolve(term, kvaerno, 0.0, case.end, None, x, p, stepsize_controller=control, max_steps=most)
            return found.ys[0]

        def loss(x: Any, p: Any) -> Any:
            return jax.vmap(lambda x: one(x, p, case.most))(x)[:, 0].sum()

        self._forward = jax.jit(jax.vmap(lambda x, p: one(x, p, 100_000), (0, None)))
        self._gradient = jax.jit(jax.grad(loss, (0, 1)))

    def forward(self) -> Tensor:
        """Without gradients."""
        return torch.from_numpy(np.array(self._forward(self.x0, self.p)))

    def gradient(self) -> tuple[Tensor, Tensor]:
        """By the initial values and the parameters."""
        by_x, by_p = jax.block_until_ready(self._gradient(self.x0, self.p))
        return torch.from_numpy(np.array(by_x)), torch.from_numpy(np.array(by_p))


def truth(case: Case, x0: Tensor) -> tuple[Tensor, Tensor]:
    """The last state, and the derivative of the sum of its first components by each parameter, by central differences."""
    exact = Ours(case, x0, rd.Rodas5P())
    slopes = []
    with torch.no_grad():
        for i, value in enumerate(case.p):
            ends = []
            for sign in (1, -1):
                p = exact.p.clone()
                p[i] += sign * 1e-4 * value
                ends.append(exact.solve(x0, p, 1e-10, 1e-13)[:, 0].sum())
            slopes.append((ends[0] - ends[1]) / (2e-4 * value))
        return exact.solve(x0, exact.p, 1e-11, 1e-14), torch.stack(slopes)


def rows(quick: bool) -> list[Row]:
    """The table; *asked* is within a factor of two."""
    torch.set_num_threads(1)
    batch, repeat = (16, 1) if quick else (256, 5)
    table = []
    for case in CASES[:: 2 if quick else 1]:
        x0 = case.starts(batch)
        peer, (exact, slopes) = Peer(case, x0), truth(case, x0)

        def error(x: Tensor, exact: Tensor = exact) -> str:
            ratio = ((x - exact).abs() / (ATOL + RTOL * exact.abs())).amax(1)
            return f"{float(ratio.max()):.2g}, {float(ratio.median()):.2g}"

        def off(found: Tensor, slopes: Tensor = slopes) -> str:
            return ", ".join(f"{float(v):.1e}" for v in (found / slopes - 1).abs())

        for scheme in (rd.Kvaerno5(), rd.Rodas5P()):
            ours, asked = Ours(case, x0, scheme), 0.5
            mine, theirs, spread = in_turn(ours.forward, peer.forward, repeat)
            note = f"ratios {spread}; error {error(ours.forward())}, peer {error(peer.forward())}"
            table.append(Row(f"{scheme!r}, {case.name}, {batch} systems", 1e3 * mine, 1e3 * theirs, "ms", asked, note))
            few = min(repeat, 3)
            mine, theirs, spread = in_turn(ours.gradient, peer.gradient, few)
            note = f"ratios {spread}; gradient off by {off(ours.gradient()[1])}, peer {off(peer.gradient()[1])}"
            table.append(Row(f"{scheme!r} and its gradient, {case.name}", 1e3 * mine, 1e3 * theirs, "ms", asked, note))
    return table
