"""An adaptation as a section of a report: gaps and errors before and after, every try, and the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from residyn.results import Figure, Finding, Section, Series, Table, Verdict
from residyn.transfer.adapting import Adaptation, parts
from residyn.transfer.judging import Judgement

CODE = """\
from residyn.transfer import adapt, judge

adapted = adapt(model, (x_source, y_source), x_target)   # no label of the target
logits = adapted(x_target)
judge(adapted, x_test, y_test)                           # labels, if you have some, only now
"""


def assess(adaptation: Adaptation, judged: Judgement | None, *, source: str, target: str, tested: str = "") -> Section:
    """Say what an adaptation did.

    Args:
        adaptation: The adaptation.
        judged: Its judgement; `None` where there are no labels.
        source: What the source is called.
        target: What the target is called.
        tested: Which samples were judged.

    Returns:
        The section.
    """
    findings = [_gap(adaptation), _information(adaptation), _norm(adaptation)]
    if judged is not None:
        findings = [*_errors(judged), findings[0], _sealed(judged), *findings[1:]]
    sizes = f"{len(adaptation.source[0]):,} samples of the source, {len(adaptation.target):,} of the target without labels"
    return Section(
        "adapt",
        f"From {source} to {target}",
        summary=_summary(adaptation, judged),
        equation="x⁺ = x + F(x) before the frozen model and before its last layer; F from unlabelled target samples",
        data=f"{source} and {target}: {sizes}{'; ' + tested if tested else ''}",
        code=CODE,
        findings=findings,
        figures=[cloud(adaptation, corrected=False), cloud(adaptation, corrected=True)],
        tables=[*([] if judged is None else [_accuracies(judged)]), _gaps(adaptation), _trials(adaptation)],
    )


def _errors(judged: Judgement) -> list[Finding]:
    gain, room = judged.adapted - judged.rivals, judged.rivals <= 0.98
    verdict: Verdict = "pass" if judged.adapted > judged.model else "fail" if judged.adapted < judged.model else "warn"
    ceiling = (
        "" if judged.supervised != judged.supervised else f" With labels the same corrections reach {judged.supervised:.1%}."
    )
    return [
        Finding(
            "adapt.error",
            f"Error in the target after adaptation (before: {1 - judged.model:.1%})",
            verdict,
            1 - judged.adapted,
            why=f"On {judged.count:,} samples, whose labels had no part in it.{ceiling}",
            fix="" if verdict == "pass" else "Keep the model as it is; or label some target samples and train with those",
        ),
        Finding(
            "adapt.gain",
            f"Gain over the better of z-scores ({judged.standardise:.1%}) and CORAL ({judged.recolour:.1%})",
            "pass" if gain >= 0.02 else "warn" if room else "info",
            100 * gain,
            2.0,
            "points",
            why="Both need no training; a correction that does not beat them by two points is not worth its trouble."
            + ("" if room else " Here they leave fewer than two points to gain."),
            fix="Take the simpler map, or more steps and other recipes" if gain < 0.02 and room else "",
        ),
    ]


def _gap(adaptation: Adaptation) -> Finding:
    before, after = adaptation.before.gap, adaptation.chosen.gap
    return Finding(
        "adapt.gap",
        f"Squared maximum mean discrepancy of source and target features after (before: {before:.4g})",
        "pass" if after < before else "fail",
        after,
        why="Features are what enters the model's last layer; the same samples and kernel before and after.",
        fix="" if after < before else "The domains may already be alike; keep the model as it is",
    )


def _sealed(judged: Judgement) -> Finding:
    return Finding(
        "adapt.labels",
        "Times the target's labels were read before the corrections were trained and chosen",
        "pass" if judged.opened == 0 else "fail",
        float(judged.opened),
        0.0,
        why="They are set aside in an envelope that counts how often it is opened.",
    )


def _information(adaptation: Adaptation) -> Finding:
    most = float(torch.log(torch.tensor(float(adaptation.model.classes))))
    return Finding(
        "adapt.information",
        f"Mutual information of target samples and predicted classes (before: {adaptation.before.information:.3f})",
        "info",
        adaptation.chosen.information,
        most,
        "nat",
        why="Theory: the most there can be, log C, when the model is sure of each sample and finds all classes equally often.",
    )


def _norm(adaptation: Adaptation) -> Finding:
    return Finding(
        "adapt.branch",
        "Root mean square of the branch F(x) at the input, over the spread of the target",
        "info",
        adaptation.chosen.branch,
        why="How large the correction is; a penalty holds it down, and of equal recipes the one with the smaller is taken.",
    )


def _summary(adaptation: Adaptation, judged: Judgement | None) -> str:
    before, chosen = adaptation.before, adaptation.chosen
    gap = f"the gap between the domains' features goes from {before.gap:.3g} to {chosen.gap:.3g}"
    if judged is None:
        return (
            f"Without labels the error cannot be told; {gap}, and what the predictions say of the samples from "
            f"{before.information:.2f} to {chosen.information:.2f} nats. Label a few target samples to be sure."
        )
    return (
        f"Accuracy in the target goes from {judged.model:.1%} to {judged.adapted:.1%}, without a label of it (z-scores: "
        f"{judged.standardise:.1%}, CORAL: {judged.recolour:.1%}), and {gap}. The model itself is unchanged."
    )


def _accuracies(judged: Judgement) -> Table:
    rows: list[list[float | str | None]] = [
        ["model as it was", judged.model, 1 - judged.model],
        ["z-score per domain", judged.standardise, 1 - judged.standardise],
        ["CORAL (covariance of the source)", judged.recolour, 1 - judged.recolour],
        ["adapted, no labels", judged.adapted, 1 - judged.adapted],
    ]
    if judged.supervised == judged.supervised:
        rows.append(["same corrections with labels (ceiling)", judged.supervised, 1 - judged.supervised])
    return Table(f"Target, {judged.count:,} samples", ["what", "accuracy", "error"], rows)


def _gaps(adaptation: Adaptation) -> Table:
    before, after = adaptation.before, adaptation.chosen
    return Table(
        "Gap between the domains' features",
        ["measure", "before", "after"],
        [["squared maximum mean discrepancy", before.gap, after.gap], ["CORAL distance", before.covariance, after.covariance]],
    )


def _trials(adaptation: Adaptation) -> Table:
    rows: list[list[float | str | None]] = [
        [str(t.recipe) + (" ←" if t is adaptation.chosen else ""), t.gap, t.information, t.branch, t.score]
        for t in adaptation.trials
    ]
    return Table("Recipes, chosen without labels (←)", ["recipe", "gap", "information (nat)", "branch", "score"], rows)


def cloud(adaptation: Adaptation, *, corrected: bool) -> Figure:
    """Features of both domains in the plane of the source's two main directions.

    Args:
        adaptation: The adaptation.
        corrected: Whether the target's go through the corrections.
    """
    known = parts(adaptation.model, _few(adaptation.source[0]), corrected=False)[0].flatten(1)
    moved = parts(adaptation.model, _few(adaptation.target), corrected=corrected)[0].flatten(1)
    centre = known.mean(0)
    plane = torch.linalg.svd(known - centre, full_matrices=False).Vh[:2].T
    series = []
    for label, values in (("source", known), ("target", moved)):
        place = ((values - centre) @ plane).double()
        second = place[:, 1] if place.shape[1] > 1 else torch.zeros(len(place))
        series.append(Series(label, place[:, 0].tolist(), second.tolist(), "points"))
    when = "after" if corrected else "before"
    return Figure(
        f"Features {when}",
        "first direction of the source",
        "second",
        series,
        caption="What enters the last layer, in the source's two main directions.",
    )


def _few(x: Tensor) -> Tensor:
    return x if len(x) <= 200 else x[torch.linspace(0, len(x) - 1, 200).long()]
