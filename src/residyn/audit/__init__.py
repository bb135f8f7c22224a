"""Any torch model: find its residual blocks, measure them, judge, retrofit.

The package is a function as well: `residyn.audit(model, x)` is `residyn.audit.audit(model, x)`.
"""

import sys
import types

from residyn.audit.auditing import Audit, ModelError, audit
from residyn.audit.blocks import Block, Measured

__all__ = ["Audit", "Block", "Measured", "ModelError", "audit"]


class _Callable(types.ModuleType):
    __call__ = staticmethod(audit)


sys.modules[__name__].__class__ = _Callable
