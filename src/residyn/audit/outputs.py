"""What a model is judged by: the tensor that counts, its loss, the metric, and whether its probabilities are to be believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from residyn.audit.trace import tensors
from residyn.errors import InputError
from residyn.results import Figure
from residyn.statistics.figures import reliability_figure
from residyn.statistics.measures import ece

Metric = Callable[[Any, Any], float]


def main_output(out: Any) -> Tensor | None:
    """The tensor that a model is judged by: its logits if it names them, else the first floating-point one."""
    logits = getattr(out, "logits", None)
    if logits is None and isinstance(out, dict):
        logits = out.get("logits")
    if isinstance(logits, Tensor):
        return logits
    return next((t for t in tensors(out) if (t.is_floating_point() or t.is_complex()) and t.ndim > 0), None)


def loss(output: Tensor, out: Any, targets: Tensor | None) -> Tensor:
    """What gradients are taken of: the loss of the targets, the model's own, or a fixed random projection of the output."""
    if targets is not None and classes(output, targets) and 0 <= int(targets.min()) <= int(targets.max()) < output.shape[1]:
        return functional.cross_entropy(output.float(), targets)
    if targets is not None and targets.shape == output.shape:
        return functional.mse_loss(output, targets.to(output.dtype))
    own = getattr(out, "loss", None)
    if isinstance(own, Tensor) and own.numel() == 1:
        return own.sum()
    generator = torch.Generator().manual_seed(0)
    kind = torch.promote_types(output.dtype, torch.float32)
    direction = torch.randn(output.shape, generator=generator, dtype=kind).to(output.device, output.dtype)
    product = output * direction.conj()
    return (product.real if product.is_complex() else product).sum() / output.numel() ** 0.5


def classes(output: Tensor, targets: Tensor) -> bool:
    """Whether targets are class numbers for this output."""
    return not targets.is_floating_point() and targets.ndim == 1 and output.ndim == 2 and output.shape[1] > 1


def scorer(metric: Metric | None, output: Tensor | None, targets: Any) -> tuple[str, Metric]:
    """The metric and its name: the user's, accuracy for class numbers, else the negative mean squared error.

    Raises:
        InputError: If the targets fit neither, and no metric is given.
    """
    if metric is not None:
        return getattr(metric, "__name__", "metric"), lambda out, y: float(metric(out, y))

    def accuracy(out: Any, y: Tensor) -> float:
        found = main_output(out)
        return float((found.argmax(-1) == y).float().mean()) if found is not None else float("nan")

    def closeness(out: Any, y: Tensor) -> float:
        found = main_output(out)
        return -float(functional.mse_loss(found, y.to(found.dtype))) if found is not None else float("nan")

    if output is not None and classes(output, targets):
        if bool(targets.min() < 0) or bool(targets.max() >= output.shape[1]):
            raise InputError(
                f"`targets` must be class numbers 0 to {output.shape[1] - 1}, got {int(targets.min())} to {int(targets.max())}"
            )
        return "accuracy", accuracy
    if output is None or targets.shape != output.shape:
        shape = "no tensor" if output is None else tuple(output.shape)
        raise InputError(
            f"`targets` must be class numbers (B,) or of the output's shape, {shape}, got {tuple(targets.shape)}; or "
            "give a `metric`"
        )
    return "negative mean squared error", closeness


def calibration(output: Tensor, targets: Tensor, seed: int = 0) -> tuple[float, float, int] | None:
    """The calibration error, what a calibrated model has by chance (95 %), and the number of samples.

    Args:
        output: Logits or probabilities, `(N, C)`.
        targets: Class numbers.
        seed: Seed of the draws.

    Returns:
        `None` where there are fewer than fifty samples, on which no error can be told from chance.
    """
    if not classes(output, targets) or len(output) < 50:
        return None
    p = _probabilities(output)
    generator = torch.Generator().manual_seed(seed)
    chance = sorted(ece(p, torch.multinomial(p, 1, generator=generator)[:, 0], kind="probabilities") for _ in range(100))
    return ece(p, targets.cpu(), kind="probabilities"), chance[94], len(p)


def _probabilities(output: Tensor) -> Tensor:
    """Rows of non-negative numbers that sum to 1 as they are, others as logits: also those that happen to lie in [0, 1]."""
    rows = output.detach().double().cpu()
    whole = bool((rows >= 0).all()) and bool((rows.sum(1) - 1).abs().max() < 1e-4)
    return rows if whole else rows.softmax(1)


def diagram(output: Tensor | None, targets: Any) -> Figure | None:
    """The reliability diagram of a classifier, where there are labels; `None` where there are not."""
    if output is None or not isinstance(targets, Tensor) or not classes(output, targets):
        return None
    said = f"{len(output)} samples."
    return reliability_figure(_probabilities(output), targets.cpu(), "Reliability", kind="probabilities", caption=said)
