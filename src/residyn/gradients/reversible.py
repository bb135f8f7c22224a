"""The exact gradient from the last state alone: a reversible scheme is run backwards, step by step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from residyn.errors import InputError, ResidynWarning
from residyn.gradients.backprop import Backprop
from residyn.gradients.base import GradientMode
from residyn.gradients.dependence import Dependence, find_dependence
from residyn.gradients.invertible import REFUSE, InvertibleBlock, chained
from residyn.roots.differentiate import only_once
from residyn.schemes.problem import Outputs, Taken, value
from residyn.schemes.reversible import Invertible
from residyn.state import inside_transform

if TYPE_CHECKING:
    from residyn.schemes.problem import Leg, Problem


@dataclass(frozen=True)
class Reversible(GradientMode):
    """Reconstruct each state from the one after it, and pull the gradient through that one step.

    The gradient is that of the steps as they were taken; memory is the last state and the graph of one step, however many
    steps there are. It is as exact as the reconstruction. That is measured: at every reported time and at the start the state
    found on the way back is compared with the one that was there; a relative error above `tol` warns, one above 0.1 refuses.
    In a `Stack` it is the blocks that must know their inverse, as `nets.Coupling` does.

    Args:
        tol: Relative reconstruction error, in the norm of the whole state, from which on to warn; 1e-6 in double and 1e-3 in
            single precision if not given.

    Raises:
        InputError: If `tol` breaks its rule; on use, if the scheme is not reversible, samples have steps of their own, or the
            way back has lost the state.

    Reference:
        Kidger, Foster, Li & Lyons (2021), "Efficient and Accurate Gradients for Neural SDEs", arXiv:2105.13493; McCallum &
        Foster (2024), arXiv:2410.11648.

    >>> Reversible(tol=1e-5)
    Reversible(tol=1e-05)
    """

    tol: float | None = None

    def __post_init__(self) -> None:
        if self.tol is not None and not 0 < self.tol < 1:
            raise InputError(f"`tol` must lie in (0, 1), got {self.tol!r}; 1e-6 is usual in double precision")

    def march(self, problem: Problem) -> Tensor:
        """Run the march without a graph, keeping its last state and the times of its steps."""
        if not isinstance(problem.scheme, Invertible):
            raise InputError(
                f"`gradient` Reversible needs a scheme that runs backwards, got {problem.scheme!r}; use "
                f"scheme=CoupledReversible(...), or gradient=Replay()"
            )
        if isinstance(problem.times[0], Tensor):
            raise InputError(
                "`gradient` Reversible needs steps that all samples share, got steps a sample; use gradient=Replay()"
            )
        if not torch.is_grad_enabled() or inside_transform():
            return Backprop().march(problem)
        outputs = Outputs(problem, problem.x0)
        used = find_dependence(problem, problem.x0)
        tape = _Tape(problem, used, problem.march(problem.x0), outputs, self._tolerance(problem.x0))
        reported = _Reversed.apply(tape, problem.x0, *used.tensors)  # type: ignore[no-untyped-call]
        outputs.values[1:] = list(reported.unbind())
        return outputs.stack()

    def chain(self, blocks: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        """Run blocks, keeping the input and the output of all of them; on the way back each is inverted.

        Raises:
            InputError: If a block is not one that knows its inverse, or draws random numbers; on the way back, if a state is
                lost.
        """
        known = [block for block in blocks if isinstance(block, InvertibleBlock)]
        if len(known) < len(blocks):
            other = next(block for block in blocks if not isinstance(block, InvertibleBlock))
            raise InputError(
                "`gradient` Reversible needs blocks that know their inverse (gradients.InvertibleBlock, as nets.Coupling is), "
                f"got {type(other).__name__}; use Checkpoint(), or nets.ReversibleStack, which couples any branches"
            )
        if not torch.is_grad_enabled() or inside_transform():
            return Backprop().chain(blocks, x)
        return chained(known, x, self._tolerance(x))

    def _tolerance(self, x: Tensor) -> float:
        if self.tol is not None:
            return self.tol
        return 1e-6 if x.dtype in (torch.float64, torch.complex128) else 1e-3


@dataclass
class _Tape:
    """What the way back needs: the times of the steps, and the last state."""

    problem: Problem
    used: Dependence
    march: Iterator[Taken] | None
    outputs: Outputs
    tol: float
    legs: list[Leg] = field(default_factory=list)
    end: tuple[Tensor, Any] | None = None
    worst: float = 0.0
    warned: bool = False

    def compare(self, found: Tensor, there: Tensor, t: float) -> None:
        """Hold a reconstructed state against the one that was there.

        Raises:
            InputError: If it is lost.
        """
        error = float(torch.linalg.vector_norm(found - there) / (torch.linalg.vector_norm(there) + 1e-300))
        self.worst = error if math.isnan(error) else max(self.worst, error)
        told = (
            f"run backwards over {len(self.legs)} steps, {self.problem.scheme!r} came to a state {error:.1e} from the one that "
            f"was there at t = {t:.6g} (relative; tolerance {self.tol:.0e})"
        )
        fix = "use gradient=Replay() or Checkpoint(), fewer steps, a larger `coupling`, or double precision"
        if not error <= REFUSE:
            raise InputError(f"`gradient` Reversible must be able to reconstruct the states: {told}; {fix}")
        if error > self.tol and not self.warned:
            self.warned = True
            warnings.warn(f"{told}: the gradient is about that accurate; {fix}", ResidynWarning, stacklevel=2)


class _Reversed(torch.autograd.Function):
    """A march as one node: all values it reports after the first."""

    @staticmethod
    def forward(ctx: Any, tape: _Tape, x: Tensor, *tensors: Tensor) -> Tensor:
        outputs = tape.outputs
        state: Any = None
        last = x
        assert tape.march is not None
        for leg, _, x1, step, _ in tape.march:
            tape.legs.append(leg)
            outputs.add(leg, [value(report, step, x1) for report in leg.reports])
            last, state = x1, step.state
        tape.march = None
        tape.end = (last, state)
        ctx.tape = tape
        values = outputs.values[1:]
        result = torch.stack(values) if values else x.new_zeros(0, *x.shape)
        ctx.save_for_backward(x, result)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            pulled = _Reversed._pull_back(ctx, grad)
        words = "got Reversible(), whose graph is gone; use gradient=Backprop() or Checkpoint()"
        origin = (grad, ctx.saved_tensors[0])
        return (None, *(None if item is None else only_once(item, origin, words) for item in pulled))

    @staticmethod
    def _pull_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tape: _Tape = ctx.tape
        x0, reported = ctx.saved_tensors
        totals: list[Tensor | None] = [None] * len(tape.used.tensors)
        if tape.end is None or not tape.legs:
            return (torch.zeros_like(x0), *totals)
        x, state = tape.end
        flow = (torch.zeros_like(x), torch.zeros_like(x))
        end = len(grad)
        with tape.used.detached() as stand_ins:
            for leg in reversed(tape.legs):
                if leg.reports and leg.reports[-1].theta == 1.0 and end < len(grad):
                    tape.compare(x, reported[end - 1], float(leg.t1))
                x, state = _back(tape.problem, leg, x, state)
                flow, end = _pull(tape, leg, (x, state), flow, grad, end, stand_ins, totals)
        tape.compare(x, x0, float(tape.problem.times[0]))
        # at the start the copy is x itself
        return (flow[0] + flow[1], *totals)


@torch.no_grad()
def _back(problem: Problem, leg: Leg, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    assert isinstance(problem.scheme, Invertible)
    return problem.scheme.back(problem.f, leg.t0, leg.t1, x, state)


def _pull(
    tape: _Tape,
    leg: Leg,
    start: tuple[Tensor, Tensor],
    flow: tuple[Tensor, Tensor],
    grad: Tensor,
    end: int,
    stand_ins: list[Tensor],
    totals: list[Tensor | None],
) -> tuple[tuple[Tensor, Tensor], int]:
    """Pull the gradient of the pair (x, z) at the end of a leg back to its start, and add to the parameters' totals."""
    x, z = (item.detach().requires_grad_() for item in start)
    with torch.enable_grad():
        x1, z1, values = tape.problem.take(leg, x, z)
    ends, weights = [x1, z1], list(flow)
    for item in reversed(values):
        end -= 1
        if item is x1:
            weights[0] = weights[0] + grad[end]
        else:
            ends.append(item)
            weights.append(grad[end])
    inputs = [x, z, *stand_ins]
    for item in ends:
        tape.used.check(item, inputs, lambda: tape.problem.take(leg, x, z)[0])
    pulled = torch.autograd.grad(ends, inputs, weights, allow_unused=True, retain_graph=tape.used.shares_graph)
    for j, item in enumerate(pulled[2:]):
        if item is not None:
            so_far = totals[j]
            totals[j] = item.clone() if so_far is None else so_far.add_(item)
    back = [torch.zeros_like(x) if item is None else item for item in pulled[:2]]
    return (back[0], back[1]), end
