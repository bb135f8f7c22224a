"""`residyn disulfide`, as a user meets it."""

import csv
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from residyn.cli import main
from residyn.protein import read, sample, scan
from residyn.results import Result

CRAMBIN = sample("1ejg")


def test_page_holds_the_table_the_map_and_the_arcs(tmp_path, capsys):
    page = tmp_path / "table.html"
    assert main(["disulfide", CRAMBIN, "-o", str(page)]) == 0
    text = page.read_text("utf-8")
    for word in (
        "Disulfides of 1EJG",
        "Contact map",
        "Bonds along the chain",
        "Residues",
        "Pairs that could be bonded",
        "A:3\u2060–\u2060A:40",
    ):
        assert word in text
    assert text.count("<svg") == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "written to" in captured.err


def test_csv_holds_every_row_of_the_scan(tmp_path):
    path = tmp_path / "table.csv"
    assert main(["disulfide", sample("5rsa"), "--rigid", "-o", str(path)]) == 0
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    table = scan(read(sample("5rsa")), flexible=False)
    assert len(rows) == len(table)
    for got, row in zip(rows, table, strict=True):
        assert (got["a"], got["b"]) == (str(row.a), str(row.b))
        assert float(got["net"]) == pytest.approx(row.net, abs=1e-4)
        assert float(got["distance"]) == pytest.approx(row.distance, abs=1e-4)
    assert rows[0]["existing"] == "is there"


def test_json_is_the_result(tmp_path, capsys):
    path = tmp_path / "table.json"
    assert main(["disulfide", CRAMBIN, "--pick", "1", "--exclude", "A:12", "-o", str(path), "--json"]) == 0
    result = Result.from_dict(json.loads(path.read_text("utf-8")))
    assert Result.from_dict(json.loads(capsys.readouterr().out)).to_dict() == result.to_dict()
    assert result.command == f"residyn disulfide {CRAMBIN} --pick 1 --exclude A:12"
    assert len(result.sections[0].tables[-1].rows) == len(scan(read(CRAMBIN), exclude="A:12"))


def test_script_and_text(tmp_path, capsys):
    assert main(["disulfide", CRAMBIN, "-o", str(tmp_path / "x.pml")]) == 0
    assert (tmp_path / "x.pml").read_text().count("show sticks") == 3
    assert main(["disulfide", CRAMBIN, "--chain", "A"]) == 0
    out = capsys.readouterr().out
    assert "Disulfide bonds found, and stated by the file" in out
    assert "the best 12 of" in out


@pytest.fixture
def folder(tmp_path):
    for entry in ("1ejg", "1ubi"):
        shutil.copy(sample(entry), tmp_path / f"{entry}.pdb.gz")
    (tmp_path / "broken.pdb").write_text("no structure\n")
    return tmp_path


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_batch_goes_on_past_a_broken_file(folder, capsys, jobs):
    files = [str(folder / name) for name in ("1ejg.pdb.gz", "broken.pdb", "1ubi.pdb.gz")]
    assert main(["disulfide", *files, "--jobs", jobs, "-o", str(folder / "all.json")]) == 1
    result = Result.from_dict(json.loads((folder / "all.json").read_text("utf-8")))
    assert [part.id for part in result.sections] == files
    assert "must be a PDB or mmCIF file with atoms" in result.sections[1].error
    assert not result.sections[0].error
    assert not list(folder.glob("*.partial.jsonl"))
    assert main(["disulfide", *files, "--jobs", jobs, "-o", str(folder / "all.csv")]) == 1
    heads = {row["file"] for row in csv.DictReader((folder / "all.csv").read_text("utf-8").splitlines())}
    assert heads == {files[0], files[2]}


def test_an_interrupted_batch_goes_on_where_it_was(folder, capsys, monkeypatch):
    from residyn.protein import assessment

    files = [str(folder / name) for name in ("1ejg.pdb.gz", "1ubi.pdb.gz")]
    output = str(folder / "all.json")
    real, seen = assessment.assess, []

    def once(path, wish=None):
        seen.append(path)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(path, wish)

    monkeypatch.setattr(assessment, "assess", once)
    assert main(["disulfide", *files, "-o", output]) == 130
    assert not (folder / "all.json").exists()
    assert (folder / "all.json.partial.jsonl").exists()
    monkeypatch.setattr(assessment, "assess", lambda path, wish=None: (seen.append(path), real(path, wish))[1])
    assert main(["disulfide", *files, "-o", output, "--resume"]) == 0
    assert seen == [files[0], files[1], files[1]]
    assert "1 files are done already" in capsys.readouterr().err
    whole = Result.from_dict(json.loads((folder / "all.json").read_text("utf-8")))
    assert [part.id for part in whole.sections] == files
    assert main(["disulfide", *files, "-o", output]) == 0
    again = Result.from_dict(json.loads((folder / "all.json").read_text("utf-8")))
    assert [part.tables for part in again.sections] == [part.tables for part in whole.sections]


