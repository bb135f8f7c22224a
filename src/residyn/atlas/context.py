"""What the runner hands to an atlas entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _silent(fraction: float, text: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Context:
    """How an entry is to run.

    Torch's, NumPy's and Python's generators are already seeded from (`seed`, entry id) when the entry starts, so
    plain `torch.randn` is reproducible and independent of which other entries ran before.

    Args:
        fast: Whether to take smaller data and fewer repetitions, for a first look and for tests.
        seed: The seed the user gave, to be stated and to derive further generators from.
        advance: `advance(fraction, text)` says how far the entry is, from 0 to 1, and what it is doing.

    >>> Context(fast=True).advance(0.5, "half way")
    """

    fast: bool = False
    seed: int = 0
    advance: Callable[[float, str], None] = _silent
