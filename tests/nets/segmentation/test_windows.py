"""Pictures cut into windows give what the whole picture gives."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from residyn.errors import InputError, ResidynError
from residyn.nets import UNet
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


def test_memory_that_never_suffices_is_said():
    class Starved(nn.Module):
        def forward(self, u):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    with pytest.raises(ResidynError, match=r"does not suffice for the picture, \(1, 90, 90\), even in windows of 40 pixels"):
        predict(Starved(), torch.zeros(1, 90, 90), window=80)


LIMITED = """
import resource, sys, torch
from residyn.nets import UNet
from residyn.nets.segmentation import predict
torch.set_num_threads(1)
net, picture = UNet(1, 3), torch.rand(1, 2000, 1800)
net(picture[None, :, :64, :64])
held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 300 * 2**20,) * 2)
try:
    with torch.no_grad():
        net(picture[None])
except RuntimeError:
    sys.stdout.write("the whole does not fit\\n")
sys.stdout.write(f"{tuple(predict(net, picture, window=2000).shape)}\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is set and read the way Linux has it")
def test_the_memory_of_a_real_process_runs_out_and_it_goes_on():
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, env=env)
    assert ran.stdout.splitlines() == ["the whole does not fit", "(3, 2000, 1800)"], ran.stderr


def test_volumes_larger_than_a_window_agree_with_the_whole_within_the_reach_of_the_network():
    torch.manual_seed(0)
    net = UNet(1, 2, dims=3, width=2, levels=1, patch=1)  # reaches 4 voxels: a stem, a block of two and a head, each of 3
    volume = torch.randn(1, 40, 24, 30)
    with torch.no_grad():
        whole = net.eval()(volume[None])[0]
    windows = predict(net, volume, window=24)
    assert windows.shape == whole.shape
    # norms see the window and not the whole: on noise their mean and spread differ by 1/√(24·24·24/2) ≈ 1 %, a few times over
    assert float((windows - whole).norm() / whole.norm()) < 0.1


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
