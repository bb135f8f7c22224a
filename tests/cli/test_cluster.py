"""Audits and calibrations of many files on a Dask cluster that runs already: the same output as here, failures apart."""

import json

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
