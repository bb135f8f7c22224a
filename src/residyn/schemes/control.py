"""Step-size control (being written)."""

from __future__ import annotations


class Control: ...


class Fixed(Control): ...


class Adaptive(Control): ...
