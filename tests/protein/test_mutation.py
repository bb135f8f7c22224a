"""Mutants read back as what was asked for."""

import dataclasses

import numpy as np
import pytest

from residyn.errors import InputError, ResidynError
from residyn.protein import find_disulfides, mutate, read, sample, scan

from .pdbtext import lines, write


@pytest.mark.parametrize("ending", ["pdb", "cif", "ent.gz", "cif.gz"])
def test_a_mutant_is_read_back_with_its_bond(tmp_path, ending):
    protein = read(sample("1ubi"))
    path = tmp_path / f"mutant.{ending}"
    made = mutate(protein, (4, "A:66"), path)
    back = read(path)
    assert [r.name for r in back.residues if r.number in (4, 66)] == ["CYS", "CYS"]
    (bond,) = find_disulfides(back)
    assert (bond.a.number, bond.b.number, bond.status) == (4, 66, "annotated")
    assert bond.distance == pytest.approx(2.04, abs=2e-3)  # three decimals a coordinate
    row = scan(protein, flexible=False)
    row = row[row.rank(4, 66) - 1]
    assert bond.energy == pytest.approx(row.strain, abs=0.02)
    np.testing.assert_allclose(bond.chi1, row.chi1, atol=0.2)
    others = [k for k in range(76) if k not in (3, 65)]
    for name in ("N", "CA", "C", "O", "CB"):
        np.testing.assert_allclose(back.atoms[name][others], protein.atoms[name][others], atol=1e-3)
    assert made.clashes == len(made.near) or made.clashes > 0
    assert (str(made.a), made.a.name) == ("A:4", "PHE")


def test_the_structure_itself_is_left_alone(tmp_path):
    protein = read(sample("1ubi"))
    mutate(protein, (4, 66), tmp_path / "x.pdb")
    assert protein.model[0]["A"]["4"][0].name == "PHE"
    assert len(protein.model.connections) == 0


def test_glycine_gets_its_beta_and_wide_pairs_a_long_bond(tmp_path):
    protein = read(sample("1ubi"))
    made = mutate(protein, (10, 7), tmp_path / "x.pdb")
    back = read(tmp_path / "x.pdb")
    assert not back.built[back.index(10)]
    assert made.distance > 2.1


def test_variants_of_the_sequence_become_one_cysteine(tmp_path):
    # 1EJG has PRO or SER at 22; and its own bonds stay
    mutate(read(sample("1ejg")), (22, 30), tmp_path / "x.pdb")
    back = read(tmp_path / "x.pdb")
    assert len(back) == 46
    assert back.residues[21].name == "CYS"
    assert sum(x.status == "annotated" for x in find_disulfides(back)) >= 3


def test_a_cysteine_leaves_its_old_partner(tmp_path):
    mutate(read(sample("5rsa")), (26, 85), tmp_path / "x.pdb")
    stated = {(x.a.number, x.b.number) for x in read(tmp_path / "x.pdb").annotations}
    assert (26, 85) in stated
    assert (26, 84) not in stated


def test_clashes_are_counted(tmp_path):
    # a water put where the new sulfur will stand
    protein = read(sample("1ubi"))
    mutate(protein, (4, 66), tmp_path / "x.pdb")
    sulfur = next(s for s in read(tmp_path / "x.pdb").sulfurs if s.residue == 3)
    x, y, z = sulfur.position
    water = f"HETATM 9999  O   HOH A 999    {x + 1:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           O"
    rows = [row for row in lines("1ubi") if row.startswith("ATOM")]
    crowded = mutate(read(write(tmp_path, [*rows, water])), (4, 66), tmp_path / "y.pdb")
    alone = mutate(read(write(tmp_path, rows)), (4, 66), tmp_path / "z.pdb")
    assert crowded.clashes == alone.clashes + 1
    assert "A:HOH999" in crowded.near


def test_refused(tmp_path):
    protein = read(sample("1ubi"))
    with pytest.raises(InputError, match=r"`path` must end in one of .pdb .ent .cif .mmcif"):
        mutate(protein, (4, 66), tmp_path / "x.xyz")
    with pytest.raises(InputError, match="`path` must be in a folder that exists"):
        mutate(protein, (4, 66), tmp_path / "none" / "x.pdb")
    with pytest.raises(InputError, match="`pair` must be two different residues, got A:4 twice"):
        mutate(protein, (4, 4), tmp_path / "x.pdb")
    with pytest.raises(InputError, match="`pair` must be two residues, got 3"):
        mutate(protein, (4, 5, 6), tmp_path / "x.pdb")
    lost = dataclasses.replace(protein, model=None)
    with pytest.raises(InputError, match="`structure` must come from `read`"):
        mutate(lost, (4, 66), tmp_path / "x.pdb")
    bare = read(write(tmp_path, [row for row in lines("1ubi") if row[12:16] == " CA "]))
    with pytest.raises(InputError, match="`pair` must have N, Cα and C, got A:4 without"):
        mutate(bare, (4, 66), tmp_path / "y.pdb")
    (tmp_path / "taken.pdb").mkdir()
    with pytest.raises(ResidynError, match="could not be written"):
        mutate(protein, (4, 66), tmp_path / "taken.pdb")
    assert not list(tmp_path.glob(".*tmp"))
