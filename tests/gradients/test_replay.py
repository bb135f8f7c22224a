"""What Replay promises of memory: one state a step, the graph of a single step, and no more than `keep`."""

import gc
import weakref

import pytest
import torch
from torch import nn

import residyn as rd


class Counter:
    """Bytes that autograd holds, by storage, of tensors that are no parameters."""

    def __init__(self, parameters):
        self.known = {p.untyped_storage().data_ptr() for p in parameters}
        self.bytes = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def held(mode, steps, control=None):
    f = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 2))
    x0 = torch.ones(32, 2, requires_grad=True)
    counter = Counter(f.parameters())
    with counter.hooks:
        x = rd.solve(rd.autonomous(f), x0, [0.0, 1.0], scheme=rd.RK4(), control=rd.Fixed(steps=steps), gradient=mode).x
    assert x.requires_grad
    return counter.bytes


def test_backprop_holds_every_activation():
    # 4 stages, at each the input (32·2) and the activation (32·64), in 4 bytes
    assert held(rd.Backprop(), 10) >= 10 * 4 * 32 * (64 + 2) * 4


@pytest.mark.parametrize("steps", [10, 100])
def test_replay_holds_nothing_in_the_graph(steps):
    # what f depends on is found by one evaluation, whose graph is dropped; the rest does not grow with the steps
    assert held(rd.Replay(keep=0), steps) <= 32 * (64 + 2) * 4 + 32 * 2 * 4


@pytest.mark.parametrize("keep", [2**16, 2**18])
def test_replay_keeps_what_it_may(keep):
    """Within one leg (34 kB) of what was allowed, beside the evaluation that finds what f depends on."""
    leg = held(rd.Backprop(), 1)
    found = held(rd.Replay(keep=keep), 100)
    assert keep - 2 * leg <= found <= keep + leg / 3


def test_checkpoint_holds_a_state_a_segment():
    assert held(rd.Checkpoint(segments=5), 100) <= 6 * 32 * 2 * 4


def test_nothing_is_left_when_the_result_goes():
    f = nn.Linear(2, 2)
    x0 = torch.ones(4, 2, requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        for mode in (rd.Backprop(), rd.Replay(keep=0), rd.Replay(), rd.Checkpoint()):
            solution = rd.solve(rd.autonomous(f), x0, [0.0, 1.0], gradient=mode)
            solution.x.sum().backward()
            gone = weakref.ref(solution.x)
            del solution
            assert gone() is None, mode
    finally:
        gc.enable()


def test_evaluations_of_the_forward_pass_do_not_depend_on_the_mode():
    def count(mode):
        return rd.solve(
            lambda t, x: -x * torch.cos(t), torch.ones(2, requires_grad=True), [0.0, 3.0], gradient=mode
        ).stats.evaluations

    counts = {repr(mode): count(mode) for mode in (rd.Backprop(), rd.Replay(), rd.Replay(keep=0), rd.Replay(keep=1))}
    assert max(counts.values()) - min(counts.values()) <= 1, counts  # the first slope is computed again under autograd
