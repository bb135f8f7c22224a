"""A record judged: λ from one half, every measure before and after on the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.calibrate.decomposition import Interval, bootstrap, decompose
from residyn.calibrate.reading import Record
from residyn.calibrate.shrink import Shrink
from residyn.calibrate.smooth import smooth_ece
from residyn.errors import InputError
from residyn.results import Figure, Finding, Section, Series, Table
from residyn.statistics import inputs
from residyn.statistics.figures import reliability_figure
from residyn.statistics.inputs import Kind
from residyn.statistics.measures import brier, classwise_ece, ece, nll

CODE = """\
import torch
from residyn.calibrate import Calibrated, Shrink

shrink = Shrink().fit(logits, labels)        # held-out logits (N, C) and class numbers (N,)
model = Calibrated(model, shrink)            # returns (1 - λ)·logits from now on
"""
_DRAWS = 400


@dataclass(frozen=True)
class _Side:
    """Measures on the test half."""

    ece: float
    smooth: float
    classwise: float
    nll: float
    brier: float
    miscalibration: float
    accuracy: float


def assess(
    record: Record,
    *,
    name: str = "data",
    test: Record | None = None,
    bins: int = 15,
    kind: Kind = "auto",
    seed: int = 0,
) -> tuple[Shrink, Section]:
    """Fit λ and say what it does to samples that had no part in it.

    Args:
        record: Scores and class numbers.
        name: What they are called.
        test: Samples to judge on; if `None`, a random half of the record is held out for that.
        bins: Bins of the calibration error.
        kind: What the scores are.
        seed: Seed of the split and of the bootstrap.

    Returns:
        The fitted calibration and the section of a report.

    Raises:
        InputError: If scores and labels do not fit, hold one class only or one prediction only, are fewer than 4 or
            fewer than the bins in the test half; or as `Shrink.fit`.
    """
    z = inputs.log_scores(record.scores, "scores", kind)
    y = inputs.labels(record.labels, z)
    if test is None:
        z, y, held, truth = _halves(z, y, seed)
        source = f"{name}: {len(z)} samples for λ, {len(held)} held out for the test (random halves, seed {seed})"
    else:
        held = inputs.log_scores(test.scores, "scores", kind)
        truth = inputs.labels(test.labels, held)
        if held.shape[1] != z.shape[1]:
            raise InputError(f"`test` must have the record's {z.shape[1]} classes, got {held.shape[1]}; use the same model")
        source = f"{name}: {len(z)} samples for λ; {len(held)} others for the test"
    _check(z, y, held, bins)
    shrink = Shrink().fit(z, y)
    after = shrink.transform(held)
    sides = _measured(held, truth, bins), _measured(after, truth, bins)
    change = bootstrap(lambda rows, labels: _fall(rows, labels, shrink, bins), held, truth, draws=_DRAWS, seed=seed)
    moved = int((held.argmax(1) != after.argmax(1)).sum())
    findings = _findings(shrink, sides, change, moved, len(held))
    return shrink, Section(
        "calibrate",
        f"Calibration of {name}",
        summary=_summary(shrink, sides, findings),
        equation="z⁺ = z - λ·z, λ from the likelihood; the temperature is T = 1/(1-λ)",
        data=f"{source}; {z.shape[1]} classes",
        code=CODE,
        findings=findings,
        figures=[
            reliability_figure(held, truth, "Reliability before", bins=bins, kind="logits"),
            reliability_figure(after, truth, "Reliability after", bins=bins, kind="logits"),
            _curve(held, truth, shrink),
        ],
        tables=[_table(*sides), _classes(record.names, held, after, truth, bins)],
    )


def _halves(z: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if len(z) < 4:
        raise InputError(f"`scores` must hold 4 samples at least, half of them for the test, got {len(z)}; record more")
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
    fit, rest = order[: len(z) // 2], order[len(z) // 2 :]
    return z[fit], y[fit], z[rest], y[rest]


def _check(z: Tensor, y: Tensor, held: Tensor, bins: int) -> None:
    inputs.whole(bins, "bins", 15)
    if int(y.min()) == int(y.max()):
        raise InputError(f"`labels` must hold 2 classes at least, got class {int(y[0])} only; record samples of others too")
    centred = z - z.mean(1, keepdim=True)
    if bool((centred == centred[:1]).all()):
        raise InputError("`scores` must differ between samples, got the same prediction for all; check the model's output")
    if len(held) < bins:
        raise InputError(f"`bins` must be at most the {len(held)} test samples, got {bins}; lower it or record more samples")


def _measured(z: Tensor, y: Tensor, bins: int) -> _Side:
    per_class = classwise_ece(z, y, bins, kind="logits")
    return _Side(
        ece(z, y, bins, kind="logits"),
        smooth_ece(z, y, kind="logits"),
        sum(per_class) / len(per_class),
        nll(z, y),
        brier(z, y, kind="logits"),
        decompose(z, y, kind="logits").miscalibration,
        float((z.argmax(1) == y).double().mean()),
    )


def _fall(z: Tensor, y: Tensor, shrink: Shrink, bins: int) -> float:
    """By how much the calibration error falls."""
    return ece(z, y, bins, kind="logits") - ece(shrink.transform(z), y, bins, kind="logits")


def _findings(shrink: Shrink, sides: tuple[_Side, _Side], fall: Interval, moved: int, count: int) -> list[Finding]:
    before, after = sides
    rises = after.ece > before.ece
    sure = fall.high < 0 if rises else fall.low > 0
    return [
        Finding(
            "calibrate.ece",
            f"Calibration error after (before: {before.ece:.4f})",
            "pass" if not rises else "warn",
            after.ece,
            why=f"It {'rises' if rises else 'falls'} by {abs(fall.value):.4f}; 95 % of bootstrap samples lie between "
            f"{-fall.high:+.4f} and {-fall.low:+.4f}"
            + ("." if sure else ", so the change cannot be told from none on so few samples.")
            + (
                " The likelihood may improve all the same: λ minimises that, and the binned error is no proper score."
                if rises
                else ""
            ),
            fix="Try `ClassShrink` or `InputShrink`, or keep the model as it is" if rises else "",
        ),
        Finding(
            "calibrate.nll",
            f"Negative log-likelihood after (before: {before.nll:.4f})",
            "pass" if after.nll <= before.nll else "fail",
            after.nll,
            unit="nat",
            why="λ minimises it on the other samples; on these it must not rise.",
            fix="Fit on more samples, or keep the model as it is" if after.nll > before.nll else "",
        ),
        Finding(
            "calibrate.lambda",
            f"λ: {'over' if shrink.lam > 0 else 'under'}-confident it was; as a temperature T = {1 / (1 - shrink.lam):.4g}",
            "info",
            shrink.lam,
            why=f"Found in {shrink.iterations} safeguarded Newton steps.",
        ),
        Finding(
            "calibrate.accuracy",
            f"Predictions that changed, of {count:,}, compared one by one; accuracy {before.accuracy:.2%}",
            "pass" if moved == 0 else "fail",
            float(moved),
            0.0,
            why="1 - λ > 0 keeps the order of the logits.",
        ),
    ]


def _summary(shrink: Shrink, sides: tuple[_Side, _Side], findings: list[Finding]) -> str:
    before, after = sides
    verb = "falls" if after.ece <= before.ece else "rises"
    return (
        f"With λ = {shrink.lam:.4f} the calibration error {verb} from {before.ece:.4f} to {after.ece:.4f} and the negative "
        f"log-likelihood goes from {before.nll:.4f} to {after.nll:.4f} nats on samples that had no part in finding λ. "
        f"{'Not one prediction changes.' if findings[3].verdict == 'pass' else 'Some predictions change.'}"
    )


def _curve(z: Tensor, y: Tensor, shrink: Shrink) -> Figure:
    lams = [shrink.lam + 0.02 * k * (1 - shrink.lam) for k in range(-25, 26)]
    loss = [nll((1 - lam) * z, y) for lam in lams]
    at = nll(shrink.transform(z), y)
    return Figure(
        "Likelihood against λ",
        "λ",
        "negative log-likelihood (nat)",
        [Series("test samples", lams, loss), Series("λ from the other samples", [shrink.lam], [at], "points")],
    )


def _table(before: _Side, after: _Side) -> Table:
    rows: list[list[float | str | None]] = [
        ["calibration error, top class", before.ece, after.ece],
        ["smooth calibration error", before.smooth, after.smooth],
        ["class-wise calibration error", before.classwise, after.classwise],
        ["negative log-likelihood (nat)", before.nll, after.nll],
        ["Brier score", before.brier, after.brier],
        ["Brier score: miscalibration", before.miscalibration, after.miscalibration],
        ["accuracy", before.accuracy, after.accuracy],
    ]
    return Table("Test samples", ["measure", "before", "after"], rows)


def _classes(names: list[str], before: Tensor, after: Tensor, y: Tensor, bins: int) -> Table:
    """The classes with the largest error, twenty at most."""
    classes = before.shape[1]
    labels = names if len(names) == classes else [str(c) for c in range(classes)]
    pairs = [classwise_ece(z, y, bins, kind="logits") for z in (before, after)]
    count = torch.bincount(y, minlength=classes).tolist()
    worst = sorted(range(classes), key=lambda c: -pairs[1][c])[:20]
    rows: list[list[float | str | None]] = [[labels[c], float(count[c]), pairs[0][c], pairs[1][c]] for c in worst]
    return Table("Calibration error by class, worst first", ["class", "samples", "before", "after"], rows)
