"""Graph networks: their steps against dense algebra, what depth does to features, and learning on a small graph."""

from types import SimpleNamespace

import networkx
import pytest
import torch

from residyn import InputError
from residyn.graph import Diffusion, GraphConv, ResidualGNN, dirichlet_energy, laplacian, rank
from residyn.graph.classification import Split, accuracy, fit_nodes, split_nodes
from residyn.graph.network import dropped
from residyn.training import Plan


@pytest.fixture(scope="module")
def karate():
    graph = networkx.karate_club_graph()
    edges = torch.tensor(list(graph.edges)).T
    labels = torch.tensor([int(club == "Officer") for _, club in graph.nodes(data="club")])
    return edges, labels, torch.eye(34) - laplacian(edges, 34, self_loops=True).to_dense()


@pytest.mark.parametrize("outputs", [2, 9])
def test_convolution_is_kipf_and_wellings(karate, outputs):
    edges, _, P = karate
    x, conv = torch.randn(34, 5), GraphConv(5, outputs)
    torch.testing.assert_close(conv(x, edges), P @ x @ conv.weight + conv.bias, atol=1e-5, rtol=1e-4)
    bare = GraphConv(5, outputs, bias=False)
    torch.testing.assert_close(bare(x, laplacian(edges, 34, self_loops=True)), P @ x @ bare.weight, atol=1e-5, rtol=1e-4)
    assert repr(conv) == f"GraphConv(5, {outputs})"


def test_agrees_with_pytorch_geometric(karate):
    nn = pytest.importorskip("torch_geometric.nn")
    edges, _, _ = karate
    both = torch.cat([edges, edges.flip(0)], 1)
    x = torch.randn(34, 5)
    peer, ours = nn.GCNConv(5, 3), GraphConv(5, 3)
    ours.weight.data, ours.bias.data = peer.lin.weight.data.T.clone(), peer.bias.data
    torch.testing.assert_close(ours(x, both), peer(x, both), atol=1e-5, rtol=1e-4)


def test_anchored_step_is_the_equation(karate):
    edges, _, P = karate
    net = ResidualGNN(5, 2, width=8, depth=3, dropout=0.0)
    u = torch.randn(34, 5)
    states = net.states(u, edges)
    assert len(states) == 4
    for k in range(3):
        z = 0.9 * P @ states[k] + 0.1 * states[0]
        beta = torch.log(torch.tensor(0.5 / (k + 1) + 1))
        torch.testing.assert_close(states[k + 1], torch.relu((1 - beta) * z + beta * z @ net.weights[k]), atol=1e-5, rtol=1e-4)


def test_plain_and_residual_steps_are_their_equations(karate):
    edges, _, P = karate
    u = torch.randn(34, 5)
    for kind in ("plain", "residual"):
        net = ResidualGNN(5, 2, width=8, depth=4, kind=kind, dropout=0.0)
        x0, x1 = net.states(u, edges)[:2]
        update = torch.relu(P @ x0 @ net.weights[0])
        torch.testing.assert_close(x1, update if kind == "plain" else x0 + update / 2, atol=1e-5, rtol=1e-4)


def test_forms_of_a_graph_are_one(karate):
    edges, _, _ = karate
    net = ResidualGNN(5, 2, width=8, depth=3).eval()
    u = torch.randn(34, 5)
    y = net(u, edges)
    L = laplacian(edges, 34, self_loops=True)
    data = SimpleNamespace(x=u, edge_index=torch.cat([edges, edges.flip(0)], 1), edge_weight=torch.ones(2 * edges.shape[1]))
    for other in (net(u, L), net(u, Diffusion(L)), net(data), net(u, data)):
        torch.testing.assert_close(other, y, atol=1e-5, rtol=1e-4)


def test_a_graph_that_was_changed_in_place_is_read_anew(karate):
    conv, x = GraphConv(3, 3), torch.randn(4, 3)
    edges = torch.tensor([[0, 1], [1, 2]])
    before = conv(x, edges)
    torch.testing.assert_close(conv(x, edges), before)
    edges[1, 0] = 3
    assert not torch.allclose(conv(x, edges), before)


def test_depth_collapses_the_plain_network_and_not_the_anchored_one(karate):
    edges, _, _ = karate
    heat = Diffusion(laplacian(edges, 34, self_loops=True))
    u = torch.randn(34, 5, generator=torch.Generator().manual_seed(0))
    quotients, ranks = {}, {}
    for kind in ("plain", "residual", "anchored"):
        torch.manual_seed(0)
        last = ResidualGNN(5, 2, width=16, depth=64, kind=kind).eval().states(u, heat)[-1].detach().double()
        last = last / last.norm()
        quotients[kind], ranks[kind] = float(dirichlet_energy(last, heat)), rank(last, rtol=1e-3)
    assert quotients["plain"] < 1e-6 < quotients["residual"] < quotients["anchored"]
    assert ranks["plain"] == 1 < ranks["anchored"]


