"""Calibration as one residual step on logits, z⁺ = z - λz: accuracy stays, over-confidence goes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.atlas.context import Context
from residyn.atlas.data import mnist
from residyn.atlas.fit import seeded, train
from residyn.calibrate import Shrink, ece, nll, stationarity
from residyn.nets import MLP
from residyn.results import Figure, Finding, Section, Series, Table
from residyn.statistics.figures import reliability_figure

CODE = """\
import numpy as np
from residyn.calibrate import Shrink, ece

held = np.load("held_out.npz")   # logits (N, C) and labels (N,), not trained on
test = np.load("test.npz")
shrink = Shrink().fit(held["logits"], held["labels"])
after = shrink.transform(test["logits"])
print(shrink.lam, ece(test["logits"], test["labels"]), ece(after, test["labels"]))
"""


@dataclass(frozen=True)
class _Outcome:
    """One network before and after."""

    lam: float
    before: float
    after: float
    floor: float
    """Mean error of labels drawn from the calibrated probabilities: what the sample size alone gives."""
    ceiling: float
    """Its 95 % quantile."""
    fell: float
    """Share of bootstrap samples of the test digits in which the error falls."""
    losses: tuple[float, float]
    accuracy: float
    changed: int
    sides: tuple[float, float]
    logits: Tensor
    shrunk: Tensor


def run(context: Context) -> Section:
    """Train a network past the point where it is right about itself, then shrink its logits.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    sizes, epochs, draws = ((1000, 1000, 2000), 60, 200) if context.fast else ((2000, 1000, 2000), 60, 500)
    split = mnist(sizes, context.seed)

    def watch(share: float) -> None:
        context.advance(0.02 + 0.85 * share, "training a network that grows too sure")

    with seeded(context.seed):
        net = MLP(784, 256, 256, 10)
        train(net, split.x[0], split.y[0], epochs=epochs, rate=1e-3, watch=watch)
        with torch.no_grad():
            held, logits = net(split.x[1]), net(split.x[2])
        context.advance(0.88, "shrinking the logits")
        outcome = _shrink(held, split.y[1], logits, split.y[2], draws)
    findings = _findings(outcome, len(logits))
    return Section(
        "calibrate",
        "Calibration as residual shrinkage of logits",
        summary=_summary(outcome, findings, len(logits)),
        equation="z⁺ = z - λ·z, λ from the likelihood of held-out data; the temperature is T = 1/(1-λ)",
        data=f"{split.source} (training, λ, test)",
        code=CODE,
        findings=findings,
        figures=_figures(outcome, split.y[2]),
        tables=[_table(outcome)],
    )


def _shrink(held: Tensor, held_labels: Tensor, logits: Tensor, labels: Tensor, draws: int) -> _Outcome:
    shrink = Shrink().fit(held, held_labels)
    shrunk = shrink.transform(logits)
    probs = torch.softmax(shrunk.double(), 1)
    sampled = torch.multinomial(probs, draws, replacement=True).T
    floor = torch.tensor([ece(probs, row) for row in sampled])
    raw = torch.softmax(logits.double(), 1)
    again = torch.randint(len(logits), (draws, len(logits)))
    fell = [ece(probs[rows], labels[rows]) < ece(raw[rows], labels[rows]) for rows in again]
    guess = logits.argmax(1)
    return _Outcome(
        shrink.lam,
        ece(logits, labels),
        ece(shrunk, labels),
        float(floor.mean()),
        float(floor.quantile(0.95)),
        sum(fell) / draws,
        (nll(logits, labels), nll(shrunk, labels)),
        float((guess == labels).double().mean()),
        int((guess != shrunk.argmax(1)).sum()),
        stationarity(held, held_labels, shrink.lam),
        logits,
        shrunk,
    )


