"""`residyn graph`, as a user meets it."""

import json
import subprocess
import sys

import networkx
import pytest

from residyn.cli import main
from residyn.results import Result


@pytest.fixture
def file(tmp_path):
    networkx.write_graphml(networkx.karate_club_graph(), tmp_path / "club.graphml")
    return tmp_path / "club.graphml"


def test_report(file, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["graph", str(file), "--depth", "8", "--layers", "4", "--epochs", "20", "-o", str(page)]) == 0
    text = page.read_text("utf-8")
    assert "Energy by depth" in text
    assert "Node classification" in text
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "written to" in captured.err


def test_json_repeats(tmp_path, capsys):
    (tmp_path / "g.txt").write_text("a b\nb c\nc d\nd a\na c\n")
    found = []
    for _ in range(2):
        assert main(["graph", str(tmp_path / "g.txt"), "--json", "--depth", "4", "--seed", "2"]) == 0
        found.append(Result.from_dict(json.loads(capsys.readouterr().out)))
    assert found[0].findings == found[1].findings
    assert "--seed 2" in found[0].command
    assert main(["graph", str(tmp_path / "g.txt"), "--depth", "4"]) == 0
    assert "Largest stable η" in capsys.readouterr().out


def test_a_step_past_the_limit_is_said(tmp_path, capsys):
    path = tmp_path / "ring.txt"
    path.write_text("".join(f"{i} {(i + 1) % 8}\n" for i in range(8)))
    # with a loop at each node the ring of 8 has λ_max = 1 - (1 + 2·cos π)/3 = 4/3, so the limit is 3/2
    for eta, verdict in (("1.4", "pass"), ("1.6", "warn")):
        main(["graph", str(path), "--eta", eta, "--depth", "64", "--json"])
        result = Result.from_dict(json.loads(capsys.readouterr().out))
        found = [finding for finding in result.findings if finding.id == "graph.eta"]
        assert (result.verdict, len(found)) == (verdict, verdict == "warn")
        assert ("past its limit and grows" in result.sections[0].summary) == (verdict == "warn")
    assert found[0].theory == pytest.approx(1.5, rel=1e-9)  # an eigenvalue by bisection of 1e-10 or finer
    assert found[0].fix == "take --eta 0.75, half of the limit"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.txt"], "`FILE` must be a file that is there, got 'absent.txt'"),
        (["x.txt", "--depth", "0"], "`--depth` must be at least 1, got 0"),
        (["x.txt", "--anchor", "1"], "`--anchor` must lie in (0, 1), got 1"),
        (["x.txt", "--eta", "-1"], "`--eta` must be > 0, got -1"),
        (["x.txt", "-o", "x.docx"], "`-o` must end in one of"),
        (["x.txt", "--jobs", "0"], "`--jobs` must be at least 1"),
        (["x.txt", "y.txt", "--resume"], "`--resume` must come with `-o FILE`"),
        ([], "Missing argument"),
    ],
)
def test_input_errors_are_one_line_and_exit_code_2(words, message, capsys):
    assert main(["graph", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_negative_and_missing_weights(tmp_path, capsys):
    for weight in ("-1", "nan"):
        (tmp_path / "g.txt").write_text(f"a b {weight}\n")
        assert main(["graph", str(tmp_path / "g.txt")]) == 2
        assert "`weight` must be" in capsys.readouterr().err


def test_several_graphs_are_a_batch_and_one_that_cannot_be_read_leaves_the_others(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a b\nb c\nc d\nd a\na c\n")
    (tmp_path / "b.txt").write_text("a b\nb c 2\n")
    (tmp_path / "bad.txt").write_text("a b nan\n")
    names = [str(tmp_path / f"{name}.txt") for name in ("a", "bad", "b")]
    page = tmp_path / "graphs.json"
    assert main(["graph", *names, "-o", str(page), "--depth", "4"]) == 1
    assert "written to" in capsys.readouterr().err
    found = Result.from_dict(json.loads(page.read_text("utf-8")))
    assert [section.id for section in found.sections] == names
    assert [section.error for section in found.sections][::2] == ["", ""]
    assert "`weight` must be finite" in found.sections[1].error
    assert main(["graph", names[0], "--json", "--depth", "4"]) == 0
    alone = Result.from_dict(json.loads(capsys.readouterr().out))
    assert alone.findings == found.sections[0].findings
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_help_does_not_load_torch():
    code = "import sys; from residyn.cli import main; main(['graph', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
