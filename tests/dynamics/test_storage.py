"""Models on disk: what is read is what was written, and damaged files are refused in words."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from residyn.dynamics import Model, fit
from residyn.errors import InputError

T = torch.arange(0, 6, 0.2, dtype=torch.float64)
X = torch.stack([T.cos(), -T.sin()], 1)


@pytest.fixture
def saved(tmp_path):
    model = fit(T, X, epochs=20)
    path = tmp_path / "model.safetensors"
    model.save(path)
    return model, path


@pytest.mark.parametrize("options", [{}, {"target": "flow"}, {"order": 2}, {"target": "auto", "hidden": (4,)}])
def test_round_trip(tmp_path, options):
    model = fit(T, X, epochs=20, **options)
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = Model.load(path)
    assert torch.equal(model.predict([1.0, 0.0], [0.0, 1.0]), again.predict([1.0, 0.0], [0.0, 1.0]))
    for name in ("target", "rule", "crossover", "scales", "names", "steps", "controls", "order", "hidden", "findings"):
        assert getattr(model, name) == getattr(again, name), name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]  # no draft is left


def test_infinite_crossover_survives(tmp_path):
    model = fit(T, X, derivative=torch.stack([X[:, 1], -X[:, 0]], 1), epochs=20)
    model.save(tmp_path / "m.safetensors")
    assert Model.load(tmp_path / "m.safetensors").crossover == float("inf")


def test_own_network_must_be_handed_in(tmp_path):
    model = fit(T, X, model=nn.Linear(2, 2), epochs=20)
    path = tmp_path / "m.safetensors"
    model.save(path)
    with pytest.raises(InputError, match=r"`model` must be handed in: this file holds the weights of a network"):
        Model.load(path)
    again = Model.load(path, model=nn.Linear(2, 2))
    assert torch.equal(model.predict([1.0, 0.0], [0.0, 1.0]), again.predict([1.0, 0.0], [0.0, 1.0]))


def test_refusals_of_saving(saved, tmp_path):
    model, _ = saved
    with pytest.raises(InputError, match=r"`path` must end in \.safetensors, got 'model\.pt'"):
        model.save("model.pt")
    with pytest.raises(InputError, match=r"`path` must be in a folder that exists, got .*; make '.*none' first"):
        model.save(tmp_path / "none" / "m.safetensors")
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(InputError, match=r"`path` must be a file, got the folder"):
        model.save(tmp_path / "d.safetensors")


def edit(path, **changes):
    side = path.with_suffix(".json")
    side.write_text(json.dumps(json.loads(side.read_text("utf-8")) | changes), "utf-8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": "other"}, r"`schema` must be 'residyn.dynamics.model/1', got 'other'"),
        ({"target": "x"}, r"`target` and `rule` must be known ones, got 'x'"),
        ({"order": 5}, r"`order` must be 1 or 2 and all weights finite, got order 5"),
        ({"hidden": [7, 7]}, r"must describe the weights beside it, got"),
        ({"names": ["a"]}, r"must describe the weights beside it, got"),
        ({"steps": None}, r"must describe the weights beside it, got"),
        ({"scales": {}}, r"must describe the weights beside it, got"),
    ],
)
def test_descriptions_that_do_not_fit(saved, changes, words):
    _, path = saved
    edit(path, **changes)
    with pytest.raises(InputError, match=words):
        Model.load(path)


def test_damaged_files(saved, tmp_path):
    _, path = saved
    weights = load_file(path)
    save_file({**weights, "scale": weights["scale"] * float("nan")}, path)
    with pytest.raises(InputError, match=r"all weights finite"):
        Model.load(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match=r"must be a safetensors file, got"):
        Model.load(path)
    path.with_suffix(".json").write_text("{", "utf-8")
    with pytest.raises(InputError, match=r"must be JSON, got"):
        Model.load(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"must lie beside the weights, got: No such file"):
        Model.load(path)
