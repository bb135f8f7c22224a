"""The U-Net beside MONAI's at equal parameters and input, beside plain convolutions, and its four variants on brain tissue.

One thread, forward and backward, batch 4 of 1×128×128. FLOPs are counted by torch; the plain stack is six 3×3 convolutions of
32 channels, nothing else. The variants are trained three times on the slices of the atlas (package nilearn); "ours" is both
skips, "peer" the best of the other three.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Row, in_turn
from residyn.nets import UNet


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
    yield Row(
        "share of the plain stack's FLOP rate",
        1 / rates[0],
        1 / rates[1] * 1.0,
        "s/GFLOP",
        None,
        f"{rates[0] / rates[1]:.2f}, asked 0.5",
    )
    concat = UNet(1, 3, width=16, levels=5, join="concat")
    a, b, spread = in_turn(lambda: _pass(wide, x), lambda: _pass(concat, x), repeat)
    yield Row("add against concatenation", a, b, "s", 1.25, f"{spread}; 20 % cheaper is a ratio of 1.25")


def _variants(seeds: int) -> Iterator[Row]:
    try:
        from residyn.atlas.data import brain
        from residyn.atlas.unet import VARIANTS, train

        learn, judge = brain()
    except ImportError:
        return
    found = {}
    for short, long in VARIANTS:
        found[short, long] = [train(short, long, learn, judge, 100, 20, seed) for seed in range(seeds)]
    both = found[True, True]
    for what in ("overlap", "edge"):
        means = {key: [getattr(v, what) for v in runs] for key, runs in found.items()}
        rival = max((k for k in means if k != (True, True)), key=lambda k: statistics.mean(means[k]))
        words = "; ".join(f"{runs[0].name} {_spread(means[key])}" for key, runs in found.items())
        name = "mean Dice" if what == "overlap" else "mean boundary F, 1 px"
        # cost is what is missing to 1: the ratio is above 1 where both skips miss less
        missing = [1 - statistics.mean(means[key]) for key in ((True, True), rival)]
        yield Row(f"{name}, missing to 1, over {len(both)} seeds", missing[0], missing[1], "", 1.0, words)


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
