"""An analysis leaves a model, and torch, as they were; and what cannot be analysed is refused in words."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from residyn.analysis import log_norm, spectral_norm, spectrum
from residyn.analysis.jacobian import Jacobian
from residyn.branch import Dense, Generator, autonomous
from residyn.errors import InputError
from residyn.step import Residual, Stack

from .branches import dense_jacobian


def _model():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.3), nn.ReLU())
    layers[0].bias.requires_grad_(False)
    return layers


def _state(model):
    return (
        {name: (value.clone(), value._version, value.data_ptr()) for name, value in model.state_dict(keep_vars=True).items()},
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [m.training for m in model.modules()],
        torch.get_rng_state(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        [len(m._forward_pre_hooks) for m in model.modules()],
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("hidden", [False, True], ids=["module", "lambda"])
def test_nothing_of_the_model_or_of_torch_changes(training, hidden):
    model = _model().train(training)
    branch = (lambda x: model(x)) if hidden else model  # noqa: PLW0108 - what hides the module
    x = torch.randn(4, 3, 5, 5)
    before, start = _state(model), x.clone()
    first = spectral_norm(branch, x, rtol=1e-4)
    log_norm(branch, x)
    spectrum(branch, x, 2)
    after = _state(model)
    assert torch.equal(x, start)
    assert [len(part) for part in before[:3]] == [len(part) for part in after[:3]]
    for name, (value, version, pointer) in before[0].items():
        assert torch.equal(value, after[0][name][0]), name
        assert (version, pointer) == after[0][name][1:], name
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])
    assert before[4:] == after[4:]
    # Dropout draws the same mask in every product, so that the answer is that of one function.
    assert float(spectral_norm(branch, x, rtol=1e-4)) == float(first)


def test_state_is_restored_when_the_branch_raises():
    model = _model().train()

    def broken(x):
        model(x)
        raise KeyError("from inside")

    x = torch.randn(2, 3, 5, 5)
    before = _state(model)
    with pytest.raises(KeyError, match="from inside"):
        spectral_norm(broken, x)
    after = _state(model)
    assert torch.equal(before[3], after[3])
    assert before[4:] == after[4:]
    assert all(torch.equal(before[0][k][0], after[0][k][0]) for k in before[0])


class _OldCube(torch.autograd.Function):
    """An operation of the old form: no forward derivative, but a backward that can be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


class _OnceCube(_OldCube):
    """The same, and a backward that cannot."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


def _branching(x):
    return torch.sin(x) if x.sum() > 0 else torch.cos(x)


_encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dtype=torch.float64).eval()
_attention = nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64).eval()
_gru = nn.GRU(4, 4, batch_first=True, dtype=torch.float64)

BRANCHES = {
    "old Function": _OldCube.apply,
    "control flow": _branching,
    "encoder, fused path": _encoder,
    "attention, fused kernel": lambda x: _attention(x, x, x, need_weights=False)[0],
    "recurrent": lambda x: _gru(x)[0],
    "checkpoint": lambda x: checkpoint(torch.sin, x, use_reentrant=False),
    "inner gradient": torch.func.grad(lambda z: (torch.sin(z) * z.sum()).sum()),
    "constant": torch.ones_like,
    "identity": lambda x: x,
    "partly constant": lambda x: torch.cat([x[:, :1].detach() * 0 + 1, x[:, 1:] ** 2], 1),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_products_with_and_without_forward_mode(name):
    branch = BRANCHES[name]
    x = torch.rand(1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    jacobian, truth = Jacobian(branch, x), torch.from_numpy(dense_jacobian(branch, x))
    for seed in range(20):  # past the number of products after which the derivative is traced
        v = jacobian.random(seed)
        # A product of 12-vectors and some tens of operations round to about 1e-15 of the norm.
        torch.testing.assert_close(jacobian.apply(v), truth @ v, rtol=0, atol=1e-12)
    torch.testing.assert_close(jacobian.adjoint(v), truth.T @ v, rtol=0, atol=1e-12)
    torch.testing.assert_close(jacobian.dense(), truth, rtol=0, atol=1e-12)


def test_works_under_no_grad_and_inference_mode():
    layer = nn.Linear(3, 3)
    expected = float(spectral_norm(layer, torch.zeros(1, 3), rtol=1e-6))
    with torch.no_grad():
        assert float(spectral_norm(layer, torch.zeros(1, 3), rtol=1e-6)) == expected
    with torch.inference_mode():
        assert float(spectral_norm(layer, torch.zeros(1, 3), rtol=1e-6)) == expected


class _Field(Generator):
    def matrix(self, t, x):
        return torch.eye(2)


REFUSED = [
    (
        Residual(torch.tanh),
        torch.zeros(2),
        r"`branch` must be F, not the block x \+ h·F\(x\), got Residual; hand in its `.branch`",
    ),
    (Stack([nn.ReLU()]), torch.zeros(2), r"`branch` must be F, not the block.*got Stack"),
    (_Field(), torch.zeros(2), r"`branch` must be F\(x\), got the field _Field\(t, x\); hand in `lambda x: field\(t, x\)`"),
    (3.0, torch.zeros(2), r"`branch` must be callable, F\(x\), got float"),
    (torch.sin, [0.0], r"`x` must be a tensor, got list; did `branch` and `x` change places"),
    (torch.sin, torch.zeros(2, dtype=torch.int64), r"`x` must be floating point or complex, got torch.int64; convert it"),
    (torch.sin, torch.zeros(0, 2), r"`x` must have at least one component, got shape \(0, 2\)"),
    (torch.sin, torch.tensor([float("nan")]), r"`x` must be finite, got nan or inf"),
    (lambda x: (x, x), torch.zeros(2), r"`branch` must return one tensor, got tuple; select"),
    (nn.Linear(2, 3), torch.zeros(1, 2), r"`branch` must keep the shape of x, \(1, 2\), got \(1, 3\); project x"),
    (lambda x: x.double(), torch.zeros(2), r"`branch` must keep the dtype of x, torch.float32, got torch.float64"),
    (torch.log, torch.zeros(2), r"`branch` must be finite at x, got nan or inf"),
    (torch.sqrt, torch.zeros(2), r"`branch` must have a finite derivative at x, got nan or inf in J·v; look for a square root"),
    (lambda x: torch.sin(x.detach()), torch.ones(2), r"`branch` must be differentiable in x, got a value without gradient"),
    (_OnceCube.apply, torch.ones(2), r"`branch` must be differentiable forwards, or twice backwards, got: .*autograd.Function"),
]


@pytest.mark.parametrize("branch, x, words", REFUSED)
def test_refusals(branch, x, words):
    with pytest.raises(InputError, match=words):
        spectral_norm(branch, x)


def test_a_field_without_time_is_unwrapped():
    assert float(spectral_norm(autonomous(Dense(torch.eye(2) * 3)), torch.zeros(2))) == 3.0
