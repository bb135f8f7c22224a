"""Encoder and decoder with short and long skips: the four variants on brain tissue."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from residyn.atlas.context import Context
from residyn.atlas.data import Slices, brain
from residyn.atlas.fit import seeded
from residyn.errors import require
from residyn.nets import UNet
from residyn.nets.segmentation import boundary_score, dice, loss
from residyn.nets.unet import Join
from residyn.results import Figure, Finding, Picture, Section, Series, Table, Verdict

TISSUES = ("background", "grey matter", "white matter")
RATE, BATCH, WIDTH, LEVELS = 6e-3, 4, 8, 2
STEPS, BLOCKS = 200, 20
VARIANTS = ((True, True), (True, False), (False, True), (False, False))
NAMES = {(True, True): "both", (True, False): "short only", (False, True): "long only", (False, False): "neither"}

UNJUDGED = " The fast run is too short to tell, and is not judged."

CODE = """\
from residyn.nets import UNet
from residyn.nets.segmentation import Settings, read_labelled, train

data = read_labelled("images/", "masks/")                 # files with the same names
segmenter, judged, history = train(data, Settings(short=True, long=True))
print(judged.dice, judged.boundary)                       # by class, on held-out pictures
"""


@dataclass(frozen=True)
class Variant:
    """One of the four, trained.

    Args:
        short: Whether it has short skips.
        long: Whether it has long ones.
        gradients: Norm of the loss's gradient at each convolution before training, from the input on.
        losses: Loss of each step.
        dice: Dice of each tissue, held out.
        edges: Boundary F-measure of each tissue within one pixel, held out.
        mask: The segmentation of one held-out slice.
    """

    short: bool
    long: bool
    gradients: list[float]
    losses: list[float]
    dice: list[float]
    edges: list[float]
    mask: Tensor

    @property
    def name(self) -> str:
        """Which skips it has."""
        return NAMES[self.short, self.long]

    @property
    def overlap(self) -> float:
        """Mean Dice of grey and white matter."""
        return sum(self.dice[1:]) / 2

    @property
    def edge(self) -> float:
        """Mean boundary F-measure of grey and white matter."""
        return float(np.nanmean([e if e == e else 0.0 for e in self.edges[1:]]))


def run(context: Context) -> Section:
    """Train the four variants on the same slices from the same seed and judge them on held-out ones.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    steps, blocks = (80, 4) if context.fast else (STEPS, BLOCKS)
    context.advance(0.01, "reading the brain")
    learn, judge = brain()
    trained = []
    for k, (short, long) in enumerate(VARIANTS):
        context.advance(0.05 + 0.23 * k, f"training with {NAMES[short, long]} of the skips")
        trained.append(train(short, long, learn, judge, steps, blocks, context.seed))
    context.advance(0.98, "figures")
    by = {(v.short, v.long): v for v in trained}
    layers = 2 * blocks * (2 * LEVELS - 1)
    judged = not context.fast
    findings = [*_best(trained, judged=judged), _detail(by), _depth(by, layers, judged=judged)]
    return Section(
        "unet",
        "Encoder and decoder with short and long skips",
        summary=_summary(findings, by, layers, steps),
        equation="x⁺ = x + h·F(x) within a level (short), u⁺ = up(u) + skip across (long)",
        data=f"{learn.source}; {len(learn.pictures)} slices to learn from, {len(judge.pictures)} from other layers to judge by",
        code=CODE,
        findings=findings,
        figures=_figures(trained),
        pictures=[_drawn(judge, trained)],
        tables=[_table(trained)],
    )


