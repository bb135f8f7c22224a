"""A designed bond written out: both residues as cysteines, the bond record, and what the new sulfurs run into."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from residyn.errors import InputError, require
from residyn.placing import put
from residyn.protein.rotation import best_bridges
from residyn.protein.structure import Floats, Residue, Structure

CLASH = 3.0
"""Å; heavy atoms nearer than this to a new sulfur, which has a radius of 1.8 Å, are in its way."""

_ENDINGS = (".pdb", ".ent", ".cif", ".mmcif")
_KEPT = frozenset(("N", "CA", "C", "O", "OXT", "CB"))


@dataclass(frozen=True)
class Mutant:
    """What was written.

    Args:
        path: The file.
        a: One residue, as it was.
        b: The other.
        distance: Sγ–Sγ as written, Å: the backbone is not moved, so that it differs from 2.04 where the Cβ stand too far apart.
        clashes: Number of heavy atoms within 3 Å of a new sulfur.
        near: The residues they belong to.
    """

    path: str
    a: Residue
    b: Residue
    distance: float
    clashes: int
    near: tuple[str, ...]


def mutate(structure: Structure, pair: tuple[Residue | str | int, Residue | str | int], path: str | os.PathLike[str]) -> Mutant:
    """Write the structure with a pair mutated to a disulfide: best rotation, bond record (SSBOND or struct_conn), clash count.

    The model that was read is written: first model, with waters and ligands, of the chosen conformer in the two residues. The
    backbone stays as it is; where the Cβ stand apart the bond is drawn too long, and the file wants a minimisation.

    Args:
        structure: The protein, as `read` returns it.
        pair: Its two residues, as `Structure.index` takes them.
        path: The file; its ending says the form: .pdb .ent .cif .mmcif, each also with .gz.

    Returns:
        What was written.

    Raises:
        InputError: If the pair cannot be made, or the file has another ending or no folder.
        ResidynError: If the disk refuses it.
    """
    form = _form(Path(path))
    if len(pair) != 2:
        raise InputError(f"`pair` must be two residues, got {len(pair)}")
    i, j = structure.index(pair[0]), structure.index(pair[1])
    a, b = structure.residues[i], structure.residues[j]
    if i == j:
        raise InputError(f"`pair` must be two different residues, got {a} twice")
    for k, residue in ((i, a), (j, b)):
        if not structure.complete[k]:
            raise InputError(f"`pair` must have N, Cα and C, got {residue} without; no Cβ can be placed there")
    if structure.model is None:
        raise InputError("`structure` must come from `read`, got one without its model; read the file")
    ends = np.stack([structure.atoms[name][[[i, j]]] for name in ("N", "CA", "CB")], axis=2)
    beta = ends[0, :, 2]
    sulfurs = beta + best_bridges(ends).sulfurs[0]
    model = structure.model.clone()
    for residue, cb, sg in ((a, beta[0], sulfurs[0]), (b, beta[1], sulfurs[1])):
        _cysteine(model, residue, structure.conformer, cb, sg)
    _connect(model, a, b, float(np.linalg.norm(sulfurs[0] - sulfurs[1])))
    model.setup_entities()
    near = _near(model, sulfurs, (a, b))
    _write(model, Path(path), form)
    distance = float(np.linalg.norm(sulfurs[0] - sulfurs[1]))
    return Mutant(str(path), a, b, distance, len(near), tuple(dict.fromkeys(near)))


def _form(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    ending = next((e for e in _ENDINGS if name.endswith(e)), "")
    if not ending:
        raise InputError(f"`path` must end in one of {' '.join(_ENDINGS)} (or that and .gz), got {str(path)!r}")
    if not path.resolve().parent.is_dir():
        raise InputError(f"`path` must be in a folder that exists, got {str(path)!r}; make it first")
    return "pdb" if ending in (".pdb", ".ent") else "cif"


def _cysteine(model: Any, address: Residue, conformer: str, cb: Floats, sg: Floats) -> None:
    """Turn a residue into a cysteine in one conformer."""
    gemmi = require("gemmi", "bio")
    chain = model[0][address.chain]
    places = [k for k, r in enumerate(chain) if r.seqid.num == address.number and r.seqid.icode.strip() == address.insertion]
    keep = next(k for k in places if chain[k].name.upper() == address.name)
    for k in sorted(places, reverse=True):  # the other half of a place whose sequence varies
        if k != keep:
            del chain[k]
    residue = next(r for r in chain if r.seqid.num == address.number and r.seqid.icode.strip() == address.insertion)
    seen: set[str] = set()
    labels = {atom.altloc for atom in residue}
    chosen = (
        conformer if conformer in labels else max(labels, key=lambda label: sum(a.occ for a in residue if a.altloc == label))
    )
    for k in range(len(residue) - 1, -1, -1):
        atom = residue[k]
        if atom.name not in _KEPT or atom.altloc not in ("\0", chosen) or atom.name in seen:
            del residue[k]
            continue
        seen.add(atom.name)
        atom.altloc, atom.occ = "\0", 1.0
    residue.name, residue.het_flag = "CYS", "A"
    b = next((atom.b_iso for atom in residue if atom.name == "CA"), 20.0)
    for name, element, xyz in (("CB", "C", cb), ("SG", "S", sg)):
        if name not in seen:
            atom = gemmi.Atom()
            atom.name, atom.element, atom.b_iso, atom.occ = name, gemmi.Element(element), b, 1.0
            atom.pos = gemmi.Position(*(float(v) for v in xyz))
            residue.add_atom(atom)


def _connect(model: Any, a: Residue, b: Residue, distance: float) -> None:
    """Add the bond, and drop those that the two residues had."""
    gemmi = require("gemmi", "bio")

    def ends(link: Any) -> set[tuple[str, int, str]]:
        both = (link.partner1, link.partner2)
        return {(e.chain_name, e.res_id.seqid.num, e.res_id.seqid.icode.strip()) for e in both}

    own = {(r.chain, r.number, r.insertion) for r in (a, b)}
    for k in range(len(model.connections) - 1, -1, -1):
        if ends(model.connections[k]) & own:
            del model.connections[k]
    link = gemmi.Connection()
    link.name, link.type, link.asu = f"disulf{len(model.connections) + 1}", gemmi.ConnectionType.Disulf, gemmi.Asu.Same
    link.reported_distance = distance
    for end, residue in ((link.partner1, a), (link.partner2, b)):
        end.chain_name, end.atom_name = residue.chain, "SG"
        end.res_id.name = "CYS"
        end.res_id.seqid = gemmi.SeqId(residue.number, residue.insertion or " ")
    model.connections.append(link)


def _near(model: Any, sulfurs: Floats, ends: tuple[Residue, Residue]) -> list[str]:
    """Residues of heavy atoms within `CLASH` of a sulfur: not its own residue's, nor its partner's."""
    own = {(r.chain, r.number, r.insertion) for r in ends}
    xyz, names = [], []
    for chain in model[0]:
        for residue in chain:
            if (chain.name, residue.seqid.num, residue.seqid.icode.strip()) in own:
                continue
            for atom in residue:
                if atom.element.name not in ("H", "D"):
                    xyz.append((atom.pos.x, atom.pos.y, atom.pos.z))
                    names.append(f"{chain.name}:{residue.name}{residue.seqid}")
    if not xyz:
        return []
    found = cKDTree(np.array(xyz)).query_ball_point(sulfurs, CLASH)
    return [names[k] for k in sorted({k for one in found for k in one})]


def _write(model: Any, path: Path, form: str) -> None:
    """Beside its place first, then moved there."""
    text = model.make_pdb_string() if form == "pdb" else model.make_mmcif_document().as_string()
    data = text.encode()
    put(path, gzip.compress(data, mtime=0) if path.name.lower().endswith(".gz") else data)
