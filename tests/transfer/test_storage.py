"""Adapters on disk: kilobytes, loaded by name, and refused by other models, which stay as they are."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.transfer.networks import convolutional, perceptron
from tests.transfer.test_adapters import fit, inputs

from residyn.errors import InputError, ResidynError
from residyn.training import save_weights
from residyn.transfer import adapters_of, add_adapters, load_adapter


def trained(tmp_path, **what):
    """A network with an adapter that was trained and saved, its output with it, and the file."""
    net = convolutional()
    x = inputs(net)
    adapters = add_adapters(net, x, name="task", heads=["6"], **what)
    fit(net, adapters.parameters(), x, 5)
    adapters.save(tmp_path / "task.safetensors", "task")
    return net, x, net(x), tmp_path / "task.safetensors"


@pytest.mark.parametrize("what", [{}, {"kind": "low_rank", "modules": ["one", "0"]}, {"kind": "low_rank"}])
def test_an_adapter_comes_back_bit_for_bit_and_without_the_model(tmp_path, what):
    net, x, expected, path = trained(tmp_path, **what)
    assert path.stat().st_size < 16_000
    assert not any(key.startswith("2.one.weight") for key in load_file(path))
    other = convolutional()
    assert load_adapter(other, path).names == ["task"]
    assert torch.equal(other(x), expected)
    again = load_adapter(other, path, name="again")
    again.use("again")
    assert torch.equal(other(x), expected)
    assert not any(p.requires_grad for n, p in other.named_parameters() if "residyn_" not in n)
    adapters_of(net).undo()
    add_adapters(net, x).load(path)
    assert torch.equal(net(x), expected)


def test_the_same_weights_in_another_precision_are_the_same_model(tmp_path):
    _, x, expected, path = trained(tmp_path)
    half = convolutional().bfloat16()
    load_adapter(half, path)
    # bfloat16 keeps 8 bits: 0.4 % a rounding, some ten of them one after the other
    torch.testing.assert_close(half(x.bfloat16()).float(), expected, rtol=0.1, atol=0.05)
    double = convolutional().double()
    load_adapter(double, path)
    torch.testing.assert_close(double(x.double()).float(), expected, rtol=1e-4, atol=1e-5)


def wider() -> torch.nn.Module:
    """As `convolutional`, with other shapes."""
    net = convolutional()
    net[6] = torch.nn.Linear(8, 7)
    return net


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: convolutional(1), "must hold an adapter of this model, got one that was trained on other weights"),
        (perceptron, "must hold an adapter of this model, got one with branches at `2`, which it does not have"),
        (wider, r"must hold an adapter of this model, got one with `6\|own\|weight` of shape \(4, 8\), where this one needs"),
    ],
)
def test_an_adapter_of_another_model_is_refused_in_one_line_and_the_model_is_untouched(tmp_path, make, words):
    *_, path = trained(tmp_path)
    other = make()
    x = inputs(other)
    before, keys = other(x), list(other.state_dict())
    with pytest.raises(InputError, match=words) as caught:
        load_adapter(other, path)
    assert "\n" not in str(caught.value)
    assert torch.equal(other(x), before)
    assert list(other.state_dict()) == keys
    assert all(p.requires_grad for p in other.parameters())
    with pytest.raises(InputError, match="`model` must have adapters"):
        adapters_of(other)


def test_other_weights_are_taken_if_it_is_meant(tmp_path):
    *_, path = trained(tmp_path)
    assert load_adapter(convolutional(1), path, strict=False).names == ["task"]


def test_one_trained_layer_makes_another_model(tmp_path):
    *_, path = trained(tmp_path)
    other = convolutional()
    with torch.no_grad():
        other[3].two.weight.add_(torch.randn_like(other[3].two.weight) * other[3].two.weight.std())
    with pytest.raises(InputError, match="trained on other weights"):
        load_adapter(other, path)


def test_a_branch_beside_a_module_of_another_form_is_refused(tmp_path):
    net = perceptron()
    add_adapters(net, modules=["head"], kind="low_rank").save(tmp_path / "a.safetensors")
    other = perceptron()
    other.head = torch.nn.Identity()
    with pytest.raises(InputError, match="got one with a branch beside `head` from 8 to 4"):
        load_adapter(other, tmp_path / "a.safetensors")
    norms = convolutional()
    add_adapters(norms, modules=["1"], rank=1).save(tmp_path / "b.safetensors")
    norms = convolutional()
    norms[1] = torch.nn.Conv2d(8, 8, 1)
    with pytest.raises(InputError, match="got one with its own `1.running_mean`, which it does not have"):
        load_adapter(norms, tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"schema": "residyn.training/1"}, r"must hold an adapter \(residyn.adapter/1\), got 'residyn.training/1'"),
        ({"schema": "residyn.adapter/1", "kind": "bottleneck"}, "got a header that is not whole"),
        (
            {"schema": "residyn.adapter/1", "kind": "x", "rank": 1, "sites": [], "owned": {}, "print": [], "name": "a"},
            "must hold an adapter, got kind 'x' of rank 1",
        ),
        (
            {
                "schema": "residyn.adapter/1",
                "kind": "bottleneck",
                "rank": 1,
                "sites": [],
                "owned": {},
                "print": [],
                "name": "a/b",
            },
            "`name` must be letters, digits, _ and -, got 'a/b'",
        ),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, about, words):
    save_weights(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, about)
    with pytest.raises(InputError, match=words):
        load_adapter(convolutional(), tmp_path / "a.safetensors")


def test_cut_missing_and_strangers_files_are_refused(tmp_path):
    *_, path = trained(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="must be a safetensors file"):
        load_adapter(convolutional(), tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="must be a file that can be read, got none"):
        load_adapter(convolutional(), tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="without its header"):
        load_adapter(convolutional(), tmp_path / "plain.safetensors")
    net = convolutional()
    load_adapter(net, path)
    with pytest.raises(InputError, match="`name` must be new, got 'task'"):
        load_adapter(net, path)
    with pytest.raises((InputError, ResidynError)):
        adapters_of(net).save(tmp_path / "none" / "a.safetensors", "task")


def test_a_file_with_a_tensor_too_many_or_too_few_is_refused(tmp_path):
    net, x, _, path = trained(tmp_path)
    import json

    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["residyn"])
    tensors = load_file(path)
    save_weights(tmp_path / "more.safetensors", {**tensors, "strange": torch.zeros(2)}, about)
    with pytest.raises(InputError, match=r"`strange` of shape \(2,\), where this one needs None"):
        load_adapter(convolutional(), tmp_path / "more.safetensors")
    tensors.pop("2|0|up")
    save_weights(tmp_path / "less.safetensors", tensors, about)
    with pytest.raises(InputError, match=r"`2\|0\|up` of shape None, where this one needs \(8, 8\)"):
        load_adapter(convolutional(), tmp_path / "less.safetensors")
    assert copy.deepcopy(net)(x).shape == (6, 4)
