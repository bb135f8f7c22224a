"""Certified radii: how far each sample may move before the answer can change."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from residyn.analysis import lipschitz
from residyn.errors import InputError
from residyn.results import EstimateKind
from residyn.robust.graph import Network, UnknownError
from residyn.robust.inputs import Norm, as_labels, as_norm, as_samples, logits, margins, quietly
from residyn.robust.lowering import lowered
from residyn.robust.search import Search

_GROUP = 32
_HELD = 2**22
"""Samples bounded at a time, as many as keep the forward columns of one node within this many numbers."""


class Radius(Tensor):
    """Certified radii `(B,)`, a tensor that says how it came about; what is computed from it is a plain tensor.

    Attributes:
        kind: `"certified"`, or `"lower"` if it rests on constants of the user's.
        reason: Empty, or why the global Lipschitz constant alone was used.
        local: Radii from linear bounds on the ball, `(B,)`; zeros if there are none.
        product: Radii from the global Lipschitz constant, `(B,)`; zeros if there is none.
    """

    kind: EstimateKind = "certified"
    reason: str = ""
    local: Tensor
    product: Tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> Radius:
        return _made(self.as_subclass(Tensor).clone(), self.local.clone(), self.product.clone(), self.kind, self.reason)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]  # a plain tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str = "l2",
    *,
    rounding: bool = True,
    rtol: float = 0.02,
    work: float = 3e7,
) -> Radius:
    """A radius r for each sample such that the model answers y at every x + δ with ‖δ‖ <= r, proved.

    On the ball every activation lies between two straight lines, so that each difference of logits z_y - z_j is bounded from
    below by a linear function, whose least value on the ball is known; the largest r at which all are positive is found by
    regula falsi. A radius from the global Lipschitz constant K, (z_y - z_j)/(√2·K), stands in where it is larger, and alone
    where the network has a part without linear bounds. No box is used: δ is any vector.

    Args:
        model: The classifier, a module from `(B, …)` to logits `(B, C)`, taken in evaluation mode; nothing of it is changed.
        x: Samples.
        y: Their classes, `(B,)`.
        norm: `"l2"` or `"linf"`.
        rounding: Whether the proof covers the network as it computes, in the precision of its parameters with every sum in
            any order, besides the rounding of the proof itself, which is always covered; False for exact arithmetic. In half
            precision little is left.
        rtol: Relative accuracy of the search for r.
        work: Coefficients that may be computed for one layer of one sample at one radius; more make r larger on wide networks.

    Returns:
        A `Radius`; 0 where the sample is misclassified.

    Raises:
        InputError: If an argument breaks its rule, or there is neither a linear nor a Lipschitz bound.

    Reference:
        Zhang et al. (2018), arXiv:1811.00866 (linear bounds); Tsuzuku, Sato & Sugiyama (2018), arXiv:1802.04034 (the margin
        over √2·K).

    >>> layer = nn.Linear(2, 2)
    >>> layer.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "bias": torch.zeros(2)})
    <All keys matched successfully>
    >>> radius = certify(layer, torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    >>> round(radius.item(), 3), radius.kind  # from (3, 1) to the line x₁ = x₂
    (1.414, 'certified')
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"`model` must be an nn.Module to be certified, got {type(model).__name__}; wrap it")
    x, kind = as_samples(x), as_norm(norm)
    if not 0 < rtol < 1:
        raise InputError(f"`rtol` must be a relative accuracy in (0, 1), got {rtol}; 0.02 is the default")
    if not work >= 0:
        raise InputError(f"`work` must be a number of coefficients >= 0, got {work}; 3e7 is the default")
    with quietly(model, x), torch.no_grad():
        scores = logits(model, x)
        y = as_labels(y, x, scores.shape[1])
        right = margins(scores, y) > 0
        product, told, problem = _product(model, x, y, scores, kind, rounding)
        local, reason = _local(model, x, y, scores, kind, rounding, rtol, work)
    if reason and problem:
        raise InputError(
            f"`model` must have linear bounds or a Lipschitz constant to be certified, got neither: {reason}; {problem}"
        )
    best = torch.where(right, torch.maximum(local, product), 0.0)
    return _radius(best, local, product, x.dtype, "lower" if told else "certified", reason)


def _radius(best: Tensor, local: Tensor, product: Tensor, dtype: torch.dtype, kind: EstimateKind, reason: str) -> Radius:
    """In the precision of x, rounded towards 0."""
    dtype = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    low = [torch.nextafter(value.to(dtype), torch.zeros((), dtype=dtype)).clamp(min=0) for value in (best, local, product)]
    return _made(low[0], low[1], low[2], kind, reason)


def _made(best: Tensor, local: Tensor, product: Tensor, kind: EstimateKind, reason: str) -> Radius:
    made: Any = torch.Tensor._make_subclass(Radius, best)
    made.kind, made.reason, made.local, made.product = kind, reason, local, product
    return made


def _unit(model: nn.Module, x: Tensor) -> float:
    """Relative rounding of the network's arithmetic."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} | {x.dtype}
    return max(torch.finfo(kind).eps for kind in kinds) / 2


def _product(model: nn.Module, x: Tensor, y: Tensor, scores: Tensor, norm: Norm, rounding: bool) -> tuple[Tensor, bool, str]:
    """Radii from the global Lipschitz constant, whether it rests on the user's word, and why there is none."""
    zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    try:
        found = lipschitz(model, tuple(x.shape[1:]))
    except InputError as error:
        return zero, False, str(error)
    slope = float(found) * math.sqrt(2) * (1.0 if norm == "l2" else math.sqrt(x[0].numel()))
    margin = margins(scores.double(), y)
    if rounding:  # logits at both ends of δ are computed
        margin = margin - 64 * _unit(model, x) * scores.double().abs().amax(1)
    if slope == 0:
        return torch.where(margin > 0, math.inf, zero), found.kind != "certified", ""
    return (margin / slope * (1 - 1e-12)).clamp(min=0), found.kind != "certified", ""


def _local(
    model: nn.Module, x: Tensor, y: Tensor, scores: Tensor, norm: Norm, rounding: bool, rtol: float, work: float
) -> tuple[Tensor, str]:
    """Radii from linear bounds, and why there are none."""
    zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    try:
        network = lowered(model, tuple(x.shape[1:]))
        _same(network, model, x, scores)
    except UnknownError as error:
        return zero, str(error)
    unit = _unit(model, x) if rounding else 0.0
    group = max(1, min(_GROUP, _HELD // (x[0].numel() * max(math.prod(n.shape) for n in network.nodes))))
    right = (margins(scores, y) > 0).nonzero().flatten()
    share = 0.3
    for rows in torch.split(right, group) if len(right) else ():
        zero[rows], found = Search(network, x[rows].double(), y[rows], norm, unit, work).run(rtol, share)
        share = min(1.0, max(0.02, 1.05 * found))
    return zero, ""


def _same(network: Network, model: nn.Module, x: Tensor, scores: Tensor) -> None:
    """The graph computes what the model does, at the samples and about them; else the model does something unseen."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    for z, found in ((x, scores), (x + noise, None)):
        theirs = logits(model, z).double() if found is None else found.double()
        mine = network.values(z)[-1]
        scale = mine.abs().amax(1).clamp(min=1.0)
        if mine.shape != theirs.shape or bool(((mine - theirs).abs().amax(1) > 2e3 * _unit(model, x) * scale + 1e-9).any()):
            raise UnknownError("the model's graph does not give its outputs, so something in it is not seen")
