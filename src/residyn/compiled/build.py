"""From a loop written in tensors to machine code: `torch._higher_order_ops.while_loop`, or its body alone, through inductor."""

from __future__ import annotations

import contextlib
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

Tensors = tuple[Tensor, ...]

OPTIONS = {"cpp_wrapper": True}  # the loop itself in C++ too: a Python wrapper costs more an iteration than the step does


class UntraceableError(Exception):
    """The field, or a program made with it, could not be compiled; the text says why."""


FAILURES = (
    RuntimeError, TypeError, AttributeError, AssertionError, LookupError, ValueError, OSError, ImportError, SyntaxError,
    subprocess.SubprocessError,
)  # fmt: skip
"""What tracing and compiling raise when they cannot: a torch too old, a field they do not know, a compiler not there."""


def reason(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


_compilers: set[Any] = set()


def has_compiler() -> bool:
    """Whether there is a C++ compiler that inductor would use; one that was found is not looked for again."""
    from torch._inductor import config
    from torch._inductor.cpp_builder import get_cpp_compiler

    wanted = config.cpp.cxx
    if wanted in _compilers:
        return True
    try:
        found = bool(get_cpp_compiler())
    except (RuntimeError, OSError, subprocess.SubprocessError):
        return False
    if found:
        _compilers.add(wanted)
    return found


compilations = 0
"""How many programs this process has handed to the compiler."""


def compile_program(function: Callable[..., Tensors], example: Tensors) -> Callable[..., Tensors]:
    """A function of tensors, compiled for tensors like these.

    Raises:
        UntraceableError: If it cannot be.
    """
    global compilations  # noqa: PLW0603 - a count for tests and for the curious
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself, while it compiles
            graph = make_fx(function, tracing_mode="fake")(*example)
            compilations += 1
            with _lean_bodies():
                return torch._inductor.compile(graph, list(example), options=dict(OPTIONS))
    except FAILURES as error:
        raise UntraceableError(reason(error)) from error


@contextlib.contextmanager
def _lean_bodies() -> Iterator[None]:
    """Within, inductor allocates nothing in the body of a loop for what a fused kernel holds in registers.

    It knows which buffers those are and leaves them out of a plain graph; for a subgraph it does not tell the graph around it,
    which plans the memory, and each round of the loop pays for a dozen tensors that nobody reads (torch 2.13).
    """
    from torch._inductor.graph import GraphLowering

    plain = getattr(GraphLowering, "codegen_subgraph", None)
    if plain is None:  # another torch, which may do it in another way
        yield
        return

    def lean(self: Any, parent_graph: Any) -> None:
        plain(self, parent_graph)
        parent_graph.removed_buffers |= self.removed_buffers

    GraphLowering.codegen_subgraph = lean  # type: ignore[method-assign]
    try:
        yield
    finally:
        GraphLowering.codegen_subgraph = plain  # type: ignore[method-assign]


@dataclass
class Loop:
    """A loop over tensors: `carry = prepare(*start, *given)`, then `carry = body(*carry, *given)` while `more(*carry, *given)`.

    With `whole` it is one `while_loop`, compiled; otherwise the body is, and Python goes round.

    Args:
        more: Whether to go on: a flag without axes.
        body: The next carry; it may write into the tensors of `given` whose places are in `written`.
        whole: Which of the two.
        written: Places, counted from the first of the carry.
        prepare: From what is handed in to a carry of as many tensors.
    """

    more: Callable[..., Tensor]
    body: Callable[..., Tensors]
    whole: bool
    written: tuple[int, ...] = ()
    prepare: Callable[..., Tensors] | None = None
    _program: Callable[..., Tensors] | None = field(default=None, init=False)

    def __call__(self, start: Tensors, given: Tensors) -> Tensors:
        """The carry at the end; the first call compiles."""
        count = len(start)
        if self.whole:
            if self._program is None:
                self._program = compile_program(self._loop(count), (*start, *given))
            return tuple(self._program(*start, *given))
        carry = start if self.prepare is None else self.prepare(*start, *given)
        if self._program is None:
            self._program = compile_program(self._step(count), (*carry, *given))
        go = bool(self.more(*carry, *given))
        while go:
            *after, flag = self._program(*carry, *given)
            carry, go = tuple(after), bool(flag)
        return carry

    def _step(self, count: int) -> Callable[..., Tensors]:
        def step(*tensors: Tensor) -> Tensors:
            carry, given = tensors[:count], tensors[count:]
            after = self.body(*carry, *given)
            return (*after, self.more(*after, *given))

        return step

    def _loop(self, count: int) -> Callable[..., Tensors]:
        from torch._higher_order_ops.while_loop import while_loop_op

        written: dict[str, Any] = {"mutated_arg_indices": ",".join(map(str, self.written))} if self.written else {}

        def loop(*tensors: Tensor) -> Tensors:
            start, given = tensors[:count], tensors[count:]
            carry = tuple(s.clone() for s in (start if self.prepare is None else self.prepare(*start, *given)))
            # traced ahead, so that a gradient taken in the body is plain arithmetic by the time the loop sees it
            body = make_fx(self.body, tracing_mode="fake")(*carry, *given)
            result: Tensors = while_loop_op(self.more, body, carry, given, **written)  # type: ignore[arg-type]
            return result

        return loop
