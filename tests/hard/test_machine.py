"""Full disks, folders that may not be written to, readers that go away, Ctrl-C, odd locales and odd names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from residyn.cli import main
from residyn.results import Result

from .kill import JOBS, environment, timeless

BY_NAME = {job.name: job for job in JOBS}
ODD = "ein Ordner, 'ü' ☃ \"x\" $HOME;&#\n%"


def residyn(*words, before="", cwd=None, env=None, **options):
    """The command line in a process of its own, after some code."""
    code = f"import sys\n{before}\nfrom residyn.cli import main\nsys.exit(main(sys.argv[1:]))"
    options = {"capture_output": True, "text": True, "errors": "replace", "timeout": 300} | options
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, env=environment() | (env or {}), check=False, **options
    )


def verbs(job):
    """A job's words for `main`."""
    return list(BY_NAME[job].words[2:])


FULL = """
import os, resource, sys
from residyn.cli import main
import residyn.report.page, matplotlib, residyn.quantum, residyn.protein, residyn.inverse.jobs, residyn.nets.segmentation
import matplotlib.font_manager
for words in {jobs!r}:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
    sys.stderr.write("== " + " ".join(words[:2]) + "\\n")
    code = main(words)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    sys.stderr.write(f"code {{code}}\\n")
"""


def told(jobs, folder):
    """Exit code and lines on standard error of each job on a full disk."""
    code = FULL.format(jobs=[verbs(job) for job in jobs])
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    parts = ended.stderr.split("== ")[1:]
    return {job: part.splitlines()[1:] for job, part in zip(jobs, parts, strict=True)}


def _full(jobs, folder):
    for job in jobs:
        BY_NAME[job].prepare(folder)
    before = sorted(path.name for path in folder.rglob("*"))
    for job, lines in told(jobs, folder).items():
        errors = [line for line in lines if line.startswith("residyn: ")]
        assert lines[-1] == "code 2", (job, lines)
        assert len(errors) == 1, (job, lines)
        assert "could not be written" in errors[0] or "cannot be kept" in errors[0] or "must be writable" in errors[0], (
            job,
            lines,
        )
        assert not [line for line in lines if "Traceback" in line]
    left = sorted(path.name for path in folder.rglob("*") if path.stat().st_size > 200)
    assert set(left) <= set(before), left
    assert not [path.name for path in folder.rglob("*.tmp")]


def test_a_full_disk_is_told_in_a_line_and_leaves_nothing_half(tmp_path):
    _full(["calibrate"], tmp_path)


