"""Repeat a propagator's step on the Kohn–Sham equation: checked, counted, and restarted bit for bit."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from residyn.errors import InputError, ResidynError
from residyn.quantum import checks as checking
from residyn.quantum.checkpoint import Checkpoint, Saved
from residyn.quantum.hamiltonian import Absorber, KohnSham, kicked
from residyn.quantum.molecule import Molecule
from residyn.quantum.pulses import Pulse, vector
from residyn.quantum.threads import threads_for
from residyn.quantum.trajectory import PropagationError, Trajectory
from residyn.results import Outcome
from residyn.schemes import AdamsMagnus
from residyn.schemes.base import Scheme

Progress = Callable[[float, str], None]
WEAK = 1e-5
"""1/bohr; the kicks of `respond`."""
_LOOK = 50
"""Steps between looks at the clock and at the orthonormality of the orbitals."""


class _Run(NamedTuple):
    """What stays the same through a propagation."""

    molecule: Molecule
    field: KohnSham
    scheme: Scheme
    dt: float
    steps: int
    kick: Tensor | None
    fock: str
    limits: checking.Limits
    file: Checkpoint | None
    every: float
    progress: Progress | None


def propagate(
    molecule: Molecule,
    *,
    dt: float,
    duration: float,
    scheme: Scheme | None = None,
    kick: Sequence[float] | Tensor | None = None,
    pulse: Pulse | None = None,
    fock: str = "full",
    absorber: Absorber | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 30.0,
    checks: bool = True,
    throw: bool = True,
    progress: Progress | None = None,
) -> Trajectory:
    """Propagate the orbitals of a molecule from its ground state, i·dx/dt = (F[P] + r·E(t))·x, in steps of a scheme.

    Args:
        molecule: The molecule.
        dt: Time step, atomic units (1 a.u. = 0.02419 fs); 0.1 gives excitations below 20 eV to some meV.
        duration: How long, atomic units; rounded up to a whole number of steps.
        scheme: Any scheme that takes complex states; `AdamsMagnus()` if not given, with one Fock build a step.
        kick: κ, `(3,)`, 1/bohr: the impulse exp(iκ·r) on the orbitals at t = 0, exact. It is that of the field E(t) = -κ·δ(t);
            1e-4 to 1e-3 is weak.
        pulse: E(t) as a function of the time that returns three components, e.g. `pulses.Gaussian`; it may come with a kick.
        fock: `"full"`; `"linear"`: F₀ + L·(P - P₀) with L assembled once, exact to first order, for weak fields only; or
            `"frozen"`: F₀ throughout.
        absorber: What takes ionised electrons out.
        checkpoint: File to keep the run in; if it is there already, the run goes on from it, bit for bit. One of another
            set-up is refused.
        every: Seconds between checkpoints.
        checks: Whether to look for trouble and to refuse what must fail: a leapfrog whose parasitic mode grows, an explicit
            step past its stability limit, drift. Only states that are not finite end a run without.
        throw: Whether a run that ends early raises; otherwise its `outcome` says so.
        progress: Called with a share from 0 to 1 and a text.

    Returns:
        Times, dipoles, energies, norms, and the number of Fock builds.

    Raises:
        InputError: If an argument breaks its rule.
        PropagationError: If the run ends early; its `trajectory` holds all up to the last good step.

    >>> run = propagate(Molecule.fixture("h2"), dt=0.1, duration=10.0, kick=(0, 0, 1e-3))
    >>> run.steps, run.builds, abs(float(run.norm[-1]) - 1) < 1e-13
    (100, 101, True)
    """
    kappa = None if kick is None else vector("kick", kick)
    how = _How(dt, duration, scheme, pulse, fock, absorber, checkpoint, every, checks, progress)
    (trajectory,) = _propagated(molecule, how, kappa)
    if throw and not trajectory.outcome.ok:
        raise PropagationError(trajectory.outcome, trajectory)
    return trajectory


def respond(
    molecule: Molecule,
    *,
    dt: float,
    duration: float,
    scheme: Scheme | None = None,
    kicks: Sequence[Sequence[float]] | Tensor | None = None,
    fock: str = "linear",
    absorber: Absorber | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 30.0,
    checks: bool = True,
    throw: bool = True,
    progress: Progress | None = None,
) -> list[Trajectory]:
    """The response of a molecule to several kicks, propagated side by side: what `absorption` takes, in one call.

    Each trajectory is what `propagate` gives for its kick, up to rounding; together they take about half the time, as each
    product of small matrices serves them all. They share one checkpoint, and if one of them ends early, all do.

    Args:
        molecule: The molecule.
        dt: Time step, atomic units.
        duration: How long, atomic units.
        scheme: As in `propagate`.
        kicks: κ of each, `(k, 3)`, 1/bohr; 1e-5 along x, y and z if not given.
        fock: `"linear"`, `"full"` or `"frozen"`.
        absorber: What takes ionised electrons out.
        checkpoint: File to keep all of them in.
        every: Seconds between checkpoints.
        checks: As in `propagate`.
        throw: Whether an early end raises.
        progress: Called with a share from 0 to 1 and a text.

    Returns:
        A trajectory a kick. The seconds of each are its share of the whole.

    Raises:
        InputError: If an argument breaks its rule.
        PropagationError: If the runs end early; its `trajectory` is that of the kick that failed.

    >>> runs = respond(Molecule.fixture("h2"), dt=0.1, duration=10.0)
    >>> [run.kick.tolist().index(1e-5) for run in runs], runs[2].builds
    ([0, 1, 2], 101)
    """
    rows = [[WEAK if i == k else 0.0 for k in range(3)] for i in range(3)] if kicks is None else list(kicks)
    if not rows:
        raise InputError("`kicks` must hold at least one kick, got none; leave it out for x, y and z")
    kappas = torch.stack([vector("kicks", row) for row in rows])
    how = _How(dt, duration, scheme, None, fock, absorber, checkpoint, every, checks, progress)
    trajectories = _propagated(molecule, how, kappas)
    failed = next((run for run in trajectories if not run.outcome.ok), None)
    if throw and failed is not None:
        raise PropagationError(failed.outcome, failed)
    return trajectories


class _How(NamedTuple):
    """What `propagate` and `respond` have in common."""

    dt: float
    duration: float
    scheme: Scheme | None
    pulse: Pulse | None
    fock: str
    absorber: Absorber | None
    checkpoint: str | os.PathLike[str] | None
    every: float
    checks: bool
    progress: Progress | None


def _propagated(molecule: Molecule, how: _How, kick: Tensor | None) -> list[Trajectory]:
    """Check, set up and run; a kick `(k, 3)` makes k runs side by side."""
    dt, pulse, fock, absorber = how.dt, how.pulse, how.fock, how.absorber
    scheme = AdamsMagnus() if how.scheme is None else how.scheme
    steps = _steps(dt, how.duration)
    _scheme(scheme)
    if pulse is not None and not callable(pulse):
        raise InputError(f"`pulse` must be a function of the time, got {type(pulse).__name__}; e.g. pulses.Gaussian(...)")
    with threads_for(molecule.n), torch.no_grad():
        if fock == "linear":
            checking.weak(kick)
        field = KohnSham(molecule, molecule.model(fock), pulse, absorber)
        driven, absorbing = pulse is not None, absorber is not None
        limits = checking.limits(molecule, scheme, dt, checks=how.checks, driven=driven, absorbing=absorbing)
        limits = limits._replace(weak=checking.WEAK if fock == "linear" and how.checks else math.inf)
        setup = {
            "molecule": molecule.fingerprint(),
            "scheme": repr(scheme),
            "dt": dt,
            "kick": None if kick is None else kick.tolist(),
            "fock": fock,
            "absorber": repr(absorber),
        }
        file = None if how.checkpoint is None else Checkpoint(how.checkpoint, setup, pulse, dt)
        return _march(_Run(molecule, field, scheme, dt, steps, kick, fock, limits, file, how.every, how.progress))


def _steps(dt: float, duration: float) -> int:
    for name, value in (("dt", dt), ("duration", duration)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value < math.inf):
            raise InputError(f"`{name}` must be a number > 0 in atomic units of time, got {value!r}; 1 fs is 41.34")
    ratio = duration / dt
    if ratio > 1e8:
        raise InputError(f"`duration` must be at most 1e8 steps, got {ratio:.1e}; take a larger `dt`")
    return max(1, math.ceil(ratio - 1e-6))


def _scheme(scheme: Scheme) -> None:
    if not isinstance(scheme, Scheme):
        raise InputError(f"`scheme` must be a scheme such as AdamsMagnus(), got {scheme!r}; pass an instance")
    if scheme.real_state or scheme.forgets:
        raise InputError(f"`scheme` must take complex states and hand out what it remembers, got {scheme!r}; e.g. RK4()")


class _Progressed:
    """The state of a run: where it is, and what has been seen so far."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.lanes = 1 if run.kick is None or run.kick.ndim == 1 else len(run.kick)
        self.observed = torch.empty(run.steps + 1, self.lanes, 5, dtype=torch.float64)  # dipole, energy, norm
        self.worst = 0.0  # the orbitals' farthest from orthonormal
        self.step = 0
        saved = None if run.file is None else run.file.load()
        if saved is None:
            x = run.molecule.state
            self.x = x if run.kick is None else kicked(run.molecule, x, run.kick)
            self.state = run.scheme.init(run.field, 0.0, self.x)
            self.look()
            self.slope = run.field.rate(self.x)
        else:
            self._take_up(saved)

    def _take_up(self, saved: Saved) -> None:
        run = self.run
        if saved.step > run.steps:
            raise InputError(
                f"`duration` must be at least what the checkpoint holds, {saved.step * run.dt:g}, got {run.steps * run.dt:g}; "
                "give another file"
            )
        self.step, self.x, self.slope, self.worst = saved.step, saved.x, saved.slope, saved.worst
        self.observed[: saved.step + 1] = saved.observed
        now = saved.step * run.dt
        self.state = (
            run.scheme.recall(saved.memory, now - (saved.step - 1) * run.dt)
            if saved.memory
            else run.scheme.init(run.field, now, self.x)
        )
        run.field.go_on(self.x, saved.builds, saved.extra, saved.ready)

    def look(self) -> None:
        """See the state that was reached."""
        dipole, energy, norm = self.run.field.observe(self.x)
        row = self.observed[self.step]
        row[:, :3], row[:, 3], row[:, 4] = dipole, energy, norm

    def save(self) -> None:
        """Keep what was reached."""
        run = self.run
        if run.file is None:
            return
        memory = run.scheme.memory(self.state)
        rows = self.observed[: self.step + 1]
        field = run.field
        ready = field.ready(self.x)
        run.file.save(Saved(self.step, rows, self.x, memory, field.builds, field.extra, ready, self.slope, self.worst))


