"""Stochastic depth on any model: blocks that the audit finds are dropped at random in training, and then not computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from residyn import audit
from residyn.audit.absent import replaced
from residyn.audit.auditing import Audit
from residyn.audit.endings import Ending, endings, lost
from residyn.audit.patching import patched
from residyn.audit.prune import absentees
from residyn.audit.trace import tensors
from residyn.errors import InputError
from residyn.nets.resnet import survival
from residyn.step import Residual

Mode = Literal["block", "row", "kept"]
_HOME = "_residyn_gates"


def stochastic_depth(
    model: nn.Module,
    rate: float,
    schedule: Literal["linear", "uniform"] = "linear",
    *,
    inputs: Sequence[Any] | None = None,
    mode: Mode = "block",
) -> nn.Module:
    """Drop residual blocks at random in training: x⁺ = x + (b_l/p_l)·F_l(x), b_l ~ Bernoulli(p_l); evaluation is as ever.

    The expectation of a step in training is then the step of evaluation. Blocks are those that `residyn.audit` finds, in the
    order in which they run, and p_l = 1 - (l/L)·rate ("linear") or 1 - rate ("uniform"). The model is changed in place and
    keeps its parameters and their names; a second call replaces the first one, and a rate of 0 takes it back.

    - `"block"`: one gate a block and batch; a dropped block is not computed. Under DDP, where every process must have a
      gradient for every parameter, use `"row"`.
    - `"row"`: one gate a block and sample; all is computed, and what is dropped counts as 0.
    - `"kept"`: one gate a block and sample; the branch is computed on the samples that keep it only.

    A branch that does not end at a module of its own is dropped by what its sum returns, and is computed all the same
    (`gates(model).computed` names them).

    Args:
        model: Any module; its first argument is a batch, `(B, …)`.
        rate: Drop probability of the last block, in [0, 1).
        schedule: `"linear"`, as early blocks make what later ones need, or `"uniform"`.
        inputs: What the model is called with, for the audit; if not given, a model of `Residual` blocks is changed as it is,
            and any other one when it is first called, with what it is called with (two samples at least).
        mode: As above.

    Returns:
        The model.

    Raises:
        InputError: If an argument breaks its rule, or the model has no residual block.

    Reference:
        Huang, Sun, Liu, Sedra & Weinberger (2016), doi:10.1007/978-3-319-46493-0_39.

    >>> from residyn.nets import MLP, ResNet
    >>> net = ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(4)], nn.Linear(8, 2))
    >>> gates(stochastic_depth(net, 0.5)).keep
    [0.875, 0.75, 0.625, 0.5]
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"`model` must be a torch module, got {type(model).__name__}")
    survival(1, rate, schedule)  # its checks
    if mode not in get_args(Mode):
        raise InputError(f'`mode` must be "block", "row" or "kept", got {mode!r}; "block" saves the most')
    before = model.__dict__.get(_HOME)
    if before is not None:
        before.remove()
    if rate == 0:
        return model
    found = Gates(model, rate, schedule, mode)
    model.__dict__[_HOME] = found
    try:
        if inputs is not None:
            found.install(tuple(inputs), {})
        elif any(isinstance(module, Residual) for module in model.modules()):
            found.install_residuals()
        found.watch()
    except InputError:
        found.remove()
        raise
    return model


def gates(model: nn.Module) -> Gates:
    """The gates of a model with stochastic depth.

    Args:
        model: The model.

    Returns:
        They.

    Raises:
        InputError: If it has none.
    """
    found: Gates | None = model.__dict__.get(_HOME)
    if found is None:
        raise InputError("`model` must have stochastic depth, got one without; call stochastic_depth(model, rate) first")
    return found


