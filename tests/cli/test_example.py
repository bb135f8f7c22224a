"""`residyn example`: what it writes is what the verb reads, nothing is lost, and it says how to go on."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from residyn.cli import main
from residyn.cli.app import app
from residyn.cli.samples import SAMPLES

VERBS = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}


def files(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("verb", SAMPLES)
def test_the_files_are_there_whole_and_the_same_each_time(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["example", verb]) == 0
    said = capsys.readouterr()
    assert said.out == SAMPLES[verb].next + "\n"
    assert SAMPLES[verb].about in said.err
    for name in SAMPLES[verb].files:
        assert Path(name).is_dir() if name.endswith("/") else Path(name).stat().st_size
        assert name.rstrip("/").removesuffix(".py") in SAMPLES[verb].next or name == "new/"
    assert all(any(name.startswith(one) for one in SAMPLES[verb].files) for name in files(tmp_path))
    assert main(["example", verb, "-o", "again"]) == 0
    assert files(tmp_path / "again") == {name: hash for name, hash in files(tmp_path).items() if "again" not in name}


def test_every_verb_that_reads_a_file_has_one():
    assert VERBS - set(SAMPLES) == {"atlas", "bench", "doctor", "example", "explain", "list"}
    assert all(one.next.split()[:2] == ["residyn", verb] for verb, one in SAMPLES.items())


def test_the_list_names_them(capsys):
    assert main(["example"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SAMPLES)


def test_nothing_that_is_there_is_lost(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("water.xyz").write_text("mine")
    assert main(["example", "spectrum"]) == 2
    assert capsys.readouterr().err == (
        "residyn: `-o` must be a folder without 'water.xyz', got '.'; give another by -o, or --force to write over what is there\n"
    )
    assert Path("water.xyz").read_text() == "mine"
    assert main(["example", "spectrum", "--force"]) == 0
    assert Path("water.xyz").read_text().startswith("3\nwater")


def test_wrong_words_are_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["example", "spectrm"]) == 2
    assert "did you mean 'spectrum'?" in capsys.readouterr().err
    Path("taken").write_text("")
    assert main(["example", "segment", "-o", "taken"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("residyn: 'taken/images' could not be made: ")
    assert said.count("\n") == 1


def test_the_net_that_is_handed_out_has_a_block_that_does_nothing(tmp_path, monkeypatch):
    from safetensors.numpy import load_file

    monkeypatch.chdir(tmp_path)
    assert main(["example", "audit"]) == 0
    weights = load_file("net.safetensors")
    assert not any(np.any(value) for name, value in weights.items() if name.startswith("5."))
    assert all(np.any(value) for name, value in weights.items() if not name.startswith("5."))