def _march(run: _Run) -> list[Trajectory]:
    began, cpu = time.perf_counter(), time.process_time()
    grid = _grid_seconds(run)
    at = _Progressed(run)
    first, last = at.step, time.monotonic()
    outcome = Outcome("success", t=run.steps * run.dt)
    try:
        for n in range(at.step, run.steps):
            found = run.scheme.step(run.field, n * run.dt, (n + 1) * run.dt, at.x, at.state)
            trouble = _take(run, at, found)
            if trouble is not None:
                outcome = trouble
                break
            if at.step % _LOOK == 0:
                at.worst = max(at.worst, checking.orthonormality(at.x, run.molecule))
                if time.monotonic() - last > run.every:
                    at.save()
                    last = time.monotonic()
                _tell(run, at.step, first, time.perf_counter() - began)
        at.save()
    except KeyboardInterrupt:
        at.save()
        raise
    except ResidynError as error:
        if isinstance(error, InputError):
            raise
        outcome = Outcome("non_finite", str(error), "free some space, or leave the checkpoint out", t=at.step * run.dt)
    at.worst = max(at.worst, checking.orthonormality(at.x, run.molecule))
    spent = time.perf_counter() - began, _grid_seconds(run) - grid, time.process_time() - cpu
    return [_trajectory(run, at, lane, outcome, spent) for lane in range(at.lanes)]


