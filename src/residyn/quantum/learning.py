"""Fitting the residual of a `Corrector` on a few fine trajectories, and judging it on runs that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.quantum.corrector import KEPT, Corrector, turn
from residyn.quantum.hamiltonian import KohnSham, kicked
from residyn.quantum.molecule import Molecule
from residyn.quantum.propagation import propagate, respond
from residyn.quantum.pulses import Gaussian, Pulse, vector
from residyn.quantum.threads import threads_for
from residyn.quantum.trajectory import Trajectory
from residyn.results import Finding
from residyn.schemes import AdamsMagnus
from residyn.schemes.base import Scheme

RIDGES = (1e-7, 1e-5, 1e-3)
"""What `ridge` is chosen from, on the validation runs."""
_LEAST = 1e-9
"""Features of a run below this are not scaled up: a kick along which nothing can move leaves rounding, some 1e-16."""
_VALIDATION = (-2e-3, 4e-3, 3e-3)
_HELD_OUT = {
    "a kick of another direction": (3e-3, -2e-3, 4e-3),
    "a kick ten times stronger than in training": (6e-3, -7e-3, 4e-3),
}


@dataclass(frozen=True)
class HeldOut:
    """A run that neither training nor the choice of the ridge has seen.

    Args:
        name: What acted on the molecule.
        error: Largest error of the dipole with the residual, relative to its largest change.
        plain_error: The same of the default scheme, at equal builds.
        half_error: That of the default scheme at half the step.
        twin_norm: Largest |norm - 1| with the residual in the state instead.
    """

    name: str
    error: float
    plain_error: float
    half_error: float
    twin_norm: float


@dataclass(frozen=True)
class Trained:
    """What `train_corrector` returns.

    Args:
        scheme: The corrected propagator, for `propagate(molecule, scheme=trained.scheme, dt=trained.dt, …)`.
        twin: The same residual added to the state, which is not unitary: what not to do.
        dt: The coarse time step.
        ridge: The regularisation, as given or as chosen on the validation runs.
        held_out: Errors on runs that were not seen, each beside those of the default scheme.
        error: Its error on the held-out kick of moderate strength.
        plain_error: That of the default scheme there, at equal builds.
        twin_norm: Largest |norm - 1| of the twin on the held-out runs.
        builds: Fock matrices that training cost, validation included.
        fine_dt: Step at which the default scheme would be as accurate, by its measured order; not below that of the fine runs.
        break_even: Runs as long as the held-out ones after which training has paid for itself; infinite if it never does.
        findings: All of it in words.
    """

    scheme: Corrector
    twin: Corrector
    dt: float
    ridge: float
    held_out: list[HeldOut]
    error: float
    plain_error: float
    twin_norm: float
    builds: int
    fine_dt: float
    break_even: float
    findings: list[Finding]


def train_corrector(
    molecule: Molecule,
    *,
    dt: float = 0.4,
    duration: float = 60.0,
    kicks: Sequence[Sequence[float]] | None = None,
    pulses: Sequence[Pulse] | None = None,
    substeps: int = 8,
    ridge: float | None = None,
    test_factor: float = 5.0,
) -> Trained:
    """Fit the residual on a few fine trajectories by ridge regression in closed form, and test it on some it has not seen.

    Three sets of runs are kept apart: those that are fitted, those on which the ridge is chosen, and those whose errors are
    told. The residual is linear in the density matrix and the field, so it is exact for weak fields; what it leaves out is of
    second order in their strength, which slow and strong pulses show.

    Args:
        molecule: The molecule.
        dt: The coarse time step, atomic units.
        duration: Length of each training trajectory.
        kicks: Their kicks, weak ones; 1e-3 1/bohr along x, y and z if not given.
        pulses: Fields of further training trajectories; a short weak Gaussian along each axis if not given.
        substeps: Fine steps in a coarse one.
        ridge: Regularisation: singular values of the features below this part of the largest are damped. If not given, that
            of `RIDGES` with the least error on a kick and a pulse of their own.
        test_factor: Length of the held-out runs, in training lengths.

    Returns:
        The scheme, its errors beside those of the default, what training cost, and after how many runs that is earned back.

    Raises:
        InputError: If an argument breaks its rule.
    """
    _numbers(dt, duration, test_factor, ridge, substeps)
    steps = max(KEPT + 1, round(duration / dt))
    rows = [[1e-3 * (i == k) for k in range(3)] for i in range(3)] if kicks is None else list(kicks)
    kappas = torch.stack([vector("kicks", row) for row in rows]) if rows else None
    driven = [_short(duration, axis) for axis in range(3)] if pulses is None else list(pulses)
    with threads_for(molecule.n), torch.no_grad():
        bare = Corrector(molecule, dt)
        jobs: list[tuple[Tensor | None, Pulse | None]] = [] if kappas is None else [(kappas, None)]
        jobs += [(None, pulse) for pulse in driven]
        fits, builds = [], 0
        for kick, pulse in jobs:
            run = _fine(bare, kick, pulse, steps, substeps)
            fits.append(_samples(bare, run, pulse))
            builds += run.builds
        if not fits:
            raise InputError("`kicks` and `pulses` must hold at least one run to learn from, got none; leave them out")
        ridges = RIDGES if ridge is None else (ridge,)
        short, wanted, whole, rest = (torch.cat(parts) for parts in zip(*fits, strict=True))
        pairs = zip(_ridge(short, wanted, ridges), _ridge(whole, rest, ridges), strict=True)
        schemes = [Corrector(molecule, dt, torch.cat(pair, 1)) for pair in pairs]
        best, spent = _chosen(bare, schemes, duration, steps, substeps) if len(schemes) > 1 else (0, 0)
        twin = Corrector(molecule, dt, schemes[best].weights, in_state=True)
        held = _judge(molecule, schemes[best], twin, round(test_factor * steps), substeps)
    return _trained(schemes[best], twin, ridges[best], held, builds + spent, round(test_factor * steps), substeps)


def _numbers(dt: float, duration: float, test_factor: float, ridge: float | None, substeps: int) -> None:
    for name, number in (("dt", dt), ("duration", duration), ("test_factor", test_factor), ("ridge", ridge)):
        if not (name == "ridge" and number is None) and not (isinstance(number, (int, float)) and 0 < number < math.inf):
            raise InputError(f"`{name}` must be a number > 0, got {number!r}")
    if not isinstance(substeps, int) or isinstance(substeps, bool) or substeps < 1:
        raise InputError(f"`substeps` must be a whole number of at least 1, got {substeps!r}")


def _short(duration: float, axis: int) -> Gaussian:
    """So short that it holds all frequencies up to some 1.3 hartree."""
    x, y, z = (1e-3 * (axis == k) for k in range(3))
    return Gaussian((x, y, z), 0.13 * duration, 1.5)


class _Fine(NamedTuple):
    """A fine run at the coarse times, between the ground state's orbitals: these, and changes of the Fock matrix."""

    states: Tensor
    changes: Tensor
    dipoles: Tensor
    builds: int


