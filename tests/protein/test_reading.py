"""Files as they come: every odd one is read for what it holds, or refused in one line."""

import contextlib
import gzip

import gemmi
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residyn.errors import InputError, ResidynError
from residyn.protein import find_disulfides, read
from residyn.protein.reading import select
from residyn.protein.samples import SAMPLES, sample
from residyn.protein.structure import Residue

from .pdbtext import atom, lines, write

SIZES = {"1ejg": 46, "1ubi": 76, "5pti": 58, "5rsa": 124}  # residues of the four entries, by their SEQRES


@pytest.mark.parametrize("entry", SAMPLES)
def test_samples_are_whole(entry):
    protein = read(sample(entry))
    assert len(protein) == SIZES[entry]
    assert protein.complete.all()
    assert not protein.predicted
    assert list(protein.position) == list(range(SIZES[entry]))
    glycines = [r.name == "GLY" for r in protein.residues]
    assert (protein.built == glycines).all()  # no Cβ on a glycine, and on all others


def test_unknown_sample():
    with pytest.raises(InputError, match=r"`entry` must be one of 1ejg, .*, got '1abc'"):
        sample("1abc")


def test_mmcif_says_the_same_as_pdb(tmp_path):
    model = gemmi.read_structure(sample("5rsa"))
    model.setup_entities()
    model.make_mmcif_document().write_file(str(tmp_path / "x.cif"))
    a, b = read(sample("5rsa")), read(tmp_path / "x.cif")
    assert a.residues == b.residues
    for name in a.atoms:
        np.testing.assert_allclose(a.atoms[name], b.atoms[name], atol=1e-3)  # both files hold 3 decimals
    assert [str(x) for x in find_disulfides(a)] == [str(x) for x in find_disulfides(b)]


def test_plain_and_gzipped_are_read_whatever_their_name(tmp_path):
    plain = write(tmp_path, lines(), "crambin.txt")
    packed = tmp_path / "crambin"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read(plain).residues == read(packed).residues == read(sample("1ejg")).residues


def test_one_consistent_conformer():
    # 1EJG describes residue 22 as PRO (A) or SER (B) and 25 as LEU (A) or ILE (B); A has the larger occupancy in all
    protein = read(sample("1ejg"))
    assert protein.conformer == "A"
    assert protein.residues[21].name == "PRO"
    assert protein.residues[24].name == "LEU"


def test_conformers_are_not_mixed(tmp_path):
    # B is the likelier in one residue, A in all: A is taken throughout
    rows = []
    for number, (a, b) in enumerate([(0.4, 0.6), (0.9, 0.1)], start=1):
        for k, name in enumerate(("N", "CA", "C", "CB")):
            for label, share, shift in (("A", a, 0.0), ("B", b, 0.5)):
                place = (3.8 * number + k, shift, k % 2)
                rows.append(
                    atom(len(rows) + 1, name, "ALA", "A", number, place, altloc=label, occupancy=share, element=name[0])
                )
    protein = read(write(tmp_path, rows))
    assert protein.conformer == "A"
    assert (protein.atoms["CA"][:, 1] == 0.0).all()


def test_gaps_count_by_numbering(tmp_path):
    gap = [row for row in lines("5rsa") if not (row.startswith(("ATOM", "ANISOU")) and 60 <= int(row[22:26]) <= 69)]
    protein = read(write(tmp_path, gap))
    assert len(protein) == 114
    assert protein.position[-1] - protein.position[0] == 123
    assert next(x for x in find_disulfides(protein) if x.a.number == 58).length == 110 - 58


