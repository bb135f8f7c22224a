"""The network-side twin: a skip in a chain of layers is the same rank-one update as a bond in a chain of residues."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.protein.entropy import PACE, loop_entropy, pair_overlaps
from residyn.protein.structure import Floats


@dataclass(frozen=True)
class Signal:
    """How well signals pass a network, measured.

    Args:
        gradient: RMS of the loss gradient at the input of each of the layers, first to last, `(n,)`.
        activation: RMS of the state before each layer and after the last, `(n + 1,)`.
        preserved: Gradient at the first layer over that at the last.
        loss: Cross-entropy of the measured batch.
        accuracy: On it, in [0, 1].
    """

    gradient: Floats
    activation: Floats
    preserved: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Shortcut:
    """What a skip from the state before layer i to the state after layer j does to a chain of n layers.

    Args:
        n: Layers; their states are nodes 0…n of a path.
        i: Node it leaves.
        j: Node it enters.
        loop: Layers that it spans: the length of the loop it closes.
        entropy: Loop entropy of the same bond on a chain, cal/mol/K.
        resistance: Effective resistance from input to output, with the skip; without it is n.
        shortest: Fewest steps from input to output; without it n.
        lengths: Steps of each path from input to output, ascending, with how many paths have them.
        mean_distance: Mean effective resistance over all pairs of nodes, with the skip and without.
    """

    n: int
    i: int
    j: int
    loop: int
    entropy: float
    resistance: float
    shortest: int
    lengths: dict[int, int]
    mean_distance: tuple[float, float]


def shortcut(n: int, i: int, j: int, *, stiffness: float = PACE) -> Shortcut:
    """What a skip does to a chain of layers, by the function that says what a disulfide does to a chain of residues.

    The states of n layers are the nodes 0…n of a path. A skip of conductance g between nodes i and j lowers every effective
    resistance by the rank-one update g·(overlap)²/(1 + g·|i - j|), and ln(1 + g·|i - j|) is what its loop entropy counts.

    Args:
        n: Number of layers.
        i: Node the skip leaves, 0…n.
        j: Node it enters, i < j ≤ n.
        stiffness: Conductance of the skip, where a layer's is 1.

    Returns:
        Resistance, paths and entropy.

    Raises:
        InputError: If the skip does not lie in the chain.

    >>> twin = shortcut(20, 4, 16)
    >>> twin.lengths, twin.shortest
    ({9: 1, 20: 1}, 9)
    >>> round(twin.resistance, 3)   # 8 layers, and 12 beside a skip
    8.475
    """
    if n < 1:
        raise InputError(f"`n` must be at least 1 layer, got {n}")
    if not 0 <= i < j <= n:
        raise InputError(
            f"`i` and `j` must be nodes with 0 <= i < j <= {n}, got {i} and {j}; node k is the state after k layers"
        )
    nodes = torch.arange(n + 1, dtype=torch.float64)
    before, after = pair_overlaps(nodes), pair_overlaps(nodes, [(i, j)], stiffness=stiffness)
    pairs = (n + 1) * n
    lengths = path_lengths(n, [(i, j)])
    return Shortcut(
        n=n,
        i=i,
        j=j,
        loop=j - i,
        entropy=float(loop_entropy([(i, j)], stiffness=stiffness)),
        resistance=float(after[0, n]),
        shortest=min(lengths),
        lengths=lengths,
        mean_distance=(float(after.sum()) / pairs, float(before.sum()) / pairs),
    )


def path_lengths(n: int, skips: Iterable[tuple[int, int]]) -> dict[int, int]:
    """How many paths of each length lead from node 0 to node n, over layers k → k+1 and the skips, forwards.

    Args:
        n: Number of layers.
        skips: Pairs of nodes, (from, to).

    Returns:
        Number of steps to number of paths, ascending.

    >>> path_lengths(4, [(k, k + 1) for k in range(4)])   # an identity beside every layer: 2⁴ paths
    {4: 16}
    >>> path_lengths(3, [(0, 2), (1, 3)])
    {2: 2, 3: 1}
    """
    into: dict[int, list[int]] = {}
    for start, end in skips:
        into.setdefault(end, []).append(start)
    ways: list[dict[int, int]] = [{0: 1}]
    for node in range(1, n + 1):
        here: dict[int, int] = {}
        for source in (node - 1, *into.get(node, ())):
            for steps, count in ways[source].items():
                here[steps + 1] = here.get(steps + 1, 0) + count
        ways.append(here)
    return dict(sorted(ways[n].items()))


class SkipChain(nn.Module):
    """A plain chain of n tanh layers with skips: node k+1 = tanh(W·node k + b), plus node i where a skip (i, k+1) ends.

    Args:
        n: Number of layers.
        width: Units of each.
        features: Inputs.
        classes: Outputs.
        skips: Pairs of nodes, (from, to).
        gain: Standard deviation of the weights times √width; below 1 a plain chain fades.

    Raises:
        InputError: If a skip does not lie in the chain.
    """

    def __init__(
        self, n: int, width: int, features: int, classes: int, skips: Iterable[tuple[int, int]] = (), *, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.skips = [(int(i), int(j)) for i, j in skips]
        for i, j in self.skips:
            if not 0 <= i < j <= n:
                raise InputError(f"`skips` must hold nodes with 0 <= i < j <= {n}, got ({i}, {j})")
        self.enter, self.leave = nn.Linear(features, width), nn.Linear(width, classes)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(n))
        for layer in self.layers:
            nn.init.normal_(layer.get_parameter("weight"), std=gain / math.sqrt(width))
            nn.init.zeros_(layer.get_parameter("bias"))

    def states(self, x: Tensor) -> list[Tensor]:
        """States of the nodes 0…n, `(B, width)` each."""
        nodes = [torch.tanh(self.enter(x))]
        for k, layer in enumerate(self.layers):
            new = torch.tanh(layer(nodes[-1]))
            for i, j in self.skips:
                if j == k + 1:
                    new = new + nodes[i]
            nodes.append(new)
        return nodes

    def forward(self, x: Tensor) -> Tensor:
        """Logits, `(B, classes)`."""
        logits: Tensor = self.leave(self.states(x)[-1])
        return logits


def train(model: nn.Module, x: Tensor, y: Tensor, *, steps: int, rate: float = 2e-3, batch: int = 128) -> None:
    """Train a classifier with Adam on batches drawn with torch's generator.

    Args:
        model: The classifier.
        x: Samples, `(N, features)`.
        y: Class numbers, `(N,)`.
        steps: Number of updates.
        rate: Learning rate.
        batch: Samples an update.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        some = torch.randint(len(x), (batch,))
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(x[some]), y[some])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()


def measure(model: SkipChain, x: Tensor, y: Tensor) -> Signal:
    """Measure how gradients and activations pass a chain, on given samples.

    Args:
        model: The chain.
        x: Samples, `(N, features)`.
        y: Class numbers, `(N,)`.

    Returns:
        Root mean squares by depth, with loss and accuracy.
    """
    nodes = model.states(x)
    logits = model.leave(nodes[-1])
    loss = nn.functional.cross_entropy(logits, y)
    grads = torch.autograd.grad(loss, nodes)
    slopes = torch.stack([g.double().square().mean().sqrt() for g in grads[:-1]])
    levels = torch.stack([node.detach().double().square().mean().sqrt() for node in nodes])
    hits = (logits.argmax(1) == y).double().mean()
    first, last = float(slopes[0]), float(slopes[-1])
    return Signal(slopes.numpy(), levels.numpy(), first / last if last > 0 else math.nan, float(loss.detach()), float(hits))
