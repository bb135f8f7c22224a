"""Adaptation without labels: that it works, that it reads none, and that it leaves the model alone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from residyn.errors import InputError
from residyn.transfer import Laplace, Recipe, adapt, judge, load_adapted, save_adapted
from residyn.transfer.correction import DENSE, Adapted, Correction
from residyn.transfer.recipes import information

QUICK = {"recipes": [Recipe(start="standardise")], "steps": 40, "batch": 64, "width": 16}


class Untouchable:
    """Labels that nobody may look at."""

    def __getattribute__(self, name):
        raise AssertionError(f"labels were touched: {name}")

    def __len__(self):
        raise AssertionError("labels were counted")

    def __bool__(self):
        raise AssertionError("labels were asked whether they are there")


def problem(seed=0, n=300, d=6):
    """Three classes; the target is stretched, turned a little and moved."""
    g = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(3, d, generator=g)
    y = torch.arange(n) % 3
    x = centres[y] + torch.randn(n, d, generator=g)
    a = torch.randn(d, d, generator=g)
    turn = torch.linalg.matrix_exp(0.1 * (a - a.T))
    moved = (centres[y] + torch.randn(n, d, generator=g)) @ turn * 1.6 + 2.5
    net = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 3))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in net[::2]:
            layer.reset_parameters()
        optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(150):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
    return net, x, y, moved, y.clone()


def test_error_and_gap_fall():
    net, x, y, moved, truth = problem()
    found = adapt(net, (x, y), (moved, truth), **QUICK)
    judged = judge(found)
    assert judged.adapted > judged.model
    assert judged.supervised >= judged.model
    assert found.chosen.gap < found.before.gap
    assert judged.opened == 0
    assert found.labels.opened == 1
    assert judged.rivals == max(judged.standardise, judged.recolour)


def test_no_label_of_the_target_is_touched():
    net, x, y, moved, _ = problem()
    found = adapt(net, (x, y), (moved, Untouchable()), **QUICK)
    assert found.labels.opened == 0
    without = adapt(net, (x, y), moved, **QUICK)
    assert torch.equal(found(moved), without(moved))  # labels or none, bit for bit


def test_the_model_and_the_callers_generator_stay_as_they_were():
    net, x, y, moved, _ = problem()
    net.train()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    found = adapt(net, (x, y), moved, **QUICK)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert all(torch.equal(before[k], v) for k, v in found.model.model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert net.training
    assert not net[2]._forward_pre_hooks
    assert all(p.requires_grad for p in net.parameters())


def test_same_seed_same_branch():
    net, x, y, moved, _ = problem()
    one, two = (adapt(net, (x.numpy(), y.numpy()), moved.numpy(), **QUICK, seed=3) for _ in range(2))
    assert torch.equal(one(moved), two(moved))
    assert one.chosen == two.chosen


def test_the_best_score_is_chosen():
    net, x, y, moved, _ = problem()
    told = []
    recipes = [Recipe("none", information=0.0), Recipe("mmd", Laplace(), start="standardise"), Recipe("both")]
    found = adapt(net, (x, y), moved, **{**QUICK, "recipes": recipes}, watch=lambda share, text: told.append((share, text)))
    assert found.chosen.score == max(trial.score for trial in found.trials)
    assert [trial.recipe for trial in found.trials] == recipes
    assert found.trials[0].information == pytest.approx(found.before.information, abs=1e-6)  # nothing asked, nothing moved
    assert told[-1] == (1.0, str(recipes[-1]))
    assert [share for share, _ in told] == sorted(share for share, _ in told)


@pytest.mark.parametrize("shape", [(7,), (3, 5, 5), (2, DENSE)])
def test_a_correction_starts_as_nothing(shape):
    x = torch.randn(4, *shape)
    x[0].flatten()[0] = -0.0
    made = Correction(shape, 5, None, torch.Generator().manual_seed(0))
    assert torch.equal(made(x), x)
    assert torch.equal(torch.signbit(made(x)), torch.signbit(x))
    picture = torch.randn(2, 3, 64, 64)
    assert torch.equal(Correction((3, 64, 64), 5, None, torch.Generator())(picture), picture)


def test_untrained_corrections_leave_the_model_bit_for_bit():
    net, x, *_ = problem()
    made = Adapted(net, x[:2])
    for place, shape in made.shapes.items():
        made.corrections[place] = Correction(shape, 8, None, torch.Generator())
    assert made.head == "2"
    assert torch.equal(made(x), net(x))


def test_models_with_named_logits_or_no_linear_layer():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 3)

        def forward(self, x):
            return {"logits": 2 * self.body(x)}

    made = Adapted(Named(), torch.randn(2, 4))
    assert made.head is None  # what the layer returns is not the logits
    assert made.shapes["features"] == (3,)
    with pytest.raises(InputError, match=r"`model` must return logits \(n, C\) with C >= 2, .*, got \(2, 1\); wrap it"):
        Adapted(nn.Linear(4, 1), torch.randn(2, 4))
    with pytest.raises(InputError, match=r"`model` must take the samples, got \(2, 5\) and: mat1 and mat2"):
        Adapted(nn.Linear(4, 2), torch.randn(2, 5))


def test_branch_file(tmp_path):
    net, x, y, moved, _ = problem()
    found = adapt(net, (x, y), moved, **QUICK)
    path = tmp_path / "branch.safetensors"
    save_adapted(found.model, path)
    assert path.stat().st_size < 4 * 2 * (16 * 6 + 16 * 32) * 4
    again = load_adapted(path, net, x[:2])
    assert torch.equal(again(moved), found.model(moved))
    other = problem(1)[0]
    with pytest.raises(InputError, match=r"must be for this model \(\w{16}\), got corrections of another one"):
        load_adapted(path, other, x[:2])
    from residyn.training.storage import load_weights, save_weights

    tensors, about = load_weights(path)
    save_weights(tmp_path / "x.safetensors", {k: v[:1] for k, v in tensors.items() if v.ndim}, about)
    with pytest.raises(InputError, match=r"must hold what its header says, got"):
        load_adapted(tmp_path / "x.safetensors", net, x[:2])
    save_weights(tmp_path / "y.safetensors", tensors, {"schema": "other"})
    with pytest.raises(InputError, match=r"must hold the corrections of an adapted model, got 'other'"):
        load_adapted(tmp_path / "y.safetensors", net, x[:2])
    small, about["corrections"] = (
        Correction((5,), 2, None, torch.Generator()),
        {"input": {"shape": [5], "width": 2, "start": False}},
    )
    save_weights(tmp_path / "z.safetensors", {f"input.{k}": v for k, v in small.state_dict().items()}, about)
    with pytest.raises(InputError, match=r"must fit samples of shape \(6,\), got others"):
        load_adapted(tmp_path / "z.safetensors", net, x[:2])


def test_information_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    entropy = lambda q: -(q * np.log(q)).sum(-1)  # noqa: E731
    expected = entropy(p.numpy().mean(0)) - entropy(p.numpy()).mean()
    assert float(information(p.log())) == pytest.approx(expected, abs=1e-14)


X, Y, T = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2, torch.ones(10, 3)
NET = nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: adapt(NET, (X, Y), T[:, :2]), r"`target` must have the source's features, \(3,\) a sample, got \(2,\)"),
        (lambda: adapt(NET, (X, Y), T[:0]), r"`target` must hold two samples at least, got 0; a domain cannot be empty"),
        (lambda: adapt(NET, (X, Y), T / 0), r"`target` must be finite, got nan or inf in 10 samples, first in row 0"),
        (lambda: adapt(NET, (X, Y * 0), T), r"labels of `source` must hold 2 classes at least, got class 0 only"),
        (lambda: adapt(NET, (X, Y + 1), T), r"labels of `source` must lie in \[0, 1\], the model's classes, got 2"),
        (lambda: adapt(NET, (X, Y[:5]), T), r"labels of `source` must be \(20,\), one a sample, got \(5,\)"),
        (lambda: adapt(NET, (X, Y + 0.5), T), r"labels of `source` must be whole class numbers, got torch.float32"),
        (lambda: adapt(NET, (X, ["a"] * 20), T), r"labels of `source` must be class numbers, got <U1"),
        (lambda: adapt(NET, X, T), r"`source` must be a pair of samples and class numbers, got Tensor"),
        (lambda: adapt(NET, (X, Y), "x"), r"`target` must be samples \(n, …\) as a tensor or array, got str"),
        (lambda: adapt(NET, (X, Y), np.array([["a"]])), r"`target` must hold numbers, got <U1; encode text as numbers first"),
        (lambda: adapt(NET, (X, Y), T[:, 0]), r"`target` must be samples \(n, …\) with features of real numbers, got"),
        (lambda: adapt(NET, (X, Y), T, recipes=[]), r"`recipes` must be one or more Recipe, got \[\]"),
        (lambda: adapt(NET, (X, Y), T, at=("middle",)), r'`at` must hold "input", "features" or both'),
        (lambda: adapt(NET, (X, Y), T, steps=0), r"`steps` must be a whole number >= 1, got 0"),
        (lambda: adapt(NET, (X, Y), T, rate=2.0), r"`rate` must be a learning rate in \(0, 1\), got 2.0; 3e-3 is usual"),
        (lambda: Recipe("nothing"), r'`align` must be "mmd" or "coral" or "both" or "none", got \'nothing\''),
        (lambda: Recipe(weight=-1), r"`weight` must be a finite weight >= 0, got -1; 0 leaves it out"),
        (lambda: Recipe(kernel="rbf"), r"`kernel` must be a kernel such as Gaussian\(\), got 'rbf'"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_judgement_asks_for_labels():
    net, x, y, moved, truth = problem()
    found = adapt(net, (x, y), moved, **QUICK)
    with pytest.raises(InputError, match=r"`y` must hold the target's labels, got none"):
        judge(found)
    with pytest.raises(InputError, match=r"`x` and `y` must come together, got one of them"):
        judge(found, moved)
    assert judge(found, moved, truth, ceiling=False).count == 300
