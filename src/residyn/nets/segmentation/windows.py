"""Segmenting pictures larger than memory: windows that overlap, blended where they meet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from residyn.errors import InputError, ResidynError

_ALLOCATOR = ("can't allocate memory", "not enough memory", "could not create a memory", "could not create a primitive")


@torch.no_grad()
def predict(
    model: nn.Module,
    picture: Tensor,
    *,
    window: int | None = 512,
    overlap: float = 0.25,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Logits of one picture, window by window.

    Windows overlap, and each counts less towards its rim, so that no seam shows. Where the memory does not suffice
    for a window, windows of half the size are taken from there on.

    Args:
        model: From `(1, C, …)` to logits `(1, K, …)` of the same size; put into evaluation mode and back.
        picture: `(C, …)`, two or three axes besides the channels.
        window: Pixels along each axis; `None` takes the picture whole.
        overlap: Share of a window that the next one covers again, in [0, 1).
        progress: Told of the share that is done.

    Returns:
        `(K, …)`, of the picture's size.

    Raises:
        InputError: If an argument breaks its rule.
        ResidynError: If the memory does not suffice for windows of any size.

    >>> predict(nn.Conv2d(1, 3, 3, padding=1), torch.rand(1, 90, 70), window=32).shape
    torch.Size([3, 90, 70])
    """
    if window is not None and window < 16:
        raise InputError(f"`window` must be at least 16 pixels, got {window}; larger windows see more around each pixel")
    if not 0 <= overlap < 1:
        raise InputError(f"`overlap` must be a share in [0, 1), got {overlap}; 0.25 is usual")
    if picture.ndim < 2:
        raise InputError(f"`picture` must be (C, …), got {tuple(picture.shape)}; add the channel axis")
    training = model.training
    model.eval()
    try:
        size = max(picture.shape[1:]) if window is None else window
        while True:
            try:
                return _tiled(model, picture, size, overlap, progress)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if size < 64:
                    raise ResidynError(
                        f"the memory does not suffice for the picture, {tuple(picture.shape)}, even in windows of {size} "
                        f"pixels ({str(error).splitlines()[0]}); cut it into parts, or free memory"
                    ) from error
                size = max(32, size // 2)
    finally:
        model.train(training)


def _tiled(model: nn.Module, picture: Tensor, size: int, overlap: float, progress: Callable[[float], None] | None) -> Tensor:
    extent = picture.shape[1:]
    if all(n <= size for n in extent):
        whole: Tensor = model(picture.unsqueeze(0)).squeeze(0)
        return whole
    sizes = [min(size, n) for n in extent]
    places = list(itertools.product(*(_starts(n, s, overlap) for n, s in zip(extent, sizes, strict=True))))
    weight = _weight(sizes).to(picture)
    total = torch.zeros(1)
    seen = torch.zeros(extent, dtype=weight.dtype, device=picture.device)
    for k, place in enumerate(places):
        where = tuple(slice(p, p + s) for p, s in zip(place, sizes, strict=True))
        logits = model(picture[(slice(None), *where)].unsqueeze(0)).squeeze(0)
        if k == 0:
            total = logits.new_zeros((len(logits), *extent))
        total[(slice(None), *where)] += weight * logits
        seen[where] += weight
        if progress is not None:
            progress((k + 1) / len(places))
    return total / seen


def _starts(extent: int, size: int, overlap: float) -> list[int]:
    """Where windows begin along an axis: evenly, the last one ending at the edge."""
    if extent <= size:
        return [0]
    stride = max(1, int(size * (1 - overlap)))
    count = -(-(extent - size) // stride) + 1
    return [round(k * (extent - size) / (count - 1)) for k in range(count)]


def _weight(sizes: Sequence[int]) -> Tensor:
    """A tent over the window, at its rim a tenth of what it is in the middle and never 0."""
    weight = torch.ones(())
    for n in sizes:
        ramp = 1 - (torch.arange(n) - (n - 1) / 2).abs() / (n / 2)
        weight = weight.unsqueeze(-1) * (0.1 + 0.9 * ramp)
    return weight


def _out_of_memory(error: BaseException) -> bool:
    # the allocator of the CPU raises a bare RuntimeError; its words differ by system
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in _ALLOCATOR)
