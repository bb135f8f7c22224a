"""What is watched while orbitals move, and what is said about it at the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.quantum.molecule import Molecule
from residyn.results import Finding, Outcome, Verdict
from residyn.schemes import MMUT
from residyn.schemes.base import Scheme

if TYPE_CHECKING:
    from residyn.quantum.trajectory import Trajectory

WEAK_KICK = 0.01
"""1/bohr; the strongest kick of a linear Fock matrix. What is left out is of relative order κ²·⟨r²⟩."""
WEAK = 0.5
"""Energy absorbed past which a linear Fock matrix is left, in that of free electrons after the strongest kick, twice over."""


class Limits(NamedTuple):
    """When a run is ended, and what its scheme promises."""

    checks: bool
    unitary: bool
    hopeless: bool
    driven: bool
    absorbing: bool
    weak: float = math.inf


def limits(molecule: Molecule, scheme: Scheme, dt: float, *, checks: bool, driven: bool, absorbing: bool) -> Limits:
    """What to hold a run to; refuses what is known to fail.

    Raises:
        InputError: If `dt` is past the stability limit of the scheme on this molecule.
    """
    from residyn.quantum.stability import orbital_limit, stability

    limit = orbital_limit(molecule, scheme)
    if checks and 0 < limit < dt:
        top = float(molecule.orbital_energies.abs().max())
        raise InputError(
            f"`dt` must be at most {limit:.4g} for {scheme!r} on {molecule.name} (its largest orbital energy is {top:.1f} "
            f"hartree), got {dt:g}; take a smaller one, or a unitary scheme such as AdamsMagnus()"
        )
    if checks and isinstance(scheme, MMUT):
        found = stability(molecule, scheme, dt)
        if not found.stable:
            raise InputError(
                f"`scheme` must be stable, got MMUT() on {molecule.name}, whose parasitic mode grows by "
                f"exp({found.growth:.3g}·t) at dt = {dt:g} while the norm stays 1; take AdamsMagnus(), or checks=False "
                "to see it happen"
            )
    return Limits(checks, _unitary(scheme), limit == 0.0, driven, absorbing)


def weak(kick: Tensor | None) -> None:
    """Refuse a kick that is not weak.

    Raises:
        InputError: If it is stronger than `WEAK_KICK`.
    """
    size = 0.0 if kick is None else float(kick.norm(dim=-1).max())
    if size > WEAK_KICK:
        raise InputError(
            f'`kick` must be weak (at most {WEAK_KICK:g} 1/bohr) with fock="linear", got {size:.3g}; use fock="full"'
        )


def trouble(first: Tensor, last: Tensor, t: float, limits: Limits, molecule: Molecule) -> Outcome | None:
    """Why rows of (dipole, energy, norm), one a run, cannot be gone on from; `None` if they can."""
    for start, row in zip(first[:, 3].tolist(), last.tolist(), strict=True):
        found = _trouble(start, row, t, limits, molecule)
        if found is not None:
            return found
    return None


def _trouble(start: float, row: list[float], t: float, limits: Limits, molecule: Molecule) -> Outcome | None:
    energy, norm = row[3:]
    if not all(map(math.isfinite, row)):
        return Outcome("non_finite", f"the state after t = {t:g} is not finite", "take a smaller dt, or a unitary scheme", t=t)
    gained = abs(energy - molecule.energy)
    if gained > limits.weak * molecule.electrons * WEAK_KICK**2:
        return Outcome(
            "non_finite",
            f"the field is not weak: {gained:.2e} hartree were absorbed by t = {t:g}, too much for a linear Fock matrix",
            'use fock="full", or a weaker field',
            t=t,
        )
    if not limits.checks or limits.hopeless:
        return None
    if limits.unitary and not limits.absorbing and abs(norm - 1) > 1e-6:
        return Outcome("non_finite", f"the norm is {norm:.6g} after t = {t:g}", "take a smaller dt", t=t)
    allowed = 10 * abs(start - molecule.energy) + 1e-4
    if not limits.driven and not limits.absorbing and abs(energy - start) > allowed:
        return Outcome(
            "non_finite",
            f"the energy has drifted by {energy - start:.2e} hartree by t = {t:g}: dt is past the stability limit",
            "take a smaller dt; `stability` tells how it grows",
            t=t,
        )
    return None


def orthonormality(x: Tensor, molecule: Molecule) -> float:
    """max |xᴴ·x - 1| over the occupied orbitals: how far P² is from P."""
    gram = x.mH @ x
    worst = 0.0
    for s, m in enumerate(molecule.occupied):
        gap = gram[..., s, :m, :m] - torch.eye(m, dtype=gram.dtype)
        worst = max(worst, float(gap.abs().max()) if m else 0.0)
    return worst


def findings(run: Trajectory, worst: float, limits: Limits) -> list[Finding]:
    """Norm, idempotency, trace, energy drift and energy absorbed, with verdicts where a promise was made."""
    # each step's exponential is unitary to some 10 n·eps; they add up like a random walk at best, in a line at worst
    room = 1e-14 * (10 + run.steps) * 10
    held = limits.unitary and not limits.absorbing
    off = float((run.norm - 1).abs().max())
    kept = "The scheme is unitary: rounding alone moves it." if held else "Not promised by this scheme (or an absorber acts)."
    trace = run.electrons * float((run.norm.square() - 1).abs().max())
    found = [
        Finding("tddft.norm", "Largest |norm - 1|", _verdict(held, off, room), off, 0.0, why=kept),
        Finding(
            "tddft.idempotency", "Largest |xᴴ·x - 1|, how far P² is from P", _verdict(held, worst, room), worst, 0.0, why=kept
        ),
        Finding(
            "tddft.trace", "Largest |tr P - electrons|", _verdict(held, trace, 2 * run.electrons * room), trace, 0.0, why=kept
        ),
    ]
    gained = float(run.energy[0]) - run.ground_energy
    if run.driven:
        gained = float(run.energy[-1]) - run.ground_energy
    else:
        drift = float((run.energy - run.energy[0]).abs().max())
        # orbitals off by δ from orthonormal are electrons off by as much, each with its share of the energy
        allowed = 0.1 * abs(gained) + 2 * max(off, worst) * abs(run.ground_energy) + 1e-11
        verdict: Verdict = "info" if limits.absorbing or run.kick is None else "pass" if drift <= allowed else "warn"
        found.append(
            Finding(
                "tddft.energy",
                "Largest drift of the energy after the kick",
                verdict,
                drift,
                0.0,
                "hartree",
                f"The kick brought {gained:.2e} hartree; a tenth of that, and what rounding in the orbitals makes of the total "
                f"energy, {allowed:.1e} together, is allowed.",
                "take a smaller dt" if verdict == "warn" else "",
            )
        )
    found.append(Finding("tddft.absorbed", "Energy absorbed", "info", gained, unit="hartree"))
    return found


def _verdict(held: bool, value: float, room: float) -> Verdict:
    return "info" if not held else "pass" if value <= room else "fail"


def _unitary(scheme: Scheme) -> bool:
    """Whether |R(iy)| is 1 for all y, by the scheme's own stability function."""
    z = 1j * torch.linspace(0.01, 30.0, 40, dtype=torch.float64)
    return bool((scheme.stability(z).abs() - 1).abs().max() < 1e-9)
