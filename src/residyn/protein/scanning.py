"""The scan: every pair of residues as a disulfide that could be made, what it gains and what it costs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import torch
from scipy.spatial import cKDTree

from residyn.errors import InputError
from residyn.protein.bonds import Disulfide, find_disulfides
from residyn.protein.entropy import PACE, R, loop_overlaps
from residyn.protein.geometry import WINDOW, torsion
from residyn.protein.network import GNM_CUTOFF, Flexibility, flexibility
from residyn.protein.rotation import Bridge, best_bridges
from residyn.protein.structure import Floats, Ints, Residue, Structure
from residyn.protein.table import Candidate, Scan, Sites

FLEXIBLE_WINDOW = (2.0, 7.5)
"""Cβ–Cβ distances, Å, from which a flexible backbone may close; beyond, closing costs more than any loop gains."""

MAX_STRAIN = 10.0
"""kcal/mol; nine tenths of native bonds have less than 2.2 in rigid crystal structures."""

TEMPERATURE = 298.15
_UNSURE = 8.0
"""kcal/mol; above `max_strain` by this, after the first round of rotations, a pair is left as it is: it ends at the bottom."""
T = TypeVar("T", Bridge, Flexibility)
_SPAN = re.compile(r"(?:(?P<chain>[^:]+):)?(?P<first>-?\d+)(?:-(?P<last>-?\d+))")


def scan(
    structure: Structure,
    *,
    flexible: bool = True,
    pick: int | None = None,
    exclude: Iterable[Residue | str | int] = (),
    stiffness: float = PACE,
    temperature: float = TEMPERATURE,
    max_strain: float = MAX_STRAIN,
) -> Scan:
    """All pairs of residues as disulfides to be made, the best first.

        net = -T·ΔS(loop, given the bonds there are) - strain - closing,   closing = ½·kT·(Δd)²/var(d)

    The strain is the energy of the best rotation of an ideal bridge; with a flexible backbone its Cβ–Cβ distance may change by
    Δd at the cost of the elastic network scaled to B factors, and the best compromise is taken. `net` is a score to rank by: it
    leaves out what the mutations themselves cost and is no prediction of stability.

    Args:
        structure: The protein.
        flexible: Whether the backbone may move: Cβ–Cβ from 2 to 7.5 Å; else 2.925 to 4.569 Å, as it stands.
        pick: Choose this many that go together, by marginal gain (`Scan.picks`).
        exclude: Residues to leave alone: numbers, addresses such as "A:35", or ranges such as "A:10-20".
        stiffness: g of the loop entropy.
        temperature: T, K.
        max_strain: Pairs above it are rejected, kcal/mol.

    Returns:
        The table; empty, with the reason in its notes, where nothing can be designed.

    Raises:
        InputError: If an argument is out of range, `exclude` names what is not there, or `pick` exceeds what goes together.

    Reference:
        Craig & Dombkowski (2013), doi:10.1186/1471-2105-14-346 (geometry, strain); Pace et al. (1988) (loops); Bahar, Atilgan &
        Erman (1997), doi:10.1016/S1359-0278(97)00024-2 (network).

    >>> from residyn.protein import read, sample
    >>> table = scan(read(sample("1ejg")), flexible=False)
    >>> [str(row) for row in table if row.existing]
    ['A:16–A:26', 'A:3–A:40', 'A:4–A:32']
    """
    _check(temperature, max_strain)
    excluded = _excluded(structure, exclude)
    bonds = find_disulfides(structure)
    sites = _sites(structure, bonds, excluded, flexible)
    pairs = _window(structure, sites)
    ends = _ends(structure, pairs)
    kT = R * temperature / 1000
    moves = _mobility(structure, pairs) if flexible and len(pairs) else None
    if moves is not None:
        usable = np.isfinite(moves.variance) & (moves.variance > 0)
        stands = np.linalg.norm(ends[:, 1, 2] - ends[:, 0, 2], axis=1)
        least = np.maximum(stands - WINDOW[1], 0) ** 2 * 0.5 * kT / np.where(usable, moves.variance, 1.0)
        keep = usable & ((least <= 2 * max_strain) | (sites.partner[pairs[:, 0]] == pairs[:, 1]))
        pairs, ends, moves = pairs[keep], ends[keep], _only(moves, keep)
    bridge = best_bridges(ends, None if moves is None else kT / moves.variance, hopeless=max_strain + _UNSURE)
    keep = (bridge.energy <= max_strain) | (sites.partner[pairs[:, 0]] == pairs[:, 1])  # a bond that is there is a row
    pairs, bridge = pairs[keep], _only(bridge, keep)
    length, entropy = _loops(structure, sites, pairs, stiffness)
    gain = -temperature * entropy / 1000
    net = gain - bridge.energy - bridge.closing
    order = np.lexsort((bridge.energy + bridge.closing, -np.nan_to_num(net, nan=-np.inf)))
    table = Scan(
        structure=structure,
        bonds=tuple(bonds),
        sites=sites,
        pairs=pairs[order],
        bridge=_only(bridge, order),
        length=length[order],
        entropy=entropy[order],
        gain=gain[order],
        flexible=flexible,
        stiffness=stiffness,
        temperature=temperature,
        max_strain=max_strain,
        notes=_notes(structure, sites, moves, len(order)),
    )
    return table if pick is None else table.picked(pick)


def _check(temperature: float, max_strain: float) -> None:
    if not 0 < temperature < np.inf:
        raise InputError(f"`temperature` must be > 0 K, got {temperature:g}; 298.15 is room temperature")
    if not 0 < max_strain < np.inf:
        raise InputError(f"`max_strain` must be > 0 kcal/mol, got {max_strain:g}; native bonds have 1 on average")


def _excluded(structure: Structure, exclude: Iterable[Residue | str | int]) -> Ints:
    """Indices of the residues that are not to be touched."""
    if isinstance(exclude, str):
        exclude = [part for part in exclude.split(",") if part.strip()]
    found: set[int] = set()
    for item in exclude:
        span = _SPAN.fullmatch(item.strip()) if isinstance(item, str) else None
        if span is None:
            found.add(structure.index(item, what="exclude"))
            continue
        first, last = int(span["first"]), int(span["last"])
        own = [
            k
            for k, r in enumerate(structure.residues)
            if first <= r.number <= last and (span["chain"] is None or r.chain == span["chain"])
        ]
        if not own:
            raise InputError(f"`exclude` must name residues of {structure.name}, got {item!r} without any")
        found.update(own)
    return np.array(sorted(found), dtype=np.int64)


def _sites(structure: Structure, bonds: list[Disulfide], excluded: Ints, flexible: bool) -> Sites:
    """What there is to know of each residue before pairs are looked at."""
    n = len(structure)
    place = {residue: k for k, residue in enumerate(structure.residues)}
    partner = np.full(n, -1)
    closed = []
    for bond in bonds:
        a, b = place.get(bond.a, -1), place.get(bond.b, -1)
        if bond.bonded and a >= 0 and b >= 0:
            partner[a], partner[b] = b, a
            if bond.length is not None and not bond.symmetry:
                closed.append((a, b))
    barred = np.zeros(n, dtype=bool)
    barred[excluded] = True
    names = np.array([residue.name for residue in structure.residues])
    return Sites(
        usable=structure.complete,
        excluded=barred,
        partner=partner,
        closed=np.array(closed, dtype=np.int64).reshape(-1, 2),
        proline=names == "PRO",
        glycine=names == "GLY",
        left=_phi(structure) > 0,
        window=FLEXIBLE_WINDOW if flexible else WINDOW,
    )


def _phi(structure: Structure) -> Floats:
    """φ of each residue, degrees; nan at chain starts and where atoms are missing."""
    atoms = structure.atoms
    phi = np.full(len(structure), np.nan)
    with np.errstate(invalid="ignore"):
        turned = torsion(atoms["C"][:-1], atoms["N"][1:], atoms["CA"][1:], atoms["C"][1:])
        bonded = np.linalg.norm(atoms["C"][:-1] - atoms["N"][1:], axis=1) < 2.0
    phi[1:] = np.where(bonded, turned, np.nan)
    return phi


def _window(structure: Structure, sites: Sites) -> Ints:
    """Pairs to look at: Cβ–Cβ in the window, Cα in contact, neither excluded, vicinal, or bonded elsewhere; and all bonds."""
    open_ = np.flatnonzero(sites.usable & ~sites.excluded)
    if len(open_) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    beta, alpha = structure.atoms["CB"], structure.atoms["CA"]
    pairs = open_[cKDTree(beta[open_]).query_pairs(sites.window[1], output_type="ndarray")]
    pairs = np.sort(pairs, axis=1)
    i, j = pairs.T
    wide = np.linalg.norm(beta[i] - beta[j], axis=1) >= sites.window[0]
    contact = np.linalg.norm(alpha[i] - alpha[j], axis=1) <= GNM_CUTOFF
    free = (sites.partner[i] < 0) & (sites.partner[j] < 0)
    chain = structure.chain_index
    vicinal = (chain[i] == chain[j]) & (np.abs(structure.position[i] - structure.position[j]) < 2)
    bonded = open_[(sites.partner[open_] > open_) & np.isin(sites.partner[open_], open_)]
    there = np.stack([bonded, sites.partner[bonded]], axis=1)
    kept: Ints = np.concatenate([pairs[wide & contact & free & ~vicinal], there])
    return kept[np.lexsort((kept[:, 1], kept[:, 0]))]


def _ends(structure: Structure, pairs: Ints) -> Floats:
    ends: Floats = np.stack([structure.atoms[name][pairs] for name in ("N", "CA", "CB")], axis=2)
    return ends


def _mobility(structure: Structure, pairs: Ints) -> Flexibility:
    """Variance of each pair's distance, from the Cα network."""
    alpha = structure.atoms["CA"]
    there = np.isfinite(alpha).all(axis=1)
    place = np.cumsum(there) - 1
    b = None if structure.predicted else structure.b_factors[there]
    return flexibility(alpha[there], b, place[pairs])


