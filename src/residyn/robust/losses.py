"""What an attack climbs: cross-entropy, the ratio of logit differences, and the margin to a chosen class."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as f
from torch import Tensor

from residyn.robust.inputs import margins

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits `(B, C)` and labels `(B,)` to one number a sample, to be made large."""


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """-ln softmax(z)_y; its gradient vanishes where the softmax saturates."""
    return f.cross_entropy(z, y, reduction="none")


def ratio(z: Tensor, y: Tensor) -> Tensor:
    """-(z_y - max_{j≠y} z_j)/(z_(1) - z_(3)), invariant to shifts and scales of the logits; the margin for two classes.

    Reference:
        Croce & Hein (2020), "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
        Attacks", arXiv:2003.01690 (the difference-of-logits ratio).
    """
    margin = margins(z, y)
    if z.shape[1] < 3:
        return -margin
    top = z.topk(3, dim=1).values
    return -margin / (top[:, 0] - top[:, 2] + 1e-12)


def towards(target: Tensor) -> Loss:
    """z_t - z_y: the margin to a class t, `(B,)`.

    Reference:
        Carlini & Wagner (2017), "Towards Evaluating the Robustness of Neural Networks", arXiv:1608.04644.
    """

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return (z.gather(1, target.unsqueeze(1)) - z.gather(1, y.unsqueeze(1))).squeeze(1)

    return loss
