"""An adaptation judged by labels it has not seen: beside the model as it was, z-scores, covariance maps, and its ceiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.transfer.adapting import Adaptation, logits
from residyn.transfer.correction import Adapted, Correction
from residyn.transfer.inputs import classes, samples


@dataclass(frozen=True)
class Judgement:
    """Shares of right answers in the target.

    Args:
        model: Of the model as it was.
        standardise: Of the model on z-scores per domain.
        recolour: Of the model on samples with the source's covariance (CORAL).
        adapted: Of the adapted model.
        supervised: Of the same corrections trained with labels of other target samples: the ceiling; nan if not asked for.
        count: Samples.
        opened: How often the labels were read before this judgement.
    """

    model: float
    standardise: float
    recolour: float
    adapted: float
    supervised: float
    count: int
    opened: int

    @property
    def rivals(self) -> float:
        """The better of the z-score and the covariance map."""
        return max(self.standardise, self.recolour)


def judge(adaptation: Adaptation, x: Any = None, y: Any = None, *, ceiling: bool = True) -> Judgement:
    """Open the labels and compare.

    Args:
        adaptation: What `adapt` returned.
        x: Target samples to judge by; those it was adapted to if not given.
        y: Their class numbers; what `adapt` carried along if not given.
        ceiling: Whether the same corrections are trained with labels too, on one half of the target and judged on the other,
            twice.

    Returns:
        Shares of right answers.

    Raises:
        InputError: If there are no labels, or they do not fit.
    """
    opened = adaptation.labels.opened
    if (x is None) != (y is None):
        raise InputError("`x` and `y` must come together, got one of them; leave both out to use the target's own labels")
    given = x is not None
    if not given and not adaptation.labels:
        raise InputError("`y` must hold the target's labels, got none; adapt(model, source, (x, y)) carries them along unread")
    rows = adaptation.target if not given else samples(x, "target").to(adaptation.target)
    truth = classes(adaptation.labels.open() if not given else y, rows, adaptation.model.classes, "target", least=1)
    model = adaptation.model.model
    return Judgement(
        _right(model, rows, truth),
        _right(model, adaptation.maps["standardise"](rows), truth),
        _right(model, adaptation.maps["recolour"](rows), truth),
        _right(adaptation.model, rows, truth),
        _ceiling(adaptation, rows, truth) if ceiling else float("nan"),
        len(rows),
        opened,
    )


def _right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((logits(model, x).argmax(1) == y).double().mean())


def _ceiling(adaptation: Adaptation, x: Tensor, y: Tensor) -> float:
    """Cross-fitted on two halves."""
    if len(x) < 4:
        return float("nan")
    generator = torch.Generator().manual_seed(adaptation.settings.seed)
    order = torch.randperm(len(x), generator=generator).to(x.device)
    halves = order[: len(x) // 2], order[len(x) // 2 :]
    right = 0.0
    for train, test in (halves, halves[::-1]):
        made = supervised(adaptation, x[train], y[train])
        right += _right(made, x[test], y[test]) * len(test)
    return right / len(x)


def supervised(adaptation: Adaptation, x: Tensor, y: Tensor) -> Adapted:
    """The same corrections, trained with labels of the target.

    Args:
        adaptation: Whose model, source and settings are used.
        x: Target samples, `(n, …)`.
        y: Their class numbers, `(n,)`.
    """
    settings = adaptation.settings
    made = Adapted(adaptation.model.model, x[:2])
    generator = torch.Generator().manual_seed(settings.seed)
    for place in settings.at:
        correction = Correction(made.shapes[place], settings.width, None, generator, adaptation.scales.get(place))
        made.corrections[place] = correction.to(x.device, x.dtype)
    optimiser = torch.optim.Adam(made.corrections.parameters(), lr=settings.rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=settings.steps + 1)
    for _ in range(settings.steps):
        rows = torch.randint(len(x), (settings.batch,), generator=generator).to(x.device)
        optimiser.zero_grad()
        nn.functional.cross_entropy(made(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        cycle.step()
    return made.requires_grad_(False)