def test_insertions_count_and_skipped_numbers_do_not(tmp_path):
    # ubiquitin's residues 10…14 renumbered 10, 10A, 10B, 11, 20: all are peptide neighbours, so each is one further
    names = {10: "  10 ", 11: "  10A", 12: "  10B", 13: "  11 ", 14: "  20 "}
    rows = []
    for row in lines("1ubi"):
        if row.startswith(("ATOM", "ANISOU")):
            number = int(row[22:26])
            rows.append(row[:22] + names.get(number, f"{number if number < 10 else number + 10:4d} ") + row[27:])
    protein = read(write(tmp_path, rows))
    assert list(protein.position) == list(range(76))
    assert protein.residues[10] == Residue("A", 10, "A")
    assert str(protein.residues[protein.index("A:10B")]) == "A:10B"


def test_records_too_long_are_cut(tmp_path):
    rows = [f"{row[:78]:<78}1x2y" if row.startswith("ATOM") else row for row in lines("1ubi")]
    protein = read(write(tmp_path, rows))
    assert len(protein) == 76
    assert protein.notes[0].startswith("columns beyond 78 were left out")


@pytest.mark.parametrize("name", ["CYX", "CYM"])
def test_names_of_force_fields(tmp_path, name):
    rows = [row.replace("CYS", name) for row in lines("5rsa") if not row.startswith(("SEQRES", "SSBOND"))]
    protein = read(write(tmp_path, rows))
    assert len(protein) == 124
    assert [x.status for x in find_disulfides(protein)] == ["extra"] * 4


def selenated(row):
    """A cysteine or methionine with selenium for sulfur."""
    names = {"CYS": ("SEC", " SG "), "MET": ("MSE", " SD ")}
    if not row.startswith("ATOM") or row[17:20] not in names:
        return row
    name, sulfur = names[row[17:20]]
    atom_name, element = ("SE  ", "SE") if row[12:16] == sulfur else (row[12:16], row[76:])
    return f"HETATM{row[6:12]}{atom_name}{row[16]}{name}{row[20:76]}{element}"


def test_selenium(tmp_path):
    rows = [selenated(row) for row in lines("5rsa")]
    protein = read(write(tmp_path, [row for row in rows if not row.startswith(("SSBOND", "SEQRES"))]))
    assert len(protein) == 124
    assert len(protein.sulfurs) == 8  # a selenomethionine has no bond to give
    assert len(find_disulfides(protein)) == 4


@pytest.mark.parametrize("name", ["SEC", "PYL", "UNK"])
def test_a_rare_residue_of_a_chain_that_no_record_ends(tmp_path, name):
    # HETATM by convention; programs that write no TER record make the parser take it for the first ligand
    body = [row for row in lines("5rsa") if row.startswith("ATOM") and row[17:20] != "DOD"]
    rows = ["HETATM" + row[6:17] + name + row[20:] if int(row[22:26]) == 50 else row for row in body]
    assert not any(row.startswith("TER") for row in rows)
    protein = read(write(tmp_path, rows))
    assert [r.number for r in protein.residues] == list(range(1, 125))
    assert protein.residues[49].name == name


def test_an_amino_acid_that_is_a_ligand_stays_out(tmp_path):
    body = [row for row in lines("5rsa") if row.startswith("ATOM")]
    far = [row[:22] + " 301" + row[26:30] + f"{float(row[30:38]) + 90:8.3f}" + row[38:] for row in body if row[22:26] == "  50"]
    rows = [*body, "TER", *("HETATM" + row[6:] for row in far)]
    assert len(read(write(tmp_path, rows))) == 124


def test_atoms_without_occupancy_and_b_factor(tmp_path):
    rows = [row[:54].rstrip() for row in lines("5rsa") if row.startswith("ATOM")]
    path = tmp_path / "bare.pdb"
    path.write_text("\n".join(rows))  # and the last line without its end
    protein = read(path)
    assert len(protein) == 124
    assert len(find_disulfides(protein)) == 4


