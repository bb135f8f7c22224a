"""A learned system: forecasts, what is known of its route, and its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from residyn.display import card
from residyn.dynamics.networks import Scaled
from residyn.dynamics.theory import Rule, Scales
from residyn.errors import InputError
from residyn.flow import solve
from residyn.results import Finding
from residyn.schemes import Adaptive, Dopri5

Target = Literal["derivative", "flow"]


@dataclass
class Model:
    """A system learned from trajectories.

    Args:
        net: The rate: f(x, u), or (Φ_h(x) - x)/h from (x, u_k, u_{k+1}, h).
        target: Which of the two.
        rule: How a derivative met the data.
        crossover: Step below which the derivative is the better target for such data, in the unit of time.
        scales: The estimate behind it.
        findings: What was decided and how the fit went.
        names: Components of the state.
        controls: Inputs.
        order: 2 if the second half of the state is the derivative of the first.
        steps: Least, typical and greatest step of the data; a flow map is trusted between the outer two.
        hidden: Widths of the default network; `None` for one that was handed in.
    """

    net: Scaled
    target: Target
    rule: Rule
    crossover: float
    scales: Scales
    names: list[str]
    steps: tuple[float, float, float]
    controls: list[str] = field(default_factory=list)
    order: int = 1
    hidden: list[int] | None = None
    findings: list[Finding] = field(default_factory=list)

    def _repr_html_(self) -> str:
        rows: list[tuple[str, object]] = [("learned", self.target), ("rule", self.rule), ("state", ", ".join(self.names))]
        rows += [("inputs", ", ".join(self.controls) or "none"), ("crossover step", self.crossover)]
        return card("Model of a system", rows, "; ".join(f.title for f in self.findings if f.verdict in ("warn", "fail")))

    def predict(self, x0: Any, t: Any, *, control: Any = None) -> Tensor:
        """Forecast: a derivative is integrated to tolerance, a flow map is repeated.

        A flow map steps from time to time where its data had steps of that length; else it takes steps of typical length, and
        a cubic through the four nearest of them gives the times between.

        Args:
            x0: State at t[0], `(d,)`, or `(B, d)` for several.
            t: Times, `(n,)`, strictly increasing (a derivative also runs backwards).
            control: Inputs at the times t, `(n, m)`; linear in between.

        Returns:
            States `(n, d)`, or `(n, B, d)`.

        Raises:
            InputError: If an argument breaks its rule.
            SolveError: If the learned derivative cannot be integrated.
        """
        start = torch.as_tensor(x0, dtype=torch.float64)
        times = torch.as_tensor(t, dtype=torch.float64)
        if start.ndim not in (1, 2) or start.shape[-1] != len(self.names):
            raise InputError(f"`x0` must be (d,) or (B, d) with d = {len(self.names)}, got shape {tuple(start.shape)}")
        if times.ndim != 1 or len(times) < 1 or not bool(times.isfinite().all()) or not bool(start.isfinite().all()):
            raise InputError(f"`t` must be (n,) with n ≥ 1 and `x0` finite, got t of shape {tuple(times.shape)}")
        inputs = self._inputs(times, control)
        if len(times) == 1:
            return start[None].clone()
        with torch.no_grad():
            if self.target == "flow":
                return self._march(start, times, inputs)
            control_ = Adaptive(rtol=1e-6, atol=1e-8)

            def field_(time: Tensor, x: Tensor) -> Tensor:
                return self.field(x, inputs(float(time)))

            found = solve(field_, start, times, scheme=Dopri5(), control=control_).x
            assert isinstance(found, Tensor)
            return found

    def field(self, x: Tensor, u: Tensor | None = None) -> Tensor:
        """The learned rate: f(x, u), or (Φ_h(x) - x)/h at the typical step.

        Args:
            x: States, `(…, d)`.
            u: Inputs, `(m,)`; zeros if `None`.

        Returns:
            Rates, `(…, d)`.
        """
        u = torch.zeros(len(self.controls), dtype=torch.float64) if u is None else u
        if self.target == "flow":
            return self._rate(x, u, u, self.steps[1])
        found: Tensor = self.net(torch.cat([x, u.expand(*x.shape[:-1], len(u))], -1))
        return found

    def save(self, path: str | Path) -> None:
        """Write weights to `path` (safetensors) and all else to the JSON file beside it; each appears whole or not at all.

        Args:
            path: The file; must end in .safetensors.

        Raises:
            InputError: If the path cannot be written.
        """
        from residyn.dynamics.storage import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path, *, model: torch.nn.Module | None = None) -> Model:
        """Read what `save` wrote; nothing in the files is executed.

        Args:
            path: The .safetensors file; the JSON file lies beside it.
            model: The network, if it was handed in at `fit`; its weights are filled in.

        Returns:
            The model.

        Raises:
            InputError: If a file is missing, damaged or does not fit.
        """
        from residyn.dynamics.storage import load

        return load(path, model)

    def _rate(self, x: Tensor, u0: Tensor, u1: Tensor, step: float) -> Tensor:
        lead = x.shape[:-1]
        extra = torch.cat([u0, u1, torch.tensor([step], dtype=x.dtype)])
        found: Tensor = self.net(torch.cat([x, extra.expand(*lead, len(extra))], -1))
        return found

    def _inputs(self, times: Tensor, control: Any) -> Callable[[float], Tensor]:
        """The inputs as a function of time."""
        if (control is None) != (not self.controls):
            want = f"(n, {len(self.controls)}) for {', '.join(self.controls)}" if self.controls else "left out"
            raise InputError(f"`control` must be {want}, got {'none' if control is None else 'some'}; hand in what the fit had")
        if control is None:
            nothing = torch.zeros(0, dtype=torch.float64)
            return lambda time: nothing
        u = torch.as_tensor(control, dtype=torch.float64)
        u = u[:, None] if u.ndim == 1 else u
        if u.shape != (len(times), len(self.controls)):
            raise InputError(f"`control` must be (n, m) = ({len(times)}, {len(self.controls)}), got {tuple(u.shape)}")
        sign = 1.0 if times[-1] >= times[0] else -1.0

        def at(time: float) -> Tensor:
            i = int(torch.searchsorted(sign * times, torch.tensor(sign * time, dtype=times.dtype)).clamp(1, len(times) - 1))
            share = ((time - times[i - 1]) / (times[i] - times[i - 1])).clamp(0.0, 1.0)
            return u[i - 1] + share * (u[i] - u[i - 1])

        return at

    def _march(self, x: Tensor, times: Tensor, inputs: Callable[[float], Tensor]) -> Tensor:
        """Repeat x + h·g(x, h)."""
        gaps = times.diff()
        if not bool((gaps > 0).all()):
            fix = 'fit target="derivative" to go back'
            raise InputError(f"`t` must increase strictly for a flow map, got times that do not; {fix}")
        least, typical, most = self.steps
        counts = (gaps / typical).round().clamp_min(1.0)
        lengths = gaps / counts
        states = [x]
        if bool((lengths >= least * (1 - 1e-6)).all()) and bool((lengths <= most * (1 + 1e-6)).all()):
            for time, count, step in zip(times.tolist(), counts.tolist(), lengths.tolist(), strict=False):
                for k in range(round(count)):
                    at = time + k * step
                    x = x + step * self._rate(x, inputs(at), inputs(at + step), step)
                states.append(x)
            return torch.stack(states)
        begin, end = float(times[0]), float(times[-1])
        steps = max(4, int((end - begin) / typical) + 2)  # one step past the end, so that the last cubic is centred
        for k in range(steps):
            at = begin + k * typical
            x = x + typical * self._rate(x, inputs(at), inputs(at + typical), typical)
            states.append(x)
        return _cubic(torch.stack(states), (times - begin) / typical)


def _cubic(nodes: Tensor, places: Tensor) -> Tensor:
    """Values at fractional places between equidistant nodes, by the cubic through the four nearest."""
    first = (places.floor().long() - 1).clamp(0, len(nodes) - 4)
    s = places - first
    columns = []
    for j in range(4):
        others = [m for m in range(4) if m != j]
        weight = torch.ones_like(s)
        for m in others:
            weight = weight * (s - m) / (j - m)
        columns.append(weight)
    total = torch.zeros_like(nodes[first])
    for j, weight in enumerate(columns):
        total = total + weight.reshape(-1, *[1] * (nodes.ndim - 1)) * nodes[first + j]
    return total
