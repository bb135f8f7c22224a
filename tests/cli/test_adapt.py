"""`residyn adapt`, as a user meets it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from residyn.cli import main
from residyn.results import Result
from residyn.transfer import load_adapted
from residyn.transfer.networks import network


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three classes in the plane's six-dimensional cousin; the target is stretched and moved."""
    folder = tmp_path_factory.mktemp("adapt")
    rng = np.random.default_rng(0)
    centres, y = 3 * rng.normal(size=(3, 6)), np.arange(240) % 3
    x = centres[y] + rng.normal(size=(240, 6))
    moved = 1.7 * (centres[y] + rng.normal(size=(240, 6))) + 5.0
    kinds = np.array(["ant", "bee", "cat, big"])
    header = "a,b,c,d,e,f,label"
    for name, values in (("source.csv", x), ("target.csv", moved)):
        rows = [",".join(f"{v:.5f}" for v in row) + f',"{kinds[k]}"' for row, k in zip(values, y, strict=True)]
        (folder / name).write_text("\n".join([header, *rows]) + "\n")
    np.savez(folder / "bare.npz", x=moved)
    return folder


QUICK = ["--steps", "30", "--width", "16"]


def test_report_branch_and_predictions(files, tmp_path, capsys):
    page, branch, table = (str(tmp_path / name) for name in ("page.html", "branch.safetensors", "classes.csv"))
    words = ["adapt", str(files / "source.csv"), str(files / "target.csv"), *QUICK]
    assert main([*words, "-o", page, "--branch", branch, "--predictions", table]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "corrections written to" in captured.err
    assert "From source.csv to target.csv" in (tmp_path / "page.html").read_text("utf-8")
    lines = (tmp_path / "classes.csv").read_text().splitlines()
    assert lines[0] == "sample,class,confidence"
    assert len(lines) == 241
    assert any('"cat, big"' in line for line in lines)
    x = torch.randn(4, 6)
    assert load_adapted(branch, network(x, 3), x)(x).shape == (4, 3)  # the model made here is in the file
    assert main([*words, "-o", page]) == 2
    assert "must be a file that is not there yet" in capsys.readouterr().err
    assert main([*words, "-o", page, "--force"]) == 0


def test_json_repeats_and_reads_no_label(files, capsys):
    found = []
    for _ in range(2):
        assert main(["adapt", str(files / "source.csv"), str(files / "target.csv"), *QUICK, "--json", "--seed", "1"]) == 0
        found.append(Result.from_dict(json.loads(capsys.readouterr().out)))
    assert found[0].findings == found[1].findings
    by = {finding.id: finding for finding in found[0].findings}
    assert by["adapt.labels"].value == 0
    assert by["adapt.error"].verdict == "pass"
    assert by["adapt.gap"].verdict == "pass"


def test_unlabelled_target_and_a_model_of_ones_own(files, tmp_path, capsys, monkeypatch):
    (tmp_path / "mynet.py").write_text(
        "import torch\ndef make():\n    torch.manual_seed(0)\n    return torch.nn.Linear(6, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["adapt", str(files / "source.csv"), str(files / "bare.npz"), "--model", "mynet:make", *QUICK, "--json"]
    assert main(words) in (0, 1)
    result = Result.from_dict(json.loads(capsys.readouterr().out))
    assert "Without labels the error cannot be told" in result.sections[0].summary
    assert "adapt.error" not in {finding.id for finding in result.findings}
    sys.modules.pop("mynet", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.csv", "absent.csv"], "absent.csv: must be a file that can be read"),
        (["S", "T", "-o", "x.docx"], "`-o` must end in one of"),
        (["S", "T", "--predictions", "x.txt"], "`--predictions` must end in .csv, got 'x.txt'"),
        (["S", "T", "--branch", "x.pt"], "must be a file that ends in .safetensors"),
        (["S", "T", "--branch", "nowhere/x.safetensors"], "must be in a folder that exists"),
        (["S", "T", "--held-out", "1"], "`--held-out` must be a share in [0, 1), got 1.0"),
        (["S", "T", "--steps", "0"], "`--steps` must be a whole number >= 1, got 0"),
        (["S", "T", "--width", "0"], "`--width` must be a whole number >= 1, got 0"),
        (
            ["S", "FEW"],
            "must hold two samples besides those held out, got 2 of which 1 only judge; give more, or lower --held-out",
        ),
        (["S", "T", "--weights", "w.safetensors"], "`--weights` must come with `--model`"),
        (["S", "T", "--labels", "kind"], "must hold the labels 'kind'"),
        (["S", "OTHER"], "must have the features of"),
        (["S", "STRANGE"], "must hold classes of the source (ant, bee, cat, big), got 'dog'"),
        (["ONE", "T"], "must hold 2 classes at least, got one: 'ant'"),
        (["BARE", "T"], "must hold classes, named"),
        (["S", "T", "--model", "nowhere:net"], "`MODEL` must name a module that can be imported"),
        ([], "Missing argument"),
    ],
)
def test_input_errors_are_one_line_and_exit_code_2(words, message, files, tmp_path, capsys):
    header = "a,b,c,d,e,f,label\n"
    (tmp_path / "one.csv").write_text(header + "1,2,3,4,5,6,ant\n2,3,4,5,6,7,ant\n")
    (tmp_path / "few.csv").write_text(header + "1,2,3,4,5,6,ant\n2,3,4,5,6,7,bee\n")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n2,3\n")
    (tmp_path / "strange.csv").write_text(header + "1,2,3,4,5,6,dog\n" * 8)
    names = {"S": "source.csv", "T": "target.csv", "BARE": "bare.npz"}
    made = {"FEW": "few.csv", "ONE": "one.csv", "OTHER": "other.csv", "STRANGE": "strange.csv"}
    full = [str(files / names[w]) if w in names else str(tmp_path / made[w]) if w in made else w for w in words]
    assert main(["adapt", *full, *([] if {"--steps", "--width"} & set(words) else QUICK)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert [line for line in captured.err.splitlines() if not line.startswith("no --model")][1:] == []


def test_help_does_not_load_torch():
    code = "import sys; from residyn.cli import main; main(['adapt', '--help']); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("$ residyn adapt") == 2
