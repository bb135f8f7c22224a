"""The residual step and stacks of them."""

import math

import pytest
import torch
from torch import nn

import residyn as rd

F64 = torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, torch.complex128])
def test_a_step_is_x_plus_h_times_f(dtype):
    x = torch.randn(4, 3, dtype=dtype)
    torch.testing.assert_close(rd.Residual(torch.sin, step=0.3)(x), x + 0.3 * torch.sin(x))


def test_a_step_is_euler():
    x0 = torch.randn(3, dtype=F64)
    block = rd.Residual(torch.sin, step=0.25)
    stack = rd.Stack([block] * 4)
    flow = rd.Flow(rd.autonomous(torch.sin), scheme=rd.Euler(), control=rd.Fixed(steps=4))
    torch.testing.assert_close(stack(x0), flow(x0), rtol=1e-15, atol=0)


@pytest.mark.parametrize("kind", ["number", "parameter", "buffer", "vector"])
def test_steps_of_every_kind(kind):
    step = {
        "number": 0.5,
        "parameter": nn.Parameter(torch.tensor(0.5)),
        "buffer": torch.tensor(0.5),
        "vector": torch.tensor([0.5, 0.0]),
    }[kind]
    block = rd.Residual(torch.exp, step=step)
    x = torch.zeros(1, 2)
    expected = torch.tensor([[0.5, 0.0 if kind == "vector" else 0.5]])
    torch.testing.assert_close(block(x), expected)
    assert len(list(block.parameters())) == (kind == "parameter")
    assert len(list(block.buffers())) == (kind in ("buffer", "vector"))


def test_a_step_that_is_learned_gets_its_gradient():
    h = nn.Parameter(torch.tensor(0.5, dtype=F64))
    block = rd.Residual(torch.exp, step=h)
    block(torch.tensor([1.0, 2.0], dtype=F64)).sum().backward()
    assert float(h.grad) == pytest.approx(math.e + math.e**2)


def test_what_print_shows():
    assert repr(rd.Residual(torch.tanh, step=0.5, keep=0.9)) == "Residual(step=0.5, keep=0.9, branch=tanh)"
    assert "step=tensor(2,)" in repr(rd.Residual(nn.Identity(), step=torch.ones(2)))


# Stochastic depth


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.ones_like(x)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_expectation_and_survival(keep):
    """n draws of a branch that is 1: the mean of the update is h, its survival `keep`, each within 5 standard errors."""
    torch.manual_seed(0)
    branch = Counted()
    block = rd.Residual(branch, step=0.5, keep=keep)
    n = 4000
    updates = torch.stack([block(torch.zeros(1, dtype=F64)) for _ in range(n)]).flatten()
    deviation = math.sqrt(keep * (1 - keep) / n)
    assert abs(branch.calls / n - keep) < 5 * deviation
    assert abs(float(updates.mean()) - 0.5) < 5 * 0.5 / keep * deviation
    torch.testing.assert_close(updates.unique(), torch.tensor([0.0, 0.5 / keep], dtype=F64))


def test_a_dropped_branch_is_not_computed():
    torch.manual_seed(0)
    branch = Counted()
    block = rd.Residual(branch, keep=1e-9)
    x = torch.randn(3)
    assert block(x) is x
    assert branch.calls == 0


def test_evaluation_keeps_every_branch():
    branch = Counted()
    block = rd.Residual(branch, step=0.5, keep=0.1).eval()
    assert torch.equal(block(torch.zeros(2)), torch.full((2,), 0.5))
    state = torch.get_rng_state()
    for _ in range(5):
        block(torch.zeros(1))
    assert branch.calls == 6
    assert torch.equal(torch.get_rng_state(), state)


def test_a_certain_branch_draws_nothing():
    state = torch.get_rng_state()
    rd.Residual(torch.tanh)(torch.zeros(2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.5, math.nan])
def test_keep_is_a_probability(keep):
    with pytest.raises(rd.InputError, match=rf"`keep` must be a survival probability in \(0, 1\], got {keep}; 1 never drops"):
        rd.Residual(torch.tanh, keep=keep)


def test_a_branch_keeps_the_shape():
    with pytest.raises(rd.InputError, match=r"`branch` must return the shape of x, \(2, 3\), got \(2, 4\); project x"):
        rd.Residual(nn.Linear(3, 4))(torch.ones(2, 3))


# Stack


def blocks(n=6):
    torch.manual_seed(0)
    return [rd.Residual(nn.Sequential(nn.Linear(4, 4, dtype=F64), nn.Tanh()), step=0.5) for _ in range(n)]


@pytest.mark.parametrize(
    "mode", [rd.Backprop(), rd.Checkpoint(), rd.Checkpoint(segments=2), rd.Checkpoint(segments=50), rd.Replay()], ids=repr
)
def test_stack_gives_one_gradient_in_every_mode(mode):
    def run(gradient):
        x = torch.randn(3, 4, dtype=F64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        stack = rd.Stack(blocks(), gradient=gradient)
        y = stack(x)
        return [y, *torch.autograd.grad(y.pow(2).sum(), [x, *stack.parameters()])]

    for a, b in zip(run(mode), run(rd.Backprop()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_stack_with_checkpoint_draws_the_same_numbers_again():
    """Stochastic depth under Checkpoint: the gradient is that of the blocks that were kept; each that was kept doubles x."""
    torch.manual_seed(3)
    x = torch.ones(1, dtype=F64, requires_grad=True)
    y = rd.Stack([rd.Residual(lambda z: z, keep=0.5, step=0.5) for _ in range(30)], gradient=rd.Checkpoint())(x)
    (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, y.detach(), rtol=1e-14, atol=0)
    assert 1 < y.item() < 2**30


def test_stack_with_checkpoint_saves_segments_only():
    class Weigher:
        bytes = 0

        def pack(self, tensor):
            Weigher.bytes += tensor.numel()
            return tensor

    weigher = Weigher()
    stack = rd.Stack([rd.Residual(nn.Tanh()) for _ in range(64)], gradient=rd.Checkpoint())
    x = torch.ones(10, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(weigher.pack, lambda t: t):
        stack(x)
    assert Weigher.bytes <= 9 * 10


def test_stack_is_a_sequence():
    made = blocks(3)
    stack = rd.Stack(made)
    assert len(stack) == 3
    assert stack[1] is made[1]
    assert rd.Stack([])(torch.ones(2)).tolist() == [1.0, 1.0]


def test_stack_says_which_modes_have_a_meaning():
    class Odd(rd.gradients.GradientMode):
        def march(self, problem):
            raise NotImplementedError

    with pytest.raises(
        rd.InputError, match=r"`gradient` of a Stack must be Backprop\(\), Checkpoint\(\) or Reversible\(\), got Odd\(\)"
    ):
        rd.Stack(blocks(1), gradient=Odd())(torch.ones(1, 4, dtype=F64))
