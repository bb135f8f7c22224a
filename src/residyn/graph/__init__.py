"""Residual graph networks: diffusion as a step, what depth does to node features, and the anchor that stops it."""

from residyn.analysis.resistance import effective_resistance
from residyn.graph.diffusion import Diffusion
from residyn.graph.laplacian import laplacian
from residyn.graph.measures import dirichlet_energy, rank, rayleigh_quotient
from residyn.graph.neighbours import nearest_neighbours
from residyn.graph.network import GraphConv, ResidualGNN
from residyn.graph.ordering import reorder

__all__ = [
    "Diffusion",
    "GraphConv",
    "ResidualGNN",
    "dirichlet_energy",
    "effective_resistance",
    "laplacian",
    "nearest_neighbours",
    "rank",
    "rayleigh_quotient",
    "reorder",
]
