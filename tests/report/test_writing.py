"""The ending picks the format; the file appears whole or not at all; what cannot be written is refused early."""

import csv
import json
import os
import stat

import pytest

from residyn import report
from residyn.errors import InputError, MissingExtraError, ResidynError
from residyn.report import writing
from residyn.results import Result


@pytest.mark.parametrize(
    ("ending", "start"), [(".html", "<!doctype html>"), (".json", "{"), (".csv", "section,id"), (".txt", "The")]
)
def test_each_ending(pleasant, tmp_path, ending, start):
    path = tmp_path / f"report{ending}"
    report.write(pleasant, path)
    assert path.read_text("utf-8").startswith(start)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", [".html", ".json", ".csv", ".txt"])
def test_hostile_results_are_written_too(hostile, tmp_path, ending):
    report.write(hostile, tmp_path / f"report{ending}")
    assert (tmp_path / f"report{ending}").read_text("utf-8")


def test_json_is_the_result(pleasant, tmp_path):
    report.write(pleasant, tmp_path / "r.JSON")
    again = Result.from_dict(json.loads((tmp_path / "r.JSON").read_text("utf-8")))
    assert again.to_dict() == pleasant.to_dict()


def test_csv_has_a_row_a_finding_and_one_a_broken_section(pleasant, tmp_path):
    report.write(pleasant, tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows][:2] == ["wiener.gain", "wiener.blind"]
    assert (rows[0]["value"], rows[0]["theory"]) == ("0.0042", "0.02")
    assert rows[-1]["id"] == "depth.error"


def test_a_link_is_followed_and_permissions_are_the_usual(pleasant, tmp_path):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "r.txt"
    (tmp_path / "link.txt").symlink_to(target)
    report.write(pleasant, tmp_path / "link.txt")
    assert (tmp_path / "link.txt").is_symlink()
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_failing_disk_leaves_the_old_file(pleasant, tmp_path, monkeypatch):
    path = tmp_path / "r.txt"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.Path, "replace", full)
    with pytest.raises(ResidynError, match="could not be written: No space left on device; nothing was changed there"):
        report.write(pleasant, path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.txt"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("report", "must end in one of .html .json .csv .txt, got 'report'; choose one of them"),
        ("report.pdf", "got 'report.pdf'"),
        ("nowhere/r.html", "must be in a folder that exists, got 'nowhere/r.html'; make it first: mkdir -p"),
        ("folder.html", "must be a file, got the folder 'folder.html'; add a file name"),
    ],
)
def test_refused_early(path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(InputError, match="`-o` must") as error:
        report.check(path)
    assert words in str(error.value)


def test_unwritable_folder_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(InputError, match="must be in a folder you may write to, got .*; choose another one"):
        report.check(tmp_path / "r.txt")


def test_page_without_its_extra_is_refused_early(tmp_path, monkeypatch):
    def missing(module, extra):
        raise MissingExtraError(f"`{module}` is not installed; it comes with the extra `{extra}`")

    monkeypatch.setattr(writing, "require", missing)
    with pytest.raises(MissingExtraError, match="`report`"):
        report.check(tmp_path / "r.html")
    report.check(tmp_path / "r.json")
