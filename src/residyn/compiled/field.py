"""A user's field as a graph of tensor operations, traced once and found again: no second solve recompiles.

TorchDynamo traces it and guards what was read on the way (Python numbers, attributes, flags), so that a changed field is
traced anew and never answered from a stale graph. Parameters, buffers, `args` and tensors in closures are inputs of the graph.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import types
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from residyn.branch import Autonomous
from residyn.compiled import columns
from residyn.compiled.build import FAILURES, UntraceableError, reason
from residyn.compiled.columns import Columns, NotByColumnsError
from residyn.schemes.problem import Problem
from residyn.state import Layout

KEPT = 16
"""Traces kept for a field: shapes, dtypes, and modules that one function was made with."""


CHANGES = 6
"""Traces of one field because something it reads in Python changed; each costs a compilation."""


class Trace:
    """A field as a graph, and the programs that were compiled with it.

    Attributes:
        by_columns: Whether the state is held as one tensor a component.
        programs: Compiled programs, by what they are for.
    """

    def __init__(self, graph: fx.GraphModule, t: Tensor, x: Tensor, tensors: list[Tensor], *, columnar: bool) -> None:
        self.graph = graph
        self.programs: dict[Hashable, Any] = {}
        self.shape = x.shape
        self.by_columns = columnar and self._try_columns(t, x, tensors)

    def _try_columns(self, t: Tensor, x: Tensor, tensors: list[Tensor]) -> bool:
        self.by_columns = True
        try:
            with torch.no_grad():
                slopes = self(t.reshape(t.shape[:1]), list(x.unbind(-1)), tensors)
        except (NotByColumnsError, RuntimeError, IndexError, TypeError, ValueError):
            return False
        return len(slopes) == x.shape[-1] and all(k.shape == x.shape[:-1] for k in slopes)

    def leaves(self, x: Tensor) -> list[Tensor]:
        """A state as the programs hold it: its columns, or itself."""
        return list(x.unbind(-1)) if self.by_columns else [x]

    def state(self, leaves: Tensor) -> Tensor:
        """States back from their leaves, stacked `(…, leaves, …)` along the axis before those of a leaf."""
        if not self.by_columns:
            return leaves.squeeze(-1 - len(self.shape))
        return leaves.movedim(-len(self.shape), -1).contiguous()

    def __call__(self, t: Tensor, x: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
        """f(t, x), leaf by leaf; t without axes, or one a sample `(B,)`."""
        if self.by_columns:
            wide = [1] * (len(self.shape) - 2)
            time = Columns([t.reshape(-1, *wide)]) if t.ndim else t
            slopes = columns.run(self.graph, [time, Columns(x), *tensors])
            return [k if k.shape == x[0].shape else k.expand_as(x[0]) for k in slopes]
        time = t.reshape(-1, *[1] * (len(self.shape) - 1)) if t.ndim else t
        return list(self.graph(time, x[0], *tensors))


class _Probe:
    """A call of the field that is traced but never run: it finds the trace that fits, and the tensors the field uses now."""

    def __init__(self) -> None:
        # dynamo keeps its traces by code object: one of our own keeps them apart, and lets them go with this probe
        code = _field.__code__.replace(co_name="field")
        body = types.FunctionType(code, _field.__globals__, "field", None, _field.__closure__)
        self._call = torch.compile(body, backend=self._backend, fullgraph=True, dynamic=False)
        self._captures = 0
        self.settled: Trace | None = None
        self._seen: tuple[_Captured, tuple[Any, ...]] | None = None

    def quietly(self) -> contextlib.AbstractContextManager[None]:
        """Without warnings of torch about itself, the first time."""
        return contextlib.nullcontext() if self._captures else _silence()

    def _backend(self, graph: fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        captured = _Captured(graph)
        self._captures += 1
        # the probe is reached weakly: what dynamo keeps must not keep it alive
        probe = weakref.ref(self)

        def run(*given: Any) -> tuple[Any, ...]:
            owner = probe()
            assert owner is not None  # it is what calls
            owner._seen = (captured, given)
            return captured.stand_ins

        return run

    def __call__(self, f: Any, args: tuple[Any, ...], layout: Layout | None, t: Tensor, x: Tensor) -> tuple[_Captured, Any]:
        self._seen = None
        with torch.enable_grad():  # so that a field that switches it off is seen to do so
            self._call(f, args, layout, t, x)
        if self._seen is None:
            raise UntraceableError("the field was not traced")
        if self._captures > CHANGES:
            raise UntraceableError(
                "f reads Python numbers that change from solve to solve; make them tensors, in `args` or buffers"
            )
        seen, self._seen = self._seen, None
        return seen


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _field(f: Any, args: tuple[Any, ...], layout: Layout | None, t: Tensor, x: Tensor) -> Tensor:
    k: Tensor = f(t, x, *args) if layout is None else layout.pack_slope(f(t, layout.unpack(x), *args))
    return k.clone()  # so that there is an operation to trace in any case


class _Captured:
    """What dynamo found: the graph, and later, once it is known which inputs are t and x, its trace."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        outputs = next(node for node in graph.graph.nodes if node.op == "output").args[0]
        self.outputs = [node.meta.get("example_value") for node in outputs]
        self.stand_ins = tuple(torch.empty(()) if isinstance(value, Tensor) else 0 for value in self.outputs)
        self.trace: Trace | None = None
        self.places: list[int] = []

    def bind(self, given: tuple[Any, ...], t: Tensor, x: Tensor, columnar: bool) -> tuple[Trace, list[Tensor]]:
        """The trace, and the tensors that it wants besides t and x."""
        if self.trace is None:
            self._check()
            self.places = [i for i, item in enumerate(given) if item is not t and item is not x]
            tensors = self._tensors(given)
            at_t, at_x = (next((i for i, item in enumerate(given) if item is own), None) for own in (t, x))

            def call(t: Tensor, x: Tensor, *others: Tensor) -> tuple[Tensor]:
                slots: dict[int | None, Tensor] = dict(zip(self.places, others, strict=True))
                slots.update({at_t: t, at_x: x})
                return (self.graph(*(slots[i] for i in range(len(given))))[0],)

            graph = make_fx(torch.func.functionalize(call, remove="mutations"), tracing_mode="fake")(t, x, *tensors)
            _check(graph)
            self.trace = Trace(graph, t, x, tensors, columnar=columnar)
        return self.trace, self._tensors(given)

    def _check(self) -> None:
        """Refuse what a replayed step would lose."""
        if len(self.outputs) != 1 or not isinstance(self.outputs[0], Tensor):
            raise UntraceableError("f keeps tensors or numbers from call to call, such as a counter of its calls")
        for node in self.graph.graph.nodes:
            if "grad_enabled" in str(node.target) or isinstance(node.target, torch._ops.HigherOrderOperator):
                raise UntraceableError("f switches autograd off or on, or has a gradient of its own, which would be lost")

    def _tensors(self, given: tuple[Any, ...]) -> list[Tensor]:
        tensors = [given[i] for i in self.places]
        for item in tensors:
            if not isinstance(item, Tensor):
                raise UntraceableError(
                    f"f computes with a Python number that changes from call to call, now {item!r}; make it a tensor"
                )
            if item.is_complex():
                raise UntraceableError("f uses complex tensors")
        return tensors