class Gates:
    """Which blocks take part in a pass: drawn anew when the model is called in training, all of them in evaluation.

    Args:
        model: The model.
        rate: As in `stochastic_depth`.
        schedule: As there.
        mode: As there.

    Attributes:
        names: The blocks.
        keep: Survival probability of each.
        computed: Blocks whose branch is computed though it is dropped.
        drawn: Passes in training so far, and `dropped`: how many blocks they dropped in all, a sample counting as its share.
    """

    def __init__(self, model: nn.Module, rate: float, schedule: Literal["linear", "uniform"], mode: Mode) -> None:
        self.model, self.rate, self.schedule, self.mode = model, rate, schedule, mode
        self.names: list[str] = []
        self.keep: list[float] = []
        self.computed: list[str] = []
        self.drawn, self.dropped = 0, 0.0
        self._out: set[int] = set()
        self._open: Tensor | None = None
        self._hung: list[tuple[nn.Module, Any]] = []
        self._hooks: list[Any] = []
        self._ready = self._busy = False

    def remove(self) -> None:
        """Make the model what it was."""
        while self._hooks:
            self._hooks.pop().remove()
        while self._hung:
            module, before = self._hung.pop()
            module.__dict__.pop("forward", None)
            if before is not None:
                module.__dict__["forward"] = before
        self.model.__dict__.pop(_HOME, None)

    @contextmanager
    def without(self, blocks: Sequence[int]) -> Iterator[None]:
        """While this lasts, some blocks are left out of every pass, in evaluation too.

        Args:
            blocks: Their numbers.
        """
        before, self._out = self._out, set(blocks)
        try:
            yield
        finally:
            self._out = before

    # -- what a block asks ------------------------------------------------------------------------------------------------

    def factor(self, block: int) -> float | Tensor:
        """What a block's branch is multiplied by: 0 if it is dropped, 1/p if it is kept; `(B,)` where samples differ."""
        if block in self._out:
            return 0.0
        if self._open is None:
            return 1.0
        gate = self._open[block]
        return (float(gate) if gate.ndim == 0 else gate) / self.keep[block]

    def rows(self, block: int) -> Tensor | None:
        """The samples that a block is computed on: none, some, or (`None`) all."""
        factor = self.factor(block)
        if isinstance(factor, Tensor):
            return factor.nonzero().flatten() if self.mode == "kept" else None
        return torch.empty(0, dtype=torch.int64) if factor == 0.0 else None

    # -- how they get there -----------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Draw when the model is called, and find its blocks then if they are not known."""
        self._hooks.append(self.model.register_forward_pre_hook(self._called, with_kwargs=True))

    def _called(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._busy:
            return
        if not self._ready:
            self._busy = True
            try:
                self.install(args, kwargs)
            finally:
                self._busy = False
        self._open = None
        if model.training:
            first = next(tensors((args, kwargs)), None)
            size = 1 if first is None or first.ndim == 0 else len(first)
            keep = torch.tensor(self.keep)
            if self.mode == "block":
                self._open = (torch.rand(len(keep)) < keep).float()  # drawn on the CPU: no device is asked to wait
            else:
                self._open = (torch.rand(len(keep), size) < keep[:, None]).float()
            self.drawn += 1
            self.dropped += float((1 - self._open).sum()) / (1 if self.mode == "block" else size)

    def _found(self, names: list[str]) -> None:
        if not names:
            raise InputError(
                "`model` must have a residual block x + F(x), got none; audit(model, x).others says what was no block"
            )
        self.names, self.keep, self._ready = names, survival(len(names), self.rate, self.schedule), True

    def install_residuals(self) -> None:
        """At each `Residual` of the model."""
        blocks = {name: module for name, module in self.model.named_modules() if isinstance(module, Residual)}
        self._found(list(blocks))
        for i, block in enumerate(blocks.values()):
            self._hang(block, _Step(self, i, block))

    def install(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """At each block that an audit of the model on some inputs finds."""
        model = self.model
        seen = audit.audit(model, *args, budget=0, **kwargs)
        self._found([block.name for block in seen.blocks])
        ends = _ends(seen)
        known = [block for block in seen.blocks if block.name in ends]
        absent = absentees(seen, known) if known else {}
        for i, (block, found) in enumerate(zip(seen.blocks, seen.sums, strict=True)):
            if block.name not in ends:
                self.computed.append(block.name)
                continue
            paths = [seen.graph.calls[call].path for call in lost(seen.graph, [found])]
            for path in dict.fromkeys(paths):
                if path in absent:
                    module = model.get_submodule(path)
                    self._hang(module, _Branch(self, i, module.forward, absent[path]))
            for end in ends[block.name]:
                self._hooks.append(model.get_submodule(end.module).register_forward_hook(_Scaled(self, i, end.place)))
        if self.computed:
            left = [(i, b.keys, len(b.shape)) for i, b in enumerate(seen.blocks) if b.name in self.computed]
            self._hang(model, _Patched(self, model.forward, left, model, seen.below))

    def _hang(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._hung.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = forward


def _ends(seen: Audit) -> dict[str, list[Ending]]:
    """Where the branches end that end at modules of their own, which nobody else needs."""
    found = {}
    for block, added in zip(seen.blocks, seen.sums, strict=True):
        try:
            absentees(seen, [block], dry=True)
            found[block.name] = endings(seen.graph, block, added)
        except InputError:
            continue
    return found


class _Step:
    """A `Residual`, gated."""

    def __init__(self, gates: Gates, block: int, module: Residual) -> None:
        self.gates, self.block, self.module = gates, block, module

    def __call__(self, x: Tensor) -> Tensor:
        rows, factor, module = self.gates.rows(self.block), self.gates.factor(self.block), self.module
        if rows is not None and len(rows) == 0:
            return x
        if rows is None:
            update = module.branch(x)
            scale = factor if isinstance(factor, float) else _column(factor, x)
            return x + (scale * module.step) * update
        rows = rows.to(x.device)
        update = module.branch(x[rows])
        step = module.step.expand_as(x)[rows] if isinstance(module.step, Tensor) and module.step.ndim else module.step
        return x.index_add(0, rows, (step / self.gates.keep[self.block]) * update)


class _Branch:
    """A module of a branch that is computed where its block takes part, and stands for zeros elsewhere."""

    def __init__(self, gates: Gates, block: int, forward: Callable[..., Any], absent: nn.Module) -> None:
        self.gates, self.block, self.forward, self.absent = gates, block, forward, absent

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        rows = self.gates.rows(self.block)
        if rows is None:
            return self.forward(*args, **kwargs)
        nothing = self.absent(*args, **kwargs)
        if len(rows) == 0:
            return nothing
        size = len(next(tensors((args, kwargs))))
        some = {key: _taken(value, rows, size) for key, value in kwargs.items()}
        made = list(tensors(self.forward(*(_taken(value, rows, size) for value in args), **some)))
        return replaced(nothing, lambda i, zeros: zeros.index_copy(0, rows.to(zeros.device), made[i].to(zeros.dtype)))


class _Scaled:
    """What a branch ends with, divided by the probability that it is kept, or masked sample by sample."""

    def __init__(self, gates: Gates, block: int, place: int) -> None:
        self.gates, self.block, self.place = gates, block, place

    def __call__(self, module: nn.Module, args: Any, out: Any) -> Any:
        factor = self.gates.factor(self.block)
        if isinstance(factor, float) and factor in (0.0, 1.0):
            return out if factor == 1.0 else replaced(out, lambda i, t: 0.0 * t if i == self.place else t)
        return replaced(
            out, lambda i, t: t * (factor if isinstance(factor, float) else _column(factor, t)) if i == self.place else t
        )


class _Patched:
    """A model's forward in which sums of blocks without modules of their own are gated."""

    def __init__(
        self, gates: Gates, forward: Callable[..., Any], sums: list[tuple[int, Any, int]], model: nn.Module, below: bool
    ) -> None:
        self.gates, self.forward, self.sums, self.model, self.below = gates, forward, sums, model, below

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        factors = {}
        for block, keys, axes in self.sums:
            factor = self.gates.factor(block)
            factor = factor if isinstance(factor, float) else factor.reshape(-1, *[1] * (axes - 1))
            if isinstance(factor, float) and factor == 1.0:
                continue
            factors.update({key: (place, factor) for key, place in keys})
        if not factors:
            return self.forward(*args, **kwargs)
        with patched(self.model, factors, below=self.below):
            return self.forward(*args, **kwargs)


def _column(factor: Tensor, like: Tensor) -> Tensor:
    """A number a sample, shaped to multiply `(B, …)`."""
    return factor.to(like.device, like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def _taken(value: Any, rows: Tensor, size: int) -> Any:
    """An argument on some of the samples; what has no sample axis stays."""
    return value[rows.to(value.device)] if isinstance(value, Tensor) and value.ndim and len(value) == size else value
