"""What a root finder is: x with x = g(x), sample by sample, and how well it was found; the loop that all of them share."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.state import inside_transform, physical

Map = Callable[[Tensor], Tensor]
"""g, from x to a tensor of the same shape."""

Array = np.ndarray[Any, np.dtype[Any]]
_any, _all, _max = np.logical_or.reduce, np.logical_and.reduce, np.maximum.reduce


@dataclass(frozen=True)
class Root:
    """What a root finder found.

    Args:
        x: The best x met, sample by sample, `(B, …)`.
        residual: ‖x - g(x)‖ / (1e-8 + ‖g(x)‖) at that x of each sample, `(B,)`.
        iterations: Calls of g.
        converged: Whether each sample is at or below the tolerance, `(B,)`.
        reason: Why it ended before every sample converged, and on which sample; empty where all did.

    >>> bool(Root(torch.zeros(1), torch.zeros(1), 1, torch.ones(1, dtype=torch.bool)))
    True
    """

    x: Tensor
    residual: Tensor
    iterations: int
    converged: Tensor
    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.converged.all())

    @property
    def worst(self) -> tuple[int, float]:
        """The sample with the largest residual, and that residual."""
        sample = int(torch.nan_to_num(self.residual, nan=float("inf")).argmax())
        return sample, float(self.residual[sample])


class Update(abc.ABC):
    """How one method goes from an iterate to the next, on rows `(B, n)` of real numbers; made anew for each solve."""

    trouble = ""
    """What the method itself ran into, if the solve should fail."""

    def __init__(self, g: Map) -> None:
        self.image = g

    @abc.abstractmethod
    def next(self, x: Tensor, gx: Tensor, r: Tensor) -> Tensor:
        """The next x, from x, g(x) and r = g(x) - x, each `(B, n)`; r must not be changed, and is gone after the next call."""


@dataclass(frozen=True)
class RootFinder(abc.ABC):
    """Solves x = g(x) for each sample of a batch, to ‖x - g(x)‖ ≤ tol·(1e-8 + ‖g(x)‖) on the worst sample.

    A method supplies its `Update`; stopping, the best iterate of each sample, and the detection of a stall are shared. Complex
    states are solved as the real numbers they consist of, so g need not be holomorphic.

    Args:
        tol: Relative tolerance on the worst sample, in (0, 1).
        max_iterations: Calls of g before giving up.
        patience: A sample whose residual has not fallen by 0.1 % between two checks this many calls apart has stalled; the
            solve ends when every sample has converged or stalled.

    Raises:
        InputError: If a value breaks its rule.
    """

    tol: float = 1e-5
    max_iterations: int = 100
    patience: int = field(default=30, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.tol < 1:
            raise InputError(f"`tol` must lie in (0, 1), got {self.tol!r}; 1e-5 is usual in single precision")
        whole("max_iterations", self.max_iterations, 1)
        whole("patience", self.patience, 1)

    @abc.abstractmethod
    def start(self, g: Map, x: Tensor) -> Update:
        """The method's own memory for a solve that starts at the rows x `(B, n)`."""

    @torch.no_grad()
    def solve(self, g: Map, x0: Tensor) -> Root:
        """Find x = g(x) from the guess x0 `(B, …)`; never raises on non-convergence, says so.

        Raises:
            InputError: If x0 has no sample axis or is not floating point, or g does not return its shape.
        """
        x = rows(_checked(x0))

        def on_rows(z: Tensor) -> Tensor:
            return rows(_same_shape(g(unrows(z, x0)), x0))

        update, best, difference = self.start(on_rows, x), _Best(x, self.tol), _Difference(x)
        calls, stalled = 0, False
        for calls in range(1, self.max_iterations + 1):
            gx = update.image(x)
            r = difference(gx, x)
            if best.offer(x, gx, r):
                break
            if calls % self.patience == 0 and best.stalled():
                stalled = True
                break
            if calls < self.max_iterations:
                x = update.next(x, gx, r)
        root = best.root(x0, calls)
        return root if root else _with_reason(self, root, stalled, update.trouble)

    def solve_adjoint(self, image: Tensor, leaf: Tensor, pullback: Map, w: Tensor) -> Root:
        """Solve u = w + (∂g/∂x)ᴴ·u, the backward equation of x = g(x).

        Args:
            image: g(leaf), with its graph.
            leaf: The solution x, a leaf of that graph.
            pullback: u → (∂g/∂x)ᴴ·u.
            w: The gradient that arrives at x.
        """
        return self.solve(lambda u: w + pullback(u), w)


class _Difference:
    """g(x) - x, written into two buffers in turn: fresh memory costs several times the subtraction."""

    def __init__(self, x: Tensor) -> None:
        self.buffers = None if inside_transform() else (torch.empty_like(x), torch.empty_like(x))

    def __call__(self, gx: Tensor, x: Tensor) -> Tensor:
        if self.buffers is None or gx.dtype != x.dtype or x.dtype != self.buffers[0].dtype:
            return gx - x
        r, other = self.buffers
        self.buffers = other, r
        return torch.sub(gx, x, out=r)


