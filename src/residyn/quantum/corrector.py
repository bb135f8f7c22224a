"""A learned residual in the generator: at a coarse step as accurate as at a finer one, and unitary whatever was learned.

x⁺ = exp(-i·dt·F₀)·exp(-i·(Ω + W·history))·x, with Ω from extrapolated Fock matrices in the interaction picture, and W fitted in
closed form on a few fine trajectories. One Fock build a step.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.quantum.hamiltonian import KohnSham, kicked
from residyn.quantum.molecule import Molecule
from residyn.quantum.pulses import Gaussian, Pulse, field_at, vector
from residyn.quantum.threads import threads_for
from residyn.results import Finding
from residyn.schemes import AdamsMagnus
from residyn.schemes.base import Field, Step, Time
from residyn.schemes.magnus import Propagator

_NODES = (0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15))
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)
_CUT = 1e-12
"""Singular values of the features below this part of the largest are not fitted."""


class _Past(NamedTuple):
    """δF between the ground state's orbitals at the starts of the last steps, newest first, `(k, s, n, n)`."""

    change: Tensor


class Corrector(Propagator):
    """The propagator that `train_corrector` returns; it belongs to one molecule and one time step.

    Args:
        molecule: The molecule.
        dt: Its time step.
        history: Fock matrices of the past that the residual sees, besides the last.
        weights: W, `(features, s·n²)`, or `None` for the plain step.
        in_state: Whether the residual is added to the state instead: the twin that is not unitary.
    """

    order = 2
    carries_memory = True

    def __init__(
        self, molecule: Molecule, dt: float, history: int, weights: Tensor | None = None, *, in_state: bool = False
    ) -> None:
        self.molecule, self.dt, self.history, self.weights, self.in_state = molecule, dt, history, weights, in_state
        self.C = molecule.orbitals.to(torch.complex128)
        energies = molecule.orbital_energies
        self.turn = torch.exp(-1j * dt * energies).unsqueeze(-1)  # (s, n, 1)
        self.gaps = energies.unsqueeze(-1) - energies.unsqueeze(-2)
        ground = molecule.density(molecule.state)
        self.F0 = molecule.core + molecule.potential(ground)[0]
        self.position = molecule.orbitals.mT.unsqueeze(1) @ molecule.position @ molecule.orbitals.unsqueeze(1)  # (s, 3, n, n)
        nodes = torch.tensor(_NODES, dtype=torch.float64)
        turns = torch.exp(1j * dt * nodes[:, None, None, None] * self.gaps)  # (3, s, n, n)
        self.turns = turns * torch.tensor(_WEIGHTS, dtype=torch.float64)[:, None, None, None] * dt
        self.nodes = nodes

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; `state` holds the changes of the Fock matrix at the last starts."""
        field = getattr(f, "f", f)
        if not isinstance(field, KohnSham) or abs(float(t1) - float(t0) - self.dt) > 1e-6 * self.dt:
            raise InputError(f"`scheme` must be used with propagate at the dt it was trained for, {self.dt:g}, got another")
        field.matrix(t0, x)  # counts the build
        own = (self.C.mT @ (field.fock - self.F0) @ self.C)[None]
        past = own if not isinstance(state, _Past) else torch.cat([own, state.change])[: self.history + 1]
        fields = [field_at(field.pulse, float(t0) + c * self.dt) for c in _NODES]
        y = self._move(past, fields, self.C.mT @ x)
        return Step(self.C @ y, None, lambda theta: torch.lerp(x, self.C @ y, theta), _Past(past[: self.history]))

    def _move(self, past: Tensor, fields: list[Tensor | None], y: Tensor) -> Tensor:
        """The step between the ground state's orbitals."""
        omega = self.plain(past, fields)
        learned = None if self.weights is None or len(past) <= self.history else features(past, fields) @ self.weights
        if learned is not None and not self.in_state:
            omega = omega + unpacked(learned, self.molecule)
        angles, vectors = torch.linalg.eigh(omega)
        moved = vectors @ (torch.exp(-1j * angles).unsqueeze(-1) * (vectors.mH @ y))
        if learned is not None and self.in_state:
            moved = moved - 1j * unpacked(learned, self.molecule) @ moved
        return self.turn * moved

    def plain(self, past: Tensor, fields: list[Tensor | None]) -> Tensor:
        """Ω = ∫ e^{iF₀s}·(δF(s) + r·E(s))·e^{-iF₀s} ds, δF on the line through the last two, by three Gauss points."""
        slope = past[0] - past[1] if len(past) > 1 else torch.zeros_like(past[0])
        values = past[0] + self.nodes[:, None, None, None] * slope  # (3, s, n, n)
        if any(field is not None for field in fields):
            E = torch.stack([torch.zeros(3, dtype=torch.float64) if field is None else field for field in fields])
            values = values + torch.einsum("kc,scij->ksij", E, self.position)
        omega = (self.turns * values).sum(0)
        return 0.5 * (omega + omega.mH)

    def memory(self, state: Any) -> tuple[Tensor, ...]:
        """The changes of the Fock matrix at the last starts."""
        return (state.change,) if isinstance(state, _Past) else ()

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Any:
        """The same."""
        return _Past(memory[0])

    def __repr__(self) -> str:
        digest = "plain" if self.weights is None else hashlib.sha256(self.weights.numpy().tobytes()).hexdigest()[:16]
        twin = ", in_state=True" if self.in_state else ""
        return f"Corrector(dt={self.dt:g}, history={self.history}, weights={digest}{twin})"


