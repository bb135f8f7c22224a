"""What implicit steps and equilibria are solved with."""

from residyn.roots.anderson import Anderson
from residyn.roots.base import Root, RootFinder
from residyn.roots.broyden import Broyden
from residyn.roots.fixed_point import FixedPoint
from residyn.roots.newton import Newton

__all__ = ["Anderson", "Broyden", "FixedPoint", "Newton", "Root", "RootFinder"]
