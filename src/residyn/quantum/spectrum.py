"""From dipoles after kicks to absolute absorption spectra: S(E) with ∫S dE = Σf, and the lines in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from residyn.display import table
from residyn.errors import InputError
from residyn.quantum.inversion import harmonic_inversion
from residyn.quantum.pade import fourier, pade
from residyn.quantum.response import HARTREE_EV
from residyn.quantum.threads import threads_for
from residyn.quantum.trajectory import Trajectory

Method = Literal["pade", "fft"]
_DECAY = 0.02
"""hartree; a wave that decays faster is no line of a molecule, unless an absorber acts."""
_ERROR = 1e-3
"""How far U⁽²⁾ may miss the square of an eigenvalue of U⁽¹⁾."""


@dataclass(frozen=True)
class Peak:
    """A line.

    Args:
        energy_ev: Excitation energy.
        strength: Oscillator strength of the directions that were kicked (all three: the isotropic one).
        width_ev: Full width at half maximum: that of the line itself, about 0 for a bound state.
    """

    energy_ev: float
    strength: float
    width_ev: float


@dataclass(frozen=True)
class Spectrum:
    """The dipole strength function S(E), 1/eV, whose integral is the sum of oscillator strengths.

    Args:
        energy_ev: Energies, evenly spaced from 0, `(n,)`.
        strength: S at them, `(n,)`, every line broadened to `width_ev`.
        width_ev: Full width at half maximum of the Lorentzian that multiplies out the end of the signal.
        method: `"pade"` or `"fft"`.
        directions: How many directions were kicked; 3 gives the isotropic spectrum.
        electrons: What Σf is in a complete basis.
        f_sum: Σf of this basis, exactly, from the slope of the dipole after the kick.
        dt: Time step, atomic units.
        duration: Length of the signal, atomic units.
        signals: The polarisability α(t) along each direction, `(directions, N + 1)`, atomic units.
        absorbing: Whether lines may have widths of their own.
    """

    energy_ev: Tensor
    strength: Tensor
    width_ev: float
    method: str
    directions: int
    electrons: int
    f_sum: float
    dt: float
    duration: float
    signals: Tensor = field(repr=False)
    absorbing: bool = False

    def _repr_html_(self) -> str:
        rows: list[tuple[object, ...]] = [(peak.energy_ev, peak.strength, peak.width_ev) for peak in self.peaks(max_ev=30.0)]
        note = f"lines up to 30 eV; Σf {self.f_sum:.4g} of {self.electrons} electrons"
        return table("Absorption spectrum", ["energy, eV", "oscillator strength", "width, eV"], rows, note)

    def peaks(self, *, min_strength: float = 1e-4, max_ev: float = 60.0) -> list[Peak]:
        """The lines, by harmonic inversion of each direction's signal: far below the resolution of its Fourier transform.

        What several directions see within a fiftieth of that resolution is one line.

        Args:
            min_strength: Least oscillator strength.
            max_ev: Up to which energy.

        Returns:
            The lines, by energy.
        """
        high = min(max_ev / HARTREE_EV, 0.98 * math.pi / self.dt)
        found: list[Peak] = []
        with threads_for(0):
            for signal in self.signals:
                found += self._lines(signal, high, min_strength / 10)
        merged = _merge(found, 0.02 * 2 * math.pi / self.duration * HARTREE_EV)
        return [peak for peak in merged if peak.strength >= min_strength]

    def _lines(self, signal: Tensor, high: float, min_strength: float) -> list[Peak]:
        """Those of one direction."""
        found = []
        for omega, decay, amplitude, error in zip(*harmonic_inversion(signal.numpy(), self.dt, 1e-3, high), strict=True):
            strength = 2.0 / 3.0 * omega * amplitude.imag
            real = abs(amplitude.real) < max(0.2 * amplitude.imag, 0.0) or self.absorbing
            steady = abs(decay) < _DECAY or (self.absorbing and decay > 0)
            if strength >= min_strength and real and steady and error < _ERROR:
                found.append(Peak(float(omega * HARTREE_EV), float(strength), float(max(2 * decay * HARTREE_EV, 0.0))))
        return found

    def integral(self, low_ev: float = 0.0, high_ev: float = math.inf) -> float:
        """∫S dE over a range by the trapezoidal rule: the oscillator strength in it."""
        inside = (self.energy_ev >= low_ev) & (self.energy_ev <= high_ev)
        return float(torch.trapezoid(self.strength[inside], self.energy_ev[inside]))


def absorption(
    trajectories: Trajectory | Sequence[Trajectory],
    *,
    method: Method = "pade",
    width_ev: float | None = None,
    max_ev: float | None = None,
    spacing_ev: float = 0.01,
) -> Spectrum:
    """The absolute absorption spectrum from trajectories after kicks.

    With κ̂ the direction of a kick, α(t) = -κ̂·(μ(t) - μ(0))/κ, and S(ω) = (2ω/3π)·Σ Im ∫α(t)·e^{iωt} dt over the
    directions kicked, so that three of them at right angles give ∫S = Σf.

    Args:
        trajectories: One to three, of one molecule, kicked along directions at right angles, without a pulse.
        method: `"pade"` or `"fft"`.
        width_ev: Width of the lines; if not given, 0.1 eV for `"pade"` and what the duration resolves, e^(-γT) = 1/100, for
            `"fft"`.
        max_ev: Up to which energy; if not given, up to π/dt.
        spacing_ev: Of the energies.

    Returns:
        The spectrum.

    Raises:
        InputError: If the trajectories do not belong together.

    >>> from residyn.quantum import Molecule, propagate
    >>> run = propagate(Molecule.fixture("h2"), dt=0.1, duration=100.0, kick=(0, 0, 1e-4))
    >>> round(absorption(run).peaks()[0].energy_ev, 2)
    15.02
    """
    runs = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    kicks = _kicks(runs)
    if method not in ("pade", "fft"):
        raise InputError(f"`method` must be pade or fft, got {method!r}")
    first = runs[0]
    alphas = []
    slope = 0.0
    for run, kick in zip(runs, kicks, strict=True):
        size = float(kick.norm())
        alphas.append(-(run.dipole - run.dipole[0]) @ kick / size**2)
        slope -= float(run.slope @ kick) / size**2
    duration = float(first.t[-1])
    matched = 2 * math.log(100.0) / duration * HARTREE_EV
    width = (0.1 if method == "pade" else matched) if width_ev is None else float(width_ev)
    if not (width > 0 and spacing_ev > 0 and (max_ev is None or max_ev > 0)):
        raise InputError(f"`width_ev`, `spacing_ev` and `max_ev` must be > 0, got {width_ev!r}, {spacing_ev!r}, {max_ev!r}")
    top = math.pi / first.dt * HARTREE_EV
    count = int(min(top, max_ev or top) / spacing_ev) + 1
    energy = np.arange(count) * spacing_ev
    damped = torch.stack(alphas).sum(0).numpy() * np.exp(-0.5 * width / HARTREE_EV * first.t.numpy())
    with threads_for(0):
        transform = (pade if method == "pade" else fourier)(damped, first.dt, energy / HARTREE_EV)
    strength = 2 / (3 * math.pi) * energy / HARTREE_EV * transform.imag / HARTREE_EV
    return Spectrum(
        torch.from_numpy(energy),
        torch.from_numpy(strength),
        width,
        method,
        len(runs),
        first.electrons,
        slope / 3,
        first.dt,
        duration,
        torch.stack(alphas),
        any(float(run.norm[-1]) < 1 - 1e-6 for run in runs),
    )


def richardson(coarse: Spectrum, fine: Spectrum, *, order: int = 2, max_ev: float = 60.0) -> list[Peak]:
    """Lines extrapolated to dt → 0 from spectra at two time steps, E = E_fine + (E_fine - E_coarse)/(r^order - 1).

    Args:
        coarse: At the longer step.
        fine: At the shorter one; r is the ratio of the two.
        order: Order of the scheme: 2, or 4 for the default one.
        max_ev: Up to which energy.

    Returns:
        The lines of the fine spectrum that have a partner in the coarse one; the others as they are.

    Raises:
        InputError: If the steps are not in this order.
    """
    ratio = coarse.dt / fine.dt
    if ratio <= 1.0001 or order < 1:
        raise InputError(f"`coarse` must have the longer time step, got {coarse.dt:g} beside {fine.dt:g}")
    partners = coarse.peaks(max_ev=max_ev)
    gain = 1 / (ratio**order - 1)
    found = []
    for peak in fine.peaks(max_ev=max_ev):
        near = min(partners, key=lambda p: abs(p.energy_ev - peak.energy_ev), default=None)
        alike = near is not None and abs(near.energy_ev - peak.energy_ev) < 0.3 and 0.5 < near.strength / peak.strength < 2
        if near is None or not alike:
            found.append(peak)
            continue
        energy = peak.energy_ev + gain * (peak.energy_ev - near.energy_ev)
        found.append(replace(peak, energy_ev=energy, strength=peak.strength + gain * (peak.strength - near.strength)))
    return found


def _merge(peaks: list[Peak], within_ev: float) -> list[Peak]:
    """Lines closer than a limit as one, at the mean energy by strength, by energy."""
    groups: list[list[Peak]] = []
    for peak in sorted(peaks, key=lambda p: p.energy_ev):
        if groups and peak.energy_ev - groups[-1][-1].energy_ev < within_ev:
            groups[-1].append(peak)
        else:
            groups.append([peak])
    found = []
    for group in groups:
        total = sum(p.strength for p in group)
        mean = (sum(getattr(p, name) * p.strength for p in group) / total for name in ("energy_ev", "width_ev"))
        energy, width = mean
        found.append(Peak(energy, total, width))
    return found


def _kicks(runs: list[Trajectory]) -> list[Tensor]:
    """The kicks, checked to belong together."""
    if not 1 <= len(runs) <= 3 or not all(isinstance(run, Trajectory) for run in runs):
        raise InputError(f"`trajectories` must be one to three trajectories, got {len(runs)}; kick along x, y and z")
    kicks = []
    for run in runs:
        if run.kick is None or not float(run.kick.norm()) or run.driven:
            raise InputError("`trajectories` must be of kicked molecules without a pulse; pass kick=(1e-4, 0, 0)")
        kicks.append(run.kick)
    first = runs[0]
    for run in runs[1:]:
        if run.dt != first.dt or len(run.t) != len(first.t) or run.molecule != first.molecule:
            raise InputError(
                f"`trajectories` must have one molecule, dt and duration, got {run.molecule} at {run.dt:g} for "
                f"{float(run.t[-1]):g} beside {first.molecule} at {first.dt:g} for {float(first.t[-1]):g}"
            )
    if len(first.t) < 20:
        raise InputError(f"`trajectories` must have at least 20 times, got {len(first.t)}; propagate for longer")
    unit = torch.stack([kick / kick.norm() for kick in kicks])
    if float((unit @ unit.T - torch.eye(len(unit), dtype=torch.float64)).abs().max()) > 1e-6:
        raise InputError("`trajectories` must be kicked along directions at right angles, got others; kick along x, y and z")
    return kicks
