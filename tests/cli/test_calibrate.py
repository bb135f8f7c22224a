"""`residyn calibrate`, as a user meets it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from residyn.cli import main
from residyn.results import Result


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.npz"], "absent.npz: must be a file that can be read"),
        (["x.npz", "--kind", "odds"], "`--kind` must be one of auto, logits, probabilities, got 'odds'"),
        (["x.npz", "-o", "x.docx"], "`-o` must end in one of"),
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
