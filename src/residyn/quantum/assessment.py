"""A molecule's absorption spectrum from three kicks, as a `Section`: lines beside linear response, checks, cost."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from residyn.counting import counted
from residyn.errors import InputError
from residyn.quantum.molecule import Molecule
from residyn.quantum.propagation import respond
from residyn.quantum.response import HARTREE_EV, LIMIT, Excitations, excitations, pairs
from residyn.quantum.spectrum import Peak, Spectrum, absorption
from residyn.quantum.trajectory import Trajectory
from residyn.results import Figure, Finding, Section, Series, Table

LINES = "Lines"
_AXES = "xyz"
_NOTHING = 1e-9
"""A sum of strengths that is rounding."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Wish:
    """What is asked of every molecule.

    Args:
        basis: Basis set.
        xc: Functional, or `"hf"`.
        charge: Charge.
        spin: Unpaired electrons.
        dt: Time step, atomic units.
        duration: Length of each of the three runs, atomic units.
        kick: Strength of the kicks, 1/bohr.
        fock: `"linear"` or `"full"`.
        max_ev: Up to which energy lines are told.
    """

    basis: str = "6-31g"
    xc: str = "pbe0"
    charge: int = 0
    spin: int = 0
    dt: float = 0.1
    duration: float = 600.0
    kick: float = 1e-5
    fock: str = "linear"
    max_ev: float = 25.0


