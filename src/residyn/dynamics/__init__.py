"""Learn a system from its trajectories: the derivative, or the flow map, and which of the two the data call for."""

from residyn.dynamics.fitting import fit
from residyn.dynamics.model import Model
from residyn.dynamics.reading import read_csv
from residyn.dynamics.trajectories import Trajectories

__all__ = ["Model", "Trajectories", "fit", "read_csv"]
