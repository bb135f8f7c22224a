"""Branches that the tests of the analysis share, and the truth about them by dense linear algebra."""

import functools

import numpy as np
import torch
from torch import nn

from residyn.schemes import Rational, Scheme


def dense_jacobian(branch, x):
    """∂F/∂x by one reverse pass a row, complex states in real and imaginary parts."""
    if x.is_complex():
        flat = torch.view_as_real(x).reshape(-1)

        def real(v):
            return torch.view_as_real(branch(torch.view_as_complex(v.reshape(*x.shape, 2)))).reshape(-1)

        return torch.autograd.functional.jacobian(real, flat).double().numpy()
    jacobian = torch.autograd.functional.jacobian(branch, x)
    return jacobian.reshape(x.numel(), x.numel()).double().numpy()


def true_norm(branch, x):
    return float(np.linalg.norm(dense_jacobian(branch, x), 2))


def _conv(inputs, outputs, size=3, groups=1):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)


def _norms(module, seed):
    """Batch statistics as training leaves them: not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
    return module.eval()


def _decaying(module, seed):
    """Weights with a decaying spectrum, singular values ~ 1/(1 + i/2), as training makes them."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.groups == 1:
            with torch.no_grad():
                flat = part.weight.flatten(1)
                u, s, vh = torch.linalg.svd(torch.randn(flat.shape, generator=generator), full_matrices=False)
                decay = 1.0 / (1.0 + torch.arange(len(s)) / 2)
                part.weight.copy_(((u * decay) @ vh).reshape(part.weight.shape))
    return module


@functools.cache
def conv_blocks():
    """Residual branches of the usual kinds, their states, and their Jacobians, small enough to be dense."""
    torch.manual_seed(0)
    basic = nn.Sequential(_conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(), _conv(8, 8), nn.BatchNorm2d(8))
    inverted = nn.Sequential(
        _conv(8, 32, 1), nn.BatchNorm2d(32), nn.ReLU6(), _conv(32, 32, 3, 32), nn.BatchNorm2d(32), nn.ReLU6(), _conv(32, 8, 1)
    )
    bottleneck = nn.Sequential(_conv(16, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), _conv(4, 4), nn.ReLU(), _conv(4, 16, 1))
    blocks = {"basic": (basic, 8), "inverted": (inverted, 8), "bottleneck": (bottleneck, 16)}
    x = {name: torch.randn(1, channels, 6, 6) for name, (_, channels) in blocks.items()}
    blocks = {name: _norms(_decaying(block, 1), 2) for name, (block, _) in blocks.items()}
    return {name: (block, x[name], dense_jacobian(block, x[name])) for name, block in blocks.items()}


class Attention(nn.Module):
    """One self-attention head without residual: its Jacobian is not normal."""

    def __init__(self, width=6):
        super().__init__()
        self.mix = nn.MultiheadAttention(width, 2, batch_first=True, dtype=torch.float64)

    def forward(self, x):
        return self.mix(x, x, x, need_weights=False)[0]


class Known(Scheme):
    """A scheme of which only R = P/Q is known."""

    order = 1

    def __init__(self, numerator, denominator=(1.0,), order=1):
        self.function = Rational(numerator, denominator)
        self.order = order

    def step(self, f, t0, t1, x, state):
        raise NotImplementedError

    def stability(self, z):
        return self.function(z)

    def rational(self):
        return self.function


class Exponential(Known):
    """R = exp, as exponential schemes have it, and no rational form."""

    def __init__(self):
        self.order = 2

    def stability(self, z):
        return torch.exp(z)

    def rational(self):
        return None


BACKWARD_EULER = Known((1.0,), (1.0, -1.0))
TRAPEZOID = Known((1.0, 0.5), (1.0, -0.5), order=2)
EXPONENTIAL = Exponential()
