"""`Unrolled`: a solver's steps as a network, with learned step sizes and a learned proximal branch between them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.gradients import Backprop, Checkpoint, Implicit
from residyn.gradients.base import GradientMode
from residyn.inverse.operators import Operator
from residyn.inverse.operators.base import check_shape
from residyn.inverse.operators.blur import squared
from residyn.inverse.spectrum_model import SpectrumModel, fit_spectrum, squared_frequencies
from residyn.inverse.steps import DataStep
from residyn.roots.base import Root

Data = Literal["gradient", "proximal"]


class ProximalBranch(nn.Module):
    """A learned proximal branch R, x⁺ = x + R(x): three convolutions at half resolution, zero at first.

    It is told two numbers of the problem, so that one set of weights serves many: log σ, and log γ with γ the share of
    frequencies that stand above the noise.

    Args:
        width: Channels inside.

    >>> ProximalBranch(8)(torch.ones(1, 1, 6, 6)).abs().sum()
    tensor(0., grad_fn=<SumBackward0>)
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, width, 3, padding=1, padding_mode="replicate")
        self.middle = nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate")
        self.last = nn.Conv2d(width, 4, 3, padding=1, padding_mode="replicate")
        self.told = nn.Linear(2, 2 * width)
        for layer in (self.last, self.told):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        """R(x), `(B, 1, H, W)`; H and W may be odd."""
        height, width = x.shape[-2:]
        even = nn.functional.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        y = self.first(nn.functional.pixel_unshuffle(even, 2))
        if told is None:
            told = x.new_zeros(2)
        scale, shift = self.told(told).reshape(2, -1, 1, 1)
        y = torch.relu(y * (1 + scale) + shift)
        y = torch.relu(self.middle(y))
        return nn.functional.pixel_shuffle(self.last(y), 2)[..., :height, :width]


