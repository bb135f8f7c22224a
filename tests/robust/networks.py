"""Networks of many parts, and one trained on digits."""

import functools

import torch
import torch.nn.functional as f
from torch import nn

import residyn as rd
from residyn.analysis.convex import ConvexPotential
from residyn.nets import MLP, ResNet


def branch(c, activation=nn.ReLU, **options):
    """Two convolutions with batch norms."""
    one, two = nn.Conv2d(c, c, 3, padding=1, **options), nn.Conv2d(c, c, 3, padding=1)
    return nn.Sequential(one, nn.BatchNorm2d(c), activation(), two, nn.BatchNorm2d(c))


class Basic(nn.Module):
    """The usual block, written by someone else."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.down = nn.Conv2d(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else None

    def forward(self, x):
        skip = x if self.down is None else self.down(x)
        out = f.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += skip
        return f.relu(out, inplace=True)


class Functions(nn.Module):
    """Everything that a graph may hold besides layers."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.tensor([0.5, -2.0, 1.0, 1.0, 0.1, 0.3, 1.0, -1.0]))

    def forward(self, x):
        y = f.relu(self.one(x)) * self.scale
        a, b = torch.chunk(y, 2, -1)
        y = torch.cat([a, 2 * b - 1], -1) / 3
        y = 1 - y
        y = f.dropout(torch.tanh(y), 0.5, self.training)
        y = f.max_pool1d(y.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
        y = f.leaky_relu(y, 0.2)
        y = y.view(y.size(0), 2, 4).permute(0, 2, 1).reshape(x.shape[0], -1)
        return self.two(-y)


def head(n):
    return nn.Sequential(nn.Flatten(), nn.Linear(n, 3))


def zoo():
    """(name, network, shape of a sample)."""
    torch.manual_seed(0)
    nets = [
        ("mlp", MLP(6, 10, 3), (6,)),
        ("resnet", ResNet(nn.Linear(6, 5), [MLP(5, 8, 5) for _ in range(3)], nn.Linear(5, 3)), (6,)),
        ("functions", Functions(), (6,)),
        ("conv", nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), rd.Residual(branch(3), 0.5), head(27)), (1, 6, 6)),
        ("reflect", nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Tanh(), head(32)), (1, 4, 4)),
        ("same", nn.Sequential(nn.Conv2d(1, 2, 4, padding="same", dilation=2), nn.ReLU(), head(50)), (1, 5, 5)),
        ("circular", nn.Sequential(nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular", groups=2), nn.ReLU(), head(28)), (2, 7)),
        ("up", nn.Sequential(nn.ConvTranspose2d(1, 2, 3, 2, 1, 1), nn.GELU(), nn.AvgPool2d(3, 2, 1), head(32)), (1, 4, 4)),
        ("pool", nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(3, 2, 1), nn.SiLU(), nn.AdaptiveMaxPool2d(2), head(12)), (1, 7, 7)),
        ("ceil", nn.Sequential(nn.Conv2d(1, 2, 2), nn.MaxPool2d(2, 2, ceil_mode=True), nn.Sigmoid(), head(18)), (1, 6, 6)),
        ("basic", nn.Sequential(Basic(1, 3), Basic(3, 4, 2), nn.AdaptiveAvgPool2d(2), head(16)), (1, 6, 6)),
        ("potential", nn.Sequential(ConvexPotential(nn.Conv2d(1, 4, 3, padding=1)), head(25)), (1, 5, 5)),
        ("potential linear", nn.Sequential(ConvexPotential(nn.Linear(6, 9), nn.Tanh()), nn.Linear(6, 3)), (6,)),
        ("vector step", nn.Sequential(rd.Residual(MLP(6, 8, 6), torch.linspace(-1, 1, 6)), nn.Linear(6, 3)), (6,)),
        ("scalar step", nn.Sequential(rd.Residual(MLP(6, 8, 6), nn.Parameter(torch.tensor(-0.7))), nn.Linear(6, 3)), (6,)),
        ("pads", nn.Sequential(nn.ReplicationPad2d(1), nn.Conv2d(1, 2, 3), nn.ELU(), nn.ConstantPad2d(1, 0.3), nn.Upsample(scale_factor=2),
                               nn.Softplus(3.0), head(288)), (1, 4, 4)),
        ("shuffle", nn.Sequential(nn.Conv2d(1, 4, 1), nn.PixelShuffle(2), nn.Hardtanh(), nn.Unflatten(1, (1, 1)), head(64)), (1, 4, 4)),
        ("layer norm", ResNet(nn.Linear(6, 8), [nn.Sequential(nn.LayerNorm(8), MLP(8, 8, 8)) for _ in range(2)], nn.Linear(8, 3)), (6,)),
        ("group norm", nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), head(64)), (1, 6, 6)),
        ("rms norm", nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8, 1e-3), nn.Tanh(), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3)), (6,)),
        ("constrained", rd.constrain(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), rd.Residual(MLP(8, 8, 8)), nn.Linear(8, 3)), 5.0), (6,)),
    ]  # fmt: skip
    for _, net, _ in nets:
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight, 0.5, 1.5), nn.init.normal_(m.bias), nn.init.uniform_(m.running_var, 0.3, 2)
                nn.init.normal_(m.running_mean)
        net.eval()
    return nets


@functools.cache
def digits():
    """A convolutional residual network trained on handwritten digits; test pictures in [0, 1] and labels."""
    from sklearn.datasets import load_digits

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pixels, labels = load_digits(return_X_y=True)
        x, y = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
        order = torch.randperm(len(x))
        train, test = order[:1200], order[1200:]
        c = 6
        stem = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU())
        net = ResNet(stem, [branch(c) for _ in range(2)], nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * c, 10)))
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(6):
            for rows in torch.randperm(len(train)).split(60):
                optimiser.zero_grad()
                f.cross_entropy(net(x[train[rows]]), y[train[rows]]).backward()
                optimiser.step()
    return net.eval(), x[test], y[test]
