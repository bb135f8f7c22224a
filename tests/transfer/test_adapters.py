"""Adapters: nothing changes at the start and when switched off, bit for bit; stacking, rows, gates, removal."""

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as f
from tests.transfer.networks import Block, Children, Paired, bits, convolutional, perceptron
from torch import nn

import residyn
from residyn.errors import InputError
from residyn.transfer import adapters_of, add_adapters


def inputs(net: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(6, 3, 8, 8, generator=generator)
        if isinstance(net, nn.Sequential)
        else torch.randn(6, 5, generator=generator)
    )


def fit(net: nn.Module, parameters: list[nn.Parameter], x: torch.Tensor, steps: int = 15) -> None:
    """A few steps of training, in training mode, that move every parameter."""
    optimiser = torch.optim.Adam(parameters, 1e-2)
    net.train()
    for _ in range(steps):
        optimiser.zero_grad()
        f.cross_entropy(net(x), torch.arange(len(x)) % 4).backward()
        optimiser.step()
    net.eval()


@pytest.mark.parametrize("make", [convolutional, perceptron])
@pytest.mark.parametrize("kind", ["bottleneck", "low_rank"])
def test_the_model_is_what_it_was_bit_for_bit_at_the_start_and_when_switched_off_after_training(make, kind):
    net = make()
    x = inputs(net)
    before, state = net(x), {k: v.clone() for k, v in net.state_dict().items()}
    adapters = add_adapters(net, x, kind=kind, rank=3)
    assert torch.equal(bits(net(x)), bits(before))
    fit(net, adapters.parameters(), x)
    assert not torch.equal(net(x), before)
    with adapters.disabled():
        assert torch.equal(bits(net(x)), bits(before))
    adapters.strength("default", 0.0)
    adapters.use()
    assert torch.equal(bits(net(x)), bits(before))
    for key, value in net.state_dict().items():
        assert "residyn_" in key or torch.equal(value, state[key]), key


def test_a_negative_zero_stays_one():
    class Negative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Linear(4, 4)

        def forward(self, x):
            return (x + self.branch(x)).mul(-0.0)

    net, x = Negative(), torch.rand(2, 4)
    expected = bits(net(x))
    assert expected.unique().numel() == 2
    add_adapters(net, x, modules=[""])
    assert torch.equal(bits(net(x)), expected)


def test_batch_norms_of_an_adapter_move_and_those_of_the_model_do_not():
    net = convolutional()
    adapters = add_adapters(net, norms=True)  # the batch is made up from the first layer
    x = 3 + inputs(net)
    net.train()
    net(x)
    mean = adapters.tensors()["1|own|running_mean"]
    # one batch with momentum 0.1: (1 - 0.1)·m + 0.1·(mean of the batch), where m is what the model has
    seen = net[0](x).mean((0, 2, 3))
    torch.testing.assert_close(mean, 0.9 * net[1].running_mean + 0.1 * seen)
    assert int(net[1].num_batches_tracked) == 1
    assert int(adapters.tensors()["1|own|num_batches_tracked"]) == 2


def test_without_norms_of_its_own_an_adapter_shares_the_models():
    net = convolutional()
    adapters = add_adapters(net, norms=False)
    net.train()
    net(inputs(net))
    assert int(net[1].num_batches_tracked) == 2
    assert not any("|own|" in key for key in adapters.tensors())


def test_a_branch_is_what_its_formula_says():
    net, x = perceptron(), torch.randn(4, 5)
    adapters = add_adapters(net, x, modules=["body.blocks.2"], rank=2, scale=0.5)
    own = {key.rpartition("|")[2]: t for key, t in adapters.tensors().items()}
    with torch.no_grad():
        for name in ("up", "upbias", "downbias"):
            own[name].normal_()
        z = net.states(x)[3]  # the hook is at work in here too
    with adapters.disabled():
        z = net.states(x)[3]
    branch = -(torch.relu(z @ own["down"].T + own["downbias"]) @ own["up"].T + own["upbias"])
    torch.testing.assert_close(net(x), net.head(z + 0.5 * branch))


