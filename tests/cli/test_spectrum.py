"""`residyn spectrum`, as a user meets it."""

import csv
import json
import subprocess
import sys

import pytest

from residyn.cli import main
from residyn.results import Result

HYDROGEN = "2\nhydrogen\nH 0 0 -0.37\nH 0 0 0.37\n"
SHORT = ["--xc", "hf", "--duration", "60"]


@pytest.fixture
def molecule(tmp_path):
    path = tmp_path / "h2.xyz"
    path.write_text(HYDROGEN)
    return path


def test_page_marks_lines_beside_linear_response(molecule, tmp_path, capsys):
    page = tmp_path / "spectrum.html"
    assert main(["spectrum", str(molecule), *SHORT, "-o", str(page)]) == 0
    text = page.read_text("utf-8")
    for word in ("Absorption of h2 (HF/6-31g)", "linear response", "Dipole after a kick", "Fock matrices built a step"):
        assert word in text
    assert text.count("<svg") == 2
    assert "written to" in capsys.readouterr().err
    assert main(["spectrum", str(molecule), *SHORT, "-o", str(page)]) == 2
    assert "`-o` must be a new file" in capsys.readouterr().err


def test_a_batch_goes_on_past_a_broken_file(molecule, tmp_path, capsys):
    broken = tmp_path / "broken.xyz"
    broken.write_text("1\n\nH 0 0 0\n")
    files = [str(molecule), str(broken)]
    assert main(["spectrum", *files, *SHORT, "--json"]) == 1
    result = Result.from_dict(json.loads(capsys.readouterr().out))
    assert [part.id for part in result.sections] == files
    assert "`spin` must be odd for 1 electrons, got 0" in result.sections[1].error
    assert {f.id for f in result.sections[0].findings} >= {"spectrum.sum", "tddft.norm"}
    lines = tmp_path / "lines.csv"
    assert main(["spectrum", *files, *SHORT, "-o", str(lines)]) == 1
    rows = list(csv.DictReader(lines.read_text("utf-8").splitlines()))
    assert abs(float(rows[0]["energy_ev"]) - float(rows[0]["response_ev"])) < 3e-3


def test_checkpoints_are_kept_and_taken_up(molecule, tmp_path, capsys):
    folder = tmp_path / "runs"
    folder.mkdir()
    words = ["spectrum", str(molecule), *SHORT, "--checkpoint", str(folder), "--json"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)["sections"][0]["tables"]
    assert sorted(p.name for p in folder.iterdir()) == ["h2.safetensors"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["sections"][0]["tables"] == first
    assert main([*words, "--dt", "0.2"]) == 2
    assert "which was made with `dt` 0.1, now 0.2; give another file, or delete this one" in capsys.readouterr().err


def test_an_atom_whose_basis_lets_nothing_absorb(tmp_path, capsys):
    path = tmp_path / "he.xyz"  # two functions of one symmetry
    path.write_text("1\nhelium\nHe 0 0 0\n")
    assert main(["spectrum", str(path), *SHORT, "--json"]) == 0
    section = Result.from_dict(json.loads(capsys.readouterr().out)).sections[0]
    assert "no line" in section.summary
    assert [f.verdict for f in section.findings if f.id == "spectrum.sum"] == ["warn"]
    assert section.tables[0].rows == []


def test_an_interruption_keeps_the_run_and_is_gone_on_from(molecule, tmp_path, capsys, monkeypatch):
    from residyn.quantum import propagation

    words = ["spectrum", str(molecule), *SHORT, "--json"]
    assert main(words) == 0
    undisturbed = json.loads(capsys.readouterr().out)["sections"][0]
    folder, told = tmp_path / "runs", propagation._tell
    folder.mkdir()

    def press(run, step, first, seconds):
        told(run, step, first, seconds)
        if step >= 300:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(propagation, "_tell", press)
        assert main([*words, "--checkpoint", str(folder)]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last == f"residyn: interrupted; the runs are kept in {folder}; the same command goes on from there"
    assert [path.name for path in folder.iterdir()] == ["h2.safetensors"]
    assert main([*words, "--checkpoint", str(folder)]) == 0
    resumed = json.loads(capsys.readouterr().out)["sections"][0]
    assert resumed["tables"] == undisturbed["tables"]
    assert resumed["figures"] == undisturbed["figures"]


def test_an_interrupted_batch_goes_on_where_it_was(molecule, tmp_path, capsys, monkeypatch):
    from residyn.quantum import assessment

    second = tmp_path / "far.xyz"
    second.write_text(HYDROGEN.replace("0.37", "0.40"))
    lines, done, real = tmp_path / "lines.csv", [], assessment.assess
    words = ["spectrum", str(molecule), str(second), *SHORT, "-o", str(lines)]

    def stop(path, *args, **options):
        if path == str(second) and "again" not in done:
            raise KeyboardInterrupt
        done.append(path)
        return real(path, *args, **options)

    monkeypatch.setattr(assessment, "assess", stop)
    assert main([*words]) == 130
    assert not lines.exists()
    done[:] = ["again"]
    assert main([*words, "--resume"]) == 0
    assert done == ["again", str(second)]
    assert "1 files are done already" in capsys.readouterr().err
    assert len({row["file"] for row in csv.DictReader(lines.read_text("utf-8").splitlines())}) == 2
    assert not (tmp_path / "lines.csv.partial.jsonl").exists()
    assert main([*words[:3], *SHORT, "--resume"]) == 2
    assert "`--resume` must come with `-o FILE`, got none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.xyz"], "`MOL.xyz` must be a file that exists, got 'none.xyz'"),
        (["h2.xyz", "--basis", "7-99g"], "`basis` must be one that PySCF has"),
        (["h2.xyz", "--xc", "pbe99"], "`xc` must be a functional that libxc has"),
        (["h2.xyz", "--spin", "1"], "`spin` must be even for 2 electrons, got 1"),
        (["h2.xyz", "--dt", "0"], "`dt` must be a number > 0"),
        (["h2.xyz", "--fock", "half"], "`--fock` must be one of linear, full, got 'half'"),
        (["h2.xyz", "--max-ev", "9999"], "`max_ev` must lie between 0 and π/dt"),
        (["h2.xyz", "--jobs", "0"], "`--jobs` must be at least 1, or -1 for one a core, got 0"),
        (["h2.xyz", "--backend", "mpi"], "`--backend` must be one of loky, dask, ray, got 'mpi'"),
        (["h2.xyz", "--scheduler", "tcp://x:1"], "`--scheduler` needs `--backend dask` or `ray`"),
        (["h2.xyz", "--checkpoint", "nowhere"], "`--checkpoint` must be a folder that exists"),
        (["h2.xyz", "a/h2.xyz", "--checkpoint", "."], "`--checkpoint` must keep files of different names apart"),
        (["h2.xyz", "-o", "x.docx"], "`-o` must end in one of"),
    ],
)
def test_input_errors_are_one_line_and_exit_code_2(words, message, molecule, capsys, monkeypatch):
    monkeypatch.chdir(molecule.parent)
    assert main(["spectrum", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_help_loads_no_torch():
    code = "import sys; from residyn.cli import main; main(['spectrum', '--help']); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("$ residyn spectrum") == 2
