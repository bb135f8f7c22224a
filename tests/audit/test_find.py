"""The finder against the table of architectures, and what it does to the models: nothing."""

import collections
import copy
import dataclasses
import importlib.util
import random

import numpy as np
import pytest
import torch
from torch import nn

import residyn as rd
from residyn.audit import ModelError

from . import networks as N
from .architectures import NEEDS, SEQ, TABLE

# transformers and torch.jit warn about their own affairs while models are built
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def build(name):
    if not importlib.util.find_spec(NEEDS.get(name, "torch")):
        pytest.skip(f"needs {NEEDS[name]}")
    torch.manual_seed(0)
    return TABLE[name][0]()


@pytest.mark.parametrize("name", TABLE)
def test_number_of_blocks(name):
    model, args, kwargs = build(name)
    found = rd.audit(model, *args, budget=0, **kwargs)
    assert len(found.blocks) == TABLE[name][1], [b.name for b in found.blocks]
    assert len({b.name for b in found.blocks}) == len(found.blocks)
    # the second tracer agrees everywhere in this table
    assert not any("disagree" in line for line in found.warnings), found.warnings


def kinds(name):
    model, args, kwargs = build(name)
    return [b.kind for b in rd.audit(model, *args, budget=0, **kwargs).blocks]


def test_kinds():
    assert kinds("ResNet, own") == ["identity", "projection", "identity"]
    assert kinds("ResNet, option A") == ["identity", "resample", "identity"]
    assert kinds("DeepNorm") == ["scaled"] * 4
    assert kinds("Highway") == ["scaled"] * 3
    assert kinds("LayerScale") == ["identity"] * 4


def test_names_and_calls():
    model, args, kwargs = build("GPT-2")
    found = rd.audit(model, *args, budget=0, **kwargs)
    assert [b.name for b in found.blocks] == [f"h.{i}.{part}" for i in range(3) for part in ("attn", "mlp")]
    model, args, _ = build("one layer, four times")
    found = rd.audit(model, *args, budget=0)
    assert [b.call for b in found.blocks] == [0, 0, 1, 1, 2, 2, 3, 3]
    model, args, _ = build("parallel")
    assert len(rd.audit(model, *args, budget=0).blocks[0].branches) == 2


