"""Any torch model: find its residual blocks, measure them, judge, retrofit.

The package is a function as well: `residyn.audit(model, x)` is `residyn.audit.audit(model, x)`. Nothing is loaded before a name
is used, so that `residyn explain RD104` needs no torch.
"""

import importlib
import importlib.util
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residyn.audit.auditing import Audit, ModelError, audit
    from residyn.audit.blocks import Block, Measured
    from residyn.audit.codes import CODES, Code
    from residyn.audit.judge import Check
    from residyn.audit.prune import Pruned
    from residyn.audit.retrofit import Change, Retrofit

__all__ = [
    "CODES", "Audit", "Block", "Change", "Check", "Code", "Measured", "ModelError", "Pruned", "Retrofit", "audit",
]  # fmt: skip
_HOME = {
    "CODES": "codes", "Code": "codes", "Audit": "auditing", "ModelError": "auditing", "audit": "auditing", "Block": "blocks",
    "Measured": "blocks", "Check": "judge", "Pruned": "prune", "Change": "retrofit", "Retrofit": "retrofit",
}  # fmt: skip


class _Callable(types.ModuleType):
    """A package that is called as the function of its name."""

    def __call__(self, model: Any, *inputs: Any, targets: Any = None, budget: float | None = None, **kwargs: Any) -> "Audit":
        """`residyn.audit.audit`."""
        from residyn.audit.auditing import audit

        return audit(model, *inputs, targets=targets, budget=budget, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME and importlib.util.find_spec(f"residyn.audit.{name}") is not None:
            return importlib.import_module(f"residyn.audit.{name}")
        if name not in _HOME:
            raise AttributeError(f"module 'residyn.audit' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"residyn.audit.{_HOME[name]}"), name)
        setattr(self, name, value)
        return value


sys.modules[__name__].__class__ = _Callable