def _loops(structure: Structure, sites: Sites, pairs: Ints, stiffness: float) -> tuple[Floats, Floats]:
    """Chain bonds in each pair's loop and its entropy given the other bonds; nan between chains."""
    chain, place = structure.chain_index, structure.position.astype(np.float64)
    length, entropy = np.full(len(pairs), np.nan), np.full(len(pairs), np.nan)
    for number in range(len(structure.chains)):
        own = (chain[pairs] == number).all(axis=1)
        closed = sites.closed[(chain[sites.closed] == number).all(axis=1)] if len(sites.closed) else sites.closed
        length[own] = np.abs(place[pairs[own, 0]] - place[pairs[own, 1]])
        entropy[own] = _marginal(place, pairs[own], closed, stiffness)
    return length, entropy


def _marginal(place: Floats, pairs: Ints, closed: Ints, stiffness: float) -> Floats:
    """ΔS of each pair given the closed bonds (itself not among them): its length less what it shares with them.

    With M = 1/g + C of the closed bonds the shared part is n·M⁻¹·nᵀ; a bond's own length given the others is 1/(M⁻¹)_bb - 1/g.
    """
    own = torch.from_numpy(place[pairs])
    effective = (own[:, 1] - own[:, 0]).abs()
    if len(closed):
        known = torch.from_numpy(place[closed])
        inside = loop_overlaps(known, known) + torch.eye(len(known), dtype=torch.float64) / stiffness
        factor = torch.linalg.cholesky(inside)
        half = torch.linalg.solve_triangular(factor, loop_overlaps(own, known).T, upper=False)
        effective = effective - half.square().sum(0)
        alone = (1 / torch.cholesky_inverse(factor).diagonal() - 1 / stiffness).numpy()
        code, bonds = (np.sort(ends, axis=1) @ (len(place), 1) for ends in (pairs, closed))
        here, which = np.nonzero(np.isin(code, bonds))[0], {int(bond): k for k, bond in enumerate(bonds)}
        effective[here] = torch.from_numpy(alone[[which[int(code[k])] for k in here]])
    found: Floats = (-1.5 * R * torch.log1p(stiffness * effective.clamp_min(0))).numpy()
    return found


