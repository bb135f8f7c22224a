"""What a gradient mode is: how the steps are run so that a gradient can come back through them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from residyn.errors import InputError

if TYPE_CHECKING:
    from residyn.schemes.problem import Problem


class GradientMode(abc.ABC):
    """How a gradient comes back through steps: through a march (`solve`, `Flow`), and through a chain of blocks (`Stack`)."""

    @abc.abstractmethod
    def march(self, problem: Problem) -> Tensor:
        """Run the march and return the reported states, `(n, *shape)`; fewer if `problem.outcome` is a failure."""

    def chain(self, blocks: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        """Run blocks one after the other.

        Raises:
            InputError: If this mode has no meaning for a chain.
        """
        raise InputError(
            f"`gradient` of a Stack must be Backprop(), Checkpoint() or Reversible(), got {self!r}, which needs a march"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
