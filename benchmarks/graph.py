"""Diffusion steps x - η·L·x on graphs, and deep graph networks on Cora.

64 features in single precision, against PyTorch Geometric (its normalised weights made beforehand, so that only the step
counts) and against the memory traffic that no step can avoid: x read, x⁺ written, the matrix read once, at the rate at which
this machine copies large arrays. Ten steps in a row are timed (one on the large graph), as depth takes them. Edges are columns
of `edge_index`, each edge both ways; the graph is random, the worst case, as nothing lies beside its neighbours. Cora (public
split, three seeds) is run if RESIDYN_PLANETOID names `planetoid.npz`; there the columns are accuracies, and the ratio is ours
over the other.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Row, in_turn, once
from residyn.graph import Diffusion, ResidualGNN, laplacian, reorder
from residyn.graph.classification import Split, accuracy, fit_nodes
from residyn.training import Plan

ETA, WIDTH = 0.1, 64


def rows(quick: bool) -> list[Row]:
    """All rows; `quick` leaves out the large graph and Cora."""
    warnings.filterwarnings("ignore", "Sparse CSR tensor support")
    found = _steps("10k nodes, 100k edges", 10_000, _random(10_000, 100_000), (30.0, 1.2, 0.4), 9)
    found += _backward(10_000, _random(10_000, 100_000))
    if not quick:
        found += _steps("1M nodes, 10M edges", 1_000_000, _random(1_000_000, 10_000_000), (4.0, None, None), 3)
        found.append(_reordered(1_000_000))
        found += _cora(os.environ.get("RESIDYN_PLANETOID", ""))
    return found


def _random(n: int, columns: int) -> Tensor:
    """`edge_index` of a random graph: the worst case, as nothing lies beside its neighbours."""
    half = torch.randint(0, n, (2, columns // 2), generator=torch.Generator().manual_seed(0))
    return torch.cat([half, half.flip(0)], dim=1)


def _steps(name: str, n: int, edges: Tensor, asked: tuple[float | None, ...], repeat: int) -> list[Row]:
    heat = Diffusion(laplacian(edges, n))
    x = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(1))
    found, steps = [], 10 if n < 100_000 else 1

    def ours() -> Tensor:
        y = x
        for _ in range(steps):
            y = heat.step(y, ETA)
        return y

    for kind, peer, ask in zip(("edge_index", "CSR"), _peers(edges, n), asked, strict=False):

        def theirs(peer: Callable[[Tensor], Tensor] = peer) -> Tensor:
            y = x
            for _ in range(steps):
                y = peer(y)
            return y

        joined = edges.flatten().unique()  # of an isolated node PyG's Laplacian has 1, ours 0
        torch.testing.assert_close(ours()[joined], theirs()[joined], atol=1e-4, rtol=1e-4)
        mine, its, spread = in_turn(ours, theirs, repeat)
        scale = 1e3 / steps
        found.append(Row(f"{name}: step, PyG from {kind}", scale * mine, scale * its, "ms", ask, f"ratios {spread}"))
    matrix = heat.matrix
    compulsory = 2 * x.nbytes + matrix.values.nbytes + matrix.columns.nbytes + matrix.rows.nbytes
    big = torch.randn(48_000_000)
    target = torch.empty_like(big)
    mine, copy, spread = in_turn(ours, lambda: target.copy_(big), repeat)
    least, mine = copy * compulsory / (2 * big.nbytes), mine / steps
    note = f"{compulsory / 1e6:.0f} MB at {2 * big.nbytes / copy / 1e9:.0f} GB/s; the step takes {mine / least:.2f} times that"
    return [*found, Row(f"{name}: step, compulsory traffic", 1e3 * mine, 1e3 * least, "ms", asked[2], note)]


def _peers(edges: Tensor, n: int) -> list[Callable[[Tensor], Tensor]]:
    """PyTorch Geometric's step from `edge_index`, by message passing, and from CSR; none if it is not installed."""
    try:
        from torch_geometric.nn import MessagePassing
        from torch_geometric.utils import get_laplacian, spmm
    except ImportError:
        return []

    class Step(MessagePassing):
        def __init__(self) -> None:
            super().__init__(aggr="add")

        def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor) -> Tensor:
            return x - ETA * self.propagate(edge_index, x=x, weight=weight)

        def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
            return weight.view(-1, 1) * x_j

    index, weight = get_laplacian(edges, normalization="sym", num_nodes=n)
    step = Step()
    csr = torch.sparse_coo_tensor(index, weight, (n, n), check_invariants=False).coalesce().to_sparse_csr()
    return [lambda x: step(x, index, weight), lambda x: x - ETA * spmm(csr, x)]


