"""Learning the class of each node from the few that are labelled: a whole graph is one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.graph.forms import as_diffusion
from residyn.graph.network import ResidualGNN
from residyn.training import History, Moment, Plan, Trainer


@dataclass(frozen=True)
class Split:
    """Which nodes are learned from, which choose the weights, and which are judged on: node numbers, disjoint."""

    train: Tensor
    validation: Tensor
    test: Tensor


def split_nodes(labels: Tensor, seed: int, *, per_class: int = 20) -> Split:
    """`per_class` nodes of each class to learn from (at most half of the class), then a third of the rest to choose by.

    Args:
        labels: Class numbers, `(n,)`; -1 for a node without one, which is in no part.
        seed: Seed of the choice.
        per_class: Nodes a class.

    Returns:
        The parts.

    Raises:
        InputError: If there are fewer than two classes, or a class has fewer than three nodes.

    >>> part = split_nodes(torch.arange(4).repeat(50), seed=0)
    >>> len(part.train), len(part.validation), len(part.test)
    (80, 40, 80)
    """
    classes = torch.unique(labels[labels >= 0]).tolist()
    if len(classes) < 2:
        raise InputError(
            f"`labels` must have at least two classes, got {len(classes)}; with one there is nothing to tell apart"
        )
    generator = torch.Generator().manual_seed(seed)
    train, rest = [], []
    for value in classes:
        nodes = (labels == value).nonzero().flatten()
        if len(nodes) < 3:
            raise InputError(
                f"`labels` must have three nodes a class, got {len(nodes)} of class {value}; merge it with another"
            )
        nodes = nodes[torch.randperm(len(nodes), generator=generator)]
        count = max(1, min(per_class, len(nodes) // 2))
        train.append(nodes[:count])
        rest.append(nodes[count:])
    others = torch.cat(rest)
    others = others[torch.randperm(len(others), generator=generator)]
    return Split(torch.cat(train).sort().values, others[: len(others) // 3], others[len(others) // 3 :])


def adam(model: ResidualGNN, rate: float, *, deep: float = 0.01, ends: float = 5e-4) -> Callable[[Iterable[nn.Parameter]], Any]:
    """Adam with ℓ² decay that is stronger on the steps than on the ends, as deep graph networks want it."""

    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        inner = {id(weight) for weight in model.weights}
        groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for parameter in parameters:
            groups[id(parameter) not in inner].append(parameter)
        return torch.optim.Adam(
            [{"params": groups[0], "weight_decay": deep}, {"params": groups[1], "weight_decay": ends}], lr=rate
        )

    return make


def fit_nodes(
    model: ResidualGNN,
    x: Tensor,
    graph: Any,
    labels: Tensor,
    split: Split,
    plan: Plan | None = None,
    *,
    progress: Callable[[Moment], None] | None = None,
) -> History:
    """Train a graph network on the labelled nodes, by the one trainer; the weights with the least validation loss stay.

    Args:
        model: What is trained, in place.
        x: Features, `(n, d)`.
        graph: As in `GraphConv`.
        labels: Class numbers, `(n,)`.
        split: Which nodes take part in what.
        plan: How; 200 steps at a constant rate of 0.01, 50 without a gain at most, if not given.
        progress: Told after each step.

    Returns:
        What the run has seen.

    >>> net = ResidualGNN(2, 2, width=8, depth=4, dropout=0.0)
    >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
    >>> ring = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3]])
    >>> part = Split(torch.tensor([0, 3]), torch.tensor([1, 4]), torch.tensor([2, 5]))
    >>> history = fit_nodes(net, torch.eye(2)[labels], ring, labels, part, Plan(epochs=40, batch=2, rate=0.01))
    >>> accuracy(net, torch.eye(2)[labels], ring, labels, part.test)
    1.0
    """
    heat = as_diffusion(graph, len(x))
    if plan is None:
        plan = Plan(epochs=200, batch=len(split.train), rate=0.01, schedule="constant", patience=50)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        (rows,) = batch
        return nn.functional.cross_entropy(net(x, heat)[rows], labels[rows])

    def validate(net: nn.Module) -> float:
        return float(nn.functional.cross_entropy(net(x, heat)[split.validation], labels[split.validation]))

    trainer = Trainer(model, loss, (split.train,), plan, validate=validate, optimiser=adam(model, plan.rate), progress=progress)
    return trainer.run()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, graph: Any, labels: Tensor, nodes: Tensor) -> float:
    """Share of the nodes whose class is found.

    Args:
        model: A graph network; put into evaluation mode.
        x: Features, `(n, d)`.
        graph: As in `GraphConv`.
        labels: Class numbers, `(n,)`.
        nodes: Which nodes, `(m,)`.

    Returns:
        A share in [0, 1].
    """
    found = model.eval()(x, graph)[nodes].argmax(1)
    return float((found == labels[nodes]).double().mean())