def test_adapters_are_stacked_in_order():
    net, x = perceptron(), torch.randn(4, 5)
    for name in ("a", "b"):
        adapters = add_adapters(net, x, modules=["body"], kind="low_rank", name=name, rank=2)
        with torch.no_grad():
            adapters.tensors(name)["body|0|up"].normal_()
    steps = {}
    for name in ("a", "b"):
        t = adapters.tensors(name)
        steps[name] = torch.eye(8) - t["body|0|up"] @ t["body|0|down"]  # of which the transpose acts from the right
    with adapters.disabled():
        z = net.body(net.stem(x))
    adapters.use("a", "b")
    torch.testing.assert_close(net(x), net.head(z @ steps["a"].T @ steps["b"].T))
    adapters.use("b", "a")
    torch.testing.assert_close(net(x), net.head(z @ steps["b"].T @ steps["a"].T))


@pytest.mark.parametrize("training", [False, True])
def test_each_sample_has_an_adapter_of_its_own(training):
    net = convolutional()
    x = inputs(net)
    for name in ("a", "b"):
        adapters = add_adapters(net, x, name=name, heads=["6"], seed=ord(name))
        fit(net, adapters.parameters(name), x, 5)
    alone = {}
    for name, rows in (("a", [0, 3]), ("b", [1, 4]), ("", [2, 5])):
        with adapters.using(*[name] if name else []):
            twin = copy.deepcopy(net).train(training)  # in training, batch norms see the samples of one adapter only
            alone[name] = twin(x[rows])
    net.train(training)
    with adapters.rows(["a", "b", None] * 2):
        mixed = net(x)
    for name, rows in (("a", [0, 3]), ("b", [1, 4]), ("", [2, 5])):
        # the same operations on the same rows; kernels may sum a batch of another size in another order
        torch.testing.assert_close(mixed[rows], alone[name], rtol=1e-5, atol=1e-6)
    assert adapters.active == ("b",)


def test_rows_stack_too_and_one_name_for_all_is_a_batch():
    net, x = perceptron(), torch.randn(3, 5)
    for name in ("a", "b"):
        adapters = add_adapters(net, x, name=name)
        fit(net, adapters.parameters(name), x, 5)
    with adapters.using("a", "b"):
        both = net(x)
    with adapters.rows([("a", "b")] * 3):
        assert torch.equal(net(x), both)


def test_blocks_that_iterate_over_their_children_are_not_changed():
    net = nn.Sequential(nn.Linear(5, 8), Children(8), nn.Sequential(Children(8)), nn.Linear(8, 4))
    x = torch.randn(6, 5)
    before = net(x)
    adapters = add_adapters(net, x, modules=["1", "2"])
    assert torch.equal(net(x), before)
    fit(net, adapters.parameters(), x)
    with adapters.disabled():
        assert torch.equal(net(x), before)
    assert len(net[2]) == 1
    assert len(list(net[1].children())) == 2


def test_tuples_and_dictionaries_pass_through():
    net, x = Paired(), torch.randn(3, 6)
    before = net(x)["logits"]
    adapters = add_adapters(net, x)
    assert [(s.module, s.place) for s in adapters["default"].sites] == [("layers.0", 0), ("layers.1", 0)]
    assert torch.equal(net(x)["logits"], before)
    with torch.no_grad():
        adapters.parameters()[1].normal_()
    assert not torch.equal(net(x)["logits"], before)


def test_channels_lie_where_convolutions_or_linear_layers_put_them():
    net = convolutional()
    found = add_adapters(net, inputs(net))["default"].sites
    assert [(s.channels, s.axis) for s in found] == [(8, 1), (8, 1)]

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return x + torch.relu(self.layer(x))

    site = add_adapters(Last(), torch.randn(2, 5, 5, 6))["default"].sites[0]  # four axes, channels last
    assert (site.channels, site.axis) == (6, -1)


