"""Scores against scikit-image and SciPy on random masks, and against what can be counted by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from residyn.errors import InputError
from residyn.nets.segmentation import boundary_score, dice, loss


def blobs(seed, shape=(2, 24, 31), classes=3):
    rng = np.random.default_rng(seed)
    smooth = np.stack(
        [ndimage.gaussian_filter(rng.normal(size=(classes, *shape[1:])), (0, 3, 3)).argmax(0) for _ in range(shape[0])]
    )
    return torch.from_numpy(smooth)


def test_dice_is_one_less_scipys_dissimilarity():
    from scipy.spatial.distance import dice as unlike

    a, b = blobs(0), blobs(1)
    for k, value in enumerate(dice(a, b, 3).tolist()):
        assert value == pytest.approx(1 - unlike((a == k).numpy().ravel(), (b == k).numpy().ravel()), abs=1e-14)


def test_pixels_without_label_count_nowhere():
    a, b = blobs(0), blobs(1)
    b[:, :12] = -1
    torch.testing.assert_close(dice(a, b, 3), dice(a[:, 12:], b[:, 12:], 3))
    logits = torch.randn(2, 3, 24, 31)
    one = loss(logits, b)
    logits[:, :, :12] += 5 * torch.randn(2, 3, 12, 31)
    torch.testing.assert_close(loss(logits, b), one)


@pytest.mark.parametrize("tolerance", [0, 1, 3])
def test_boundary_score_is_the_count_of_near_pixels(tolerance):
    a, b = blobs(2), blobs(3)
    reach = np.ones((2 * tolerance + 1,) * 2)
    for k, value in enumerate(boundary_score(a, b, 3, tolerance=tolerance).tolist()):
        hits = sizes = np.zeros(2)
        for one, two in zip((a == k).numpy(), (b == k).numpy(), strict=True):
            # the picture's edge is no boundary: outside counts as inside
            edges = [m & ~ndimage.binary_erosion(m, border_value=1) for m in (one, two)]
            near = [ndimage.binary_dilation(e, reach) for e in edges]
            hits = hits + np.array([(edges[0] & near[1]).sum(), (edges[1] & near[0]).sum()])
            sizes = sizes + np.array([edges[0].sum(), edges[1].sum()])
        p, r = hits / sizes
        assert value == pytest.approx(2 * p * r / (p + r), abs=1e-12)


def test_volumes_have_boundaries_too():
    truth = torch.zeros(1, 9, 9, 9, dtype=torch.long)
    truth[:, 3:6, 3:6, 3:6] = 1
    moved = truth.roll(1, 1)
    assert boundary_score(truth, truth, 2).tolist() == [1, 1]
    assert boundary_score(moved, truth, 2, tolerance=1).tolist() == [1, 1]
    assert max(boundary_score(moved, truth, 2, tolerance=0).tolist()) < 1


def test_a_class_that_is_nowhere_has_no_score():
    a = torch.zeros(1, 4, 4, dtype=torch.long)
    assert torch.isnan(dice(a, a, 2)[1])
    assert torch.isnan(boundary_score(a, a, 2)).all()


def test_loss_falls_to_zero_and_has_the_gradient_of_its_definition():
    labels = blobs(4)
    perfect = 60.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
    assert float(loss(perfect, labels)) < 1e-12
    logits = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    small = torch.randint(-1, 3, (1, 4, 5))
    assert torch.autograd.gradcheck(lambda z: loss(z, small), logits)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, y: dice(y, y[:1], 3), "`predicted` must have the shape of the labels"),
        (lambda z, y: dice(y, y + 5, 3), "`labels` must lie in -1 … 2, got 5 … 7"),
        (lambda z, y: dice(y, y.float(), 3), "`labels` must be whole numbers"),
        (lambda z, y: loss(z, y[:, :3]), r"`labels` must be \(2, 24, 31\) beside these logits"),
        (lambda z, y: boundary_score(y, y, 3, tolerance=-1), "`tolerance` must be >= 0 pixels, got -1"),
        (lambda z, y: boundary_score(y[0], y[0], 3), r"`predicted` must be \(B, H, W\)"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(torch.randn(2, 3, 24, 31), blobs(0))
