"""Chains that share a name: two subunits without chain names, or with the same one, are two chains, and no loop joins them."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from residyn.protein.conformers import amino_acid

PEPTIDE = 2.0
"""Å; a C–N distance below it is a peptide bond (1.33 Å), whatever the numbers say."""


@dataclass(frozen=True)
class _Stretch:
    """Residues of one part of a file: numbers `start` to `stop` of the gemmi chain `part`, and whether they are a protein."""

    part: int
    start: int
    stop: int
    seqids: tuple[tuple[int, str], ...]


def tangled(model: Any) -> bool:
    """Whether a model's chains may be several under one name: without name, or with numbers that come again.

    Args:
        model: A gemmi model.

    Returns:
        Whether `separate` should look at it.
    """
    return any(not chain.name.strip() or _again(_seqids(chain)) or any(map(_doubled, chain)) for chain in model)


def _doubled(residue: Any) -> bool:
    """Whether it holds two Cα of one conformer: the parser puts residues of one number together."""
    labels = [atom.altloc for atom in residue if atom.name == "CA"]
    return len(labels) > len(set(labels))


def parted(text: str) -> str:
    """PDB text with a TER record wherever the residue numbers of a chain fall back, so that the parser keeps copies apart.

    Args:
        text: The file.

    Returns:
        The text.
    """
    lines: list[str] = []
    last: tuple[str, int] | None = None
    for line in text.splitlines(keepends=True):
        if line.startswith(("ATOM", "HETATM")) and line[22:26].strip().lstrip("-").isdecimal():
            here = (line[21], int(line[22:26]))
            if last is not None and here[0] == last[0] and here[1] < last[1]:
                lines.append("TER\n")
            last = here
        lines.append(line)
    return "".join(lines)


def separate(model: Any) -> list[str]:
    """Give chains of their own to subunits that share a name, in place.

    Parts that a TER record ends are told apart where the name is blank; under a name, and within a part, only where residue
    numbers come again, for a gap may carry a TER record too.

    Args:
        model: A gemmi model whose chains were split at TER records.

    Returns:
        Notes on what was renamed.
    """
    names: dict[str, list[_Stretch]] = {}
    for part, chain in enumerate(model):
        names.setdefault(chain.name, []).extend(_stretches(part, chain))
    renamed: dict[int, list[tuple[_Stretch, str]]] = {}
    notes = []
    taken = {chain.name for chain in model}
    for name, found in names.items():
        own = _named(name, found, taken)
        if len(set(own)) > 1 or own[:1] != [name][: len(own)]:
            notes.append(f"chain {name.strip() or 'without name'} holds {len(set(own))}: {', '.join(dict.fromkeys(own))}")
        for stretch, new in zip(found, own, strict=True):
            _keep_in_polymer(model[stretch.part], stretch)
            renamed.setdefault(stretch.part, []).append((stretch, new))
    if notes:
        _rename(model, renamed)
    return notes


def rejoin(model: Any) -> None:
    """Say of HETATM residues that a peptide bond joins to a neighbour that they are no ligands, in place.

    Where no TER record ends the chain, the parser takes a selenocysteine or pyrrolysine, HETATM by name, for a first ligand.

    Args:
        model: A gemmi model of a PDB file.
    """
    import gemmi

    for chain in model:
        for before, after in pairwise(chain):
            loose = [r for r in (before, after) if r.entity_type == gemmi.EntityType.NonPolymer and r.het_flag == "H"]
            if loose and _joined(before, after):
                for residue in loose:
                    residue.entity_type = gemmi.EntityType.Polymer


def _seqids(chain: Any) -> list[tuple[int, str]]:
    """Numbers of the amino acids of a chain."""
    return [(residue.seqid.num, residue.seqid.icode.strip()) for residue in chain if amino_acid(residue)]


def _again(seqids: list[tuple[int, str]]) -> bool:
    """Whether a number comes again; two residues of one number beside each other are a place whose sequence varies."""
    return len(set(seqids)) < sum(a != b for a, b in pairwise([None, *seqids]))


def _stretches(part: int, chain: Any) -> Iterator[_Stretch]:
    """Protein stretches of a part: one, or more where numbers come again and fall back across a break."""
    here = [k for k, residue in enumerate(chain) if amino_acid(residue)]
    if len(here) < 2:
        return
    seqids = _seqids(chain)
    cuts = [0]
    if _again(seqids):
        back = [m for m in range(1, len(here)) if seqids[m] < seqids[m - 1]]
        cuts += [m for m in back if not _joined(chain[here[m - 1]], chain[here[m]])]
    for number, cut in enumerate(cuts):
        end = cuts[number + 1] if number + 1 < len(cuts) else len(here)
        stop = here[end] if end < len(here) else len(chain)
        yield _Stretch(part, here[cut] if number else 0, stop, tuple(seqids[cut:end]))


def _keep_in_polymer(chain: Any, stretch: _Stretch) -> None:
    """Say that its amino acids are no ligands: what TER said of that is lost where it splits a chain."""
    import gemmi

    for k in range(stretch.start, stretch.stop):
        if amino_acid(chain[k]):
            chain[k].entity_type = gemmi.EntityType.Polymer


def _joined(before: Any, after: Any) -> bool:
    c, n = before.find_atom("C", "*"), after.find_atom("N", "*")
    return c is not None and n is not None and bool(c.pos.dist(n.pos) < PEPTIDE)


def _named(name: str, found: list[_Stretch], taken: set[str]) -> list[str]:
    """A name for each stretch: blank ones by letters, others by a number where their residues are there already."""
    if not name.strip():
        if len(found) < 2:
            return [name] * len(found)
        return [_free(string.ascii_uppercase, taken) for _ in found]
    names: list[str] = []
    seen: dict[str, set[tuple[int, str]]] = {name: set()}
    for stretch in found:
        own = next((known for known, there in seen.items() if not there.intersection(stretch.seqids)), None)
        if own is None:
            own = _free([f"{name}{k}" for k in range(2, 10)], taken)
            seen[own] = set()
        seen[own].update(stretch.seqids)
        names.append(own)
    return names


def _free(wished: Any, taken: set[str]) -> str:
    """The first of the wished names that is not taken, or else the first pair of letters."""
    pairs = (a + b for a in string.ascii_uppercase for b in string.ascii_uppercase + string.digits)
    own = next(new for new in (*wished, *pairs) if new not in taken)
    taken.add(own)
    return str(own)


def _rename(model: Any, renamed: dict[int, list[tuple[_Stretch, str]]]) -> None:
    import gemmi

    for part, stretches in sorted(renamed.items(), reverse=True):  # from the end: what is put in moves what follows
        chain = model[part]
        if len(stretches) == 1:
            chain.name = stretches[0][1]
            continue
        pieces = [(new, [chain[k].clone() for k in range(s.start, s.stop)]) for s, new in stretches]
        for k in range(len(chain) - 1, -1, -1):
            del chain[k]
        chain.name = pieces[0][0]
        for residue in pieces[0][1]:
            chain.add_residue(residue)
        for after, (new, residues) in enumerate(pieces[1:], 1):
            other = gemmi.Chain(new)
            for residue in residues:
                other.add_residue(residue)
            model.add_chain(other, part + after)


__all__ = ["PEPTIDE", "parted", "rejoin", "separate", "tangled"]
