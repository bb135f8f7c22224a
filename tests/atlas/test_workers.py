"""Entries in processes of their own: order, figures, death and interruption."""

import os
import signal
import subprocess
import sys
import time

import pytest

from residyn import atlas
from residyn.atlas import Entry, Interrupted, Store, catalog, runner, workers
from residyn.errors import InputError

MODULE = """
import os, time
import torch
from residyn.results import Finding, Section

def run(context):
    {body}
    context.advance(0.5, "half way")
    return Section("ignored", "Drawing", findings=[Finding("d", str(float(torch.rand(()))), "pass", float(os.getpid()))])
"""
DRAWS = "pass"
DIES = "os.kill(os.getpid(), 9)"
WAITS = "time.sleep(60)"


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """Write modules into a folder that processes find, and put them into the catalogue."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(**bodies):
        for name, body in bodies.items():
            (tmp_path / f"worked_{name}.py").write_text(MODULE.format(body=body))
        made = tuple(Entry(name, name.title(), "F", "claim", "data", f"worked_{name}") for name in bodies)
        monkeypatch.setattr(catalog, "ENTRIES", made)
        monkeypatch.setattr(catalog, "OVERVIEW", None)

    return put


def test_two_at_once_find_what_one_finds(entries):
    entries(a=DRAWS, b=DRAWS, c=DRAWS)
    told = []
    alone, together = atlas.run(), atlas.run(jobs=2, progress=lambda *word: told.append(word))
    assert [section.id for section in together.sections] == ["a", "b", "c"]
    assert [f.title for f in together.findings] == [f.title for f in alone.findings]
    assert float(os.getpid()) not in {f.value for f in together.findings}
    assert [word for word in told if word[0] == "b"] == [("b", 0.0, "loading"), ("b", 0.5, "half way"), ("b", 1.0, "done")]


def test_a_process_that_dies_takes_only_its_own_entry(entries):
    entries(a=DIES, b=DRAWS, c=DRAWS, d=DRAWS)
    sections = atlas.run(jobs=2).sections
    assert sections[0].error == (
        "a: its process was killed by signal 9; it may need more memory than there was: `residyn atlas a` runs it alone"
    )
    assert [section.error for section in sections[1:]] == ["", "", ""]


def test_the_dearest_is_begun_first(entries, monkeypatch):
    entries(a=DRAWS, b=DRAWS)
    cheap, dear = catalog.ENTRIES[0], Entry("b", "B", "F", "claim", "data", "worked_b", cost=1e3)
    found = workers.run_entries([cheap, dear], fast=True, seed=0, jobs=1, progress=None)
    assert [section.id for section in found] == ["b", "a"]


def test_an_interruption_keeps_what_is_finished(entries, tmp_path):
    entries(a=WAITS, b=DRAWS)
    store = Store(tmp_path / "x.partial.jsonl", runner.conditions(fast=False, seed=0))
    store.start()

    def stop(entry, fraction, text):
        if (entry, text) == ("b", "done"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stopped:
        atlas.run(jobs=2, progress=stop, keep=store)
    assert [section.id for section in stopped.value.result.sections] == ["b"]
    assert list(store.sections) == ["b"]


@pytest.mark.slow
def test_kill_9_of_the_parent_ends_its_processes_and_resume_goes_on(entries, tmp_path):
    entries(a="time.sleep(1.0)\n    context.advance(0.2, os.getcwd())\n    time.sleep(1.0)", b=DRAWS)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom residyn import cli\nfrom residyn.atlas import Entry, catalog\ncatalog.OVERVIEW = None\n"
        f"catalog.ENTRIES = {catalog.ENTRIES!r}\n"
        'if __name__ == "__main__":\n    sys.exit(cli.main())\n'
    )
    command = [sys.executable, str(script), "atlas", "-o", "r.json", "--jobs", "2"]
    kept = tmp_path / "r.json.partial.jsonl"
    with subprocess.Popen(command, cwd=tmp_path) as process:
        while not (kept.exists() and '"id": "b"' in kept.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    run = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0
    assert "taken from the interrupted run: b\n" in run.stderr


def test_how_many_fit():
    assert workers.fitting(0) == 1
    assert 1 <= workers.fitting(100) <= (os.cpu_count() or 1)


@pytest.mark.parametrize("jobs", [0, -2])
def test_a_number_of_processes(jobs):
    with pytest.raises(InputError, match=f"`jobs` must be at least 1, or -1 for what cores and memory allow, got {jobs}"):
        atlas.run([], jobs=jobs)
