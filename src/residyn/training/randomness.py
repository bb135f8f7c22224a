"""The state of every random generator as tensors, so that a run goes on with the numbers it would have drawn."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_WORDS = 624


def capture() -> Tensor:
    """States of Python's, NumPy's, torch's and each accelerator's generator, as bytes of one length on every process."""
    version, words, spare = random.getstate()
    _, keys, place, has_spare, gauss = np.random.get_state()  # noqa: NPY002 - what third-party code draws from
    head = struct.pack("<q?d", version, spare is not None, spare or 0.0) + struct.pack("<qqd", place, has_spare, gauss)
    parts = [head, np.array(words, "<u4").tobytes(), np.asarray(keys, "<u4").tobytes()]
    states = [torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8), torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states)


def restore(state: Tensor) -> None:
    """Set every generator to what `capture` found."""
    head = struct.calcsize("<q?d") + struct.calcsize("<qqd")
    blob = bytes(state[: head + 4 * (2 * _WORDS + 1)].tolist())
    version, has, spare = struct.unpack_from("<q?d", blob)
    place, has_gauss, gauss = struct.unpack_from("<qqd", blob, struct.calcsize("<q?d"))
    words = np.frombuffer(blob, "<u4", _WORDS + 1, head)
    keys = np.frombuffer(blob, "<u4", _WORDS, head + 4 * (_WORDS + 1))
    random.setstate((version, tuple(words.tolist()), spare if has else None))
    np.random.set_state(("MT19937", keys, place, has_gauss, gauss))  # noqa: NPY002
    rest = state[len(blob) :]
    size = len(torch.get_rng_state())
    torch.set_rng_state(rest[:size].clone())
    if torch.cuda.is_available() and len(rest) > size:
        torch.cuda.set_rng_state(rest[size:].clone())


def seed(value: int) -> None:
    """Seed every generator."""
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002
    torch.manual_seed(value)


@contextmanager
def kept() -> Iterator[None]:
    """Give the caller's generators back as they were."""
    before = capture()
    try:
        yield
    finally:
        restore(before)
