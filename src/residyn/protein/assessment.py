"""One file, scanned, as a section of a report: bonds beside their annotation, the table, the map, the chain with its arcs."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from residyn.counting import counted
from residyn.protein.bonds import Disulfide
from residyn.protein.entropy import loop_entropy
from residyn.protein.network import GNM_CUTOFF
from residyn.protein.reading import read
from residyn.protein.scanning import scan
from residyn.protein.table import Candidate, Scan, joint_entropy
from residyn.results import Figure, Finding, Mark, Section, Series, Table, Verdict

CANDIDATES = "Pairs that could be bonded (kcal/mol, Å, degrees)"
COLUMNS = (
    ("rank", "rank"),
    ("a", "residue"),
    ("name_a", "is"),
    ("b", "residue′"),
    ("name_b", "is′"),
    ("existing", "bond"),
    ("net", "net"),
    ("gain", "gain"),
    ("strain", "strain"),
    ("closing", "closing"),
    ("length", "loop"),
    ("distance", "Cβ–Cβ"),
    ("built", "built at"),
    ("chi3", "χ3"),
    ("chi1_a", "χ1"),
    ("chi1_b", "χ1′"),
    ("dihedral", "dihedral strain"),
    ("warnings", "look at"),
)
"""Names of the columns, for files and for the page."""

_BRIEF = (
    ("existing bond", "is there"),
    (r"proline (\S+) loses its ring", "Pro\u00a0\\1"),
    (r"glycine (\S+) has φ > 0, which strains a cysteine", "Gly\u00a0\\1, φ\u00a0>\u00a00"),
    (r"glycine (\S+): its Cβ is placed by geometry", "Gly\u00a0\\1"),
    (r"(\S+) has no Cβ in the file", "no\u00a0Cβ\u00a0\\1"),
    (r"(\S+) is a free cysteine already", "free\u00a0Cys\u00a0\\1"),
    (r"(\S+) is next to the bond at (\S+?)(?=;|$)", "\\1 beside \\2"),
    ("near neighbours in the chain: hardly a loop", "hardly a loop"),
)
"""What a page says for the warnings of `table`, which stand in full in the other forms."""

_BARS = 300
"""Bars drawn: more are too thin to be seen, and points take their place."""
_ARCS = 12
"""Candidates drawn as arcs: more would hide each other."""


@dataclass(frozen=True)
class Wish:
    """What a user asks of each file; the arguments of `read` and `scan`."""

    flexible: bool = True
    pick: int | None = None
    chain: str | None = None
    assembly: str | None = None
    exclude: str = ""


def assess(path: str, wish: Wish | None = None) -> Section:
    """Read and scan a file.

    Args:
        path: The file.
        wish: What to ask of it.

    Returns:
        A section whose table holds every candidate.

    Raises:
        InputError: As `read` and `scan`.
    """
    wish = wish or Wish()
    began = time.perf_counter()
    structure = read(path, chain=wish.chain, assembly=wish.assembly)
    table = scan(structure, flexible=wish.flexible, pick=wish.pick, exclude=wish.exclude)
    return replace(section(table, path), seconds=time.perf_counter() - began)


def section(table: Scan, path: str) -> Section:
    """A scan as a section.

    Args:
        table: The scan.
        path: The file it is of; the section's id.

    Returns:
        The section.
    """
    structure = table.structure
    way = "the backbone may move" if table.flexible else "the backbone stays as it is"
    return Section(
        path,
        f"Disulfides of {structure.name}",
        summary=_summary(table),
        equation="net = (3/2)·R·T·ln(1 + g·ℓ) − strain − kT·(Δd)²/(2·var(d))",
        data=f"{Path(path).name}: {counted(len(structure), 'residue')} in {counted(len(structure.chains), 'chain')}; {way}",
        code=(
            "from residyn.protein import mutate, read, scan\n\n"
            f"protein = read({Path(path).name!r})\n"
            f"table = scan(protein, flexible={table.flexible})\n"
            "print(table[0], table.why(4, 118))      # the best row; why another pair is not\n"
            'mutate(protein, (table[0].a, table[0].b), "mutant.pdb")'
        ),
        findings=findings(table),
        figures=[_map(table), _chain(table), _strip(table)] if len(structure) > 1 else [],
        tables=[*([_bonds(table)] if table.bonds else []), *([_picks(table)] if table.picks else []), candidates(table)],
    )


def candidates(table: Scan) -> Table:
    """The rows of a scan.

    Args:
        table: The scan.

    Returns:
        All of them, best first.
    """
    rows: list[list[float | str | None]] = [
        [
            float(row.rank), str(row.a), row.a.name, str(row.b), row.b.name, "is there" if row.existing else "",
            row.net, row.gain, row.strain, row.closing, None if row.length is None else float(row.length),
            row.distance, row.built, row.chi3, *row.chi1, row.dihedral, "; ".join(row.warnings),
        ]
        for row in table
    ]  # fmt: skip
    return Table(CANDIDATES, [human for _, human in COLUMNS], rows)


def readable(table: Table, rows: int) -> Table:
    """The best rows of `candidates`, with the columns that a page has room for; other tables as they are.

    Args:
        table: A table of a section.
        rows: How many rows.

    Returns:
        The table to show.
    """
    if table.title != CANDIDATES:
        return replace(table, rows=table.rows[:rows])
    place = {name: k for k, (name, _) in enumerate(COLUMNS)}
    kept = [place[name] for name in ("net", "gain", "strain", "closing", "length")]
    looks = place["warnings"]
    best = table.rows[:rows]
    shown: list[list[float | str | None]] = [
        [row[0], f"{row[1]}\u00a0{row[2]}", f"{row[3]}\u00a0{row[4]}", *(_short(row[k]) for k in kept), _brief(str(row[looks]))]
        for row in best
    ]
    title = table.title if len(table.rows) <= rows else f"{table.title}: the best {rows} of {len(table.rows)}"
    return Table(title, ["rank", "residue", "residue′", *(COLUMNS[k][1] for k in kept), COLUMNS[looks][1]], shown)


def _brief(warnings: str) -> str:
    """Warnings in the few words that a column has room for."""
    for pattern, word in _BRIEF:
        warnings = re.sub(pattern, word, warnings)
    return warnings


def _short(value: float | str | None) -> float | str | None:
    """A number with two decimals: more is not known."""
    return round(value, 2) if isinstance(value, float) else value


def findings(table: Scan) -> list[Finding]:
    """What a scan found, as statements.

    Args:
        table: The scan.

    Returns:
        Bonds against annotation, the joint entropy, and the best candidate.
    """
    bonds = table.bonds
    found = [_annotation(bonds)]
    ends = [(b.a.number, b.b.number) for b in bonds if b.bonded and b.length is not None and not b.symmetry]
    if len(table.sites.closed) > 1 and len(table.structure.chains) == 1:
        place = table.structure.position
        pairs = [(int(place[a]), int(place[b])) for a, b in table.sites.closed]
        alone = sum(float(loop_entropy([pair], stiffness=table.stiffness)) for pair in pairs)
        joint = float(loop_entropy(pairs, stiffness=table.stiffness))
        found.append(
            Finding(
                "disulfide.joint",
                f"Loop entropy of the {len(ends)} bonds together, and as a sum over bonds",
                "info",
                joint,
                alone,
                "cal/mol/K",
                why="Loops that share a part of the chain cost less together than one by one: the sum counts that part twice.",
            )
        )
    new = next((row for row in table if not row.existing), None)
    if new is not None and new.net is not None:
        found.append(
            Finding(
                "disulfide.best",
                f"Best pair that is not bonded: {new} ({new.a.name}, {new.b.name})",
                "info",
                new.net,
                unit="kcal/mol",
                why="A score to rank by, no stability: what the mutations themselves cost is not in it, nor what the folded "
                "state loses." + (f" Look at: {'; '.join(new.warnings)}." if new.warnings else ""),
            )
        )
    if table.picks:
        found.append(
            Finding(
                "disulfide.picks",
                f"{len(table.picks)} bonds that go together: {', '.join(str(p.candidate) for p in table.picks)}; joint entropy",
                "info",
                joint_entropy(table),
                unit="cal/mol/K",
                why="Chosen one after the other by what each gains on top of those before.",
            )
        )
    return found


def _annotation(bonds: tuple[Disulfide, ...]) -> Finding:
    stated, present = [b for b in bonds if b.annotated], [b for b in bonds if b.present]
    odd = [b for b in bonds if not b.present]
    extra = [b for b in bonds if b.status == "extra"]
    words = [f"{b} is {b.status}" + ("" if np.isnan(b.distance) else f" ({b.distance:.2f} Å)") for b in odd]
    words += [f"{b} is not stated" for b in extra[:6]] if stated else []
    why = "; ".join(words) or ("Sγ–Sγ within 1.7–2.5 Å in one conformer." if bonds else "No two sulfurs are within reach.")
    if extra and not stated:
        why = f"The file states none. {why}"
    verdict: Verdict = "warn" if odd or (extra and stated) else "pass" if stated else "info"
    title = "Disulfide bonds found, and stated by the file"
    return Finding("disulfide.bonds", title, verdict, float(len(present)), float(len(stated)), why=why)


def _summary(table: Scan) -> str:
    structure = table.structure
    count = sum(b.bonded for b in table.bonds)
    new = [row for row in _top(table, 40) if not row.existing and row.net is not None and row.net > 0]
    text = f"{counted(len(structure), 'residue')}, {counted(count, 'disulfide bond')}, "
    text += f"{counted(len(table), 'pair')} that could be bonded. "
    if new:
        text += f"The best that is not there is {new[0]}, a loop of {new[0].length}. "
    text += (
        "Rows are ranked by net: what closing the loop takes from the unfolded chain, less the strain of the bridge and what "
        "bringing the residues to its length costs. It is a score to choose experiments by, no prediction of stability."
    )
    notes = "; ".join(table.notes)
    return text + (f"\n\n{notes[0].upper()}{notes[1:]}." if notes else "")


def _top(table: Scan, count: int) -> list[Candidate]:
    return [table[k] for k in range(min(count, len(table)))]


def _bonds(table: Scan) -> Table:
    heads = ["bond", "status", "S–S", "χ3", "χ1", "χ1′", "strain", "dihedral", "loop"]
    rows: list[list[float | str | None]] = []
    remarks: list[str] = []
    for b in table.bonds:
        numbers = [b.distance, b.chi3, *b.chi1, b.energy, b.strain]
        plain = [None if math.isnan(value) else round(value, 2) for value in numbers]
        rows.append([_together(str(b)), b.status, *plain, None if b.length is None else float(b.length)])
        where = (b.conformer and f"conformer {b.conformer}", b.symmetry and f"mate {b.symmetry}")
        remarks.append(" ".join(word for word in where if word))
    if any(remarks):
        heads.append("where")
        rows = [[*row, remark] for row, remark in zip(rows, remarks, strict=True)]
    return Table("Bonds that are there (kcal/mol, Å, degrees)", heads, rows)


def _together(pair: str) -> str:
    """A pair that a narrow column does not break."""
    return pair.replace("–", "\u2060–\u2060")


def _picks(table: Scan) -> Table:
    rows: list[list[float | str | None]] = [
        [_together(str(p.candidate)), round(p.gain, 2), round(p.net, 2), "; ".join(p.candidate.warnings)] for p in table.picks
    ]
    return Table("Bonds that go together (kcal/mol)", ["pair", "gain on top", "net", "look at"], rows)


def _axis(table: Scan) -> tuple[np.ndarray, str]:
    """Where residues stand on an axis: by number if there is one chain and numbers rise, else in file order."""
    structure = table.structure
    numbers = np.array([residue.number for residue in structure.residues], dtype=np.float64)
    if len(structure.chains) == 1 and (np.diff(numbers) > 0).all():
        return numbers, f"residue of chain {structure.chains[0] or 'without name'}"
    ends = [int((structure.chain_index <= k).sum()) for k in range(len(structure.chains))]
    parts = [f"{name} to {end}" for name, end in zip(structure.chains, ends, strict=True)]
    return np.arange(1, len(structure) + 1, dtype=np.float64), f"residue in file order; chain {', '.join(parts[:8])}"


def _map(table: Scan) -> Figure:
    at, label = _axis(table)
    alpha = table.structure.atoms["CA"]
    there = np.flatnonzero(np.isfinite(alpha).all(axis=1))
    near = there[cKDTree(alpha[there]).query_pairs(GNM_CUTOFF - 2.0, output_type="ndarray")]
    near = near[np.abs(near[:, 0] - near[:, 1]) > 2][:: max(1, len(near) // 6000)]
    i, j = np.sort(near, axis=1).T
    series = [Series("Cα within 8 Å", at[j].tolist(), at[i].tolist(), "points")]
    free = np.flatnonzero(table.sites.partner[table.pairs[:, 0]] < 0)[:30]
    if len(free):
        best = np.sort(table.pairs[free], axis=1)
        series.append(Series("30 best pairs", at[best[:, 0]].tolist(), at[best[:, 1]].tolist(), "points"))
    own = np.array([(k, p) for k, p in enumerate(table.sites.partner) if p > k], dtype=np.int64).reshape(-1, 2)
    if len(own):
        series.append(Series("bonds that are there", at[own].ravel().tolist(), at[own[:, ::-1]].ravel().tolist(), "points"))
    short, _, chains = label.partition("; ")
    caption = "Below the diagonal what is near, above it what could be bonded; bonds that are there stand on both sides."
    caption += f" By {chains}." if chains else ""
    return Figure("Contact map", short, short, series, caption=caption, equal=True)


def _arc(start: float, end: float) -> tuple[list[float], list[float]]:
    """Half an ellipse over the chain, as high as its loop is long, and a pause after it."""
    turn = np.linspace(0, np.pi, 41)
    x = (start + end) / 2 - (end - start) / 2 * np.cos(turn)
    return [*x.tolist(), float("nan")], [*(abs(end - start) * np.sin(turn)).tolist(), float("nan")]


def _chain(table: Scan) -> Figure:
    at, label = _axis(table)
    own = [(k, int(p)) for k, p in enumerate(table.sites.partner) if p > k]
    index = table.structure.index
    if table.picks:
        name, new = "picked", [(index(p.candidate.a), index(p.candidate.b)) for p in table.picks]
    else:
        free = [row for row in _top(table, 60) if not row.existing and row.net is not None and row.net > 0][:_ARCS]
        name, new = f"{len(free)} best pairs with net > 0", [(index(row.a), index(row.b)) for row in free]
    series = []
    for title, pairs in (("bonds that are there", own), (name, new)):
        if pairs:
            arcs = [_arc(float(at[min(p)]), float(at[max(p)])) for p in pairs]
            series.append(Series(title, [v for x, _ in arcs for v in x], [v for _, y in arcs for v in y]))
    series.append(Series("chain", [float(at[0]), float(at[-1])], [0.0, 0.0], "points"))
    caption = "Each bond is an arc as high as its loop is long; arcs that cross or nest share a part of the chain."
    return Figure("Bonds along the chain", label, "loop (residues)", series, caption=caption)


def _strip(table: Scan) -> Figure:
    """The best net each residue takes part in, along the chain, beside its B factor."""
    at, label = _axis(table)
    best = np.full(len(at), np.nan)
    net = table.gain - table.bridge.energy - table.bridge.closing
    for k in range(len(table) - 1, -1, -1):  # the best comes last and stays
        if np.isfinite(net[k]) and table.sites.partner[table.pairs[k, 0]] < 0:
            best[table.pairs[k]] = net[k]
    shown = np.isfinite(best) & (best > -4)
    mark: Mark = "bars" if len(at) <= _BARS else "points"
    series = [Series("best net it takes part in (kcal/mol)", at[shown].tolist(), best[shown].tolist(), mark)]
    for kind, mask, level in (("proline", table.sites.proline, -4.4), ("glycine", table.sites.glycine, -4.8)):
        if mask.any():
            series.append(Series(kind, at[mask].tolist(), [level] * int(mask.sum()), "points"))
    bonded = table.sites.partner >= 0
    if bonded.any():
        series.append(Series("bonded cysteine", at[bonded].tolist(), [-5.2] * int(bonded.sum()), "points"))
    caption = f"Residues without a {'bar' if mark == 'bars' else 'point'} have no partner above −4 kcal/mol."
    return Figure("Residues", label, "net (kcal/mol)", series, caption=caption)
