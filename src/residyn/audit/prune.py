"""A smaller model: blocks leave, cheapest in the metric first, as long as the loss stays within what is allowed."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from residyn.audit import outputs
from residyn.audit.absent import Absent, Example
from residyn.audit.conditions import mapped
from residyn.audit.endings import endings, lost, refusal
from residyn.errors import InputError

if TYPE_CHECKING:
    from residyn.audit.auditing import Audit
    from residyn.audit.blocks import Block

_TRIED = 6  # how many of the blocks that cost least are tried together with those that are gone


@dataclass
class Pruned:
    """A model with fewer blocks, and what that cost and saved.

    Attributes:
        model: A copy of the audited model in which the branches are gone.
        dropped: The blocks that went, in the order in which they went.
        refused: The blocks that had to stay, with the reason.
        before: The metric of the whole model; the output's change, 0, without targets.
        after: The metric of the copy.
        loss: What was lost, as a share.
        seconds: CPU time of a forward pass, before and after; medians.
        parameters: Numbers of parameters, before and after.
    """

    model: nn.Module = field(repr=False)
    dropped: list[str]
    refused: dict[str, str]
    before: float
    after: float
    loss: float
    seconds: tuple[float, float]
    parameters: tuple[int, int]

    @property
    def speedup(self) -> float:
        """Time of the whole model over that of the copy."""
        return self.seconds[0] / self.seconds[1]

    @property
    def saved(self) -> float:
        """Share of the time that is saved."""
        return 1 - self.seconds[1] / self.seconds[0]


def prune(audit: Audit, loss: float, *, repeat: int = 5) -> Pruned:
    """Choose blocks greedily, build the smaller copy, and measure it.

    Args:
        audit: An audit, with targets if a metric is to count.
        loss: Largest share of the metric to lose.
        repeat: Runs of each that the times are medians of.

    Returns:
        The copy and its figures.

    Raises:
        InputError: If the loss is not in [0, 1).
    """
    if not 0 <= loss < 1:
        raise InputError(f"`loss` must be a share of the metric in [0, 1), got {loss}; 0.01 allows one percent")
    refused: dict[str, str] = {}
    free = []
    for block in audit.blocks:
        try:
            absentees(audit, [block], dry=True)
            free.append(block)
        except InputError as error:
            refused[block.name] = str(error)
    gone = _chosen(audit, free, loss)
    while True:
        try:
            model = without(audit, gone)
            break
        except InputError as error:  # two blocks that can each go alone, but not together
            if not gone:
                raise
            refused[gone[-1].name] = str(error)
            gone = gone[:-1]
    before, after = _score(audit, audit.model), _score(audit, model)
    seconds = _times(audit, model, repeat)
    count = tuple(sum(p.numel() for p in m.parameters()) for m in (audit.model, model))
    return Pruned(
        model, [b.name for b in gone], refused, before, after, _share(audit, before, after), seconds, (count[0], count[1])
    )


def without(audit: Audit, blocks: list[Block]) -> nn.Module:
    """A copy of the audited model in which the branches of some blocks are gone."""
    stubs = absentees(audit, blocks)
    kept = {id(audit.model.get_submodule(path)): stub for path, stub in stubs.items()}
    try:
        return copy.deepcopy(audit.model, kept)  # a copy that never copies what leaves
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"`model` must be one that can be copied to be pruned, got {str(error).splitlines()[0][:120]}; "
            "audit.retrofit.drop(…) changes it in place"
        ) from error


def _chosen(audit: Audit, free: list[Block], loss: float) -> list[Block]:
    """Blocks whose absence, all together, stays within the loss."""
    before = _score(audit, audit.model)
    harm = {b.name: _harm(audit, before, [b]) for b in free}
    gone: list[Block] = []
    while free:
        near = sorted(free, key=lambda b: harm[b.name])[:_TRIED]
        for block in near if gone else ():
            harm[block.name] = _harm(audit, before, [*gone, block])
        best = min(near, key=lambda b: harm[b.name])
        if not harm[best.name] <= loss:
            break
        gone.append(best)
        free = [b for b in free if b is not best]
    return gone


def _harm(audit: Audit, before: float, blocks: list[Block]) -> float:
    """Share of the metric that is lost without some blocks."""
    with audit.patch(drop=[b.name for b in blocks]):
        return _share(audit, before, _score(audit, audit.model))


def _score(audit: Audit, model: nn.Module) -> float:
    """The metric of a model on the audit's batch; without targets, how far its output is from the audited model's, negative."""
    from residyn.audit.auditing import Run

    run = Run(model, audit.run.args, audit.run.kwargs, audit.run.seed, gradients=audit.run.gradients)
    with run.untouched():
        out = run.output()
    if audit.targets is not None:
        if audit.score is None:
            with audit.run.untouched():
                whole = outputs.main_output(audit.run.output())
            _, audit.score = outputs.scorer(None, whole, audit.targets)
        return float(audit.score(out, audit.targets))
    output = outputs.main_output(out)
    if output is None:
        raise InputError("`model` must return a tensor to be pruned without a metric, got none; give `targets` and `metric`")
    if audit.logits is None:
        with audit.run.untouched():
            audit.logits = outputs.main_output(audit.run.output())
    assert audit.logits is not None
    return -float((output - audit.logits).float().norm() / audit.logits.float().norm())


def _share(audit: Audit, before: float, after: float) -> float:
    if audit.targets is None:
        return before - after
    return (before - after) / abs(before) if before else (0.0 if after >= before else float("inf"))


def _times(audit: Audit, model: nn.Module, repeat: int) -> tuple[float, float]:
    """CPU time of a forward pass of both, in turn, without gradients."""
    from residyn.audit.auditing import Run

    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeat + 1):
        for side, net in zip(times, (audit.model, model), strict=True):
            run = Run(net, audit.run.args, audit.run.kwargs, audit.run.seed, gradients=audit.run.gradients)
            with run.untouched(), torch.no_grad():
                args, kwargs, _ = run.fresh()
                start = time.process_time()
                net(*args, **kwargs)
                if turn:
                    side.append(time.process_time() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def absentees(audit: Audit, blocks: list[Block], *, dry: bool = False) -> dict[str, nn.Module]:
    """What takes the place of the modules that nobody needs once some blocks are gone, by path.

    Args:
        audit: The audit.
        blocks: The blocks that go.
        dry: Only look whether they can.

    Returns:
        Modules that return zeros.

    Raises:
        InputError: If a branch does not end at a module, or a module is used elsewhere as well.
    """
    graph = audit.graph
    if audit.below and blocks:
        raise refusal(blocks[0], "the model holds scripted or custom operations")
    wanted = {b.name for b in blocks}
    sums = [s for b, s in zip(audit.blocks, audit.sums, strict=True) if b.name in wanted]
    ends: dict[str, Block] = {}
    for block, s in zip(audit.blocks, audit.sums, strict=True):
        if block.name in wanted:
            ends.update({end.module: block for end in endings(graph, block, s)})
    dead = [graph.calls[i] for i in lost(graph, sums)]
    alive = {c.path for i, c in enumerate(graph.calls) if not _below(graph, i, set(lost(graph, sums)))}
    paths = [c.path for c in dead if c.path not in alive and c.path not in ("", "?")]
    for end, block in ends.items():
        if not any(end == p or end.startswith(f"{p}.") for p in paths):
            raise refusal(block, f"`{end}` is needed elsewhere as well")
    if dry or not paths:
        return {}
    batch, longer = _batches(audit)
    examples = [_examples(audit, paths, batch)]
    try:
        examples.append(_examples(audit, paths, longer))
    except Exception:  # noqa: BLE001 - whatever it was: a model of one batch size, such as a saved program
        examples.append(examples[0])
    made: dict[str, nn.Module] = {}
    for path in dict.fromkeys(paths):
        if path in examples[0] and path in examples[1]:
            try:
                made[path] = Absent((examples[0][path], examples[1][path]))
            except InputError:
                if any(end == path or end.startswith(f"{path}.") for end in ends):
                    raise  # an end must give zeros; what lies before it may go on computing
    return made


def _below(graph: Any, call: int, dead: set[int]) -> bool:
    return any(c in dead for c in graph.around(call))


def _batches(audit: Audit) -> list[tuple[Any, Any]]:
    """The batch of the audit, and the same with its last sample twice."""
    size = audit.samples

    def longer(tensor: Any) -> Any:
        same = tensor.ndim > 0 and tensor.shape[0] == size
        return torch.cat([tensor, tensor[-1:]]) if same else tensor

    run = audit.run
    return [(run.args, run.kwargs), (mapped(run.args, longer), mapped(run.kwargs, longer))]


def _examples(audit: Audit, paths: list[str], batch: tuple[Any, Any]) -> dict[str, Example]:
    """What some modules are called with, and what they return, on a batch."""
    from residyn.audit.auditing import Run

    seen: dict[str, Example] = {}
    run = Run(audit.model, batch[0], batch[1], audit.run.seed, list(audit.run.written), audit.run.gradients)
    with run.untouched():
        hooks = [
            audit.model.get_submodule(path).register_forward_hook(
                lambda _, args, kwargs, out, path=path: seen.setdefault(path, (args, kwargs, out)) and None, with_kwargs=True
            )
            for path in paths
        ]
        try:
            run.output()
        finally:
            for hook in hooks:
                hook.remove()
    return seen
