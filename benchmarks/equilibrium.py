"""Equilibria x = tanh(W·x + u) against torchdeq: the same root finder, the same stopping rule, both in one process.

Width 128, batch 256, single precision; the solve stops when the worst sample has ‖x - g(x)‖ ≤ 1e-5·‖g(x)‖. A side that does
not reach that within 100 iterations is marked, and its time is that of failing; nothing is asked of such a row.

The last rows give the relative error of the gradient at W against a float64 solve with the exact inverse: ours, and the
one-step gradient that torchdeq's `get_deq()` returns by default.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

import residyn as rd
from benchmarks.harness import Row, in_turn
from residyn.gradients import Implicit
from residyn.roots import Anderson, Broyden, FixedPoint, Newton, RootFinder

TOL, LIMIT, BATCH, WIDTH = 1e-5, 100, 256, 128
PEERS: tuple[tuple[str, RootFinder], ...] = (
    ("fixed_point_iter", FixedPoint(TOL, LIMIT)),
    ("anderson", Anderson(TOL, LIMIT)),
    ("broyden", Broyden(TOL, LIMIT)),
)


def layer(norm: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """W with ‖W‖₂ = norm, and the input u."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(WIDTH, WIDTH, generator=generator)
    W = norm * W / torch.linalg.matrix_norm(W, 2)
    return W.to(dtype), torch.randn(BATCH, WIDTH, generator=generator).to(dtype)


def solves(norm: float, repeat: int) -> list[Row]:
    """The forward solve with each root finder."""
    from torchdeq.solver import get_solver

    W, u = layer(norm)
    zero = torch.zeros_like(u)

    def g(x: Tensor) -> Tensor:
        return torch.tanh(x @ W.T + u)

    found = []
    for name, root in PEERS:
        solver = get_solver(name)

        def peer(solver: Callable[..., tuple[Tensor, list[Tensor], dict[str, Tensor]]] = solver) -> dict[str, Tensor]:
            with torch.no_grad():
                return solver(g, zero, max_iter=LIMIT, tol=TOL, stop_mode="rel")[2]

        mine, info = root.solve(g, zero), peer()

        def calls(count: int = mine.iterations) -> None:
            x = zero
            for _ in range(count):
                x = g(x)

        ours, theirs, spread = in_turn(lambda root=root: root.solve(g, zero), peer, repeat)
        whole, alone, _ = in_turn(lambda root=root: root.solve(g, zero), calls, repeat)
        failed = [who for who, bad in (("ours", not mine), ("torchdeq", float(info["rel_lowest"].max()) > TOL)) if bad]
        note = f"ratios {spread}; {mine.iterations} and {int(info['nstep'].max())} calls; "
        note += f"g alone is {alone / whole:.0%} of ours, so at most {theirs / ours * whole / alone:.2f}"
        note += f"; NOT CONVERGED: {', '.join(failed)}" if failed else ""
        found.append(Row(f"‖W‖={norm} {name} forward", 1e3 * ours, 1e3 * theirs, "ms", None if failed else 2.0, note))
    return found


def training_step(norm: float, repeat: int) -> Row:
    """Forward and backward with Anderson and the implicit gradient on both sides."""
    from torchdeq import get_deq

    W, u = layer(norm)
    W.requires_grad_()
    zero = torch.zeros_like(u)
    equilibrium = rd.Equilibrium(
        lambda x, u: torch.tanh(x @ W.T + u), root=Anderson(TOL, LIMIT), gradient=Implicit(Anderson(TOL, LIMIT))
    )
    deq = get_deq(
        f_solver="anderson", b_solver="anderson", ift=True, f_tol=TOL, b_tol=TOL, f_max_iter=LIMIT, b_max_iter=LIMIT,
        f_stop_mode="rel", b_stop_mode="rel",
    )  # fmt: skip

    def ours() -> None:
        equilibrium(u, zero).square().sum().backward()

    def peer() -> None:
        deq(lambda x: torch.tanh(x @ W.T + u), zero)[0][-1].square().sum().backward()

    mine, theirs, spread = in_turn(ours, peer, repeat)
    note = f"ratios {spread}; both directions to 1e-5"
    return Row(f"‖W‖={norm} anderson, forward and backward", 1e3 * mine, 1e3 * theirs, "ms", 2.0, note)


def gradient_error(norm: float) -> Row:
    """Relative error of ∂(Σx²)/∂W: the default of each library."""
    from torchdeq import get_deq

    W, u = layer(norm, torch.float64)
    exact_root = Newton(1e-12)
    W.requires_grad_()
    fine = rd.Equilibrium(lambda x, u: torch.tanh(x @ W.T + u), root=Broyden(1e-11, 200), gradient=Implicit(exact_root))
    (exact,) = torch.autograd.grad(fine(u).square().sum(), W)
    single, u = W.detach().float().requires_grad_(), u.float()
    root = Broyden() if norm > 1.5 else Anderson()
    ours = rd.Equilibrium(lambda x, u: torch.tanh(x @ single.T + u), root=root)
    (mine,) = torch.autograd.grad(ours(u).square().sum(), single)
    deq = get_deq(f_solver="broyden", f_tol=TOL, f_stop_mode="rel", f_max_iter=LIMIT)
    state = deq(lambda x, tau=1.0: torch.tanh(x @ single.T + u), torch.zeros_like(u))[0][-1]
    (theirs,) = torch.autograd.grad(state.square().sum(), single)
    errors = [float((g.double() - exact).norm() / exact.norm()) for g in (mine, theirs)]
    return Row(f"‖W‖={norm} gradient at W, default mode", *errors, "relative error", None, "implicit and one-step")


def rows(quick: bool) -> list[Row]:
    """All rows of the table."""
    if not importlib.util.find_spec("torchdeq"):
        raise SystemExit("torchdeq is not installed: python -m pip install torchdeq==0.1.0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        norms, repeat = ((0.9, 2.5), 3) if quick else ((0.9, 1.5, 2.5), 7)
        found = [row for norm in norms for row in solves(norm, repeat)]
        found += [training_step(norm, repeat) for norm in norms if norm < 2]
        return found + [gradient_error(norm) for norm in (0.5, *norms)]
    finally:
        torch.set_num_threads(threads)
