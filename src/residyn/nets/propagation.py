"""How signals and gradients travel through a deep network at its initialisation: what theory says, and what is so."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.nets.resnet import ResNet

_DIRECTIONS = 64


def relu_correlation(rho: float) -> float:
    """Correlation of relu(W·x) and relu(W·x'), uncentred, for x and x' of correlation ρ and W wide and Gaussian.

    κ(ρ) = (√(1 - ρ²) + ρ·(π - arccos ρ))/π, which exceeds ρ: each plain layer makes its inputs more alike, until the
    network cannot tell them apart. A residual block takes ρ to (ρ + h²·κ(ρ))/(1 + h²) only.

    Args:
        rho: ρ, in [-1, 1].

    Returns:
        κ(ρ), in [0, 1].

    Raises:
        InputError: If ρ is no correlation.

    Reference:
        Cho & Saul (2009), "Kernel Methods for Deep Learning".

    >>> relu_correlation(1.0), round(relu_correlation(0.0), 4)
    (1.0, 0.3183)
    """
    if not -1 <= rho <= 1:
        raise InputError(f"`rho` must be a correlation in [-1, 1], got {rho}")
    return (math.sqrt(1 - rho * rho) + rho * (math.pi - math.acos(rho))) / math.pi


@dataclass(frozen=True)
class GradientProfile:
    """Gradient norms by depth, k = 0 … L, in natural logarithms relative to the last.

    Args:
        measured: Mean over samples of log(‖∂loss/∂x_k‖/‖∂loss/∂x_L‖), by backpropagation.
        theory: The same, if the gradient met each block's Jacobian from a random direction: the sum over the blocks
            behind k of the mean of log‖Jᵀu‖, u uniform on the sphere.
        spread: Standard deviation of that sum.
    """

    measured: list[float]
    theory: list[float]
    spread: list[float]


def gradient_profile(net: ResNet, u: Tensor, labels: Tensor) -> GradientProfile:
    """Measure how the gradient of the cross-entropy travels back, and predict it from each block's Jacobian.

    Args:
        net: A network whose blocks act on vectors.
        u: Inputs, `(B, inputs)`.
        labels: Class numbers, `(B,)`.

    Returns:
        The profile.

    Raises:
        InputError: If the states are not vectors.

    >>> from residyn.nets import MLP
    >>> net = ResNet(nn.Linear(4, 16), [MLP(16, 16, 16) for _ in range(9)], nn.Linear(16, 3))
    >>> len(gradient_profile(net, torch.ones(2, 4), torch.tensor([0, 1])).measured)
    10
    """
    states = net.states(u)
    if states[0].ndim != 2:
        raise InputError(f"`net` must have vectors as states, (B, n), got {tuple(states[0].shape)}; flatten them")
    loss = nn.functional.cross_entropy(net.head(states[-1]), labels, reduction="sum")
    norms = torch.stack([g.norm(dim=1) for g in torch.autograd.grad(loss, states)])
    # float32 has no norm below 1e-45; a gradient that is gone counts as that
    logs = norms.double().clamp(min=1e-45).log()
    measured = (logs - logs[-1]).mean(1)
    moments = [_log_growth(block, x.detach()) for block, x in zip(net.body.blocks, states[:-1], strict=True)]
    mean = _sum_behind([m for m, _ in moments])
    variance = _sum_behind([v for _, v in moments])
    return GradientProfile(measured.tolist(), mean, [math.sqrt(v) for v in variance])


def _log_growth(block: nn.Module, x: Tensor) -> tuple[float, float]:
    """Mean and variance of log‖Jᵀu‖ over random unit u, J the block's Jacobian at the samples x."""
    n = x.shape[1]
    # the products with R directions come from one backward pass over R copies of the samples
    copies = x.repeat(_DIRECTIONS, 1).requires_grad_()
    u = torch.nn.functional.normalize(torch.randn(len(copies), n, dtype=x.dtype, device=x.device), dim=1)
    (product,) = torch.autograd.grad(block(copies), copies, u)
    logs = product.norm(dim=1).double().clamp(min=1e-45).log()
    return float(logs.mean()), float(logs.var())


def _sum_behind(values: list[float]) -> list[float]:
    """Sums of all values from index k on, for k = 0 … L."""
    sums = [0.0]
    for value in reversed(values):
        sums.append(sums[-1] + value)
    return sums[::-1]
