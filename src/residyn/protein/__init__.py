"""Disulfide bonds as long-range shortcuts: read a protein, find its bonds, score those that could be made, and their loops."""

from residyn.protein.bonds import Disulfide, find_disulfides
from residyn.protein.entropy import loop_entropy
from residyn.protein.mutation import mutate
from residyn.protein.network import anm, gnm
from residyn.protein.reading import read
from residyn.protein.samples import sample
from residyn.protein.scanning import scan
from residyn.protein.shortcuts import shortcut
from residyn.protein.structure import Residue, Structure
from residyn.protein.table import Candidate, Scan

__all__ = [
    "Candidate",
    "Disulfide",
    "Residue",
    "Scan",
    "Structure",
    "anm",
    "find_disulfides",
    "gnm",
    "loop_entropy",
    "mutate",
    "read",
    "sample",
    "scan",
    "shortcut",
]
