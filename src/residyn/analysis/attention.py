"""Dot-product self-attention: not Lipschitz on all of space, but on every ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from residyn.errors import InputError

Shape = tuple[int, ...]


def attention_bound(layer: nn.MultiheadAttention, shape: Shape, radius: float | None) -> float:
    """A Lipschitz constant of self-attention x → layer(x, x, x) on n tokens of norm at most R.

    With A = W_qᵀW_k/√d, P the attention matrix and x̄_i = Σ_j P_ij·x_j, a head changes by

        δf_i = V·[ Σ_j P_ij·δ_j  +  Cov_i·Aᵀ·δ_i  +  Σ_j P_ij·(x_j - x̄_i)·(A-row_i·δ_j) ],

    Cov_i the covariance of the tokens under P_i, ‖Cov_i‖ ≤ R², and A-row_i = (W_q·x_i + b_q)ᵀW_k/√d. As P has row sums 1,
    ‖P‖₂ ≤ √n, and by Cauchy–Schwarz the last term is at most R·‖A-row‖·√n: a head is

        ‖V‖·( √n + R²·‖A‖ + √n·R·(R·‖A‖ + ‖W_kᵀb_q‖/√d) )-Lipschitz,

    and heads add up through the output matrix. Masks and dropout in evaluation mode do not raise it.

    Args:
        layer: The layer, with one embedding size for queries, keys and values.
        shape: `(n, E)`, the tokens of a sample.
        radius: R.

    Returns:
        The constant, in exact arithmetic; the largest of heads' sums is rounded up by the caller.

    Raises:
        InputError: If R is missing, or the layer has other sizes for keys and values.

    Reference:
        Kim, Papamakarios & Mnih (2021), "The Lipschitz Constant of Self-Attention", arXiv:2006.04710; Castin, Ablin & Peyré
        (2024), "How Smooth Is Attention?", arXiv:2312.14820 (√n and R² are of the right order).
    """
    if radius is None:
        raise InputError(
            "`radius` must be given for attention, got None: it is Lipschitz only where tokens have a largest norm"
        )
    if not (radius > 0 and math.isfinite(radius)):
        raise InputError(f"`radius` must be > 0 and finite, got {radius}; it bounds the norm of each token")
    if layer.in_proj_weight is None or layer.bias_k is not None or layer.add_zero_attn:
        raise InputError("`layer` must be self-attention of one embedding size without added keys, got other settings")
    if len(shape) != 2 or shape[1] != layer.embed_dim:
        raise InputError(f"`input_shape` must be (tokens, {layer.embed_dim}), got {shape}; leave the batch out")
    if layer.training and layer.dropout > 0:
        raise InputError(f"`layer` must be in evaluation mode or without dropout, got dropout {layer.dropout}; call .eval()")
    n, heads, d = shape[0], layer.num_heads, layer.head_dim
    query, key, value = layer.in_proj_weight.detach().double().chunk(3)
    bias = layer.in_proj_bias.detach().double().chunk(3)[0] if layer.in_proj_bias is not None else torch.zeros(layer.embed_dim)
    out = layer.out_proj.weight.detach().double()

    def head(matrix: Tensor, h: int) -> Tensor:
        return matrix[h * d : (h + 1) * d]

    sums, stacked = 0.0, 0.0
    for h in range(heads):
        q, k, v, b = head(query, h), head(key, h), head(value, h), head(bias.double(), h)
        size = _norm(q.T @ k) / math.sqrt(d)
        shift = float((b @ k).norm()) / math.sqrt(d)
        inner = math.sqrt(n) + radius**2 * size + math.sqrt(n) * radius * (radius * size + shift)
        sums += _norm(out[:, h * d : (h + 1) * d] @ v) * inner
        stacked += (_norm(v) * inner) ** 2
    return min(sums, _norm(out) * math.sqrt(stacked)) * (1 + 1e-12)


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))
