"""PDB and mmCIF files, plain or gzipped, read into a `Structure`: all checks of a file stand here."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from residyn.errors import InputError, require
from residyn.protein.chains import PEPTIDE, parted, rejoin, separate, tangled
from residyn.protein.conformers import Group, chosen_label, groups, nothing
from residyn.protein.geometry import ideal_beta
from residyn.protein.structure import BACKBONE, Annotation, Floats, Ints, Residue, Structure, Sulfur

LIMIT = 2 * 1024**3
"""Bytes of text at most: a gzip file may claim to hold any number."""

_ASCII = bytes(byte if 0 < byte < 128 else ord("?") for byte in range(256))
_PREDICTED = (b"ALPHAFOLD", b"ESMFOLD", b"ROSETTAFOLD", b"COLABFOLD", b"PLDDT")
_MEASURED = ("DIFFRACTION", "CRYSTALLOGRAPHY", "MICROSCOPY", "NMR", "SCATTERING", "SPECTROSCOPY", "TRANSFER", "EPR")


def read(path: str | os.PathLike[str], *, chain: str | None = None, assembly: str | None = None) -> Structure:
    """Read a protein from a PDB or mmCIF file, gzipped or not: first model, one consistent conformer.

    Residues keep their numbers and insertion codes. Along a chain, neighbours are those that a peptide bond joins; across a gap
    the numbers (or mmCIF's `label_seq_id`) say how many residues are missing. Files that the parser rejects because of what
    stands beyond column 78 are read without it.

    Args:
        path: The file.
        chain: Keep only this chain; several may be given with commas between, "A,B".
        assembly: Build this biological assembly first, by its name in the file ("1").

    Returns:
        The structure.

    Raises:
        InputError: If the file cannot be read, is no structure, holds no protein, or has no such chain or assembly.
        MissingExtraError: If gemmi is not installed.
    """
    require("gemmi", "bio")
    data = _content(Path(path))
    model, notes = _parsed(data, str(path))
    if assembly is not None:
        model = _assembled(model, assembly, str(path))
    structure = _structure(model, Path(path).name, notes)
    if _predicted(model, data):
        note = "a predicted model: its B column is a confidence and not used as mobility"
        structure = replace(structure, predicted=True, notes=(*structure.notes, note))
    return structure if chain is None else select(structure, chain)


def _predicted(model: Any, data: bytes) -> bool:
    """Whether nobody measured it: a crystal solved with a prediction as its search model names that, and is none."""
    method = str(model.info["_exptl.method"]).upper() if "_exptl.method" in model.info else ""
    if any(word in method for word in _MEASURED):
        return False
    words = data[:200_000].upper()
    return "THEORETICAL" in method or b"_ma_qa_metric" in data or any(word in words for word in _PREDICTED)


def select(structure: Structure, chain: str) -> Structure:
    """Some chains of a structure.

    Args:
        structure: All of it.
        chain: Their names, with commas between.

    Returns:
        The structure of these chains; annotated bonds that leave them are dropped.

    Raises:
        InputError: If one of them is not there.
    """
    wanted = [name.strip() for name in chain.split(",")]
    for name in wanted:
        if name not in structure.chains:
            raise InputError(f"`chain` must be one of {', '.join(structure.chains)}, got {name!r}; names are case-sensitive")
    keep = np.array([k for k, residue in enumerate(structure.residues) if residue.chain in wanted])
    place = {int(k): new for new, k in enumerate(keep)}
    return replace(
        structure,
        residues=tuple(structure.residues[k] for k in keep),
        position=structure.position[keep],
        atoms={name: xyz[keep] for name, xyz in structure.atoms.items()},
        built=structure.built[keep],
        b_factors=structure.b_factors[keep],
        sulfurs=tuple(replace(s, residue=place[s.residue]) for s in structure.sulfurs if s.residue in place),
        annotations=tuple(x for x in structure.annotations if x.a.chain in wanted and x.b.chain in wanted),
    )


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked if they are gzipped, whatever the file's name."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"`path` must be a file that exists, got {str(path)!r}; look at its spelling") from None
    except OSError as error:
        raise InputError(f"`path` must be a file that can be read, got {str(path)!r}: {error.strerror}") from error
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(data, str(path))
    if not data.strip():
        raise InputError(f"`path` must be a structure file, got {str(path)!r}, which is empty; fetch it again")
    return data


def _unpacked(data: bytes, name: str) -> bytes:
    """Gzip members one after the other, up to `LIMIT`."""
    parts, total = [], 0
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(data, LIMIT - total + 1)
        except zlib.error as error:
            raise InputError(
                f"`path` must be a whole gzip file, got {name!r}, which is damaged ({error}); fetch it again"
            ) from None
        total += len(part)
        parts.append(part)
        if total > LIMIT:
            raise InputError(f"`path` must unpack to at most {LIMIT / 1024**3:g} GB, got more in {name!r}; unpack it yourself")
        if not member.eof:
            raise InputError(f"`path` must be a whole gzip file, got {name!r}, which ends in the middle; fetch it again")
        data = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _parsed(data: bytes, name: str) -> tuple[Any, list[str]]:
    """The gemmi structure with its first model only, and what had to be repaired."""
    # names are ASCII in both forms; one byte stays one column
    text = data.removeprefix(b"\xef\xbb\xbf").translate(_ASCII).decode("ascii")
    head = text[:4096].lstrip().lower()
    cif = head.startswith("data_") or "\ndata_" in head or "\nloop_" in head
    structure, notes = _from_cif(text, name) if cif else _from_pdb(text, name)
    if not cif and len(structure) and tangled(structure[0]):
        structure, notes = _from_pdb(parted(text), name, split=True)
        notes += separate(structure[0])
    if not len(structure) or not any(len(chain) for chain in structure[0]):
        raise InputError(f"`path` must be a PDB or mmCIF file with atoms, got {name!r} without any; is it a structure file?")
    if len(structure) > 1:
        notes.append(f"the first of {len(structure)} models")
        del structure[1:]
    structure.merge_chain_parts()
    structure.setup_entities()
    if not cif:
        rejoin(structure[0])
    return structure, notes


_ERRORS = (RuntimeError, ValueError, IndexError, KeyError, OverflowError, UnicodeError)
"""What gemmi raises on files it cannot read."""


def _from_cif(text: str, name: str) -> tuple[Any, list[str]]:
    import gemmi

    try:
        return gemmi.make_structure_from_block(_block(gemmi.cif.read_string(text))), []
    except _ERRORS as error:
        raise _unreadable("mmCIF", name, error) from error


def _from_pdb(text: str, name: str, *, split: bool = False) -> tuple[Any, list[str]]:
    """As it stands; else without what is beyond column 78, or 72; else its first model alone. Chains split at TER, or not."""
    import gemmi

    first = None
    for width, models in ((0, True), (78, True), (72, True), (0, False)):
        try:
            part = (text if models else _first_model(text)) + "\n"  # a last atom without B factor needs its end of line
            found = gemmi.read_pdb_string(part, max_line_length=width, split_chain_on_ter=split)
        except _ERRORS as error:
            first = first or error
            continue
        if first is None:
            return found, []
        cut = f"columns beyond {width}" if width else "all models but the first"
        return found, [f"{cut} were left out: {' '.join(str(first).split())[:90]}"]
    raise _unreadable("PDB", name, first)


def _unreadable(form: str, name: str, error: Exception | None) -> InputError:
    words = " ".join(str(error).split())[:120]
    return InputError(f"`path` must be a PDB or mmCIF file, got {name!r}, which is no {form} file: {words}")


def _first_model(text: str) -> str:
    """Lines up to the end of the first model, without the MODEL record itself."""
    kept: list[str] = []
    for line in text.splitlines(keepends=True):
        record = line[:6].rstrip().upper()
        if record == "ENDMDL" or (record == "MODEL" and any(row.startswith(("ATOM", "HETATM")) for row in kept)):
            break
        if record != "MODEL":
            kept.append(line)
    return "".join(kept)


def _block(document: Any) -> Any:
    """The block that holds atoms, or the first."""
    for block in document:
        if block.find_values("_atom_site.Cartn_x"):
            return block
    return document[0]


def _assembled(structure: Any, name: str, path: str) -> Any:
    """The gemmi structure of a biological assembly."""
    import gemmi

    found = {assembly.name: assembly for assembly in structure.assemblies}
    if name not in found:
        has = f"it has {', '.join(found)}" if found else "it states none"
        raise InputError(f"`assembly` must be one that {path!r} states, got {name!r}; {has}")
    structure = structure.clone()
    structure.transform_to_assembly(name, gemmi.HowToNameCopiedChain.AddNumber)
    structure.setup_entities()
    return structure


def _structure(model: Any, file: str, notes: list[str]) -> Structure:
    """Gather arrays from a gemmi structure."""
    label = chosen_label(model[0])
    rows = list(_residues(model[0], label))
    if not rows:
        raise InputError(
            f"`path` must hold a protein, got {file!r} without amino-acid residues; nucleic acids have no disulfides"
        )
    residues = tuple(residue for residue, _, _ in rows)
    picked = [group.atoms(label) for _, group, _ in rows]
    atoms = {name: np.array([_place(own.get(name)) for own in picked]) for name in (*BACKBONE, "CB")}
    missing = ~np.isfinite(atoms["CB"]).all(axis=1)
    ideal = ideal_beta(atoms["N"], atoms["CA"], atoms["C"])
    atoms["CB"] = np.where(missing[:, None], ideal, atoms["CB"])
    glycine = np.array([residue.name == "GLY" for residue in residues])
    lost = int((missing & ~glycine).sum())
    if lost:
        notes = [
            *notes,
            f"{lost} Cβ missing in the file{' were built' if np.isfinite(ideal[missing & ~glycine]).any() else ''}",
        ]
    b = np.array([float(own["CA"].b_iso) if "CA" in own else np.nan for own in picked])
    return Structure(
        name=_name(model, file),
        residues=residues,
        position=_positions(residues, [sequence for _, _, sequence in rows], atoms),
        atoms=atoms,
        built=missing & np.isfinite(ideal).all(axis=1),
        b_factors=b,
        sulfurs=tuple(_sulfurs([group for _, group, _ in rows])),
        annotations=tuple(_annotations(model, residues)),
        conformer=label,
        notes=tuple(notes),
        model=model,
    )


def _residues(model: Any, label: str) -> Iterator[tuple[Residue, Group, int | None]]:
    """Amino-acid residues of a model with their place in the full sequence, where the file states it."""
    for chain in model:
        for group in groups(chain):
            residue = group.residue(label)
            if group.protein:
                if residue.seqid.num is None:
                    raise InputError(
                        f"`path` must number its residues, got {residue.name!r} of chain {chain.name!r} without a number; a "
                        "PDB file has it in columns 23 to 26"
                    )
                insertion = residue.seqid.icode.strip()
                yield Residue(chain.name, residue.seqid.num, insertion, residue.name.upper()), group, residue.label_seq


def _place(atom: Any) -> Floats:
    return nothing() if atom is None else np.array([atom.pos.x, atom.pos.y, atom.pos.z])


def _positions(residues: tuple[Residue, ...], sequence: list[int | None], atoms: dict[str, Floats]) -> Ints:
    """Place along the chain: one further for a peptide bond, else by label_seq_id, else by the numbers; never backwards."""
    place = np.zeros(len(residues), dtype=np.int64)
    with np.errstate(invalid="ignore"):
        bonded = np.linalg.norm(atoms["C"][:-1] - atoms["N"][1:], axis=1) < PEPTIDE
    for k in range(1, len(residues)):
        before, here = residues[k - 1], residues[k]
        if before.chain != here.chain:
            continue
        last, own = sequence[k - 1], sequence[k]
        if last is not None and own is not None:
            step = own - last
        elif bonded[k - 1]:
            step = 1
        else:
            step = here.number - before.number
        place[k] = place[k - 1] + max(1, step)
    return place


def _sulfurs(found: list[Group]) -> Iterator[Sulfur]:
    """Every Sγ (or Seγ) that has a Cβ, in every conformer."""
    for index, group in enumerate(found):
        for conformer, own in group.conformers():
            sulfur = own.get("SG") or (own.get("SE") if "CG" not in own else None)
            if sulfur is not None and sulfur.element.name in ("S", "Se"):
                placed = [_place(own.get(name)) for name in ("CB", "CA", "N")]
                yield Sulfur(index, conformer, float(sulfur.occ), _place(sulfur), *placed)


def _annotations(model: Any, residues: tuple[Residue, ...]) -> Iterator[Annotation]:
    """SSBOND and struct_conn records of type disulf."""
    import gemmi

    names = {(r.chain, r.number, r.insertion): r for r in residues}
    for link in model.connections:
        if link.type != gemmi.ConnectionType.Disulf:
            continue
        ends = []
        for end in (link.partner1, link.partner2):
            key = (end.chain_name, end.res_id.seqid.num, end.res_id.seqid.icode.strip())
            ends.append(names.get(key, Residue(*key, end.res_id.name)))
        yield Annotation(ends[0], ends[1], link.asu == gemmi.Asu.Different)


def _name(model: Any, file: str) -> str:
    """The entry's id, where the file states one that can be shown; else the file's name."""
    entry = str(model.info["_entry.id"]).strip() if "_entry.id" in model.info else ""
    return entry if entry and entry.isprintable() and len(entry) <= 40 else file
