"""What a training or a prediction found, as a section of a report: scores by class, the curve, pictures with their masks."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError, require
from residyn.nets.segmentation.job import Judged, Settings, evaluate, split
from residyn.nets.segmentation.pictures import Labelled, numbered, read_mask, read_picture, true_mask
from residyn.nets.segmentation.scores import IGNORED
from residyn.nets.segmentation.segmenter import Segmenter
from residyn.placing import put
from residyn.results import Figure, Finding, Picture, Section, Series, Table
from residyn.training import History

COLOURS = (
    (0, 0, 0),
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
)
"""Colours of the classes, from 0 on, distinct for the colour-blind (Okabe & Ito 2008); the first is left clear."""
_NAMED = ("clear", "blue", "orange", "green", "pink", "red", "sky blue", "yellow")

_SHOWN, _LARGEST = 4, 480


def trained(
    data: Labelled, segmenter: Segmenter, judged: Judged, history: History, settings: Settings, seed: int, *, name: str
) -> Section:
    """A training as a section.

    Args:
        data: All pictures.
        segmenter: What came of it.
        judged: Scores on what was held out.
        history: What the run has seen.
        settings: How it was trained.
        seed: Seed of the split.
        name: What the pictures are called.

    Returns:
        The section.
    """
    learn, judge = split(data, settings.held_out, seed)
    share = torch.stack([torch.bincount(m[m >= 0], minlength=len(data.values)) for m in learn.masks]).sum(0).double()
    share = share / share.sum()
    rows: list[list[float | str | None]] = [
        [str(value), round(float(share[k]), 4), _number(judged.dice[k]), _number(judged.boundary[k])]
        for k, value in enumerate(data.values)
    ]
    part = "its right-hand part" if len(data.pictures) == 1 else f"{len(judge.pictures)} of {len(data.pictures)} pictures"
    epochs = [float(k + 1) for k in range(len(history.loss))]
    curve = Figure(
        "Training",
        "epoch",
        "loss",
        [
            Series("training loss", epochs, history.loss, "points"),
            Series("1 - mean Dice, held out", epochs, history.validation, "line"),
        ],
        caption=f"The weights kept are those of epoch {history.best + 1}.",
    )
    shown = list(zip(judge.names, judge.pictures, judge.masks, strict=True))[:_SHOWN]
    pictures = [overlay(n, p, segmenter.logits(p).argmax(0), m, values=data.values) for n, p, m in shown]
    skips = " and ".join(w for w, on in (("short", settings.short), ("long", settings.long)) if on) or "no"
    return Section(
        "segment",
        f"Segmentation of {name}",
        summary=f"A U-Net with {skips} skips, {sum(p.numel() for p in segmenter.net.parameters()):,} parameters, judged on "
        f"{part} that it did not see.",
        equation="x⁺ = x + h·F(x) within a level, u⁺ = up(u) + skip across",
        data=f"{len(data.pictures)} pictures, {len(data.values)} classes with the values {data.values}",
        code=_CODE,
        findings=[*_scores(judged, data.values, share)],
        figures=[curve],
        pictures=pictures,
        tables=[Table("Held-out scores by class", ["value in masks", "share of pixels", "Dice", "boundary F, 2 px"], rows)],
    )


def predicted(file: str, *, model: str, folder: str, masks: str | None, window: int) -> Section:
    """Segment one picture, write its mask, and score it where the truth is known.

    Args:
        file: The picture.
        model: File of the segmenter.
        folder: Where the mask goes, a PNG of the picture's name.
        masks: Folder of true masks, or `None`.
        window: Pixels of a window.

    Returns:
        A section with the mask over the picture.

    Raises:
        InputError: If the picture or its true mask cannot be read or does not fit.
        ResidynError: If the mask cannot be written.
    """
    began = time.perf_counter()
    segmenter = Segmenter.load(model)
    segmenter.window = window
    picture = read_picture(file, segmenter.form.inputs)
    found = segmenter.logits(picture).argmax(0)
    values = torch.tensor(segmenter.values)
    _write_mask(Path(folder, f"{Path(file).stem}.png"), values[found])
    share = torch.bincount(found.flatten(), minlength=len(values)).double() / found.numel()
    heads, truth = ["value", "share of pixels"], None
    rows: list[list[float | str | None]] = [[str(int(v)), round(float(s), 4)] for v, s in zip(values, share, strict=True)]
    findings = []
    if masks is not None:
        truth = numbered(read_mask(true_mask(masks, file)), segmenter.values)
        judged = evaluate(segmenter, Labelled([file], [picture], [truth], segmenter.values))
        heads += ["Dice", "boundary F, 2 px"]
        rows = [[*row, _number(d), _number(b)] for row, d, b in zip(rows, judged.dice, judged.boundary, strict=True)]
        findings = [Finding("segment.dice", "Mean Dice overlap of the classes", "info", float(np.nanmean(judged.dice)))]
    return Section(
        file,
        f"Mask of {Path(file).name}",
        summary=f"{picture.shape[2]}×{picture.shape[1]} pixels, {int((share > 0).sum())} classes found.",
        findings=findings,
        pictures=[overlay(Path(file).name, picture, found, truth, values=segmenter.values)],
        tables=[Table("Classes", heads, rows)],
        seconds=time.perf_counter() - began,
    )


def _write_mask(path: Path, mask: Tensor) -> None:
    """A PNG of 8 or 16 bits, beside its place first."""
    image = require("PIL.Image", "imaging")
    wide = int(mask.max()) > 255
    if int(mask.min()) < 0 or int(mask.max()) > 65535:
        raise InputError(f"`masks` of the training must have values in 0 … 65535 to be written as PNG, got {int(mask.min())}")
    page = io.BytesIO()
    image.fromarray(mask.numpy().astype(np.uint16 if wide else np.uint8)).save(page, "PNG")
    put(path, page.getvalue())


def _scores(judged: Judged, values: list[int], share: Tensor) -> list[Finding]:
    known = [(d, v) for d, v in zip(judged.dice, values, strict=True) if d == d]
    worst = min(known, default=(float("nan"), -1))
    mean = sum(d for d, _ in known) / max(1, len(known))
    # what one gets for nothing: every pixel called the commonest class
    chance = 2 * float(share.max()) / (1 + float(share.max())) / len(values)
    return [
        Finding(
            "segment.dice",
            "Mean Dice overlap of the classes, held out",
            "pass" if mean > chance else "fail",
            mean,
            why=f"Calling every pixel the commonest class would give {chance:.3f}. The least, {worst[0]:.3f}, has the class "
            f"with the value {worst[1]}.",
            fix="" if mean > chance else "more epochs, a smaller rate, or more pictures",
        ),
        Finding(
            "segment.boundary",
            "Mean boundary F-measure within 2 pixels, held out",
            "info",
            float(np.nanmean(judged.boundary)) if any(b == b for b in judged.boundary) else None,
        ),
    ]


def overlay(
    name: str, picture: Tensor, found: Tensor, truth: Tensor | None = None, *, values: list[int] | None = None
) -> Picture:
    """A picture with its mask over it, beside the true one if that is known.

    Args:
        name: Name of the picture.
        picture: `(C, H, W)`.
        found: Class numbers `(H, W)`.
        truth: Class numbers, or `None`.
        values: The values of the classes, to name their colours in the caption.

    Returns:
        The picture, at most 480 pixels high.
    """
    image = require("PIL.Image", "imaging")
    grey = picture.mean(0)
    low, high = float(grey.quantile(0.005)), float(grey.quantile(0.995))
    base = ((grey - low) / max(high - low, 1e-9)).clamp(0, 1).mul(255).byte().numpy()[..., None].repeat(3, 2)
    panels = [base, _tinted(base, found)] + ([] if truth is None else [_tinted(base, truth)])
    gap = np.full((base.shape[0], max(2, base.shape[1] // 60), 3), 255, np.uint8)
    joined = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], 1)
    drawn = image.fromarray(joined)
    if joined.shape[0] > _LARGEST:
        drawn = drawn.resize((max(1, round(joined.shape[1] * _LARGEST / joined.shape[0])), _LARGEST))
    page = io.BytesIO()
    drawn.save(page, "PNG", optimize=True)
    what = "picture, found" + ("" if truth is None else ", truth")
    shown = sorted(set(torch.unique(found).tolist()) - {0, IGNORED})[: len(COLOURS) - 1] if values else []
    legend = ", ".join(f"{values[k]} {_NAMED[_colour(k)]}" for k in shown) if values else ""
    what += f"; {legend}" if legend else ""
    return Picture(f"{name}: {what}", base64.b64encode(page.getvalue()).decode("ascii"), f"{name} with its classes in colours")


def _tinted(base: np.ndarray, mask: Tensor) -> np.ndarray:
    """Classes in colour over the picture; class 0 and what has no label stay clear."""
    tinted = base.astype(np.float32)
    numbers = mask.numpy()
    for k in np.unique(numbers):
        if k not in (0, IGNORED):
            colour = np.array(COLOURS[_colour(int(k))], np.float32)
            tinted[numbers == k] = 0.5 * tinted[numbers == k] + 0.5 * colour
    return tinted.astype(np.uint8)


def _colour(k: int) -> int:
    """Which colour a class has; past the last one they begin anew."""
    return 0 if k == 0 else 1 + (k - 1) % (len(COLOURS) - 1)


def _number(value: float) -> float | None:
    return round(value, 4) if value == value else None


_CODE = """\
from residyn.nets.segmentation import Segmenter, read_picture

segmenter = Segmenter.load("model.safetensors")
mask = segmenter(read_picture("new.png", segmenter.form.inputs))   # (H, W), the values of the training masks
"""
