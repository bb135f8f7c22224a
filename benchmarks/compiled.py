"""The compiled tiers against jitted diffrax, torchode and torchdiffeq; run by `python -m benchmarks.run compiled`.

256 Lotka–Volterra systems and 256 Van der Pol oscillators (µ = 5), double precision, t from 0 to 10, Dormand–Prince 5(4),
both tolerances 1e-6. A line "a step" divides by each side's own count of steps tried, which have equally many evaluations.
Compiling is left out, and stated in the last rows. A peer that is not installed (`python -m pip install diffrax torchode`)
leaves its rows out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import residyn as rd
from benchmarks.harness import Row, in_turn

TOL, END = 1e-6, 10.0

# One thread on the side of XLA too; read when jax starts.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")


def lotka_volterra(t: Any, z: Tensor) -> Tensor:
    """Prey and predators."""
    x, y = z[..., 0], z[..., 1]
    return torch.stack((1.5 * x - x * y, x * y - 3.0 * y), -1)


def van_der_pol(t: Any, z: Tensor) -> Tensor:
    """x'' = 5·(1 - x²)·x' - x."""
    x, y = z[..., 0], z[..., 1]
    return torch.stack((y, 5.0 * (1 - x * x) * y - x), -1)


PROBLEMS = {"Lotka–Volterra": lotka_volterra, "Van der Pol, µ = 5": van_der_pol}


def starts() -> Tensor:
    """The initial states."""
    return torch.rand(256, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 0.5


def ours(name: str, tier: Any, per_sample: bool) -> tuple[Callable[[], Tensor], int]:
    """A compiled solve, compiled already, and its steps."""
    x0, control = starts(), rd.Adaptive(rtol=TOL, atol=TOL, per_sample=per_sample)

    def run() -> Any:
        with torch.no_grad():
            return rd.solve(PROBLEMS[name], x0, [0.0, END], control=control, compile=tier)

    stats = run().stats
    return lambda: run().x, stats.accepted + stats.rejected


def diffrax(name: str, per_sample: bool) -> tuple[Callable[[], Any], int] | None:
    """Jitted diffrax, the batch as one state or under `vmap`, compiled already, and its steps; `None` if not installed."""
    try:
        import diffrax
        import jax
        import jax.numpy as jnp
    except ImportError:
        return None
    jax.config.update("jax_enable_x64", True)

    def field(t: Any, z: Any, args: Any) -> Any:
        x, y = z[..., 0], z[..., 1]
        if name == "Lotka–Volterra":
            return jnp.stack((1.5 * x - x * y, x * y - 3.0 * y), -1)
        return jnp.stack((y, 5.0 * (1 - x * x) * y - x), -1)

    def one(x: Any) -> Any:
        controller = diffrax.PIDController(rtol=TOL, atol=TOL)
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Dopri5(), 0.0, END, None, x, stepsize_controller=controller, max_steps=100_000
        )
        return found.ys, found.stats["num_steps"]

    compiled = jax.jit(jax.vmap(one) if per_sample else one)
    values = jnp.asarray(starts().numpy())
    steps = int(compiled(values)[1].max())

    def run() -> Any:
        return compiled(values)[0].block_until_ready()

    return run, steps


