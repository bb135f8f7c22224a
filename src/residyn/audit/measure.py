"""Numbers of each block: sizes and angles, gradients through depth, the Jacobian of the branch, what leaving it out does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from residyn.audit.blocks import Block, Measured
from residyn.audit.find import Sum
from residyn.audit.graph import Graph
from residyn.audit.replay import Branch, Capture
from residyn.audit.trace import tensors
from residyn.errors import InputError, ResidynError

if TYPE_CHECKING:
    from residyn.audit.auditing import Audit

Progress = Callable[[float, str], None]


def measure(
    found: Audit,
    graph: Graph,
    sums: list[Sum],
    *,
    metric: Callable[[Any, Any], float] | None,
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
    if not sums:
        return
    capture = _capture(found, graph, sums)
    pairs = [(b, s, Branch(capture, s)) for b, s in zip(found.blocks, sums, strict=True)]
    jobs: list[tuple[str, Callable[[Block, Sum, Branch], None]]] = [
        ("sizes", lambda b, s, f: _sizes(b, f, capture.kept[s.source], capture.kept[s.out])),
        ("Jacobians", lambda b, s, f: jacobian(b, f, capture.kept[s.source])),
    ]
    if not found.below:
        jobs.append(("dropping", _dropper(found, metric)))
    jobs.append(("spectra", lambda b, s, f: spectrum(b, f, capture.kept[s.source])))
    jobs.append(("bounds", lambda b, s, _: bound(b, found, graph, s, capture.kept[s.source])))
    failed: dict[str, str] = {}
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
            except (RuntimeError, TypeError, KeyError, IndexError, NotImplementedError, ResidynError) as error:
                failed.setdefault(f"{word} could not be measured", f"{block.name}: {str(error).strip().splitlines()[0][:160]}")
    found.warnings += [f"{what} ({why})" for what, why in failed.items()]


def _capture(found: Audit, graph: Graph, sums: list[Sum]) -> Capture:
    """Run the model again, keep what the blocks are made of, and send one gradient back."""
    from residyn.audit.auditing import called

    with found.run.untouched(gradients=True):
        args, kwargs, roots = found.run.fresh()
        capture, out = called(Capture(found.model, (args, kwargs), graph, sums, below=found.below), found.model, args, kwargs)
        if len(capture.graph.nodes) != len(graph.nodes):
            found.warnings.append("the model does not do the same twice: its blocks were measured on the second run")
            raise InputError("`model` must do the same on the same inputs, got another run; look for randomness in its forward")
        output = main_output(out)
        if output is not None:
            found.logits = output.detach()
            loss = _loss(output, out, found.targets)
            leaves = [t for t in (*roots, *found.model.parameters()) if t.requires_grad]
            if loss.requires_grad and leaves:
                torch.autograd.grad(loss, leaves, allow_unused=True)
    for block, s in zip(found.blocks, sums, strict=True):
        gradient = capture.gradients.get(s.out)
        if gradient is not None:
            block.gradient_norm = Measured(float(torch.linalg.vector_norm(gradient)))
    if not capture.gradients:
        found.warnings.append("no gradient reaches the blocks: no gradient profile")
    return capture


def main_output(out: Any) -> Tensor | None:
    """The tensor that a model is judged by: its logits if it names them, else the first floating-point one."""
    logits = getattr(out, "logits", None)
    if logits is None and isinstance(out, dict):
        logits = out.get("logits")
    if isinstance(logits, Tensor):
        return logits
    return next((t for t in tensors(out) if t.is_floating_point() and t.ndim > 0), None)


def _loss(output: Tensor, out: Any, targets: Tensor | None) -> Tensor:
    """What gradients are taken of: the loss of the targets, the model's own, or a fixed random projection of the output."""
    if targets is not None and classes(output, targets):
        return functional.cross_entropy(output, targets)
    if targets is not None:
        return functional.mse_loss(output, targets.to(output.dtype))
    own = getattr(out, "loss", None)
    if isinstance(own, Tensor) and own.numel() == 1:
        return own.sum()
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(output.shape, generator=generator, dtype=torch.float32).to(output.device, output.dtype)
    return (output * direction).sum() / output.numel() ** 0.5


