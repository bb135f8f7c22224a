"""What a control marches through: the field as schemes call it, the problem, and the steps that were taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from residyn.branch import Autonomous, Symmetric
from residyn.errors import InputError
from residyn.results import Outcome
from residyn.roots.linear import is_coupled
from residyn.schemes.base import Field, Scheme, Step, Time
from residyn.state import Layout

if TYPE_CHECKING:
    from residyn.schemes.control import Control
    from residyn.schemes.event import Watch


class Rhs:
    """The user's f(t, x, *args) as schemes call it: one tensor in, one tensor out, checked and counted."""

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], layout: Layout | None, like: Tensor) -> None:
        self.f, self.args, self.layout = f, args, layout
        self.evaluations = 0
        self.root_iterations = 0
        self.shape, self.dtype = like.shape, like.dtype
        real = like.dtype.to_real() if like.dtype.is_complex else like.dtype
        self._time_dtype = real if real.itemsize >= 4 else torch.float32
        self._device = like.device
        self.timeless = isinstance(f, Autonomous)
        self._first: tuple[Time, Tensor, Tensor] | None = None
        self.coupled: bool | None = None  # whether samples depend on each other; found by the scheme that must know

    def __call__(self, t: Time, x: Tensor) -> Tensor:
        """f(t, x); a float time is made a tensor, once, where f may look at it."""
        first = self._first
        if first is not None and first[1] is x and first[0] is t and not torch.is_grad_enabled():
            return first[2]
        self.evaluations += 1
        if not self.timeless:
            t = self.time(t)
        if self.layout is None:
            k = self.f(t, x, *self.args)
        else:
            k = self.layout.pack_slope(self.f(t, self.layout.unpack(x), *self.args))
        if type(k) is not Tensor and not isinstance(k, Tensor):
            raise InputError(f"`f` must return a tensor like x, got {type(k).__name__}; return dx/dt")
        if k.shape != self.shape or k.dtype != self.dtype:
            raise InputError(self._mismatch(k))
        return k

    def time(self, t: Time) -> Tensor:
        """A time as f, or the condition of an event, sees it: a tensor it may look at."""
        if isinstance(t, float):
            return torch.scalar_tensor(t, dtype=self._time_dtype, device=self._device)
        return t if t.dtype == self._time_dtype else t.to(self._time_dtype)  # samples' own times are kept in double precision

    @property
    def time_dtype(self) -> torch.dtype:
        """The precision in which f gets the time."""
        return self._time_dtype

    def remember(self, t: Time, x: Tensor) -> Tensor:
        """f(t, x) without autograd, kept for the first stage of the first step, which may ask for the same."""
        with torch.no_grad():
            k = self(t, x)
        self._first = (t, x, k)
        return k

    def forget(self) -> None:
        """Let go of what `remember` kept."""
        self._first = None

    def _mismatch(self, k: Tensor) -> str:
        if k.shape != self.shape:
            hint = "it looks as if f takes (x, t); f is called as f(t, x)" if k.ndim == 0 else "return dx/dt"
            return f"`f` must return the shape of x, {tuple(self.shape)}, got {tuple(k.shape)}; {hint}"
        return f"`f` must return the dtype of x, {self.dtype}, got {k.dtype}; convert x0 or the parameters of f"


def solves_itself(f: Field) -> Symmetric | None:
    """The branch, if f is a linear one that solves its own equations and nothing is wrapped around it."""
    if not isinstance(f, Rhs) or f.args or f.layout is not None or not isinstance(f.f, Autonomous):
        return None
    return f.f.branch if isinstance(f.f.branch, Symmetric) else None


def evaluate_once(f: Field, t: Time, x: Tensor, scheme: str) -> Tensor:
    """f(t, x), for a scheme that solves equations in f; the first time it is seen that f is a function.

    Raises:
        InputError: If f draws random numbers: an equation that is another one at each look has no solution.
    """
    if not isinstance(f, Rhs) or f.coupled is not None:
        return f(t, x)
    before = torch.get_rng_state(), torch.cuda.get_rng_state(x.device) if x.is_cuda else None
    image = f(t, x)
    same = torch.equal(before[0], torch.get_rng_state())
    if not same or (before[1] is not None and not torch.equal(before[1], torch.cuda.get_rng_state(x.device))):
        raise InputError(
            f"`f` must be a function of (t, x) for {scheme}, which solves equations in it, got one that draws random numbers; "
            "put its dropout in evaluation mode, or use an explicit scheme"
        )
    return image


