"""Audits and calibrations of many files on a Dask or a Ray cluster that runs already: the same output as here, failures apart."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jsonschema
import numpy as np
import pytest

from residyn.cli import main
from residyn.schemas import VERBS, schema

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
    ),
]

NETS = """
import torch
from residyn.nets import MLP, ResNet

def make():
    return ResNet(torch.nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(3)], torch.nn.Linear(8, 2))
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A scheduler and two workers, started in a folder that is not the user's."""
    distributed = pytest.importorskip("distributed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster:
        yield cluster.scheduler_address


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, labels in (("a", 60), ("bad", 50), ("b", 60)):
        scores = rng.normal(size=(60, 4)) - [0, 0, 3, 3]
        classes = (scores + rng.normal(size=(60, 4)))[:, :2].argmax(1)
        np.savez(f"{name}.npz", logits=scores, labels=classes[:labels])
    (tmp_path / "onacluster.py").write_text(NETS, "utf-8")
    return tmp_path


def sections(path, verb):
    """What a batch wrote, without the time it took."""
    plain = json.loads(path.read_text("utf-8"))
    jsonschema.Draft202012Validator(schema(VERBS.get(verb, "result"))).validate(plain)
    return [{**part, "seconds": 0} for part in plain["sections"]]


@pytest.mark.parametrize("words", [["audit", "onacluster:make"], ["calibrate"]], ids=lambda words: words[0])
def test_a_batch_is_the_same_on_a_cluster(folder, address, words):
    files, far = ["a.npz", "bad.npz", "b.npz"], ["--backend", "dask", "--scheduler", address]
    assert main([*words, *files, "-o", "here.json"]) == 1
    assert main([*words, *files, "-o", "there.json", *far]) == 1
    here, there = (sections(folder / name, words[0]) for name in ("here.json", "there.json"))
    assert [part["id"] for part in there] == files
    assert [bool(part.get("error")) for part in there] == [False, True, False]
    assert "50" in there[1]["error"]
    assert here == there


OPEN = {"RAY_AUTH_MODE": "disabled"}
"""On this machine alone, and gone with the test: no token is needed."""


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray cluster of one machine, as `ray start --head` makes it, in a folder that is not the user's."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=2", "--block"]
    words += ["--include-dashboard=false", "--disable-usage-stats"]
    place = tmp_path_factory.mktemp("elsewhere")
    with (place / "log").open("wb") as log:
        started = subprocess.Popen(words, cwd=place, stdout=log, stderr=log, start_new_session=True, env=os.environ | OPEN)
    try:
        for _ in range(900):
            if b"Ray runtime started" in (place / "log").read_bytes():
                break
            assert started.poll() is None, (place / "log").read_text("utf-8")
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)


def calibrate(*words, **more):
    """In a process of its own: Ray reads its settings once."""
    done = subprocess.run(
        [sys.executable, "-m", "residyn", "calibrate", *words],
        env=os.environ | OPEN | more,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_batch_is_the_same_on_a_ray_cluster_and_beside_one(folder, head):
    files = ["a.npz", "bad.npz", "b.npz"]
    assert main(["calibrate", *files, "-o", "here.json"]) == 1
    code, said = calibrate(*files, "-o", "there.json", "--backend", "ray", "--scheduler", head)
    assert code == 1, said
    # somebody else's cluster is told by the environment: workers of one's own are started all the same
    code, said = calibrate(*files, "-o", "own.json", "--backend", "ray", "--jobs", "2", RAY_ADDRESS=head)
    assert code == 1, said
    here, there, own = (sections(folder / name, "calibrate") for name in ("here.json", "there.json", "own.json"))
    assert [bool(part.get("error")) for part in there] == [False, True, False]
    assert here == there
    assert here == own


def test_more_files_than_processors_on_ray(folder, head):
    for k in range(12):
        (folder / f"f{k}.npz").write_bytes((folder / "a.npz").read_bytes())
    files = [f"f{k}.npz" for k in range(12)]
    code, said = calibrate(*files, "-o", "many.json", "--backend", "ray", "--scheduler", head)
    assert code == 0, said
    assert [part["id"] for part in sections(folder / "many.json", "calibrate")] == files


def test_a_ray_cluster_that_is_not_there_is_named(folder):
    pytest.importorskip("ray")
    code, said = calibrate("a.npz", "b.npz", "-o", "o.json", "--backend", "ray", "--scheduler", "127.0.0.1:1")
    assert code == 2
    assert "`--scheduler` must be the address of a Ray cluster that answers, got '127.0.0.1:1'" in said