def classes(output: Tensor, targets: Tensor) -> bool:
    """Whether targets are class numbers for this output."""
    return not targets.is_floating_point() and targets.ndim == 1 and output.ndim == 2


def _sizes(block: Block, branch: Branch, x: Tensor, out: Tensor) -> None:
    """Ratio, cosine and influence."""
    with torch.no_grad():
        again, skip = branch.both(x)
        scale = torch.linalg.vector_norm(out.double())
        if not bool(torch.linalg.vector_norm((again - out).double()) <= 1e-3 * scale):
            raise InputError("the branch does not give the same outside of the model")
        skip = skip.expand_as(out)
        change = _rows(out - skip).norm(dim=1) / _rows(skip).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        block.ratio = Measured(float(change.mean()))
        block.cosine = Measured(float(functional.cosine_similarity(_rows(skip), _rows(out), dim=1).mean()))
        source = x if x.shape == out.shape else skip
        axis = 1 if out.ndim >= 4 else -1
        block.influence = Measured(1 - float(functional.cosine_similarity(source.float(), out.float(), dim=axis).mean()))


def _rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1).float() if x.ndim > 1 else x.reshape(1, -1).float()


def jacobian(block: Block, branch: Branch, x: Tensor) -> None:
    """‖∂F/∂x‖₂ by Golub–Kahan."""
    if x.shape != torch.Size(block.shape):
        return  # a projection: F does not keep the shape of its source
    from residyn.analysis import spectral_norm

    block.jacobian_norm = Measured.of(spectral_norm(branch, x))


def spectrum(block: Block, branch: Branch, x: Tensor) -> None:
    """Leading eigenvalues by a short Arnoldi process, and the step they allow."""
    if x.shape != torch.Size(block.shape):
        return
    from residyn.audit.eigen import leading, step_limit

    values = leading(branch, x)
    block.spectrum = tuple(values)
    block.max_step = Measured(step_limit(values))


def bound(block: Block, found: Audit, graph: Graph, s: Sum, x: Tensor) -> None:
    """Certified Lipschitz constant of the branch, where the analysis has one."""


def _dropper(found: Audit, metric: Callable[[Any, Any], float] | None) -> Callable[[Block, Sum, Branch], None]:
    """Measures what leaving a block out does to the metric, or to the output."""
    targets = found.targets
    if targets is not None:
        name, score = scorer(metric, found.logits, targets)
        with found.run.untouched():
            whole = score(found.run.output(), targets)
        found.metric = (name, whole)

    def drop(block: Block, _: Sum, __: Branch) -> None:
        with found.patch(drop=[block.name]):
            out = found.run.output()
        if targets is not None:
            block.dropped = Measured(score(out, targets) - whole)
        elif (output := main_output(out)) is not None and found.logits is not None:
            block.dropped = Measured(float((output - found.logits).float().norm() / found.logits.float().norm()))

    return drop


def scorer(
    metric: Callable[[Any, Any], float] | None, logits: Tensor | None, targets: Tensor
) -> tuple[str, Callable[[Any, Any], float]]:
    """The metric and its name: the user's, accuracy for class numbers, else the negative mean squared error."""
    if metric is not None:
        return getattr(metric, "__name__", "metric"), lambda out, y: float(metric(out, y))

    def accuracy(out: Any, y: Tensor) -> float:
        output = main_output(out)
        return float((output.argmax(-1) == y).float().mean()) if output is not None else float("nan")

    def closeness(out: Any, y: Tensor) -> float:
        output = main_output(out)
        return -float(functional.mse_loss(output, y.to(output.dtype))) if output is not None else float("nan")

    if logits is not None and classes(logits, targets):
        return "accuracy", accuracy
    return "negative mean squared error", closeness
