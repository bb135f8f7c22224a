"""Transformers as stacks of residual sub-layers, x⁺ = x + α·F(x), with the norm where one wants it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.step import Residual, Stack

Norm = Literal["pre", "post", "deep", "none"]
Alpha = float | Literal["rezero", "layerscale"]

_LAYER_SCALE = 1e-2


class Attention(nn.Module):
    """Self-attention, softmax(Q·Kᵀ/√d)·V over the tokens, heads side by side, then a projection.

    Args:
        dim: Width of a token.
        heads: Heads; `dim` is divided among them.
        causal: Whether a token sees only itself and those before it.

    Raises:
        InputError: If `dim` cannot be divided among the heads.

    Reference:
        Vaswani et al. (2017), "Attention Is All You Need", arXiv:1706.03762.

    >>> Attention(8, 2)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, heads: int = 4, *, causal: bool = False) -> None:
        super().__init__()
        if dim < 1 or heads < 1 or dim % heads:
            raise InputError(f"`heads` must divide `dim`, {dim}, got {heads}")
        self.heads, self.causal = heads, causal
        self.query_key = nn.Linear(dim, 2 * dim)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """New tokens `(B, n, dim)` from tokens `(B, n, dim)`."""
        q, k = self.query_key(x).chunk(2, -1)
        # (B, n, dim) -> (B, heads, n, dim / heads)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in (q, k, self.value(x)))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        y: Tensor = self.out(mixed.transpose(-3, -2).flatten(-2))
        return y


