"""LoRA in PEFT's form: what is written loads in PEFT, what PEFT wrote loads here, and both compute the same."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.transfer.networks import convolutional, perceptron
from tests.transfer.test_adapters import inputs
from torch import nn

from residyn.errors import InputError
from residyn.transfer import adapters_of, add_adapters, load_peft

LINES = ["stem", "head", "branch.0", "branch.2"]


def lora(net: nn.Module, modules: list[str]):
    """A low-rank adapter beside linear modules that does something."""
    x = inputs(net)
    adapters = add_adapters(net, x, kind="low_rank", rank=2, modules=modules, norms=False, scale=0.7)
    with torch.no_grad():  # not trained, which would move the batch norms of the model
        for key, t in adapters.tensors().items():
            if key.endswith("up"):
                t.normal_(std=0.2)
    return adapters, x


@pytest.mark.parametrize(("make", "modules"), [(perceptron, LINES), (convolutional, ["0", "one", "6"])])
def test_merged_weights_compute_the_same(make, modules):
    net = make()
    adapters, x = lora(net, modules)
    adapters.strength("default", 0.5)
    expected = net(x)
    adapters.merge()
    assert adapters.names == []
    assert not any("residyn_" in key for key in net.state_dict())
    # the sum is rounded once a weight, products in another order: dozens of float32 roundings
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "modules"), [(perceptron, LINES), (convolutional, ["0", "one", "6"])])
def test_what_is_written_is_read_again(tmp_path, make, modules):
    net = make()
    adapters, x = lora(net, modules)
    expected = net(x)
    adapters.to_peft(tmp_path / "lora")
    assert sorted(p.name for p in (tmp_path / "lora").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    other = make()
    load_peft(other, tmp_path / "lora", "theirs")
    torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-6)
    adapters.to_peft(tmp_path / "lora")  # once more, over the files that are there
    assert [p.name for p in tmp_path.iterdir()] == ["lora"]


@pytest.mark.parametrize(("make", "modules"), [(perceptron, LINES), (convolutional, ["0", "one", "6"])])
@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_peft_loads_what_is_written_and_what_it_writes_loads_here(tmp_path, make, modules):
    peft = pytest.importorskip("peft")
    net = make()
    adapters, x = lora(net, modules)
    adapters.to_peft(tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(make(), str(tmp_path / "ours")).eval()
    torch.testing.assert_close(theirs(x), net(x), rtol=1e-5, atol=1e-6)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=modules, rank_pattern={modules[0]: 1}, use_rslora=True)
    model = peft.get_peft_model(make(), config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    model.save_pretrained(str(tmp_path / "theirs"))
    here = make()
    load_peft(here, tmp_path / "theirs")
    torch.testing.assert_close(here(x), model.eval()(x), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_gpt2s_transposed_layers_go_to_peft_and_back(tmp_path):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")

    def make() -> nn.Module:
        torch.manual_seed(0)
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 20}
        return transformers.GPT2Model(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()

    net, ids = make(), torch.arange(8).reshape(2, 4)
    adapters = add_adapters(net, ids, kind="low_rank", rank=2, modules=["c_attn", "c_fc"])
    with torch.no_grad():
        for key, t in adapters.tensors().items():
            if key.endswith("up"):
                t.normal_(std=0.1)
    expected = net(ids)[0]
    adapters.to_peft(tmp_path / "lora")
    theirs = peft.PeftModel.from_pretrained(make(), str(tmp_path / "lora")).eval()
    torch.testing.assert_close(theirs(ids)[0], expected, rtol=1e-4, atol=1e-5)
    adapters.merge()
    torch.testing.assert_close(net(ids)[0], expected, rtol=1e-4, atol=1e-5)


def test_branches_that_are_not_linear_have_no_such_form(tmp_path):
    net = perceptron()
    adapters = add_adapters(net)
    with pytest.raises(InputError, match='`name` must be an adapter of kind "low_rank" beside linear modules'):
        adapters.to_peft(tmp_path / "lora")
    norms = convolutional()
    with pytest.raises(InputError, match="`name` must be an adapter without norms and heads of its own"):
        add_adapters(norms, kind="low_rank", modules=["one"]).merge()
    assert list(tmp_path.iterdir()) == []


def changed(tmp_path, config=None, tensors=None):
    """A folder as PEFT writes it, changed."""
    adapters, _ = lora(perceptron(), ["stem"])
    adapters.to_peft(tmp_path / "lora")
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **(config or {})}))
    if tensors is not None:
        path = tmp_path / "lora" / "adapter_model.safetensors"
        save_file(tensors(load_file(path)), path)
    return tmp_path / "lora"


def renamed(old: str, new: str):
    return lambda tensors: {key.replace(old, new): t for key, t in tensors.items()}


@pytest.mark.parametrize(
    ("config", "tensors", "words"),
    [
        ({"peft_type": "IA3"}, None, "must hold an adapter of peft_type LORA, got 'IA3'"),
        ({"use_dora": True}, None, "must be a plain LoRA, got use_dora=True"),
        ({"modules_to_save": ["head"]}, None, r"must be a plain LoRA, got modules_to_save=\['head'\]"),
        ({"lora_alpha": "3"}, None, "`lora_alpha` and those of `alpha_pattern` must be numbers, got '3'"),
        ({"alpha_pattern": [1]}, None, "`lora_alpha` and those of `alpha_pattern` must be numbers"),
        ({}, renamed("stem", "trunk"), "got one with a branch at `trunk`, which is no linear module of it"),
        ({}, renamed("lora_A", "lora_magnitude_vector"), "must hold pairs of lora_A and lora_B"),
        ({}, lambda t: {k: v for k, v in t.items() if "lora_B" in k}, "must hold lora_A and lora_B, got none"),
        ({}, renamed("stem", "head"), r"must hold an adapter of this model, got one with \(2, 5\) and \(8, 2\) at `head`"),
    ],
)
def test_what_is_no_plain_lora_of_this_model_is_refused(tmp_path, config, tensors, words):
    folder = changed(tmp_path, config, tensors)
    net = perceptron()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match=words) as caught:
        load_peft(net, folder)
    assert "\n" not in str(caught.value)
    assert list(net.state_dict()) == list(before)
    with pytest.raises(InputError, match="`model` must have adapters"):
        adapters_of(net)


def test_a_folder_without_files_is_refused_and_patterns_of_alpha_are_kept(tmp_path):
    with pytest.raises(InputError, match=r"must hold adapter_config.json and adapter_model.safetensors, got:"):
        load_peft(perceptron(), tmp_path)
    plain, double = perceptron(), perceptron()
    folder = changed(tmp_path)
    load_peft(plain, folder)
    load_peft(double, changed(tmp_path, {"alpha_pattern": {"stem": 4}}))  # r = 2: a factor of 2 instead of 1
    up = [adapters_of(net).tensors()["stem|in|up"] for net in (plain, double)]
    torch.testing.assert_close(2 * up[0], up[1])
