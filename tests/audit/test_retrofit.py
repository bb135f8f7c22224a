"""Changes to live models: what they do, that they learn, that they can be undone, and that they refuse before they change."""

import copy

import pytest
import torch
from torch import nn

import residyn as rd
from residyn.nets import MLP, ResNet

from . import networks as N
from .test_find import same, state


def net(depth=3):
    torch.manual_seed(0)
    return ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(depth)], nn.Linear(8, 3))


def transformer():
    torch.manual_seed(0)
    return nn.Sequential(N.Layer("pre"), N.Layer("post"), N.Layer("layerscale"))


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
SEQ = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
CHANGES = {
    "drop": lambda r: r.drop(),
    "scale": lambda r: r.scale(None, 0.3),
    "layer_scale": lambda r: r.layer_scale(init=0.1),
    "rezero": lambda r: r.rezero(),
    "skip_init": lambda r: r.skip_init(),
    "stochastic_depth": lambda r: r.stochastic_depth(0.5),
    "spectral": lambda r: r.spectral(norm=0.1),
    "adapters": lambda r: r.adapters(rank=2),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("make", [net, transformer])
def test_undone_without_a_trace(name, make):
    if (name, make) == ("spectral", transformer):
        pytest.skip("attention has no Lipschitz constant")
    model, x = make(), X if make is net else SEQ
    found = rd.audit(model, x, budget=0)
    before = copy.deepcopy(state(model))
    before["identities"] = state(model)["identities"]
    y = model(x)
    with CHANGES[name](found.retrofit) as change:
        if name not in ("stochastic_depth", "adapters"):
            assert not torch.allclose(model(x), y)
        assert change.active
    after = state(model)
    assert [key for key in before if not same(before[key], after[key])] == []
    assert torch.equal(model(x), y)
    change.undo()  # a second time does nothing
    assert "undone" in repr(change)


def test_scale_is_what_patch_says():
    model = transformer()
    found = rd.audit(model, SEQ, budget=0)
    names = [b.name for b in found.blocks]
    for factors in ({names[0]: 0.5}, {names[3]: -1.0, names[5]: 2.0}):
        with found.patch(scale=factors):
            expected = model(SEQ)
        with found.retrofit.scale(factors):
            assert torch.allclose(model(SEQ), expected, atol=1e-6)  # the factor moves past a sum: single precision


def test_drop_is_what_patch_says():
    model = transformer()
    found = rd.audit(model, SEQ, budget=0)
    for block in found.blocks:
        with found.patch(drop=[block.name]):
            expected = model(SEQ)
        with found.retrofit.drop(block.name):
            assert torch.equal(model(SEQ), expected)
            assert model(SEQ[:1, :3]).shape == (1, 3, 8)  # other sizes


def test_starts():
    model = net()
    retrofit = rd.audit(model, X, budget=0).retrofit
    y = model(X)
    with retrofit.rezero():
        assert torch.equal(model(X), model.head(model.stem(X)))
    with retrofit.skip_init(init=1.0), retrofit.layer_scale(init=1.0):
        assert torch.equal(model(X), y)
    with retrofit.adapters():
        assert torch.equal(model(X), y)
    change = retrofit.skip_init()
    assert float(change.parameters[0].detach()) == pytest.approx(3**-0.5)
    retrofit.undo()


@pytest.mark.parametrize("name", ["layer_scale", "rezero", "skip_init", "adapters"])
def test_what_is_added_learns_and_is_saved(name):
    model = net()
    found = rd.audit(model, X, budget=0)
    change = CHANGES[name](found.retrofit)
    assert {id(p) for p in change.parameters} <= {id(p) for p in model.parameters()}
    assert any("residyn" in key for key in model.state_dict())
    for p in model.parameters():
        p.requires_grad_(False)
    for p in change.parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.Adam(change.parameters, 0.05)
    first = None
    for _ in range(30):
        loss = model(X).pow(2).mean()
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first


def test_stochastic_depth_drops_in_training_only():
    model = net(2)
    found = rd.audit(model, X, budget=0)
    y, stem = model(X), model.stem(X)
    with found.retrofit.stochastic_depth(0.5, schedule="uniform"):
        assert torch.equal(model.eval()(X), y)
        model.train()
        torch.manual_seed(0)
        x = X[:1].expand(4000, 4)
        mean = torch.stack([model.body.blocks[0](model.stem(x)).mean(0)])
        first = model.body.blocks[0].eval()(stem[:1])
    model.eval()
    # the mean of 4000 draws of F·b/p, b ~ Bernoulli(1/2), is F to about |F|/√4000 = 1.6 %; four of those
    spread = (first - stem[:1]).abs() * 4 / 4000**0.5
    assert bool(((mean - first).abs() <= spread + 1e-6).all())


def test_stochastic_depth_is_linear_in_depth():
    model = net(4)
    found = rd.audit(model, X, budget=0)
    with found.retrofit.stochastic_depth(0.4):
        hooks = [next(iter(block.branch._forward_hooks.values())) for block in model.body.blocks]
        assert [1 - hook.keep for hook in hooks] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_spectral_holds():
    model = net()
    found = rd.audit(model, X, budget=0)
    with found.retrofit.spectral(norm=0.5):
        for block in model.body.blocks:
            assert float(rd.lipschitz(block.branch, 8)) <= 0.5 * (1 + 1e-6)


def test_adapters_on_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), N.SEBasic(8)).eval()
    x = torch.randn(2, 3, 9, 9)
    found = rd.audit(
        N.Fn(lambda s, x: (y := s.stem(x)) + s.f(y), stem=nn.Conv2d(3, 8, 3), f=nn.Conv2d(8, 8, 3, 1, 1)), x, budget=0
    )
    change = found.retrofit.adapters(rank=2)
    assert [tuple(p.shape) for p in change.parameters] == [(2, 8), (2,), (8, 2), (8,)]
    refused = rd.audit(model, x, budget=0).retrofit
    with pytest.raises(rd.InputError, match="ends with the operation `mul` in the forward of `1`, not at a module"):
        refused.scale(None, 0.5)


