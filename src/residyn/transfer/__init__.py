"""A trained model and something new: residual branches beside its frozen path, for a new task or a new domain."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residyn.transfer.adapters import Adapters, adapters_of, add_adapters
    from residyn.transfer.bound import Disturbance, disturbance
    from residyn.transfer.continual import Continual, compare
    from residyn.transfer.methods import Branches, FineTune, Method, Replay, Shared
    from residyn.transfer.peft import load_peft
    from residyn.transfer.record import Record
    from residyn.transfer.storage import load_adapter
    from residyn.transfer.tasks import Task

_HOME = {
    "Adapters": "adapters",
    "Branches": "methods",
    "Continual": "continual",
    "Disturbance": "bound",
    "FineTune": "methods",
    "Method": "methods",
    "Record": "record",
    "Replay": "methods",
    "Shared": "methods",
    "Task": "tasks",
    "adapters_of": "adapters",
    "add_adapters": "adapters",
    "compare": "continual",
    "disturbance": "bound",
    "load_adapter": "storage",
    "load_peft": "peft",
}

__all__ = [
    "Adapters",
    "Branches",
    "Continual",
    "Disturbance",
    "FineTune",
    "Method",
    "Record",
    "Replay",
    "Shared",
    "Task",
    "adapters_of",
    "add_adapters",
    "compare",
    "disturbance",
    "load_adapter",
    "load_peft",
]


def __getattr__(name: str) -> Any:
    """Names are loaded when they are asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
