"""256 stiff systems in one batch, each with its own steps: Rodas5P and Kvaerno5 against jitted diffrax `vmap` Kvaerno5.

`python benchmarks/stiff.py [--quick]` prints seconds (best of three, the peer's compilation left out) and ratios. The peers
(`python -m pip install diffrax`) are needed by this file only; without them the ratio is left out and the reason given.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import residyn as rd

RTOL, ATOL = 1e-6, 1e-9


def van_der_pol(t: Any, x: Tensor) -> Tensor:
    """x'' = 1000·(1 - x²)·x' - x."""
    u, v = x.unbind(-1)
    return torch.stack([v, 1000.0 * (1 - u * u) * v - u], -1)


def robertson(t: Any, x: Tensor) -> Tensor:
    """Robertson's kinetics."""
    a, b, c = x.unbind(-1)
    slow, fast, back = 0.04 * a, 3e7 * b * b, 1e4 * b * c
    return torch.stack([back - slow, slow - back - fast, fast], -1)


def starts(name: str, batch: int) -> Tensor:
    """Slightly different initial values."""
    shift = torch.linspace(0, 0.5, batch, dtype=torch.float64)
    if name == "robertson":
        return torch.stack([1 - 0.2 * shift, 0 * shift, 0.2 * shift], -1)
    return torch.stack([2 + shift, 0 * shift], -1)


def best(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def peer(name: str, x0: Tensor, end: float) -> Callable[[], Any] | None:
    """Jitted diffrax, compiled already; `None` if it is not installed."""
    try:
        import diffrax
        import jax
        import jax.numpy as jnp
    except ModuleNotFoundError:
        return None
    jax.config.update("jax_enable_x64", True)

    def field(t: Any, x: Any, args: Any) -> Any:
        if name == "robertson":
            a, b, c = x
            slow, fast, back = 0.04 * a, 3e7 * b * b, 1e4 * b * c
            return jnp.stack([back - slow, slow - back - fast, fast])
        u, v = x
        return jnp.stack([v, 1000.0 * (1 - u * u) * v - u])

    def one(x: Any) -> Any:
        controller = diffrax.PIDController(rtol=RTOL, atol=ATOL)
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Kvaerno5(), 0.0, end, None, x, stepsize_controller=controller, max_steps=100_000
        ).ys

    compiled = jax.jit(jax.vmap(one))
    values = jnp.asarray(x0.numpy())
    compiled(values).block_until_ready()
    return lambda: compiled(values).block_until_ready()


def rows(quick: bool) -> list[dict[str, Any]]:
    """One row a problem and scheme: seconds of ours and of the peer, their ratio, steps, and why a ratio is missing."""
    torch.set_num_threads(1)
    batch, repeats = (32, 1) if quick else (256, 3)
    found: list[dict[str, Any]] = []
    for name, f, end in (("van der pol", van_der_pol, 500.0), ("robertson", robertson, 1e4)):
        x0 = starts(name, batch)
        other = peer(name, x0, end)
        theirs = best(other, repeats) if other else None
        for scheme in (rd.Rodas5P(), rd.Kvaerno5()):
            control = rd.Adaptive(rtol=RTOL, atol=ATOL, per_sample=True)
            stats: list[Any] = []

            def ours(scheme: Any = scheme, f: Any = f, x0: Tensor = x0, control: Any = control, stats: Any = stats) -> None:
                with torch.no_grad():
                    stats[:] = [rd.solve(f, x0, [0.0, end], scheme=scheme, control=control).stats]  # noqa: B023

            seconds = best(ours, repeats)
            found.append(
                {
                    "problem": f"{name}, {batch} systems",
                    "scheme": repr(scheme),
                    "seconds": seconds,
                    "peer": "jitted diffrax vmap Kvaerno5",
                    "peer_seconds": theirs,
                    "ratio": seconds / theirs if theirs else None,
                    "rounds": stats[0].accepted + stats[0].rejected,
                    "note": "" if theirs else "diffrax is not installed: python -m pip install diffrax",
                }
            )
    return found


if __name__ == "__main__":
    for row in rows("--quick" in sys.argv):
        ratio = row["note"] or f"{row['peer_seconds']:.3f} s, ratio {row['ratio']:.2f}"
        print(f"{row['problem']:<28}{row['scheme']:<12}{row['seconds']:.3f} s in {row['rounds']} rounds; peer {ratio}")
