"""`residyn segment`, as a user meets it: train, stop, go on, predict."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from residyn.cli import main
from residyn.nets.segmentation import Segmenter, read_mask
from residyn.results import Result


def scene(seed, size=72):
    """Bright discs on a noisy ground, and which pixels are theirs (as 200, not 1)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), bool)
    for _ in range(4):
        cx, cy, r = [*rng.uniform(10, size - 10, 2).tolist(), rng.uniform(5, 10)]
        mask |= (x - cx) ** 2 + (y - cy) ** 2 < r * r
    grey = 90 + 80 * mask + rng.normal(0, 25, mask.shape)
    return grey.clip(0, 255).astype(np.uint8), (mask * 200).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for k in range(4):
        grey, mask = scene(k)
        Image.fromarray(grey).save(tmp_path / "images" / f"s{k}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"s{k}.png")
    return tmp_path


SMALL = ["--crop", "48", "--crops", "48", "--width", "8", "--levels", "2", "--rate", "0.005"]


@pytest.mark.slow
def test_train_and_predict(folders, capsys):
    model, page = str(folders / "m.safetensors"), folders / "t.html"
    words = ["segment", "train", str(folders / "images"), str(folders / "masks"), "-o", model, "--epochs", "6", *SMALL]
    assert main([*words, "--report", str(page)]) == 0
    text = page.read_text("utf-8")
    for word in ("Held-out scores by class", "Mean Dice overlap", "data:image/png", "Training"):
        assert word in text
    assert main(words) == 2
    assert "must be a file that is not there yet" in capsys.readouterr().err
    assert not list(folders.glob("*.run.safetensors"))
    assert Segmenter.load(model).values == [0, 200]

    out = str(folders / "out")
    assert (
        main(
            [
                "segment",
                "predict",
                str(folders / "images"),
                "--model",
                model,
                "-o",
                out,
                "--masks",
                str(folders / "masks"),
                "--json",
            ]
        )
        == 0
    )
    result = Result.from_dict(json.loads(capsys.readouterr().out))
    # noise of 25 on a step of 80 that is smoothed by any 3×3 kernel: discs are plain to see
    assert min(s.findings[0].value for s in result.sections) > 0.85
    found = read_mask(os.path.join(out, "s0.png"))
    assert set(torch.unique(found).tolist()) <= {0, 200}
    assert main(["segment", "predict", str(folders / "images"), "--model", model, "-o", out]) == 2
    assert "--force replaces it" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(folders):
    def command(name):
        words = ["segment", "train", "images", "masks", "-o", name, "--epochs", "3", *SMALL, "--report", f"{name}.json"]
        return [sys.executable, "-m", "residyn.cli", *words]

    options = {"cwd": folders, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True}
    run = subprocess.run(command("whole.safetensors"), **options)
    assert run.returncode == 0, run.stderr
    job = subprocess.Popen(command("cut.safetensors"), cwd=folders, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    kept = folders / "cut.run.safetensors"
    until = time.monotonic() + 120
    while not kept.exists() and time.monotonic() < until:
        time.sleep(0.02)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert kept.exists()
    again = subprocess.run(command("cut.safetensors"), **options)
    assert again.returncode == 0, again.stderr
    assert "going on from cut.run.safetensors" in again.stderr
    one, two = (Segmenter.load(folders / f"{name}.safetensors").net.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_one_picture_too_narrow_to_hold_a_part_out(tmp_path, capsys):
    grey, mask = scene(0, 40)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "b.png")
    assert (
        main(["segment", "train", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "-o", str(tmp_path / "m.safetensors")]) == 2
    )
    assert "wide enough to hold a part out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "none", "none"], "must be a picture or a folder of pictures, got 'none'"),
        (["train", "none", "none", "-o", "m.pt"], "must be a file that ends in .safetensors, got 'm.pt'"),
        (["train", "none", "none", "--crop", "4"], "`crop` must be at least 16 pixels, got 4"),
        (["train", "none", "none", "--held-out", "1"], "`held_out` must be a share in (0, 1), got 1.0"),
        (["predict", "none", "--model", "m", "--window", "0"], "`--window` must be at least 16 pixels, got 0"),
        (
            ["predict", "none", "--model", "m", "--masks", "truth"],
            "`--masks` must be a folder of masks, or one mask, got 'truth'",
        ),
        (["predict", "none", "--model", "none.safetensors"], "must be a file that can be read"),
    ],
)
def test_input_errors_are_one_line_and_exit_code_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["segment", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_file_of_something_else_is_refused(tmp_path, capsys):
    from residyn.training import save_weights

    save_weights(tmp_path / "m.safetensors", {"a": torch.zeros(1)}, {"schema": "other"})
    assert main(["segment", "predict", "x.png", "--model", str(tmp_path / "m.safetensors")]) == 2
    assert "must be a model of `residyn segment train`, got 'other'" in capsys.readouterr().err
