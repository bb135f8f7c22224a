"""The outcome of a scan: rows on demand, the reason for every pair that is not among them, and sets that go together."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from residyn.display import table
from residyn.errors import InputError
from residyn.protein.bonds import Disulfide
from residyn.protein.energy import dihedral_strain
from residyn.protein.entropy import loop_entropy
from residyn.protein.geometry import torsion
from residyn.protein.network import GNM_CUTOFF
from residyn.protein.rotation import Bridge
from residyn.protein.structure import Floats, Ints, Residue, Structure


@dataclass(frozen=True)
class Sites:
    """What a scan knows of each residue, `(n,)` each.

    Args:
        usable: Whether N, Cα, C are there and a Cβ is or can be placed.
        excluded: Whether the user wants it left alone.
        partner: Index of the residue it is bonded to; -1 for none.
        closed: Bonds within a chain that are there, `(k, 2)`.
        proline: Whether it is one.
        glycine: Whether it is one.
        left: Whether φ is positive, where any residue but glycine is strained.
        window: Cβ–Cβ distances that were looked at, Å.
    """

    usable: np.ndarray
    excluded: np.ndarray
    partner: Ints
    closed: Ints
    proline: np.ndarray
    glycine: np.ndarray
    left: np.ndarray
    window: tuple[float, float]


@dataclass(frozen=True)
class Candidate:
    """One row: a disulfide that could be made, or one that is there.

    Args:
        rank: From 1.
        a: One residue.
        b: The other.
        distance: Cβ–Cβ as it stands, Å.
        built: Cβ–Cβ of the bridge, Å; differs where the backbone has to move.
        chi1: N–Cα–Cβ–Sγ at both ends, degrees.
        chi3: Cβ–Sγ–Sγ–Cβ, degrees.
        theta: Cα–Cβ–Sγ at both ends, degrees.
        strain: Energy of the bridge by Disulfide by Design's function, kcal/mol.
        dihedral: The same by the dihedral strain function, kcal/mol.
        closing: Elastic cost of the change of distance, kcal/mol.
        length: Chain bonds in its loop; `None` between chains.
        entropy: ΔS of the loop given the bonds there are, cal/mol/K; `None` between chains.
        gain: -T·ΔS, kcal/mol; `None` between chains.
        net: gain - strain - closing, kcal/mol: a score to rank by; `None` between chains.
        existing: Whether the bond is there already.
        warnings: What a designer should look at.
    """

    rank: int
    a: Residue
    b: Residue
    distance: float
    built: float
    chi1: tuple[float, float]
    chi3: float
    theta: tuple[float, float]
    strain: float
    dihedral: float
    closing: float
    length: int | None
    entropy: float | None
    gain: float | None
    net: float | None
    existing: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def pair(self) -> tuple[int, int]:
        """The two residue numbers."""
        return (self.a.number, self.b.number)

    def __str__(self) -> str:
        return f"{self.a}–{self.b}"


@dataclass(frozen=True)
class Pick:
    """One of a set of bonds that go together.

    Args:
        candidate: The row.
        gain: -T·ΔS on top of the bonds there are and those picked before, kcal/mol.
        net: gain - strain - closing, kcal/mol.
    """

    candidate: Candidate
    gain: float
    net: float


@dataclass(frozen=True)
class Scan:
    """The table of a scan, best first: `len`, iteration and `[k]` give `Candidate`s; `why` answers for every other pair.

    Args:
        structure: What was scanned.
        bonds: The disulfides there are.
        sites: What is known of each residue.
        pairs: Indices of the residues of each row, `(m, 2)`.
        bridge: The best bridge of each row.
        length: Chain bonds in each loop; nan between chains.
        entropy: ΔS, cal/mol/K.
        gain: -T·ΔS, kcal/mol.
        flexible: Whether the backbone could move.
        stiffness: g.
        temperature: T, K.
        max_strain: Limit on strain, kcal/mol.
        notes: What the reader should know, such as why the table is empty.
        picks: The set chosen, in the order of choice.
    """

    structure: Structure = field(repr=False)
    bonds: tuple[Disulfide, ...]
    sites: Sites = field(repr=False)
    pairs: Ints = field(repr=False)
    bridge: Bridge = field(repr=False)
    length: Floats = field(repr=False)
    entropy: Floats = field(repr=False)
    gain: Floats = field(repr=False)
    flexible: bool
    stiffness: float
    temperature: float
    max_strain: float
    notes: tuple[str, ...] = ()
    picks: tuple[Pick, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def _repr_html_(self) -> str:
        rows = [(c.rank, str(c.a), str(c.b), c.distance, c.strain, c.entropy, c.net) for c in islice(self, 13)]
        title = f"{len(self)} pairs that could be bonded, {len(self.bonds)} bonds that are there"
        return table(title, ["rank", "residue", "residue", "Cβ–Cβ, Å", "strain", "ΔS", "net"], rows, "; ".join(self.notes))

    def __iter__(self) -> Iterator[Candidate]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> Candidate:
        k = range(len(self))[k]
        i, j = (int(v) for v in self.pairs[k])
        beta = self.structure.atoms["CB"]
        loop = not math.isnan(self.length[k])
        strain, closing, gain = float(self.bridge.energy[k]), float(self.bridge.closing[k]), float(self.gain[k])
        chi1, theta = (tuple(float(v) for v in values[k]) for values in (self.bridge.chi1, self.bridge.theta))
        return Candidate(
            rank=k + 1,
            a=self.structure.residues[i],
            b=self.structure.residues[j],
            distance=float(np.linalg.norm(beta[i] - beta[j])),
            built=float(self.bridge.distance[k]),
            chi1=(chi1[0], chi1[1]),
            chi3=float(self.bridge.chi3[k]),
            theta=(theta[0], theta[1]),
            strain=strain,
            dihedral=self._dihedral(k),
            closing=closing,
            length=int(self.length[k]) if loop else None,
            entropy=float(self.entropy[k]) if loop else None,
            gain=gain if loop else None,
            net=gain - strain - closing if loop else None,
            existing=bool(self.sites.partner[i] == j),
            warnings=self._warnings(i, j),
        )

    @property
    def rows(self) -> list[Candidate]:
        """All rows."""
        return list(self)

    def rank(self, a: Residue | str | int, b: Residue | str | int) -> int | None:
        """Rank of a pair, from 1; `None` if it was rejected.

        Args:
            a: One residue, as `Structure.index` takes it.
            b: The other.

        Returns:
            Its rank.
        """
        i, j = sorted((self.structure.index(a), self.structure.index(b)))
        found = np.flatnonzero((self.pairs == (i, j)).all(axis=1))
        return int(found[0]) + 1 if len(found) else None

    def why(self, a: Residue | str | int, b: Residue | str | int) -> str:
        """Why a pair stands where it does, or why it was rejected.

        Args:
            a: One residue, as `Structure.index` takes it.
            b: The other.

        Returns:
            One line.
        """
        rank = self.rank(a, b)
        if rank is None:
            return self._rejection(*sorted((self.structure.index(a), self.structure.index(b))))
        row = self[rank - 1]
        loop = "between chains no loop is closed" if row.gain is None else f"a loop of {row.length} gains {row.gain:.2f}"
        text = f"rank {rank} of {len(self)}: {loop}, strain costs {row.strain:.2f}, closing {row.closing:.2f} kcal/mol"
        return "; ".join([text, *row.warnings])

    def _rejection(self, i: int, j: int) -> str:
        sites, names = self.sites, self.structure.residues
        if i == j:
            return f"{names[i]} is one residue; a bond needs two"
        for k in (i, j):
            if sites.excluded[k]:
                return f"{names[k]} is excluded"
            if not sites.usable[k]:
                return f"{names[k]} lacks backbone atoms (N, Cα, C), so that no Cβ can be placed"
        for k, other in ((i, j), (j, i)):
            if sites.partner[k] >= 0 and sites.partner[k] != other:
                return f"{names[k]} is bonded to {names[sites.partner[k]]} already; a cysteine has one partner"
        place = self.structure.position
        if names[i].chain == names[j].chain and abs(place[i] - place[j]) < 2:
            return f"{names[i]} and {names[j]} are neighbours in the chain"
        distance = float(np.linalg.norm(self.structure.atoms["CB"][i] - self.structure.atoms["CB"][j]))
        low, high = sites.window
        if not low <= distance <= high:
            return f"Cβ–Cβ is {distance:.2f} Å, outside {low:g}–{high:g} Å"
        if float(np.linalg.norm(self.structure.atoms["CA"][i] - self.structure.atoms["CA"][j])) > GNM_CUTOFF:
            return f"the Cα are more than {GNM_CUTOFF:g} Å apart"
        return f"at {distance:.2f} Å every bridge is strained by more than {self.max_strain:g} kcal/mol, or too costly to close"

    def picked(self, k: int) -> Scan:
        """Choose k bonds that go together: one after the other, the one with the largest net given all before.

        The gain of each is its marginal log-determinant, so that a bond inside a loop that is closed already gains less.

        Args:
            k: How many.

        Returns:
            This table with `picks`.

        Raises:
            InputError: If `k` is below 1 or more than go together.
        """
        if k < 1:
            raise InputError(f"`pick` must be at least 1, got {k}; leave it out to choose none")
        sites, place = self.sites, self.structure.position.astype(np.float64)
        chain = self.structure.chain_index
        free = np.isfinite(self.gain) & (sites.partner[self.pairs[:, 0]] < 0)
        closed = [tuple(pair) for pair in sites.closed.tolist()]
        cost = self.bridge.energy + self.bridge.closing
        picks: list[Pick] = []
        while len(picks) < k:
            if not free.any():
                raise InputError(f"`pick` must be at most {len(picks)}, the bonds that go together here, got {k}")
            gain = np.full(len(self), -np.inf)
            for number in set(chain[self.pairs[free, 0]].tolist()):
                own = free & (chain[self.pairs[:, 0]] == number)
                known = torch.tensor([[place[a], place[b]] for a, b in closed if chain[a] == number], dtype=torch.float64)
                bonds = torch.from_numpy(place[self.pairs[own]]).unsqueeze(1)  # a batch of single bonds
                given = loop_entropy(
                    bonds, stiffness=self.stiffness, contacts=known.reshape(-1, 2), contact_stiffness=self.stiffness
                )
                gain[own] = -self.temperature * given.numpy() / 1000
            best = int(np.argmax(gain - cost))
            picks.append(Pick(self[best], float(gain[best]), float(gain[best] - cost[best])))
            i, j = (int(v) for v in self.pairs[best])
            closed.append((i, j))
            free &= ~np.isin(self.pairs, (i, j)).any(axis=1)
        return replace(self, picks=tuple(picks))

    def to_dicts(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Rows as plain values, for JSON and tables.

        Args:
            limit: Only so many.

        Returns:
            One dictionary a row; residues as addresses with their names.
        """
        rows = []
        for k in range(len(self) if limit is None else min(limit, len(self))):
            row = self[k]
            plain = asdict(row)
            plain |= {
                "a": str(row.a),
                "b": str(row.b),
                "name_a": row.a.name,
                "name_b": row.b.name,
                "warnings": list(row.warnings),
            }
            rows.append(plain)
        return rows

    def to_csv(self) -> str:
        """The whole table as CSV text, one row a line."""
        page = io.StringIO()
        out = csv.writer(page, lineterminator="\n")
        heads = (
            "rank a name_a b name_b existing net gain strain closing dihedral length entropy distance built "
            "chi1_a chi1_b chi3 theta_a theta_b warnings"
        ).split()
        out.writerow(heads)
        for row in self.to_dicts():
            row["chi1_a"], row["chi1_b"] = row["chi1"]
            row["theta_a"], row["theta_b"] = row["theta"]
            row["warnings"] = "; ".join(row["warnings"])
            cells = [row[head] for head in heads]
            out.writerow([f"{cell:.4f}" if isinstance(cell, float) else "n/a" if cell is None else cell for cell in cells])
        return page.getvalue()

    def _dihedral(self, k: int) -> float:
        i, j = self.pairs[k]
        alpha, beta = self.structure.atoms["CA"], self.structure.atoms["CB"]
        start, stop = beta[i], beta[j]
        away = stop - start
        stop = start + away * (self.bridge.distance[k] / np.linalg.norm(away))
        s, t = start + self.bridge.sulfurs[k, 0], stop + self.bridge.sulfurs[k, 1]
        chi2 = np.array([torsion(alpha[i], start, s, t), torsion(alpha[j] + stop - beta[j], stop, t, s)])
        return float(dihedral_strain(self.bridge.chi1[k], chi2, self.bridge.chi3[k]))

    def _warnings(self, i: int, j: int) -> tuple[str, ...]:
        sites, names, place = self.sites, self.structure.residues, self.structure.position
        if sites.partner[i] == j:
            return ("existing bond",)
        found = []
        for k in (i, j):
            if sites.proline[k]:
                found.append(f"proline {names[k]} loses its ring")
            if sites.glycine[k] and sites.left[k]:
                found.append(f"glycine {names[k]} has φ > 0, which strains a cysteine")
            elif sites.glycine[k]:
                found.append(f"glycine {names[k]}: its Cβ is placed by geometry")
            elif self.structure.built[k]:
                found.append(f"{names[k]} has no Cβ in the file")
            if names[k].name in ("CYS", "CYX", "CYM", "SEC"):
                found.append(f"{names[k]} is a free cysteine already")
            found += [
                f"{names[k]} is next to the bond at {names[n]}" for n in (k - 1, k + 1) if self._bonded(n, names[k].chain)
            ]
        if names[i].chain == names[j].chain and abs(place[i] - place[j]) <= 3:
            found.append("near neighbours in the chain: hardly a loop")
        return tuple(found)

    def _bonded(self, k: int, chain: str) -> bool:
        return 0 <= k < len(self.structure) and self.structure.residues[k].chain == chain and bool(self.sites.partner[k] >= 0)


def joint_entropy(table: Scan) -> float:
    """ΔS of all bonds there are together with those picked, cal/mol/K: one determinant a chain.

    Args:
        table: A scan.

    Returns:
        The sum over chains.
    """
    chain, place = table.structure.chain_index, table.structure.position
    pairs = [tuple(p) for p in table.sites.closed.tolist()]
    pairs += [(table.structure.index(p.candidate.a), table.structure.index(p.candidate.b)) for p in table.picks]
    total = 0.0
    for number in range(len(table.structure.chains)):
        own = [(int(place[a]), int(place[b])) for a, b in pairs if chain[a] == number]
        total += float(loop_entropy(own, stiffness=table.stiffness)) if own else 0.0
    return total


__all__ = ["Candidate", "Pick", "Scan", "Sites", "joint_entropy"]
