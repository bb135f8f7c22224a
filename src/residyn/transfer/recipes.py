"""What is tried to bring two domains together, and the score by which one try is chosen without a label of the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.transfer.discrepancy import GAUSSIAN, Kernel, Laplace, coral, mmd

Align = Literal["mmd", "coral", "both", "none"]
Start = Literal["identity", "standardise", "recolour"]


@dataclass(frozen=True)
class Recipe:
    """One way to train corrections: a·D(source, target) - i·I(target) + p·‖F‖².

    D compares features of both domains, I is the mutual information of target samples and their predicted classes, ‖F‖² the
    mean square of the learned branch at the input in units of the features' variance.

    Args:
        align: D: `"mmd"`, `"coral"` (means and covariances), `"both"` or `"none"`.
        kernel: Of the maximum mean discrepancy.
        start: What the correction of the input starts from: nothing, the z-score per domain, or the covariance of the source.
        weight: a.
        information: i.
        penalty: p.

    Raises:
        InputError: If a value breaks its rule.
    """

    align: Align = "mmd"
    kernel: Kernel = GAUSSIAN
    start: Start = "identity"
    weight: float = 1.0
    information: float = 1.0
    penalty: float = 0.01

    def __post_init__(self) -> None:
        for name, known in (("align", Align), ("start", Start)):
            if getattr(self, name) not in get_args(known):
                words = " or ".join(f'"{word}"' for word in get_args(known))
                raise InputError(f"`{name}` must be {words}, got {getattr(self, name)!r}")
        for name in ("weight", "information", "penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"`{name}` must be a finite weight >= 0, got {getattr(self, name)}; 0 leaves it out")
        if not isinstance(self.kernel, Kernel):
            raise InputError(f"`kernel` must be a kernel such as Gaussian(), got {self.kernel!r}")

    def __str__(self) -> str:
        kernel = f" {type(self.kernel).__name__}" if self.align in ("mmd", "both") else ""
        return f"{self.align}{kernel}, from {self.start}, weight {self.weight:g}, information {self.information:g}"

    def distance(self, source: Tensor, target: Tensor) -> Tensor:
        """a·D of two samples of features, `(n, d)` and `(m, d)`; D is free of their unit."""
        total = target.new_zeros(())
        if self.align in ("mmd", "both"):
            total = total + mmd(source, target, kernel=self.kernel)
        if self.align in ("coral", "both"):
            total = total + relative_coral(source, target)
        return self.weight * total


RECIPES = (
    Recipe(),
    Recipe(information=0.3),
    Recipe(kernel=Laplace()),
    Recipe(start="standardise"),
    Recipe("coral"),
    Recipe("both"),
)
"""What `adapt` tries."""


def relative_coral(source: Tensor, target: Tensor) -> Tensor:
    """Differences of means and covariances of features, each in units of the source's own."""
    own = (torch.cov(source.T).square().sum() / (4 * source.shape[1] ** 2)).clamp(min=torch.finfo(source.dtype).tiny)
    spread = source.var(0).sum().clamp(min=torch.finfo(source.dtype).tiny)
    return coral(source, target) / own + (source.mean(0) - target.mean(0)).square().sum() / spread


def information(logits: Tensor) -> Tensor:
    """Mutual information of samples and predicted classes, H(mean p) - mean H(p): sure of each, and of all kinds in all.

    Args:
        logits: `(n, C)`.

    Returns:
        A scalar in nats, between 0 and log C.

    Reference:
        Bridle, Heading & MacKay (1991), "Unsupervised Classifiers, Mutual Information and 'Phantom Targets'", NIPS 4.

    >>> float(information(torch.tensor([[50.0, 0.0], [0.0, 50.0]])) / math.log(2))
    1.0
    """
    log_p = torch.log_softmax(logits, 1)
    p = log_p.exp()
    return entropy(p.mean(0)) + (p * log_p).sum(1).mean()


def entropy(p: Tensor) -> Tensor:
    """-Σ p·log p of probabilities, in nats."""
    return -torch.special.xlogy(p, p).sum(-1)
