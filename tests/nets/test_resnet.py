"""The small networks: their step, their initialisation, and what leaves their blocks out."""

import math

import pytest
import torch
from scipy.integrate import dblquad
from torch import nn

from residyn.errors import InputError
from residyn.nets import MLP, ResNet, gradient_profile, relu_correlation, survival


def net(depth=6, width=16, **options):
    torch.manual_seed(0)
    return ResNet(nn.Linear(5, width), [MLP(width, width, width) for _ in range(depth)], nn.Linear(width, 3), **options)


def test_blocks_are_the_equation():
    model, u = net(step=0.3), torch.randn(4, 5)
    x = model.stem(u)
    for block in model.body.blocks:
        x = x + 0.3 * block.branch(x)
    # float32: one fused and one separate multiply-add a block
    assert torch.allclose(model(u), model.head(x), atol=1e-5)
    assert torch.equal(model.states(u)[-1], model.body(model.stem(u)))


def test_plain_twin_has_the_same_parameters():
    residual, plain = net(), net(shortcut=False)
    assert all(torch.equal(a, b) for a, b in zip(residual.parameters(), plain.parameters(), strict=True))
    u = torch.randn(4, 5)
    x = plain.stem(u)
    for branch in plain.body.blocks:
        x = branch(x)
    assert torch.equal(plain(u), plain.head(x))


def test_default_step_keeps_the_scale_at_any_depth():
    torch.manual_seed(0)
    x = torch.randn(256, 128)
    for depth in (10, 300):
        with torch.no_grad():
            states = ResNet(nn.Identity(), [MLP(128, 128, 128) for _ in range(depth)], nn.Identity()).states(x)
        growth = float(states[-1].square().mean() / x.square().mean())
        # the mean square grows by (1 + 1/L)^L on average; at 128 neurons the branches' own gain scatters by a third
        assert growth == pytest.approx((1 + 1 / depth) ** depth, rel=0.35)


def test_initialisation_keeps_the_mean_square():
    torch.manual_seed(0)
    x = torch.randn(512, 1024)
    # the gain scatters by √(5/n) = 7 % at n = 1024
    assert float(MLP(1024, 1024, 1024)(x).detach().square().mean()) == pytest.approx(1.0, rel=0.2)


def test_blocks_can_be_left_out():
    model, u = net().eval(), torch.randn(4, 5)
    assert torch.allclose(model.without((), u), model(u))
    assert torch.allclose(model.without(range(6), u), model.head(model.stem(u)))


def test_stochastic_depth_is_a_keep_a_block():
    model = net(keep=survival(6, 0.5))
    assert [block.keep for block in model.body.blocks] == pytest.approx([1 - k / 12 for k in range(1, 7)])
    assert survival(3, 0.2, "uniform") == pytest.approx([0.8] * 3)
    u = torch.randn(4, 5)
    assert torch.equal(model.eval()(u), net()(u))


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.0, 0.5, 0.95])
def test_correlation_map_is_the_gaussian_integral(rho):
    # κ = E relu(a)·relu(b)/E relu(a)², (a, b) normal with correlation ρ; E relu(a)² = 1/2
    c = 1 / (2 * math.pi * math.sqrt(1 - rho**2))
    value, _ = dblquad(
        lambda b, a: a * b * c * math.exp(-(a * a - 2 * rho * a * b + b * b) / (2 - 2 * rho**2)), 0, 9, 0, 9, epsabs=1e-9
    )
    assert relu_correlation(rho) == pytest.approx(2 * value, abs=1e-7)  # the tails beyond 9 hold 1e-17


def test_gradient_profile_of_linear_blocks_is_exact():
    # F(x) = -x/2: every block halves the gradient, in every direction
    branches = [nn.Linear(8, 8, bias=False) for _ in range(5)]
    with torch.no_grad():
        for branch in branches:
            branch.weight.copy_(-0.5 * torch.eye(8))
    torch.manual_seed(0)
    model = ResNet(nn.Linear(4, 8), branches, nn.Linear(8, 3), step=1.0)
    profile = gradient_profile(model, torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    want = [(5 - k) * math.log(0.5) for k in range(6)]
    assert profile.measured == pytest.approx(want, abs=1e-5)
    assert profile.theory == pytest.approx(want, abs=1e-5)
    assert profile.spread == pytest.approx([0.0] * 6, abs=1e-5)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: MLP(3), r"`sizes` must be two or more widths >= 1, got \(3,\); write MLP\(inputs, hidden, outputs\)"),
        (lambda: MLP(3, 0), r"`sizes` must be two or more widths >= 1, got \(3, 0\)"),
        (lambda: ResNet(nn.Identity(), [], nn.Identity()), r"`branches` must hold at least one module, got none"),
        (lambda: net(keep=[0.5]), r"`keep` must have one probability a branch, 6, got 1; see nets.survival"),
        (lambda: net(shortcut=False, keep=[1.0] * 6), r"`keep` must be None without shortcuts, got probabilities"),
        (lambda: survival(0, 0.5), r"`depth` must be >= 1, got 0"),
        (lambda: survival(3, 1.0), r"`rate` must be a drop probability in \[0, 1\), got 1.0; 0 never drops"),
        (lambda: survival(3, 0.5, "cosine"), r'`schedule` must be "linear" or "uniform", got \'cosine\''),
        (lambda: relu_correlation(1.5), r"`rho` must be a correlation in \[-1, 1\], got 1.5"),
        (
            lambda: gradient_profile(
                ResNet(nn.Identity(), [nn.Identity()], nn.Identity()), torch.zeros(1, 2, 2), torch.zeros(1).long()
            ),
            r"`net` must have vectors as states, \(B, n\), got \(1, 2, 2\); flatten them",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
