"""`residyn deblur` and `residyn denoise`, as a user meets them."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from residyn.cli import main
from residyn.inverse import Blur, deblur, denoise, files, gaussian
from residyn.results import Result

pytest.importorskip("PIL")
SIGMA = 1.5


def scene(height=96, width=80):
    """Boxes and a ramp, 40 to 220."""
    rows, columns = np.mgrid[:height, :width]
    return 60 + columns * 0.5 + 100.0 * ((rows // 16 + columns // 20) % 2)


def blurred(clean, noise=1.0, psf=None):
    psf = gaussian(SIGMA) if psf is None else psf
    soft = Blur(psf, clean.shape)(torch.from_numpy(clean.copy())).numpy()
    return soft + noise * np.random.default_rng(0).normal(size=clean.shape)


def put(path, pixels, dtype=np.uint8, **kept):
    array = np.clip(np.rint(pixels), 0, 255 if dtype == np.uint8 else 65535) if np.dtype(dtype).kind == "u" else pixels
    files.write(array.astype(dtype), files.Photo(array.astype(dtype), **kept), path)
    return str(path)


@pytest.fixture
def photo(tmp_path):
    return put(tmp_path / "b.png", blurred(scene()))


def test_a_photograph_is_restored_beside_itself(photo, tmp_path, capsys):
    truth = put(tmp_path / "truth.png", scene())
    assert main(["deblur", photo, "--psf", f"gaussian:{SIGMA}", "--truth", truth]) == 0
    restored = files.read(tmp_path / "b.deblurred.png").pixels
    np.testing.assert_array_equal(restored, deblur(files.read(photo).pixels, gaussian(SIGMA)).image)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "b.png: 80 × 96 pixels, grey, uint8 (png); method auto, noise σ = " in captured.err
    assert "PSNR" in captured.err
    before, after = (np.mean((x - scene()) ** 2) for x in (files.read(photo).pixels, restored.astype(float)))
    assert after < before


@pytest.mark.parametrize(
    "dtype, ending", [(np.uint8, ".jpg"), (np.uint16, ".png"), (np.uint16, ".tif"), (np.float32, ".tif"), (np.float64, ".npy")]
)
def test_forms_and_types_are_kept(tmp_path, dtype, ending):
    scale = 200 if dtype == np.uint16 else 1
    pixels = scale * np.stack([blurred(scene()), blurred(scene()[::-1])[::-1], blurred(scene())], 2)
    path = put(tmp_path / f"b{ending}", pixels, dtype)
    out = tmp_path / f"out{ending}"
    assert main(["deblur", path, "--psf", f"gaussian:{SIGMA}", "-o", str(out), "--method", "tv"]) == 0
    restored = files.read(out).pixels
    assert (restored.dtype, restored.shape) == (dtype, pixels.shape)
    truth = scale * np.stack([scene()] * 3, 2)
    assert np.mean((restored - truth) ** 2) < 0.5 * np.mean((pixels - truth) ** 2)


def test_alpha_is_left_alone(tmp_path):
    alpha = np.arange(96 * 80).reshape(96, 80).astype(np.uint8)
    path = put(tmp_path / "b.png", np.stack([blurred(scene())] * 3, 2), alpha=alpha)
    assert main(["deblur", path, "--psf", "gaussian:1.5", "-o", str(tmp_path / "o.png")]) == 0
    np.testing.assert_array_equal(files.read(tmp_path / "o.png").alpha, alpha)


@pytest.mark.parametrize("method", ["auto", "tv", "landweber", "unrolled"])
def test_every_method_writes_a_page(photo, tmp_path, method):
    page, truth = tmp_path / "p.html", put(tmp_path / "<b>truth.png", scene())
    words = ["deblur", photo, "--psf", f"gaussian:{SIGMA}", "--method", method, "--report", str(page), "--truth", truth]
    assert main([*words, "-o", str(tmp_path / "o.png")]) == 0
    text = page.read_text("utf-8")
    for word in ("Before", "After", "Truth", "Spectrum", "Effective filter", "PSNR against the truth", "&lt;b&gt;truth.png"):
        assert word in text
    assert ("Residual</strong>" in text) == (method in ("tv", "landweber"))
    assert text.count("data:image/png;base64,") == 3
    assert "<b>truth" not in text


def test_json_has_the_figures(photo, tmp_path, capsys):
    truth = put(tmp_path / "truth.png", scene())
    assert main(["deblur", photo, "--psf", "gaussian:1.5", "--truth", truth, "--json", "--noise", "1.2"]) == 0
    result = Result.from_dict(json.loads(capsys.readouterr().out))
    found = {finding.id: finding for finding in result.findings}
    metrics = pytest.importorskip("skimage.metrics")
    restored = files.read(tmp_path / "b.deblurred.png").pixels
    clean = np.rint(scene()).astype(np.uint8)
    assert found["deblur.psnr"].value == pytest.approx(metrics.peak_signal_noise_ratio(clean, restored), abs=1e-9)
    assert found["deblur.ssim"].value == pytest.approx(
        metrics.structural_similarity(clean.astype(float), restored.astype(float), data_range=255), abs=1e-9
    )
    assert found["deblur.noise"].value == 1.2
    assert "--noise 1.2" in result.command


def test_a_kernel_from_a_file_is_normalised_and_said(photo, tmp_path, capsys):
    np.save(tmp_path / "psf.npy", np.ones((4, 3)))
    assert main(["deblur", photo, "--psf", str(tmp_path / "psf.npy")]) == 0
    said = capsys.readouterr().err
    assert "`psf` sums to 12, not to one; it was divided by its sum" in said
    assert "the PSF has an even side, 4 × 3: its centre is taken at [2, 1], counted from 0" in said


def test_too_many_steps_are_told(tmp_path, capsys):
    # with this much noise descent is past its best after a few steps
    path = put(tmp_path / "b.png", blurred(scene(), 12.0))
    assert main(["deblur", path, "--psf", "gaussian:1.5", "--method", "landweber", "--steps", "800"]) == 0
    assert "800 steps are past the best" in capsys.readouterr().err


def test_denoise(tmp_path, capsys):
    noisy = scene() + np.random.default_rng(0).normal(size=scene().shape) * 15
    path, truth = put(tmp_path / "n.png", noisy), put(tmp_path / "truth.png", scene())
    assert main(["denoise", path, "--truth", truth, "--report", str(tmp_path / "p.html")]) == 0
    np.testing.assert_array_equal(files.read(tmp_path / "n.denoised.png").pixels, denoise(files.read(path).pixels))
    assert "1 + a" not in capsys.readouterr().out
    errors = {}
    for method in ("wiener", "tv", "unrolled"):
        out = tmp_path / f"{method}.png"
        assert main(["denoise", path, "--method", method, "--noise", "15", "-o", str(out)]) == 0
        errors[method] = np.mean((files.read(out).pixels - scene()) ** 2)
    assert all(error < 0.6 * 15**2 for error in errors.values()), errors


def test_known_snr_and_volumes(tmp_path):
    volume = scene()[None].repeat(6, 0) + np.random.default_rng(0).normal(size=(6, 96, 80)) * 15
    np.save(tmp_path / "v.npy", volume)
    for words in ([], ["--snr", "12"], ["--noise", "15", "--method", "tv"]):
        assert main(["denoise", str(tmp_path / "v.npy"), *words, "--force"]) == 0
        clean = np.load(tmp_path / "v.denoised.npy")
        assert np.mean((clean - scene()) ** 2) < 0.6 * 15**2
    psf = gaussian(0.6, 1.0, 1.0)
    deep = scene()[None].repeat(12, 0)
    np.save(tmp_path / "w.npy", Blur(psf, deep.shape)(torch.from_numpy(deep)).numpy())
    assert main(["deblur", str(tmp_path / "w.npy"), "--psf", "gaussian:0.6,1,1", "--report", str(tmp_path / "p.html")]) == 0
    assert np.load(tmp_path / "w.deblurred.npy").shape == deep.shape


def test_batch_goes_on_past_a_broken_file(photo, tmp_path, capsys):
    other = put(tmp_path / "c.png", blurred(scene()[::-1]))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    out = tmp_path / "out"
    words = ["--psf", "gaussian:1.5", "-o", str(out)]
    assert main(["deblur", photo, other, *words]) == 2
    assert "must be a folder that exists, for 2 pictures" in capsys.readouterr().err
    out.mkdir()
    page = tmp_path / "p.html"
    assert main(["deblur", photo, str(tmp_path / "broken.png"), other, *words, "--report", str(page)]) == 1
    assert sorted(p.name for p in out.iterdir()) == ["b.png", "c.png"]
    assert "broken.png` is broken" in capsys.readouterr().err
    assert "This section broke off" in page.read_text("utf-8")
    assert main(["deblur", photo, other, *words]) == 1  # they exist
    assert capsys.readouterr().err.count("pass --force") == 2
    assert main(["deblur", photo, other, *words, "--force"]) == 0


@pytest.mark.slow
def test_batch_on_two_processes(photo, tmp_path):
    pytest.importorskip("joblib")
    other = put(tmp_path / "c.png", blurred(scene()[::-1]))
    (tmp_path / "out").mkdir()
    words = [
        sys.executable,
        "-m",
        "residyn",
        "deblur",
        photo,
        other,
        "--psf",
        "gaussian:1.5",
        "-o",
        str(tmp_path / "out"),
        "--jobs",
        "2",
    ]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for name in ("b.png", "c.png"):
        alone = deblur(files.read(tmp_path / name).pixels, gaussian(1.5)).image
        # FFTs on another number of threads add in another order: a pixel may round the other way
        assert int(np.abs(files.read(tmp_path / "out" / name).pixels.astype(int) - alone).max()) <= 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.png", "c.png"]


@pytest.mark.slow
def test_interrupted_in_the_middle_leaves_no_half_file(tmp_path):
    path = put(tmp_path / "b.npy", np.tile(blurred(scene()), (20, 20)), np.float64)
    words = [sys.executable, "-m", "residyn", "deblur", path, "--psf", "gaussian:1.5", "--method", "tv", "--steps", "2000"]
    run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    time.sleep(8)  # it is importing torch or at its steps; at both, one line and the code 130
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert said.strip() == "residyn: interrupted"
    assert [p.name for p in tmp_path.iterdir()] == ["b.npy"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--psf", "magic"], "`--psf` must be one of gaussian:SIGMA, motion:LENGTH,ANGLE, disk:RADIUS"),
        (["--psf", "gaussian:0"], "`sigma` of a gaussian must be > 0 pixels"),
        (["--psf", "gaussian:1e9"], "`sigma` of a gaussian must be > 0 pixels and at most 250"),
        (["--psf", "gaussian:30"], "`psf` must have 2 axes and be no larger than the picture, (96, 80), got (241, 241)"),
        (["--psf", "ZERO"], "`psf` must not be zero everywhere"),
        (["--psf", "motion:0.5,3"], "`length` of a motion must be 1 to 2000 pixels"),
        (["--psf", "gaussian:1", "--noise", "-1"], "`noise` must be a standard deviation >= 0, got -1.0"),
        (["--psf", "gaussian:1", "--method", "magic"], "`--method` must be one of auto, tv, landweber, unrolled, got 'magic'"),
        (["--psf", "gaussian:1", "--boundary", "x"], "`--boundary` must be one of symmetric, circular, unknown, got 'x'"),
        (["--psf", "gaussian:1", "--steps", "0"], "`steps` must be a whole number >= 1"),
        (["--psf", "gaussian:1", "--weights", "w"], "`--weights` must come with --method unrolled, got 'auto'"),
        (["--psf", "gaussian:1", "--weights", "w", "--method", "unrolled"], "`weights` must be a safetensors file"),
        (["--psf", "gaussian:1", "--truth", "OTHER"], "`--truth` must have the shape of the picture, (96, 80), got (4, 4)"),
        (["--psf", "gaussian:1", "-o", "x.gif"], "`-o` must end in one of .png"),
        (["--psf", "gaussian:1", "--max-pixels", "100"], "must have at most 100 pixels, got 96 × 80 = 7,680"),
        (["--psf", "gaussian:1", "--report", "p.docx"], "`-o` must end in one of .html"),
        (["--psf", "gaussian:1,1,1"], "`image` must have 3 axes, as the PSF has"),
        ([], "Missing option '--psf'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(photo, tmp_path, capsys, words, said):
    other = put(tmp_path / "other.png", np.zeros((4, 4)))
    np.save(tmp_path / "zero.npy", np.zeros((3, 3)))
    given = [{"OTHER": other, "ZERO": str(tmp_path / "zero.npy")}.get(word, word) for word in words]
    before = set(tmp_path.iterdir())
    assert main(["deblur", photo, *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "words, said",
    [
        (["--noise", "-1"], "`--noise` must be a standard deviation >= 0, got -1.0"),
        (["--snr", "-1"], "`--snr` must be >= 0, got -1.0; it is a ratio of powers"),
        (["--snr", "1", "--noise", "1"], "`--noise` must not stand beside --snr"),
        (["--method", "x"], "`--method` must be one of wiener, tv, unrolled, got 'x'"),
        (["--weights", "x"], "`--weights` must come with --method unrolled, got 'wiener'"),
    ],
)
def test_bad_input_of_denoise_is_one_line(photo, capsys, words, said):
    assert main(["denoise", photo, *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_nan_pixels_and_files_that_exist(tmp_path, capsys):
    pixels = blurred(scene())
    pixels[3, 4] = np.nan
    path = put(tmp_path / "b.npy", pixels, np.float64)
    assert main(["deblur", path, "--psf", "gaussian:1"]) == 2
    assert "got 1 pixels that are nan or infinite; fill them in first" in capsys.readouterr().err
    path = put(tmp_path / "c.npy", blurred(scene()), np.float64)
    (tmp_path / "c.deblurred.npy").write_text("mine")
    assert main(["deblur", path, "--psf", "gaussian:1"]) == 2
    assert "must not exist already" in capsys.readouterr().err
    assert (tmp_path / "c.deblurred.npy").read_text() == "mine"
    assert main(["deblur", path, path, "--psf", "gaussian:1", "--force"]) == 0
    two = tmp_path / "two"
    two.mkdir()
    put(two / "c.npy", blurred(scene()), np.float64)
    assert main(["deblur", path, str(two / "c.npy"), "--psf", "gaussian:1", "-o", str(two)]) == 2
    assert "must not have the same name twice" in capsys.readouterr().err


@pytest.mark.parametrize("answer, code", [("y\n", 0), ("n\n", 2)])
def test_a_person_is_asked_before_a_file_is_replaced(photo, tmp_path, answer, code):
    pty = pytest.importorskip("pty")
    (tmp_path / "b.deblurred.png").write_text("mine")
    words = [sys.executable, "-m", "residyn", "deblur", photo, "--psf", "gaussian:1.5"]
    master, slave = pty.openpty()
    run = subprocess.Popen(words, stdin=slave, stderr=slave, stdout=slave)
    os.close(slave)
    os.write(master, answer.encode())
    assert run.wait(timeout=120) == code
    os.close(master)
    kept = (tmp_path / "b.deblurred.png").read_bytes() == b"mine"
    assert kept == (code == 2)


def test_a_file_that_is_no_picture_is_told_as_such(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("hello")
    assert main(["deblur", str(tmp_path / "notes.txt"), "--psf", "gaussian:1"]) == 2
    assert "must be a PNG, JPEG, TIFF or NumPy (.npy) file, got a file that begins with b'hell'" in capsys.readouterr().err
