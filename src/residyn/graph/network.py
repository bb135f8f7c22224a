"""Graph networks on the step: a convolution, and deep stacks of it with an identity path, with an anchor, or with neither."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.graph.diffusion import Diffusion
from residyn.graph.forms import as_diffusion

Kind = Literal["anchored", "residual", "plain"]


class GraphConv(nn.Module):
    """One graph convolution, x ↦ P·x·W + b with P = I - L: each node gets the mean of its neighbourhood, transformed.

    Args:
        inputs: Features a node has, d.
        outputs: Features it gets, d'.
        bias: Whether there is a b.

    Raises:
        InputError: If a width is not positive.

    Reference:
        Kipf & Welling (2017), "Semi-Supervised Classification with Graph Convolutional Networks", arXiv:1609.02907.

    >>> GraphConv(3, 2)(torch.ones(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]])).shape
    torch.Size([4, 2])
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        _widths(inputs=inputs, outputs=outputs)
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor, graph: Any) -> Tensor:
        """P·x·W + b.

        Args:
            x: Features, `(n, d)`.
            graph: A Laplacian `(n, n)`, a `Diffusion`, an `edge_index` `(2, edges)` (loops are added, as Kipf and Welling do),
                or an object that has one.

        Returns:
            `(n, d')`.
        """
        heat = as_diffusion(graph, len(x))
        # the product with P costs by the column: on the narrower side of W
        narrow = self.weight.shape[0] <= self.weight.shape[1]
        y = heat.step(x, 1.0) @ self.weight if narrow else heat.step(x @ self.weight, 1.0)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


class ResidualGNN(nn.Module):
    """A deep graph network: x_0 = relu(W_in·u), `depth` steps, y = W_out·x_L.

    - `"anchored"`: z = x - (1-α)·L·x - α·(x - x_0), a step of diffusion with a pull back to the start, which leaves the
      features something to differ by at any depth; then x⁺ = relu((1-β)·z + β·z·W), β_k = ln(λ/k + 1), W near the identity.
    - `"residual"`: x⁺ = x + h·relu(P·x·W), P = I - L, h = 1/√depth: the identity path alone, which slows the collapse.
    - `"plain"`: x⁺ = relu(P·x·W): features collapse geometrically.

    Args:
        inputs: Features a node has.
        outputs: Numbers a node gets, e.g. classes.
        width: Features between.
        depth: Steps L.
        kind: As above.
        anchor: α in [0, 1).
        strength: λ > 0, how much of W the first steps take.
        dropout: Share of features dropped before each step in training.

    Raises:
        InputError: If an argument breaks its rule.

    Reference:
        Chen, Wei, Huang, Ding & Li (2020), "Simple and Deep Graph Convolutional Networks", arXiv:2007.02133; Li, Müller, Thabet
        & Ghanem (2019), arXiv:1904.03751.

    >>> net = ResidualGNN(5, 3, depth=64)
    >>> net(torch.ones(4, 5), torch.tensor([[0, 1, 2], [1, 2, 3]])).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 64,
        depth: int = 64,
        kind: Kind = "anchored",
        anchor: float = 0.1,
        strength: float = 0.5,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        _widths(inputs=inputs, outputs=outputs, width=width, depth=depth)
        if kind not in get_args(Kind):
            raise InputError(f'`kind` must be "anchored", "residual" or "plain", got {kind!r}')
        if not 0 <= anchor < 1:
            raise InputError(f"`anchor` must lie in [0, 1), got {anchor}; 0.1 is usual")
        if not 0 < strength < math.inf:
            raise InputError(f"`strength` must be > 0, got {strength}; 0.5 is usual")
        if not 0 <= dropout < 1:
            raise InputError(f"`dropout` must lie in [0, 1), got {dropout}")
        self.kind, self.anchor, self.strength, self.dropout = kind, anchor, strength, dropout
        self.stem, self.head = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(width, width)) for _ in range(depth))
        for weight in self.weights:
            nn.init.xavier_uniform_(weight)

    def forward(self, u: Any, graph: Any = None) -> Tensor:
        """The output y.

        Args:
            u: Features, `(n, inputs)`; or an object that has them as `x` and edges as `edge_index`, and then no graph.
            graph: As in `GraphConv`.

        Returns:
            `(n, outputs)`.
        """
        if graph is None:
            if not hasattr(u, "edge_index"):
                raise InputError("`graph` must be given beside features, got None; pass a Laplacian or an edge_index")
            u, graph = u.x, u
        x = self.states(u, graph)[-1]
        y: Tensor = self.head(self._dropped(x))
        return y

    def states(self, u: Tensor, graph: Any) -> list[Tensor]:
        """x_0 … x_L, the features between the steps."""
        heat = as_diffusion(graph, len(u))
        states = [torch.relu(self.stem(self._dropped(u)))]
        for k in range(len(self.weights)):
            states.append(self._step(k, states[-1], states[0], heat))
        return states

    def _step(self, k: int, x: Tensor, start: Tensor, heat: Diffusion) -> Tensor:
        weight, x = self.weights[k], self._dropped(x)
        if self.kind == "plain":
            return torch.relu(heat.step(x, 1.0) @ weight)
        if self.kind == "residual":
            return torch.add(x, torch.relu(heat.step(x, 1.0) @ weight), alpha=1 / math.sqrt(len(self.weights)))
        # x - (1-α)·L·x - α·(x - x_0) = (1-α)·(I - L)·x + α·x_0, in one pass over x
        z = torch.add(heat.matrix.product(x, 1 - self.anchor, self.anchor - 1), start, alpha=self.anchor)
        beta = math.log(self.strength / (k + 1) + 1)
        return torch.relu(torch.addmm(z, z, weight, beta=1 - beta, alpha=beta))

    def _dropped(self, x: Tensor) -> Tensor:
        return dropped(x, self.dropout) if self.training and self.dropout else x

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"kind={self.kind}, depth={len(self.weights)}, anchor={self.anchor:g}"


def dropped(x: Tensor, rate: float) -> Tensor:
    """x with each entry set to 0 with probability p, the others divided by 1 - p; p is `rate` to 2⁻¹⁷.

    On a CPU torch draws a Bernoulli number at a time, which was more than half of a training step on Cora; here a 64-bit
    number serves four entries.

    Args:
        x: Any shape.
        rate: In [0, 1).

    Returns:
        Of the shape of x.

    >>> int((dropped(torch.ones(40_000), 0.25) == 0).sum()) in range(9_600, 10_400)
    True
    """
    if x.device.type != "cpu":
        return nn.functional.dropout(x, rate)
    cut = min(round(rate * 65536), 65535)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= cut - 32768
    return x * kept.to(x.dtype).mul_(65536 / (65536 - cut))


def _widths(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"`{name}` must be a whole number, at least 1, got {size!r}")
