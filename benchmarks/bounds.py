"""Norms of layers: 500 random ones against the dense SVD, and the time at 64 channels 32×32; run by `python -m benchmarks.run`.

The layers are drawn to be awkward: inputs smaller than the kernel, even kernels, "same", circular, reflected and replicated
borders, strides beyond the kernel, output padding, depthwise and 1×1 kernels, folded batch norms, pooling, weights of 1e-12 or
1e12 and of rank one or zero, in three precisions. The truth is the largest singular value of the matrix written out column by
column in double precision; what a violation may hide in is the rounding of that reference, 1e-12.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

import residyn as rd
from benchmarks.harness import Row

MODES = ("zeros", "circular", "reflect", "replicate")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
ROOM = {1: 40, 2: 9, 3: 5}

Drawn = tuple[nn.Module, tuple[int, ...]]


def convolution(draw: random.Random, d: int) -> Drawn:
    """A convolution, and sizes that leave it an output, often smaller than its kernel."""
    groups = draw.choice([1, 1, 1, 2, 3])
    depthwise = draw.random() < 0.2
    inputs = groups if depthwise else groups * draw.randint(1, 3)
    outputs = groups * draw.randint(1, 3)
    taps = [draw.choice([1, 2, 3, 4, 5, 7]) if d < 3 else draw.choice([1, 2, 3]) for _ in range(d)]
    if draw.random() < 0.15:
        taps = [1] * d
    dilation = [draw.choice([1, 1, 1, 2, 3]) for _ in range(d)]
    stride = [draw.choice([1, 1, 2, 3, 5]) for _ in range(d)]
    mode = draw.choice(MODES)
    same = draw.random() < 0.2
    if same:
        stride = [1] * d
    padding = [draw.randint(0, 3 if d < 3 else 1) for _ in range(d)]
    shape = []
    for k, a, p in zip(taps, dilation, padding, strict=True):
        span = a * (k - 1)
        pad = -(-span // 2) if same else p
        least = {"reflect": pad + 1, "circular": pad, "replicate": 1, "zeros": 1}[mode]
        least = max(1, least, 1 if same else span + 1 - 2 * p)
        shape.append(draw.choice([least, least, least + 1, draw.randint(least, max(least, ROOM[d]))]))
    options = {"stride": stride, "dilation": dilation, "groups": groups, "bias": draw.random() < 0.5}
    layer = CONVOLUTIONS[d - 1](inputs, outputs, taps, padding="same" if same else padding, padding_mode=mode, **options)
    return layer, (inputs, *shape)


def transposed(draw: random.Random, d: int) -> Drawn:
    """A transposed convolution with paddings on both sides."""
    groups = draw.choice([1, 1, 2])
    inputs, outputs = groups * draw.randint(1, 3), groups * draw.randint(1, 3)
    taps = [draw.choice([1, 2, 3, 4]) if d < 3 else draw.choice([1, 2, 3]) for _ in range(d)]
    dilation = [draw.choice([1, 1, 2]) for _ in range(d)]
    stride = [draw.choice([1, 2, 3, 5]) if d < 3 else draw.choice([1, 2, 3]) for _ in range(d)]
    padding = [draw.randint(0, a * (k - 1) // 2) for k, a in zip(taps, dilation, strict=True)]
    extra = [draw.randint(0, max(s, a) - 1) for s, a in zip(stride, dilation, strict=True)]
    shape = [draw.randint(1, {1: 16, 2: 5, 3: 3}[d]) for _ in range(d)]
    layer = TRANSPOSED[d - 1](
        inputs, outputs, taps, stride=stride, padding=padding, output_padding=extra, dilation=dilation, groups=groups
    )
    return layer, (inputs, *shape)


def averaging(draw: random.Random, d: int) -> Drawn:
    """Average pooling."""
    shape = (draw.randint(1, 2), *[draw.randint(3, {1: 30, 2: 10, 3: 5}[d]) for _ in range(d)])
    if draw.random() < 0.4:
        return ADAPTIVE[d - 1]([draw.randint(1, n) for n in shape[1:]] if d > 1 else draw.randint(1, shape[1])), shape
    taps = [draw.randint(1, 3) for _ in range(d)]
    padding = [draw.randint(0, k // 2) for k in taps]
    stride = [draw.randint(1, 4) for _ in range(d)]
    options = {"padding": padding, "ceil_mode": draw.random() < 0.4, "count_include_pad": draw.random() < 0.5}
    return AVERAGES[d - 1](taps, stride, **options), shape


def weighted(draw: random.Random, layer: nn.Module) -> None:
    """Other weights: heavy-tailed, of rank one, tiny, huge, or zero."""
    with torch.no_grad():
        weight = layer.weight
        kind = draw.random()
        if kind < 0.2:
            weight.copy_(torch.randn_like(weight) * torch.rand_like(weight).clamp(min=1e-2).pow(-1))
        elif kind < 0.35:
            left, right = torch.randn(weight.shape[0]), torch.randn(weight[0].numel())
            weight.copy_(torch.outer(left, right).reshape(weight.shape))
        elif kind < 0.4:
            weight.fill_(1.0)
        elif kind < 0.43:
            weight.zero_()
        weight.mul_(draw.choice([1.0, 1.0, 1.0, 1e-12, 1e12]))


def draw_layer(seed: int) -> Drawn:
    """A layer, or a layer and its batch norm, and the shape of a sample."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    d = draw.choice([1, 2, 2, 3])
    kind = draw.random()
    if kind < 0.12:
        layer: nn.Module = nn.Linear(draw.randint(1, 60), draw.randint(1, 60))
        weighted(draw, layer)
        shape: tuple[int, ...] = (layer.in_features,)
    elif kind < 0.22:
        layer, shape = averaging(draw, d)
    else:
        layer, shape = (transposed if kind < 0.42 else convolution)(draw, d)
        weighted(draw, layer)
        if draw.random() < 0.15:
            norm = NORMS[d - 1](layer.out_channels)
            nn.init.normal_(norm.weight)
            nn.init.uniform_(norm.running_var, 0.01, 4.0)
            layer = nn.Sequential(layer, norm)
    return layer.to(draw.choice(DTYPES)).eval(), shape


