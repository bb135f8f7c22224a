"""Certified bounds: the norm of a layer, and the Lipschitz constant of what is made of layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from residyn.analysis.composition import Composition, changed_call
from residyn.analysis.layers import Options, layer_bound
from residyn.errors import InputError
from residyn.results import Estimate

Shape = tuple[int, ...]
Key = str | type[nn.Module] | nn.Module


def operator_norm(
    layer: nn.Module, input_shape: int | Sequence[int], *, radius: float | None = None, rtol: float = 1e-3
) -> Estimate:
    """The norm ‖A‖₂ of the linear map that a layer is on inputs of one shape, from above: never below the truth.

    Convolutions of any stride, padding and its mode, dilation and groups, in 1 to 3 dimensions, transposed too: circular ones
    exactly by Fourier; the others by Lanczos, and a Cholesky factorisation of c²I - AᵀA that proves the value; very large
    ones by embedding in a ring. Rounding is counted in. The offset plays no part. Layers that are not linear have their
    Lipschitz constant: activations their largest slope, pooling, layer norms max|γ|/√ε (attained at constant input), attention
    a constant on a ball. A batch norm counts with its running statistics, and `Sequential(conv, norm)` as one map.

    Args:
        layer: A module of torch, one of `branch.Linear`, or a `Sequential` of a linear layer and a batch norm.
        input_shape: Shape of a sample, without the batch: `(C, H, W)` for `Conv2d`, `(n,)` or `n` for `Linear`.
        radius: Largest norm of a token, for attention.
        rtol: Slack to reach for convolutions; `converged` says whether it was.

    Returns:
        An `Estimate` of kind `"certified"`, for the weights as they are (a layer computing in single precision rounds besides).

    Raises:
        InputError: If the layer is not known, does not fit the shape, or has no finite bound as it is.

    Reference:
        Sedghi, Gupta & Long (2019), arXiv:1805.10408; Rump (2006), "Verification of positive definiteness",
        doi:10.1007/s10543-006-0056-1.

    >>> layer = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    >>> _ = nn.init.ones_(layer.weight)
    >>> round(float(operator_norm(layer, (1, 8))), 5), round(1 + 2 * math.cos(math.pi / 9), 5)
    (2.87939, 2.87939)
    """
    shape = as_shape(layer, input_shape)
    change = changed_call(layer)
    if change:
        raise InputError(f"`layer` must be bounded as its class computes, got {change}")
    with torch.no_grad():
        composition = Composition(Options(radius, as_rtol(rtol)), {})
        folded = composition.folded(layer)
        found = layer_bound(folded, shape, composition.options)
    if found is None:
        raise InputError(
            f"`layer` must be a layer whose norm is known, got {type(layer).__name__}; take `lipschitz` for a network, or "
            "derive from branch.Linear and write `norm_bound`"
        )
    return found


def lipschitz(
    module: nn.Module | Callable[[Tensor], Tensor],
    input_shape: int | Sequence[int],
    *,
    known: Mapping[Key, float] | None = None,
    radius: float | None = None,
    rtol: float = 1e-3,
) -> Estimate:
    """A Lipschitz constant K of a network, ‖y(x + δ) - y(x)‖₂ ≤ K·‖δ‖₂ for all x and δ, certified.

    Layers multiply, sums add: a residual block has 1 + |h|·K_F, or the norm of I + hA itself where its branch is linear, and a
    batch norm is folded into the layer before it. Modules of torch, `Residual` and `Stack` are known; others are traced by
    torch.fx down to such layers.

    Args:
        module: The network, in the mode in which it is to be bounded (`.eval()` for batch norm).
        input_shape: Shape of a sample, without the batch.
        known: Constants of modules that are not known, by module, type, or name within the network.
        radius: Largest norm of a token that enters an attention layer; the bound then holds where that is so.
        rtol: Slack of each convolution.

    Returns:
        An `Estimate` of kind `"certified"`; `"upper"` if numbers from `known` take part.

    Raises:
        InputError: If a module is not known or cannot be traced, or the shape does not fit.

    Reference:
        Szegedy et al. (2014), arXiv:1312.6199, for the product of norms; Gouk, Frank, Pfahringer & Cree (2021),
        doi:10.1007/s10994-020-05929-w, for residual blocks and folded batch norm.

    >>> from residyn.step import Residual
    >>> float(lipschitz(Residual(nn.ReLU(), step=0.5), 4))
    1.5
    """
    if not isinstance(module, nn.Module):
        from residyn.analysis.slopes import FUNCTIONS

        if not callable(module) or module not in FUNCTIONS:
            raise InputError(f"`module` must be an nn.Module, got {module!r}; wrap it, and give its bound in `known`")
        module = FUNCTIONS[module]()
    table = dict(known or {})
    for key, value in table.items():
        if not (isinstance(value, (int, float)) and value >= 0 and math.isfinite(value)):
            raise InputError(f"`known` must hold constants >= 0, got {value!r} for {key!r}")
    shape = as_shape(module, input_shape)
    with torch.no_grad():
        composition = Composition(Options(radius, as_rtol(rtol)), table)
        value, _ = composition.bound(module, shape, type(module).__name__)
    return Estimate(
        composition.rounded(value), "upper" if composition.told else "certified", composition.products, composition.converged
    )


def as_shape(layer: Any, input_shape: int | Sequence[int]) -> Shape:
    """The shape of a sample as a tuple of positive numbers."""
    if not isinstance(layer, nn.Module):
        raise InputError(f"`layer` must be an nn.Module, got {type(layer).__name__}; did it and the shape change places?")
    shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        raise InputError(f"`input_shape` must be positive sizes of a sample, got {input_shape}; e.g. (3, 32, 32)")
    return shape


def as_rtol(rtol: float) -> float:
    """The slack to reach, if it is one."""
    if not 0 < rtol < 1:
        raise InputError(f"`rtol` must be a relative slack in (0, 1), got {rtol}; 1e-3 is the default")
    return rtol
