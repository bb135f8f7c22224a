"""First-order schemes of restoration on the data step: momentum, FISTA, half-quadratic splitting, ADMM."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from residyn.branch import Gradient
from residyn.errors import InputError
from residyn.schemes.base import Field, Scheme, Step, Time

Prox = Callable[[Tensor, Any], Tensor]
"""prox(v, h) = argmin_z g(z) + ‖z - v‖²/2h."""


class Fista(Scheme):
    """y = x + μ_k·(x - x₋),  x⁺ = prox_{h·g}(y + h·F(y)): the forward–backward step taken from a point ahead.

    μ_k = (t_k - 1)/t_{k+1}, t_{k+1} = (1 + √(1 + 4t_k²))/2; without a prox it is Nesterov's momentum. For F = -∇φ, φ convex
    of curvature L at most and h ≤ 1/L, the objective falls as 2‖x* - x₀‖²/(h·(k + 1)²).

    Args:
        prox: prox_{h·g}; nothing if not given.
        restart: Whether the momentum begins anew where it points uphill.

    Reference:
        Beck & Teboulle (2009), doi:10.1137/080716542; O'Donoghue & Candès (2015), doi:10.1007/s10208-013-9150-3 (restarts).

    >>> from residyn.flow import solve
    >>> from residyn.schemes import Fixed
    >>> x = solve(lambda t, x: -torch.tensor([1.0, 0.01]) * (x - 1), torch.zeros(2), [0, 100.0], scheme=Fista(),
    ...           control=Fixed(steps=100)).x[-1]
    >>> bool((x - 1).abs().max() < 0.1)   # plain steps would leave (1 - 0.01)^100 = 0.37
    True
    """

    order = 1
    carries_memory = True
    linear: ClassVar[bool] = False

    def __init__(self, prox: Prox | Gradient | None = None, *, restart: bool = False) -> None:
        if prox is not None and not callable(prox):
            raise InputError(f"`prox` must be callable as prox(v, h), got {prox!r}; pass the proximal map of g")
        self.owner = prox
        self.prox: Prox | None = prox.prox if isinstance(prox, Gradient) else prox
        self.restart = restart

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step."""
        h = _length(t0, t1)
        before, t = (x, 1.0) if state is None else state
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        y = torch.add(x, x - before, alpha=(t - 1) / following) if t > 1 else x
        ahead = torch.add(y, f(t0, y), alpha=h)
        x1 = ahead if self.prox is None else self.prox(ahead, h)
        if self.restart and bool(((y - x1) * (x1 - x)).sum() > 0):
            following = 1.0
        return Step(x1, None, lambda theta: torch.lerp(x, x1, theta), (x, following))

    def callables(self) -> tuple[Callable[..., Any], ...]:
        """The proximal map, which may have parameters."""
        return () if self.owner is None else (self.owner,)

    def memory(self, state: Any) -> tuple[Tensor, ...]:
        """The x before, and how often there was momentum."""
        return () if state is None else (state[0], torch.tensor(state[1], dtype=torch.float64))

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Any:
        """The state with this memory."""
        return memory[0], float(memory[1])

    def stability(self, z: Tensor) -> Tensor:
        """R(z) = 1 + z, that of a step without momentum."""
        return 1 + z


class HQS(Scheme):
    """x⁺ = prox_{h·g}(prox_{h·φ}(x)): two implicit steps in turn, of the data term φ and of the prior g; h = 1/ρ.

    Its fixed point minimises φ + the Moreau envelope of g, which nears φ + g as h falls.

    Args:
        data: prox of φ: a `DataStep` that knows it, or a function.
        prox: prox of g.

    Reference:
        Geman & Yang (1995), doi:10.1109/83.392335.
    """

    order = 1
    linear: ClassVar[bool] = False

    def __init__(self, data: Any, prox: Prox | Gradient) -> None:
        self.owners = (data, prox)
        self.data, self.prior = _prox_of(data, "data"), _prox_of(prox, "prox")

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; the field is not called, its data term is stepped implicitly."""
        h = _length(t0, t1)
        x1 = self.prior(self.data(x, h), h)
        return Step(x1, None, lambda theta: torch.lerp(x, x1, theta), None)

    def callables(self) -> tuple[Callable[..., Any], ...]:
        """Both proximal maps."""
        return self.owners

    def stability(self, z: Tensor) -> Tensor:
        """R(z) = 1/(1 - z), that of the implicit data step."""
        return 1 / (1 - z)


class ADMM(HQS):
    """x = prox_{h·φ}(z - u),  z⁺ = prox_{h·g}(x̂ + u),  u⁺ = u + x̂ - z⁺, x̂ = r·x + (1 - r)·z: to the minimum of φ + g itself.

    The state that is stepped is z, u goes along.

    Args:
        data: prox of φ: a `DataStep` that knows it, or a function.
        prox: prox of g.
        relaxation: r, in (0, 2).

    Reference:
        Gabay & Mercier (1976), doi:10.1016/0898-1221(76)90003-1; Eckstein & Bertsekas (1992), doi:10.1007/BF01581204.

    >>> from residyn.flow import solve
    >>> from residyn.schemes import Fixed
    >>> shrink = lambda v, h: torch.sign(v) * (v.abs() - h).clamp(min=0)   # g = |x|₁
    >>> near = lambda v, h: (v + h * torch.tensor([3.0, 0.5])) / (1 + h)   # φ = ½(x - b)²
    >>> solve(lambda t, x: x, torch.zeros(2), [0, 60.0], scheme=ADMM(near, shrink), control=Fixed(steps=60)).x[-1]
    tensor([2., 0.])
    """

    carries_memory = True

    def __init__(self, data: Any, prox: Prox | Gradient, *, relaxation: float = 1.0) -> None:
        super().__init__(data, prox)
        if not 0 < relaxation < 2:
            raise InputError(f"`relaxation` must lie in (0, 2), got {relaxation}; 1 is the plain method, 1.8 usually faster")
        self.relaxation = relaxation

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step."""
        h, z = _length(t0, t1), x
        u = torch.zeros_like(z) if state is None else state
        ahead = torch.lerp(z, self.data(z - u, h), self.relaxation)
        z1 = self.prior(ahead + u, h)
        return Step(z1, None, lambda theta: torch.lerp(z, z1, theta), u + ahead - z1)

    def memory(self, state: Any) -> tuple[Tensor, ...]:
        """u."""
        return () if state is None else (state,)

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Any:
        """The state with this memory."""
        return memory[0]


def _length(t0: Time, t1: Time) -> float:
    if isinstance(t0, Tensor) or isinstance(t1, Tensor):
        raise InputError("`t` must be the same for all samples in a splitting scheme, got a time for each; solve them apart")
    if t1 <= t0:
        raise InputError(
            f"`t` must increase in a splitting scheme, got a step of {t1 - t0:.6g}; a proximal step has no way back"
        )
    return t1 - t0


def _prox_of(given: Any, name: str) -> Prox:
    found: Any = getattr(given, "prox", None) if isinstance(given, torch.nn.Module) else given
    if not callable(found):
        raise InputError(f"`{name}` must know its proximal map or be a function prox(v, h), got {given!r}")
    return found
