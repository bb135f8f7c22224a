"""Alternative locations: one label for the whole model, so that atoms which were never there together are not mixed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from residyn.protein.structure import Floats

# Names of force fields that the table of chemical components does not hold, all of them amino acids.
_ALIASES = frozenset("CYX CYM CYN HID HIE HIP HSD HSE HSP ASH GLH LYN LYP ARN TYM CYS2 CYSH".split())


@dataclass(frozen=True)
class Group:
    """All residues of a file that share one place in the chain: one, or several where the sequence itself varies."""

    members: list[Any] = field(default_factory=list)

    @property
    def protein(self) -> bool:
        """Whether it is an amino acid of a chain, and no ligand or water."""
        return any(amino_acid(residue) for residue in self.members)

    def residue(self, label: str) -> Any:
        """The residue of the conformer `label`, or the likeliest one where that conformer is not described."""
        if len(self.members) == 1:
            return self.members[0]
        return max(self.members, key=lambda r: (any(a.altloc == label for a in r), sum(a.occ for a in r), -ord(r.name[0])))

    def atoms(self, label: str) -> dict[str, Any]:
        """Atoms by name: unlabelled ones and those of `label`; where it has none, those of the likeliest other label."""
        return _atoms(self.residue(label), label)

    def conformers(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each label of this group with its atoms."""
        for residue in self.members:
            labels = sorted({atom.altloc for atom in residue if atom.altloc != "\0"})
            for label in labels or [""]:
                yield label, _atoms(residue, label)


def groups(chain: Any) -> Iterator[Group]:
    """The places of a chain in file order."""
    current: list[Any] = []
    for residue in chain:
        if current and residue.seqid != current[0].seqid:
            yield Group(current)
            current = []
        current.append(residue)
    if current:
        yield Group(current)


def chosen_label(model: Any) -> str:
    """The label with the largest occupancy in all; the first by name if several share it; empty if there are none."""
    weight: dict[str, float] = defaultdict(float)
    for chain in model:
        for residue in chain:
            for atom in residue:
                if atom.altloc != "\0":
                    weight[atom.altloc] += atom.occ
    return min(weight, key=lambda label: (-round(weight[label], 3), label), default="")


def nothing() -> Floats:
    """Coordinates of an atom that is not there."""
    return np.full(3, np.nan)


def amino_acid(residue: Any) -> bool:
    """Whether a gemmi residue is an amino acid of a chain: by name, or by a backbone where the name says nothing."""
    import gemmi

    if residue.entity_type == gemmi.EntityType.NonPolymer and residue.het_flag == "H":
        return False
    known = gemmi.find_tabulated_residue(residue.name)
    if known.is_amino_acid() or residue.name.upper() in _ALIASES:
        return any(atom.name == "CA" for atom in residue) or any(atom.name == "N" for atom in residue)
    if known.is_water() or known.is_nucleic_acid():
        return False
    return {"N", "CA", "C"} <= {atom.name for atom in residue}


def _atoms(residue: Any, label: str) -> dict[str, Any]:
    """One atom a name: unlabelled or of `label` first, then by occupancy, then by label."""
    best: dict[str, Any] = {}
    for atom in residue:
        if atom.element.name in ("H", "D") or not np.isfinite(atom.pos.x + atom.pos.y + atom.pos.z):
            continue
        before = best.get(atom.name)
        if before is None or _rank(atom, label) < _rank(before, label):
            best[atom.name] = atom
    return best


def _rank(atom: Any, label: str) -> tuple[bool, float, str]:
    return (atom.altloc not in ("\0", label), -atom.occ, atom.altloc)