def _backward(n: int, edges: Tensor) -> list[Row]:
    """The step and its gradient: a symmetric matrix needs no transpose."""
    heat = Diffusion(laplacian(edges, n))
    x = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = torch.ones(n, WIDTH)
    peers = _peers(edges, n)
    if not peers:
        return []
    mine, its, spread = in_turn(
        lambda: torch.autograd.grad(heat.step(x, ETA), x, y), lambda: torch.autograd.grad(peers[0](x), x, y), 5
    )
    name = "10k nodes, 100k edges: step and gradient, PyG from edge_index"
    return [Row(name, 1e3 * mine, 1e3 * its, "ms", None, f"ratios {spread}")]


def _reordered(n: int) -> Row:
    """Neighbours in the plane, nodes numbered at random, against the same graph reordered."""
    from scipy.spatial import cKDTree

    places = np.random.default_rng(0).random((n, 2))
    near = cKDTree(places).query(places, 6)[1][:, 1:]
    L = laplacian(torch.from_numpy(np.stack([np.repeat(np.arange(n), 5), near.reshape(-1)])), n)
    shuffled, ordered = Diffusion(L), Diffusion(reorder(L).L)
    x = torch.randn(n, WIDTH)
    mine, its, spread = in_turn(lambda: ordered.step(x, ETA), lambda: shuffled.step(x, ETA), 3)
    return Row("1M nodes in the plane: step, reordered against not", 1e3 * mine, 1e3 * its, "ms", None, f"ratios {spread}")


def _cora(path: str) -> list[Row]:
    """Test accuracy of 64 layers; the columns are ours and 83 %, then ours and two layers, in per cent."""
    if not os.path.exists(path):
        sys.stderr.write("Cora is left out: name planetoid.npz by RESIDYN_PLANETOID\n")
        return []
    found = [_trained(path, kind, depth) for kind, depth in (("anchored", 64), ("anchored", 2), ("plain", 64))]
    mean = [100 * float(np.mean([share for share, _ in runs])) for runs in found]
    deep, shallow, plain = ("seeds: " + ", ".join(f"{share:.1%} ({n:.0f} steps)" for share, n in runs) for runs in found)
    # an accuracy is better the larger it is, a cost the smaller: ours stands where the peer's cost does
    return [
        Row("Cora, 64 anchored layers over 83 %", 83.0, mean[0], "%", 1.0, deep),
        Row("Cora, 64 anchored layers over 2", mean[1], mean[0], "%", 1.0, shallow),
        Row("Cora, 64 anchored layers over 64 plain ones", mean[2], mean[0], "%", 1.5, f"the plain network collapses: {plain}"),
    ]


def _trained(path: str, kind: str, depth: int) -> list[list[float]]:
    """Test accuracy and steps of each seed; training stops after 100 steps without a gain on the validation nodes."""
    from scipy import sparse

    with np.load(path, allow_pickle=False) as file:
        data = {key: file[key] for key in file.files if key.startswith("cora")}
    x = sparse.csr_array(
        (data["cora_x_data"], data["cora_x_indices"], data["cora_x_indptr"]), shape=tuple(data["cora_x_shape"])
    )
    u = torch.from_numpy(x.toarray())
    u = u / u.sum(1, keepdim=True).clamp_min(1)
    labels = torch.from_numpy(data["cora_labels"]).long()
    heat = Diffusion(laplacian(torch.from_numpy(data["cora_edges"]).long().T, len(labels), self_loops=True))
    split = Split(*(torch.from_numpy(data[f"cora_{part}"]).long() for part in ("train", "val", "test")))

    def one(seed: int) -> list[float]:
        torch.manual_seed(seed)
        net = ResidualGNN(u.shape[1], 7, depth=depth, kind=kind, dropout=0.6)  # type: ignore[arg-type]
        plan = Plan(epochs=1500, batch=140, rate=0.01, schedule="constant", patience=100, seed=seed)
        history = fit_nodes(net, u, heat, labels, split, plan)
        return [accuracy(net, u, heat, labels, split.test), float(history.steps)]

    return [once(f"cora {kind} {depth} {seed}", lambda seed=seed: one(seed)) for seed in range(3)]  # type: ignore[misc]
