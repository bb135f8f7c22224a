"""Calibration error and the fit of λ beside netcal, torchmetrics and probmetrics.

300,000 × 100 scores in single precision. netcal takes probabilities only, so on logits its softmax is part of its time. The
fit is on 10,000 × 100 logits. A peer that is not installed has no row. Beside torchmetrics, what limits is the
reading of the table and its exponentials: every row is looked at, whether it is finite and sums to one, before it is reduced. A
version that checks and reduces a few rows at a time, so that the table comes from memory once, was tried and was no faster.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import torch

from benchmarks.harness import Row, in_turn
from residyn.calibrate import Shrink, ece


def rows(quick: bool = False) -> list[Row]:
    """Measure.

    Args:
        quick: A tenth of the samples and fewer repeats.
    """
    generator = torch.Generator().manual_seed(0)
    n, repeat = (30_000, 3) if quick else (300_000, 7)
    z = 3 * torch.randn(n, 100, generator=generator)
    y = torch.multinomial(torch.softmax(z / 2, 1), 1, generator=generator)[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [*_errors(z, y, repeat), *_fits(z[:10_000], y[:10_000], repeat)]


def _errors(z: torch.Tensor, y: torch.Tensor, repeat: int) -> Iterator[Row]:
    p = torch.softmax(z, 1)
    table, truth = p.numpy(), y.numpy()
    with contextlib.suppress(ImportError):
        from netcal.metrics import ECE

        peer = ECE(15)
        gap = abs(ece(p, y) - float(peer.measure(table, truth)))
        ours, theirs, spread = in_turn(lambda: ece(z, y), lambda: peer.measure(torch.softmax(z, 1).numpy(), truth), repeat)
        yield Row("ece, logits: netcal", ours, theirs, "s", 2.0, f"{spread}; values differ by {gap:.1e}")
        ours, theirs, spread = in_turn(lambda: ece(p, y), lambda: peer.measure(table, truth), repeat)
        yield Row("ece, probabilities: netcal", ours, theirs, "s", 2.0, spread)
        sure, labels = np.tile([[0.0, 1.0]], (40, 1)), np.array([1] * 21 + [0] * 19)
        found = ece(sure, labels)
        yield Row(
            "ece at confidence 1, 21 of 40 right", found, float(peer.measure(sure[:, 1], labels)), "", None, "truth 0.475"
        )
    with contextlib.suppress(ImportError):
        metric = _torchmetrics()
        gap = abs(ece(p, y) - float(metric(p, y, 100, 15)))
        ours, theirs, spread = in_turn(lambda: ece(z, y), lambda: metric(z, y, 100, 15), repeat)
        yield Row("ece, logits: torchmetrics", ours, theirs, "s", 3.0, f"{spread}; values differ by {gap:.1e}")
        ours, theirs, spread = in_turn(lambda: ece(p, y), lambda: metric(p, y, 100, 15), repeat)
        yield Row("ece, probabilities: torchmetrics", ours, theirs, "s", 3.0, spread)


def _torchmetrics() -> Callable[..., torch.Tensor]:
    """Its calibration error. It imports torchvision, which breaks beside another torch and is not needed here: hidden."""
    from lightning_utilities.core.imports import RequirementCache

    check = RequirementCache._check_available

    def hidden(self: RequirementCache) -> None:
        if self.requirement == "torchvision":
            self.available, self.message = False, "hidden"
        else:
            check(self)

    with mock.patch.object(RequirementCache, "_check_available", hidden):
        from torchmetrics.functional.classification import multiclass_calibration_error
    return multiclass_calibration_error


def _fits(z: torch.Tensor, y: torch.Tensor, repeat: int) -> Iterator[Row]:
    with contextlib.suppress(ImportError):
        from probmetrics.calibrators import GuoTemperatureScalingCalibrator, TemperatureScalingCalibrator
        from probmetrics.distributions import CategoricalLogits

        for kind in (TemperatureScalingCalibrator, GuoTemperatureScalingCalibrator):
            steps = Shrink().fit(z, y).iterations
            ours, theirs, spread = in_turn(
                lambda: Shrink().fit(z, y), lambda kind=kind: kind().fit_torch(CategoricalLogits(z), y), repeat
            )
            yield Row(f"fit of λ: probmetrics {kind.__name__}", ours, theirs, "s", 3.0, f"{spread}; {steps} Newton steps")


if __name__ == "__main__":
    for row in rows():
        print(f"{row.name:55s} {row.ours:.4g} {row.peer:.4g} {row.unit} {row.ratio:.2f} {row.verdict} {row.note}")
