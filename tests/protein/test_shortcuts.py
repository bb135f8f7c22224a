"""A skip in a network is a bond on a chain: same update, counted paths, measured gradients."""

import itertools

import networkx
import numpy as np
import pytest
import torch

from residyn.analysis.resistance import effective_resistance, path_laplacian
from residyn.errors import InputError
from residyn.protein import loop_entropy, shortcut
from residyn.protein.shortcuts import SkipChain, measure, path_lengths, train


@pytest.mark.parametrize(("n", "i", "j"), [(20, 4, 16), (7, 0, 7), (12, 3, 5)])
def test_the_twin_is_the_laplacian_with_an_edge_more(n, i, j):
    twin = shortcut(n, i, j)
    L = path_laplacian(n + 1)
    for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
        L[a, b] += sign * 2.0228
    pairs = torch.combinations(torch.arange(n + 1))
    resistance = effective_resistance(L, pairs)
    assert twin.resistance == pytest.approx(float(resistance[n - 1]), rel=1e-10)  # row n - 1 is the pair (0, n)
    assert twin.mean_distance[0] == pytest.approx(float(resistance.mean()), rel=1e-10)
    assert twin.mean_distance[1] == pytest.approx((n + 2) / 3)  # mean |a - b| of a path of n + 1 nodes
    assert twin.entropy == float(loop_entropy([(i, j)]))
    assert twin.loop == j - i


def test_paths_are_those_networkx_walks():
    skips = [(0, 3), (2, 6), (3, 6), (1, 5)]
    graph = networkx.DiGraph([*((k, k + 1) for k in range(7)), *skips])
    lengths = [len(path) - 1 for path in networkx.all_simple_paths(graph, 0, 7)]
    assert path_lengths(7, skips) == {k: lengths.count(k) for k in sorted(set(lengths))}
    assert shortcut(20, 4, 16).shortest == 9
    doubled = networkx.MultiDiGraph([*((k, k + 1) for k in range(5)), (2, 3)])
    assert sum(path_lengths(5, [(2, 3)]).values()) == sum(1 for _ in networkx.all_simple_paths(doubled, 0, 5))


def test_measured_gradients_are_finite_differences():
    torch.manual_seed(0)
    net = SkipChain(4, 6, 5, 3, [(1, 3)]).double()
    x, y = torch.randn(10, 5, dtype=torch.float64), torch.randint(0, 3, (10,))
    found = measure(net, x, y)
    states = net.states(x)

    def loss_from(k, state):
        nodes = [*[s.detach() for s in states[:k]], state]
        for m in range(k, 4):
            new = torch.tanh(net.layers[m](nodes[-1]))
            if m == 2:
                new = new + nodes[1]
            nodes.append(new)
        return torch.nn.functional.cross_entropy(net.leave(nodes[-1]), y)

    for k in range(4):
        state = states[k].detach()
        slope = torch.zeros_like(state)
        for a, b in itertools.product(range(10), range(6)):
            bump = torch.zeros_like(state)
            bump[a, b] = 1e-5
            slope[a, b] = (loss_from(k, state + bump) - loss_from(k, state - bump)).detach() / 2e-5
        assert found.gradient[k] == pytest.approx(float(slope.square().mean().sqrt()), rel=1e-6)
    assert found.preserved == pytest.approx(found.gradient[0] / found.gradient[-1])
    assert found.activation.shape == (5,)


def test_a_trained_chain_with_a_skip_passes_more_gradient_than_without():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(4, 16, generator=generator) * 2
    y = torch.randint(0, 4, (600,), generator=generator)
    x = centres[y] + torch.randn(600, 16, generator=generator)
    found = {}
    for name, skips in (("plain", []), ("skip", [(2, 18)])):
        torch.manual_seed(3)
        net = SkipChain(20, 24, 16, 4, skips, gain=0.8)
        train(net, x, y, steps=25)
        found[name] = measure(net, x, y)
    assert found["skip"].gradient[0] > 5 * found["plain"].gradient[0]
    assert np.isfinite(found["skip"].activation).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: shortcut(0, 0, 0), "`n` must be at least 1 layer, got 0"),
        (lambda: shortcut(5, 3, 3), "`i` and `j` must be nodes with 0 <= i < j <= 5, got 3 and 3"),
        (lambda: shortcut(5, 0, 6), "0 <= i < j <= 5, got 0 and 6"),
        (lambda: SkipChain(3, 4, 4, 2, [(2, 1)]), "`skips` must hold nodes with 0 <= i < j <= 3, got (2, 1)"),
    ],
)
def test_refused(call, words):
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
