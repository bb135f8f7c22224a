"""Encoder and decoder with two kinds of skip: short ones within a level, long ones across."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.step import Residual

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SMOOTH = ("linear", "bilinear", "trilinear")
_FORMAT = {2: torch.channels_last, 3: torch.channels_last_3d}
Join = Literal["add", "concat"]


class UNet(nn.Module):
    """A U-Net of residual blocks whose short and long skips can be switched off one by one.

    Level l of the encoder has width w·2ˡ at 1/(patch·2ˡ) of the resolution. A block is x⁺ = x + h·F(x) with `short`, else
    x⁺ = F(x); on its way up, u⁺ = up(u) + skip with `long` (or a projection of both, stacked, with `join="concat"`), else
    u⁺ = up(u).
    Inputs of any size go in: on the way up a state is brought to the size that its level had on the way down.

    Args:
        inputs: Channels of the input.
        classes: Channels of the output, one logit map a class.
        short: Whether blocks have an identity path.
        long: Whether each level of the decoder sees the encoder's state of that level.
        width: w, the width of the finest level.
        levels: Number of resolutions, at least 1.
        blocks: Blocks a level, on the way down and again on the way up.
        dims: 1, 2 or 3: signals, pictures, volumes.
        patch: Pixels along an axis that the stem makes one of; the finest blocks then cost patch^dims less. A long skip of
            half the width brings the detail of the full resolution past it. 1 has blocks at full resolution.
        join: `"add"`, which costs nothing, or `"concat"`, which costs a convolution of twice the width.
        step: h of the short skips; 1/√(number of blocks) if not given.

    Raises:
        InputError: If an argument breaks its rule, or the input has other channels or too few axes.

    Reference:
        Ronneberger, Fischer & Brox (2015), doi:10.1007/978-3-319-24574-4_28; Drozdzal, Vorontsov, Chartrand, Kadoury & Pal
        (2016), "The Importance of Skip Connections in Biomedical Image Segmentation", doi:10.1007/978-3-319-46976-8_19.

    >>> UNet(3, 5)(torch.zeros(2, 3, 37, 50)).shape
    torch.Size([2, 5, 37, 50])
    """

    def __init__(
        self,
        inputs: int = 1,
        classes: int = 2,
        *,
        short: bool = True,
        long: bool = True,
        width: int = 16,
        levels: int = 4,
        blocks: int = 1,
        dims: int = 2,
        patch: int = 2,
        join: Join = "add",
        step: float | None = None,
    ) -> None:
        super().__init__()
        sizes = {"inputs": inputs, "classes": classes, "width": width, "levels": levels, "blocks": blocks, "patch": patch}
        for name, value in sizes.items():
            if value < 1:
                raise InputError(f"`{name}` must be >= 1, got {value}")
        if dims not in (1, 2, 3):
            raise InputError(f"`dims` must be 1, 2 or 3, got {dims}; it is the number of axes besides batch and channels")
        if join not in ("add", "concat"):
            raise InputError(f'`join` must be "add" or "concat", got {join!r}')
        conv = _CONV[dims - 1]
        h = 1 / math.sqrt(blocks * (2 * levels - 1)) if step is None else step
        widths = [width * 2**level for level in range(levels)]
        self.inputs, self.dims, self.patch, self.long, self.join = inputs, dims, patch, long, join
        # kernel and stride overlap, so that the stem is no harder at the seams of its patches
        self.stem = conv(inputs, width, 2 * patch - 1 if patch > 1 else 3, stride=patch, padding=max(1, patch - 1))
        self.down = nn.ModuleList(_level(conv, w, blocks, short=short, step=h) for w in widths)
        self.halve = nn.ModuleList(conv(w, 2 * w, 2, stride=2) for w in widths[:-1])
        self.narrow = nn.ModuleList(conv(2 * w, w, 1) for w in widths[:-1])
        self.merge = nn.ModuleList(conv(2 * w, w, 3, padding=1) for w in widths[:-1] if long and join == "concat")
        self.up = nn.ModuleList(_level(conv, w, blocks, short=short, step=h) for w in widths[:-1])
        fine = width if patch == 1 else max(1, width // 2)
        self.last = conv(width, fine, 1) if patch > 1 else nn.Identity()
        self.detail = conv(inputs, fine, 3, padding=1) if patch > 1 and long else None
        self.head = nn.Sequential(_norm(fine), nn.ReLU(), conv(fine, classes, 1 if patch == 1 else 3, padding=int(patch > 1)))
        if dims > 1:
            self.to(memory_format=_FORMAT[dims])  # type: ignore[call-overload]  # channels last: a fifth faster on CPUs, much more on GPUs

    def forward(self, u: Tensor) -> Tensor:
        """Logits `(B, classes, …)` of inputs `(B, inputs, …)`, of the same size."""
        if u.ndim != self.dims + 2 or u.shape[1] != self.inputs:
            raise InputError(
                f"`u` must be (B, {self.inputs}, {'…, ' * (self.dims - 1)}n) with {self.dims + 2} axes, got {tuple(u.shape)}; "
                "add the batch or channel axis"
            )
        if self.dims > 1:
            u = u.contiguous(memory_format=_FORMAT[self.dims])
        skips: list[Tensor] = []
        x = self.stem(u)
        for level, blocks in enumerate(self.down):
            if level:
                skips.append(x)
                x = self.halve[level - 1](_at_least_two(x))
            x = blocks(x)
        for level in reversed(range(len(skips))):
            x = self._joined(level, x, skips.pop())
            x = self.up[level](x)
        if self.patch > 1:
            x = self._sized(self.last(x), u)
            x = x if self.detail is None else x + self.detail(u)
        logits: Tensor = self.head(x)
        return logits

    def _sized(self, x: Tensor, like: Tensor) -> Tensor:
        return nn.functional.interpolate(x, size=like.shape[2:], mode=_SMOOTH[self.dims - 1], align_corners=False)

    def _joined(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        """The state a level up, of the size of the skip, with it or without."""
        # channels are halved before the picture grows: four times less to convolve
        x = self._sized(self.narrow[level](x), skip)
        if not self.long:
            return x
        if self.join == "concat":
            joined: Tensor = self.merge[level](torch.cat([x, skip], 1))
            return joined
        return x + skip


def _level(conv: type[nn.Module], width: int, blocks: int, *, short: bool, step: float) -> nn.Sequential:
    """The blocks of a level, residual or plain, of the same parameters."""
    branches = [_branch(conv, width) for _ in range(blocks)]
    return nn.Sequential(*(Residual(f, step) for f in branches) if short else branches)


def _branch(conv: type[nn.Module], width: int) -> nn.Sequential:
    return nn.Sequential(
        _norm(width), nn.ReLU(), conv(width, width, 3, padding=1, bias=False),
        _norm(width), nn.ReLU(), conv(width, width, 3, padding=1),
    )  # fmt: skip


def _norm(width: int) -> nn.GroupNorm:
    """Norm over groups of about 8 channels: the same for one picture, a batch, and a window of a larger one."""
    return nn.GroupNorm(math.gcd(width, max(1, width // 8)), width)


def _at_least_two(x: Tensor) -> Tensor:
    """The state, no axis shorter than the two that halving needs."""
    short = [max(0, 2 - n) for n in reversed(x.shape[2:])]
    return nn.functional.pad(x, [p for s in short for p in (0, s)], mode="replicate") if any(short) else x
