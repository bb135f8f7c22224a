"""What implicit steps and equilibria are solved with."""

from residyn.roots.base import Root, RootFinder
from residyn.roots.fixed_point import Anderson, FixedPoint

__all__ = ["Anderson", "FixedPoint", "Root", "RootFinder"]