def torchode(name: str) -> tuple[Callable[[], Any], int] | None:
    """torchode, its `solve` compiled by torch.compile already, and its steps; `None` if it is not installed."""
    try:
        import torchode
    except ImportError:
        return None
    term = torchode.ODETerm(PROBLEMS[name])
    controller = torchode.IntegralController(atol=TOL, rtol=TOL, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
    times = torch.tensor([0.0, END], dtype=torch.float64).expand(256, -1).contiguous()
    problem = torchode.InitialValueProblem(y0=starts(), t_eval=times)
    compiled = torch.compile(solver.solve)  # torch.compile(solver) would compile `forward`, which it does not have

    def run() -> Any:
        with torch.no_grad():
            return compiled(problem)

    return run, int(run().stats["n_steps"].max())


def against_diffrax(repeat: int) -> Iterator[Row]:
    """The whole solve, per step: within 1.5 times asked, that is a ratio of 1/1.5."""
    for name in PROBLEMS:
        for per_sample in (False, True):
            peer = diffrax(name, per_sample)
            if peer is None:
                continue
            run, steps = ours(name, "solve", per_sample)
            mine, theirs, spread = in_turn(run, peer[0], repeat)
            how = "a step size each, peer under vmap" if per_sample else "joint norm"
            note = f"{steps} steps in {1e3 * mine:.3g} ms, peer {peer[1]} in {1e3 * theirs:.3g} ms; ratios of these {spread}"
            yield Row(
                f"compile=\"solve\", {name}, {how}: a step, peer jitted diffrax", 1e6 * mine / steps, 1e6 * theirs / peer[1],
                "µs", None if per_sample else 1 / 1.5, note,
            )  # fmt: skip


def against_torchode(repeat: int) -> Iterator[Row]:
    """A step size each, the whole solve."""
    for name in PROBLEMS:
        peer = torchode(name)
        if peer is None:
            continue
        run, steps = ours(name, "solve", True)
        mine, theirs, spread = in_turn(run, peer[0], repeat)
        note = f"ratios {spread}; {steps} rounds, peer {peer[1]}"
        yield Row(
            f'compile="solve", {name}, a step size each, peer torchode compiled', 1e3 * mine, 1e3 * theirs, "ms", 10.0, note
        )


def against_torchdiffeq(repeat: int) -> Iterator[Row]:
    """The compiled step, the whole solve."""
    try:
        import torchdiffeq
    except ImportError:
        return
    times = torch.tensor([0.0, END], dtype=torch.float64)
    for name, field in PROBLEMS.items():
        x0 = starts()

        def peer(field: Any = field, x0: Tensor = x0) -> Tensor:
            with torch.no_grad():
                return torchdiffeq.odeint(field, x0, times, rtol=TOL, atol=TOL, method="dopri5")

        run, steps = ours(name, "step", False)
        mine, theirs, spread = in_turn(run, peer, repeat)
        yield Row(
            f"compile=\"step\", {name}, joint norm, peer torchdiffeq eager", 1e3 * mine, 1e3 * theirs, "ms", 8.0,
            f"ratios {spread}; {steps} steps",
        )  # fmt: skip


def gradients(repeat: int) -> Iterator[Row]:
    """Forwards and backwards, ours compiled and ours eager, and how far the gradients are apart."""
    x0 = starts().requires_grad_()
    control = rd.Adaptive(rtol=TOL, atol=TOL)

    def gradient(tier: Any) -> Tensor:
        end = rd.solve(lotka_volterra, x0, [0.0, END], control=control, compile=tier).x[-1]
        return torch.autograd.grad(end.pow(2).sum(), x0)[0]

    apart = float((gradient("solve") - gradient(None)).abs().max() / gradient(None).abs().max())
    mine, theirs, spread = in_turn(lambda: gradient("solve"), lambda: gradient(None), repeat)
    note = f"ratios {spread}; gradients {apart:.1e} apart, relative"
    yield Row(
        'compile="solve", Lotka–Volterra with its gradient, ours eager in the peer\'s place',
        1e3 * mine,
        1e3 * theirs,
        "ms",
        None,
        note,
    )


def cost() -> Iterator[Row]:
    """What the first solve costs, against the second: seconds of this process and of the C++ compiler that it starts."""
    for tier in ("step", "solve"):

        def field(t: Any, z: Tensor) -> Tensor:
            return lotka_volterra(t, z)

        def seconds() -> float:
            spent = os.times()
            return spent.user + spent.system + spent.children_user + spent.children_system

        torch._dynamo.reset()
        torch._inductor.config.force_disable_caches = True
        before, wall = seconds(), time.perf_counter()
        x0, control = starts()[:255], rd.Adaptive(rtol=TOL, atol=TOL)
        with torch.no_grad():
            rd.solve(field, x0, [0.0, END], control=control, compile=tier)
            first = seconds() - before
            wall = time.perf_counter() - wall
            torch._inductor.config.force_disable_caches = False
            later = time.process_time()
            rd.solve(field, x0, [0.0, END], control=control, compile=tier)
            later = time.process_time() - later
        note = f"{wall:.0f} s on the wall; ours is the second solve, in the peer's place the first; nothing from a cache"
        yield Row(f'compile="{tier}", Lotka–Volterra: what compiling costs', later, first, "s", None, note)


def rows(quick: bool) -> list[Row]:
    """The table."""
    repeat = 3 if quick else 15
    table = [*against_diffrax(repeat), *against_torchdiffeq(repeat)]
    if not quick:  # compiling torchode takes minutes
        table += against_torchode(repeat)
    return [*table, *gradients(repeat), *cost()]