def coupled(f: Field, t: Time, image: Tensor, leaf: Tensor) -> bool:
    """Whether samples of image = f(t, leaf) depend on each other; found once a march.

    Asked at the state and, because a product such as xᵢ·xⱼ hides at zeros, once more beside it.
    """
    if not image.requires_grad:
        return False
    if isinstance(f, Rhs) and f.coupled is not None:
        return f.coupled
    found = is_coupled(image, leaf)
    if not found and leaf.ndim > 1 and len(leaf) > 1:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf)
        beside = (leaf.detach() + 1e-3 * (leaf.detach().abs() + 1e-3) * noise).requires_grad_()
        with torch.enable_grad():
            found = is_coupled(f(t, beside), beside)
    if isinstance(f, Rhs):
        f.coupled = found
    return found


class Report(NamedTuple):
    """A time to report that lies in a step: `slot` and `theta`; where samples go their own ways, for `rows` only."""

    slot: int | Tensor
    theta: Time
    rows: Tensor | None = None
    event: int | None = None
    """Which event it is, if it is no time that was asked for; its slot is then past theirs, or -1 where steps are shared."""


class Leg(NamedTuple):
    """A step that was accepted, enough to take it again: from t0 to t1, for the samples in `accept` (all if None)."""

    t0: Time
    t1: Time
    reports: tuple[Report, ...]
    accept: Tensor | None = None

    def samples(self) -> Tensor:
        """`accept`, which is given for each component of the state, as one flag a sample, `(B,)`."""
        assert self.accept is not None
        return self.accept.reshape(len(self.accept), -1)[:, 0]


class Taken(NamedTuple):
    """A leg as it was taken: where it began, what the scheme returned, and what it had been handed for it."""

    leg: Leg
    x: Tensor
    x1: Tensor
    step: Step
    state: Any = None


@dataclass
class Stats:
    """What a solve cost.

    Args:
        evaluations: Calls of f.
        accepted: Steps kept (with per-sample control: rounds in which all samples step at once).
        rejected: Steps tried again with a smaller h.
        root_iterations: Iterations of the root finder, summed over steps.
    """

    evaluations: int = 0
    accepted: int = 0
    rejected: int = 0
    root_iterations: int = 0


@dataclass
class Problem:
    """A march to be made: x(times[0]) = x0 to the last of the times."""

    f: Rhs
    scheme: Scheme
    control: Control
    times: list[Any]
    x0: Tensor
    stats: Stats = field(default_factory=Stats)
    outcome: Outcome = field(default_factory=lambda: Outcome("success"))
    legs: list[Leg] = field(default_factory=list)
    watch: Watch | None = None
    extra: int = 0
    """Slots past those of the times, for events of samples on their own."""
    stopped: Tensor | None = None
    """Which samples met a terminal event, `(B, 1, …)`."""

    def march(self, x0: Tensor) -> Iterator[Taken]:
        """Take the steps, yielding each accepted one; `stats`, `outcome` and `legs` are filled on the way."""
        self.legs = []
        if self.watch is not None:
            self.watch.begin(x0)
        for step in self.control.march(self, x0):
            taken, over = (step, False) if self.watch is None else self.watch.see(step)
            self.legs.append(taken.leg)
            yield taken
            if over:
                break
        self.stats.evaluations = self.f.evaluations
        self.stats.root_iterations = self.f.root_iterations

    def take(self, leg: Leg, x: Tensor, state: Any = None) -> tuple[Tensor, Any, list[Tensor]]:
        """Take a known leg again: the state after it, what the scheme hands on, and the values at its reported times."""
        step = self.scheme.step(self.f, leg.t0, leg.t1, x, state)
        x1 = step.x if leg.accept is None else torch.where(leg.accept, step.x, x)
        return x1, step.state, [value(report, step, x1) for report in leg.reports]


def value(report: Report, step: Step, x1: Tensor) -> Tensor:
    """The state at a reported time within a step; only the rows that are meant."""
    whole = x1 if isinstance(report.theta, float) and report.theta == 1.0 else step.dense(report.theta)
    return whole if report.rows is None else whole[report.rows]


class Outputs:
    """Collects the values at reported times: `(n, *shape)`, cut where the march ended early."""

    def __init__(self, problem: Problem, x0: Tensor) -> None:
        self.x0 = x0
        self.problem = problem
        self.values: list[Tensor] = [x0]
        self.index: list[Tensor] = []

    def add(self, leg: Leg, values: list[Tensor]) -> None:
        """Take in the values of a leg, in the order of its reports."""
        for report, item in zip(leg.reports, values, strict=True):
            self.values.append(item)
            if report.rows is not None:
                assert isinstance(report.slot, Tensor)
                self.index.append(report.slot * len(self.x0) + report.rows)

    def stack(self) -> Tensor:
        """All values, `(n, *shape)`; per-sample values that were not reached are nan."""
        if not self.index:
            return torch.stack(self.values)
        size, count = len(self.x0), len(self.problem.times) + self.problem.extra
        index = torch.cat([torch.arange(size, device=self.x0.device), *self.index])
        rows = torch.cat(self.values)
        flat = rows.new_full((count * size, *rows.shape[1:]), float("nan"))
        return flat.index_put((index,), rows).reshape(count, *self.x0.shape)