def test_a_low_rank_branch_beside_a_linear_module_or_a_convolution_reads_what_it_reads():
    net = convolutional()
    x = inputs(net)
    adapters = add_adapters(net, modules=["one", "6"], kind="low_rank", rank=2, norms=False)
    assert [s.module for s in adapters["default"].sites] == ["2.one", "3.one", "6"]
    tensors = adapters.tensors()
    with torch.no_grad():
        for key, t in tensors.items():
            if key.endswith("up"):
                t.normal_()
    twin = copy.deepcopy(net)
    adapters_of(twin).undo()
    with torch.no_grad():
        for path in ("2.one", "3.one", "6"):
            down, up = tensors[f"{path}|in|down"], tensors[f"{path}|in|up"]
            twin.get_submodule(path).weight -= (up @ down.flatten(1)).reshape(twin.get_submodule(path).weight.shape)
    # W·x + A·x against (W + A)·x: some dozens of float32 roundings a layer
    torch.testing.assert_close(net(x), twin(x), rtol=1e-4, atol=1e-5)


def test_copies_state_pickles_and_halves_carry_adapters_along():
    net = convolutional()
    x = inputs(net)
    adapters = add_adapters(net, x, heads=["6"])
    fit(net, adapters.parameters(), x, 5)
    expected = net(x)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), expected)
    adapters_of(twin).use()
    assert torch.equal(net(x), expected)
    assert adapters_of(twin) is not adapters
    other = convolutional(1)
    add_adapters(other, x, heads=["6"])
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), expected)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)
    half = copy.deepcopy(net).to(torch.bfloat16)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    adapters_of(half).use()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_start_as_nothing_too(dtype):
    net = convolutional().to(dtype)
    x = inputs(net).to(dtype)
    before = net(x)
    add_adapters(net, x)
    assert torch.equal(net(x), before)


def test_autocast_leaves_the_start_as_it_is():
    net = perceptron()
    x = torch.randn(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        before = net(x)
        add_adapters(net, x)
        assert torch.equal(net(x), before)
        assert net(x).dtype == before.dtype


def test_a_head_of_its_own_is_trained_and_the_models_is_not():
    net, x = perceptron(), torch.randn(6, 5)
    before, weight = net(x), net.head.weight.clone()
    adapters = add_adapters(net, x, heads=["head"])
    fit(net, adapters.parameters(), x)
    assert torch.equal(net.head.weight, weight)
    assert not torch.equal(adapters.tensors()["head|own|weight"], weight)
    with adapters.disabled():
        assert torch.equal(net(x), before)


def test_only_the_adapters_are_trained_and_undo_gives_everything_back():
    net = convolutional()
    x = inputs(net)
    net[0].weight.requires_grad_(False)
    before, keys = net(x), list(net.state_dict())
    adapters = add_adapters(net, x, heads=["6"])
    add_adapters(net, x, name="b", kind="low_rank", modules=["one"])
    assert {p.requires_grad for n, p in net.named_parameters() if "residyn_" not in n} == {False}
    assert adapters.count() == sum(p.numel() for p in net.parameters() if p.requires_grad)
    fit(net, adapters.parameters(), x, 3)
    adapters.remove("default")
    assert adapters.names == ["b"]
    adapters.undo()
    assert list(net.state_dict()) == keys
    assert torch.equal(net(x), before)
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["0.weight"]
    assert not any(m._forward_hooks or "forward" in m.__dict__ for m in net.modules())
    with pytest.raises(InputError, match="`model` must have adapters, got one without"):
        adapters_of(net)


def test_strength_scales_every_branch_and_gates_are_learned():
    net, x = perceptron(), torch.randn(6, 5)
    adapters = add_adapters(net, x, scale=0.7)
    fit(net, adapters.parameters(), x)
    gates = adapters.gates()
    assert len(gates) == 3
    assert all(g.item() != pytest.approx(0.7, abs=1e-6) for g in gates.values())
    whole = net(x)
    adapters.strength("default", 2.0)
    doubled = net(x)
    with torch.no_grad():
        for g in gates.values():
            g.mul_(2)
    adapters.strength("default", 1.0)
    torch.testing.assert_close(net(x), doubled)
    assert not torch.equal(whole, doubled)


def test_an_adapted_model_can_be_audited_and_exported():
    net, x = perceptron(), torch.randn(4, 5)
    adapters = add_adapters(net, x)
    fit(net, adapters.parameters(), x, 3)
    assert len(residyn.audit(net, x, budget=0).blocks) == 6  # each branch is a residual block of its own
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x))