def _only(what: T, keep: np.ndarray) -> T:
    """Some rows of a record of arrays."""
    fields = {part.name: getattr(what, part.name) for part in dataclasses.fields(what)}
    chosen = {name: value[keep] for name, value in fields.items() if isinstance(value, np.ndarray)}
    return dataclasses.replace(what, **chosen)


def _notes(structure: Structure, sites: Sites, moves: Flexibility | None, count: int) -> tuple[str, ...]:
    notes = list(structure.notes)
    missing = int((~sites.usable).sum())
    if missing == len(structure):
        notes.append("no residue has N, Cα, C and a place for Cβ: nothing can be designed on a trace of Cα")
    elif missing:
        notes.append(f"{missing} residues lack backbone atoms and were left out")
    if moves is not None:
        if moves.measured:
            fit = "" if np.isnan(moves.correlation) else f", which it follows with a correlation of {moves.correlation:.2f}"
            notes.append(f"the elastic network is scaled to the B factors{fit}")
        else:
            notes.append("no B factors to use: the elastic network is scaled to a usual mean of 20 Å²")
    if count == 0 and missing < len(structure):
        notes.append(
            f"no pair has its Cβ within {sites.window[0]:g}–{sites.window[1]:g} Å and a bridge that is not too strained"
        )
    return tuple(notes)


__all__ = ["Candidate", "Scan", "scan"]