def test_first_model_only(tmp_path):
    body = [row for row in lines("1ubi") if row.startswith("ATOM")]
    shifted = [row[:30] + f"{float(row[30:38]) + 50:8.3f}" + row[38:] for row in body]
    rows = ["MODEL        1", *body, "ENDMDL", "MODEL        2", *shifted, "ENDMDL", "END"]
    protein = read(write(tmp_path, rows))
    np.testing.assert_allclose(protein.atoms["CA"], read(sample("1ubi")).atoms["CA"])
    assert "the first of 2 models" in protein.notes


def test_predicted_models_are_recognised(tmp_path):
    rows = ["TITLE     ALPHAFOLD MONOMER V2.0 PREDICTION FOR UBIQUITIN", *(r for r in lines("1ubi") if r.startswith("ATOM"))]
    protein = read(write(tmp_path, rows))
    assert protein.predicted
    assert "confidence" in protein.notes[-1]


def test_a_crystal_solved_with_a_prediction_is_measured(tmp_path):
    # deposited entries name the search model of their molecular replacement
    body = [row for row in lines("1ubi") if row.startswith("ATOM")]
    remark = "REMARK 200 STARTING MODEL: ALPHAFOLD"
    assert not read(write(tmp_path, ["EXPDTA    X-RAY DIFFRACTION", remark, *body])).predicted
    assert not read(write(tmp_path, ["EXPDTA    ELECTRON MICROSCOPY", remark, *body])).predicted
    assert read(write(tmp_path, [remark, *body])).predicted
    assert read(write(tmp_path, ["EXPDTA    THEORETICAL MODEL (SWISS-MODEL SERVER)", *body])).predicted


def test_a_confidence_that_stands_behind_the_atoms_is_seen(tmp_path):
    block = gemmi.read_structure(str(sample("1ubi"))).make_mmcif_document().sole_block()
    block.find_mmcif_category("_exptl.").erase()
    block.set_pair("_comment.text", gemmi.cif.quote("x" * 300_000))
    table = block.init_loop("_ma_qa_metric.", ["id", "name"])
    table.add_row(["1", "pLDDT"])
    path = tmp_path / "model.cif"
    path.write_text(block.as_string())
    assert read(path).predicted


def two_chains(tmp_path):
    body = [row for row in lines("1ubi") if row.startswith("ATOM")]
    other = [f"{row[:21]}B{row[22:30]}{float(row[30:38]) + 60:8.3f}{row[38:]}" for row in body]
    return write(tmp_path, [*body, "TER", *other, "END"])


def test_chains(tmp_path):
    path = two_chains(tmp_path)
    both = read(path)
    assert both.chains == ("A", "B")
    assert list(both.position[74:78]) == [74, 75, 0, 1]
    assert read(path, chain="B").chains == ("B",)
    assert len(read(path, chain="A,B")) == 152
    with pytest.raises(InputError, match="`chain` must be one of A, B, got 'b'; names are case-sensitive"):
        read(path, chain="b")
    with pytest.raises(InputError, match="`residue` must say its chain, got '9'; write A:9"):
        both.index("9")


def test_select_keeps_bonds_and_sulfurs():
    protein = read(sample("5rsa"))
    assert find_disulfides(select(protein, "A")) == find_disulfides(protein)


def test_addresses():
    protein = read(sample("1ejg"))
    assert protein.index(3) == protein.index("3") == protein.index("A:3") == protein.index("A:CYS3") == 2
    with pytest.raises(InputError, match=r"`residue` must be one of 1EJG, got 'A:90'; it has A:1 to A:46"):
        protein.index("A:90")
    with pytest.raises(InputError, match="`residue` must be a number or an address such as \"A:9\", got 'nine'"):
        protein.index("nine")


def test_assembly(tmp_path):
    remark = [
        "REMARK 350 BIOMOLECULE: 1",
        "REMARK 350 AUTHOR DETERMINED BIOLOGICAL UNIT: DIMERIC",
        "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A",
        "REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000",
        "REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000",
        "REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000",
        "REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000       90.00000",
        "REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000",
        "REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000",
    ]
    path = write(tmp_path, [*remark, *(row for row in lines("1ubi") if row.startswith(("ATOM", "TER")))])
    assert len(read(path)) == 76
    pair = read(path, assembly="1")
    assert len(pair) == 152
    assert len(pair.chains) == 2
    with pytest.raises(InputError, match=r"`assembly` must be one that .* states, got '7'; it has 1"):
        read(path, assembly="7")


