"""All checks on what is handed to an audit, and what is to be said of the model before it is measured."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from residyn.audit.conditions import mapped, untouched
from residyn.audit.graph import Graph
from residyn.audit.trace import tensors
from residyn.errors import InputError
from residyn.step import Residual

if TYPE_CHECKING:
    from residyn.audit.auditing import Audit


def check(model: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any], budget: float | None) -> None:
    """Refuse what cannot be audited.

    Raises:
        InputError: With the rule that is broken.
    """
    if not isinstance(model, nn.Module):
        what = "the class, not an instance" if isinstance(model, type) else type(model).__name__
        raise InputError(f"`model` must be a torch.nn.Module, got {what}; wrap a function in a module")
    if budget is not None and not (isinstance(budget, (int, float)) and budget >= 0 and not math.isnan(budget)):
        raise InputError(f"`budget` must be seconds >= 0, got {budget!r}; 0 finds the blocks only, None sets no limit")
    if not any(True for _ in tensors((inputs, kwargs))):
        raise InputError("`inputs` must hold a tensor, got none; hand in a batch as the model's forward takes it")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise InputError("`model` must have its parameters made, got lazy ones; call it once on a batch first")
    given = list(tensors((inputs, kwargs)))
    if any(t.is_meta for t in [*given, *model.parameters()]):
        raise InputError("`model` and `inputs` must hold numbers, got tensors on the meta device; load the weights first")
    homes = {p.device for p in model.parameters()}
    places = {t.device for t in given}
    if len(homes) == 1 and len(places) == 1 and homes != places:
        raise InputError(f"`inputs` must be on the model's device, {homes.pop()}, got {places.pop()}; move one with .to(…)")
    for tensor in given:
        if tensor.numel() == 0:
            raise InputError(f"`inputs` must not be empty, got shape {tuple(tensor.shape)}; hand in two samples or more")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError("`inputs` must be finite, got nan or inf; hand in what the model sees in use")


def arrange(found: Audit) -> None:
    """Make the batch two samples or more, by repeating a single one, if the model takes that."""
    run = found.run
    sizes = {t.shape[0] if t.ndim else 0 for t in tensors((run.args, run.kwargs))}
    if sizes != {1}:
        return

    def twice(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor])

    double = type(run)(run.model, mapped(run.args, twice), mapped(run.kwargs, twice), run.seed)
    try:
        with untouched(run.model, run.seed, gradients=False):
            double.output()
    except Exception:  # noqa: BLE001 - whatever it was: the batch stays as it was handed in
        found.warnings.append("the batch holds one sample and the model does not take it twice: measured on one sample")
        return
    found.run = double
    if found.targets is not None and isinstance(found.targets, Tensor) and found.targets.ndim:
        found.targets = twice(found.targets)
    found.warnings.append("the batch holds one sample: it was repeated, so means and maxima are over that one")


def check_targets(found: Audit, metric: Any) -> None:
    """Refuse labels that do not belong to the batch; with a metric of the user's own they may be anything.

    Raises:
        InputError: If their number is not that of the samples.
    """
    targets = found.targets
    if isinstance(targets, np.ndarray) or (isinstance(targets, (list, range)) and metric is None):
        targets = found.targets = torch.as_tensor(targets)
    if metric is not None and not isinstance(targets, Tensor):
        return
    size = next(t.shape[0] for t in tensors((found.run.args, found.run.kwargs)) if t.ndim)
    if not isinstance(targets, Tensor):
        raise InputError(f"`targets` must be a tensor, got {type(targets).__name__}; torch.as_tensor(…) makes it one")
    if targets.ndim == 0 or targets.shape[0] != size:
        got = targets.shape[0] if targets.ndim else "a single number"
        raise InputError(f"`targets` must have one entry a sample, {size}, got {got}; hand in the labels of this batch")


def seen(graph: Graph, found: Audit) -> str:
    """What the trace saw, in one line: for a model without blocks this is the answer."""
    ops = Counter(node.op for node in graph.nodes)
    sums = sum(len(node.terms) >= 2 for node in graph.nodes)
    joins = sum(ops[name] for name in ("cat", "concat", "concatenate", "stack"))
    common = ", ".join(f"{count} {op}" for op, count in ops.most_common(4))
    text = f"Seen: {len(graph.nodes)} operations ({common}); sums of two tensors: {sums}; concatenations: {joins}"
    return text + (f"; sums that looked residual and were judged to be none: {len(found.others)}." if found.others else ".")


def remarks(model: nn.Module, graph: Graph) -> list[str]:
    """What may have escaped the audit, or does not show in it."""
    lines = []
    modules = list(model.named_modules())
    dropping = [name for name, m in modules if _drops(m)]
    if dropping and model.training:
        lines.append(f"stochastic depth in train mode ({_some(dropping)}): audited in evaluation mode, which keeps every block")
    fused = [name for name, m in modules if isinstance(m, (nn.TransformerEncoderLayer, nn.TransformerEncoder))]
    if fused:
        lines.append(f"fused fast path ({_some(fused)}): switched off while auditing, so that its sums can be seen")
    if graph.left:
        where = _some(sorted({path or "model" for path in graph.left}))
        lines.append(f"tensors left torch ({where}): what came back counts as a constant, a block through it is not seen")
    packed = [
        name for name, m in modules if "quantized" in type(m).__module__ or any(p.is_quantized for p in m.parameters(False))
    ]
    if packed or any(part in node.op for node in graph.nodes for part in ("quantize", "int8", "_packed")):
        lines.append(
            f"quantised parts ({_some(packed) if packed else 'operators'}): they have no derivative, so no norms there"
        )
    if any(not (p.is_floating_point() or p.is_complex()) for p in model.parameters()):
        lines.append("parameters that are whole numbers: they have no derivative")
    return lines


def _drops(module: nn.Module) -> bool:
    """Whether a module leaves out branches at random while training."""
    name = type(module).__name__.lower()
    keep, rate = getattr(module, "keep", 1.0), getattr(module, "layerdrop", 0.0)
    thinned = isinstance(keep, float) and 0 < keep < 1 and isinstance(module, Residual)
    return "droppath" in name or "stochasticdepth" in name or thinned or (isinstance(rate, float) and rate > 0)


def _some(names: list[str]) -> str:
    shown = [name or "model" for name in names]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
