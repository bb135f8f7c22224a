"""Numbers of each block: sizes and angles, gradients through depth, the Jacobian of the branch, what leaving it out does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from residyn.audit import local, outputs
from residyn.audit.blocks import Block, Measured
from residyn.audit.find import Sum
from residyn.audit.graph import Graph
from residyn.audit.replay import Branch, Capture
from residyn.errors import InputError, ResidynError

if TYPE_CHECKING:
    from residyn.audit.auditing import Audit

Progress = Callable[[float, str], None]
Job = Callable[[Block, Sum, Branch], None]


def measure(
    found: Audit,
    graph: Graph,
    sums: list[Sum],
    *,
    metric: outputs.Metric | None,
    deadline: float | None,
    progress: Progress | None,
) -> None:
    """Fill in the blocks' numbers, cheap ones first, until the time is up.

    Args:
        found: The audit so far; its blocks get the numbers, and it the warnings.
        graph: The graph the blocks were found in.
        sums: The blocks as sums, in the same order.
        metric: The user's metric.
        deadline: When to stop, by `time.perf_counter`.
        progress: Called with a fraction and a word.
    """
    capture = _capture(found, graph, sums, metric)
    _judged(found)
    if not sums:
        return
    found.entering = _rms(capture.kept[sums[0].source])
    pairs = [(b, s, Branch(capture, s)) for b, s in zip(found.blocks, sums, strict=True)]
    jobs: list[tuple[str, Job]] = [
        ("sizes", lambda b, s, f: _sizes(b, f, capture.kept[s.source], capture.kept[s.out])),
    ]
    if not found.below:
        jobs.append(("dropping", _dropper(found)))
    jobs.append(("Jacobians", lambda b, s, f: local.measure(b, f, capture.kept[s.source], deadline)))
    jobs.append(("bounds", lambda b, s, f: _bound(b, f, capture.kept[s.source])))
    failed: dict[str, list[str]] = {}
    for turn, (word, job) in enumerate(jobs):
        for place, (block, found_sum, branch) in enumerate(pairs):
            if deadline is not None and time.perf_counter() > deadline:
                missing = ", ".join(name for name, _ in jobs[turn:])
                found.warnings.append(
                    f"the budget was spent at block {place + 1} of {len(pairs)}: not or not all measured: {missing}"
                )
                return
            if progress is not None:
                progress((turn + place / len(pairs)) / len(jobs), f"{word}: {block.name}")
            try:
                with found.run.untouched():
                    job(block, found_sum, branch)
            except (
                RuntimeError,
                ValueError,
                TypeError,
                LookupError,
                AttributeError,
                NotImplementedError,
                ResidynError,
            ) as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                failed.setdefault(word, []).append(f"{block.name}: {lines[0][:160]}")
    for word, cases in failed.items():
        text = f"{word} could not be measured in {len(cases)} of {len(pairs)} blocks ({cases[0]})"
        (found.notes if word == "bounds" else found.warnings).append(text)


def _capture(found: Audit, graph: Graph, sums: list[Sum], metric: outputs.Metric | None) -> Capture:
    """Run the model again, keep what the blocks are made of, and send one gradient back."""
    from residyn.audit.auditing import ModelError, called

    with found.run.untouched(gradients=True):
        args, kwargs, roots = found.run.fresh()
        capture, out = called(Capture(found.model, (args, kwargs), graph, sums, below=found.below), found.model, args, kwargs)
        if len(capture.graph.nodes) != len(graph.nodes):
            raise InputError("`model` must do the same on the same inputs, got another run; look for randomness in its forward")
        output = outputs.main_output(out)
        for block, s in zip(found.blocks, sums, strict=True):
            if not bool(torch.isfinite(capture.kept[s.out]).all()):
                raise ModelError(
                    f"`model` must give finite numbers on these inputs, got nan or inf first in the output of `{block.name}`; "
                    "look at its parameters and at the range of the inputs"
                )
        if output is not None and not bool(torch.isfinite(output).all()):
            raise ModelError(
                "`model` must give finite numbers on these inputs, got nan or inf in its output, its blocks being finite; look "
                "at what comes after the last block"
            )
        found.logits = None if output is None else output.detach()
        if found.targets is not None:
            found.named, found.score = outputs.scorer(metric, found.logits, found.targets)
        if output is not None and found.run.gradients:
            missing = _differentiate(found, output, out, roots)
            found.warnings += missing
            if missing:
                capture.gradients.clear()  # a pass that broke off tells nothing of the blocks it did not reach
    for block, s in zip(found.blocks, sums, strict=True):
        gradient = capture.gradients.get(s.out)
        if gradient is not None:
            block.gradient_norm = Measured(float(torch.linalg.vector_norm(_wide(gradient))))
        elif capture.gradients and not found.below:
            block.gradient_norm = Measured(0.0)
    return capture


def _differentiate(found: Audit, output: Tensor, out: object, roots: list[Tensor]) -> list[str]:
    """One backward pass, which the hooks of the capture listen to; why there was none, if so."""
    targets = found.targets if isinstance(found.targets, Tensor) else None
    value = outputs.loss(output, out, targets)
    leaves = [t for t in (*roots, *found.model.parameters()) if t.requires_grad]
    if not (value.requires_grad and leaves):
        return ["no gradient reaches the blocks: no gradient profile"] if found.blocks else []
    try:
        torch.autograd.grad(value, leaves, allow_unused=True)
    except RuntimeError as error:  # an operation without a derivative, a write into what it needs, a reentrant checkpoint
        return [f"the model's backward pass fails: no gradient profile ({str(error).splitlines()[0][:160]})"]
    return []


def _judged(found: Audit) -> None:
    """The metric of the whole model, and its calibration."""
    if found.score is None:
        return
    with found.run.untouched():
        found.metric = (found.named, found.score(found.run.output(), found.targets))
    if isinstance(found.targets, Tensor) and found.logits is not None:
        found.calibration = outputs.calibration(found.logits, found.targets, found.run.seed)


def _sizes(block: Block, branch: Branch, x: Tensor, out: Tensor) -> None:
    """Ratio, cosine and influence."""
    with torch.no_grad():
        block.size = Measured(_rms(out))
        again, skip = branch.both(x)
        scale = torch.linalg.vector_norm(_wide(out))
        if not bool(torch.linalg.vector_norm(_wide(again - out)) <= 1e-3 * scale):
            raise InputError("the branch does not give the same outside of the model")
        skip = skip.expand_as(out)
        change = _rows(out - skip).norm(dim=1) / _rows(skip).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        block.ratio = Measured(float(change.mean()))
        block.cosine = Measured(float(functional.cosine_similarity(_rows(skip), _rows(out), dim=1).mean()))
        source, here = (_real(t) for t in (x if x.shape == out.shape else skip, out))
        axis = 1 if here.ndim >= 4 and not out.is_complex() else -1
        block.influence = Measured(1 - float(functional.cosine_similarity(source, here, dim=axis).mean()))


def _real(x: Tensor) -> Tensor:
    x = torch.view_as_real(x).flatten(-2) if x.is_complex() else x
    return x if x.dtype == torch.float64 else x.float()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def _rms(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(_wide(x))) / x.numel() ** 0.5


def _rows(x: Tensor) -> Tensor:
    x = _real(x)
    return x.reshape(x.shape[0], -1) if x.ndim > 1 else x.reshape(1, -1)


def _bound(block: Block, branch: Branch, x: Tensor) -> None:
    """Certified Lipschitz constant of the branch, where the analysis has one."""
    from residyn.audit.bound import bound

    block.bound = bound(branch, x)


def _dropper(found: Audit) -> Job:
    """Measures what leaving a block out does to the metric, or to the output."""

    def drop(block: Block, _: Sum, __: Branch) -> None:
        with found.patch(drop=[block.name]):
            out = found.run.output()
        if found.metric is not None and found.score is not None:
            block.dropped = Measured(found.score(out, found.targets) - found.metric[1])
        elif (output := outputs.main_output(out)) is not None and found.logits is not None:
            size = torch.linalg.vector_norm(_wide(found.logits))
            block.dropped = Measured(float(torch.linalg.vector_norm(_wide(output - found.logits)) / size))

    return drop