def test_missing_beta_is_built_where_it_belongs(tmp_path):
    # rebuilt from the backbone, Cβ of an L-amino acid stands where bond angles that vary by some 5° put it: 1.53 Å·5° = 0.13 Å
    whole = read(sample("1ubi"))
    bare = read(write(tmp_path, [row for row in lines("1ubi") if row[12:16] != " CB "]))
    real = ~whole.built
    off = np.linalg.norm(bare.atoms["CB"] - whole.atoms["CB"], axis=1)[real]
    assert np.quantile(off, 0.95) < 2 * 0.13
    assert off.mean() < 0.1
    assert bare.built.all()
    assert any("Cβ missing in the file were built" in note for note in bare.notes)


def test_alpha_only(tmp_path):
    protein = read(write(tmp_path, [row for row in lines("1ubi") if row[12:16] == " CA "]))
    assert len(protein) == 76
    assert not protein.complete.any()
    assert list(protein.position) == list(range(76))
    assert find_disulfides(protein) == []


REFUSED = {
    "nothing": (b"", "which is empty"),
    "blank": (b" \n\n", "which is empty"),
    "prose": (b"Dear Sir or Madam,\nplease find enclosed\n", "must be a PDB or mmCIF file with atoms, got"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "must be a PDB or mmCIF file"),
    "cif without atoms": (b"data_x\n_a.b 1\n", "must be a PDB or mmCIF file with atoms"),
    "broken cif": (b"data_x\nloop_\n_a.b\n_a.c\n1\n", "which is no mmCIF file"),
    "truncated": (gzip.compress(b"ATOM" * 1000)[:40], "which ends in the middle; fetch it again"),
    "damaged": (b"\x1f\x8b\x08\x00" + b"\xff" * 60, "must be a whole gzip file"),
    "nucleic": (
        "\n".join(atom(k, n, "DA", "A", 1, (k, 0, 0), element=n[0]) for k, n in enumerate(("P", "C1'", "N9"))).encode(),
        "without amino-acid residues; nucleic acids have no disulfides",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(tmp_path, case):
    content, words = REFUSED[case]
    path = tmp_path / "x.pdb"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="`path` must be a file that exists"):
        read(tmp_path / "none.pdb")
    with pytest.raises(InputError, match="`path` must be a file that can be read"):
        read(tmp_path)


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("residyn.protein.reading.LIMIT", 10_000)
    (tmp_path / "x.pdb.gz").write_bytes(gzip.compress(b" " * 20_000))
    with pytest.raises(InputError, match="must unpack to at most"):
        read(tmp_path / "x.pdb.gz")


def tried(folder, content):
    path = folder / "fuzz"
    path.write_bytes(content)
    with contextlib.suppress(ResidynError):  # anything else is a crash
        find_disulfides(read(path))


FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.binary(max_size=400))
def test_any_bytes_end_in_a_structure_or_a_typed_error(tmp_path, content):
    tried(tmp_path, content)


PDB = "\n".join(lines("1ejg")).encode()
with gzip.open(sample("5pti"), "rb") as _page:
    CIF = _page.read()


@FUZZ
@given(st.booleans(), st.data())
def test_damaged_files_end_in_a_structure_or_a_typed_error(tmp_path, cif, data):
    base = CIF if cif else PDB
    start = data.draw(st.integers(0, len(base) - 1))
    cut = data.draw(st.integers(0, 3000))
    patch = data.draw(st.binary(max_size=12))
    tried(tmp_path, base[:start] + patch + base[start + cut :])
    tried(tmp_path, base[:start])
