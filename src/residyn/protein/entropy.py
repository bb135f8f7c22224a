"""Entropy of closing loops in a chain: one determinant of how the loops overlap.

A disulfide between residues i and j is a spring across the chain, and the chain is a path with Laplacian L. A set of bonds with
incidence B changes the conformational entropy of the unfolded chain by a determinant of rank-one updates, one a bond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from residyn.errors import InputError

R = 1.98720425864083
"""Gas constant, cal/(mol·K)."""

PACE = 2.0228
"""exp(2.1/(3R/2)): the stiffness at which one long loop costs -2.1 - (3/2)·R·ln n, the empirical law."""

CLOSE = 3.157
"""(2π·l²/3)/v^(2/3) with l = 3.8 Å and v = 29.65 Å³, the other capture volume in use; v = 57.9 Å³ gives 2.02."""

Bonds: TypeAlias = Tensor | Sequence[tuple[int, int]] | Sequence[Sequence[int]]
Limit = Literal["soft", "hard"]


def loop_entropy(
    bonds: Bonds,
    *,
    limit: Limit = "soft",
    stiffness: float | Tensor = PACE,
    contacts: Bonds | None = None,
    contact_stiffness: float | Tensor = PACE,
) -> Tensor:
    """Change of a chain's conformational entropy on closing a set of bonds, all of them together.

        soft:  ΔS = -(3/2)·R·ln det(I + g·M),   hard:  ΔS = -(3/2)·R·ln det(g·M),   M = Bᵀ·L⁺·B

    M is the matrix of loop overlaps: M_ab counts the chain bonds that loops a and b share, and M_aa = |i - j|. A single hard
    loop of n bonds gives the empirical law -2.1 - (3/2)·R·ln n; nested loops share their inner part, so that the sum over bonds
    over-counts. With `contacts` (a native-like background) the chain holds these already, and the change is what the bonds add:
    M - N·(1/g_c + C)⁻¹·Nᵀ takes the place of M.

    Args:
        bonds: Pairs of residue numbers of one chain, `(…, m, 2)`; leading axes are a batch. Real numbers are allowed, and
            the result is differentiable in them and in `stiffness`.
        limit: `"soft"`, the bond as a spring, or `"hard"`, the limit of a rigid one.
        stiffness: g, a number, or one a bond, `(…, m)`. `PACE` fits the empirical law; `CLOSE` is the other published value.
        contacts: Pairs that are closed already, `(…, k, 2)`.
        contact_stiffness: Their g.

    Returns:
        ΔS in cal/(mol·K), `(…)` float64: negative, the cost to the unfolded chain and so the gain of the folded one.

    Raises:
        InputError: If the pairs have another shape, are not finite, or a hard set closes the same loop twice.

    Reference:
        Schellman (1955); Wang & Uhlenbeck (1945), doi:10.1103/RevModPhys.17.323; Pace et al. (1988), J. Biol. Chem. 263, 11820;
        Thornton (1981), doi:10.1016/0022-2836(81)90515-5.

    >>> round(float(loop_entropy([(1, 41)], limit="hard")), 2)   # -2.1 - (3/2)·R·ln 40
    -13.1
    >>> one = loop_entropy([(5, 55)]) + loop_entropy([(14, 38)])
    >>> round(float(loop_entropy([(5, 55), (14, 38)]) - one), 2)   # nested loops: the sum over-counts
    1.87
    """
    if limit not in ("soft", "hard"):
        raise InputError(f'`limit` must be "soft" or "hard", got {limit!r}; "soft" is defined for every set')
    pairs = _pairs(bonds, "bonds")
    g = _stiffness(stiffness, "stiffness")
    if pairs.shape[-2] == 0:
        return pairs.new_zeros(pairs.shape[:-2])
    overlap = loop_overlaps(pairs, pairs)
    if contacts is not None:
        overlap = _given(overlap, pairs, _pairs(contacts, "contacts"), _stiffness(contact_stiffness, "contact_stiffness"))
    root = g.sqrt().expand(pairs.shape[:-1])
    matrix = root.unsqueeze(-1) * overlap * root.unsqueeze(-2)
    if limit == "soft":
        matrix = matrix + torch.eye(pairs.shape[-2], dtype=matrix.dtype)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed.any()) or _singular(factor):
        raise InputError(
            "`bonds` must close loops that differ in the hard limit, got a set that closes one twice; use limit='soft'"
        )
    return -3 * R * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def loop_overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Bᵀ·L⁺·B of the path: how many chain bonds the loops of `a` and `b` share.

    Args:
        a: Pairs, `(…, m, 2)`.
        b: Pairs, `(…, k, 2)`.

    Returns:
        Overlaps, `(…, m, k)`.

    >>> loop_overlaps(torch.tensor([[1.0, 10.0]]), torch.tensor([[4.0, 20.0], [12.0, 15.0]]))
    tensor([[6., 0.]])
    """
    start_a, end_a = a.amin(-1).unsqueeze(-1), a.amax(-1).unsqueeze(-1)
    start_b, end_b = b.amin(-1).unsqueeze(-2), b.amax(-1).unsqueeze(-2)
    return (torch.minimum(end_a, end_b) - torch.maximum(start_a, start_b)).clamp_min(0)


