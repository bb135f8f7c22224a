"""`residyn audit` and `residyn explain RD…`, as a user meets them."""

import csv
import json

import numpy as np
import pytest

from residyn.cli import main
from residyn.results import Result

NETS = """
import torch
from residyn.nets import MLP, ResNet

def make():
    torch.manual_seed(0)
    return ResNet(torch.nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(3)], torch.nn.Linear(8, 2))

def exploding():
    net = make()
    with torch.no_grad():
        for block in net.body.blocks:
            for p in block.branch.parameters():
                p.mul_(40)
    return net
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"audited_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETS, "utf-8")
    rng = np.random.default_rng(0)
    for file in ("a.npz", "b.npz"):
        np.savez(tmp_path / file, x=rng.normal(size=(64, 4)), labels=rng.integers(0, 2, 64))
    np.savez(tmp_path / "short.npz", x=rng.normal(size=(5, 4)), labels=rng.integers(0, 2, 3))
    return name


def test_page(nets, tmp_path, capsys):
    assert main(["audit", f"{nets}:make", "a.npz", "-o", "page.html"]) == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    for words in (
        "3 residual blocks",
        "body.blocks.1",
        "Gradient through depth",
        "Stability",
        "Reliability",
        "Blocks by depth",
    ):
        assert words in page
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "written to page.html" in captured.err


def test_json_repeats_and_says_what_it_was_run_on(nets, capsys):
    found = []
    for _ in range(2):
        assert main(["audit", f"{nets}:make", "--shape", "6,4", "--seed", "3", "--json"]) == 0
        found.append(Result.from_dict(json.loads(capsys.readouterr().out)))
    assert found[0].findings == found[1].findings
    assert found[0].sections[1].tables == found[1].sections[1].tables
    assert found[0].command == f"residyn audit {nets}:make --shape 6,4 --seed 3"
    assert found[0].sections[0].data == "made up: 6,4"


def test_table(nets, tmp_path, capsys):
    assert main(["audit", f"{nets}:make", "a.npz", "b.npz", "-o", "blocks.csv", "--budget", "20"]) == 0
    rows = list(csv.DictReader((tmp_path / "blocks.csv").read_text("utf-8").splitlines()))
    assert [(row["input"], row["depth"], row["block"]) for row in rows] == [
        (file, str(i + 1), f"body.blocks.{i}") for file in ("a.npz", "b.npz") for i in range(3)
    ]
    assert float(rows[0]["‖F‖/‖x‖ (estimate)"]) > 0
    capsys.readouterr()


def test_batch_goes_on_past_a_bad_file(nets, capsys):
    assert main(["audit", f"{nets}:make", "a.npz", "short.npz", "--json"]) == 1
    result = Result.from_dict(json.loads(capsys.readouterr().out))
    assert result.sections[0].id == "a.npz: findings"
    assert "`targets` must have one entry a sample, 5, got 3" in result.sections[-1].error


@pytest.mark.slow
def test_jobs(nets, tmp_path, capsys, monkeypatch):
    pytest.importorskip("joblib")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    assert main(["audit", f"{nets}:make", "a.npz", "b.npz", "--jobs", "2", "--json", "--budget", "0"]) == 0
    assert len(Result.from_dict(json.loads(capsys.readouterr().out)).sections) == 4


def test_interrupted(nets, tmp_path, capsys):
    (tmp_path / f"{nets}.py").write_text(NETS + "\ndef stopped():\n    raise KeyboardInterrupt\n", "utf-8")
    assert main(["audit", f"{nets}:stopped", "a.npz", "-o", "page.html"]) == 130
    assert "residyn: interrupted; nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_failure_is_an_exit_code(nets, capsys):
    assert main(["audit", f"{nets}:exploding", "a.npz"]) == 1
    assert "the stream explodes" in capsys.readouterr().out


def test_text_report(nets, capsys):
    assert main(["audit", f"{nets}:make", "--shape", "4,4", "--budget", "0"]) == 0
    assert "3 residual blocks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x:y", "--budget", "-1"], "`--budget` must be seconds >= 0, got -1"),
        (["x:y", "--jobs", "0"], "`--jobs` must be at least 1"),
        (["x:y", "--backend", "mpi"], "`--backend` must be one of loky, dask, ray"),
        (["x:y", "a.npz", "--shape", "2,4"], "`--shape` must come without INPUT, got both"),
        (["x:y", "-o", "x.docx"], "`-o` must end in one of"),
        (["x:y", "--normalise", "wild"], "`--normalise` must be one of imagenet, half, none, got 'wild'"),
        (["no_such_module:y"], "must name a module that can be imported"),
        (["torch.nn:Identity"], "`INPUT` must be given, or its shape, got neither"),
        ([], "Missing argument"),
    ],
)
def test_bad_input(words, message, nets, capsys):
    assert main(["audit", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_explain(capsys):
    assert main(["explain", "rd104"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("RD104: the gradient vanishes towards the input")
    assert "arXiv:1603.05027" in out
    assert main(["explain", "RD104", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "RD104"
    assert main(["explain", "RD999"]) == 2
    assert "`ID` must be a code of an audit, one of RD100" in capsys.readouterr().err
