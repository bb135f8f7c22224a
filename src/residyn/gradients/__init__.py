"""How a gradient comes back through steps."""

from residyn.gradients.adjoint import Adjoint
from residyn.gradients.backprop import Backprop
from residyn.gradients.base import GradientMode
from residyn.gradients.checkpoint import Checkpoint
from residyn.gradients.implicit import Implicit
from residyn.gradients.invertible import InvertibleBlock
from residyn.gradients.replay import Replay
from residyn.gradients.reversible import Reversible

__all__ = ["Adjoint", "Backprop", "Checkpoint", "GradientMode", "Implicit", "InvertibleBlock", "Replay", "Reversible"]