def _fine(bare: Corrector, kick: Tensor | None, pulse: Pulse | None, steps: int, substeps: int) -> _Fine:
    """Runs from one kick or, side by side, from several."""
    molecule, scheme = bare.molecule, AdamsMagnus()
    field = KohnSham(molecule, pulse=pulse)
    x = molecule.state if kick is None else kicked(molecule, molecule.state, kick)
    state, h = None, bare.dt / substeps
    states, changes, dipoles = [], [], []
    for k in range(steps * substeps + 1):
        if k % substeps == 0:
            V = molecule.potential(molecule.density(x))[0] + molecule.core - bare.F0
            states.append(bare.back @ x)
            changes.append(bare.back @ V @ bare.C)
            dipoles.append(field.observe(x).dipole)
        if k < steps * substeps:
            found = scheme.step(field, k * h, (k + 1) * h, x, state)
            x, state = found.x, found.state
    lanes = 1 if kick is None or kick.ndim == 1 else len(kick)
    return _Fine(torch.stack(states), torch.stack(changes), torch.stack(dipoles), lanes * (field.builds + steps))


def _samples(bare: Corrector, run: _Fine, pulse: Pulse | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and wanted residuals with a short past, and with a whole one, at every coarse step that has one.

    Each is scaled to unit size a run.
    """
    field = KohnSham(bare.molecule, pulse=pulse)
    steps = len(run.states) - 1
    E = torch.stack([bare.fields(field, n * bare.dt) for n in range(steps)])
    rho = bare.pack(run.states @ run.states.mH - bare.rest)
    short, whole, wanted, wanted_whole = [], [], [], []
    for n in range(KEPT - 1, steps):
        y, end = run.states[n], run.states[n + 1] / bare.turn
        before = E[n - KEPT + 1 : n].flip(0)
        short.append(bare.seen(rho[n][None], E[n], before))
        whole.append(bare.seen(rho[n - KEPT + 1 : n + 1].flip(0), E[n], before))
        targets = []
        for k in range(1, KEPT + 1):
            past = run.changes[n - k + 1 : n + 1].flip(0)
            known = torch.cat([run.changes[n + 1][None], past])
            for shares, changes in ((bare.first, past), (bare.second, known)):
                targets.append(bare.pack(_rotation(turn(bare.plain(shares[k - 1], changes, E[n]), y), end)))
        wanted.append(torch.cat(targets[:-2], -1))
        wanted_whole.append(torch.cat(targets[-2:], -1))
    return (*_scaled(torch.stack(short), torch.stack(wanted)), *_scaled(torch.stack(whole), torch.stack(wanted_whole)))


def _scaled(phi: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """`(N, [runs,] …)` over the features' root mean square in each run, flat; what is rounding alone stays small."""
    scale = phi.square().sum(-1).mean(0).sqrt().clamp_min(_LEAST).unsqueeze(-1)
    return (phi / scale).flatten(0, -2), (target / scale).flatten(0, -2)


def _rotation(z: Tensor, y: Tensor) -> Tensor:
    """The Hermitian Δ with exp(-iΔ) the smallest rotation of the space of z onto that of y."""
    one = torch.eye(z.shape[-2], dtype=z.dtype)
    M = (one - 2 * y @ y.mH) @ (one - 2 * z @ z.mH)  # exp(2K)
    S = 0.5 * (M - M.mH)  # sinh(2K)
    return 1j * 0.5 * (S - S @ S @ S / 6)


def _ridge(seen: Tensor, wanted: Tensor, ridges: Sequence[float]) -> list[Tensor]:
    """(ΦᵀΦ + λ)⁻¹·Φᵀ·T through the singular values of Φ, for each √λ relative to the largest of them."""
    left, values, right = torch.linalg.svd(seen, full_matrices=False)
    projected = left.mT @ wanted
    top = float(values[0])
    return [right.mT @ ((values / (values.square() + (r * top) ** 2)).unsqueeze(-1) * projected) for r in ridges]


def _chosen(bare: Corrector, schemes: list[Corrector], duration: float, steps: int, substeps: int) -> tuple[int, int]:
    """Which scheme does best on a kick and a pulse of their own, and the builds that it took to find out."""
    pulse = Gaussian((3e-3, 2e-3, -2e-3), 0.2 * duration, 2.5, 0.3)
    worst, builds = [0.0] * len(schemes), 0
    for job in ({"kick": _VALIDATION}, {"pulse": pulse}):
        kick = torch.tensor(job["kick"], dtype=torch.float64) if "kick" in job else None
        exact = _fine(bare, kick, None if "kick" in job else pulse, steps, substeps)
        builds += exact.builds
        for i, scheme in enumerate(schemes):
            run = _dipole(bare.molecule, scheme, bare.dt, steps, job)
            worst[i] = max(worst[i], _gap(run, exact.dipoles))
            builds += run.builds
    return min(range(len(schemes)), key=worst.__getitem__), builds


def _dipole(molecule: Molecule, scheme: Scheme | None, dt: float, steps: int, job: dict[str, Any]) -> Trajectory:
    return propagate(molecule, scheme=scheme, dt=dt, duration=steps * dt, checks=False, throw=False, **job)


def _gap(run: Trajectory, exact: Tensor, stride: int = 1) -> float:
    """Largest error of the dipole, relative to its largest change; infinite if the run ended early."""
    found = run.dipole[::stride]
    size = float((exact - exact[0]).abs().max())
    return float((found - exact).abs().max()) / size if len(found) == len(exact) else math.inf


def _judge(molecule: Molecule, scheme: Corrector, twin: Corrector, steps: int, substeps: int) -> list[HeldOut]:
    """Kicks of other directions and strengths, and a pulse, beside the default and a fine run."""
    dt, length = scheme.dt, steps * scheme.dt
    late = Gaussian((2e-3, -3e-3, 2e-3), 0.1 * length, 4.0, 0.4)
    jobs: dict[str, dict[str, Any]] = {name: {"kick": kick} for name, kick in _HELD_OUT.items()} | {"a pulse": {"pulse": late}}
    options: dict[str, Any] = {"duration": length, "fock": "full", "checks": False, "throw": False}
    kicks = [job["kick"] for job in jobs.values() if "kick" in job]
    exact = [run.dipole[::substeps] for run in respond(molecule, kicks=kicks, dt=dt / substeps, **options)]
    exact.append(propagate(molecule, pulse=late, dt=dt / substeps, **options).dipole[::substeps])
    held = []
    for (name, job), right in zip(jobs.items(), exact, strict=True):
        learned, plain, off = (_dipole(molecule, which, dt, steps, job) for which in (scheme, None, twin))
        half = _dipole(molecule, None, dt / 2, 2 * steps, job)
        twisted = float((off.norm - 1).abs().max())
        held.append(HeldOut(name, _gap(learned, right), _gap(plain, right), _gap(half, right, 2), twisted))
    return held


def _trained(
    scheme: Corrector, twin: Corrector, ridge: float, held: list[HeldOut], builds: int, steps: int, substeps: int
) -> Trained:
    """Cost and gain, by the held-out kick of moderate strength."""
    first, dt = held[0], scheme.dt
    known = math.isfinite(first.plain_error) and first.plain_error > 0
    falls = 0 < first.half_error < first.plain_error < math.inf
    order = min(max(math.log2(first.plain_error / first.half_error), 2.0), 6.0) if falls else 2.0
    part = max(first.error, 1e-12) / first.plain_error if known else 1.0
    # the runs it is held to are at dt/substeps themselves, so nothing is known of an accuracy beyond theirs
    fine_dt = dt * min(1.0, max(part ** (1 / order), 1 / substeps)) if known else dt / 2
    saved = steps * (dt / fine_dt - 1)
    even = builds / saved if saved > 0 else math.inf
    off = max(run.twin_norm for run in held)
    found = Trained(
        scheme, twin, dt, ridge, held, first.error, first.plain_error, off, builds, fine_dt, even, []
    )  # fmt: skip
    return replace(found, findings=_told(found, steps))


def _told(found: Trained, steps: int) -> list[Finding]:
    told = []
    for i, run in enumerate(found.held_out):
        ratio = run.error / run.plain_error if run.plain_error > 0 else math.inf
        told.append(
            Finding(
                "tddft.learned" if i == 0 else f"tddft.learned.{i}",
                f"Error of the learned step at dt {found.dt:g} over the default's at equal builds, {run.name}",
                "pass" if ratio <= 0.1 else "fail" if i == 0 else "warn",
                ratio,
                0.1,
                why=f"{run.error:.2e} beside {run.plain_error:.2e}, in a run of {steps} steps that was not seen.",
            )
        )
    return [
        *told,
        Finding("tddft.twin", "Largest |norm - 1| with the same residual in the state instead of the generator", "info",
                found.twin_norm,
                why="In the generator the residual is unitary whatever was learned; in the state it is not."),
        Finding("tddft.cost", "Fock builds that training cost", "info", float(found.builds),
                why=f"With those that chose the ridge, {found.ridge:g}."),
        Finding("tddft.break-even", "Held-out runs after which training has paid for itself", "info", found.break_even,
                why=f"The default needs dt {found.fine_dt:.3g} for this accuracy; a run has {steps} coarse steps."),
    ]  # fmt: skip
