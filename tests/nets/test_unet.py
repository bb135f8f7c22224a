"""The U-Net: shapes of every kind, what each skip does, and that the right parameters are counted."""

import itertools

import pytest
import torch

from residyn.errors import InputError
from residyn.nets import UNet
from residyn.step import Residual


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    ("short", "long", "join"),
    [(True, True, "add"), (True, True, "concat"), (False, True, "add"), (True, False, "add"), (False, False, "concat")],
)
def test_any_size_goes_in_and_comes_out(dims, short, long, join):
    net = UNet(2, 3, short=short, long=long, join=join, width=4, levels=3, dims=dims)
    for size in (16, 13, 5, 1):
        u = torch.randn(2, 2, *[size + k for k in range(dims)])
        assert net(u).shape == (2, 3, *u.shape[2:])


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_patches_of_any_size(patch):
    assert UNet(1, 2, width=4, levels=2, patch=patch)(torch.randn(1, 1, 17, 23)).shape == (1, 2, 17, 23)


def test_skips_are_switched_independently():
    for short, long in itertools.product([False, True], repeat=2):
        net = UNet(short=short, long=long, width=4, levels=3)
        assert any(isinstance(m, Residual) for m in net.modules()) == short
        # without long skips nothing of the finest level reaches the output but through the coarsest
        u = torch.randn(1, 1, 32, 32)
        coarsest = net.halve[-1]
        handle = coarsest.register_forward_hook(lambda m, i, o: torch.zeros_like(o))
        same = torch.equal(net(u), net(u + 1e-1 * torch.randn_like(u)))
        handle.remove()
        assert same == (not long)


def test_short_skips_change_no_parameters():
    one, two = (UNet(short=short, width=4) for short in (True, False))
    assert {k.replace("branch.", ""): v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in two.state_dict().items()
    }


def test_a_block_without_branch_is_the_identity():
    # x + h·F(x) with F = 0 leaves the state alone: the residual net is then the down and up path alone
    net = UNet(width=4, levels=2, blocks=3)
    for level in [*net.down, *net.up]:
        for block in level:
            torch.nn.init.zeros_(block.branch[-1].weight)
            torch.nn.init.zeros_(block.branch[-1].bias)
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(net.down[0](x), x)


def test_gradient_reaches_every_parameter():
    net = UNet(3, 4, width=4, levels=3, join="concat")
    net(torch.randn(2, 3, 24, 20)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters() if p.ndim > 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "`width` must be >= 1, got 0"),
        ({"levels": 0}, "`levels` must be >= 1, got 0"),
        ({"dims": 4}, "`dims` must be 1, 2 or 3, got 4"),
        ({"join": "stack"}, '`join` must be "add" or "concat", got \'stack\''),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        UNet(**arguments)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (8, 8), (1, 1, 8)])
def test_inputs_that_do_not_fit(shape):
    with pytest.raises(InputError, match=r"`u` must be \(B, 1, …, n\) with 4 axes"):
        UNet(width=4)(torch.zeros(shape))
