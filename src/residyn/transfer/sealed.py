"""Labels in an envelope: adaptation carries them without reading, judgement opens it, and how often is counted."""

from __future__ import annotations

from typing import Any


class Sealed:
    """A value that is read through `open` alone, which counts.

    Args:
        value: Labels of the target, or `None`.

    >>> sealed = Sealed([0, 1])
    >>> sealed.opened, sealed.open(), sealed.opened
    (0, [0, 1], 1)
    """

    __slots__ = ("_value", "opened")

    def __init__(self, value: Any) -> None:
        self._value = value
        self.opened = 0

    def __bool__(self) -> bool:
        """Whether there is anything inside, which is not what it says."""
        return self._value is not None

    def open(self) -> Any:
        """The labels."""
        self.opened += 1
        return self._value