@pytest.mark.parametrize("rate", [0.1, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_keeps_its_share_and_the_mean(rate, dtype):
    torch.manual_seed(0)
    n = 300_001  # no multiple of the four entries that share a number
    x = torch.full((n,), 2.0, dtype=dtype, requires_grad=True)
    y = dropped(x, rate)
    zeros = y == 0
    # four standard deviations of a share
    room = 4 * (rate * (1 - rate) / n) ** 0.5
    assert abs(float(zeros.double().mean()) - rate) < room
    for k in range(4):  # each of the four, and neighbours independent
        assert abs(float(zeros[k::4].double().mean()) - rate) < 2 * room
    pairs = float((zeros[:-1] & zeros[1:]).double().mean())
    assert abs(pairs - rate**2) < 2 * room
    kept = y[~zeros]
    # p is rounded to 1/65536, half of it off at most
    torch.testing.assert_close(kept, torch.full_like(kept, 2 / (1 - rate)), atol=0, rtol=2**-17 / (1 - rate) + 1e-6)
    y.sum().backward()
    torch.testing.assert_close(2 * x.grad, y, atol=0, rtol=0)
    torch.manual_seed(0)
    assert torch.equal(dropped(x, rate), y)


def test_learns_a_club_from_two_members_and_repeats_itself(karate):
    edges, labels, _ = karate
    split = Split(torch.tensor([0, 33]), torch.arange(1, 8), torch.arange(8, 33))
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        net = ResidualGNN(34, 2, width=16, depth=8)
        fit_nodes(net, torch.eye(34), edges, labels, split, Plan(epochs=40, batch=2, rate=0.01, schedule="constant"))
        found.append(net(torch.eye(34), edges).detach())
        # the club split along its friendships but for a member or two (Zachary 1977)
        assert accuracy(net, torch.eye(34), edges, labels, split.test) >= 0.85
    assert torch.equal(*found)
    fit_nodes(ResidualGNN(34, 2, width=4, depth=1), torch.eye(34), edges, labels, split)


def test_split_is_disjoint_and_leaves_out_what_has_no_label():
    labels = torch.tensor([0] * 50 + [1] * 6 + [-1] * 4)
    part = split_nodes(labels, 3)
    every = torch.cat([part.train, part.validation, part.test])
    assert len(every) == len(every.unique()) == 56
    assert int((labels[part.train] == 0).sum()) == 20
    assert int((labels[part.train] == 1).sum()) == 3
    assert int(labels[every].min()) == 0
    assert torch.equal(split_nodes(labels, 3).test, part.test)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: GraphConv(0, 2), "`inputs` must be a whole number, at least 1, got 0"),
        (lambda: ResidualGNN(2, 2, depth=0), "`depth` must be a whole number, at least 1, got 0"),
        (lambda: ResidualGNN(2, 2, kind="deep"), '`kind` must be "anchored", "residual" or "plain", got \'deep\''),
        (lambda: ResidualGNN(2, 2, anchor=1.0), r"`anchor` must lie in \[0, 1\), got 1.0"),
        (lambda: ResidualGNN(2, 2, strength=0.0), "`strength` must be > 0, got 0.0"),
        (lambda: ResidualGNN(2, 2, dropout=1.0), r"`dropout` must lie in \[0, 1\), got 1.0"),
        (lambda: ResidualGNN(2, 2)(torch.zeros(3, 2)), "`graph` must be given beside features, got None"),
        (
            lambda: GraphConv(2, 2)(torch.zeros(3, 2), "graph"),
            "`graph` must be a Laplacian, a Diffusion or an edge_index, got str",
        ),
        (lambda: split_nodes(torch.zeros(9, dtype=torch.int64), 0), "`labels` must have at least two classes, got 1"),
        (lambda: split_nodes(torch.tensor([0, 0, 0, 1]), 0), "`labels` must have three nodes a class, got 1 of class 1"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_entries_of_a_laplacian_that_were_changed_are_read_anew_and_inference_tensors_are_taken(karate):
    edges, _, _ = karate
    x = torch.randn(34, 3)
    L = laplacian(edges, 34)
    before = dirichlet_energy(x, L)
    assert dirichlet_energy(x, L) == before
    L.values().mul_(2)
    torch.testing.assert_close(dirichlet_energy(x, L), 2 * before)
    with torch.inference_mode():
        torch.testing.assert_close(GraphConv(3, 3)(x, edges.clone()).shape, x.shape)
