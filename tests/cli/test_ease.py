"""What makes the command line easy: completion, `doctor`, `bench`, and questions instead of bare refusals."""

import json
import os
import subprocess
import sys

import pytest

import residyn
from residyn.cli import bench, checkup, main
from residyn.cli.app import app
from residyn.errors import check_choice, closest
from residyn.results import Result


def completed(line, shell="bash"):
    """What a shell would offer at the end of a line; no heavy package may be loaded for it."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - (not line.endswith(" ")))}
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: {'torch', 'numpy'} & set(sys.modules) and sys.stdout.write('\\nHEAVY'))\n"
        "from residyn.cli import main\nmain([])"
    )
    environment = os.environ | {"_RESIDYN_COMPLETE": f"complete_{shell}"} | words
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.stderr == ""
    return run.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("residyn at", ["atlas"]),
        ("residyn do", ["doctor"]),
        ("residyn atlas wi", ["wiener"]),
        ("residyn deblur a.png --method t", ["tv"]),
        ("residyn deblur a.png --boundary c", ["circular"]),
        ("residyn calibrate a.npz --kind l", ["logits"]),
        ("residyn dynamics fit a.csv --target f", ["flow"]),
        ("residyn spectrum a.xyz --fock l", ["linear"]),
        ("residyn disulfide a.pdb --backend d", ["dask"]),
        ("residyn explain RD19", ["RD190", "RD191"]),
        ("residyn bench sol", ["solvers"]),
    ],
)
def test_words_are_completed_without_torch(line, offered):
    assert completed(line) == offered


def test_every_verb_is_completed():
    verbs = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert set(completed("residyn ")) == verbs


def test_completion_can_be_shown_for_each_shell(monkeypatch):
    for shell in ("bash", "zsh", "fish"):
        environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
        words = [sys.executable, "-m", "residyn", "--show-completion", shell]
        run = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        assert "_RESIDYN_COMPLETE" in run.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["doctr"], "Did you mean 'doctor'"),
        (["deblur", "a.png", "--psf", "gaussian:2", "--methd", "tv"], "--method"),
        (["deblur", "a.png", "--psf", "gaussian:2", "--method", "landwebber"], "did you mean 'landweber'?"),
        (["denoise", "a.png", "--method", "weiner"], "did you mean 'wiener'?"),
        (["calibrate", "a.npz", "--kind", "logit"], "did you mean 'logits'?"),
        (["dynamics", "fit", "a.csv", "--target", "flows"], "did you mean 'flow'?"),
        (["disulfide", "a.pdb", "--backend", "lokky"], "did you mean 'loky'?"),
        (["spectrum", "a.xyz", "--fock", "linar"], "did you mean 'linear'?"),
        (["explain", "RD1001"], "did you mean 'RD10"),
        (["atlas", "depht"], "did you mean 'depth'?"),
        (["bench", "solver"], "did you mean 'solvers'?"),
        (["bench", "zzz"], "known are solvers"),
        (["bench", "-o", "page.html"], "`-o` must end in .md and be in a folder that exists, got 'page.html'"),
    ],
)
def test_a_slip_is_answered_by_a_question(args, words, capsys):
    assert main(args) == 2
    assert words in capsys.readouterr().err


def test_choices_and_their_nearest():
    check_choice("--x", "a", ("a", "b"))
    with pytest.raises(residyn.InputError, match="`--x` must be one of a, b, got 'zzz'; a is usual"):
        check_choice("--x", "zzz", ("a", "b"), "a is usual")
    assert closest("TSIT", ["Tsit5", "Euler"]) == "did you mean 'Tsit5'?"


def test_doctor_tells_versions_extras_and_machine(capsys, tmp_path):
    assert main(["doctor", "--json"]) == 0
    result = Result.from_json(capsys.readouterr().out)
    assert [section.id for section in result.sections] == ["core", "extras", "machine"]
    found = {finding.id: finding for finding in result.findings}
    assert found["core.torch"].verdict == "pass"
    assert {"core.python", "core.torch.loads", "machine.threads", "machine.blas", "machine.compiler"} <= set(found)
    assert main(["doctor", "-o", str(tmp_path / "a.txt")]) == 0
    assert "machine.memory" in (tmp_path / "a.txt").read_text("utf-8") or "Memory" in (tmp_path / "a.txt").read_text("utf-8")


def test_doctor_says_how_to_get_what_is_missing_and_fails_on_what_is_broken(monkeypatch, capsys):
    lines = [("numpy", ">=99", ""), ("gemmi", ">=0.1", "bio"), ("no-such-package", ">=1", "bio"), ("pillow", ">=99", "imaging")]
    monkeypatch.setattr(checkup, "requirements", lambda: lines)
    assert main(["doctor", "--json"]) == 1
    found = {finding.id: finding for finding in Result.from_json(capsys.readouterr().out).findings}
    assert (found["core.numpy"].verdict, found["core.numpy"].fix) == ("fail", 'python -m pip install "numpy>=99"')
    assert (found["extras.bio"].verdict, found["extras.bio"].value) == ("info", "missing: no-such-package")
    assert found["extras.bio"].fix == 'python -m pip install "residyn[bio]"'
    assert found["extras.imaging"].verdict == "fail"


def test_doctor_without_an_installed_package_or_a_compiler(monkeypatch):
    monkeypatch.setattr(checkup, "requirements", list)
    assert next(f for f in checkup.core().findings if f.id == "core.residyn").fix == "python -m pip install ."
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiler = next(f for f in checkup.machine().findings if f.id == "machine.compiler")
    assert (compiler.verdict, compiler.value) == ("info", "no-such-compiler is not there")
    monkeypatch.setenv("CXX", "false")
    compiler = next(f for f in checkup.machine().findings if f.id == "machine.compiler")
    assert compiler.verdict in ("warn", "pass")


def test_the_torch_that_doctor_calls_tested_is_the_one_of_the_constraints():
    from pathlib import Path

    pins = (Path(__file__).parents[2] / "constraints.txt").read_text("utf-8")
    assert f"\ntorch=={checkup.TESTED_TORCH}\n" in pins


def test_bench_lists_what_it_has_and_what_each_lacks(capfd):
    assert main(["bench", "--list"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == bench.known(bench.checkout())


def test_bench_runs_a_comparison_in_its_own_process_and_writes_a_page(tmp_path, capfd):
    page = tmp_path / "b.md"
    assert main(["bench", "imports", "-o", str(page)]) == 0
    assert f"imports: written to {page}" in capfd.readouterr().err
    text = page.read_text("utf-8")
    assert text.startswith("# Benchmarks\n")
    assert "\n## imports\n" in text
    assert "Of 2 figures asked for, " in text
    assert f"residyn {residyn.__version__}" in text


def test_the_page_of_benchmarks_counts_what_is_reached_in_tables_and_lists(monkeypatch):
    monkeypatch.syspath_prepend(bench.checkout())
    from benchmarks.run import summary

    table = "| a, b | 2 s | 1 s | 0.50 | ≥ 1 | **not reached** | why |\n| c | 1 s | 2 s | 2.00 | ≥ 1 | reached |  |\n| d | 1 | 2 | 2 |  |  |  |\n"
    printed = "what     measured    asked   verdict\ne, whole    33.4 P   ≤ 30 P  **not reached**\nf      1 P   ≤ 2 P  reached\ng  3 P\n"
    assert summary({"one": table, "two": printed}) == (
        "Of 4 figures asked for, 2 are reached. Not reached, each with its reason in the note of its row or above its table:\n\n"
        "- [one](#one): a, b: 0.50, asked ≥ 1\n- [two](#two): e, whole: 33.4 P, asked ≤ 30 P\n\n"
    )
    assert summary({"one": "| c | 1 s | 2 s | 2.00 | ≥ 1 | reached |  |\n"}) == "Of 1 figures asked for, 1 are reached.\n\n"


def test_bench_without_a_checkout_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "checkout", lambda: None)
    assert main(["bench"]) == 2
    assert "`bench` must be run from a checkout of Residyn's source" in capsys.readouterr().err
    assert bench.names("s") == []


def test_json_of_the_list_is_json(capsys):
    assert main(["list", "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)