def train(
    short: bool, long: bool, learn: Slices, judge: Slices, steps: int, blocks: int, seed: int, *, join: Join = "add"
) -> Variant:
    """Train one variant.

    Args:
        short: Whether it has short skips.
        long: Whether it has long ones.
        learn: Slices to learn from.
        judge: Slices to judge by.
        steps: Steps of the optimiser.
        blocks: Blocks a level.
        seed: Seed of weights and batches.
        join: How the long skips come in.

    Returns:
        What came of it.
    """
    with seeded(seed + 1):
        net = UNet(1, len(TISSUES), short=short, long=long, width=WIDTH, levels=LEVELS, blocks=blocks, join=join)
        gradients = _gradients(net, learn.pictures[:BATCH], learn.tissues[:BATCH])
        optimiser = torch.optim.AdamW(net.parameters(), RATE)
        rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: min(1.0, 10 * (k + 1) / steps) * (1 - k / steps))
        losses = []
        for _ in range(steps):
            rows = torch.randint(len(learn.pictures), (BATCH,))
            value = loss(net(learn.pictures[rows]), learn.tissues[rows])
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            rates.step()
            losses.append(value.item())
        net.eval()
        with torch.no_grad():
            found = net(judge.pictures).argmax(1)
    scores = dice(found, judge.tissues, len(TISSUES)).tolist()
    edges = boundary_score(found, judge.tissues, len(TISSUES), tolerance=1).tolist()
    return Variant(short, long, gradients, losses, scores, edges, found[len(found) // 2])


def _gradients(net: UNet, pictures: Tensor, tissues: Tensor) -> list[float]:
    """Root mean square of ∂loss/∂W at the first convolution of each block, on the way down."""
    net.zero_grad()
    loss(net(pictures), tissues).backward()  # type: ignore[no-untyped-call]
    convs = [next(m for m in block.modules() if isinstance(m, nn.Conv2d)) for level in net.down for block in level.children()]
    grads = [conv.weight.grad for conv in convs]
    net.zero_grad()
    return [0.0 if g is None else float(g.square().mean().sqrt()) for g in grads]


def _best(trained: list[Variant], *, judged: bool) -> list[Finding]:
    both, others = trained[0], trained[1:]
    findings = []
    for what, score in (("dice", "overlap"), ("boundary", "edge")):
        value, next_best = getattr(both, score), max(getattr(v, score) for v in others)
        title = "Mean Dice of grey and white matter" if what == "dice" else "Mean boundary F within one pixel"
        findings.append(
            Finding(
                f"unet.{what}",
                f"{title} with both kinds of skip, beside the best of the other three",
                _verdict(value > next_best, judged=judged),
                value,
                next_best,
                why="The claim: both together is best. Held-out slices, none next to one that was learned from. Networks of 24 "
                "to 56 convolutions were tried too: there the long skips alone do as well; it takes depth for short ones to "
                "matter." + ("" if judged else UNJUDGED),
            )
        )
    return findings


def _verdict(holds: bool, *, judged: bool) -> Verdict:
    return ("pass" if holds else "fail") if judged else "info"


def _detail(by: dict[tuple[bool, bool], Variant]) -> Finding:
    with_long, without = by[True, True].edge, by[True, False].edge
    return Finding(
        "unet.detail",
        "Boundary F lost where the long skips are taken out, short ones kept",
        "pass" if with_long > without else "fail",
        with_long - without,
        0.0,
        why="The coarsest level sees one pixel in sixteen: what is finer reaches the output through the long skips alone. "
        "Theory says more than 0.",
    )


def _depth(by: dict[tuple[bool, bool], Variant], layers: int, *, judged: bool) -> Finding:
    fall = {}
    for short in (True, False):
        ends = by[short, True].losses
        tail = max(1, len(ends) // 10)
        fall[short] = sum(ends[-tail:]) / tail
    return Finding(
        "unet.depth",
        f"Final training loss with short skips, beside that without ({layers} convolutions, long skips in both)",
        _verdict(fall[True] < fall[False], judged=judged),
        fall[True],
        fall[False],
        why="Short skips carry the gradient through the blocks of a level, so that the deep network trains."
        + ("" if judged else UNJUDGED),
    )


def _summary(findings: list[Finding], by: dict[tuple[bool, bool], Variant], layers: int, steps: int) -> str:
    words = {True: "The claim holds", False: "The claim does not hold as stated"}
    judged = all(f.verdict != "info" for f in findings)
    opening = words[all(f.verdict == "pass" for f in findings)] if judged else "The claim is not judged in so short a run"
    scores = ", ".join(f"{v.name} {v.overlap:.3f}" for v in by.values())
    return (
        f"{opening}: after {steps} steps the mean Dice overlap of "
        f"grey and white matter on held-out slices is, by skips, {scores}. All four have {layers} convolutions in blocks, the "
        "same optimiser, the same slices; variants with and without short skips have the same parameters."
    )


def _figures(trained: list[Variant]) -> list[Figure]:
    window = max(1, len(trained[0].losses) // 12)
    curves = []
    for v in trained:
        smooth = [sum(v.losses[k - window : k]) / window for k in range(window, len(v.losses) + 1)]
        curves.append(Series(v.name, [float(window + k) for k in range(len(smooth))], smooth))
    return [
        Figure("Training", "step", f"loss, mean of {window} steps", curves),
        Figure(
            "Gradient on the way down, before training",
            "block",
            "root mean square of ∂loss/∂W",
            [
                Series(v.name, [float(k + 1) for k in range(len(v.gradients))], [max(g, 1e-30) for g in v.gradients], "points")
                for v in trained
            ],
            yscale="log",
            caption="Blocks 1 to the last of the encoder, from the finest level to the coarsest.",
        ),
    ]


def _table(trained: list[Variant]) -> Table:
    rows: list[list[float | str | None]] = [
        [v.name, *(round(d, 4) for d in v.dice), *(round(e, 4) if math.isfinite(e) else None for e in v.edges[1:])]
        for v in trained
    ]
    heads = ["skips", *(f"Dice, {t}" for t in TISSUES), *(f"boundary F, {t}" for t in TISSUES[1:])]
    return Table("Held-out scores", heads, rows)


def _drawn(judge: Slices, trained: list[Variant]) -> Picture:
    """One held-out slice, the truth, and what each variant makes of it."""
    image = require("PIL.Image", "atlas")
    middle = len(judge.pictures) // 2
    grey = judge.pictures[middle, 0]
    grey = (grey - grey.min()) / (grey.max() - grey.min())
    panels = [grey, judge.tissues[middle] / 2, *(v.mask / 2 for v in trained)]
    # a slice lies on its side in the file: (left-right, back-front)
    shown = [np.rot90((255 * p.clamp(0, 1)).byte().numpy()) for p in panels]
    gap = np.full((shown[0].shape[0], 3), 128, np.uint8)
    joined = np.concatenate([part for panel in shown for part in (panel, gap)][:-1], 1)
    drawn = image.fromarray(joined).resize((2 * joined.shape[1], 2 * joined.shape[0]), 0)
    page = io.BytesIO()
    drawn.save(page, "PNG", optimize=True)
    names = ", ".join(v.name for v in trained)
    return Picture(
        f"A held-out slice: picture, truth, and by skips {names}",
        base64.b64encode(page.getvalue()).decode("ascii"),
        "Six panels: a brain slice, its tissue map, and the maps of the four networks",
    )
