"""`audit`: find the blocks of a model, measure them, judge."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from residyn.audit.blocks import Block, describe
from residyn.audit.conditions import mapped, untouched
from residyn.audit.derivatives import disagreements, recorded
from residyn.audit.find import Finder, Sum
from residyn.audit.graph import Graph
from residyn.audit.patching import patched
from residyn.audit.trace import Recorder, recorded_by, tensors
from residyn.display import table
from residyn.errors import InputError, ResidynError
from residyn.results import Finding

if TYPE_CHECKING:
    import os

    from residyn.audit.judge import Check
    from residyn.audit.retrofit import Retrofit


class ModelError(ResidynError, RuntimeError):
    """The model itself failed on the inputs it was given."""


@dataclass
class Run:
    """A model with the inputs it is audited on.

    Args:
        model: The model.
        args: Its inputs.
        kwargs: More of them, by name.
        seed: Seed while it runs.
        written: Parameters that the model's forward writes into; each run puts them back.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    seed: int = 0
    written: list[Tensor] = field(default_factory=list)
    gradients: bool = True

    def untouched(self, *, gradients: bool = False) -> AbstractContextManager[None]:
        """Conditions under which the model may be run."""
        recorded = gradients and self.gradients
        return untouched(self.model, self.seed, gradients=recorded, flags=self.gradients, written=self.written)

    def fresh(self) -> tuple[tuple[Any, ...], dict[str, Any], list[Tensor]]:
        """Copies of the inputs that the model may write into, and the leaves behind those that have gradients."""
        roots: list[Tensor] = []

        def copy(tensor: Tensor) -> Tensor:
            if not (tensor.is_floating_point() or tensor.is_complex()) or not torch.is_grad_enabled():
                return tensor.detach().clone()
            roots.append(tensor.detach().clone().requires_grad_())
            return roots[-1].clone()  # no leaf, so that the model may write into it

        return mapped(self.args, copy), mapped(self.kwargs, copy), roots

    def output(self) -> Any:
        """What the model returns, without gradients; within `untouched`."""
        args, kwargs, _ = self.fresh()
        return self.model(*args, **kwargs)


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        model: The model, unchanged.
        blocks: Its residual blocks, in the order in which their sums were made.
        others: Sums with an ancestor that were judged to be no blocks (gates, interpolations), by module and reason.
        findings: What is wrong, worst first, each with why and fix.
        warnings: What the audit may not have seen or could not measure.
        seconds: Wall time.
        metric: Name and value of the metric, if targets were given.
        calibration: Calibration error of a classifier, what chance gives at most (95 %), and the number of samples.
        notes: What could not be certified, and why.
        seen: What the trace saw, in one line.
    """

    model: nn.Module
    run: Run = field(repr=False)
    blocks: list[Block] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    metric: tuple[str, float] | None = None
    calibration: tuple[float, float, int] | None = None
    notes: list[str] = field(default_factory=list)
    seen: str = ""
    entering: float | None = field(default=None, repr=False)
    score: Any = field(default=None, repr=False)
    named: str = field(default="", repr=False)
    graph: Graph = field(default_factory=Graph, repr=False)
    sums: list[Sum] = field(default_factory=list, repr=False)
    targets: Any = field(default=None, repr=False)
    below: bool = field(default=False, repr=False)
    logits: Tensor | None = field(default=None, repr=False)
    _retrofit: Any = field(default=None, repr=False)

    @property
    def samples(self) -> int:
        """How many samples the batch has."""
        return next((t.shape[0] for t in tensors((self.run.args, self.run.kwargs)) if t.ndim), 1)

    @property
    def retrofit(self) -> Retrofit:
        """Changes to the live model, each of which can be undone."""
        from residyn.audit.retrofit import Retrofit

        if self._retrofit is None:
            self._retrofit = Retrofit(self)
        return self._retrofit

    def _repr_html_(self) -> str:
        rows = [(f.verdict, f.id, f.title, f.value, f.fix) for f in self.findings]
        title = f"Audit: {len(self.blocks)} blocks, {len(self.findings)} findings"
        return table(title, ["verdict", "code", "finding", "measured", "fix"], rows, "; ".join(self.warnings[:3]))

    def __getitem__(self, name: str) -> Block:
        """A block by its name.

        Raises:
            InputError: If there is none of this name.
        """
        for block in self.blocks:
            if block.name == name:
                return block
        known = ", ".join(b.name for b in self.blocks[:6]) + (", …" if len(self.blocks) > 6 else "")
        raise InputError(f"`name` must be that of a block, got {name!r}; the blocks are {known or 'none'}")

    @contextlib.contextmanager
    def patch(self, drop: Sequence[str] = (), scale: dict[str, Any] | None = None) -> Iterator[nn.Module]:
        """What if: within this context the model runs with some branches left out or scaled; afterwards as ever.

        Args:
            drop: Names of blocks whose branch counts as 0.
            scale: Factors for the branches of others, numbers or tensors that broadcast to the sum.

        Yields:
            The model.

        Raises:
            InputError: If a name is not that of a block.
        """
        factors = {key: (place, 0.0) for name in drop for key, place in self[name].keys}
        factors |= {key: (place, f) for name, f in (scale or {}).items() for key, place in self[name].keys}
        with patched(self.model, factors, below=self.below) as model:
            yield model

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as a page."""
        self._write(path, ".html")

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON."""
        self._write(path, ".json")

    def _write(self, path: str | os.PathLike[str], ending: str) -> None:
        from residyn import report
        from residyn.audit.page import result

        if not str(path).lower().endswith(ending):
            raise InputError(f"`path` must end in {ending}, got {str(path)!r}; the ending says what the file is")
        report.write(result(self), path)


def audit(
    model: nn.Module,
    *inputs: Any,
    targets: Any = None,
    budget: float | None = None,
    metric: Callable[[Any, Any], float] | None = None,
    checks: Sequence[Check] | None = None,
    seed: int = 0,
    progress: Callable[[float, str], None] | None = None,
    **kwargs: Any,
) -> Audit:
    """Find the residual blocks x + F(x) of a model on a real forward pass, measure each, and say what is wrong.

    The model is run in evaluation mode, with a fixed seed and without key–value caches, and is afterwards as it was: mode,
    parameters, buffers, gradients, hooks, configuration, random states. Blocks are told by what happened at run time: a sum
    of two tensors of one shape, one of which was computed from the other by operations that mix elements.

    Args:
        model: Any module.
        *inputs: What it is called with; a batch of two or more.
        targets: What its output should be: class numbers `(B,)` or a tensor like the output; for the gradient profile and the
            effect of leaving a block out.
        budget: Seconds to spend on measuring; 0 finds the blocks only, `None` sets no limit.
        metric: Function of output and targets, higher is better; accuracy for class numbers, else the negative mean squared
            error.
        checks: What is asked of the numbers; `None` for the house's own checks, `residyn.audit.checks.CHECKS`.
        seed: Seed of the random generators while the model runs.
        progress: Called with a fraction and a word as the work goes on.
        **kwargs: More inputs, by name, e.g. `input_ids=…`.

    Returns:
        The audit.

    Raises:
        InputError: If what was handed in cannot be audited.
        ModelError: If the model fails on the inputs.

    Reference:
        He, Zhang, Ren & Sun (2016), doi:10.1109/CVPR.2016.90; Veit, Wilber & Belongie (2016), "Residual Networks Behave Like
        Ensembles of Relatively Shallow Networks", arXiv:1605.06431; Men et al. (2024), "ShortGPT", arXiv:2403.03853.

    >>> from residyn.nets import MLP, ResNet
    >>> net = ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(3)], nn.Linear(8, 2))
    >>> [block.name for block in audit(net, torch.ones(2, 4), budget=0).blocks]
    ['body.blocks.0', 'body.blocks.1', 'body.blocks.2']
    """
    from residyn.audit import boundary

    boundary.check(model, inputs, kwargs, budget)
    began = time.perf_counter()
    found = Audit(model, Run(model, inputs, kwargs, seed), targets=targets)
    boundary.arrange(found)
    graph, sums = _find(found)
    found.graph, found.sums, found.seen = graph, sums, boundary.seen(graph, found)
    found.warnings += boundary.remarks(model, graph)
    if targets is not None:
        boundary.check_targets(found, metric)
    if budget is None or budget > 0:
        from residyn.audit.measure import measure

        measure(found, graph, sums, metric=metric, deadline=None if budget is None else began + budget, progress=progress)
    from residyn.audit.judge import judge

    found.findings = judge(found, checks)
    found.seconds = time.perf_counter() - began
    return found


def _find(found: Audit) -> tuple[Graph, list[Sum]]:
    """Trace, look for blocks, and have autograd witness it."""
    run = found.run
    try:
        return _traced(found)
    except ModelError:
        run.gradients = False
        found.warnings.append("the model does not run with gradients: blocks were found without, and no derivative is known")
        return _traced(found)  # if this fails too, the model does


def _traced(found: Audit) -> tuple[Graph, list[Sum]]:
    run = found.run
    with run.untouched(gradients=True):
        args, kwargs, roots = run.fresh()
        recorder, out = called(Recorder(run.model, (args, kwargs)), run.model, args, kwargs)
        run.written = [p for p, _ in recorder.aside.values()]
        graph = recorder.graph
        finder = Finder(graph)
        sums = finder.run()
        witness = recorded(run.model, roots, list(tensors(out)))
        doubts = disagreements(graph, sums, finder.gates, witness)
        del out
    blind = (
        graph.wrapped
        or any(v.origin == "unknown" for v in graph.values)
        or any(isinstance(m, (torch.jit.ScriptModule, torch.jit.ScriptFunction)) for m in run.model.modules())
    )
    if blind:  # something was computed where torch functions do not show it: look again, below
        with run.untouched(gradients=True):
            args, kwargs, _ = run.fresh()
            lower = called(Recorder(run.model, (args, kwargs), strong=True), run.model, args, kwargs)[0].graph
        deeper = Finder(lower)
        below = deeper.run()
        theirs = len(Finder(witness).run())
        found.warnings.append(
            "scripted or custom operations were seen: blocks were told from the operators below autograd"
            + (f"; autograd recorded {theirs} blocks, these operators {len(below)}" if theirs and theirs != len(below) else "")
        )
        graph, sums, finder, doubts, found.below = lower, below, deeper, [], True
    elif not witness.nodes:
        doubts = [] if not run.gradients else ["no gradient could be recorded: autograd could not bear witness to the blocks"]
    found.warnings += [f"tracers disagree: {line}" if "gradient" not in line else line for line in doubts]
    found.blocks = describe(graph, sums)
    found.others = [_reason(graph, s) for s in finder.gates]
    return graph, sums


R = TypeVar("R", bound=Recorder)


def called(recorder: R, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[R, Any]:
    """Watch one forward pass; what the model raises becomes a `ModelError` of one line."""
    try:
        return recorder, recorded_by(recorder, model, args, kwargs)
    except Exception as error:
        raise failure(error) from error


def failure(error: Exception) -> ModelError:
    """A model's own failure in one line."""
    lines = str(error).strip().splitlines() or ["no message"]
    hint = "check the shapes, dtypes and devices of the inputs by calling the model yourself"
    return ModelError(f"`model` must run on these inputs, got {type(error).__name__}: {lines[0][:200]}; {hint}")


def _reason(graph: Graph, found: Sum) -> str:
    path = graph.nodes[found.node].key[0] or "model"
    why = (
        "a gate: its branch is its skip times something" if found.kind == "elementwise" else ", ".join(sorted(found.conditions))
    )
    return f"{path}: {why}"