def _findings(o: _Outcome, count: int) -> list[Finding]:
    left, right = o.sides
    as_temperature = ((o.logits / (1 / (1 - o.lam))) - o.shrunk).abs().max() / o.shrunk.abs().max()
    return [
        Finding(
            "calibrate.ece",
            f"Calibration error on {count:,} test digits after the step (before: {o.before:.4f})",
            "fail" if o.after >= o.before else ("pass" if o.fell >= 0.975 else "warn"),
            o.after,
            o.floor,
            why=f"Passes if it falls in 97.5 % of bootstrap samples (here {o.fell:.1%}). Theory: the mean for labels "
            "drawn from the calibrated probabilities themselves, because a finite sample scatters; 95 % of those lie "
            f"below {o.ceiling:.4f}, so "
            + ("what is left cannot be told from none." if o.after <= o.ceiling else "one λ does not mend all of it."),
        ),
        Finding(
            "calibrate.lambda",
            "λ that minimises the negative log-likelihood of held-out digits",
            "pass" if 0 < o.lam < 1 else "warn",
            o.lam,
            "0 < λ < 1",
            why=f"In that range the network was over-confident; as a temperature, T = 1/(1-λ) = {1 / (1 - o.lam):.3f}.",
        ),
        Finding(
            "calibrate.stationary",
            "Mean logit of the labelled class on the held-out digits, relative to the largest, at that λ",
            "pass" if abs(left - right) <= 1e-9 * max(abs(left), 1.0) else "fail",
            left,
            right,
            why="At the optimum mean z_y = mean Σ p·z, both in float64; passes within 1e-9, some million roundings of "
            "their sums.",
        ),
        Finding(
            "calibrate.accuracy",
            f"Predictions that changed, of {count:,}, compared one by one; accuracy {o.accuracy:.2%}",
            "pass" if o.changed == 0 else "fail",
            float(o.changed),
            0.0,
            why="1 - λ > 0 keeps the order of the logits.",
        ),
        Finding(
            "calibrate.likelihood",
            f"Negative log-likelihood on test digits after the step (before: {o.losses[0]:.4f})",
            "pass" if o.losses[1] < o.losses[0] else "fail",
            o.losses[1],
            o.losses[0],
            "nat",
            why="λ minimises it on held-out digits; passes if it falls on the test digits too, whose value before "
            "stands as theory's upper bound.",
        ),
        Finding(
            "calibrate.temperature",
            "Largest gap between (1-λ)·z and z/T, relative to the largest logit",
            "pass" if float(as_temperature) <= 1e-6 else "fail",
            float(as_temperature),
            0.0,
            why="The residual step is temperature scaling under another name; passes at 1e-6, a few roundings of float32.",
        ),
    ]


def _summary(o: _Outcome, findings: list[Finding], count: int) -> str:
    holds = all(f.verdict == "pass" for f in findings)
    return (
        f"{'The claim holds' if holds else 'The claim holds in part'}: with λ = {o.lam:.3f}, found on digits held out "
        f"from training, the calibration error on {count:,} other digits goes from {o.before:.4f} to {o.after:.4f} (a "
        f"perfectly calibrated network would show {o.floor:.4f} on so many), the negative log-likelihood from "
        f"{o.losses[0]:.3f} to {o.losses[1]:.3f} nats, and "
        f"{'not one prediction changes' if o.changed == 0 else f'{o.changed} predictions change'} (accuracy "
        f"{o.accuracy:.2%})."
    )


def _figures(o: _Outcome, labels: Tensor) -> list[Figure]:
    figures = [
        reliability_figure(scores, labels, f"Reliability {when} the step")
        for when, scores in (("before", o.logits), ("after", o.shrunk))
    ]
    lams = [o.lam + 0.02 * k * (1 - o.lam) for k in range(-25, 26)]
    loss = [nll((1 - lam) * o.logits, labels) for lam in lams]
    figures.append(
        Figure(
            "Likelihood against λ",
            "λ",
            "negative log-likelihood on test digits (nat)",
            [Series("test digits", lams, loss), Series("λ from held-out digits", [o.lam], [o.losses[1]], "points")],
        )
    )
    return figures


def _table(o: _Outcome) -> Table:
    rows: list[list[float | str | None]] = [
        ["calibration error", o.before, o.after],
        ["negative log-likelihood (nat)", *o.losses],
        ["accuracy", o.accuracy, o.accuracy],
    ]
    return Table("Test digits", ["measure", "before", "after"], rows)
