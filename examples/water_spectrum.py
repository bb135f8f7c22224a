"""The absorption spectrum of water from three kicks in real time, its lines beside linear response; needs no PySCF.

Expected: the five bright lines below 20 eV lie within 3 meV of linear response, their strengths within 1 %; some seconds.
"""

from __future__ import annotations

import sys

from residyn.quantum import AdamsMagnus, Molecule, absorption, excitations, respond, stability


def main() -> int:
    """Kick, propagate, compare; 0 if it is right."""
    water = Molecule.fixture("h2o")
    sys.stdout.write(f"{stability(water, AdamsMagnus(), dt=0.1).advice}\n")
    spectrum = absorption(respond(water, dt=0.1, duration=300))
    known, peaks, worst, part = excitations(water), spectrum.peaks(), 0.0, 0.0
    for energy, strength in zip(known.energies_ev.tolist(), known.strengths.tolist(), strict=True):
        if energy < 20 and strength > 1e-3:
            line = min(peaks, key=lambda p: abs(p.energy_ev - energy))
            sys.stdout.write(f"{line.energy_ev:8.4f} eV, strength {line.strength:.4f}; {energy:8.4f}, {strength:.4f}\n")
            worst, part = max(worst, 1e3 * abs(line.energy_ev - energy)), max(part, abs(line.strength / strength - 1))
    sys.stdout.write(f"largest distance {worst:.3f} meV (expected below 3), of strengths {part:.1e} (expected below 1e-2)\n")
    return 0 if worst < 3 and part < 0.01 else 1


if __name__ == "__main__":
    raise SystemExit(main())
