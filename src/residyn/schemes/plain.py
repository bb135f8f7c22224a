"""Small states on the CPU that autograd takes no note of: NumPy computes with them at a third of torch's cost a call."""

from __future__ import annotations

import torch
from torch import Tensor

from residyn.state import inside_transform

LIMIT = 2**14
"""Above so many numbers the arithmetic counts and not the calls, and torch has more threads."""


def is_plain(x: Tensor) -> bool:
    """Whether NumPy may compute with a tensor in torch's stead: it is small, real, on the CPU, and nothing but numbers."""
    return (
        type(x) is Tensor
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() <= LIMIT
        and x.device.type == "cpu"
        and not inside_transform()
    )
