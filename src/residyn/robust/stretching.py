"""How far apart a map takes two points, measured: the lower bound that every Lipschitz constant is held against."""

from __future__ import annotations

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.results import Estimate
from residyn.robust.inputs import Model, as_model, as_samples, quietly


def stretch(model: Model, x: Tensor, *, size: float = 1e-2, steps: int = 60, seed: int = 0) -> Estimate:
    """The largest ‖y(x + δ) - y(x)‖/‖δ‖ that is found by moving both x and δ, from the given samples.

    First δ is turned by power steps δ ← Jᵀ·(y(x + δ) - y(x)) at fixed length, then both ends climb the logarithm of the ratio.

    Args:
        model: The map, from `(B, …)` to a tensor of B rows; a module is taken in evaluation mode, and nothing of it is changed.
        x: Where to begin.
        size: ‖δ‖ at the beginning, as a share of the median ‖x‖.
        steps: Steps of the ascent.
        seed: Seed of the first δ.

    Returns:
        An `Estimate` of kind `"lower"`, up to the rounding of the difference of outputs; its `iterations` are gradients.

    Raises:
        InputError: If an argument breaks its rule.

    >>> layer = torch.nn.Linear(3, 3, bias=False)
    >>> round(float(stretch(layer, torch.randn(4, 3))) / float(torch.linalg.matrix_norm(layer.weight.detach(), 2)), 2)
    1.0
    """
    as_model(model)
    x = as_samples(x)
    if not (size > 0 and isinstance(steps, int) and steps >= 0):
        raise InputError(f"`size` must be > 0 and `steps` a whole number >= 0, got {size} and {steps}")
    generator = torch.Generator().manual_seed(seed)
    with quietly(model, x):
        length = size * float(x.flatten(1).norm(dim=1).median().clamp(min=1e-3))
        delta = _scaled(torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x), length)
        best = 0.0
        for _ in range(12):
            delta = _scaled(_turned(model, x, delta), length)
        ends = [x.clone().requires_grad_(), (x + delta).detach().requires_grad_()]
        optimiser = torch.optim.Adam(ends, lr=length / x[0].numel() ** 0.5)
        for _ in range(steps + 1):
            ratio = _ratio(model, *ends)
            best = max(best, float(torch.nan_to_num(ratio.detach(), 0.0, 0.0).max()))
            for end, gradient in zip(ends, torch.autograd.grad(ratio.clamp(min=1e-30).log().sum(), ends), strict=True):
                end.grad = -torch.nan_to_num(gradient)
            optimiser.step()
    return Estimate(best, "lower", steps + 13)


def _scaled(delta: Tensor, length: float) -> Tensor:
    norm = delta.flatten(1).norm(dim=1).clamp(min=1e-30)
    return delta * (length / norm).reshape(-1, *[1] * (delta.ndim - 1))


def _turned(model: Model, x: Tensor, delta: Tensor) -> Tensor:
    z = x.clone().requires_grad_()
    y = model(z)
    with torch.no_grad():
        away = model(x + delta) - y
    (turned,) = torch.autograd.grad(y, z, away)
    flat = turned.flatten(1).norm(dim=1) > 0
    return torch.where(flat.reshape(-1, *[1] * (x.ndim - 1)), turned, delta)


def _ratio(model: Model, one: Tensor, other: Tensor) -> Tensor:
    apart = (model(other) - model(one)).flatten(1).norm(dim=1)
    return apart / (other - one).flatten(1).norm(dim=1).clamp(min=1e-30)