@dataclass(frozen=True)
class Trained:
    """What `train_corrector` returns.

    Args:
        scheme: The corrected propagator, for `propagate(molecule, scheme=trained.scheme, dt=trained.dt, …)`.
        twin: The same residual added to the state, which is not unitary: what not to do.
        dt: The coarse time step.
        error: Largest error of the dipole on the held-out run, relative to its largest change, with the residual.
        plain_error: The same of the default scheme, at equal builds.
        twin_norm: Largest |norm - 1| of the twin on that run.
        builds: Fock matrices that training cost.
        fine_dt: Step at which the default scheme would be as accurate, by its measured order.
        break_even: Runs as long as the held-out one after which training has paid for itself; infinite if it never does.
        findings: All of it in words.
    """

    scheme: Corrector
    twin: Corrector
    dt: float
    error: float
    plain_error: float
    twin_norm: float
    builds: int
    fine_dt: float
    break_even: float
    findings: list[Finding]


def features(past: Tensor, fields: list[Tensor | None]) -> Tensor:
    """What the residual sees: the packed changes of the last Fock matrices, and the field in the step, `(features,)`."""
    E = torch.cat([torch.zeros(3, dtype=torch.float64) if field is None else field for field in fields])
    return torch.cat([packed(past), E])


def packed(matrices: Tensor) -> Tensor:
    """Hermitian matrices `(…, n, n)` as real numbers, n² each, flat."""
    n = matrices.shape[-1]
    i, j = torch.tril_indices(n, n)
    a, b = torch.tril_indices(n, n, -1)
    return torch.cat([matrices.real[..., i, j], matrices.imag[..., a, b]], -1).flatten()


def unpacked(values: Tensor, molecule: Molecule) -> Tensor:
    """The inverse for `(s, n, n)`."""
    n = molecule.n
    i, j = torch.tril_indices(n, n)
    a, b = torch.tril_indices(n, n, -1)
    rows = values.reshape(molecule.spins, -1)
    found = torch.zeros(molecule.spins, n, n, dtype=torch.complex128)
    found[:, i, j] = rows[:, : len(i)].to(torch.complex128)
    found[:, a, b] = torch.complex(rows[:, : len(i)][:, i != j], rows[:, len(i) :])
    lower = torch.tril(found, -1)
    return found + lower.mH