def matrix(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The matrix of an affine layer in double precision."""
    n = math.prod(shape)
    layer = layer.double()
    with torch.no_grad():
        eye = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
        # an offset far above the weights would drown them
        columns = torch.cat([layer(part) - layer(torch.zeros_like(part)) for part in eye.split(256)])
    return columns.reshape(n, -1).T


def without_offset(layer: nn.Module) -> nn.Module:
    """The same linear map; offsets have no part in it."""
    for part in layer.modules():
        if getattr(part, "bias", None) is not None and not isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.bias = None
        elif isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.zeros_(part.bias), nn.init.zeros_(part.running_mean)
    return layer


def compare(count: int, first: int = 0) -> tuple[list[float], list[int]]:
    """Slacks over the truth of `count` random layers, and the seeds at which the bound lies below it."""
    slacks, violations = [], []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding=.same.")
        for seed in range(first, first + count):
            layer, shape = draw_layer(seed)
            found = float(rd.operator_norm(layer, shape))
            exact = float(torch.linalg.matrix_norm(matrix(without_offset(layer), shape), 2))
            slacks.append(found / exact - 1 if exact > 0 else found)
            if slacks[-1] < -1e-12:
                violations.append(seed)
    return slacks, violations


def seconds(job: Callable[[], object]) -> float:
    """CPU seconds of one run."""
    start = time.process_time()
    job()
    return time.process_time() - start


def rows(quick: bool) -> list[Row]:
    """The table; for slacks `peer` is the limit, so that a ratio of 1 or more reaches it."""
    torch.set_num_threads(1)
    count = 60 if quick else 500
    slacks, violations = compare(count)
    found = [
        Row(
            f"Bounds below the truth, of {count} random layers; limit 0",
            len(violations) + 1,
            1,
            "(one more)",
            1.0,
            str(violations or ""),
        ),
        Row("Median slack over the truth; limit 0.1 %", 100 * max(statistics.median(slacks), 1e-14), 0.1, "%", 1.0),
        Row("Largest slack over the truth; limit 0.1 %", 100 * max(slacks), 0.1, "%", 1.0, f"seed {slacks.index(max(slacks))}"),
    ]
    return found + [speed(side, quick) for side in ((8, 16) if quick else (8, 16, 32))]


def speed(side: int, quick: bool) -> Row:
    """Time of a 3×3 convolution with zero padding, 64 channels; the matrix of 32×32 is 34 GB, so its SVD is scaled from 8×8."""
    torch.manual_seed(0)
    channels = 16 if quick else 64
    layer, shape = nn.Conv2d(channels, channels, 3, padding=1), (channels, side, side)
    bound = rd.operator_norm(layer, shape)
    mine = statistics.median(seconds(lambda: rd.operator_norm(layer, shape)) for _ in range(3))
    name = f"Conv2d, {channels} channels {side}×{side}"
    if side > 8:
        theirs = dense_seconds(channels) * (side / 8) ** 6
        return Row(name, mine, theirs, "s", 5.0, f"converged {bound.converged}; peer scaled by the cube of the order")
    slack = float(bound) / float(torch.linalg.matrix_norm(dense_of(channels, side), 2)) - 1
    return Row(name, mine, dense_seconds(channels), "s", 5.0, f"converged {bound.converged}; slack {slack:.1e}")


@functools.cache
def dense_seconds(channels: int) -> float:
    """CPU seconds of the dense SVD on 8×8."""
    dense = dense_of(channels, 8)
    return seconds(lambda: torch.linalg.svdvals(dense))


def dense_of(channels: int, side: int) -> Tensor:
    """The matrix of the same layer."""
    torch.manual_seed(0)
    return matrix(without_offset(nn.Conv2d(channels, channels, 3, padding=1)), (channels, side, side))
