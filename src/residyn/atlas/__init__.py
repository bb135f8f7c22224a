"""The atlas: systems that are one residual step under different names, each run on real data beside its theory."""

from residyn.atlas.catalog import ENTRIES, Entry
from residyn.atlas.context import Context
from residyn.atlas.runner import Interrupted, run
from residyn.atlas.single import Progress
from residyn.atlas.store import Store

__all__ = ["ENTRIES", "Context", "Entry", "Interrupted", "Progress", "Store", "run"]
