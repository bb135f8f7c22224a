"""The readers of the atlas's data."""

import pytest
import torch

from residyn.atlas import data
from residyn.errors import InputError


def test_mnist_is_shuffled_and_split():
    split = data.mnist((1000, 4000), seed=0)
    assert [len(x) for x in split.x] == [1000, 4000]
    # the file holds 500 of each class in order: a shuffled thousand holds all, and both parts together are the whole
    assert len(split.y[0].unique()) == 10
    assert torch.equal(torch.cat(split.y).bincount(), torch.full((10,), 500))
    assert float(split.x[0].mean()) == pytest.approx(0, abs=1e-4)
    assert float(split.x[0].std()) == pytest.approx(1, abs=1e-4)


def test_pixels_belong_to_their_labels():
    # a nearest-centroid classifier is right on four digits of five, if pixels and labels go together
    split = data.mnist((2000, 1000), seed=1)
    centroids = torch.stack([split.x[0][split.y[0] == c].mean(0) for c in range(10)])
    guess = torch.cdist(split.x[1], centroids).argmin(1)
    assert float((guess == split.y[1]).float().mean()) > 0.7


def test_a_seed_is_a_shuffle():
    a, b, c = (data.digits((100, 50), seed) for seed in (0, 0, 1))
    assert torch.equal(a.x[0], b.x[0])
    assert not torch.equal(a.y[0], c.y[0])


@pytest.mark.parametrize("name", data.PICTURES)
def test_pictures_ship(name):
    image = data.picture(name)
    assert min(image.shape) >= 300
    assert 0 <= float(image.min()) < float(image.max()) <= 1


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"`sizes` must sum to at most 5000, got 6000; ask for fewer digits"):
        data.mnist((6000,), seed=0)
    with pytest.raises(InputError, match=r"`name` must be one of camera, .* got 'lena'"):
        data.picture("lena")