def assess(
    path: str,
    wish: Wish,
    *,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Section:
    """The spectrum of a molecule, its lines beside linear response.

    Args:
        path: An .xyz file.
        wish: Basis, functional and the rest.
        folder: Where the runs keep their checkpoint, named as the file; none if not given.
        resume: Whether a checkpoint that is there is gone on from; otherwise it is deleted first.
        progress: Called with a share and a text.

    Returns:
        The section.

    Raises:
        InputError: If something asked breaks its rule.
        SolveError: If the ground state does not converge or a run ends early.
    """
    if wish.dt > 0 and not (math.isfinite(wish.max_ev) and 0 < wish.max_ev < math.pi / wish.dt * HARTREE_EV):
        raise InputError(f"`max_ev` must lie between 0 and π/dt, {math.pi / wish.dt * HARTREE_EV:.0f} eV, got {wish.max_ev:g}")
    say = progress or (lambda share, text: None)
    say(0.0, "ground state")
    molecule = Molecule.from_xyz(path, wish.basis, wish.xc, wish.charge, wish.spin)
    # before the runs: a ground state that is no minimum is not worth them
    count = pairs(molecule)
    response = excitations(molecule) if count <= LIMIT and wish.fock == "linear" else None
    file = None if folder is None else Path(folder, f"{Path(path).stem}.safetensors")
    if file is not None and not resume:
        file.unlink(missing_ok=True)
    runs = respond(
        molecule,
        kicks=[[wish.kick * (k == i) for k in range(3)] for i in range(3)],
        dt=wish.dt,
        duration=wish.duration,
        fock=wish.fock,
        checkpoint=file,
        progress=lambda share, text: say(share, f"kicks along x, y and z: {text}"),
    )
    spectrum = absorption(runs)
    say(1.0, "done")
    return section(path, molecule, runs, spectrum, response, wish)


def section(
    name: str, molecule: Molecule, runs: list[Trajectory], spectrum: Spectrum, response: Excitations | None, wish: Wish
) -> Section:
    """What was found, as a section; see `assess`."""
    peaks = spectrum.peaks(max_ev=wish.max_ev)
    rows = lines(peaks, response, wish.max_ev)
    title = f"Absorption of {molecule.name} ({molecule.xc.upper()}/{molecule.basis})"
    return Section(
        name,
        title,
        summary=_summary(molecule, runs, spectrum, peaks),
        equation="x⁺ = exp(-i·dt·M)·x, M from the last Fock matrices and the one at the predicted end",
        data=name,
        findings=[*_against(rows), _sum(spectrum, response), *_health(runs)],
        figures=[_picture(spectrum, response, wish.max_ev), _dipole(runs)],
        tables=[Table(LINES, ["energy (eV)", "strength", "width (eV)", "linear response (eV)", "its strength"], rows)],
        seconds=sum(run.seconds for run in runs),
    )


def lines(peaks: list[Peak], response: Excitations | None, max_ev: float) -> list[list[float | str | None]]:
    """Each line, beside the excitations of linear response (those within 2 meV together) that it stands for."""
    known = grouped(response, max_ev) if response is not None else []
    rows: list[list[float | str | None]] = []
    for peak in peaks:
        near = min(known, key=lambda pair: abs(pair[0] - peak.energy_ev), default=None)
        if near is None or abs(near[0] - peak.energy_ev) > 0.1:
            rows.append([peak.energy_ev, peak.strength, peak.width_ev, None, None])
        else:
            rows.append([peak.energy_ev, peak.strength, peak.width_ev, *near])
    return rows


def grouped(response: Excitations, max_ev: float, least: float = 1e-4) -> list[tuple[float, float]]:
    """Excitations with strength, those within 2 meV as one: energy in eV and strength."""
    found: list[tuple[float, float]] = []
    for energy, strength in zip(response.energies_ev.tolist(), response.strengths.tolist(), strict=True):
        if energy > max_ev:
            break
        if found and energy - found[-1][0] < 2e-3:
            total = found[-1][1] + strength
            found[-1] = ((found[-1][0] * found[-1][1] + energy * strength) / total if total > 0 else energy, total)
        else:
            found.append((energy, strength))
    return [(energy, strength) for energy, strength in found if strength >= least]


def _against(rows: list[list[float | str | None]]) -> list[Finding]:
    pairs = [
        (abs(e - r), abs(f / g - 1))
        for e, f, _, r, g in rows
        if isinstance(e, float)
        and isinstance(f, float)
        and isinstance(r, float)
        and isinstance(g, float)
        and g > 1e-3
        and r < 20
    ]
    if not pairs:
        return []
    shift, part = max(p[0] for p in pairs) * 1e3, max(p[1] for p in pairs)
    return [
        Finding(
            "spectrum.energies",
            f"Largest distance of the {len(pairs)} lines below 20 eV from linear response",
            "pass" if shift <= 3 else "warn",
            shift,
            0.0,
            "meV",
            "Both linearise the same equation: what is between them is the time step and the length of the signal.",
            "" if shift <= 3 else "take a smaller --dt or a longer --duration",
        ),
        Finding(
            "spectrum.strengths",
            "Largest relative distance of their strengths",
            "pass" if part <= 0.01 else "warn",
            part,
            0.0,
            why="Strengths are absolute, with no scale fitted.",
            fix="" if part <= 0.01 else "take a longer --duration: close lines share their strength",
        ),
    ]


def _sum(spectrum: Spectrum, response: Excitations | None) -> Finding:
    total = spectrum.integral()
    if spectrum.f_sum < _NOTHING:
        why = "No pair of orbitals of this basis has a transition dipole; take a basis with more functions."
        return Finding("spectrum.sum", "Integral of the spectrum: nothing absorbs", "warn", total, spectrum.f_sum, why=why)
    return Finding(
        "spectrum.sum",
        "Integral of the spectrum up to π/dt",
        "pass" if abs(total / spectrum.f_sum - 1) <= 0.01 else "warn",
        total,
        spectrum.f_sum,
        why=f"Theory: the sum of strengths in this basis, from the slope of the dipole at t = 0; {spectrum.electrons} (the "
        "electrons) in a complete one. Passes within a hundredth.",
    )


def _health(runs: list[Trajectory]) -> list[Finding]:
    """The worst of the three runs for each check, and the cost."""
    found = []
    for same in zip(*(run.checks for run in runs), strict=True):
        worst = max(same, key=lambda f: float(f.value) if isinstance(f.value, float) else 0.0)
        found.append(worst)
    steps = sum(run.steps for run in runs)
    builds = sum(run.builds for run in runs) / steps
    found.append(Finding("spectrum.builds", "Fock matrices built a step", "info", builds, 1.0, why=f"{steps} steps in all."))
    return found


def _summary(molecule: Molecule, runs: list[Trajectory], spectrum: Spectrum, peaks: list[Peak]) -> str:
    strongest = max(peaks, key=lambda p: p.strength, default=None)
    told = "no line" if strongest is None else f"{len(peaks)} lines, the strongest at {strongest.energy_ev:.3f} eV"
    seconds = sum(run.seconds for run in runs)
    text = (
        f"{counted(molecule.electrons, 'electron')} in {counted(molecule.n, 'function')}, "
        f"E = {molecule.energy:.6f} hartree; kicked along x, y, z "
        f"and propagated for {spectrum.duration:g} a.u. ({spectrum.duration * 0.0241888:.1f} fs) in {seconds:.0f} s: {told}."
    )
    return text + (
        " For the lines of a small molecule alone linear response is the better tool: it took a moment here. Real time is for "
        "broad spectra of larger ones, strong fields, pulses and what happens in between."
    )


def _picture(spectrum: Spectrum, response: Excitations | None, max_ev: float) -> Figure:
    shown = (spectrum.energy_ev <= max_ev) & (spectrum.energy_ev >= 0)
    stride = max(1, int(shown.sum()) // 2500)
    energy, strength = spectrum.energy_ev[shown][::stride], spectrum.strength[shown][::stride]
    series = [Series("real time", energy.tolist(), strength.tolist(), "line")]
    if response is not None:
        known = grouped(response, max_ev, 1e-3)
        height = 2 / (math.pi * spectrum.width_ev)  # of a Lorentzian of unit area at its top
        series.append(Series("linear response", [e for e, _ in known], [f * height for _, f in known], "points"))
    caption = (
        f"Lines broadened to {spectrum.width_ev:g} eV; points: where linear response puts lines, and how high they are then."
    )
    return Figure("Absorption", "energy (eV)", "strength (1/eV)", series, caption=caption)


def _dipole(runs: list[Trajectory]) -> Figure:
    series = []
    for axis, (letter, run) in enumerate(zip(_AXES, runs, strict=True)):
        until = run.t <= 100
        change = (run.dipole[until, axis] - run.dipole[0, axis])[::2]
        series.append(Series(f"along {letter}", run.t[until][::2].tolist(), change.tolist()))
    return Figure(
        "Dipole after a kick",
        "t (a.u.)",
        "μ(t) - μ(0) (a.u.)",
        series,
        caption="The first 100 a.u. along the direction kicked.",
    )
