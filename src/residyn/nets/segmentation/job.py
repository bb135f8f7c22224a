"""Training a segmenter on pictures with masks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.nets.segmentation.pictures import Labelled
from residyn.nets.segmentation.scores import IGNORED, boundary_score, dice, loss
from residyn.nets.segmentation.segmenter import Form, Segmenter
from residyn.training import History, Moment, Plan, Trainer


@dataclass(frozen=True)
class Settings:
    """How a segmenter is trained.

    Args:
        crop: Pixels along each side of a training crop.
        crops: Crops an epoch.
        held_out: Share of the pictures that are kept for judging; of a single picture its right-hand part.
        flip: Whether crops are mirrored and turned at random.
        width: Width of the finest level.
        levels: Resolutions of the network.
        blocks: Blocks a level.
        short: Short skips.
        long: Long skips.
        patch: Pixels along an axis that the stem merges; 1 has blocks at the full resolution, at four times the cost.

    Raises:
        InputError: If a value breaks its rule.
    """

    crop: int = 128
    crops: int = 160
    held_out: float = 0.2
    flip: bool = True
    width: int = 16
    levels: int = 4
    blocks: int = 1
    short: bool = True
    long: bool = True
    patch: int = 2

    def __post_init__(self) -> None:
        if self.crop < 16:
            raise InputError(f"`crop` must be at least 16 pixels, got {self.crop}; 128 is usual")
        if self.crops < 1:
            raise InputError(f"`crops` must be at least 1 an epoch, got {self.crops}")
        if not 0 < self.held_out < 1:
            raise InputError(f"`held_out` must be a share in (0, 1), got {self.held_out}; 0.2 is usual")


@dataclass(frozen=True)
class Judged:
    """What held-out pictures say.

    Args:
        dice: Dice overlap of each class.
        boundary: Boundary F-measure of each class, within 2 pixels.
        names: The held-out pictures.
    """

    dice: list[float]
    boundary: list[float]
    names: list[str]


def train(
    data: Labelled,
    settings: Settings | None = None,
    plan: Plan | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    progress: Callable[[Moment], None] | None = None,
) -> tuple[Segmenter, Judged, History]:
    """Train a U-Net on random crops and judge it on held-out pictures.

    Args:
        data: Pictures and masks.
        settings: Network and crops.
        plan: How the trainer runs; 20 epochs of batches of 8 if not given.
        checkpoint: Where the run is kept, and taken up from.
        log: Metrics as JSON lines.
        progress: Told of each step.

    Returns:
        The segmenter with the weights of the best epoch; its scores on what was held out; what the run has seen.

    Raises:
        InputError: If there is too little to hold anything out.
    """
    settings = settings or Settings()
    plan = plan or Plan(epochs=20, batch=8, rate=2e-3, decay=1e-4, warmup=0.05, clip=1.0)
    learn, judge = split(data, settings.held_out, plan.seed)
    form = Form(
        len(data.pictures[0]), len(data.values), settings.short, settings.long, settings.width, settings.levels,
        settings.blocks, settings.patch,
    )  # fmt: skip
    pixels = torch.cat([p.flatten(1) for p in learn.pictures], 1).double()
    mean, spread = pixels.mean(1).float(), pixels.std(1).clamp(min=1e-6).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        net = form.build()
    segmenter = Segmenter(net, form, mean, spread, data.values, max(4 * settings.crop, 256))
    crops = _Crops(replace(learn, pictures=[segmenter.prepared(p) for p in learn.pictures]), settings)

    def unlike(_: nn.Module) -> float:
        scores = evaluate(segmenter, judge).dice
        known = [s for s in scores if s == s]
        return 1 - sum(known) / max(1, len(known))

    history = Trainer(
        net, lambda model, batch: loss(model(batch[0]), batch[1]), crops, plan,
        validate=unlike, checkpoint=checkpoint, log=log, progress=progress,
    ).run()  # fmt: skip
    return segmenter, evaluate(segmenter, judge), history


@torch.no_grad()
def evaluate(segmenter: Segmenter, data: Labelled) -> Judged:
    """Scores of a segmenter on labelled pictures.

    Args:
        segmenter: The segmenter.
        data: Pictures and masks, classes numbered as the segmenter's.

    Returns:
        The scores, over all pixels and boundaries together; nan for a class that is nowhere.
    """
    classes = len(segmenter.values)
    found = [segmenter.logits(p).argmax(0) for p in data.pictures]
    flat = [torch.cat([m.flatten() for m in masks]) for masks in (found, data.masks)]
    edges = torch.stack([boundary_score(a[None], b[None], classes) for a, b in zip(found, data.masks, strict=True)])
    return Judged(dice(flat[0], flat[1], classes).tolist(), edges.nanmean(0).tolist(), data.names)


def split(data: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """What to learn from and what to judge by: whole pictures; of a single one its right-hand part.

    Args:
        data: Pictures and masks.
        share: Share to judge by.
        seed: Seed of the choice.

    Returns:
        Both parts.

    Raises:
        InputError: If a single picture is too narrow to be divided.
    """
    count = len(data.pictures)
    if count == 1:
        width = data.pictures[0].shape[2]
        at = round(width * (1 - share))
        if min(at, width - at) < 16:
            raise InputError(f"`images` must be wide enough to hold a part out, got one picture {width} wide; give more")
        parts = [
            Labelled(data.names, [data.pictures[0][:, :, part]], [data.masks[0][:, part]], data.values)
            for part in (slice(None, at), slice(at, None))
        ]
        return parts[0], parts[1]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held = max(1, min(count - 1, round(count * share)))
    return _some(data, sorted(order[held:])), _some(data, sorted(order[:held]))


def _some(data: Labelled, rows: list[int]) -> Labelled:
    return Labelled([data.names[i] for i in rows], [data.pictures[i] for i in rows], [data.masks[i] for i in rows], data.values)


class _Crops:
    """Random crops of pictures; small pictures are continued by their edges, there without labels."""

    def __init__(self, data: Labelled, settings: Settings) -> None:
        self.settings = settings
        size = settings.crop
        self.pairs = [_grown(p, m, size) for p, m in zip(data.pictures, data.masks, strict=True)]

    def __len__(self) -> int:
        return self.settings.crops

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        size = self.settings.crop
        picture, mask = self.pairs[index % len(self.pairs)]
        top, left = (int(torch.randint(n - size + 1, ())) for n in mask.shape)
        where = (slice(top, top + size), slice(left, left + size))
        picture, mask = picture[(slice(None), *where)], mask[where]
        if self.settings.flip:
            turns, mirror = int(torch.randint(4, ())), bool(torch.randint(2, ()))
            picture, mask = picture.rot90(turns, (1, 2)), mask.rot90(turns, (0, 1))
            if mirror:
                picture, mask = picture.flip(2), mask.flip(1)
        return picture.contiguous(), mask.contiguous()


def _grown(picture: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    more = [max(0, size - n) for n in mask.shape]
    if not any(more):
        return picture, mask
    pad = (0, more[1], 0, more[0])
    return nn.functional.pad(picture[None], pad, mode="replicate")[0], nn.functional.pad(mask, pad, value=IGNORED)