def _check(graph: fx.GraphModule) -> None:
    """Refuse what a replayed graph would get wrong: random numbers, tensors that f writes to, and complex ones."""
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.is_complex():
            raise UntraceableError("f uses complex tensors")
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags:
            raise UntraceableError("f draws random numbers")
        if node.op == "call_function" and "copy_" in str(node.target) and getattr(node.args[0], "op", "") == "placeholder":
            raise UntraceableError("f writes to a tensor of its own, as batch norm in training mode does")


_found: dict[int, tuple[weakref.ref[Any], OrderedDict[Hashable, _Probe | str]]] = {}


def _anchor(f: Any) -> tuple[Any, Hashable]:
    """What a field lives and dies with, and which of its fields it is: a lambda made anew each time is the same field."""
    if isinstance(f, Autonomous):
        owner, which = _anchor(f.branch)
        return owner, ("autonomous", which)
    if inspect.ismethod(f):
        return f.__self__, ("method", id(f.__func__))
    if inspect.isfunction(f):
        held = [cell.cell_contents for cell in f.__closure__ or () if _filled(cell)]
        return f.__code__, tuple(id(item) for item in held if isinstance(item, nn.Module) or callable(item))
    return f, None


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - asked for its error
    except ValueError:
        return False
    return True


def find(problem: Problem, t: Tensor, kind: Hashable, *, columnar: bool) -> tuple[Trace, list[Tensor]]:
    """The trace of a problem's field, and the tensors it uses besides t and x.

    Args:
        problem: The problem.
        t: A time as the field gets it, without axes or `(B, 1, …)`.
        kind: What else keeps traces apart.
        columnar: Whether to try to hold the state by columns.

    Raises:
        UntraceableError: If the field cannot be traced.
    """
    f, x = problem.f, problem.x0.detach()
    owner, which = _anchor(f.f)
    layout = None if f.layout is None else (f.layout.shapes, f.layout.dtypes, f.layout.batched, _structure(f.layout.tree))
    key = (which, kind, tuple(x.shape), x.dtype, t.ndim, layout, _structure(f.args), torch.get_default_dtype())
    traces = _traces(owner)
    probe = traces.get(key)
    if isinstance(probe, str):  # it was tried before
        raise UntraceableError(probe)
    if probe is None:
        before, numbers = f.evaluations, _numbers(f.f)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            f(t if t.ndim else float(t), x)  # what f does wrong it may say in its own words
        f.evaluations = before
        if _numbers(f.f) != numbers:
            traces[key] = "f keeps numbers from call to call, such as a counter of its calls"
            raise UntraceableError(traces[key])
        probe = traces[key] = _Probe()
    traces.move_to_end(key)
    if probe.settled is not None and _reads_torch_only(f.f) and not f.args:
        return probe.settled, []
    while len(traces) > KEPT:
        traces.popitem(last=False)
    try:
        with probe.quietly():
            captured, given = probe(f.f, f.args, f.layout, t, x)
            trace, tensors = captured.bind(given, t, x, columnar)
            probe.settled = trace if not tensors and layout is None else None
            return trace, tensors
    except UntraceableError as error:
        traces[key] = str(error)
        raise
    except FAILURES as error:
        traces[key] = reason(error)
        raise UntraceableError(reason(error)) from error


