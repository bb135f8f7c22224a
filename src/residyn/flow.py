"""Repeat a step over time or depth: `solve`, the modules `Flow` and `Equilibrium`, and the `Solution`."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from residyn.branch import Autonomous, Spectral, autonomous
from residyn.errors import InputError, ResidynWarning, SolveError
from residyn.gradients.base import GradientMode
from residyn.gradients.implicit import Implicit
from residyn.gradients.occurrence import Occurrence, occurrences
from residyn.gradients.replay import Replay
from residyn.results import Outcome
from residyn.roots.anderson import Anderson
from residyn.roots.base import Root, RootFinder
from residyn.schemes import failure
from residyn.schemes.base import Scheme
from residyn.schemes.collapse import collapse
from residyn.schemes.control import Adaptive, Control, Fixed, default_control
from residyn.schemes.event import Event, Watch
from residyn.schemes.explicit import Dopri5
from residyn.schemes.problem import Problem, Rhs, Stats
from residyn.state import Layout, State, inside_transform, leaves, rebuild


@dataclass(frozen=True)
class Solution:
    """What `solve` returns.

    Args:
        t: The times reached, `(n,)` or `(n, B)`; cut where the solve ended early.
        x: The state at each, `(n, *x0.shape)`, in the structure of x0.
        stats: What it cost.
        outcome: How it ended.
        events: The events that were met, in order. A terminal one of shared steps is also the last of `t` and `x`; where
            samples have steps of their own, what they would have reported after theirs is nan.
    """

    t: Tensor
    x: State
    stats: Stats
    outcome: Outcome
    events: tuple[Occurrence, ...] = ()
    _problem: Problem | None = field(default=None, repr=False)

    @property
    def event(self) -> Occurrence | None:
        """The terminal event that ended the solve; `None` if none did, or if samples ended on their own (see `events`)."""
        return next((item for item in self.events if item.terminal and item.samples is None), None)

    def interpolate(self, t: float | Sequence[float] | Tensor) -> State:
        """The state at other times, from the scheme's own continuous form.

        The steps that were accepted are taken again (none is kept), once for all times asked; differentiable.

        Args:
            t: A time, or a one-dimensional sequence of times, in any order, within the span that was solved.

        Returns:
            The state, `(*x0.shape)` for one time, `(m, *x0.shape)` for a sequence.

        Raises:
            InputError: If a time lies outside the span, or the samples had times of their own.
        """
        problem = self._problem
        if problem is None or not problem.legs or any(isinstance(leg.t0, Tensor) for leg in problem.legs):
            raise InputError(
                "`interpolate` must be asked of a solve with shared steps, got one with steps a sample, or of a linear branch "
                "in closed form; report the times in `t` instead"
            )
        wanted = torch.as_tensor(t, dtype=torch.float64)
        times = wanted.flatten().tolist()
        start, end = problem.times[0], problem.legs[-1].t1
        if problem.outcome.kind == "event":
            end = problem.outcome.t
        low, high = min(start, end), max(start, end)
        for time in times:
            if not low <= time <= high:
                raise InputError(f"`t` must lie in the span solved, [{low:.6g}, {high:.6g}], got {time:.6g}")
        found = _walk(problem, times)
        packed = torch.stack([found[i] for i in range(len(times))])
        layout = problem.f.layout
        states = packed if layout is None else layout.unpack(packed)
        return states if wanted.ndim else _first(states, layout)


def _walk(problem: Problem, times: list[float]) -> dict[int, Tensor]:
    """The state at each time, by taking the legs again."""
    sign = 1.0 if problem.legs[-1].t1 >= problem.times[0] else -1.0
    order = sorted(range(len(times)), key=lambda i: sign * times[i])
    found: dict[int, Tensor] = {}
    x, state = problem.x0, problem.scheme.init(problem.f, problem.times[0], problem.x0)
    for leg in problem.legs:
        step = problem.scheme.step(problem.f, leg.t0, leg.t1, x, state)
        while order and sign * times[order[0]] <= sign * leg.t1:
            i = order.pop(0)
            theta = (times[i] - leg.t0) / (leg.t1 - leg.t0)
            found[i] = x if theta == 0.0 else step.x if theta == 1.0 else step.dense(theta)
        if not order:
            break
        x, state = step.x, step.state
    return found


def _first(states: State, layout: Layout | None) -> State:
    items = [leaf[0] for leaf in leaves(states)]
    return items[0] if layout is None else rebuild(states, items)


def solve(
    f: Callable[..., Any],
    x0: State,
    t: Tensor | Sequence[float],
    *,
    args: tuple[Any, ...] = (),
    scheme: Scheme | None = None,
    control: Control | None = None,
    gradient: GradientMode | None = None,
    event: Event | Sequence[Event] | None = None,
    compile: Literal["step", "solve"] | None = None,
    throw: bool = True,
) -> Solution:
    """Solve x' = f(t, x, *args) from x(t[0]) = x0 and report x at each of the times.

    Args:
        f: The field. It gets the time as a tensor without axes (or `(B, 1, …)` where each sample has its own) and the state,
            and returns dx/dt in the same structure, shapes and dtype. A branch F(x) becomes one by `autonomous`.
        x0: A tensor, or a tuple or dict of them, real or complex; on any device, which is kept.
        t: Times to report, the first one the start, strictly increasing or decreasing, `(n,)`; or `(B, n)` with times for each
            sample of x0 `(B, …)`. If it wants a gradient it gets that of the exact flow, ∂x/∂t = f.
        args: Further arguments of f; tensors in it get gradients.
        scheme: How a step is taken; `Dopri5()` if not given.
        control: How long steps are; `Adaptive()` if not given and the scheme has an error estimate.
        gradient: How the gradient comes back; `Replay()` if not given.
        event: What to watch for on the way, and whether to end there; times and states of events have gradients.
        compile: `"step"` for one compiled function a step, `"solve"` for the whole solve and its gradient as compiled loops;
            the same steps are taken. The first solve of a kind compiles, for 10 to 60 seconds; see docs/compiled.md.
        throw: Whether a numerical failure is raised; otherwise it is in the `outcome`, with what was solved before it.

    Returns:
        Times, states, statistics and outcome.

    Raises:
        InputError: If an argument breaks its rule.
        SolveError: If the solve fails and `throw` is set; it names time, step, component and a fix.

    >>> solution = solve(lambda t, x: -x, torch.ones(1, dtype=torch.float64), [0.0, 1.0])
    >>> round(float(solution.x[-1]), 5)
    0.36788
    """
    times = _as_tensor(t)
    problem = _problem(f, x0, times, args, Dopri5() if scheme is None else scheme, control)
    gradient = Replay() if gradient is None else gradient
    if not isinstance(gradient, GradientMode):
        raise InputError(f"`gradient` must be a gradient mode such as Replay(), got {gradient!r}; pass an instance")
    watched = _events(event)
    march = gradient.march if compile is None else _compiled(problem, compile, gradient, watched)
    collapsed = None if times.requires_grad or watched else _collapsed(problem)
    met: list[Occurrence] = []
    if collapsed is None:
        x, met = _marched(problem, march, watched, times)
    else:
        x = collapsed
    reported = (times.T if times.ndim == 2 else times)[: len(x)]
    states = x if problem.f.layout is None else problem.f.layout.unpack(x)
    if met and met[-1].terminal and met[-1].samples is None:
        reported, states = _append(reported, states, met[-1])
    kept = problem if collapsed is None else None
    solution = Solution(reported, states, problem.stats, problem.outcome, tuple(met), kept)
    if throw and not problem.outcome.ok:
        raise SolveError(problem.outcome)
    return solution


def _marched(
    problem: Problem, march: Callable[[Problem], Tensor], watched: tuple[Event, ...], times: Tensor
) -> tuple[Tensor, list[Occurrence]]:
    """The reported states and the events, with their gradients; those by the times too, if they want any."""
    met: list[Occurrence] = []
    start = problem.x0
    if times.requires_grad:
        problem.x0 = _shift_start(problem, times)
    problem.watch = Watch(problem, watched) if watched else None
    x = march(problem)
    if watched:
        x, met = occurrences(problem, watched, x)
    return (_shift_reports(problem, times, x, start) if times.requires_grad else x), met


def _compiled(
    problem: Problem, tier: Literal["step", "solve"], gradient: GradientMode, watched: tuple[Event, ...]
) -> Callable[[Problem], Tensor]:
    """The march of a compiled tier."""
    from residyn.compiled.march import check, march

    check(problem, tier, gradient, watched)
    return lambda problem: march(problem, tier, gradient)


def _events(event: Event | Sequence[Event] | None) -> tuple[Event, ...]:
    events = () if event is None else (event,) if isinstance(event, Event) else tuple(event)
    for item in events:
        if not isinstance(item, Event):
            raise InputError(f"`event` must be an Event or a sequence of them, got {type(item).__name__}; wrap it: Event(...)")
    return events


def _append(times: Tensor, states: State, end: Occurrence) -> tuple[Tensor, State]:
    """Times and states with those of the event that ended the solve."""
    items = [torch.cat([a, b[None]]) for a, b in zip(leaves(states), leaves(end.x), strict=True)]
    return torch.cat([times.to(end.t), end.t[None]]), rebuild(states, items)


def _as_tensor(t: Any) -> Tensor:
    """The times as a tensor: as it came, or, of Python numbers, in double precision; tensors in a list keep their gradient."""
    if isinstance(t, Tensor):
        return t
    try:
        if isinstance(t, (list, tuple)) and any(isinstance(item, Tensor) for item in t):
            return torch.stack([torch.as_tensor(item, dtype=torch.float64, device="cpu") for item in t])
        return torch.as_tensor(t, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"`t` must be real times, (n,) or (B, n), got {t!r:.60}; write t=[0.0, 1.0] or a tensor") from None


def _problem(
    f: Callable[..., Any], x0: State, t: Tensor, args: tuple[Any, ...], scheme: Scheme, control: Control | None
) -> Problem:
    """All checks, once; nothing deeper checks again."""
    if not isinstance(scheme, Scheme):
        raise InputError(f"`scheme` must be a scheme such as Dopri5(), got {scheme!r}; schemes are objects: pass an instance")
    if control is None:
        control = default_control(scheme)
    if not isinstance(control, Control):
        raise InputError(f"`control` must be Fixed(steps=N) or Adaptive(...), got {control!r}")
    if isinstance(control, Adaptive) and scheme.error_order == 0:
        raise InputError(
            f"`control` must be Fixed(steps=N) for {type(scheme).__name__}, which has no error estimate, got Adaptive; "
            "or use scheme=Dopri5()"
        )
    if not isinstance(args, tuple):
        raise InputError(f"`args` must be a tuple, got {type(args).__name__}; write args=(a,) for one argument")
    _check_order_of_arguments(f)
    if t.ndim == 2 and isinstance(control, Adaptive):
        control = dataclasses.replace(control, per_sample=True)  # times of one's own are met by steps of one's own
    batched = t.ndim == 2 or (isinstance(control, Adaptive) and control.per_sample)
    if isinstance(control, Adaptive):
        scheme = scheme.tuned(control.rtol, control.atol)
    as_real = scheme.real_state and any(leaf.is_complex() for leaf in leaves(x0))
    layout = None if isinstance(x0, Tensor) and not as_real else Layout.of(x0, batched=batched, as_real=as_real)
    row = x0 if layout is None else layout.pack(x0)
    _check_state(row, batched)
    times = _times(t, row, batched)
    return Problem(Rhs(f, args, layout, row), scheme, control, times, row)


def _check_order_of_arguments(f: Callable[..., Any]) -> None:
    if not callable(f):
        raise InputError(f"`f` must be callable as f(t, x), got {type(f).__name__}")
    if inspect.isfunction(f) and not hasattr(f, "__wrapped__"):
        names = list(f.__code__.co_varnames[: f.__code__.co_argcount][:2])  # what a signature says, in a hundredth of its time
        _check_names(names)
        return
    try:
        target = f.forward if isinstance(f, nn.Module) else f
        names = [p.name for p in inspect.signature(target).parameters.values() if p.kind is not p.VAR_POSITIONAL][:2]
    except (TypeError, ValueError):  # a builtin without a signature
        return
    _check_names(names)


def _check_names(names: list[str]) -> None:
    if len(names) == 2 and names[1] in ("t", "time") and names[0] not in ("t", "time"):
        raise InputError(f"`f` must take (t, x), got ({names[0]}, {names[1]}); swap its arguments: lambda t, x: f(x, t)")


def _check_state(x: Tensor, batched: bool) -> None:
    if not (x.is_floating_point() or x.is_complex()):
        raise InputError(f"`x0` must be floating point or complex, got {x.dtype}; use x0.float() or x0.double()")
    if x.numel() == 0:
        raise InputError(f"`x0` must not be empty, got shape {tuple(x.shape)}")
    if batched and x.ndim < 1:
        raise InputError("`x0` must have a sample axis, (B, …), for steps or times a sample, got a tensor without axes")
    if not failure.finite(x):
        at = int((~torch.isfinite(x)).flatten().to(torch.uint8).argmax())
        raise InputError(f"`x0` must be finite, got {x.flatten()[at].item()} at flat index {at}; clean the data first")


def _times(t: Tensor, x: Tensor, batched: bool) -> list[Any]:
    """The times as floats, or, for samples on their own, as tensors `(B, 1, …)`."""
    times = t.detach()
    if times.is_complex() or times.dtype == torch.bool:
        raise InputError(f"`t` must be real, got {times.dtype}")
    hint = "" if times.ndim <= 1 else "; if x0 and t are swapped: solve(f, x0, t)"
    if times.ndim not in (1, 2) or times.shape[-1] < 2:
        raise InputError(f"`t` must be (n,) or (B, n) with at least 2 times, got shape {tuple(times.shape)}{hint}")
    rows = times.to(torch.float64).reshape(-1, times.shape[-1])
    steps = rows.diff(dim=1)
    if not bool(torch.isfinite(rows).all()):
        raise InputError("`t` must be finite, got nan or inf")
    if not bool(((steps > 0).all(1) | (steps < 0).all(1)).all()):
        wrong = (steps == 0) | (torch.sign(steps) != torch.sign(steps[:, :1]))
        row, at = divmod(int(wrong.to(torch.uint8).argmax()), steps.shape[1])
        pair = [float(f"{v:.9g}") for v in rows[row, at : at + 2].tolist()]
        where = f"index {at}" if times.ndim == 1 else f"index {at} of sample {row}"
        raise InputError(f"`t` must be strictly increasing or decreasing, got {pair} at {where}; sort it, drop repeats{hint}")
    if not batched:
        return list(rows[0].tolist())
    if times.ndim == 2 and len(times) != len(x):
        raise InputError(f"`t` must have a row for each sample, ({len(x)}, n), got shape {tuple(times.shape)}{hint}")
    # in double precision, as the times all samples share are; not every device has it
    rows = rows.expand(len(x), -1).to(x.device, torch.float32 if x.device.type == "mps" else torch.float64)
    return [column.reshape(len(x), *[1] * (x.ndim - 1)) for column in rows.unbind(1)]


def _collapsed(problem: Problem) -> Tensor | None:
    """All reported states in closed form, where the branch knows its eigenvalues and the steps are equal."""
    f, control = problem.f, problem.control
    if not (isinstance(f.f, Autonomous) and isinstance(f.f.branch, Spectral) and isinstance(control, Fixed)):
        return None
    if f.args or f.layout is not None or isinstance(problem.times[0], Tensor) or not problem.scheme.linear:
        return None
    states = [problem.x0]
    for start, end in zip(problem.times, problem.times[1:], strict=False):
        states.append(collapse(f.f.branch, problem.scheme, (end - start) / control.steps, control.steps, states[-1]))
    x = torch.stack(states)
    if not failure.finite(x):
        first = next(i for i, state in enumerate(states) if not failure.finite(state))
        h = (problem.times[first] - problem.times[first - 1]) / control.steps
        problem.outcome = failure.overflow(problem, problem.times[first - 1], h, states[first])
        x = x[:first]
    problem.stats.accepted = control.steps * (len(x) - 1)
    return x


def _shift_start(problem: Problem, t: Tensor) -> Tensor:
    """x0 with the gradient ∂x/∂t0 = -(∂x/∂x0)·f(t0, x0) attached; the value is unchanged."""
    first = _column(t, 0, problem.x0)
    return problem.x0 - (first - first.detach()) * problem.f(problem.times[0], problem.x0)


def _shift_reports(problem: Problem, t: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    """Reported states with the gradient ∂x/∂t = f(t, x) attached; values unchanged."""
    shifted = [x0]
    for i in range(1, len(x)):
        time = _column(t, i, x0)
        shifted.append(x[i] + (time - time.detach()) * problem.f(problem.times[i], x[i]))
    return torch.stack(shifted)


def _column(t: Tensor, i: int, x: Tensor) -> Tensor:
    time = t[..., i].to(x.device, x.dtype)
    return time.reshape(-1, *[1] * (x.ndim - 1)) if t.ndim == 2 else time


class Flow(nn.Module):
    """One field repeated over time as depth: x(span[1]) from x' = f(t, x), x(span[0]) = x0.

    Args:
        f: The field f(t, x), or a branch made one by `autonomous`.
        span: Start and end time.
        scheme: As in `solve`.
        control: As in `solve`.
        gradient: As in `solve`.
        compile: As in `solve`.

    Raises:
        InputError: On use, as `solve` does.

    Reference:
        Chen, Rubanova, Bettencourt & Duvenaud (2018), "Neural Ordinary Differential Equations", arXiv:1806.07366.

    >>> from residyn.schemes import Euler, Fixed
    >>> Flow(autonomous(torch.neg), scheme=Euler(), control=Fixed(steps=2))(torch.ones(1))
    tensor([0.2500])
    """

    def __init__(
        self,
        f: Callable[..., Any],
        span: tuple[float, float] = (0.0, 1.0),
        *,
        scheme: Scheme | None = None,
        control: Control | None = None,
        gradient: GradientMode | None = None,
        compile: Literal["step", "solve"] | None = None,
    ) -> None:
        super().__init__()
        self.f = f
        self.compile_tier = compile
        self.span = (float(span[0]), float(span[1]))
        self.scheme = scheme or Dopri5()
        self.control = control if control is not None else default_control(self.scheme)
        self.gradient = gradient or Replay()
        self.parts = nn.ModuleList(part for part in self.scheme.callables() if isinstance(part, nn.Module))
        self.last: Solution | None = None

    def forward(self, x0: State) -> State:
        """The state at the end of the span; `last` keeps times, statistics and outcome."""
        solution = solve(
            self.f, x0, self.span, scheme=self.scheme, control=self.control, gradient=self.gradient, compile=self.compile_tier
        )
        self.last = Solution(solution.t, None, solution.stats, solution.outcome)
        layout = None if isinstance(x0, Tensor) else Layout.of(x0, batched=False)
        if layout is None:
            return solution.x[-1]
        return rebuild(x0, [leaf[-1] for leaf in leaves(solution.x)])


class Equilibrium(nn.Module):
    """A layer without depth: x = f(x, u), found by a root finder, with the exact implicit gradient.

    Args:
        f: The map f(x, u) from a state `(B, …)` and the input to a state of the same shape.
        root: The root finder.
        gradient: The implicit gradient, with its own root finder for the backward equation.
        throw: Whether to raise where the solve, forward or backward, does not converge; otherwise it is a warning.

    Attributes:
        forward_root: The last forward solve: residuals, iterations, convergence a sample, and the reason if it failed.
        backward_root: The backward solve that belongs to it, once a gradient has come back.

    Raises:
        SolveError: On use, if the root finder does not converge and `throw` is set.

    Reference:
        Bai, Kolter & Koltun (2019), "Deep Equilibrium Models", arXiv:1909.01377.

    >>> layer = Equilibrium(lambda x, u: 0.5 * torch.tanh(x) + u)
    >>> x = layer(torch.ones(1, 1))
    >>> bool((x - 0.5 * torch.tanh(x) - 1).abs() < 1e-4)
    True
    """

    forward_root: Root | None
    backward_root: Root | None

    def __init__(
        self,
        f: Callable[[Tensor, Any], Tensor],
        *,
        root: RootFinder | None = None,
        gradient: Implicit | None = None,
        throw: bool = True,
    ) -> None:
        super().__init__()
        self.f = f
        self.root = root or Anderson()
        self.gradient = gradient or Implicit()
        self.throw = throw
        self.forward_root = self.backward_root = None

    def forward(self, u: Any, x0: Tensor | None = None) -> Tensor:
        """x with x = f(x, u).

        Args:
            u: The input: whatever f takes, a tensor or a tuple, list or dict of them; all get gradients.
            x0: The guess, `(B, …)`; zeros of the shape of u if not given. A solution for a similar input is a warm start. It
                takes no part in the gradient: the solution does not depend on it.

        Raises:
            InputError: If x0 is missing where u is no tensor, or f does not return its shape.
            SolveError: If the root finder does not converge and `throw` is set.
        """
        if x0 is None:
            if not isinstance(u, Tensor):
                raise InputError(f"`x0` must be given where u is no tensor, got u of type {type(u).__name__}")
            x0 = torch.zeros_like(u)
        if torch._C._functorch.is_batchedtensor(x0):
            raise InputError(
                "`u` must be a batch (B, …) whose samples the root finder can look at, got the lanes of vmap; "
                "hand the whole batch to the layer, without vmap"
            )
        cut = _detached(u)
        # what f has captured may carry derivatives that the iterates must not
        found = self.root.solve(lambda x: self.f(x, cut).detach() if inside_transform() else self.f(x, cut), x0)
        self.forward_root = found
        self.backward_root = None
        if not found:
            self._complain(found)
        if not torch.is_grad_enabled():
            return found.x
        return self.gradient.attach(
            lambda x: self.f(x, u), found.x, self._remember, local=lambda x: self.f(x, cut), throw=self.throw
        )

    def _remember(self, root: Root) -> None:
        self.backward_root = root

    def _complain(self, found: Root) -> None:
        sample, residual = found.worst
        outcome = Outcome(
            "root_failed",
            f"the equilibrium was not reached: relative residual {residual:.2e} on sample {sample} after "
            f"{found.iterations} iterations, tolerance {self.root.tol:.0e} ({found.reason})",
            "raise max_iterations, use Broyden() or Newton() of residyn.roots, or make f a contraction (spectral norm below 1)",
            sample=sample,
        )
        if self.throw:
            raise SolveError(outcome)
        warnings.warn(str(outcome), ResidynWarning, stacklevel=3)


def _detached(u: Any) -> Any:
    """An input without its history; what is no tensor stays."""
    if isinstance(u, Tensor):
        return u.detach()
    if isinstance(u, dict):
        return {key: _detached(item) for key, item in u.items()}
    if isinstance(u, (tuple, list)):
        items = [_detached(item) for item in u]
        return type(u)(*items) if hasattr(u, "_fields") else type(u)(items)
    return u


__all__ = ["Equilibrium", "Event", "Flow", "Occurrence", "Solution", "autonomous", "solve"]
