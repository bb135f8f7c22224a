"""How strong a residual sub-layer may be: the step α of y = x + α·F(x) that its Jacobian allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from residyn.analysis import max_stable_step, spectral_norm
from residyn.errors import InputError
from residyn.results import Estimate


@dataclass(frozen=True)
class Admissible:
    """Bounds on α at a state.

    Args:
        norm: Largest α with ‖I + α·J‖₂ ≤ 1, non-expansive; 0 where J has an expanding direction, as real attention has.
        growth: Largest α with ‖I + α·J‖₂^L ≤ G: a stack of L sub-layers grows by G at most.
        simple: (G^(1/L) - 1)/‖J‖₂, which needs the norm alone and is below `growth`; close to ln G/(L·‖J‖₂).
        jacobian: ‖J‖₂.
    """

    norm: Estimate
    growth: Estimate
    simple: float
    jacobian: Estimate


def admissible_alpha(
    attention: Callable[[Tensor], Tensor], x: Tensor, depth: int, growth: float = math.e, *, rtol: float = 1e-2
) -> Admissible:
    """How large α of y = x + α·F(x) may be, from the Jacobian J = ∂F/∂x at x.

    Args:
        attention: F: attention or any other branch; its fused kernels, which have no forward derivative, are set aside.
        x: Tokens `(B, n, dim)`; the norm is over all samples of the batch, so the bound is good for each.
        depth: L, sub-layers in a stack.
        growth: G > 1, the growth allowed over the whole stack.
        rtol: Accuracy of ‖J‖₂.

    Returns:
        The bounds.

    Raises:
        InputError: If `growth` or `depth` breaks its rule.

    Reference:
        Kim, Papamakarios & Mnih (2021), "The Lipschitz Constant of Self-Attention", arXiv:2006.04710.

    >>> import torch
    >>> found = admissible_alpha(lambda x: -2 * x, torch.ones(1, 3, 4), depth=10)
    >>> float(found.norm), round(found.simple, 4), round(float(found.growth), 4)
    (1.0, 0.0526, 1.0526)
    """
    if not growth > 1:
        raise InputError(f"`growth` must be > 1, got {growth}; 1 is asked by the bound `norm`")
    if depth < 1:
        raise InputError(f"`depth` must be >= 1, got {depth}")
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = spectral_norm(attention, x, rtol=rtol)
        norm = max_stable_step(attention, x, criterion="norm")
        grown = max_stable_step(attention, x, criterion="growth", growth=growth, depth=depth)
    value = float(jacobian)
    simple = math.expm1(math.log(growth) / depth) / value if value else math.inf
    return Admissible(norm, grown, simple, jacobian)
