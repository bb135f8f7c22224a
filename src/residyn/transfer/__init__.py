"""A trained model and something new: residual branches beside its frozen path, for a new task or a new domain."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residyn.transfer.adapters import Adapters, adapters_of, add_adapters

_HOME = {
    "Adapters": "adapters",
    "adapters_of": "adapters",
    "add_adapters": "adapters",
}

__all__ = ["Adapters", "adapters_of", "add_adapters"]


def __getattr__(name: str) -> Any:
    """Names are loaded when they are asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
