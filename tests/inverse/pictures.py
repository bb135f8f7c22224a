"""What the tests of restoration share."""

import math

import torch

from residyn.inverse import Blur, gaussian


def noise(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def scene(height=96, width=108, dtype=torch.float64):
    """Flat parts, edges and a ramp, in [0, 1]."""
    rows, columns = torch.arange(height, dtype=dtype)[:, None] / height, torch.arange(width, dtype=dtype) / width
    picture = 0.3 + 0.2 * columns + 0 * rows
    picture = torch.where((rows - 0.4) ** 2 + (columns - 0.4) ** 2 < 0.06, 0.9, picture)
    return torch.where(((rows - 0.7).abs() < 0.1) & ((columns - 0.7).abs() < 0.2), 0.05, picture)


def blurred(sigma=0.01, width=1.5, boundary="circular", dtype=torch.float64, seed=0, clean=None):
    clean = scene(dtype=dtype) if clean is None else clean
    op = Blur(gaussian(width, dtype=dtype), tuple(clean.shape), boundary)
    return clean, op(clean) + sigma * noise(clean.shape, seed, dtype)


def psnr(image, truth):
    error = (torch.as_tensor(image).double() - truth.double()).square().mean()
    return -10 * math.log10(float(error))