def _reads_torch_only(f: Any) -> bool:
    """Whether a field is a plain function of its arguments and of torch: nothing it reads can change, and no guard is asked."""
    if not inspect.isfunction(f) or f.__closure__ or f.__defaults__ or f.__kwdefaults__:
        return False
    return all(f.__globals__.get(name) is torch for name in _globals_of(f.__code__))


@functools.lru_cache(maxsize=256)
def _globals_of(code: types.CodeType) -> tuple[str, ...]:
    """The global names that a function reads; functions within it, and imports, count as one that is never torch."""
    if any(isinstance(item, types.CodeType) for item in code.co_consts):
        return ("",)
    steps = dis.get_instructions(code)
    names = {str(s.argval) if s.opname == "LOAD_GLOBAL" else "" for s in steps if "GLOBAL" in s.opname or "IMPORT" in s.opname}
    return tuple(names)


def _numbers(f: Any) -> list[Any]:
    """The Python numbers that a field, or a part of it, holds."""
    owner = _anchor(f)[0]
    parts = list(owner.modules()) if isinstance(owner, nn.Module) else [owner]
    return [item for part in parts for item in getattr(part, "__dict__", {}).values() if isinstance(item, (int, float))]


def _traces(owner: Any) -> OrderedDict[Hashable, _Probe | str]:
    number = id(owner)
    if number in _found and _found[number][0]() is owner:
        return _found[number][1]
    try:
        ref = weakref.ref(owner, lambda _: _found.pop(number, None))
    except TypeError:
        raise UntraceableError(
            f"f is a {type(owner).__name__}, which cannot be told from others; make it a function or a module"
        ) from None
    _found[number] = (ref, OrderedDict())
    return _found[number][1]


def _structure(tree: Any) -> Hashable:
    if isinstance(tree, dict):
        return tuple((key, _structure(item)) for key, item in tree.items())
    if isinstance(tree, Tensor):
        return tuple(tree.shape)
    return tuple(map(_structure, tree)) if isinstance(tree, (tuple, list)) else None
