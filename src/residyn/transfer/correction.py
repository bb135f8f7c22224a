"""A frozen model with residual corrections before it and before its last layer: what an adapted model is."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.transfer.mapping import Affine
from residyn.transfer.units import Units

DENSE = 4096
"""Up to so many numbers a sample a correction mixes all of them; beyond, channels of a neighbourhood."""


class Correction(nn.Module):
    """One residual step, x⁺ = u + F(u) with u = x, or u = M(x) for a map of moments, and F(u) = -e·(U·relu(D·v + d) + u₀).

    v = (u - o)/e is u in units of the correction's own: o for zero and e for one, feature by feature or for all.
    U and u₀ start at zero: the step is then M alone, or nothing, bit for bit. On more than 4096 numbers a sample D and U are
    convolutions over 3×3 neighbourhoods of a picture's channels, or act on the last axis.

    Args:
        shape: Of one sample at this place.
        width: Rows of D.
        start: M; none if not given.
        generator: Draws D.
        units: o and e; 0 and 1 if not given.

    Attributes:
        strength: h of x + h·(x⁺ - x), 1 unless set: how far the step is taken.
    """

    zero: Tensor
    one: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int,
        start: Affine | None,
        generator: torch.Generator,
        units: Units | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("zero", torch.zeros(()) if units is None else units.zero),
            ("one", torch.ones(()) if units is None else units.one),
        ):
            self.register_buffer(name, value.detach().clone())
        self.shape, self.width, self.start = shape, width, start
        self.strength = 1.0
        size = math.prod(shape)
        self.dense = size <= DENSE
        self.pictures = not self.dense and len(shape) == 3
        features = size if self.dense else shape[0] if self.pictures else shape[-1]
        window = (3, 3) if self.pictures else ()
        fan = features * math.prod(window)
        self.down = nn.Parameter(torch.randn(width, features, *window, generator=generator) * math.sqrt(2 / fan))
        self.bias = nn.Parameter(torch.zeros(width))
        self.up = nn.Parameter(torch.zeros(features, width, *window))
        self.shift = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """x⁺, of the shape of x."""
        u = x if self.start is None else self.start(x)
        moved = u - self.taken(u)
        return moved if self.strength == 1.0 else x + self.strength * (moved - x)

    def taken(self, u: Tensor) -> Tensor:
        """-F(u)."""
        return self.one * self.pure((u - self.zero) / self.one)

    def pure(self, v: Tensor) -> Tensor:
        """-F(u)/e, of v in units: U·relu(D·v + d) + u₀."""
        if self.pictures:
            hidden = torch.relu(nn.functional.conv2d(v, self.down, self.bias, padding=1))
            return nn.functional.conv2d(hidden, self.up, self.shift, padding=1)
        rows = v.reshape(len(v), -1) if self.dense else v
        hidden = torch.relu(nn.functional.linear(rows, self.down, self.bias))
        return nn.functional.linear(hidden, self.up, self.shift).reshape(v.shape)


class Adapted(nn.Module):
    """A frozen copy of a model with corrections at its input and at its features, what enters its last linear layer.

    Args:
        model: The source model; copied, put into evaluation mode and frozen.
        sample: A few inputs, `(n, …)`.

    Raises:
        InputError: If the model does not give a table of logits for them.
    """

    def __init__(self, model: nn.Module, sample: Tensor) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.corrections = nn.ModuleDict()
        self.head, logits = last_linear(self.model, sample)
        self.classes = logits.shape[1]
        with torch.no_grad():
            self.shapes = {"input": tuple(sample.shape[1:]), "features": tuple(self.parts(sample)[0].shape[1:])}

    def forward(self, x: Tensor) -> Tensor:
        """Logits, `(n, C)`."""
        return self.parts(x)[1]

    def parts(self, x: Tensor, *, corrected: bool = True) -> tuple[Tensor, Tensor]:
        """Features and logits.

        Args:
            x: Inputs.
            corrected: Whether the corrections are at work.
        """
        seen: list[Tensor] = []
        here: Any = self.corrections if corrected else {}

        def hook(_: nn.Module, entering: tuple[Any, ...]) -> tuple[Any, ...]:
            z = here["features"](entering[0]) if "features" in here else entering[0]
            seen.append(z)
            return (z, *entering[1:])

        with _hooked(self.model, self.head, hook):
            logits = table(self.model(here["input"](x) if "input" in here else x))
        if self.head is None:
            logits = here["features"](logits) if "features" in here else logits
            seen.append(logits)
        return seen[-1], logits


def table(out: Any) -> Tensor:
    """The logits of a model's output: a tensor, or what it holds under `logits`.

    Raises:
        InputError: If there is no table.
    """
    logits = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    if logits is None and isinstance(out, dict):
        logits = out.get("logits")
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        form = tuple(logits.shape) if isinstance(logits, Tensor) else type(out).__name__
        raise InputError(f"`model` must return logits (n, C) with C >= 2, or hold them under `logits`, got {form}; wrap it")
    return logits


def last_linear(model: nn.Module, sample: Tensor) -> tuple[str | None, Tensor]:
    """Path of the last linear layer, if what it returns is the logits, and the logits.

    Args:
        model: The model, in evaluation mode.
        sample: Inputs.

    Raises:
        InputError: If the model fails on them, or returns no logits.
    """
    seen: dict[str, Tensor] = {}
    handles = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):

            def hook(_: nn.Module, __: tuple[Any, ...], out: Tensor, path: str = path) -> None:
                seen.pop(path, None)
                seen[path] = out

            handles.append(module.register_forward_hook(hook))
    try:
        with torch.no_grad():
            out = model(sample)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"`model` must take the samples, got {tuple(sample.shape)} and: {first[:120]}; give them the model's shape"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    logits = table(out)
    last = next(reversed(seen), None)
    if last is not None and seen[last].shape == logits.shape and torch.equal(seen[last], logits):
        return last, logits
    return None, logits


@contextmanager
def _hooked(model: nn.Module, path: str | None, hook: Any) -> Iterator[None]:
    """A hook before a module, for as long as the model is run."""
    if path is None:
        yield
        return
    handle = model.get_submodule(path).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
