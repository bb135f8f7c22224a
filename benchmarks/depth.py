"""Very deep nets in bounded memory, and what dropping blocks saves.

A thousand convolutions in 500 residual blocks (16 channels, 7×7) are trained on 2,000 MNIST digits for an epoch in a process of
their own, whose peak resident memory is read from the system; Python and torch are in it. Stochastic depth drops a quarter of
the blocks of a network of convolutions on average, without computing them; its step is a forward and a backward pass and the
optimiser's. Its accuracy is that of equal epochs over three seeds: cut short, when a network that misses blocks is behind, and
trained until the loss is all but gone; the columns are test accuracies, and the ratio is ours over the other.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys

import torch
from torch import Tensor, nn

from benchmarks.harness import Row, in_turn, once
from residyn.atlas.data import mnist
from residyn.atlas.fit import accuracy, seeded, train
from residyn.gradients import Checkpoint
from residyn.nets import MLP, ResNet, ReversibleStack, gates, skip_init, stochastic_depth

LIMIT = 1.5 * 2**30


class Block(nn.Module):
    """A block as everybody writes it, which the audit has to find."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """relu(x + F(x))."""
        return torch.relu(x + self.body(x))


def rows(quick: bool) -> list[Row]:
    """All rows; `quick` trains less."""
    found = [_memory(kind, 4 if quick else 20) for kind in ("checkpoint", "reversible")]
    return [*found, _time(), *(_accuracy(*regime) for regime in ([(300, 5)] if quick else [(300, 5), (300, 200), (1000, 50)]))]


def _memory(kind: str, steps: int) -> Row:
    def one() -> list[float]:
        command = [sys.executable, "-m", "benchmarks.depth", kind, str(steps)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        told = json.loads(run.stdout.splitlines()[-1])
        return [told["peak"], told["first"], told["last"], told["accuracy"]]

    peak, first, last, right = once(f"memory {kind} {steps}", one)
    note = f"{steps} steps of 100 digits: loss {first:.2f} → {last:.2f}, test accuracy {right:.1%}"
    gib = 2**30
    return Row(f"1,000 layers on MNIST, {kind}: peak memory against 1.5 GiB", peak / gib, LIMIT / gib, "GiB", 1.0, note)


def deep(kind: str) -> nn.Module:
    """A thousand convolutions."""
    branches = [
        nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        for _ in range(500)
    ]
    stem = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 4, stride=4))
    head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 49, 10))
    if kind == "reversible":
        return nn.Sequential(stem, ReversibleStack(branches), head)
    return skip_init(ResNet(stem, branches, head, gradient=Checkpoint()), 1.0)


def job(kind: str, steps: int) -> None:
    """Train, and print what it took."""
    torch.set_num_threads(1)
    split = mnist((100 * steps, 1000), 0)
    with seeded(0):
        net = deep(kind)
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
        losses = []
        for x, y in zip(split.x[0].split(100), split.y[0].split(100), strict=True):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
        net.eval()
        with torch.no_grad():
            right = accuracy(net, split.x[1], split.y[1])
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak": peak, "first": losses[0], "last": statistics.mean(losses[-5:]), "accuracy": right}))


def _time() -> Row:
    """A step of training with a mean drop of 0.25, against one without."""
    torch.manual_seed(0)
    x, y = torch.randn(16, 32, 14, 14), torch.randint(0, 10, (16,))

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        net = nn.Sequential(*[Block(32) for _ in range(16)], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
        return net, torch.optim.SGD(net.parameters(), lr=1e-3)

    full, dropped = made(), made()
    stochastic_depth(dropped[0], 0.25, "uniform", inputs=(x,))

    def steps(pair: tuple[nn.Module, torch.optim.Optimizer]) -> None:
        net, optimiser = pair
        net.train()
        for _ in range(16):  # 256 blocks a run: what is dropped is a quarter within 3 %
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()

    ours, peer, spread = in_turn(lambda: steps(dropped), lambda: steps(full), 9)
    found = gates(dropped[0])
    drop = found.dropped / found.drawn / len(found.names)
    left = "what is left of a dropped block is its sum and activation, of a kept one the product with 1/p"
    note = f"mean drop {drop:.3f}; ratios {spread}; {ours / peer:.2f} of the full step; {left}"
    return Row("stochastic depth, mean drop 0.25: step against the full one", 62.5 * ours, 62.5 * peer, "ms", 1 / 0.8, note)


def _accuracy(digits: int, epochs: int) -> Row:
    """24 blocks; seed by seed the same start and data with and without dropping."""

    def one(seed: int, rate: float) -> list[float]:
        split = mnist((digits, 4000), seed)
        with seeded(seed):
            branches = [nn.Sequential(nn.LayerNorm(64), MLP(64, 64, 64)) for _ in range(24)]
            net = ResNet(nn.Linear(784, 64), branches, nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 10)), step=1.0)
            stochastic_depth(net, rate)
            losses = train(net, split.x[0], split.y[0], epochs=epochs, rate=1e-3, decay=True)
        return [100 * accuracy(net, split.x[1], split.y[1]), losses[-1]]

    found = {
        rate: [once(f"dropped {digits} {epochs} {rate} {seed}", lambda s=seed, r=rate: one(s, r)) for seed in range(3)]  # type: ignore[misc]
        for rate in (0.5, 0.0)
    }
    ours, peer = (statistics.mean(share for share, _ in runs) for runs in found.values())
    note = "; ".join(
        f"{word}: {', '.join(f'{share:.1f}' for share, _ in found[rate])} (training loss {found[rate][0][1]:.3f})"
        for rate, word in ((0.5, "with"), (0.0, "without"))
    )
    name = f"stochastic depth, rate 0.5, {digits:,} digits, {epochs} epochs: test accuracy over that without, 3 seeds"
    return Row(name, peer, ours, "%", None, note)


if __name__ == "__main__":
    job(sys.argv[1], int(sys.argv[2]))