@pytest.mark.slow
def test_a_full_disk_stops_every_long_job_in_a_line(tmp_path):
    _full(["dynamics fit", "graph", "disulfide, batch", "segment train"], tmp_path)


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["explain", "wiener"], ["--help"], ["doctor", "--json"]])
def test_standard_output_on_a_full_disk(words):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        ended = residyn(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 2
    assert ended.stderr.startswith("residyn: ")
    assert "could not be written: No space left on device" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that nobody may write to")
def test_a_folder_that_nobody_may_write_to(tmp_path):
    BY_NAME["calibrate"].prepare(tmp_path)
    ended = residyn("calibrate", "a.npz", "-o", "/proc/r.json", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "'/proc/r.json'" in ended.stderr


@pytest.mark.parametrize("words", ["list", "explain RD104", "--help", "calibrate a.npz --json"])
def test_a_closed_pipe_is_no_error(words, tmp_path):
    BY_NAME["calibrate"].prepare(tmp_path)
    line = f"{sys.executable} -m residyn {words} | head -1"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""
    assert ended.stdout.count("\n") == 1
    assert ended.returncode in (0, 1)


def test_nobody_reads_standard_error_either(tmp_path):
    read, write = os.pipe()
    os.close(read)
    ended = residyn("explain", "zzz", capture_output=False, stdout=write, stderr=write)
    os.close(write)
    assert ended.returncode == 2


# Ctrl-C after so much processor time, whatever the machine is doing besides.
PRESSED = """
import atexit, os, signal
atexit.register(signal.setitimer, signal.ITIMER_VIRTUAL, 0)  # nobody presses when it is over
signal.signal(signal.SIGVTALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
signal.setitimer(signal.ITIMER_VIRTUAL, {after})
"""


def pressed(job, after, folder):
    ended = residyn(*verbs(job), before=PRESSED.format(after=after), cwd=folder)
    said = [line for line in ended.stderr.splitlines() if line.startswith("residyn: ")]
    if ended.returncode in (0, 1) and not said:
        return None  # it was done before
    assert ended.returncode == 130, (job, after, ended.stderr[-1500:])
    assert len(said) == 1, (job, after, ended.stderr[-1500:])
    assert "nterrupted" in said[0]
    assert "Traceback" not in ended.stderr
    return said[0]


@pytest.mark.parametrize("after", [0.02, 0.4])
def test_ctrl_c_while_it_starts(after, tmp_path):
    BY_NAME["graph"].prepare(tmp_path)
    pressed("graph", after, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["segment train", "disulfide, batch", "deblur, batch", "spectrum", "dynamics fit"])
def test_ctrl_c_in_the_middle_says_what_was_kept(job, tmp_path):
    for after in (2.2, 1.8, 1.4):  # earlier, where a fast machine has done the job by then
        folder = tmp_path / str(after)
        folder.mkdir()
        BY_NAME[job].prepare(folder)
        said = pressed(job, after, folder)
        if said is not None:
            break
    assert said is not None, "the job was always done before"
    kept = sorted(path.name for path in folder.rglob("*") if ".run." in path.name or ".partial." in path.name)
    if kept:
        assert any(name in said for name in kept), (said, kept)


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=["C", "Turkish", "Latin-1"],
)
def test_locales_change_nothing_in_a_file(variables, tmp_path, monkeypatch):
    BY_NAME["calibrate"].prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", "a.npz", "-o", "a.json"]) in (0, 1)
    ended = residyn("calibrate", "a.npz", "-o", "b.json", cwd=tmp_path, env=variables)
    assert ended.returncode in (0, 1)
    assert "Traceback" not in ended.stderr
    a, b = (timeless(Result.from_json((tmp_path / name).read_bytes()).to_dict()) for name in ("a.json", "b.json"))
    assert a == b


def test_folders_and_files_of_odd_names(tmp_path):
    folder = tmp_path / ODD
    folder.mkdir()
    BY_NAME["calibrate"].prepare(folder)
    (folder / "a.npz").rename(folder / "a b'☃'.npz")
    for ending in ("html", "json", "csv", "txt"):
        assert main(["calibrate", str(folder / "a b'☃'.npz"), "-o", str(folder / f"ö {ending}.{ending}")]) in (0, 1)
        assert (folder / f"ö {ending}.{ending}").stat().st_size > 100
    assert len(list(folder.iterdir())) == 5


@pytest.mark.slow
def test_jobs_in_a_folder_of_an_odd_name(tmp_path):
    folder = tmp_path / ODD
    folder.mkdir()
    for job in ("segment train", "spectrum", "disulfide, batch", "deblur, batch"):
        place = folder / job
        place.mkdir()
        BY_NAME[job].prepare(place)
        words = [str(place / word) if (place / word).exists() and word else word for word in verbs(job)]
        ended = residyn(*words, cwd=place)
        assert ended.returncode in (0, 1), (job, ended.stderr[-1500:])


def test_outputs_stay_where_they_are_asked_for(tmp_path, monkeypatch):
    """A name in the data that looks like a path leads nowhere."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "g.txt").write_text("../../escaped /tmp/escaped\n/etc/x ../../escaped\na b\n")
    monkeypatch.chdir(inside)
    assert main(["graph", "g.txt", "--layers", "0", "--depth", "2", "-o", "r.html"]) in (0, 1)
    assert sorted(os.listdir(inside)) == ["g.txt", "r.html"]
    assert os.listdir(tmp_path) == ["inside"]


@pytest.mark.slow
def test_killed_at_random_moments_the_same_bytes_come_out():
    from .kill import run

    names = ("segment train", "spectrum", "disulfide, batch", "training")
    for one in run(kills=4, seed=int(os.environ.get("RESIDYN_KILL_SEED", "1")), names=names):
        assert (one.kills, one.wrong) == (1, ""), one
