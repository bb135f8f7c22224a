"""A trained model and something new: residual branches beside its frozen path, for a new task or a new domain."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residyn.transfer.adapters import Adapters, adapters_of, add_adapters
    from residyn.transfer.adapting import Adaptation, adapt
    from residyn.transfer.branchfile import load_adapted, save_adapted
    from residyn.transfer.discrepancy import Energy, Gaussian, InverseMultiquadric, Laplace, coral, mmd
    from residyn.transfer.judging import Judgement, judge
    from residyn.transfer.mapping import recolour, standardise
    from residyn.transfer.recipes import Recipe

_HOME = {
    "Adaptation": "adapting",
    "Energy": "discrepancy",
    "Gaussian": "discrepancy",
    "InverseMultiquadric": "discrepancy",
    "Judgement": "judging",
    "Laplace": "discrepancy",
    "Recipe": "recipes",
    "adapt": "adapting",
    "coral": "discrepancy",
    "judge": "judging",
    "load_adapted": "branchfile",
    "mmd": "discrepancy",
    "recolour": "mapping",
    "save_adapted": "branchfile",
    "standardise": "mapping",
    "Adapters": "adapters",
    "adapters_of": "adapters",
    "add_adapters": "adapters",
}

__all__ = [
    "Adaptation", "Adapters", "Energy", "Gaussian", "InverseMultiquadric", "Judgement", "Laplace", "Recipe", "adapt",
    "adapters_of", "add_adapters", "coral", "judge", "load_adapted", "mmd", "recolour", "save_adapted", "standardise",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Names are loaded when they are asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
