"""The verbs as a user meets them: output, errors, exit codes."""

import json
import os
import subprocess
import sys

import pytest

from residyn.cli import main
from residyn.results import Result

ENTRIES = """
import sys, types
from residyn import cli
from residyn.atlas import Entry, catalog
from residyn.results import Finding, Section

catalog.OVERVIEW = None

def entry(name, run):
    module = types.ModuleType(f"fake_{name}")
    module.run = run
    sys.modules[module.__name__] = module
    return Entry(name, name.title(), "F", "claim", "data", module.__name__)

def section(name, verdict="pass"):
    print(name, file=open("ran.txt", "a"))
    return Section(name, name.title(), findings=[Finding(f"{name}.x", "x", verdict, 1.0, 1.0)])
"""


def residyn(*args, code="", cwd=None, **options):
    """Run the command line in a fresh process, with `catalog.ENTRIES` as `code` makes them."""
    script = f"{ENTRIES}\n{code}\nsys.exit(cli.main())"
    if args[0] == "atlas" and "--jobs" not in args:  # other processes would not have these entries
        args = ("atlas", "--jobs", "1", *args[1:])
    options = {"capture_output": True, "text": True, "timeout": 120, "encoding": "utf-8"} | options
    return subprocess.run([sys.executable, "-c", script, *args], cwd=cwd, **options)


TWO = 'catalog.ENTRIES = (entry("a", lambda c: section("a")), entry("b", lambda c: section("b")))'
STOPS = """
import os, signal, time
def stop(context):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
catalog.ENTRIES = (entry("a", lambda c: section("a")), entry("b", stop))
"""
DIES = 'import os\ncatalog.ENTRIES = (entry("a", lambda c: section("a")), entry("b", lambda c: os.kill(os.getpid(), 9)))'


@pytest.mark.parametrize("args", [["--help"], ["atlas", "--help"], ["list", "-h"], ["explain", "--help"], []])
def test_help_ends_with_two_examples(args, capsys):
    assert main(args) == 0
    out, err = capsys.readouterr()
    tail = [line.strip() for line in out.splitlines() if line.strip()][-3:]
    assert tail[0] == "Examples:"
    assert all(line.startswith("$ residyn ") for line in tail[1:])
    assert err == ""


VERBS = [
    "adapt",
    "atlas",
    "audit",
    "calibrate",
    "deblur",
    "denoise",
    "disulfide",
    "dynamics",
    "explain",
    "graph",
    "list",
    "segment",
    "spectrum",
]