def test_the_order_of_the_files_changes_no_row(folder):
    files = [str(folder / name) for name in ("1ejg.pdb.gz", "1ubi.pdb.gz")]
    rows = []
    for order in (files, files[::-1]):
        assert main(["disulfide", *order, "-o", str(folder / "all.csv")]) == 0
        rows.append((folder / "all.csv").read_text("utf-8").splitlines())
    assert rows[0] != rows[1]  # in the order asked for
    assert sorted(rows[0]) == sorted(rows[1])


def test_a_large_batch_keeps_no_figures_for_a_table(folder, monkeypatch):
    from residyn.atlas.store import Store

    monkeypatch.setattr("residyn.cli.disulfide._DRAWN", 1)
    kept, add = [], Store.add
    monkeypatch.setattr(Store, "add", lambda self, part, *a, **k: (kept.append(len(part.figures)), add(self, part, *a, **k)))
    files = [str(folder / name) for name in ("1ejg.pdb.gz", "1ubi.pdb.gz")]
    for ending, figures in ((".csv", 0), (".json", 3)):
        kept.clear()
        assert main(["disulfide", *files, "-o", str(folder / f"all{ending}")]) == 0
        assert kept == [figures] * 2


def test_an_empty_table_says_why(tmp_path, capsys):
    rows = [row for row in gzip.decompress(Path(sample("1ubi")).read_bytes()).decode().splitlines() if row[12:16] == " CA "]
    (tmp_path / "trace.pdb").write_text("\n".join(rows))
    assert main(["disulfide", str(tmp_path / "trace.pdb"), "-o", str(tmp_path / "x.csv")]) == 0
    assert "without a row" in (said := capsys.readouterr().err)
    assert "nothing can be designed on a trace of Cα" in said
    shutil.copy(sample("1ejg"), tmp_path / "whole.pdb.gz")
    files = [str(tmp_path / name) for name in ("trace.pdb", "whole.pdb.gz")]
    assert main(["disulfide", *files, "-o", str(tmp_path / "x.csv")]) == 0
    assert "without a row: trace.pdb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.pdb"], "`path` must be a file that exists, got 'absent.pdb'"),
        ([CRAMBIN, "--chain", "Z"], "`chain` must be one of A, got 'Z'"),
        ([CRAMBIN, "--pick", "99"], "`pick` must be at most"),
        ([CRAMBIN, "--exclude", "B:3"], "`exclude` must be one of 1EJG, got 'B:3'"),
        ([CRAMBIN, "--assembly", "9"], "`assembly` must be one that"),
        ([CRAMBIN, "-o", "x.docx"], "`-o` must end in one of .html .json .csv .pml .txt, got 'x.docx'"),
        ([CRAMBIN, "-o", "none/x.pml"], "`-o` must be in a folder that exists"),
        ([CRAMBIN, "--jobs", "0"], "`--jobs` must be at least 1, or -1 for one a core, got 0"),
        ([CRAMBIN, "--backend", "mpi"], "`--backend` must be one of loky, dask, ray, got 'mpi'"),
        ([CRAMBIN, "--resume"], "`--resume` must come with `-o FILE`"),
        ([], "Missing argument"),
    ],
)
def test_input_errors_are_one_line_and_exit_code_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["disulfide", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_truncated_gzip_is_named(tmp_path, capsys):
    path = tmp_path / "cut.pdb.gz"
    path.write_bytes(gzip.compress(b"ATOM\n" * 500)[:30])
    assert main(["disulfide", str(path)]) == 2
    assert "ends in the middle; fetch it again" in capsys.readouterr().err


def test_help_loads_no_torch():
    code = "import sys; from residyn.cli import main; main(['disulfide', '--help']); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("$ residyn disulfide") == 2
