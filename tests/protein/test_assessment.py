"""Sections and scripts: what a reader is told, and what a file's names cannot do."""

import dataclasses

from residyn.protein import read, sample, scan
from residyn.protein.assessment import CANDIDATES, COLUMNS, Wish, assess, candidates, readable, section
from residyn.protein.pymol import script
from residyn.results import Result

from .pdbtext import lines, write
from .test_bonds import cystine


def found(part, name):
    return next((f for f in part.findings if f.id == f"disulfide.{name}"), None)


def test_a_section_says_bonds_sum_and_best():
    part = assess(sample("5rsa"))
    assert found(part, "bonds").verdict == "pass"
    assert (found(part, "bonds").value, found(part, "bonds").theory) == (4.0, 4.0)
    joint = found(part, "joint")
    assert joint.value > joint.theory  # the sum costs more than the set
    assert found(part, "best").title.startswith("Best pair that is not bonded: A:4–A:118 (ALA, VAL)")
    assert [f.title for f in part.figures] == ["Contact map", "Bonds along the chain", "Residues"]
    assert [t.title for t in part.tables] == ["Bonds that are there (kcal/mol, Å, degrees)", CANDIDATES]
    assert Result.from_dict(Result("disulfide", "x", [part]).to_dict()).sections[0].findings == part.findings


def test_no_melting_temperature_is_ever_printed():
    text = Result("disulfide", "x", [assess(sample("5pti"), Wish(pick=2))]).to_json()
    for word in ("ΔTm", "Tm", "ΔΔG", "°C"):
        assert word not in text


def test_full_and_readable_tables():
    table = scan(read(sample("5rsa")))
    full = candidates(table)
    assert len(full.rows) == len(table)
    assert all(len(row) == len(COLUMNS) for row in full.rows)
    page = readable(full, 10)
    assert len(page.rows) == 10
    assert page.title.endswith(f"the best 10 of {len(table)}")
    assert all(len(row) == len(page.columns) for row in page.rows)
    assert page.rows[0][1] == "A:58\u00a0CYS"
    assert readable(full, 10**6).title == CANDIDATES


def test_a_page_says_warnings_in_few_words():
    table = scan(read(sample("5rsa")))
    full, page = candidates(table), readable(candidates(table), 10**6)
    place = [name for name, _ in COLUMNS].index("warnings")
    said = {str(long[place]): str(short[-1]) for long, short in zip(full.rows, page.rows, strict=True)}
    assert said["existing bond"] == "is there"
    assert said["proline A:117 loses its ring"] == "Pro\u00a0A:117"
    assert said["A:57 is next to the bond at A:58"] == "A:57 beside A:58"
    assert any(short.startswith("Gly\u00a0A:") for short in said.values())
    assert all(len(short) < len(long) for long, short in said.items() if long)


def test_many_residues_are_points(tmp_path):
    rows = [row for row in lines("5rsa") if row.startswith("ATOM")]
    many = [
        f"{row[:21]}{name}{row[22:30]}{float(row[30:38]) + 60 * k:8.3f}{row[38:]}"
        for k, name in enumerate("ABC")
        for row in rows
    ]
    assert assess(str(write(tmp_path, many))).figures[2].series[0].mark == "points"
    assert assess(sample("5rsa")).figures[2].series[0].mark == "bars"


def test_picks_are_told():
    part = assess(sample("1ubi"), Wish(pick=2, exclude="A:27"))
    assert "2 bonds that go together" in found(part, "picks").title
    assert part.tables[0].title.startswith("Bonds that go together")
    assert part.figures[1].series[0].label == "picked"
    assert found(part, "bonds").verdict == "info"


def test_what_disagrees_is_a_warning(tmp_path):
    rows = [row for row in lines("5rsa") if not (row.startswith("ATOM") and row[12:16] == " SG " and int(row[22:26]) == 84)]
    finding = found(assess(str(write(tmp_path, rows))), "bonds")
    assert finding.verdict == "warn"
    assert finding.why == "A:26–A:84 is missing"
    one = next(row for row in lines("5rsa") if row.startswith("SSBOND   2"))
    finding = found(assess(str(write(tmp_path, [row for row in lines("5rsa") if row != one]))), "bonds")
    assert finding.verdict == "warn"
    assert finding.why.endswith("is not stated")
    silent = [row for row in lines("5rsa") if not row.startswith("SSBOND")]
    assert found(assess(str(write(tmp_path, silent))), "bonds").why.startswith("The file states none.")


def test_several_chains_and_traces_have_their_figures(tmp_path):
    two = assess(str(write(tmp_path, cystine())))
    assert two.figures[1].xlabel == "residue in file order; chain A to 1, B to 2"
    assert two.figures[0].caption.endswith("By chain A to 1, B to 2.")
    trace = assess(str(write(tmp_path, [row for row in lines("1ubi") if row[12:16] == " CA "], "trace.pdb")))
    assert len(trace.tables[-1].rows) == 0
    assert "nothing can be designed on a trace of Cα" in trace.summary
    single = assess(
        str(write(tmp_path, [row for row in lines("1ubi") if row.startswith("ATOM") and int(row[22:26]) == 5], "one.pdb"))
    )
    assert single.figures == []


def test_a_script_draws_bonds_and_candidates():
    text = script([assess(sample("5rsa"))], limit=3)
    assert text.count("show sticks") == 4
    assert text.count("distance ") == 3
    assert "distance 5rsa_1, 5rsa and (chain A and resi 4) and name CB+CA, 5rsa and (chain A and resi 118)" in text


def test_a_script_runs_nothing_that_a_name_says():
    table = scan(read(sample("1ubi")))
    chain = "A)\nimport os;python"
    evil = tuple(dataclasses.replace(r, chain=chain) for r in table.structure.residues)
    table = dataclasses.replace(table, structure=dataclasses.replace(table.structure, residues=evil))
    text = script([section(table, "x.pdb\nimport os")])
    assert "import" not in text
    assert "python" not in text


def test_titles_hold_the_name_of_the_entry():
    assert section(scan(read(sample("5pti"))), "5pti.cif").title == "Disulfides of 5PTI"
