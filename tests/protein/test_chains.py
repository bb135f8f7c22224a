"""Subunits that share a name are chains of their own: no loop is closed between them, and no number stands for two residues."""

import pytest
from tests.protein.pdbtext import lines, write

from residyn.protein import find_disulfides, mutate, read, sample, scan

BODY = [row for row in lines("1ejg") if row.startswith("ATOM")]


def moved(rows, *, chain="A", add=0, shift=0.0):
    """Rows with another chain name, numbers and place."""
    return [
        f"{row[:21]}{chain}{int(row[22:26]) + add:4d}{row[26:30]}{float(row[30:38]) + shift:8.3f}{row[38:]}" for row in rows
    ]


def test_chains_without_names_are_told_apart_by_ter(tmp_path):
    # as molecular-dynamics programs write them: no chain names, numbers that run on
    rows = [*moved(BODY, chain=" "), "TER", *moved(BODY, chain=" ", add=46, shift=12.0), "TER", "END"]
    protein = read(write(tmp_path, rows))
    assert protein.chains == ("A", "B")
    assert list(protein.position[[0, 45, 46, 91]]) == [0, 45, 0, 45]
    assert "chain without name holds 2: A, B" in protein.notes
    bonds = [x for x in find_disulfides(protein) if not x.symmetry]
    assert [x.length for x in bonds] == [37, 28, 10] * 2  # crambin's 3–40, 4–32, 16–26, in both
    across = [row for row in scan(protein) if row.a.chain != row.b.chain]
    assert across
    assert all(row.length is None and row.gain is None for row in across)


def test_one_chain_without_name_keeps_it(tmp_path):
    protein = read(write(tmp_path, [*moved(BODY, chain=" "), "TER", "END"]))
    assert protein.chains == ("",)
    assert not any("holds" in note for note in protein.notes)
    assert str(find_disulfides(protein)[0]) == ":3–:40"


@pytest.mark.parametrize("ter", [[], ["TER"]])
def test_numbers_that_come_again_are_another_chain(tmp_path, ter):
    rows = [*BODY, *ter, *moved(BODY, shift=60.0), *ter, "END"]
    protein = read(write(tmp_path, rows))
    assert protein.chains == ("A", "A2")
    assert len(protein) == 92
    assert [(x.a.chain, x.b.chain) for x in find_disulfides(protein) if not x.symmetry] == [("A", "A")] * 3 + [("A2", "A2")] * 3
    assert protein.index("A2:16") == 46 + 15


def test_the_copy_can_be_mutated(tmp_path):
    protein = read(write(tmp_path, [*BODY, "TER", *moved(BODY, shift=60.0), "TER", "END"]))
    path = tmp_path / "mutant.cif"
    mutate(protein, ("A2:1", "A2:37"), path)
    again = read(path)
    names = [r.name for r in again.residues]
    assert [k for k, (old, new) in enumerate(zip(protein.residues, names, strict=True)) if old.name != new] == [46, 46 + 36]


def test_a_gap_with_ter_stays_one_chain(tmp_path):
    first = [row for row in BODY if int(row[22:26]) <= 18]
    later = [row for row in BODY if int(row[22:26]) >= 22]
    protein = read(write(tmp_path, [*first, "TER", *later, "TER", "END"]))
    assert protein.chains == ("A",)
    assert protein.position[-1] == 45


def test_models_in_disorder_leave_the_first(tmp_path):
    # a number that comes twice, and a model that does not end: the parser refuses both
    rows = ["MODEL        1", *BODY, "ENDMDL", "MODEL        1", *BODY, "ENDMDL"]
    for broken in (rows, [row for row in rows if row != "ENDMDL"]):
        protein = read(write(tmp_path, broken))
        assert len(protein) == len(read(sample("1ejg")))
        assert any("all models but the first were left out" in note for note in protein.notes)