def _take(run: _Run, at: _Progressed, found: Any) -> Outcome | None:
    """Take a step over if it is good; else say what is wrong with it."""
    t = at.step * run.dt
    if found.failed is not None and bool(found.failed.any()):
        return Outcome("root_failed", f"the equations of the step after t = {t:g} were not solved", "take a smaller dt", t=t)
    before = at.x, at.state
    at.x, at.state = found.x, found.state
    at.step += 1
    at.look()
    trouble = checking.trouble(at.observed[0], at.observed[at.step], t, run.limits, run.molecule)
    if trouble is not None:
        at.step -= 1
        at.x, at.state = before
    return trouble


def _trajectory(run: _Run, at: _Progressed, lane: int, outcome: Outcome, spent: tuple[float, float, float]) -> Trajectory:
    rows = at.observed[: at.step + 1, lane]
    alone = run.kick is None or run.kick.ndim == 1
    kick, x, slope = (run.kick, at.x, at.slope) if alone else (run.kick[lane], at.x[lane], at.slope[lane])  # type: ignore[index]
    molecule = run.molecule
    seconds = tuple(part / at.lanes for part in spent)
    trajectory = Trajectory(
        t=torch.arange(at.step + 1, dtype=torch.float64) * run.dt,
        dipole=rows[:, :3].clone(),
        energy=rows[:, 3].clone(),
        norm=rows[:, 4].clone(),
        builds=run.field.builds,
        dt=run.dt,
        scheme=repr(run.scheme),
        fock=run.fock,
        kick=kick,
        molecule=molecule.name,
        electrons=molecule.electrons,
        ground_dipole=molecule.dipole,
        ground_energy=molecule.energy,
        slope=slope,
        state=x,
        observed=run.field.extra,
        outcome=outcome,
        checks=[],
        driven=run.field.pulse is not None,
        seconds=seconds[0],
        grid_seconds=seconds[1],
        cpu_seconds=seconds[2],
    )
    trajectory.checks.extend(checking.findings(trajectory, at.worst, run.limits))
    return trajectory


def _grid_seconds(run: _Run) -> float:
    return float(getattr(getattr(run.field.potential, "xc", None), "seconds", 0.0))


def _tell(run: _Run, step: int, first: int, seconds: float) -> None:
    if run.progress is None:
        return
    left = seconds / (step - first) * (run.steps - step)
    run.progress(step / run.steps, f"{step} of {run.steps} steps, {left:.0f} s left")