class Unrolled(nn.Module):
    """`depth` blocks of a solver as a network: a data step of learned size, then a learned proximal branch.

    x ← x + α_k·F(x), F(x) = -Hᵀ(H·x - b)  (or its implicit form, below);  x ← x + R_k(x).

    With R_k zero, as `ProximalBranch` is at first, it is the classical solver: `depth` steps of gradient descent with
    α = 1/‖H‖² from x = 0. The implicit form (`data="proximal"`, for a blur with periodic borders) solves
    min ‖H·x - b‖² + r_k·σ²/S(f)·|x - x_k|² at each frequency: the Wiener filter at first.

    Args:
        op: H.
        depth: Number of blocks.
        prox: R: a module, copied for each block; a new `ProximalBranch` each if not given. It gets x with one channel,
            `(B, 1, *shape)`.
        data: `"gradient"` or `"proximal"`.
        gradient: `Backprop()`, `Checkpoint()`, or `Implicit()`: then all blocks are one, repeated to its fixed point, and
            the gradient is that of the fixed point.

    Attributes:
        forward_root: With `Implicit()`: the last forward solve, residual and iterations.
        backward_root: The backward solve that belongs to it.

    Raises:
        InputError: If the depth is less than 1, or the proximal data step is asked of an operator that has none.

    Reference:
        Gregor & LeCun (2010), "Learning Fast Approximations of Sparse Coding", ICML; Monga, Li & Eldar (2021),
        doi:10.1109/MSP.2020.3016905; Gilton, Ongie & Willett (2021), doi:10.1109/TCI.2021.3118944 (the fixed point).

    >>> from residyn.inverse.operators import Inpainting
    >>> net = Unrolled(Inpainting(torch.ones(8, 8)), 3)
    >>> bool(torch.allclose(net(torch.ones(2, 8, 8)), torch.ones(2, 8, 8)))
    True
    """

    def __init__(
        self,
        op: Operator,
        depth: int,
        prox: nn.Module | None = None,
        *,
        data: Data = "gradient",
        gradient: GradientMode | Implicit | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(depth, int) or depth < 1:
            raise InputError(f"`depth` must be a whole number >= 1, got {depth!r}")
        if data not in ("gradient", "proximal"):
            raise InputError(f"`data` must be 'gradient' or 'proximal', got {data!r}")
        if data == "proximal" and (op.spectrum is None or getattr(op, "boundary", None) != "circular"):
            raise InputError(f"`op` must be a circular Blur for data='proximal', got {type(op).__name__}; take 'gradient'")
        self.op, self.depth, self.data = op, depth, data
        self.gradient: GradientMode | Implicit = Backprop() if gradient is None else gradient
        self.tied = isinstance(self.gradient, Implicit)
        count = 1 if self.tied else depth
        pattern = ProximalBranch() if prox is None else prox
        self.prox = nn.ModuleList([pattern if i == 0 else copy.deepcopy(pattern) for i in range(count)])
        start = torch.zeros(count)
        if data == "gradient":
            start -= 2 * torch.tensor(float(op.norm_bound())).log()
        elif count > 1:
            start[1:] += 1.0
        self.log_step = nn.Parameter(start)
        self.forward_root: Root | None = None
        self.backward_root: Root | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self.log_step.dtype

    def forward(self, b: Tensor, *, op: Operator | None = None, model: SpectrumModel | None = None) -> Tensor:
        """x from b.

        Args:
            b: Measurements, `(…, *op.range)`.
            op: Another H than the one it was made with.
            model: Noise and spectrum of the pictures, for the proximal data step; estimated from b if not given.

        Returns:
            Pictures, `(…, *op.domain)`.
        """
        op = self.op if op is None else op
        check_shape(b, op.range, "b")
        lead = b.shape[: b.ndim - len(op.range)]
        b = b.reshape(-1, 1, *op.range)
        if self.data == "gradient":
            blocks = self._gradient_blocks(op, b)
            x = torch.zeros_like(op.adjoint(b))
        else:
            blocks, x = self._proximal_blocks(op, b, model)
        if isinstance(self.gradient, Implicit):
            x = self._fixed_point(blocks[0], x, self.gradient)
        else:
            if self.gradient == Checkpoint():
                # a block remembers some forty pictures and hands on one: segments keep their ends, blocks within them theirs
                blocks = [partial(Checkpoint(segments=1).chain, [block]) for block in blocks]
            x = self.gradient.chain(blocks, x)
        return x.reshape(*lead, *op.domain)

    def step_sizes(self) -> list[float]:
        """The learned α_k, or r_k."""
        return self.log_step.detach().exp().tolist()

    @staticmethod
    def scale_of(field: Tensor) -> float:
        """What a picture is divided by to lie about [0, 1], the range of the training pictures."""
        low, high = float(field.min()), float(field.max())
        return high - low if high > low else 1.0

    def _gradient_blocks(self, op: Operator, b: Tensor) -> list[Callable[[Tensor], Tensor]]:
        branch = DataStep(op, b)

        def block(k: int) -> Callable[[Tensor], Tensor]:
            def step(x: Tensor) -> Tensor:
                x = x + self.log_step[k].exp() * branch(x)
                return x + self.prox[k](x)

            return step

        return [block(k) for k in range(len(self.prox))]

    def _proximal_blocks(
        self, op: Operator, b: Tensor, model: SpectrumModel | None
    ) -> tuple[list[Callable[[Tensor], Tensor]], Tensor]:
        transfer, size = op.spectrum, tuple(op.domain)
        if transfer is None:
            raise InputError(f"`op` must be a circular Blur for data='proximal', got {type(op).__name__}")
        power = squared(transfer)
        observed = op.analyse(b)
        with torch.no_grad():
            model = fit_spectrum(observed, transfer, size) if model is None else model
            penalty = model.sigma**2 / model.power(squared_frequencies(size).to(power)).clamp(min=1e-30)
            gamma = float((power / (power + penalty)).mean())
            told = torch.tensor([model.sigma, gamma], dtype=self.dtype, device=b.device).clamp(min=1e-4).log() / 2 + 1.5
            back = op.back(b)

        def block(k: int) -> Callable[[Tensor], Tensor]:
            def step(x: Tensor) -> Tensor:
                prior = self.log_step[k].exp() * penalty
                x = op.synthesise((back + prior * op.analyse(x)) / (power + prior).clamp(min=1e-12))
                prox = self.prox[k]
                return x + (prox(x, told) if isinstance(prox, ProximalBranch) else prox(x))

            return step

        return [block(k) for k in range(len(self.prox))], torch.zeros_like(b)

    def _fixed_point(self, block: Callable[[Tensor], Tensor], x0: Tensor, gradient: Implicit) -> Tensor:
        """x = block(x), by the root finder of the gradient; at most `depth` calls."""
        import dataclasses

        finder = dataclasses.replace(gradient.root, max_iterations=self.depth)
        found = finder.solve(block, x0)
        self.forward_root, self.backward_root = found, None
        if not torch.is_grad_enabled():
            return found.x
        return gradient.attach(block, found.x, self._remember)

    def _remember(self, root: Root) -> None:
        self.backward_root = root
