"""Audit a trained network, ask what if, and take out the blocks it does without.

A residual net of twelve blocks learns to read handwritten digits, with stochastic depth, so that no block is needed alone. The
audit then finds the blocks, says what each does and what is wrong, and `prune` takes out as many as leave the accuracy on 300
held-out pictures what it is; the smaller net is judged on 397 others.

Expected: 12 blocks; no failure among the findings; at least 15 % of the time saved for at most 1 % of the accuracy.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import residyn as rd
from residyn.nets import MLP, ResNet
from residyn.nets.resnet import survival


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1,797 pictures of 8×8 pixels, and what they show."""
    data = load_digits()
    return torch.tensor(data.data, dtype=torch.float32) / 8 - 1, torch.tensor(data.target)


def trained(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """Twelve blocks, dropped now and then while they learn."""
    torch.manual_seed(0)
    net = ResNet(nn.Linear(64, 96), [MLP(96, 192, 96) for _ in range(12)], nn.Linear(96, 10), keep=survival(12, 0.5))
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
    for _ in range(25):
        for batch in torch.randperm(len(x)).split(100):
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return net.eval()


def accuracy(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of the pictures that are read right."""
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def main() -> int:
    """Train, audit, prune; 0 if the figures are as stated."""
    torch.set_num_threads(1)
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    net = trained(x[:1100], y[:1100])
    audit = rd.audit(net, x[1100:1400], targets=y[1100:1400])
    say = sys.stdout.write
    say(f"{len(audit.blocks)} blocks (expected 12), accuracy {audit.metric[1] if audit.metric else 0:.3f}\n")
    for block in audit.blocks:
        say(f"  {block.name:15} ‖F‖/‖x‖ {block.ratio:.2f}  ‖∂F/∂x‖₂ {block.jacobian_norm:.2f} ≤ K_F {block.bound:.2f}")
        say(f"  dropped {block.dropped:+.3f}\n")
    for finding in audit.findings:
        say(f"  {finding.verdict}: {finding.title}\n")
    fresh, truth = x[1400:], y[1400:]
    with audit.patch(scale={block.name: 0.5 for block in audit.blocks}):
        say(f"with every branch halved: accuracy {accuracy(net, fresh, truth):.3f}\n")
    pruned = audit.retrofit.prune(loss=0.0, repeat=15)
    before, after = accuracy(net, fresh, truth), accuracy(pruned.model, fresh, truth)
    say(f"without {len(pruned.dropped)} blocks: accuracy on fresh pictures {before:.3f} → {after:.3f}, ")
    say(
        f"{pruned.saved:.0%} of the time and {pruned.parameters[0] - pruned.parameters[1]} parameters saved (expected ≥ 15 %)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "audit.html")
        audit.to_html(page)
        say(f"the page has {len(page.read_text('utf-8')) // 1000} kB\n")
    failed = any(finding.verdict == "fail" for finding in audit.findings)
    return 0 if len(audit.blocks) == 12 and not failed and after >= 0.99 * before and pruned.saved >= 0.15 else 1


if __name__ == "__main__":
    raise SystemExit(main())
