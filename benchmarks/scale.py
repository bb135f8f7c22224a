"""How the cost of each job grows with its size: processor seconds, and the exponent between the two largest sizes.

Run from the checkout:  PYTHONPATH=src:. python -m benchmarks.scale [--write]
With --write the table of docs/scale.md is replaced. One thread, the least of three runs.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- begin: python -m benchmarks.scale --write -->", "<!-- end -->"
Job = Callable[[], object]


def _protein(n: int) -> Job:
    from residyn.protein.entropy import pair_entropies

    positions = torch.arange(n, dtype=torch.float64)
    return lambda: pair_entropies(positions, [(3, 40), (4, 32)])


def _picture(side: int) -> Job:
    from residyn.inverse import deblur, gaussian

    picture = np.random.default_rng(0).random((side, side))
    return lambda: deblur(picture, gaussian(1.5))


def _graph(n: int) -> Job:
    from residyn.graph import Diffusion, laplacian

    edges = torch.randint(n, (2, 8 * n), generator=torch.Generator().manual_seed(0))
    heat, x = Diffusion(laplacian(edges, n)), torch.randn(n, 16)
    return lambda: [heat.step(x, 0.5) for _ in range(10)]


def _molecule(n: int) -> Job:
    """The dense algebra of one step, n functions: an exponential, and its product with the orbitals."""
    matrix = torch.randn(n, n, dtype=torch.float64)
    hermitian = (matrix + matrix.T).to(torch.complex128)
    orbitals = torch.randn(n, n // 2, dtype=torch.complex128)
    return lambda: torch.linalg.matrix_exp(-0.1j * hermitian / n) @ orbitals


def _audit(depth: int) -> Job:
    import residyn as rd
    from residyn.nets import MLP, ResNet

    net = ResNet(torch.nn.Linear(32, 64), [MLP(64, 64, 64) for _ in range(depth)], torch.nn.Linear(64, 10))
    x = torch.randn(32, 32)
    return lambda: rd.audit(net, x)


def _calibrate(samples: int) -> Job:
    from residyn.calibrate import Shrink

    labels = torch.randint(10, (samples,))
    logits = torch.randn(samples, 10) + 2 * torch.nn.functional.one_hot(labels, 10)
    return lambda: Shrink().fit(logits, labels)


def _solve(batch: int) -> Job:
    import residyn as rd

    net = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.Linear(64, 16))
    x = torch.randn(batch, 16)
    return lambda: rd.solve(rd.autonomous(net), x, [0.0, 1.0], scheme=rd.RK4(), control=rd.Fixed(steps=20))


JOBS: tuple[tuple[str, str, tuple[int, ...], Callable[[int], Job]], ...] = (
    ("`disulfide`: entropy of all pairs", "residues", (500, 1000, 2000), _protein),
    ("`deblur`, method auto", "pixels along a side", (128, 256, 512), _picture),
    ("`graph`: ten explicit steps, 16 features", "nodes, 8 edges each", (20_000, 80_000, 320_000), _graph),
    ("`spectrum`: exponential of one step", "basis functions", (100, 200, 400), _molecule),
    ("`audit`: a residual MLP", "blocks", (4, 8, 16), _audit),
    ("`calibrate`: the fit of λ", "samples", (10_000, 40_000, 160_000), _calibrate),
    ("`rd.solve`: RK4, 20 steps, a small network", "samples", (1000, 4000, 16_000), _solve),
)


def seconds(job: Job) -> float:
    """Processor seconds, the least of three."""
    job()
    found = []
    for _ in range(3):
        start = time.process_time()
        job()
        found.append(time.process_time() - start)
    return min(found)


def table() -> str:
    """The table as Markdown."""
    torch.set_num_threads(1)
    lines = ["| job | size | sizes | processor seconds | exponent |", "|---|---|---|---|---:|"]
    for name, size, sizes, make in JOBS:
        times = [seconds(make(n)) for n in sizes]
        exponent = math.log(times[-1] / times[-2]) / math.log(sizes[-1] / sizes[-2])
        row = (name, size, ", ".join(f"{n:,}" for n in sizes), ", ".join(f"{t:.3g}" for t in times), f"{exponent:.2f}")
        lines.append(f"| {' | '.join(row)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """Print the table, and put it into the page if asked."""
    found = table()
    if "--write" in sys.argv:
        text = PAGE.read_text("utf-8")
        PAGE.write_text(re.sub(f"{BEGIN}.*{END}", f"{BEGIN}\n\n{found}\n\n{END}", text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
