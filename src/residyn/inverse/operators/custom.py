"""A user's own operator: any linear function, its adjoint derived where it is not given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.inverse.operators.base import Operator, check_shape

Map = Callable[[Tensor], Tensor]


class FromFunction(Operator):
    """A linear function H as an operator; Hᴴ comes from automatic differentiation where it is not given.

    Args:
        function: x → H·x, on `(…, *shape)`; made of torch operations if the adjoint is to be derived.
        shape: Shape of one x.
        adjoint: y → Hᴴ·y, if you have one.
        dtype: Of x.
        batched: Whether both take a batch in front; if not they are called once a sample.

    Raises:
        InputError: If the function is not differentiable and no adjoint was given.

    >>> double = FromFunction(lambda x: 2 * x[..., 1:], (3,))
    >>> double.adjoint(torch.ones(2))
    tensor([0., 2., 2.])
    """

    def __init__(
        self,
        function: Map,
        shape: Sequence[int],
        *,
        adjoint: Map | None = None,
        dtype: torch.dtype = torch.float32,
        batched: bool = True,
    ) -> None:
        with torch.no_grad():
            seen = function(torch.zeros(tuple(shape), dtype=dtype))
        super().__init__(shape, seen.shape, dtype)
        self.complex_range = seen.is_complex() and not dtype.is_complex
        self._function, self._adjoint, self._batched = function, adjoint, batched
        if adjoint is None:
            self._pulled_back(torch.zeros(seen.shape, dtype=seen.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """H·x."""
        check_shape(x, self.domain, "x")
        return self._each(self._function, x, self.domain)

    def adjoint(self, y: Tensor) -> Tensor:
        """Hᴴ·y."""
        check_shape(y, self.range, "y")
        return self._each(self._adjoint or self._pulled_back, y, self.range)

    def _pulled_back(self, y: Tensor) -> Tensor:
        """Hᴴ·y as the derivative of ⟨H·x, y⟩, itself differentiable in y."""
        track = torch.is_grad_enabled()
        lead = y.shape[: y.ndim - len(self.range)]
        with torch.enable_grad():
            x = torch.zeros(*lead, *self.domain, dtype=self.dtype, device=y.device, requires_grad=True)
            image = self._function(x)
        if not image.requires_grad:
            raise InputError("`function` must be made of torch operations for its adjoint to be derived; pass `adjoint=`")
        (pulled,) = torch.autograd.grad(image, x, y, create_graph=track)
        return pulled

    def _each(self, function: Map, x: Tensor, shape: torch.Size) -> Tensor:
        lead = x.shape[: x.ndim - len(shape)]
        if self._batched or not lead:
            return function(x)
        samples = [function(sample) for sample in x.reshape(-1, *shape)]
        stacked = torch.stack(samples)
        return stacked.reshape(*lead, *stacked.shape[1:])