class _Best:
    """The best iterate so far of each sample; its residuals, few numbers, are on the host, where looking at them is cheap."""

    def __init__(self, x: Tensor, tol: float) -> None:
        self.x, self.tol = x, tol
        self.lowest = np.full(len(x), np.inf)
        self.mark: Array | None = None  # the residual at the last check for a stall; at first that of the guess

    def offer(self, x: Tensor, gx: Tensor, r: Tensor) -> bool:
        """Take the samples whose residual is no larger than what was known; whether all are now below the tolerance.

        The one place where an iteration waits for the device.
        """
        size, whole = _host(_norm(r)), _host(_norm(gx))
        with np.errstate(all="ignore"):  # inf by inf
            found = size / (1e-8 + whole)
        if np.fmax.reduce(whole) == np.inf:  # by which anything would be nothing
            found[whole == np.inf] = np.nan
        if self.mark is None:
            self.mark = found
        better = found <= self.lowest  # false for nan
        if _all(better):
            self.x, self.lowest = x, found
        else:
            self.x = torch.where(torch.from_numpy(better).to(x.device).unsqueeze(1), x, self.x)
            self.lowest = np.fmin(found, self.lowest)
        return bool(_max(self.lowest) <= self.tol)

    def stalled(self) -> bool:
        """Whether no sample above the tolerance has improved by 0.1 % since this was last asked."""
        assert self.mark is not None
        # a nan at the guess is no mark to beat: any number since is progress
        going = (self.lowest > self.tol) & ~(self.lowest >= 0.999 * self.mark) & np.isfinite(self.lowest)
        self.mark = self.lowest
        return not _any(going)

    def root(self, like: Tensor, calls: int) -> Root:
        """What was found, in the shape and kind of `like`."""
        residual = torch.from_numpy(self.lowest).to(self.x.device, self.x.dtype)
        converged = torch.from_numpy(self.lowest <= self.tol).to(self.x.device)
        return Root(unrows(self.x, like), residual, calls, converged)


def _host(x: Tensor) -> Array:
    """Numbers on the host, in their own precision or one that NumPy has."""
    if inside_transform():
        return np.array(physical(x).tolist())
    found: Array = (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy()
    return found


def _with_reason(finder: RootFinder, root: Root, stalled: bool, trouble: str) -> Root:
    sample, residual = root.worst
    if residual == float("inf"):
        reason = f"g returned nan or inf on sample {sample} from the first guess on; check g, or start elsewhere with x0"
    elif stalled:
        reason = f"the residual of sample {sample} has not improved for {finder.patience} iterations"
    else:
        reason = f"max_iterations={finder.max_iterations} was reached"
    reason = f"{trouble}; {reason}" if trouble else reason
    return Root(root.x, root.residual, root.iterations, root.converged, reason)


def relative_residual(r: Tensor, gx: Tensor) -> Tensor:
    """‖r‖ / (1e-8 + ‖g(x)‖) of each row, `(B,)`; nan where ‖g(x)‖ overflows."""
    whole = _norm(gx)
    return torch.where(whole == torch.inf, torch.nan, _norm(r) / (1e-8 + whole))


def _norm(x: Tensor) -> Tensor:
    """The length of each row."""
    return torch.linalg.vector_norm(x, dim=1)


def rows(x: Tensor) -> Tensor:
    """x as a row of real numbers a sample, `(B, n)`."""
    flat = x if x.ndim == 2 else x.reshape(len(x), -1)
    return torch.view_as_real(flat.resolve_conj()).flatten(1) if x.is_complex() else flat


def unrows(x: Tensor, like: Tensor) -> Tensor:
    """Rows back in the shape and kind of `like`."""
    if not like.is_complex():
        return x if like.ndim == 2 else x.reshape(like.shape)
    return torch.view_as_complex(x.reshape(*like.shape, 2))


def whole(name: str, value: object, least: int) -> None:
    """Check that an option is a whole number of at least `least`.

    Raises:
        InputError: If it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"`{name}` must be a whole number of at least {least}, got {value!r}")


def _checked(x0: Tensor) -> Tensor:
    if x0.ndim < 1 or x0.numel() == 0:
        raise InputError(f"`x0` must have a sample axis, (B, …), and not be empty, got shape {tuple(x0.shape)}")
    if not (x0.is_floating_point() or x0.is_complex()):
        raise InputError(f"`x0` must be floating point or complex, got {x0.dtype}; use x0.float()")
    return x0


def _same_shape(image: Tensor, x0: Tensor) -> Tensor:
    if image.shape != x0.shape:
        raise InputError(
            f"`f` must return the shape of x, {tuple(x0.shape)}, got {tuple(image.shape)}; pass x0 in the state's shape"
        )
    if image.is_complex() and not x0.is_complex():
        raise InputError(f"`f` must return the kind of x, {x0.dtype}, got {image.dtype}; pass a complex x0")
    return image
