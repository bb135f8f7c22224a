"""The disulfide bonds a structure has: by geometry, beside those its file states."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from residyn.protein.energy import design_energy, dihedral_strain
from residyn.protein.geometry import angle, torsion
from residyn.protein.structure import Floats, Residue, Structure, Sulfur

BONDED = (1.7, 2.5)
"""Sγ–Sγ distances of a bond, Å; 2.04 is ideal, and Se–S and Se–Se bonds (2.2, 2.3) lie inside."""
LONG = 3.0
"""Å; an annotated or lone pair up to here is a bond that is drawn too long."""

MERGED = 1.0
"""Å; atoms nearer than this are copies of each other, and no pair."""

Status = Literal["annotated", "extra", "long", "short", "missing"]


@dataclass(frozen=True)
class Disulfide:
    """A disulfide bond.

    Args:
        a: The end that comes first in the file.
        b: The other.
        status: `"annotated"` (geometry and file agree), `"extra"` (found, not stated by the file), `"long"` (2.5 to 3 Å),
            `"short"` (below 1.7 Å), or `"missing"` (stated, but the atoms are not there or too far apart).
        distance: Sγ–Sγ, Å; nan where an atom is missing.
        conformer: Label of the conformer that has it; empty where there is one only.
        symmetry: Operator that makes the mate the second end lies in, such as `"2_655"`; empty for none.
        chi1: N–Cα–Cβ–Sγ at both ends, degrees.
        chi2: Cα–Cβ–Sγ–Sγ at both ends, degrees.
        chi3: Cβ–Sγ–Sγ–Cβ, degrees.
        theta: Cα–Cβ–Sγ at both ends, degrees.
        length: Bonds of the chain between the ends; `None` between chains or symmetry mates, where no loop is closed.
        annotated: Whether the file states it.
    """

    a: Residue
    b: Residue
    status: Status
    distance: float
    conformer: str = ""
    symmetry: str = ""
    chi1: tuple[float, float] = (math.nan, math.nan)
    chi2: tuple[float, float] = (math.nan, math.nan)
    chi3: float = math.nan
    theta: tuple[float, float] = (math.nan, math.nan)
    length: int | None = None
    annotated: bool = True

    @property
    def present(self) -> bool:
        """Whether the atoms are where a bond needs them."""
        return self.status in ("annotated", "extra")

    @property
    def bonded(self) -> bool:
        """Whether to count on it: present, or drawn too short, or stated and drawn too long."""
        return self.present or self.status == "short" or (self.status == "long" and self.annotated)

    @property
    def interchain(self) -> bool:
        """Whether it joins two chains, or a chain to its symmetry mate."""
        return self.a.chain != self.b.chain or bool(self.symmetry)

    @property
    def energy(self) -> float:
        """Energy by `design_energy`, kcal/mol; nan where an angle is missing."""
        return float(design_energy(np.array(self.chi1), np.array(self.chi3), np.array(self.theta)))

    @property
    def strain(self) -> float:
        """Energy by `dihedral_strain`, kcal/mol; nan where an angle is missing."""
        return float(dihedral_strain(np.array(self.chi1), np.array(self.chi2), np.array(self.chi3)))

    def __str__(self) -> str:
        return f"{self.a}–{self.b}"


def find_disulfides(structure: Structure) -> list[Disulfide]:
    """The disulfide bonds of a structure: Sγ–Sγ within 1.7–2.5 Å in one conformer, beside what the file states.

    Sulfurs of different alternative conformers never bond. A sulfur has one partner: the one of the likelier conformer, or else
    the nearer. Bonds to symmetry mates are looked for where the file gives a unit cell.

    Args:
        structure: The protein.

    Returns:
        The bonds in file order, each with its status, torsions and strain; those stated but not found come with status
        `"missing"`.

    Reference:
        The ideal bond: Engh & Huber (1991), doi:10.1107/S0108767391001071.
    """
    stated = {(_key(x.a, x.b), x.symmetry): x for x in structure.annotations}
    found: list[Disulfide] = []
    for s, t, distance in _nearest(structure.sulfurs):
        key = (_key(structure.residues[s.residue], structure.residues[t.residue]), False)
        if distance <= BONDED[1] or key in stated or _alone(s, t, found, structure):
            found.append(_measured(structure, s, t, distance, key in stated))
            stated.pop(key, None)
    for mate in _mates(structure):
        key = (_key(mate.a, mate.b), True)
        found.append(replace(mate, status="annotated", annotated=True) if key in stated else mate)
        stated.pop(key, None)
    found += [_missing(structure, x.a, x.b, x.symmetry) for x in stated.values()]
    place = {residue: k for k, residue in enumerate(structure.residues)}
    return sorted(found, key=lambda x: (place.get(x.a, len(place)), place.get(x.b, len(place))))


def _key(a: Residue, b: Residue) -> frozenset[Residue]:
    return frozenset((a, b))


def _nearest(sulfurs: tuple[Sulfur, ...]) -> Iterator[tuple[Sulfur, Sulfur, float]]:
    """Pairs within `LONG`: bonds first, the likelier conformer before the nearer; a residue has one partner a conformer."""
    if len(sulfurs) < 2:
        return
    xyz = np.array([s.position for s in sulfurs])
    pairs = cKDTree(xyz).query_pairs(LONG, output_type="ndarray")
    distance = np.linalg.norm(xyz[pairs[:, 0]] - xyz[pairs[:, 1]], axis=1)
    taken: set[tuple[int, str]] = set()
    joined: set[tuple[int, int]] = set()
    for k in np.lexsort((distance, -_shared(sulfurs, pairs), distance > BONDED[1])):
        s, t = (sulfurs[i] for i in pairs[k])
        labels = {s.conformer, t.conformer} - {""}
        ends = {(s.residue, s.conformer), (t.residue, t.conformer)}
        copies = s.residue == t.residue or distance[k] < MERGED
        if copies or len(labels) > 1 or taken & ends or (s.residue, t.residue) in joined:
            continue
        taken |= ends
        joined.add((s.residue, t.residue))
        yield s, t, float(distance[k])


def _shared(sulfurs: tuple[Sulfur, ...], pairs: np.ndarray) -> Floats:
    """Occupancy that both ends of each pair have."""
    occupancy = np.array([s.occupancy for s in sulfurs])
    return np.minimum(occupancy[pairs[:, 0]], occupancy[pairs[:, 1]])


def _alone(s: Sulfur, t: Sulfur, found: list[Disulfide], structure: Structure) -> bool:
    """Whether neither residue has a bond already."""
    ends = {structure.residues[s.residue], structure.residues[t.residue]}
    return not any(ends & {bond.a, bond.b} for bond in found)


def _measured(structure: Structure, s: Sulfur, t: Sulfur, distance: float, stated: bool) -> Disulfide:
    """A bond with its torsions."""
    if (s.residue, s.conformer) > (t.residue, t.conformer):
        s, t = t, s
    a, b = structure.residues[s.residue], structure.residues[t.residue]
    status: Status = "annotated" if stated else "extra"
    if not BONDED[0] <= distance <= BONDED[1]:
        status = "long" if distance > BONDED[1] else "short"
    same = a.chain == b.chain
    length = int(abs(structure.position[t.residue] - structure.position[s.residue])) if same else None
    return Disulfide(a, b, status, distance, s.conformer or t.conformer, "", *_torsions(s, t), length, stated)


def _torsions(s: Sulfur, t: Sulfur) -> tuple[tuple[float, float], tuple[float, float], float, tuple[float, float]]:
    """χ1, χ2, χ3 and θ."""
    chains = [
        (s.nitrogen, s.alpha, s.beta, s.position),
        (t.nitrogen, t.alpha, t.beta, t.position),
        (s.alpha, s.beta, s.position, t.position),
        (t.alpha, t.beta, t.position, s.position),
        (s.beta, s.position, t.position, t.beta),
    ]
    atoms = np.array(chains)  # (5, 4, 3); nan where an atom is missing
    turns = torsion(*atoms.transpose(1, 0, 2)).tolist()
    bends = angle(*atoms[:2, 1:].transpose(1, 0, 2)).tolist()
    return (turns[0], turns[1]), (turns[2], turns[3]), turns[4], (bends[0], bends[1])


def _mates(structure: Structure) -> Iterator[Disulfide]:
    """Bonds between a sulfur and one of a symmetry mate."""
    model = structure.model
    if model is None or not structure.sulfurs or not model.cell.is_crystal():
        return
    import gemmi

    for i, s in enumerate(structure.sulfurs):
        for t in structure.sulfurs[i:]:
            if len({s.conformer, t.conformer} - {""}) > 1:
                continue
            near = model.cell.find_nearest_image(gemmi.Position(*s.position), gemmi.Position(*t.position), gemmi.Asu.Different)
            if BONDED[0] <= near.dist() <= BONDED[1]:
                a, b = structure.residues[s.residue], structure.residues[t.residue]
                yield Disulfide(
                    a, b, "extra", float(near.dist()), s.conformer or t.conformer, near.symmetry_code(True), annotated=False
                )


def _missing(structure: Structure, a: Residue, b: Residue, symmetry: bool) -> Disulfide:
    """A stated bond that geometry does not show, with the distance of its sulfurs where both are there."""
    own = {end: [s for s in structure.sulfurs if structure.residues[s.residue] == end] for end in (a, b)}
    gaps = [float(np.linalg.norm(s.position - t.position)) for s in own[a] for t in own[b]] if not symmetry else []
    place = {residue: k for k, residue in enumerate(structure.residues)}
    known = a in place and b in place and a.chain == b.chain and not symmetry
    length = int(abs(structure.position[place[a]] - structure.position[place[b]])) if known else None
    return Disulfide(a, b, "missing", min(gaps, default=math.nan), symmetry="?" if symmetry else "", length=length)
