"""`residyn calibrate`, as a user meets it."""

import json
import subprocess
import sys

import jsonschema
import numpy as np
import pytest

from residyn.cli import main
from residyn.results import Result
from residyn.schemas import VERBS, schema


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(1000, 4))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.savez(tmp_path / "scores.npz", logits=2 * z, labels=(p.cumsum(1) > rng.random((1000, 1))).argmax(1))
    return tmp_path / "scores.npz"


def test_report(file, tmp_path, capsys):
    assert main(["calibrate", str(file), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Reliability before" in page
    assert "Calibration of scores.npz" in page
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "written to" in captured.err


def test_json_repeats(file, capsys):
    found = []
    for _ in range(2):
        assert main(["calibrate", str(file), "--json", "--seed", "2"]) == 0
        found.append(Result.from_dict(json.loads(capsys.readouterr().out)))
    assert found[0].findings == found[1].findings
    assert found[0].command.endswith("--seed 2")


@pytest.fixture
def files(file, monkeypatch):
    """Three files in the folder, the second of which is broken."""
    monkeypatch.chdir(file.parent)
    with np.load(file) as held:
        z, y = held["logits"], held["labels"]
    np.savez("a.npz", logits=z[:500], labels=y[:500])
    np.savez("bad.npz", logits=z[:500], labels=y[:400])
    np.savez("b.npz", logits=z[500:], labels=y[500:])
    return ["a.npz", "bad.npz", "b.npz"]


def written(path):
    """What a batch wrote, by file, without the time it took."""
    plain = json.loads(path.read_text("utf-8"))
    jsonschema.Draft202012Validator(schema(VERBS.get("calibrate", "result"))).validate(plain)
    return {part["id"]: {**part, "seconds": 0} for part in plain["sections"]}


def test_a_batch_is_the_same_in_any_order_and_a_broken_file_stands_apart(files, tmp_path, capsys):
    # workers that an earlier test started are in another folder
    pytest.importorskip("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)
    found = []
    for more in (files, files[::-1], [*files, "--jobs", "2"], [*files, files[0]]):
        assert main(["calibrate", *more, "-o", "all.json"]) == 1
        found.append(written(tmp_path / "all.json"))
    assert list(found[0]) == files
    assert list(found[1]) == files[::-1]
    assert all(other == found[0] for other in found)
    assert "500" in found[0]["bad.npz"]["error"]
    assert found[0]["bad.npz"]["title"] == "Calibration of bad.npz"
    capsys.readouterr()
    assert main(["calibrate", "b.npz", "--json"]) in (0, 1)
    alone = json.loads(capsys.readouterr().out)["sections"][0]
    assert alone["id"] == "calibrate"
    assert {key: alone[key] for key in ("title", "data")} == {key: found[0]["b.npz"][key] for key in ("title", "data")}
    assert [f["id"] for f in alone["findings"]] == [f["id"] for f in found[0]["b.npz"]["findings"]]


def test_one_test_file_judges_all(files, tmp_path, capsys):
    assert main(["calibrate", "a.npz", "b.npz", "--test", "scores.npz", "-o", "all.json"]) in (0, 1)
    parts = written(tmp_path / "all.json")
    assert parts["a.npz"]["data"] == "a.npz: 500 samples for λ; 1000 others for the test; 4 classes"
    assert parts["b.npz"]["data"] == "b.npz: 500 samples for λ; 1000 others for the test; 4 classes"
    capsys.readouterr()
    assert main(["calibrate", "a.npz", "b.npz", "--test", "absent.npz", "-o", "all.json"]) == 2
    assert "absent.npz: must be a file that can be read" in capsys.readouterr().err


def test_an_interrupted_batch_goes_on_where_it_was(files, tmp_path, capsys, monkeypatch):
    from residyn.calibrate import reading

    real, seen = reading.read, []

    def once(path, **options):
        seen.append(path)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(path, **options)

    monkeypatch.setattr(reading, "read", once)
    words = ["calibrate", "a.npz", "b.npz", "-o", "all.json"]
    assert main(words) == 130
    assert "1 of 2 files are kept in all.json.partial.jsonl; --resume goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "all.json").exists()
    code = main([*words, "--resume"])
    assert seen == ["a.npz", "b.npz", "b.npz"]
    assert "1 files are done already" in capsys.readouterr().err
    whole = written(tmp_path / "all.json")
    assert main(words) == code
    assert written(tmp_path / "all.json") == whole
    assert not list(tmp_path.glob("*.partial.jsonl"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.npz"], "absent.npz: must be a file that can be read"),
        (["x.npz", "--kind", "odds"], "`--kind` must be one of auto, logits, probabilities, got 'odds'"),
        (["x.npz", "-o", "x.docx"], "`-o` must end in one of"),
        (["x.npz", "y.npz", "--resume"], "`--resume` must come with `-o FILE`, got none"),
        (["x.npz", "--jobs", "0"], "`--jobs` must be at least 1, or -1 for one a core, got 0"),
        ([], "Missing argument"),
    ],
)
def test_input_errors_are_one_line_and_exit_code_2(words, message, capsys):
    assert main(["calibrate", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_help_does_not_load_torch():
    code = "import sys; from residyn.cli import main; main(['calibrate', '--help']); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("$ residyn calibrate") == 2


def test_options_of_a_batch_are_refused_at_once(files, capsys):
    assert main(["calibrate", *files, "--bins", "0"]) == 2
    assert capsys.readouterr().err == "residyn: `--bins` must be a whole number >= 1, got 0; 15 is usual\n"
