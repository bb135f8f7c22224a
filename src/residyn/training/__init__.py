"""The one trainer: any model and loss, one process or many, and a run that a kill does not cost."""

from residyn.training.plan import Plan
from residyn.training.progress import Line, Moment
from residyn.training.storage import load_weights, save_weights
from residyn.training.trainer import History, Trainer

__all__ = ["History", "Line", "Moment", "Plan", "Trainer", "load_weights", "save_weights"]