def state(model):
    """All that an audit must leave as it was."""
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
        for m in model.modules()
    ]
    return {
        "tensors": {k: v.clone() for k, v in model.state_dict().items()},
        "identities": [id(t) for t in (*model.parameters(), *model.buffers())],
        "flags": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": hooks,
        "global hooks": (
            len(nn.modules.module._global_forward_hooks),
            len(nn.modules.module._global_forward_pre_hooks),
        ),
        "attributes": [sorted(m.__dict__) for m in model.modules()],
        "cache": getattr(getattr(model, "config", None), "use_cache", None),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1],
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool((a == b).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


class Naughty(nn.Module):
    """Changes itself in its forward, in evaluation mode too, and may raise halfway."""

    def __init__(self, fail=False):
        super().__init__()
        self.a, self.b = N.mlp(), nn.BatchNorm1d(8)
        self.register_buffer("count", torch.zeros(()))
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self.fail, self.calls = fail, 0
        self.table, self.log = {}, [1]
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        self.count += 1
        self.calls += 1
        self.cache = x
        if "seen" not in self.table:  # a cache that changes what a second run does, as LeViT's
            self.table["seen"] = torch.relu(self.frozen)
        self.log.append(x.shape)
        with torch.no_grad():
            self.frozen.mul_(1.01)
            self.a[0].weight.data.add_(0.5)
        np.random.rand(), random.random(), torch.rand(1)
        x = x + self.dropout(self.a(x)) * self.frozen
        x.relu_()
        if self.fail:
            raise RuntimeError("halfway")
        return {"out": (self.b(x),)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("budget", [0, None])
def test_nothing_is_changed(fail, training, budget):
    model = Naughty(fail).train(training)
    model.b.eval()
    x = torch.randn(4, 8)
    given, before = x.clone(), copy.deepcopy(state(model))
    before["identities"] = state(model)["identities"]
    if fail:
        with pytest.raises(ModelError, match="`model` must run on these inputs, got RuntimeError: halfway"):
            rd.audit(model, x, budget=budget)
    else:
        assert len(rd.audit(model, x, budget=budget).blocks) == 1
    after = state(model)
    assert [key for key in before if not same(before[key], after[key])] == []
    assert model.calls == 0
    assert (model.table, model.log) == ({}, [1])
    assert torch.equal(x, given)
    assert x.grad is None


@pytest.mark.parametrize("name", ["BERT", "Swin", "Mamba", "T5", "RWKV", "nn.TransformerEncoder", "scripted"])
def test_nothing_is_changed_in_real_architectures(name):
    model, args, kwargs = build(name)
    model.train(name != "scripted")
    before = copy.deepcopy(state(model)) if name != "scripted" else state(model)
    before["identities"] = state(model)["identities"]
    rd.audit(model, *args, budget=0 if name in ("RWKV", "Mamba") else None, **kwargs)
    after = state(model)
    assert [key for key in before if not same(before[key], after[key])] == []


@pytest.mark.parametrize("budget", [0, None])
def test_nothing_is_changed_by_an_interruption(budget):
    """Ctrl-C in the middle of a forward pass, of the first one and of a later one."""
    x = torch.randn(4, 8)
    for turn in range(1, 6):
        model = Naughty()
        calls = [0]

        def strike(*_, turn=turn, calls=calls):
            calls[0] += 1
            if calls[0] == turn:
                raise KeyboardInterrupt

        model.dropout.register_forward_hook(strike)
        before = copy.deepcopy(state(model))
        before["identities"] = state(model)["identities"]
        try:
            rd.audit(model, x, budget=budget)
        except KeyboardInterrupt:
            assert calls[0] == turn
        after = state(model)
        assert [key for key in before if not same(before[key], after[key])] == []


def test_other_inputs_and_outputs():
    """Dictionaries, tuples and dataclasses go in and out."""
    net = N.Fn(lambda s, batch: {"y": [(batch["x"] + s.f(batch["x"]),)]}, f=N.mlp())
    assert len(rd.audit(net, {"x": SEQ()}, budget=0).blocks) == 1


def warnings_of(model, *inputs, **more):
    return " ".join(rd.audit(model, *inputs, budget=0, **more).warnings)


def test_silence_is_broken():
    drop = N.Fn(lambda s, x: x + s.p(s.f(x)), f=N.mlp(), p=N.DropPath())
    assert "stochastic depth in train mode (p)" in warnings_of(drop.train(), SEQ())
    assert warnings_of(drop.eval(), SEQ()) == ""
    numpy = N.Fn(lambda s, x: x + torch.from_numpy(s.f(x).detach().numpy()), f=N.mlp())
    found = rd.audit(numpy, SEQ(), budget=0)
    assert found.blocks == []
    assert any("tensors left torch (model)" in line for line in found.warnings)
    model, args, _ = build("nn.TransformerEncoder")
    assert "fused fast path" in warnings_of(model, *args)
    model, args, _ = build("scripted")
    assert "scripted or custom operations" in warnings_of(model, *args)
    assert "one sample" in warnings_of(N.Mixer(), torch.randn(1, 6, 8))
    assert "no gradient could be recorded" not in warnings_of(N.Mixer().requires_grad_(False), SEQ())


@dataclasses.dataclass(frozen=True)
class Pair:
    x: torch.Tensor
    scale: float = 1.0


@pytest.mark.parametrize(
    "kind", [lambda x: {"x": x}, lambda x: collections.UserDict(x=x), Pair], ids=["dict", "UserDict", "dataclass"]
)
def test_inputs_within_others_are_not_written_into(kind):
    """A model may write into its input, in whatever that comes; the user's own tensor stays, and a single sample is repeated."""

    def forward(s, given):
        x = given.x if isinstance(given, Pair) else given["x"]
        return x.add_(1) * 1 + s.f(x)

    given = torch.randn(1, 8)
    kept = given.clone()
    found = rd.audit(N.Fn(forward, f=N.mlp()), kind(given))
    assert torch.equal(given, kept)
    assert [b.shape for b in found.blocks] == [(2, 8)]
    assert found.blocks[0].jacobian_norm > 0
