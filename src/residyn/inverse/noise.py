"""How much white noise a picture holds, told from the picture alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from residyn.inverse.inputs import as_planes

_SIDE = 8
_PATCHES = 65536


def noise_level(image: Tensor | np.ndarray) -> float:
    """Estimate the standard deviation σ of the white noise in a picture.

    Small patches of a natural picture lie near a subspace of few dimensions; the others hold noise alone, so the
    smallest eigenvalues of the patch covariance scatter around σ². The set that is noise is the largest one whose mean
    equals its median. The picture's own grain, from its camera or its texture, counts as noise too, so that σ is an
    upper estimate where texture fills every dimension.

    Args:
        image: `(H, W)` or `(H, W, C)`, at least 16 pixels on each side; the noise is taken to be equal in all channels.

    Returns:
        σ, in the units of the pixels.

    Raises:
        InputError: If it is no such picture.

    Reference:
        Chen, Zhu & Heng (2015), "An Efficient Statistical Method for Image Noise Level Estimation",
        doi:10.1109/ICCV.2015.62.

    >>> g = torch.Generator().manual_seed(0)
    >>> noise_level(torch.linspace(0, 50, 128).expand(128, 128) + torch.randn(128, 128, generator=g))
    1.0
    """
    planes = as_planes(image)
    height, width = planes.shape[-2:]
    side = min(_SIDE, (min(height, width) - 1) // 2)
    patches = planes.unfold(1, side, 1).unfold(2, side, 1)
    stride = max(1, math.ceil(math.sqrt(patches[..., 0, 0].numel() / _PATCHES)))
    rows = patches[:, ::stride, ::stride].reshape(-1, side * side)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(rows.T)).clamp(min=0).flip(0)
    for first in range(len(eigenvalues)):
        tail = eigenvalues[first:]
        mean = tail.mean()
        if int((tail > mean).sum()) <= int((tail < mean).sum()):
            continue
        return math.sqrt(float(mean))
    return math.sqrt(float(eigenvalues[-1]))
