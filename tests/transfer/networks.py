"""Models that the tests put adapters on."""

import torch
from torch import Tensor, nn

from residyn.nets import MLP, ResNet


class Block(nn.Module):
    """relu(x + F(x)) with convolutions and batch norms, as in torchvision's ResNets."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(c, c, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.norm2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm2(self.two(torch.relu(self.norm(self.one(x))))))


class Children(nn.Module):
    """A block that runs its children one after the other, whatever they are."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(c, c), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for child in self.children():
            y = torch.tanh(child(y))
        return x + y


class Pair(nn.Module):
    """Returns a tuple, as transformers' layers do."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.layer = MLP(c, c, c)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + self.layer(x), x.mean()


class Paired(nn.Module):
    """Layers that return pairs, and an output in a dictionary."""

    def __init__(self, c: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Pair(c) for _ in range(2))
        self.head = nn.Linear(c, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for layer in self.layers:
            x, _ = layer(x)
        return {"logits": self.head(x)}


def convolutional(seed: int = 0) -> nn.Module:
    """Batch norms that have seen data; a plain Sequential around the blocks."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), Block(8), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )  # fmt: skip
    net(torch.randn(16, 3, 8, 8))
    return net.eval()


def perceptron(seed: int = 0, depth: int = 3) -> ResNet:
    """The house's own residual network."""
    torch.manual_seed(seed)
    return ResNet(nn.Linear(5, 8), [MLP(8, 8, 8) for _ in range(depth)], nn.Linear(8, 4)).eval()


def bits(x: Tensor) -> Tensor:
    """A float32 tensor as its bits, so that -0 is not 0."""
    return x.detach().view(torch.int32)