def test_the_audits_own_adapters_spare_a_sequential():
    net = nn.Sequential(nn.Linear(5, 8), Sequence(), nn.Linear(8, 4))
    x = torch.randn(4, 5)
    before = net(x)
    with residyn.audit(net, x, budget=0).retrofit.adapters(rank=2) as change:
        assert torch.equal(net(x), before)
        assert len(net[1].branch) == 2
        with torch.no_grad():
            for p in change.parameters:
                p.normal_()
        down, downbias, up, upbias = change.parameters
        z = net[0](x)
        branch = torch.tanh(net[1].branch[0](z))
        branch = branch + torch.relu(branch @ down.T + downbias) @ up.T + upbias  # once, not twice
        torch.testing.assert_close(net(x), net[2](z + branch))
    assert torch.equal(net(x), before)


class Sequence(nn.Module):
    """A block whose branch is a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, x):
        return x + self.branch(x)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"kind": "lora"}, '`kind` must be "bottleneck" or "low_rank", got \'lora\''),
        ({"rank": 0}, "`rank` must be a whole number >= 1, got 0"),
        ({"rank": 2.0}, "`rank` must be a whole number >= 1, got 2.0"),
        ({"scale": float("nan")}, "`scale` must be finite, got nan"),
        ({"name": "a.b"}, "`name` must be letters, digits, _ and -, got 'a.b'"),
        ({"modules": ["bodies"]}, "`modules` must be paths of modules or their ends, got 'bodies'; near to it are body"),
        ({"modules": []}, "`modules` must name at least one module, got none"),
        (
            {"modules": ["qqq"]},
            r"`modules` must be paths of modules or their ends, got 'qqq'; model.named_modules\(\) lists them",
        ),
        ({"heads": ["heed"]}, "got 'heed'; near to it are head"),
        ({"modules": ["unused"]}, "`modules` must be called in a forward pass, got 'unused', which is not"),
        ({"modules": ["counter"]}, "`modules` must return a tensor"),
    ],
)
def test_what_breaks_a_rule_is_refused_and_the_model_is_what_it_was(what, words):
    net, x = perceptron(), torch.randn(4, 5)
    net.unused = nn.Linear(2, 2)

    class Counter(nn.Module):
        def forward(self, x):
            return len(x)

    net.counter = Counter()
    net.register_forward_pre_hook(lambda m, args: m.counter(args[0]) and None)
    before, keys = net(x), list(net.state_dict())
    with pytest.raises(InputError, match=words):
        add_adapters(net, x, **what)
    assert torch.equal(net(x), before)
    assert list(net.state_dict()) == keys
    assert all(p.requires_grad for p in net.parameters())


def test_a_model_without_blocks_or_without_a_batch_is_refused():
    with pytest.raises(InputError, match=r"`model` must have a residual block x \+ F\(x\)"):
        add_adapters(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(2, 3))

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x, *, other):
            return x + self.layer(x) * other

    with pytest.raises(InputError, match="`inputs` must hold what the model is called with, got none"):
        add_adapters(Odd())
    with pytest.raises(InputError, match="`model` must be a torch module, got function"):
        add_adapters(lambda x: x)
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(InputError, match="`modules` must be convolutions without groups and padded by zeros"):
        add_adapters(grouped, torch.randn(2, 4, 8, 8), modules=["0"], kind="low_rank")
    with warnings.catch_warnings():  # torch calls it deprecated; models made with it are about
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(Block(4).eval())
    with pytest.raises(InputError, match="`model` must not be scripted where branches go"):
        add_adapters(scripted, torch.randn(2, 4, 8, 8), modules=[""])


def test_wrong_names_and_batches_are_refused():
    net, x = perceptron(), torch.randn(4, 5)
    adapters = add_adapters(net, x)
    with pytest.raises(InputError, match="`name` must be new, got 'default', which the model has"):
        add_adapters(net, x)
    with pytest.raises(InputError, match="`name` must be that of an adapter, got 'b'; there are default"):
        adapters.use("b")
    with pytest.raises(InputError, match="`factor` must be finite, got inf"):
        adapters.strength("default", float("inf"))
    with (
        adapters.rows(["default", None]),
        pytest.raises(InputError, match="`rows` must name an adapter for each sample, got 2 names for 4 rows at"),
    ):
        net(x)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        residyn.transfer.nothing  # noqa: B018
    assert "add_adapters" in dir(residyn.transfer)
