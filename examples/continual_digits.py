"""Teach a trained digit classifier a second task without losing a bit of the first, and keep the second in a small file.

A convolutional network with batch norms learns 8×8 digits; a branch behind each residual block, with batch-norm statistics of
its own, then learns the same digits turned by a quarter. Expected (seed 0, about 8 s on one core): the network alone gets less
than half of the turned digits right, with the branch at least 80 %; the logits of upright digits differ in 0 bits after
training; the branch is at most 5 % of the network and its file below 20 kB; a batch of both kinds, a branch named for each,
is answered with at least 85 % right.
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from residyn.nets import ResNet
from residyn.transfer import adapters_of, add_adapters, load_adapter

WIDTH = 16


def branch() -> nn.Module:
    """F: two convolutions with batch norms, keeping (16, 8, 8)."""
    one, two = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False) for _ in range(2))
    return nn.Sequential(one, nn.BatchNorm2d(WIDTH), nn.ReLU(), two, nn.BatchNorm2d(WIDTH))


def network() -> nn.Module:
    """Three residual blocks."""
    stem = nn.Sequential(nn.Conv2d(1, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU())
    return ResNet(stem, [branch() for _ in range(3)], nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * WIDTH, 10)))


def train(net: nn.Module, parameters: list[nn.Parameter], x: Tensor, y: Tensor, epochs: int, rate: float) -> None:
    """A loop of one's own."""
    optimizer = torch.optim.Adam(parameters, lr=rate)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    net.eval()


@torch.no_grad()
def right(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers."""
    return float((net(x).argmax(1) == y).float().mean())


@torch.no_grad()
def main() -> tuple[float, float, int, float, int, float]:
    """Both accuracies on turned digits, bits that changed, share and bytes of the branch, accuracy on a mixed batch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    u, y = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    turned, order = u.rot90(1, (2, 3)), torch.randperm(len(u))
    some, test = order[:1200], order[1200:]
    net = network()
    with torch.enable_grad():
        train(net, list(net.parameters()), u[some], y[some], 4, 3e-3)
    before, alone = net(u[test]), right(net, turned[test], y[test])

    adapters = add_adapters(net, u[:2], name="turned", rank=4)
    with torch.enable_grad():
        train(net, adapters.parameters("turned"), turned[some], y[some], 8, 1e-2)
    learned = right(net, turned[test], y[test])
    with adapters.disabled():
        changed = int((net(u[test]).view(torch.int32) != before.view(torch.int32)).sum())

    whole = sum(p.numel() for name, p in net.named_parameters() if "residyn_" not in name)
    state = {name: t for name, t in net.state_dict().items() if "residyn_" not in name}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "turned.safetensors")
        adapters.save(file, "turned")
        fresh = network().eval()
        fresh.load_state_dict(state)
        names = load_adapter(fresh, file).names  # by the name in the file
        size = file.stat().st_size
    both, answers = torch.cat([u[test], turned[test]]), torch.cat([y[test], y[test]])
    with adapters_of(fresh).rows([None] * len(test) + names * len(test)):
        mixed = right(fresh, both, answers)
    return alone, learned, changed, adapters.count("turned") / whole, size, mixed


if __name__ == "__main__":
    alone, learned, changed, share, size, mixed = main()
    print(f"turned digits: {alone:.1%} alone, expected below 50 %; {learned:.1%} with the branch, expected at least 80 %")  # noqa: T201
    print(f"bits of the old logits that changed: {changed}, expected 0")  # noqa: T201
    print(f"the branch is {share:.1%} of the network, expected at most 5 %; its file has {size} bytes, expected < 20,000")  # noqa: T201
    print(f"a batch of both kinds: {mixed:.1%} right, expected at least 85 %")  # noqa: T201
    assert alone < 0.5
    assert learned >= 0.8
    assert changed == 0
    assert share <= 0.05
    assert size < 20_000
    assert mixed >= 0.85
