"""Disulfide bonds as long-range shortcuts: read a protein, find its bonds, and what closing loops costs and gains."""

from residyn.protein.bonds import Disulfide, find_disulfides
from residyn.protein.entropy import loop_entropy
from residyn.protein.reading import read
from residyn.protein.structure import Residue, Structure

__all__ = ["Disulfide", "Residue", "Structure", "find_disulfides", "loop_entropy", "read"]
