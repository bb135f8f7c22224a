"""Peak memory of the gradient modes on RK4 × 100 steps, tanh MLP 2-128-128-2, batch 512; run by `python -m benchmarks.run`.

The peak is that of the bytes that torch's allocator has given out and not got back between the start of the forward pass and
the end of the backward one, from the profiler's own memory events.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import residyn as rd
from benchmarks.harness import Row
from residyn.gradients import GradientMode


def peak(gradient: GradientMode, steps: int) -> float:
    """Peak bytes of one forward and backward pass."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 2))
    x0 = torch.randn(512, 2, requires_grad=True)
    field = rd.autonomous(net)

    def run() -> None:
        control = rd.Fixed(steps=steps)
        rd.solve(field, x0, [0.0, 1.0], scheme=rd.RK4(), control=control, gradient=gradient).x[-1].pow(2).sum().backward()

    run()  # what is made once, such as .grad, is not counted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    level = top = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        top = max(top, level)
    return float(top)


def rows(quick: bool) -> list[Row]:
    """The table."""
    steps = 20 if quick else 100
    whole = peak(rd.Backprop(), steps) / 2**20
    modes = (rd.Replay(), rd.Replay(keep=0), rd.Checkpoint())
    asked = (6.0, 6.0, None)
    name = f"Peak memory, RK4 × {steps}, MLP 2-128-128-2, batch 512: {{}} against Backprop()"
    return [
        Row(name.format(mode), peak(mode, steps) / 2**20, whole, "MiB", ask) for mode, ask in zip(modes, asked, strict=True)
    ]