class FeedForward(nn.Sequential):
    """F(x) = W₂·gelu(W₁·x), token by token.

    Args:
        dim: Width of a token.
        ratio: Width between, over `dim`.

    >>> FeedForward(8)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, ratio: int = 4) -> None:
        super().__init__(nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))


class Transformer(nn.Module):
    """L layers of two sub-layers, attention and feed-forward, each a residual step with its norm N.

    - `norm="pre"`: x⁺ = x + α·F(N(x)), and N once more at the end: the identity path is never touched.
    - `"post"`: x⁺ = N(x + α·F(x)): each norm rescales the identity path too.
    - `"deep"`: x⁺ = N(x + F(x)/κ) with κ = (2L)^¼, and value, output and feed-forward weights scaled by β = (8L)^-¼ at
      the start (DeepNorm, written with the norm's invariance to scale).
    - `"none"`: x⁺ = x + α·F(x).

    Args:
        dim: Width of a token.
        depth: L.
        heads: Heads of attention.
        norm: As above.
        alpha: α: a number; `"rezero"`, a learned number a sub-layer that starts at 0; or `"layerscale"`, a learned number
            a channel that starts at 0.01. With `"deep"` it multiplies 1/κ and is a number.
        causal: Whether a token sees only itself and those before it.
        ratio: Width within the feed-forward over `dim`.
        embed: From the input to tokens; nothing if not given. See `Patches` and `Tokens`.
        head: From tokens `(B, n, dim)` to the output; nothing if not given.

    Raises:
        InputError: If an argument breaks its rule.

    Reference:
        Xiong et al. (2020), "On Layer Normalization in the Transformer Architecture", arXiv:2002.04745; Wang et al. (2022),
        "DeepNet", arXiv:2203.00555; Bachlechner et al. (2020), "ReZero is All You Need", arXiv:2003.04887; Touvron et al.
        (2021), "Going deeper with Image Transformers", arXiv:2103.17239.

    >>> Transformer(dim=16, depth=3, norm="deep")(torch.zeros(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        dim: int = 64,
        depth: int = 6,
        heads: int = 4,
        *,
        norm: Norm = "pre",
        alpha: Alpha = 1.0,
        causal: bool = False,
        ratio: int = 4,
        embed: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post", "deep", "none"):
            raise InputError(f'`norm` must be "pre", "post", "deep" or "none", got {norm!r}')
        if depth < 1:
            raise InputError(f"`depth` must be >= 1, got {depth}")
        if isinstance(alpha, str) and (alpha not in ("rezero", "layerscale") or norm == "deep"):
            raise InputError(f'`alpha` must be a number, or "rezero" or "layerscale" where norm is not "deep", got {alpha!r}')
        self.norm, self.alpha, self.causal = norm, alpha, causal
        branches = [f for _ in range(depth) for f in (Attention(dim, heads, causal=causal), FeedForward(dim, ratio))]
        if norm == "deep":
            for branch in branches:
                scale_initialisation(branch, (8 * depth) ** -0.25)
        self.embed = nn.Identity() if embed is None else embed
        self.layers = Stack([_sublayer(f, dim, norm, self._step(alpha, dim, depth)) for f in branches])
        self.last = nn.LayerNorm(dim) if norm == "pre" else nn.Identity()
        self.head = nn.Identity() if head is None else head

    def _step(self, alpha: Alpha, dim: int, depth: int) -> float | nn.Parameter:
        if alpha == "rezero":
            return nn.Parameter(torch.zeros(()))
        if alpha == "layerscale":
            return nn.Parameter(torch.full((dim,), _LAYER_SCALE))
        return float(alpha) * ((2 * depth) ** -0.25 if self.norm == "deep" else 1.0)

    def forward(self, u: Tensor) -> Tensor:
        """The output, `(B, n, dim)` without a head."""
        y: Tensor = self.head(self.last(self.layers(self.embed(u))))
        return y


class Patches(nn.Module):
    """Tokens of a picture: patches, projected, with a learned position each.

    Args:
        channels: Channels of the picture.
        size: Its height and width.
        patch: Height and width of a patch; divides both.
        dim: Width of a token.

    Raises:
        InputError: If the patches do not fill the picture.

    Reference:
        Dosovitskiy et al. (2021), "An Image is Worth 16x16 Words", arXiv:2010.11929.

    >>> Patches(1, (28, 28), 7, 32)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 16, 32])
    """

    def __init__(self, channels: int, size: tuple[int, int], patch: int, dim: int) -> None:
        super().__init__()
        if patch < 1 or size[0] % patch or size[1] % patch:
            raise InputError(f"`patch` must divide the size {size}, got {patch}; cut or pad the picture")
        self.size = size
        self.project = nn.Conv2d(channels, dim, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn(size[0] * size[1] // patch**2, dim))

    def forward(self, u: Tensor) -> Tensor:
        """Tokens `(B, n, dim)` of pictures `(B, channels, H, W)`."""
        if u.ndim != 4 or tuple(u.shape[2:]) != self.size:
            raise InputError(f"`u` must be pictures (B, channels, {self.size[0]}, {self.size[1]}), got {tuple(u.shape)}")
        # (B, dim, H/p, W/p) -> (B, n, dim)
        tokens: Tensor = self.project(u).flatten(2).transpose(1, 2) + self.place
        return tokens


class Tokens(nn.Module):
    """Tokens of text: a learned vector for each symbol, and for each position.

    Args:
        symbols: Number of symbols.
        length: Longest sequence.
        dim: Width of a token.

    >>> Tokens(100, 12, 8)(torch.zeros(2, 5, dtype=torch.long)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, symbols: int, length: int, dim: int) -> None:
        super().__init__()
        self.length = length
        self.symbol = nn.Embedding(symbols, dim)
        self.place = nn.Parameter(0.02 * torch.randn(length, dim))

    def forward(self, u: Tensor) -> Tensor:
        """Tokens `(B, n, dim)` of symbol numbers `(B, n)`."""
        if u.shape[-1] > self.length:
            raise InputError(f"`u` must be sequences of at most {self.length} symbols, got {u.shape[-1]}; cut them into pieces")
        tokens: Tensor = self.symbol(u) + self.place[: u.shape[-1]]
        return tokens


def scale_initialisation(branch: nn.Module, gain: float) -> None:
    """Scale what carries the signal through a branch: value and output of attention, both maps of a feed-forward.

    Queries and keys only say where to look, and are left alone.

    Args:
        branch: An `Attention` or a `FeedForward`.
        gain: The factor.
    """
    maps = (branch.value, branch.out) if isinstance(branch, Attention) else branch.children()
    with torch.no_grad():
        for layer in maps:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, gain)
                nn.init.zeros_(layer.bias)


def _sublayer(branch: nn.Module, dim: int, norm: Norm, step: float | nn.Parameter) -> nn.Module:
    if norm == "pre":
        return Residual(nn.Sequential(nn.LayerNorm(dim), branch), step)
    if norm == "none":
        return Residual(branch, step)
    return nn.Sequential(Residual(branch, step), nn.LayerNorm(dim))


def entropy(logits: Tensor, symbols: Tensor) -> Tensor:
    """Mean cross-entropy of the next symbol, in nats: position k predicts the symbol at k + 1.

    Args:
        logits: `(B, n, symbols)`.
        symbols: `(B, n + 1)`, of which the first n were the input.

    Returns:
        A scalar; log(number of symbols) for a guess.

    >>> import math
    >>> round(float(entropy(torch.zeros(1, 3, 8), torch.tensor([[1, 2, 3, 4]]))), 4) == round(math.log(8), 4)
    True
    """
    return nn.functional.cross_entropy(logits.flatten(0, -2), symbols[..., 1:].flatten())
