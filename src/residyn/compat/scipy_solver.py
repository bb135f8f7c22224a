"""The method scipy_solver: SciPy's integrators, without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residyn.compat.inputs import Inputs

OPTIONS = ("norm", "solver", "min_step", "max_step", "grid_points", "eps")
_FARTHEST = 1e10  # an event is looked for up to this time from the start


class SciPy:
    """scipy.integrate.solve_ivp on the flattened state.

    `min_step` is handed to LSODA, the only integrator that knows it; that of SciPy 1.17 takes it and heeds it not.

    Args:
        inputs: The call.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.y0 = inputs.y0.detach().cpu().numpy().reshape(-1)
        options = inputs.options
        self.settings: dict[str, Any] = {"method": options.get("solver", "LSODA")}
        for name in ("rtol", "atol"):
            value = getattr(inputs, name)
            self.settings[name] = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        self.settings["max_step"] = float(options.get("max_step", math.inf))
        if self.settings["method"] == "LSODA":  # the others have no such thing and would warn
            self.settings["min_step"] = float(options.get("min_step", 0.0))

    def _slope(self, t: float, y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            return np.asarray(self.inputs.f(float(t), self._tensor(y)).cpu().numpy().reshape(-1))

    def _tensor(self, y: np.ndarray[Any, Any]) -> Tensor:
        f = self.inputs.f
        return torch.as_tensor(y).to(f.device, f.dtype).reshape(f.shape)

    def integrate(self, y0: Tensor, t: Tensor) -> Tensor:
        """The state at each of the times, `(n, *shape)`."""
        from scipy.integrate import solve_ivp

        if len(t) == 1:
            return y0.detach()[None]
        times = t.detach().cpu().numpy().astype(np.float64)
        found = solve_ivp(self._slope, (times[0], times[-1]), self.y0, t_eval=times, **self.settings)
        if not found.success:
            raise RuntimeError(f"scipy_solver stopped: {found.message}")
        return torch.stack([self._tensor(column) for column in found.y.T])

    def until(self, event: Callable[[Tensor, Tensor], Tensor], start: float, sign: float) -> tuple[Tensor, Tensor]:
        """Time and state where the event's value changes sign for the first time."""
        from scipy.integrate import solve_ivp

        def condition(t: float, y: np.ndarray[Any, Any]) -> float:
            with torch.no_grad():
                return float(event(torch.scalar_tensor(t, dtype=torch.float64), self._tensor(y)))

        condition.terminal = True  # type: ignore[attr-defined]  # how SciPy asks for it
        t, y, width = start, self.y0, 1.0
        while abs(t - start) < _FARTHEST:  # windows that double: SciPy needs an end
            found = solve_ivp(self._slope, (t, t + sign * width), y, events=condition, **self.settings)
            if len(found.t_events[0]):
                return torch.scalar_tensor(found.t_events[0][0], dtype=torch.float64), self._tensor(found.y_events[0][0])
            if not found.success:
                raise RuntimeError(f"scipy_solver stopped: {found.message}")
            t, y, width = float(found.t[-1]), found.y[:, -1], 2 * width
        raise RuntimeError(f"no event within {_FARTHEST:g} of t = {start}")
