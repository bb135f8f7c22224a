"""`residyn audit` and `residyn explain RD…`, as a user meets them."""

import csv
import json

import jsonschema
import numpy as np
import pytest

from residyn.cli import main
from residyn.results import Result
from residyn.schemas import VERBS, schema

NETS = """
import torch
from residyn.nets import MLP, ResNet

def make():
    torch.manual_seed(0)
    return ResNet(torch.nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(3)], torch.nn.Linear(8, 2))

def random():
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
    assert [section.id for section in result.sections] == ["a.npz", "short.npz"]
    assert result.sections[0].title == "a.npz: Audit of ResNet: 3 residual blocks"
    assert result.sections[1].title == "Audit on short.npz"
    for words in ("The model's accuracy on this batch", "Every block by depth"):  # of findings and of blocks
        assert words in result.sections[0].summary
    assert [table.title for table in result.sections[0].tables] == ["Blocks by depth"]
    assert len(result.sections[0].figures) == 4
    assert "`targets` must have one entry a sample, 5, got 3" in result.sections[-1].error


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def f(:", "SyntaxError: invalid syntax"),
        ("raise ValueError('at import')", "ValueError: at import"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_fails_while_it_is_imported_is_the_users_matter(nets, tmp_path, capsys, code, words):
    (tmp_path / f"{nets}_broken.py").write_text(code, "utf-8")
    assert main(["audit", f"{nets}_broken:make", "a.npz"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"`MODEL` must name a module that can be imported, got '{nets}_broken': {words}" in line


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["{}:mke", "a.npz", "b.npz"], "`MODEL` must name something in `{}`, got 'mke'"),
        (["{}x:make", "a.npz", "b.npz"], "`MODEL` must name a module that can be imported, got '{}x'"),
        (["{}:make", "a.npz", "b.npz", "--weights", "w.safetensors"], "`weights` must be a file that can be read"),
        (["{}:make", "a.npz", "b.npz", "--labels", "y.txt"], "`labels` must be a file that can be read"),
    ],
)
def test_what_all_inputs_need_is_refused_at_once(nets, tmp_path, capsys, words, text):
    assert main(["audit", *(word.format(nets) for word in words), "-o", "all.json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert text.format(nets) in line
    assert not list(tmp_path.glob("all.json*"))


def untimed(path):
    """What a batch wrote, by file, without the time it took."""
    plain = json.loads(path.read_text("utf-8"))
    jsonschema.Draft202012Validator(schema(VERBS.get("audit", "result"))).validate(plain)
    return {part["id"]: {**part, "seconds": 0} for part in plain["sections"]}


def test_order_and_jobs_change_nothing(nets, tmp_path):
    # workers that an earlier test started are in another folder
    pytest.importorskip("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)
    words, found = ["audit", f"{nets}:random", "--budget", "0", "-o", "all.json"], []
    for more in (
        ["a.npz", "short.npz", "b.npz"],
        ["b.npz", "a.npz", "short.npz"],
        ["a.npz", "b.npz", "short.npz", "--jobs", "2"],
    ):
        assert main([*words, *more]) == 1
        found.append(untimed(tmp_path / "all.json"))
        assert list(found[-1]) == more[:3]
    assert found[0] == found[1] == found[2]


def test_random_weights_are_those_of_the_seed(nets, tmp_path):
    parts = []
    for seed, inputs in (("1", "ab"), ("1", "ba"), ("2", "ab")):
        words = ["audit", f"{nets}:random", *(f"{name}.npz" for name in inputs), "--seed", seed, "-o", "all.csv"]
        assert main(words) in (0, 1)
        rows = csv.DictReader((tmp_path / "all.csv").read_text("utf-8").splitlines())
        parts.append({(row["input"], row["block"]): row["‖F‖/‖x‖ (estimate)"] for row in rows})
    assert parts[0] == parts[1]
    assert parts[0] != parts[2]


def test_an_interrupted_batch_goes_on_where_it_was(nets, tmp_path, capsys, monkeypatch):
    from residyn.audit import inputs

    real, seen = inputs.read, []

    def once(file, *words, **options):
        seen.append(file)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(file, *words, **options)

    monkeypatch.setattr(inputs, "read", once)
    words = ["audit", f"{nets}:make", "a.npz", "b.npz", "-o", "all.json", "--budget", "0"]
    assert main(words) == 130
    assert "1 of 2 files are kept in all.json.partial.jsonl; --resume goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "all.json").exists()
    assert main([*words, "--resume"]) == 0
    assert seen == ["a.npz", "b.npz", "b.npz"]
    assert "1 files are done already" in capsys.readouterr().err
    whole = untimed(tmp_path / "all.json")
    assert main(words) == 0
    assert untimed(tmp_path / "all.json") == whole
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_another_model_takes_nothing_over(nets, tmp_path, capsys, monkeypatch):
    from residyn.audit import inputs

    real = inputs.read
    words = ["audit", f"{nets}:make", "a.npz", "b.npz", "-o", "all.json", "--budget", "0"]

    def stopped(file, *words, **options):
        if file == "b.npz":
            raise KeyboardInterrupt
        return real(file, *words, **options)

    monkeypatch.setattr(inputs, "read", stopped)
    assert main(words) == 130
    monkeypatch.setattr(inputs, "read", real)
    (tmp_path / f"{nets}.py").write_text(NETS + "\n# changed\n", "utf-8")
    assert main([*words, "--resume"]) == 0
    assert "nothing is taken over: it was made with model" in capsys.readouterr().err


def test_interrupted(nets, tmp_path, capsys):
    (tmp_path / f"{nets}.py").write_text(NETS + "\ndef stopped():\n    raise KeyboardInterrupt\n", "utf-8")
    assert main(["audit", f"{nets}:stopped", "a.npz", "-o", "page.html"]) == 130
    assert "residyn: interrupted; nothing was written" in capsys.readouterr().err
    assert main(["audit", f"{nets}:stopped", "a.npz", "b.npz"]) == 130
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
        ([":y"], "`MODEL` must name a module that can be imported, got '': ValueError: Empty module name"),
        (["x:y", "a.npz", "--size", "-3"], "`--size` must be >= 1, got -3"),
        (["x:y", "a.npz", "--length", "0"], "`--length` must be >= 1, got 0"),
        (["x:y", "--backend", "mpi"], "`--backend` must be one of loky, dask, ray"),
        (["x:y", "a.npz", "b.npz", "--resume"], "`--resume` must come with `-o FILE`, got none"),
        (["x:y", "a.npz", "b.npz", "--scheduler", "tcp://x:1"], "`--scheduler` needs `--backend dask` or `ray`"),
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
