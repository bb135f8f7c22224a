"""Counts with their nouns, for sentences."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """A count with its noun, thousands apart.

    Args:
        count: How many.
        one: The noun for one.
        many: The noun for others; `one` and an s if empty.

    >>> counted(1, "chain"), counted(2000, "chain"), counted(0, "trajectory", "trajectories")
    ('1 chain', '2,000 chains', '0 trajectories')
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
