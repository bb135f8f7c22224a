"""The boundary of the package: classifier, samples and labels, checked once; and the classifier run without a trace."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from residyn.analysis.undisturbed import undisturbed
from residyn.audit.conditions import untouched
from residyn.errors import InputError

Model = Callable[[Tensor], Tensor]
Norm = Literal["l2", "linf"]
Box = tuple[float, float] | None


def as_samples(x: Any, box: Box = None) -> Tensor:
    """Check a batch `(B, …)`: floating point, finite, and inside the box if there is one."""
    if not isinstance(x, Tensor):
        raise InputError(f"`x` must be a tensor (B, …), got {type(x).__name__}; convert it with torch.as_tensor")
    if not x.is_floating_point():
        raise InputError(f"`x` must be floating point, got {x.dtype}; convert and scale it, e.g. x.float() / 255")
    if x.ndim < 2 or x.numel() == 0:
        raise InputError(f"`x` must be a batch (B, …) of at least one sample, got shape {tuple(x.shape)}; add a batch axis")
    if not bool(torch.isfinite(x).all()):
        raise InputError("`x` must be finite, got nan or inf; mend the samples first")
    with torch.inference_mode(False):
        x = x.detach().clone()
    if box is not None and (float(x.min()) < box[0] or float(x.max()) > box[1]):
        raise InputError(
            f"`x` must lie in the box [{box[0]:g}, {box[1]:g}], got values in [{float(x.min()):.4g}, {float(x.max()):.4g}]; "
            "scale it, pass the range as `box=(low, high)`, or box=None"
        )
    return x


def as_box(box: Any) -> Box:
    """Check the range of the inputs."""
    if box is None:
        return None
    try:
        low, high = float(box[0]), float(box[1])
    except (TypeError, ValueError, IndexError):
        raise InputError(f"`box` must be a pair (low, high) or None, got {box!r}; e.g. (0, 1)") from None
    if not (low < high and len(box) == 2):
        raise InputError(f"`box` must be a pair (low, high) with low < high, got {box!r}; e.g. (0, 1)")
    return low, high


def as_norm(norm: Any) -> Norm:
    """Check the name of a norm."""
    name = str(norm).lower().replace("₂", "2").replace("∞", "inf")
    if name not in ("l2", "linf"):
        raise InputError(f'`norm` must be "l2" or "linf", got {norm!r}')
    return cast("Norm", name)


def as_eps(eps: Any, x: Tensor) -> Tensor:
    """Check the radius of an attack: one number, or one a sample; float64 `(B,)`."""
    if isinstance(eps, bool) or not isinstance(eps, (int, float, Tensor)):
        raise InputError(f"`eps` must be a number or a tensor (B,), got {type(eps).__name__}")
    radius = torch.as_tensor(eps, dtype=torch.float64, device=x.device).detach()
    if radius.ndim and radius.shape != (len(x),):
        raise InputError(f"`eps` must be one number or ({len(x)},), one a sample, got shape {tuple(radius.shape)}")
    if not bool((radius > 0).all()) or not bool(torch.isfinite(radius).all()):
        worst = float(radius.flatten()[0]) if radius.ndim == 0 else float(radius.min())
        raise InputError(f"`eps` must be > 0 and finite, got {worst:g}; it is the radius within which x may move")
    return radius.expand(len(x)).clone()


def as_labels(y: Any, x: Tensor, classes: int) -> Tensor:
    """Check class numbers `(B,)` against the samples and the number of logits."""
    try:
        labels = torch.as_tensor(y).detach().to(x.device)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"`y` must be integer class numbers ({len(x)},), got {type(y).__name__}") from None
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"`y` must be integer class numbers, got {labels.dtype}; convert them with .long()")
    if labels.shape != (len(x),):
        raise InputError(f"`y` must be ({len(x)},), one label a sample, got shape {tuple(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(f"`y` must lie in [0, {classes - 1}], got {low if low < 0 else high}; count classes from 0")
    return labels.long()


def as_model(model: Any) -> Model:
    """Check that it is something to call."""
    if not callable(model):
        raise InputError(f"`model` must be callable on a batch, got {type(model).__name__}; did the arguments change places?")
    return cast("Model", model)


@contextlib.contextmanager
def quietly(model: Model, x: Tensor) -> Iterator[None]:
    """Evaluation mode and gradients inside; the model's mode, buffers, gradients, flags and all random states are kept."""
    with torch.inference_mode(False), torch.enable_grad():
        if isinstance(model, nn.Module):
            with untouched(model), parametrize.cached():
                for p in model.parameters():  # put back by `untouched`
                    p.requires_grad_(False)
                yield
        else:
            with undisturbed(x.device):
                yield


def logits(model: Model, x: Tensor) -> Tensor:
    """The output `(B, C)`, checked."""
    try:
        z: Any = model(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"`model` must accept x of shape {tuple(x.shape)} and {x.dtype}, got: {cause}") from None
    if not isinstance(z, Tensor):
        raise InputError(
            f"`model` must return one tensor of logits (B, C), got {type(z).__name__}; wrap it in a module that "
            "returns the logits alone"
        )
    if z.ndim != 2 or len(z) != len(x) or z.shape[1] < 2 or not z.is_floating_point():
        raise InputError(f"`model` must return logits ({len(x)}, C) with C >= 2, got {tuple(z.shape)} of {z.dtype}")
    return z


def margins(z: Tensor, y: Tensor) -> Tensor:
    """z_y - max_{j≠y} z_j of each sample; -inf where a logit is nan, as nothing is classified there."""
    own = z.gather(1, y.unsqueeze(1)).squeeze(1)
    other = z.scatter(1, y.unsqueeze(1), -math.inf).amax(1)
    margin = own - other
    return torch.where(z.isnan().any(1), torch.full_like(margin, -math.inf), margin)