def test_parallel_branches_and_shared_dropout():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.drop = N.mlp(), N.mlp(), nn.Dropout(0.1)

        def forward(self, x):
            return x + self.drop(self.a(x)) + self.drop(self.b(x))

    torch.manual_seed(0)
    model = Shared().eval()
    found = rd.audit(model, SEQ, budget=0)
    with found.retrofit.scale({found.blocks[0].name: 0.0}):
        assert torch.equal(model(SEQ), SEQ)
    with found.retrofit.drop():
        assert torch.equal(model(SEQ), SEQ)


def used_twice(s, x):
    """The first branch is returned as well."""
    y = s.f(x)
    z = x + y
    return z + s.g(z), y


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            lambda: N.Fn(lambda s, x: x + torch.relu(s.f(x)), f=N.mlp()),
            "ends with the operation `relu` in the forward of `model`",
        ),
        (lambda: nn.Sequential(*[N.Fn(lambda s, x: x + s.f(x), f=N.mlp())] * 2), "is called 2 times in a forward pass"),
        (
            lambda: N.Fn(used_twice, f=N.mlp(), g=N.mlp()),
            "is used elsewhere as well",
        ),
        (lambda: torch.jit.trace(N.Fn(lambda s, x: x + s.f(x), f=N.mlp()), SEQ), "holds scripted or custom operations"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_refused_with_the_reason(model, words):
    torch.manual_seed(0)
    made = model()
    found = rd.audit(made, SEQ, budget=0)
    assert found.blocks
    for change in (lambda: found.retrofit.scale(None, 0.5), found.retrofit.rezero, found.retrofit.drop):
        with pytest.raises(rd.InputError, match="must end its branch at a module of its own to be changed: .*" + words):
            change()
    assert found.retrofit.changes == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.scale(), "`factor` must be given, got None"),
        (lambda r: r.scale(None, float("nan")), "`factor` must be finite, got nan"),
        (lambda r: r.stochastic_depth(1.0), r"`rate` must be a probability in \[0, 1\), got 1.0"),
        (lambda r: r.stochastic_depth(0.1, schedule="square"), "`schedule` must be 'linear' or 'uniform', got 'square'"),
        (lambda r: r.adapters(rank=0), "`rank` must be >= 1, got 0"),
        (lambda r: r.drop("nowhere"), "`name` must be that of a block, got 'nowhere'"),
        (lambda r: r.prune(1.5), r"`loss` must be a share of the metric in \[0, 1\), got 1.5"),
        (lambda r: r.spectral(norm=-1.0), "must be made of layers that can be bounded: `lipschitz` must be > 0"),
    ],
)
def test_bad_input(change, words):
    model = net()
    found = rd.audit(model, X, budget=0)
    y = model(X)
    with pytest.raises(rd.InputError, match=words):
        change(found.retrofit)
    assert torch.equal(model(X), y)
    assert found.retrofit.changes == []
