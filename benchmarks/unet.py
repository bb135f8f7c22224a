"""The U-Net beside MONAI's at equal parameters and input, beside plain convolutions, and its four variants on brain tissue.

One thread, forward and backward, batch 4 of 1×128×128. FLOPs are counted by torch; the plain stack is six 3×3 convolutions of
32 channels, nothing else. The variants are trained three times on the slices of the atlas (package nilearn) and judged on
slices that they did not see; "ours" is both skips, "peer" the best of the other three; scores are mean ± standard deviation.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Row, in_turn, once
from residyn.atlas.data import Slices, brain
from residyn.atlas.unet import BLOCKS, NAMES, STEPS, VARIANTS, train
from residyn.errors import MissingExtraError
from residyn.nets import UNet
from residyn.nets.unet import Join


def rows(quick: bool = False) -> list[Row]:
    """Measure.

    Args:
        quick: Fewer repeats, one seed.
    """
    torch.manual_seed(0)
    repeat = 3 if quick else 7
    return [*_speed(repeat), *_variants(1 if quick else 3)]


def _speed(repeat: int) -> Iterator[Row]:
    x = torch.randn(4, 1, 128, 128)
    ours = UNet(1, 3, width=14, levels=5)
    size = _size(ours)
    with contextlib.suppress(ImportError):
        from monai.networks.nets import UNet as Theirs

        peer = Theirs(2, 1, 3, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2)
        a, b, spread = in_turn(lambda: _pass(ours, x), lambda: _pass(peer, x), repeat)
        yield Row("forward + backward: MONAI", a, b, "s", 1.3, f"{spread}; {size:,} and {_size(peer):,} parameters")
    wide = UNet(1, 3, width=16, levels=5)
    stack = nn.Sequential(*(nn.Conv2d(32, 32, 3, padding=1, bias=False) for _ in range(6))).to(
        memory_format=torch.channels_last
    )
    y = torch.randn(4, 32, 64, 64).contiguous(memory_format=torch.channels_last).requires_grad_()
    a, b, spread = in_turn(lambda: _pass(wide, x), lambda: _pass(stack, y), repeat)
    rates = [_flops(net, u) / seconds / 1e9 for net, u, seconds in ((wide, x, a), (stack, y, b))]
    note = f"{rates[0]:.1f} and {rates[1]:.1f} GFLOP/s; the ratio is the share"
    yield Row("cost of a FLOP, a plain stack in the peer's place", 1e3 / rates[0], 1e3 / rates[1], "ms/GFLOP", 0.5, note)
    concat = UNet(1, 3, width=16, levels=5, join="concat")
    a, b, spread = in_turn(lambda: _pass(wide, x), lambda: _pass(concat, x), repeat)
    note = f"{spread}; {1 - a / b:.0%} cheaper, asked 20 %, which is a ratio of 1.25"
    yield Row("forward + backward: skips added, concatenated in the peer's place", a, b, "s", 1.25, note)


def _variants(seeds: int) -> Iterator[Row]:
    try:
        learn, judge = brain()
    except MissingExtraError:
        return
    found = {key: [_once(f"{NAMES[key]} {seed}", *key, learn, judge, seed, "add") for seed in range(seeds)] for key in VARIANTS}
    concat = [_once(f"concat {seed}", True, True, learn, judge, seed, "concat") for seed in range(seeds)]
    both = found[True, True]
    for what, name in ((0, "mean Dice"), (1, "mean boundary F, 1 px")):
        values = {key: [scores[what] for scores in runs] for key, runs in found.items()}
        rival = max((k for k in values if k != (True, True)), key=lambda k: statistics.mean(values[k]))
        words = "; ".join(f"{NAMES[key]} {_spread(values[key])}" for key in found)
        # cost is what is missing to 1: the ratio is above 1 where both skips miss less
        missing = [1 - statistics.mean(values[key]) for key in ((True, True), rival)]
        yield Row(f"{name}, missing to 1, over {len(both)} seeds", missing[0], missing[1], "", 1.0, words)
    for what, name in ((0, "mean Dice"), (1, "mean boundary F, 1 px")):
        sides = [[scores[what] for scores in runs] for runs in (both, concat)]
        words = f"added {_spread(sides[0])}; concatenated {_spread(sides[1])}"
        missing = [1 - statistics.mean(side) for side in sides]
        yield Row(f"{name}, missing to 1, concatenation in the peer's place", missing[0], missing[1], "", None, words)


def _once(key: str, short: bool, long: bool, learn: Slices, judge: Slices, seed: int, join: Join) -> list[float]:
    """Dice and boundary F of one training, kept."""

    def job() -> list[float]:
        made = train(short, long, learn, judge, STEPS, BLOCKS, seed, join=join)
        return [made.overlap, made.edge]

    return once(f"unet {key}", job)


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def _pass(net: nn.Module, x: torch.Tensor) -> None:
    net(x).square().mean().backward()


def _flops(net: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        _pass(net, x)
    return counter.get_total_flops()


def _size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


if __name__ == "__main__":
    began = time.time()
    for row in rows():
        print(f"{row.name:45s} {row.ours:.4g} {row.peer:.4g} {row.unit} {row.ratio:.2f} {row.verdict} {row.note}")
    print(f"{time.time() - began:.0f} s")
