"""A trained model and something new: residual branches beside its frozen path, for a new task or a new domain."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residyn.transfer.adapters import Adapters, adapters_of, add_adapters
    from residyn.transfer.adapting import Adaptation, adapt
    from residyn.transfer.bound import Disturbance, disturbance
    from residyn.transfer.branchfile import load_adapted, save_adapted
    from residyn.transfer.continual import Continual, compare
    from residyn.transfer.discrepancy import Energy, Gaussian, InverseMultiquadric, Laplace, coral, mmd
    from residyn.transfer.judging import Judgement, judge
    from residyn.transfer.mapping import recolour, standardise
    from residyn.transfer.methods import Branches, FineTune, Method, Replay, Shared
    from residyn.transfer.peft import load_peft
    from residyn.transfer.recipes import Recipe
    from residyn.transfer.record import Record
    from residyn.transfer.storage import load_adapter
    from residyn.transfer.tasks import Task

_HOME = {
    "Adaptation": "adapting",
    "Adapters": "adapters",
    "Branches": "methods",
    "Continual": "continual",
    "Disturbance": "bound",
    "Energy": "discrepancy",
    "FineTune": "methods",
    "Gaussian": "discrepancy",
    "InverseMultiquadric": "discrepancy",
    "Judgement": "judging",
    "Laplace": "discrepancy",
    "Method": "methods",
    "Recipe": "recipes",
    "Record": "record",
    "Replay": "methods",
    "Shared": "methods",
    "Task": "tasks",
    "adapt": "adapting",
    "adapters_of": "adapters",
    "add_adapters": "adapters",
    "compare": "continual",
    "coral": "discrepancy",
    "disturbance": "bound",
    "judge": "judging",
    "load_adapted": "branchfile",
    "load_adapter": "storage",
    "load_peft": "peft",
    "mmd": "discrepancy",
    "recolour": "mapping",
    "save_adapted": "branchfile",
    "standardise": "mapping",
}

__all__ = [
    "Adaptation",
    "Adapters",
    "Branches",
    "Continual",
    "Disturbance",
    "Energy",
    "FineTune",
    "Gaussian",
    "InverseMultiquadric",
    "Judgement",
    "Laplace",
    "Method",
    "Recipe",
    "Record",
    "Replay",
    "Shared",
    "Task",
    "adapt",
    "adapters_of",
    "add_adapters",
    "compare",
    "coral",
    "disturbance",
    "judge",
    "load_adapted",
    "load_adapter",
    "load_peft",
    "mmd",
    "recolour",
    "save_adapted",
    "standardise",
]


def __getattr__(name: str) -> Any:
    """Names are loaded when they are asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
