"""Pictures cut into windows give what the whole picture gives."""

import pytest
import torch
from torch import nn

from residyn.errors import InputError
from residyn.nets.segmentation import predict


@pytest.mark.parametrize("shape", [(1, 70, 45), (1, 33, 32), (1, 20, 20, 50), (2, 16, 300)])
def test_a_map_of_pixels_is_the_same_window_by_window(shape):
    dims = len(shape) - 1
    net = (nn.Conv2d, nn.Conv3d)[dims - 2](shape[0], 3, 1)
    picture = torch.randn(shape)
    torch.testing.assert_close(predict(net, picture, window=16, overlap=0.4), net(picture[None])[0])


def test_weights_fade_out_seams():
    # a network that sees 1 pixel around errs at the rims of windows only, and rims count least
    net, picture = nn.Conv2d(1, 1, 3, padding=1), torch.randn(1, 96, 96)
    whole = net(picture[None])[0]
    error = (predict(net, picture, window=32, overlap=0.5) - whole).abs()
    hard = (predict(net, picture, window=32, overlap=0.0) - whole).abs()
    assert error.max() < 0.25 * hard.max()


def test_the_mode_of_the_model_is_given_back():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout(0.5)).train()
    one, two = (predict(net, torch.ones(1, 20, 20), window=16) for _ in range(2))
    assert net.training
    torch.testing.assert_close(one, two)


class Hungry(nn.Module):
    """Runs out of memory on windows of more than 1,100 pixels."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, u):
        self.sizes.append(u.shape[-1])
        if u[0, 0].numel() > 1100:
            raise torch.OutOfMemoryError("out of memory")
        return u


def test_out_of_memory_takes_smaller_windows():
    net, picture = Hungry(), torch.randn(1, 100, 90)
    torch.testing.assert_close(predict(net, picture, window=64), picture)
    assert net.sizes[0] == 64
    assert max(net.sizes[1:]) == 32


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError, match="channels"):
        predict(nn.Conv2d(3, 1, 1), torch.zeros(1, 100, 100), window=64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 8}, "`window` must be at least 16 pixels, got 8"),
        ({"overlap": 1.0}, r"`overlap` must be a share in \[0, 1\), got 1"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        predict(nn.Identity(), torch.zeros(1, 20, 20), **arguments)
