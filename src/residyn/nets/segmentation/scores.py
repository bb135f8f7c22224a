"""How good a segmentation is: overlap and boundary, class by class; and the loss that trains for both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from residyn.errors import InputError

IGNORED = -1
"""Label of pixels that count nowhere."""


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice loss, L = CE + 1 - mean over classes of (2·Σ p·g + 1)/(Σ p + Σ g + 1).

    Sums run over the batch; cross-entropy is right about each pixel, Dice about classes of few of them.

    Args:
        logits: `(B, C, …)`.
        labels: Class numbers `(B, …)`; -1 counts nowhere.

    Returns:
        A scalar.

    Raises:
        InputError: If shapes do not go together or a label is out of range.

    Reference:
        Milletari, Navab & Ahmadi (2016), "V-Net", doi:10.1109/3DV.2016.79.

    >>> float(loss(torch.tensor([[[50.0, -50.0], [-50.0, 50.0]]]), torch.tensor([[0, 1]])))
    0.0
    """
    classes = logits.shape[1]
    _check(labels, classes)
    if labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise InputError(
            f"`labels` must be {(len(logits), *logits.shape[2:])} beside these logits, got {tuple(labels.shape)}; "
            "one class number a pixel"
        )
    entropy = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED)
    counted = (labels != IGNORED).unsqueeze(1)
    truth = nn.functional.one_hot(labels.clamp(min=0), classes).movedim(-1, 1) * counted
    p = logits.softmax(1) * counted
    axes = [0, *range(2, logits.ndim)]
    overlap = 2 * (p * truth).sum(axes)
    size = p.sum(axes) + truth.sum(axes)
    return entropy + 1 - ((overlap + 1) / (size + 1)).mean()


def dice(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Dice overlap of each class, 2·|A ∩ B|/(|A| + |B|), over all pixels handed in.

    Args:
        predicted: Class numbers, any shape.
        labels: The truth, of the same shape; -1 counts nowhere.
        classes: Number of classes.

    Returns:
        `(classes,)` float64; nan for a class that is in neither.

    Raises:
        InputError: If shapes differ or a label is out of range.

    Reference:
        Dice (1945), doi:10.2307/1932409.

    >>> dice(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]), 3)
    tensor([0.6667, 0.8000,    nan], dtype=torch.float64)
    """
    _same(predicted, labels)
    _check(labels, classes)
    kept = labels != IGNORED
    a, b = predicted[kept], labels[kept]
    both = torch.bincount(a[a == b], minlength=classes)[:classes]
    sizes = torch.bincount(a, minlength=classes)[:classes] + torch.bincount(b, minlength=classes)[:classes]
    return 2.0 * both.double() / sizes.double()


def boundary_score(predicted: Tensor, labels: Tensor, classes: int, *, tolerance: int = 2) -> Tensor:
    """F-measure of the boundaries of each class: of the boundary pixels of one, how many have the other's within reach.

    F = 2·P·R/(P + R), P over predicted boundary pixels, R over true ones; pixels count as near within `tolerance` along
    each axis. The edge of the picture is no boundary.

    Args:
        predicted: Class numbers `(B, H, W)` or `(B, D, H, W)`.
        labels: The truth, of the same shape; -1 has no boundary.
        classes: Number of classes.
        tolerance: Reach in pixels, ≥ 0.

    Returns:
        `(classes,)` float64, over all pictures together; nan for a class without boundary in both.

    Raises:
        InputError: If shapes differ, a label is out of range, or `tolerance` is negative.

    Reference:
        Csurka, Larlus & Perronnin (2013), "What is a good evaluation measure for semantic segmentation?",
        doi:10.5244/C.27.32.

    >>> truth = torch.zeros(1, 8, 8, dtype=torch.long); truth[:, 2:6, 2:6] = 1
    >>> boundary_score(truth.roll(1, 2), truth, 2, tolerance=0), boundary_score(truth.roll(1, 2), truth, 2, tolerance=1)
    (tensor([0.3750, 0.5000], dtype=torch.float64), tensor([1., 1.], dtype=torch.float64))
    """
    _same(predicted, labels)
    _check(labels, classes)
    if tolerance < 0:
        raise InputError(f"`tolerance` must be >= 0 pixels, got {tolerance}")
    if predicted.ndim not in (3, 4):
        raise InputError(f"`predicted` must be (B, H, W) or (B, D, H, W), got {tuple(predicted.shape)}; add the batch axis")
    scores = torch.full((classes,), torch.nan, dtype=torch.float64)
    for k in range(classes):
        a, b = _boundary(predicted == k), _boundary(labels == k)
        if not (a.any() or b.any()):
            continue
        hit_a, hit_b = (a & _grown(b, tolerance)).sum().double(), (b & _grown(a, tolerance)).sum().double()
        precision, recall = hit_a / a.sum().clamp(min=1), hit_b / b.sum().clamp(min=1)
        scores[k] = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
    return scores


def _boundary(mask: Tensor) -> Tensor:
    """Pixels of a mask with a neighbour, along an axis, that is not of it."""
    edge = torch.zeros_like(mask)
    for axis in range(1, mask.ndim):
        before, after = mask.narrow(axis, 0, mask.shape[axis] - 1), mask.narrow(axis, 1, mask.shape[axis] - 1)
        edge.narrow(axis, 0, mask.shape[axis] - 1).logical_or_(before & ~after)
        edge.narrow(axis, 1, mask.shape[axis] - 1).logical_or_(after & ~before)
    return edge


def _grown(mask: Tensor, by: int) -> Tensor:
    """The mask and all pixels within reach of it."""
    if by == 0:
        return mask
    pool = nn.functional.max_pool2d if mask.ndim == 3 else nn.functional.max_pool3d
    grown: Tensor = pool(mask.unsqueeze(1).float(), 2 * by + 1, stride=1, padding=by)
    return grown.squeeze(1) > 0


def _same(predicted: Tensor, labels: Tensor) -> None:
    if predicted.shape != labels.shape:
        raise InputError(f"`predicted` must have the shape of the labels, {tuple(labels.shape)}, got {tuple(predicted.shape)}")


def _check(labels: Tensor, classes: int) -> None:
    if labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise InputError(f"`labels` must be whole numbers, got {labels.dtype}; convert them with labels.long()")
    if labels.numel() and (int(labels.min()) < IGNORED or int(labels.max()) >= classes):
        raise InputError(
            f"`labels` must lie in -1 … {classes - 1}, got {int(labels.min())} … {int(labels.max())}; number classes from 0"
        )
