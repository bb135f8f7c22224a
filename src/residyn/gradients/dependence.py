"""Which tensors a field depends on, so that a gradient mode that runs outside autograd can return gradients to all of them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError

if TYPE_CHECKING:
    from residyn.schemes.problem import Problem


@dataclass
class Dependence:
    """What a field depends on besides t and x.

    Args:
        problem: The march it is about.
        tensors: Tensors that want a gradient: those in `args` first, then parameters and what closures hold.
        in_args: How many of them come from `args`.
        shares_graph: Whether f uses tensors that were computed from leaves before the call, whose graph is walked many times.
        random: Whether f draws random numbers.
        precision: Autocast, as it was when the march began.
    """

    problem: Problem
    tensors: list[Tensor] = field(default_factory=list)
    in_args: int = 0
    shares_graph: bool = False
    random: bool = False
    precision: Precision = field(init=False)

    def __post_init__(self) -> None:
        self.precision = Precision(self.problem.x0.device.type)

    @contextlib.contextmanager
    def detached(self) -> Iterator[list[Tensor]]:
        """Within, `args` are stand-ins cut from the graph they came from, and autocast is what it was on the way forward.

        Yields the tensors to differentiate by.
        """
        f = self.problem.f
        kept = f.args
        stand_ins = [tensor.detach().requires_grad_() for tensor in self.tensors[: self.in_args]]
        queue = iter(stand_ins)
        f.args = _map_tensors(kept, lambda tensor: next(queue) if tensor.requires_grad else tensor)
        try:
            with self.precision.again():
                yield [*stand_ins, *self.tensors[self.in_args :]]
        finally:
            f.args = kept

    def check(self, x1: Tensor, inputs: list[Tensor], again: Callable[[], Tensor]) -> None:
        """See that a step used no tensor that was not found before the march; a gradient would be missing, silently.

        Args:
            x1: What the step came to.
            inputs: What is known.
            again: Takes the step once more. A tensor that f or the scheme makes anew each time, as one does that differentiates
                on its way, is nobody's to differentiate by, and is then another.

        Raises:
            InputError: If it did.
        """
        known = {id(tensor) for tensor in [*inputs, *self.tensors[self.in_args :]]}
        strange = [leaf for leaf in leaves_of(x1) if id(leaf) not in known and not hasattr(leaf, "made_by_the_step")]
        if not strange:
            return
        with torch.enable_grad():
            others = {id(leaf) for leaf in leaves_of(again())}
        for leaf in strange:
            if id(leaf) in others:
                raise InputError(
                    f"`f` must use the same tensors at every time, got one of shape {tuple(leaf.shape)} that it did not use at "
                    "t[0]; hand it over in `args`, make f an nn.Module with it as a parameter, or use gradient=Checkpoint()"
                )


def find_dependence(problem: Problem, x: Tensor) -> Dependence:
    """Find every tensor that f uses and that wants a gradient: in `args`, as a parameter, in a closure, in its graph."""
    f = problem.f.f
    found = Dependence(problem)
    _map_tensors(problem.f.args, lambda tensor: found.tensors.append(tensor) if tensor.requires_grad else None)
    found.in_args = len(found.tensors)
    seen: set[int] = set()  # what is in `args` may be in a closure too, and counts again there
    for module in _modules(f, *problem.scheme.callables()):
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.requires_grad and tensor.is_leaf and id(tensor) not in seen:
                seen.add(id(tensor))
                found.tensors.append(tensor)
    dice = Dice(x.device)
    stand_in = x.detach().requires_grad_()
    with found.detached() as cut, torch.enable_grad():
        slope = problem.f(problem.legs[-1].t1 if problem.legs else problem.times[0], stand_in)
    cut_ids = {id(tensor) for tensor in cut} | {id(stand_in)}
    for leaf in leaves_of(slope):
        if id(leaf) not in seen and id(leaf) not in cut_ids:
            seen.add(id(leaf))
            found.tensors.append(leaf)
            found.shares_graph = True
    problem.f.evaluations -= 1  # it is no part of the march
    found.random = dice.rolled()
    if found.random:
        dice.restore()
    return found


class Precision:
    """Whether autocast is on, and to what dtype, on the CPU and on the device of the state."""

    def __init__(self, device: str) -> None:
        self.devices = {
            kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in sorted({"cpu", device})
            if torch.amp.is_autocast_available(kind)
        }

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """As it was, where it is another now; casts are not shared between calls, whose graphs end one by one."""
        with contextlib.ExitStack() as stack:
            for kind, (enabled, dtype) in self.devices.items():
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False))
            yield


class Dice:
    """The state of torch's random numbers, on the CPU and on the device of the state."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.states = self._read()

    def _read(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else states

    def rolled(self) -> bool:
        """Whether numbers were drawn since."""
        return not all(map(torch.equal, self.states, self._read()))

    def restore(self) -> None:
        """Draw the same numbers again."""
        torch.set_rng_state(self.states[0])
        if len(self.states) > 1:
            torch.cuda.set_rng_state(self.states[1], self.device)


def _modules(*callables: Callable[..., Any]) -> Iterator[nn.Module]:
    """The modules that callables are, are bound to, wrap, or hold in their closures."""
    todo: list[Any] = list(reversed(callables))
    seen: set[int] = set()
    while todo:
        item: Any = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            yield item
            # a module may hold a plain callable, as `autonomous` does
            todo += [value for value in vars(item).values() if callable(value) and not isinstance(value, type)]
        elif isinstance(item, functools.partial):
            todo += [item.func, *item.args, *item.keywords.values()]
        elif callable(item):
            todo += [cell.cell_contents for cell in getattr(item, "__closure__", None) or () if _filled(cell)]
            todo.append(getattr(item, "__self__", None))
            todo.append(getattr(item, "__wrapped__", None))


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is bound later
        return False


def leaves_of(tensor: Tensor) -> Iterator[Tensor]:
    """The leaves from which autograd would say a tensor was computed."""
    if tensor.grad_fn is None:
        if tensor.requires_grad:
            yield tensor
        return
    todo, seen = [tensor.grad_fn], {tensor.grad_fn}
    while todo:
        node = todo.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable
        for upstream, _ in node.next_functions:
            if upstream is not None and upstream not in seen:
                seen.add(upstream)
                todo.append(upstream)


def _map_tensors(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """A structure of tuples, lists and dicts with `change` applied to its tensors, other things kept."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _map_tensors(item, change) for key, item in tree.items()}
    if isinstance(tree, (tuple, list)):
        items = [_map_tensors(item, change) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return tree