def train_corrector(
    molecule: Molecule,
    *,
    dt: float = 0.4,
    duration: float = 60.0,
    kicks: Sequence[Sequence[float]] | None = None,
    pulse: Pulse | None = None,
    substeps: int = 8,
    history: int = 1,
    ridge: float = 1e-4,
    test_factor: float = 5.0,
) -> Trained:
    """Fit the residual on a few fine trajectories by ridge regression in closed form, and test it on one it has not seen.

    Args:
        molecule: The molecule.
        dt: The coarse time step, atomic units.
        duration: Length of each training trajectory.
        kicks: Their kicks; along x, y and z at 1e-3 1/bohr and along x + y + z at 1e-2 if not given.
        pulse: Field of one more training trajectory; a short Gaussian if not given.
        substeps: Fine steps in a coarse one.
        history: Fock matrices of the past that the residual sees, besides the last.
        ridge: Regularisation: singular values of the features below this part of the largest are damped.
        test_factor: Length of the held-out run, in training lengths.

    Returns:
        The scheme, its errors beside those of the default, what training cost, and after how many runs that is earned back.

    Raises:
        InputError: If an argument breaks its rule.
    """
    for name, number in (("dt", dt), ("duration", duration), ("ridge", ridge), ("test_factor", test_factor)):
        if not (isinstance(number, (int, float)) and 0 < number < math.inf):
            raise InputError(f"`{name}` must be a number > 0, got {number!r}")
    for name, count in (("substeps", substeps), ("history", history)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"`{name}` must be a whole number of at least 1, got {count!r}")
    given = [(1e-3, 0, 0), (0, 1e-3, 0), (0, 0, 1e-3), (6e-3, 6e-3, 6e-3)] if kicks is None else kicks
    jobs: list[tuple[Tensor | None, Pulse | None]] = [(vector("kicks", kick), None) for kick in given]
    jobs.append((None, pulse or Gaussian((4e-3, 5e-3, 6e-3), 0.2 * duration, 0.03 * duration, 0.4)))
    steps = max(history + 2, round(duration / dt))
    with threads_for(molecule.n), torch.no_grad():
        bare = Corrector(molecule, dt, history)
        seen, wanted, builds = [], [], 0
        for kick, field in jobs:
            phi, target, cost = _samples(bare, kick, field, steps, substeps)
            seen.append(phi)
            wanted.append(target)
            builds += cost
        weights = _ridge(seen, wanted, ridge)
        scheme = Corrector(molecule, dt, history, weights)
        twin = Corrector(molecule, dt, history, weights, in_state=True)
        return _judge(molecule, scheme, twin, builds, round(test_factor * steps), substeps)


def _samples(
    bare: Corrector, kick: Tensor | None, pulse: Pulse | None, steps: int, substeps: int
) -> tuple[Tensor, Tensor, int]:
    """Features and wanted residuals of one fine trajectory, scaled to unit size, and its builds."""
    states, forces, builds = _fine(bare, kick, pulse, steps, substeps)
    rows, targets = [], []
    for n in range(bare.history, steps):
        past = torch.stack(forces[n - bare.history : n + 1][::-1])
        fields = [field_at(pulse, (n + c) * bare.dt) for c in _NODES]
        angles, vectors = torch.linalg.eigh(bare.plain(past, fields))
        z = vectors @ (torch.exp(-1j * angles).unsqueeze(-1) * (vectors.mH @ states[n]))
        rows.append(features(past, fields))
        targets.append(packed(_rotation(z, states[n + 1] / bare.turn)))
    phi, target = torch.stack(rows), torch.stack(targets)
    scale = float(phi.square().sum(1).mean().sqrt())
    return phi / scale, target / scale, builds


def _fine(
    bare: Corrector, kick: Tensor | None, pulse: Pulse | None, steps: int, substeps: int
) -> tuple[list[Tensor], list[Tensor], int]:
    """States and changes of the Fock matrix between the ground state's orbitals, at every coarse time of a fine run."""
    molecule, scheme = bare.molecule, AdamsMagnus()
    field = KohnSham(molecule, pulse=pulse)
    x = molecule.state if kick is None else kicked(molecule, molecule.state, kick)
    state, h = None, bare.dt / substeps
    states, forces = [], []
    for k in range(steps * substeps + 1):
        if k % substeps == 0:
            field.observe(x)
            V = molecule.potential(molecule.density(x))[0] + molecule.core - bare.F0
            states.append(bare.C.mT @ x)
            forces.append(bare.C.mT @ V @ bare.C)
        found = scheme.step(field, k * h, (k + 1) * h, x, state)
        x, state = found.x, found.state
    return states, forces, field.builds + steps


