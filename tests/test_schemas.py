"""The published schemas are those of the types, and every verb's `--json` keeps to its own."""

import json

import jsonschema
import pytest

from residyn.cli import main
from residyn.cli.app import app
from residyn.errors import InputError
from residyn.results import Result
from residyn.schemas import NAMES, VERBS, schema
from residyn.schemas.__main__ import main as write
from residyn.schemas.making import made

from .hard.kill import JOBS
from .hard.readers import HOSTILE, result_plain, shaken

WORDS = {job.name.partition(",")[0]: job for job in JOBS}
"""Jobs whose verb prints JSON, with small inputs, by name."""


def check(text, verb):
    jsonschema.Draft202012Validator(schema(VERBS.get(verb, "result"))).validate(json.loads(text))


@pytest.mark.parametrize("name", NAMES)
def test_published_schemas_are_those_of_the_types(name, tmp_path):
    jsonschema.Draft202012Validator.check_schema(schema(name))
    assert schema(name) == made(name), "run: python -m residyn.schemas src/residyn/schemas"
    write(str(tmp_path))
    assert json.loads((tmp_path / f"{name}.json").read_text("utf-8")) == schema(name)


def test_every_verb_with_json_has_one():
    verbs = {command.name: command.callback for command in app.registered_commands}
    assert set(VERBS) <= set(verbs)
    with pytest.raises(InputError, match="`name` must be one of result, list, explain, got 'reslt'; did you mean 'result'?"):
        schema("reslt")


def test_a_schema_says_what_fields_mean():
    finding = schema()["$defs"]["Finding"]["properties"]
    assert finding["unit"]["description"] == "Unit of both; empty if they have none."


def test_a_result_with_everything_fits_and_others_do_not():
    validator = jsonschema.Draft202012Validator(schema())
    validator.validate(result_plain().to_dict())
    for wrong in ({}, {**result_plain().to_dict(), "more": 1}, {**result_plain().to_dict(), "schema": "other/1"}):
        assert not validator.is_valid(wrong)


def test_what_the_schema_takes_is_read_back():
    import random

    validator, fits = jsonschema.Draft202012Validator(schema()), 0
    for seed in range(300):
        plain = shaken(result_plain().to_dict(), random.Random(seed))
        try:
            good = validator.is_valid(json.loads(json.dumps(plain)))
        except RecursionError:
            continue
        if good:
            Result.from_dict(plain)
            fits += 1
    assert fits > 10
    assert HOSTILE


@pytest.mark.parametrize("words", [["list"], ["explain", "wiener"], ["explain", "RD104"], ["doctor"]])
def test_small_verbs(words, capsys):
    assert main([*words, "--json"]) == 0
    check(capsys.readouterr().out, words[0])


def printed(name, folder, monkeypatch, capsys, more=()):
    """A job's JSON, its output file being left out."""
    job = WORDS[name]
    job.prepare(folder)
    monkeypatch.chdir(folder)
    words = [*job.words[2:], *more]
    for option in ("-o", "--report", "--model-out", "--checkpoint"):
        if option in words and name not in ("segment train", "deblur"):
            del words[words.index(option) : words.index(option) + 2]
    capsys.readouterr()
    assert main([*words, "--json"]) in (0, 1)
    check(capsys.readouterr().out, words[0])


@pytest.mark.parametrize("name", ["calibrate"])
def test_quick_verbs(name, tmp_path, monkeypatch, capsys):
    printed(name, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segment train", "dynamics fit", "spectrum", "disulfide", "deblur", "graph"])
def test_long_verbs(name, tmp_path, monkeypatch, capsys):
    printed(name, tmp_path, monkeypatch, capsys)
    if name == "segment train":
        assert main(["segment", "predict", "images/0.png", "--model", "m.safetensors", "-o", "masks2", "--json"]) == 0
        check(capsys.readouterr().out, "segment")
    if name == "deblur":
        assert main(["denoise", "images/0.png", "--json"]) == 0
        check(capsys.readouterr().out, "denoise")


@pytest.mark.slow
def test_atlas_and_audit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain_nets.py").write_text(
        "import torch\nimport residyn as rd\n"
        "def make():\n    return torch.nn.Sequential(*[rd.Residual(torch.nn.Linear(4, 4)) for _ in range(2)])\n"
    )
    assert main(["audit", "plain_nets:make", "--shape", "3,4", "--json"]) in (0, 1)
    check(capsys.readouterr().out, "audit")
    assert main(["atlas", "calibrate", "--fast", "--json"]) in (0, 1)
    check(capsys.readouterr().out, "atlas")
