"""`residyn dynamics fit`, as a user meets it."""

import json
import math
import subprocess
import sys

import pytest

from residyn.cli import main
from residyn.results import Result


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "swing.csv"
    rows = [f"{0.1 * i:.1f},{math.cos(0.1 * i):.9f},{-math.sin(0.1 * i):.9f}" for i in range(100)]
    path.write_text("t,x,v\n" + "\n".join(rows) + "\n")
    return path


def test_report_and_model(table, tmp_path, capsys):
    page, model = tmp_path / "report.html", tmp_path / "model.safetensors"
    assert main(["dynamics", "fit", str(table), "-o", str(page), "--model-out", str(model)]) == 0
    text = page.read_text("utf-8")
    assert "Dynamics of swing.csv" in text
    assert "Learned field" in text
    assert "Phase plot" in text
    assert model.exists()
    assert json.loads(model.with_suffix(".json").read_text("utf-8"))["names"] == ["x", "v"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "written to" in captured.err


def test_json_is_the_result_and_repeats_by_seed(table, capsys):
    found = []
    for _ in range(2):
        assert main(["dynamics", "fit", str(table), "--json", "--target", "flow", "--seed", "3"]) == 0
        found.append(Result.from_dict(json.loads(capsys.readouterr().out)))
    assert found[0].command == f"residyn dynamics fit {table} --target flow --seed 3"
    assert found[0].findings == found[1].findings


def test_a_column_is_an_input_if_it_is_said_to_be(tmp_path, capsys):
    path = tmp_path / "driven.csv"
    rows = [f"{0.1 * i:.1f},{1 - math.exp(-0.1 * i):.9f},1" for i in range(60)]  # x' = push - x
    path.write_text("t,x,push\n" + "\n".join(rows) + "\n")
    model = tmp_path / "model.safetensors"
    main(["dynamics", "fit", str(path), "--control", "push", "--json", "--model-out", str(model)])
    assert Result.from_dict(json.loads(capsys.readouterr().out)).command.endswith("--control push")
    saved = json.loads(model.with_suffix(".json").read_text("utf-8"))
    assert (saved["names"], saved["controls"]) == (["x"], ["push"])
    assert main(["dynamics", "fit", str(path), "--control", "pull"]) == 2
    assert "`control` must name columns of the file, got 'pull'; it has t, x, push" in capsys.readouterr().err


def test_columns_can_be_named(tmp_path, capsys):
    path = tmp_path / "log.csv"
    rows = [f"{0.1 * i:.1f};{math.exp(-0.1 * i):.9f};{i % 7}".replace(".", ",") for i in range(60)]
    path.write_text("elapsed;level;battery\n" + "\n".join(rows) + "\n")
    assert main(["dynamics", "fit", str(path)]) == 2
    assert "must have a column of times named t or time, got elapsed, level, battery" in capsys.readouterr().err
    model = tmp_path / "m.safetensors"
    words = ["dynamics", "fit", str(path), "--time", "elapsed", "--state", "level", "--model-out", str(model), "--json"]
    assert main(words) in (0, 1)
    command = Result.from_dict(json.loads(capsys.readouterr().out)).command
    assert command.endswith("--target auto --seed 0 --time elapsed --state level")
    assert json.loads(model.with_suffix(".json").read_text("utf-8"))["names"] == ["level"]


def test_what_cannot_be_forecast_is_said_and_decides_the_exit_code(tmp_path, capsys):
    import torch

    x = torch.randn(80, generator=torch.Generator().manual_seed(3)).tolist()  # white noise: nothing beats its mean
    path = tmp_path / "noise.csv"
    path.write_text("t,x\n" + "".join(f"{i},{value}\n" for i, value in enumerate(x)))
    code = main(["dynamics", "fit", str(path), "--json"])
    result = Result.from_dict(json.loads(capsys.readouterr().out))
    assert code == (1 if result.verdict == "fail" else 0)
    assert result.verdict in ("warn", "fail")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.csv"], "absent.csv: must be a file that can be read"),
        (["x.csv", "--target", "both"], "`--target` must be one of auto, derivative, flow, got 'both'"),
        (["x.csv", "-o", "x.docx"], "`-o` must end in one of"),
        (["x.csv", "--model-out", "m.pt"], "`--model-out` must end in .safetensors, got 'm.pt'"),
        ([], "Missing argument"),
    ],
)
def test_input_errors_are_one_line_and_exit_code_2(words, message, capsys):
    assert main(["dynamics", "fit", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_help_does_not_load_torch():
    code = "import sys; from residyn.cli import main; main(['dynamics', 'fit', '--help']); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("$ residyn dynamics fit") == 2
