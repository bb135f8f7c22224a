"""Models of others: transformers built from a configuration, torch's own encoder, and torch.compile."""

import copy

import pytest
import torch
from tests.transfer.networks import convolutional, perceptron
from torch import nn

from residyn.transfer import adapters_of, add_adapters

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PICTURE = {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
TOKENS = {"input_ids": torch.arange(5, 19).reshape(2, 7)}
MODELS = {
    "ViTForImageClassification": ("ViTConfig", {**SMALL, "image_size": 32, "patch_size": 8}, PICTURE, 4),
    "ResNetForImageClassification": (
        "ResNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "layer_type": "basic"}, PICTURE, 4,
    ),
    "ConvNextForImageClassification": ("ConvNextConfig", {"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2}, PICTURE, 4),
    "BertForSequenceClassification": ("BertConfig", {**SMALL, "vocab_size": 100}, TOKENS, 4),
    "LlamaForCausalLM": ("LlamaConfig", {**SMALL, "vocab_size": 100}, TOKENS, 4),
    "T5EncoderModel": ("T5Config", {"vocab_size": 100, "d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16}, TOKENS, 4),
    "AlbertModel": ("AlbertConfig", {**SMALL, "vocab_size": 100, "embedding_size": 16}, TOKENS, 2),  # one layer, called twice
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_transformers_models_take_adapters_and_give_them_back(name):
    transformers = pytest.importorskip("transformers")
    config, sizes, inputs, places = MODELS[name]
    torch.manual_seed(0)
    net = getattr(transformers, name)(getattr(transformers, config)(**sizes)).eval()
    with torch.no_grad():
        before = net(**inputs)[0]
    state = copy.deepcopy(net.state_dict())
    adapters = add_adapters(net, **inputs)
    assert len(adapters["default"].sites) == places
    assert adapters["default"].left == ()
    with torch.no_grad():
        assert torch.equal(net(**inputs)[0], before)
    optimizer = torch.optim.Adam(adapters.parameters(), 1e-2)
    net.train()
    for _ in range(2):
        optimizer.zero_grad()
        net(**inputs)[0].pow(2).mean().backward()
        assert all(p.grad is not None for p in adapters.parameters())
        optimizer.step()
    net.eval()
    with torch.no_grad():
        after = net(**inputs)[0]
        assert not torch.equal(after, before)
        assert torch.equal(copy.deepcopy(net)(**inputs)[0], after)
        with adapters.disabled():
            assert torch.equal(net(**inputs)[0], before)
        with adapters.rows(["default", None]):
            mixed = net(**inputs)[0]
    # rows of a batch of two, computed alone: kernels may sum in another order
    torch.testing.assert_close(mixed, torch.stack([after[0], before[1]]), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
    adapters.undo()
    assert list(net.state_dict()) == list(state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViTForImageClassification", "BertForSequenceClassification"])
def test_a_batch_is_made_up_from_the_configuration(name):
    transformers = pytest.importorskip("transformers")
    config, sizes, _, places = MODELS[name]
    net = getattr(transformers, name)(getattr(transformers, config)(**sizes))
    assert len(add_adapters(net)["default"].sites) == places


def test_torchs_fused_encoder_goes_the_way_of_its_modules():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(2, 5, 16)
    with torch.no_grad():
        before = net(x)
        adapters = add_adapters(net, x)
        torch.testing.assert_close(net(x), before, rtol=1e-5, atol=1e-6)  # the fused path rounds in another way
        for p in adapters.parameters():
            p.normal_()
        assert not torch.allclose(net(x), before)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "shape"), [(perceptron, (4, 5)), (convolutional, (4, 3, 8, 8))])
def test_a_compiled_model_follows_its_adapters(make, shape):
    net, x = make(), torch.randn(shape)
    adapters = add_adapters(net, x)
    with torch.no_grad():
        for p in adapters.parameters():
            p.normal_()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))
    with adapters.disabled():
        torch.testing.assert_close(compiled(x), net(x))
    assert adapters_of(net) is adapters
    torch._dynamo.reset()