def pair_overlaps(positions: Tensor, bonds: Bonds = (), *, stiffness: float | Tensor = PACE) -> Tensor:
    """Effective loop length of every pair of residues, given the bonds there are: R_ij = |i - j| less what they share with it.

        R = |i - j| - n·(1/g + C)⁻¹·nᵀ,   n the overlaps of loop (i, j) with the bonds,   C those of the bonds

    All n² pairs at once: with h = F·o, o_r = n_(0, r) the overlaps of residue r with the bonds and FᵀF = (1/g + C)⁻¹, the
    second term is ‖h_i - h_j‖².

    Args:
        positions: Places along the chain, `(n,)`.
        bonds: Pairs of places that are bonded, `(m, 2)`.
        stiffness: Their g.

    Returns:
        Effective lengths, `(n, n)` float64; the loop entropy of each pair is -(3/2)·R·ln(1 + g·R_ij).

    >>> pair_overlaps(torch.tensor([0.0, 3.0, 10.0]))[0]
    tensor([ 0.,  3., 10.], dtype=torch.float64)
    """
    place = torch.as_tensor(positions, dtype=torch.float64)
    length = (place.unsqueeze(1) - place).abs_()
    pairs = _pairs(bonds, "bonds")
    if len(pairs) == 0:
        return length
    inside = (1 / _stiffness(stiffness, "stiffness")).expand(len(pairs))
    factor = torch.linalg.cholesky(loop_overlaps(pairs, pairs) + torch.diag(inside))
    # the overlap of the loop from the chain's start to r with each bond; differences of it are the overlaps of loop (i, j)
    shared = torch.clamp(place.unsqueeze(1), pairs.amin(1), pairs.amax(1)) - pairs.amin(1)
    h = torch.linalg.solve_triangular(factor, shared.T, upper=False).T
    square = h.square().sum(1)
    return length.sub_(square.unsqueeze(1)).sub_(square).addmm_(h, h.T, alpha=2).clamp_min_(0)


def pair_entropies(positions: Tensor, bonds: Bonds = (), *, stiffness: float | Tensor = PACE) -> Tensor:
    """Entropy of closing each pair of residues, given the bonds there are: ΔS_ij = -(3/2)·R·ln(1 + g·R_ij).

    Args:
        positions: Places along the chain, `(n,)`.
        bonds: Pairs of places that are bonded, `(m, 2)`.
        stiffness: g of the bonds and of the new one.

    Returns:
        ΔS in cal/(mol·K), `(n, n)` float64.

    >>> pairs = pair_entropies(torch.arange(60.0), [(5, 55)])
    >>> torch.allclose(pairs[14, 38], loop_entropy([(5, 55), (14, 38)]) - loop_entropy([(5, 55)]))
    True
    """
    return pair_overlaps(positions, bonds, stiffness=stiffness).mul_(float(stiffness)).log1p_().mul_(-1.5 * R)


def _given(overlap: Tensor, pairs: Tensor, contacts: Tensor, g: Tensor) -> Tensor:
    """The overlaps that are left when the contacts are closed: a Schur complement."""
    if contacts.shape[-2] == 0:
        return overlap
    cross = loop_overlaps(pairs, contacts)
    inside = loop_overlaps(contacts, contacts) + torch.diag_embed((1 / g).expand(contacts.shape[:-1]))
    return overlap - cross @ torch.linalg.solve(inside, cross.mT)


def _pairs(bonds: Bonds, name: str) -> Tensor:
    try:
        pairs = torch.as_tensor(bonds, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"`{name}` must be pairs of residue numbers, got {str(bonds)[:60]}; ends in two chains have no loop"
        ) from error
    if pairs.numel() == 0 and pairs.ndim < 2:
        return pairs.reshape(0, 2)
    if pairs.ndim < 2 or pairs.shape[-1] != 2:
        raise InputError(f"`{name}` must be pairs of residue numbers, (…, m, 2), got the shape {tuple(pairs.shape)}")
    if not bool(pairs.isfinite().all()):
        raise InputError(f"`{name}` must be finite residue numbers, got nan or inf; ends in two chains have no loop")
    return pairs


def _stiffness(g: float | Tensor, name: str) -> Tensor:
    value = torch.as_tensor(g, dtype=torch.float64)
    if not bool(((value > 0) & value.isfinite()).all()):
        low = float(value.detach().min())
        raise InputError(f"`{name}` must be > 0 and finite, got {low:g}; {PACE} fits the empirical loop-closure law")
    return value


def _singular(factor: Tensor) -> bool:
    """Whether a pivot is what rounding left of 0."""
    pivot = factor.detach().diagonal(dim1=-2, dim2=-1)
    scale = factor.detach().square().sum(-1).sqrt()
    return bool((pivot <= math.sqrt(64 * factor.shape[-1] * torch.finfo(factor.dtype).eps) * scale).any())
