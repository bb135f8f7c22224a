"""Repeat a step over time or depth: `solve`, the modules `Flow` and `Equilibrium`, and the `Solution`."""

from residyn.branch import autonomous
from residyn.flow.equilibrium import Equilibrium
from residyn.flow.module import Flow
from residyn.flow.solution import Solution
from residyn.flow.solving import solve
from residyn.gradients.occurrence import Occurrence
from residyn.schemes.event import Event

__all__ = ["Equilibrium", "Event", "Flow", "Occurrence", "Solution", "autonomous", "solve"]