def test_help_of_every_verb_does_without_the_heavy_packages():
    """What makes it quick; how quick it is stands in the benchmarks."""
    code = (
        "import sys\nfrom residyn.cli import main\n"
        f"codes = [main([*verb, '--help']) for verb in [[], *([v] for v in {VERBS})]]\n"
        "assert not {'torch', 'numpy', 'scipy', 'matplotlib', 'jinja2', 'PIL', 'pyscf', 'gemmi'} & set(sys.modules)\n"
        "sys.exit(max(codes))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "residyn 0.1.0\n"


def test_list(capsys):
    assert main(["list"]) == 0
    assert "wiener            Linear residual denoising\n" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == "depth"


def test_explain(capsys):
    assert main(["explain", "wiener"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Linear residual denoising\n")
    assert "a* = -1/(SNR+1)" in out
    assert main(["explain", "wiener", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["branch"] == "F(x) = a·x"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["explain", "wienr"], "`ID` must be an entry of the atlas, got 'wienr'; did you mean 'wiener'?"),
        (["atlas", "zzz"], "got 'zzz'; known are depth, wiener"),
        (["atals"], "Did you mean 'atlas'? see `residyn --help`"),
        (["explain"], "Missing argument 'ID'; see `residyn explain --help`"),
        (["atlas", "--sed", "1"], "--seed"),
        (["atlas", "--seed", "x"], "must be a whole number >= 0 and < 2**63, got 'x'; see `residyn atlas --help`"),
        (["atlas", "--seed", "-1"], "got '-1'"),
        (["atlas", "-o", "x.doc"], "`-o` must end in one of .html .json .csv .txt, got 'x.doc'"),
        (["atlas", "-o", "/nowhere/x.html"], "`-o` must be in a folder that exists"),
        (["atlas", "--jobs", "0"], "`--jobs` must be at least 1, or -1 for what cores and memory allow, got 0"),
        (["atlas", "--lang", "fr"], "`--lang` must be one of en, zh, got 'fr'; en is English, zh Chinese"),
        (["atlas", "--resume"], "`--resume` needs `-o FILE`, got none"),
    ],
)
def test_errors_are_one_line_with_a_hint_and_exit_2(args, words, capsys):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("residyn: ")
    assert words in err


def test_traceback_only_with_debug():
    quiet, loud = residyn("explain", "zzz"), residyn("explain", "zzz", "--debug")
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


def test_atlas_to_terminal_and_json(tmp_path):
    run = residyn("atlas", code=TWO, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert "✓ 2 systems, 2 findings: 2 pass" in run.stdout
    run = residyn("atlas", "b", "--json", "--seed", "3", code=TWO, cwd=tmp_path)
    result = Result.from_dict(json.loads(run.stdout))
    assert (result.command, [section.id for section in result.sections]) == ("residyn atlas b --seed 3", ["b"])


def test_atlas_in_chinese(tmp_path):
    run = residyn("atlas", "--lang", "zh", "-o", "r.html", code=TWO, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "2 个系统，2 条结论：2 条通过; written to r.html\n")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "residyn atlas --seed 0 --lang zh" in page
    assert "Findings" not in page


def test_atlas_to_file_says_so_on_stderr_and_leaves_nothing_beside(tmp_path):
    run = residyn("atlas", "-o", "r.html", code=TWO, cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "")
    assert run.stderr == "2 systems, 2 findings: 2 pass; written to r.html\n"
    assert sorted(os.listdir(tmp_path)) == ["r.html", "ran.txt"]


@pytest.mark.parametrize("body", ['section("a", "fail")', "1/0"])
def test_a_failed_verdict_or_a_broken_entry_is_exit_1(tmp_path, body):
    run = residyn("atlas", code=f'catalog.ENTRIES = (entry("a", lambda c: {body}),)', cwd=tmp_path)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr


def test_debug_shows_where_an_entry_broke(tmp_path):
    run = residyn("atlas", "--debug", code='catalog.ENTRIES = (entry("a", lambda c: 1/0),)', cwd=tmp_path)
    assert "ZeroDivisionError" in run.stderr
    assert "Traceback" in run.stderr


def test_ctrl_c_keeps_what_is_finished_and_resume_goes_on(tmp_path):
    run = residyn("atlas", "-o", "r.html", "--seed", "2", code=STOPS, cwd=tmp_path)
    assert run.returncode == 130
    assert "Go on with: residyn atlas --seed 2 -o r.html --resume\n" in run.stderr
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "This page is incomplete." in page
    assert "Interrupted after 1 of 2 systems. Go on with: residyn atlas --seed 2 -o r.html --resume" in page

    run = residyn("atlas", "-o", "r.html", "--seed", "2", "--resume", code=TWO, cwd=tmp_path)
    assert run.returncode == 0
    assert "taken from the interrupted run: a\n" in run.stderr
    assert (tmp_path / "ran.txt").read_text().split() == ["a", "b"]  # a ran once
    assert "This page is incomplete." not in (tmp_path / "r.html").read_text("utf-8")
    assert sorted(os.listdir(tmp_path)) == ["r.html", "ran.txt"]


def test_ctrl_c_without_a_file_shows_what_is_finished(tmp_path):
    run = residyn("atlas", code=STOPS, cwd=tmp_path)
    assert run.returncode == 130
    assert "a.x" in run.stdout or "1 system, 1 finding" in run.stdout
    assert "With `-o FILE`, an interrupted run can be taken up again\n" in run.stderr


def test_kill_9_loses_only_the_entry_it_hit(tmp_path):
    assert residyn("atlas", "-o", "r.json", code=DIES, cwd=tmp_path).returncode == -9
    assert sorted(os.listdir(tmp_path)) == ["r.json.partial.jsonl", "ran.txt"]
    run = residyn("atlas", "-o", "r.json", "--resume", code=TWO, cwd=tmp_path)
    assert run.returncode == 0
    assert (tmp_path / "ran.txt").read_text().split() == ["a", "b"]


def test_resume_under_another_seed_begins_anew_and_says_so(tmp_path):
    residyn("atlas", "-o", "r.json", code=DIES, cwd=tmp_path)
    run = residyn("atlas", "-o", "r.json", "--resume", "--seed", "1", code=TWO, cwd=tmp_path)
    assert "starting anew: it was made with seed 0, now 1\n" in run.stderr
    assert (tmp_path / "ran.txt").read_text().split() == ["a", "a", "b"]


def test_without_resume_it_begins_anew_and_says_what_was_there(tmp_path):
    residyn("atlas", "-o", "r.json", code=DIES, cwd=tmp_path)
    run = residyn("atlas", "-o", "r.json", code=TWO, cwd=tmp_path)
    assert "starting anew; what an interrupted run left in r.json.partial.jsonl" in run.stderr
    assert run.returncode == 0


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    run = residyn("list", cwd=tmp_path, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (run.returncode, run.stderr) == (0, "")


def test_closed_standard_output_is_no_error(tmp_path):
    command = [sys.executable, "-c", f"{ENTRIES}\nsys.exit(cli.main())", "list"]
    run = subprocess.run(["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_locale_without_our_letters_is_no_error(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    run = residyn("explain", "wiener", env=environment, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")


def test_colour_and_progress_only_on_a_terminal(tmp_path):
    pty = pytest.importorskip("pty")

    def on_terminal(**variables):
        leader, follower = pty.openpty()
        environment = (
            {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")} | {"TERM": "xterm"} | variables
        )
        run = residyn(
            "atlas", code=TWO, cwd=tmp_path, capture_output=False, stdout=follower, stderr=subprocess.PIPE, env=environment
        )
        os.close(follower)
        seen = os.read(leader, 1_000_000).decode()
        os.close(leader)
        assert run.returncode == 0
        return seen

    assert "\x1b[32m" in on_terminal()
    assert "\x1b[32m" not in on_terminal(NO_COLOR="1")


def test_an_import_that_ctrl_c_stops_is_an_interruption(monkeypatch, capsys):
    from residyn.cli import app as verbs

    def stopped(*_, **__):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as pressed:
            raise ImportError("initialization failed") from pressed

    monkeypatch.setattr(verbs, "app", stopped)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "residyn: interrupted\n"
