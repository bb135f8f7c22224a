"""Killed and resumed is bitwise the same as undisturbed; another set-up or a damaged file is refused."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from residyn.errors import InputError
from residyn.quantum import AdamsMagnus, Gaussian, Molecule, PropagationError, propagate, respond
from residyn.schemes import CFM4, MMUT, RK4, ExponentialMidpoint, ExtrapolatedMidpoint

SCRIPT = """
import sys
from residyn.quantum import Molecule, propagate
propagate(Molecule.fixture("h2"), dt=0.1, duration=300.0, kick=(0, 0, 1e-3), checkpoint=sys.argv[1], every=0.0)
"""


@pytest.fixture(scope="module")
def hydrogen():
    return Molecule.fixture("h2")


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("t", "dipole", "energy", "norm", "state", "slope"))


def interrupted(molecule, path, at, **options):
    """A run whose process 'dies' (Ctrl-C) after `at` looks at the clock."""
    looks = []

    def stop(share, text):
        looks.append(text)
        if len(looks) == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        propagate(molecule, checkpoint=path, progress=stop, **options)


@pytest.mark.parametrize(
    "scheme", [AdamsMagnus(), ExtrapolatedMidpoint(), ExponentialMidpoint(history=True), MMUT(), CFM4(), RK4()], ids=repr
)
def test_resumed_is_bitwise_undisturbed(hydrogen, scheme, tmp_path):
    options = {"scheme": scheme, "dt": 0.1, "duration": 20.0, "kick": (0, 0, 1e-2)}
    whole = propagate(hydrogen, **options)
    interrupted(hydrogen, tmp_path / "run", 2, **options)
    resumed = propagate(hydrogen, checkpoint=tmp_path / "run", **options)
    assert same(whole, resumed)
    assert (whole.builds, whole.observed) == (resumed.builds, resumed.observed)


def test_resumed_with_a_pulse(hydrogen, tmp_path):
    options = {"dt": 0.1, "duration": 20.0, "pulse": Gaussian((0, 0, 0.02), 8.0, 2.0)}
    whole = propagate(hydrogen, **options)
    interrupted(hydrogen, tmp_path / "run", 2, **options)
    with pytest.raises(InputError, match="which was made with another `pulse`; give another file, or delete this one"):
        propagate(hydrogen, checkpoint=tmp_path / "run", **{**options, "pulse": Gaussian((0, 0, 0.03), 8.0, 2.0)})
    assert same(whole, propagate(hydrogen, checkpoint=tmp_path / "run", **options))


@pytest.mark.parametrize("fock", ["linear", "full"])
def test_runs_side_by_side_are_resumed_bitwise(hydrogen, tmp_path, fock):
    looks = []

    def stop(share, text):
        looks.append(text)
        if len(looks) == 2:
            raise KeyboardInterrupt

    options = {"dt": 0.1, "duration": 20.0, "fock": fock}
    whole = respond(hydrogen, **options)
    with pytest.raises(KeyboardInterrupt):
        respond(hydrogen, checkpoint=tmp_path / "run", progress=stop, **options)
    resumed = respond(hydrogen, checkpoint=tmp_path / "run", **options)
    assert all(same(a, b) for a, b in zip(whole, resumed, strict=True))
    with pytest.raises(InputError, match="which was made with `kick` "):
        propagate(hydrogen, kick=(1e-5, 0, 0), checkpoint=tmp_path / "run", **options)


def test_a_killed_process_goes_on_bitwise(hydrogen, tmp_path):
    path = tmp_path / "run.safetensors"
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)])
    deadline = time.monotonic() + 120
    while not path.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it ended before it could be killed"
    options = {"dt": 0.1, "duration": 300.0, "kick": (0, 0, 1e-3)}
    assert same(propagate(hydrogen, **options), propagate(hydrogen, checkpoint=path, **options))
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["run.safetensors"]


def test_a_finished_run_is_read_and_can_be_made_longer(hydrogen, tmp_path):
    path = tmp_path / "run"
    options = {"dt": 0.1, "kick": (0, 0, 1e-3)}
    first = propagate(hydrogen, duration=5.0, checkpoint=path, **options)
    assert same(first, propagate(hydrogen, duration=5.0, checkpoint=path, **options))
    assert same(propagate(hydrogen, duration=9.0, checkpoint=path, **options), propagate(hydrogen, duration=9.0, **options))
    with pytest.raises(InputError, match="`duration` must be at least what the checkpoint holds, 9, got 5; give another file"):
        propagate(hydrogen, duration=5.0, checkpoint=path, **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dt": 0.2}, "which was made with `dt` 0.1, now 0.2; give another file, or delete this one"),
        ({"scheme": RK4()}, "which was made with `scheme` AdamsMagnus(), now RK4()"),
        ({"kick": (0, 1e-3, 0)}, "which was made with `kick` [0.0, 0.0, 0.001], now"),
        ({"fock": "linear"}, "which was made with `fock` full, now linear"),
    ],
)
def test_a_stale_checkpoint_is_refused(hydrogen, tmp_path, change, words):
    options = {"dt": 0.1, "duration": 5.0, "kick": (0, 0, 1e-3), "checkpoint": tmp_path / "run"}
    propagate(hydrogen, **options)
    with pytest.raises(InputError) as error:
        propagate(hydrogen, **{**options, **change})
    assert words in str(error.value)


def test_another_molecules_checkpoint_is_refused(hydrogen, tmp_path):
    options = {"dt": 0.1, "duration": 1.0, "checkpoint": tmp_path / "run"}
    propagate(hydrogen, **options)
    with pytest.raises(InputError, match="which was made with another `molecule`"):
        propagate(Molecule.fixture("lih"), **options)


@pytest.mark.parametrize("damage", ["cut", "noise", "foreign", "hollow"])
def test_a_damaged_checkpoint_is_refused(hydrogen, tmp_path, damage):
    from safetensors.torch import load_file, save_file

    path = tmp_path / "run"
    propagate(hydrogen, dt=0.1, duration=1.0, checkpoint=path)
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "noise":
        path.write_bytes(b"not a checkpoint")
    elif damage == "foreign":
        save_file({"x": torch.zeros(1)}, path)
    else:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            about = file.metadata()
        tensors = load_file(path)
        save_file({"x": tensors["x"]}, path, about)
    with pytest.raises(InputError, match="`checkpoint` must be whole, got .*; delete it, and the run starts anew"):
        propagate(hydrogen, dt=0.1, duration=1.0, checkpoint=path)


def test_a_full_disk_keeps_the_trajectory(hydrogen, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PropagationError, match="could not be written: No space left on device; .*; free some space") as caught:
        propagate(hydrogen, dt=0.1, duration=20.0, checkpoint=tmp_path / "run", every=0.0)
    assert caught.value.trajectory.steps == 50
    assert os.listdir(tmp_path) == []