def _rotation(z: Tensor, y: Tensor) -> Tensor:
    """The Hermitian Δ with exp(-iΔ) the smallest rotation of the space of z onto that of y."""
    one = torch.eye(z.shape[-2], dtype=z.dtype)
    M = (one - 2 * y @ y.mH) @ (one - 2 * z @ z.mH)  # exp(2K)
    S = 0.5 * (M - M.mH)  # sinh(2K)
    return 1j * 0.5 * (S - S @ S @ S / 6)


def _ridge(seen: list[Tensor], wanted: list[Tensor], ridge: float) -> Tensor:
    """(ΦᵀΦ + λ)⁻¹·Φᵀ·T through the singular values of Φ."""
    left, values, right = torch.linalg.svd(torch.cat(seen), full_matrices=False)
    filtered = torch.where(values > _CUT * values[0], values / (values.square() + (ridge * values[0]) ** 2), 0.0)
    return right.mT @ (filtered.unsqueeze(-1) * (left.mT @ torch.cat(wanted)))


def _judge(molecule: Molecule, scheme: Corrector, twin: Corrector, builds: int, steps: int, substeps: int) -> Trained:
    """A kick of another direction and strength, for longer than training saw, beside the default and a fine run."""
    from residyn.quantum.propagation import propagate

    dt = scheme.dt
    options: dict[str, Any] = {"duration": steps * dt, "kick": (3e-3, -2e-3, 4e-3), "checks": False, "throw": False}
    exact = propagate(molecule, dt=dt / substeps, **options).dipole[::substeps]
    ran = {
        "learned": propagate(molecule, scheme=scheme, dt=dt, **options),
        "default": propagate(molecule, dt=dt, **options),
        "twin": propagate(molecule, scheme=twin, dt=dt, **options),
        "half": propagate(molecule, dt=dt / 2, **options),
    }
    size = float((exact - exact[0]).abs().max())

    def error(name: str, stride: int = 1) -> float:
        found = ran[name].dipole[::stride]
        return float((found - exact[: len(found)]).abs().max()) / size if len(found) == len(exact) else math.inf

    learned, plain, half = error("learned"), error("default"), error("half", 2)
    order = min(max(math.log2(plain / half), 2.0), 6.0) if 0 < half < plain < math.inf else 2.0
    fine_dt = dt * min(1.0, (max(learned, 1e-12) / plain) ** (1 / order)) if math.isfinite(plain) else dt / 2
    saved = steps * (dt / fine_dt - 1)
    even = builds / saved if saved > 0 else math.inf
    off = float((ran["twin"].norm - 1).abs().max())
    told = _told(learned, plain, off, builds, fine_dt, even, dt, steps)
    return Trained(scheme, twin, dt, learned, plain, off, builds, fine_dt, even, told)


def _told(
    learned: float, plain: float, off: float, builds: int, fine: float, even: float, dt: float, steps: int
) -> list[Finding]:
    kept = "A held-out kick of another direction and strength, five times as long as training saw."
    return [
        Finding("tddft.learned", f"Error of the learned step at dt {dt:g} over the default's at equal builds",
                "pass" if learned <= 0.1 * plain else "fail", learned / plain, 0.1,
                why=f"{learned:.2e} beside {plain:.2e}. {kept}"),
        Finding("tddft.twin", "Largest |norm - 1| with the same residual in the state instead of the generator", "info", off,
                why="In the generator the residual is unitary whatever was learned; in the state it is not."),
        Finding("tddft.cost", "Fock builds that training cost", "info", float(builds)),
        Finding("tddft.break-even", "Held-out runs after which training has paid for itself", "info", even,
                why=f"The default needs dt {fine:.3g} for this accuracy; a run has {steps} coarse steps."),
    ]  # fmt: skip
