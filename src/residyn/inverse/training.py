"""Train an `Unrolled` network on patches of clean pictures that are blurred and made noisy on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.inverse.operators.blur import Blur
from residyn.inverse.unrolled import Unrolled

Draw = Callable[[torch.Generator], tuple[Tensor, float]]
"""A generator of random numbers → a PSF and a standard deviation of the noise."""


@dataclass(frozen=True)
class Training:
    """How training went.

    Args:
        losses: Mean squared error of each step.
        steps: Steps taken.
        seconds: CPU time spent.
    """

    losses: list[float]
    steps: int
    seconds: float


def fit_unrolled(
    network: Unrolled,
    pictures: Sequence[Tensor],
    draw: Draw,
    *,
    seconds: float,
    steps: int = 10**9,
    batch: int = 8,
    side: int = 96,
    rate: float = 2e-3,
    seed: int = 0,
    progress: Callable[[float, str], None] | None = None,
) -> Training:
    """Minimise the mean squared error of what the network makes of random blurred patches, by Adam, until the time is up.

    Patches are turned and mirrored at random; one PSF and noise level a step; periodic borders, as in the frame that `deblur`
    puts around a picture. The rate falls along a half cosine over the time.

    Args:
        network: Trained in place.
        pictures: Clean ones, `(H, W)`, in [0, 1].
        draw: PSF and noise of a step.
        seconds: CPU time to spend.
        steps: Steps at most.
        batch: Patches a step.
        side: Of a patch.
        rate: Largest learning rate.
        seed: Of all that is random.
        progress: Called with the share done and a text.

    Returns:
        The losses.

    Raises:
        InputError: If there is no picture of at least `side` pixels on each side.
    """
    usable = [picture for picture in pictures if min(picture.shape) >= side]
    if not usable:
        raise InputError(f"`pictures` must have one of at least {side} pixels on each side, got {len(pictures)} smaller ones")
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), rate)
    began, losses = time.process_time(), []
    network.train()
    for step in range(steps):
        spent = max((time.process_time() - began) / seconds, step / steps)
        if spent >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * spent))
        clean = _patches(usable, batch, side, generator).to(network.dtype)
        psf, noise = draw(generator)
        op = Blur(psf.to(network.dtype), (side, side), "circular")
        with torch.no_grad():
            blurred = op(clean) + noise * torch.randn(clean.shape, generator=generator)
        loss = (network(blurred, op=op) - clean).square().mean()
        optimiser.zero_grad()
        # noise levels and blurs differ by orders of magnitude in their error: descend its logarithm
        (loss + 1e-6).log().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if progress is not None and step % 50 == 0:
            recent = losses[-50:]
            progress(spent, f"step {step}, {-10 * math.log10(sum(recent) / len(recent)):.2f} dB")
    network.eval()
    return Training(losses, len(losses), time.process_time() - began)


def _patches(pictures: Sequence[Tensor], count: int, side: int, generator: torch.Generator) -> Tensor:
    """Random patches, turned and mirrored; a picture is drawn by its number of pixels."""
    sizes = torch.tensor([float(picture.numel()) for picture in pictures])
    found = []
    for which in torch.multinomial(sizes, count, replacement=True, generator=generator).tolist():
        picture = pictures[which]
        top, left, turn = (
            int(torch.randint(0, high, (), generator=generator))
            for high in (picture.shape[0] - side + 1, picture.shape[1] - side + 1, 8)
        )
        patch = picture[top : top + side, left : left + side]
        patch = patch.rot90(turn % 4)
        found.append(patch.flip(0) if turn >= 4 else patch)
    return torch.stack(found)
