"""Momentum, FISTA, HQS and ADMM on the data step, and the branches they use, against closed forms and each other."""

import math

import numpy as np
import pytest
import torch

import residyn as rd
from residyn.errors import InputError
from residyn.inverse import (
    ADMM,
    HQS,
    Blur,
    DataStep,
    Fista,
    FourierDescent,
    Inpainting,
    ProximalStep,
    TotalVariation,
    Wavelet,
    WaveletBranch,
    data_block,
    gaussian,
)
from residyn.inverse.total_variation import split, total_variation
from residyn.inverse.wavelet import analyse, synthesise

from .pictures import blurred, noise, psnr

F64 = torch.float64


def march(op, b, scheme, step, steps, **more):
    field = rd.autonomous(DataStep(op, b))
    control = rd.Fixed(steps=steps)
    return rd.solve(
        field, torch.zeros(op.domain, dtype=op.dtype), [0.0, step * steps], scheme=scheme, control=control, **more
    ).x[-1]


def problem():
    clean, b = blurred(0.02)
    return clean, b, Blur(gaussian(1.5), tuple(b.shape), "circular")


def test_fourier_descent_is_the_loop_of_blocks():
    _clean, b, op = problem()
    block, x = data_block(op, b, 0.9), torch.zeros_like(b)
    for _ in range(40):
        x = block(x)
    torch.testing.assert_close(FourierDescent(op, b, 0.9).advance(40).image(), x, rtol=0, atol=1e-12)
    mask = Inpainting(torch.tensor([1.0, 0.5]).double())
    found = FourierDescent(mask, torch.tensor([1.0, 1.0]).double(), 1.0).advance(3).image()
    np.testing.assert_allclose(found.numpy(), [1.0, 2 * (1 - 0.75**3)], rtol=1e-14)


def test_a_step_leaves_the_picture_it_starts_from_alone():
    op, x = Inpainting(torch.tensor([0.5, 2.0])), torch.tensor([1.0, 1.0])  # its basis is the pixels themselves
    for branch in (DataStep(op, torch.ones(2)), ProximalStep(op, torch.ones(2), 1.0)):
        branch(x)
        branch.matvec(x)
        assert torch.equal(x, torch.ones(2))


def test_momentum_is_nesterovs_recursion_and_faster():
    _clean, b, op = problem()
    x = before = torch.zeros_like(b)
    t = 1.0
    for _ in range(30):
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        y = x + (t - 1) / following * (x - before)
        before, x, t = x, y - op.adjoint(op(y) - b), following
    found = march(op, b, Fista(), 1.0, 30)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-12)
    plain = march(op, b, rd.Euler(), 1.0, 30)
    assert (op(found) - b).norm() < (op(plain) - b).norm()


def test_fista_is_faster_than_its_bound():
    """φ(x_k) - φ* ≤ 2‖x* - x₀‖²/(h·(k + 1)²) for the lasso on a mask, whose minimum is known."""
    weights = torch.linspace(0.05, 1.0, 50, dtype=F64)
    op, b = Inpainting(weights), noise((50,), 1)
    shrink = lambda v, h: torch.sign(v) * (v.abs() - 0.01 * h).clamp(min=0)  # noqa: E731
    best = torch.sign(weights * b) * ((weights * b).abs() - 0.01).clamp(min=0) / weights**2
    value = lambda x: float(0.5 * (weights * x - b).square().sum() + 0.01 * x.abs().sum())  # noqa: E731
    for k in (5, 50, 500):
        gap = value(march(op, b, Fista(shrink), 1.0, k)) - value(best)
        assert gap <= 2 * float(best.square().sum()) / (k + 1) ** 2
    restarted = value(march(op, b, Fista(shrink, restart=True), 1.0, 500)) - value(best)
    assert restarted <= gap


def test_all_roads_lead_to_the_tv_minimum():
    """FISTA, ADMM as a scheme, and the Fourier-split iteration minimise the same function."""
    _clean, b, op = problem()
    weight = 0.004
    tv = TotalVariation(weight, iterations=30)
    value = lambda x: float(0.5 * (op(x) - b).square().sum() + weight * total_variation(x))  # noqa: E731
    by_split = split(op, b, b, weight)
    for _ in range(150):
        x_split, _ = next(by_split)
    x_fista = march(op, b, Fista(tv), 1.0, 150)
    x_admm = march(op, b, ADMM(DataStep(op, b), tv, relaxation=1.6), 2.0, 100)
    least = min(map(value, (x_split, x_fista, x_admm)))
    # FISTA's own bound after 150 steps: 2‖x‖²/151² ≈ 0.3 of 10,368 pixels; inner iterations leave about as much
    for x in (x_split, x_fista, x_admm):
        assert value(x) <= least + 0.02 * (value(b) - least)


def test_half_quadratic_splitting_alternates_both_steps():
    _clean, b, op = problem()
    data, tv = DataStep(op, b), TotalVariation(0.004)
    x = march(op, b, HQS(data, tv), 2.0, 3)
    y = torch.zeros_like(b)
    for _ in range(3):
        y = tv.prox(y + ProximalStep(op, b, 0.5)(y), 2.0)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-10)
    assert HQS(data, tv).stability(torch.tensor(-1.0)) == 0.5
    assert Fista().stability(torch.tensor(-1.0)) == 0.0


@pytest.mark.parametrize("gradient", [rd.Backprop(), rd.Checkpoint(), rd.Replay()])
@pytest.mark.parametrize("kind", ["fista", "admm", "hqs"])
def test_gradients_go_through_every_scheme(kind, gradient):
    weights = torch.tensor([0.3, 1.0, 0.7], dtype=F64)
    op = Inpainting(weights)
    b = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    theta = torch.tensor(0.1, dtype=F64, requires_grad=True)

    class Shrink(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = theta if isinstance(theta, torch.nn.Parameter) else torch.nn.Parameter(theta.detach().clone())

        def forward(self, v, h):
            return torch.sign(v) * (v.abs() - self.theta * h).clamp(min=0)

    def value(amount, mode):
        prox = Shrink()
        with torch.no_grad():
            prox.theta.fill_(amount)
        data = DataStep(op, b)
        scheme = {"fista": Fista(prox.forward), "admm": ADMM(data.prox, prox.forward), "hqs": HQS(data.prox, prox.forward)}[
            kind
        ]
        scheme.callables = lambda: (prox,)
        out = march(op, b, scheme, 0.8, 9, gradient=mode).square().sum()
        return out, prox

    out, prox = value(0.1, gradient)
    out.backward()
    ahead, behind = (value(0.1 + d, rd.Backprop())[0].item() for d in (1e-6, -1e-6))
    # central difference: rounding 1e-16/1e-6 and curvature of 1e-12
    assert float(prox.theta.grad) == pytest.approx((ahead - behind) / 2e-6, rel=1e-7)


@pytest.mark.parametrize("taps", [2, 4])
@pytest.mark.parametrize("shape", [(16, 24), (7, 12), (3, 20, 8), (5, 5)])
def test_wavelets_are_orthonormal(taps, shape):
    x = noise(shape)
    low, details = analyse(x, len(shape), 3, taps)
    energy = low.square().sum() + sum(part.square().sum() for level in details for part in level)
    torch.testing.assert_close(energy, x.square().sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(synthesise(low, details, x.shape, len(shape), taps), x, rtol=0, atol=1e-12)


def test_four_taps_do_not_see_a_ramp():
    _, details = analyse(torch.arange(32, dtype=F64)[None].repeat(32, 1), 2, 1, 4)
    inner = torch.cat([part[2:-2, 2:-2].flatten() for part in details[0]])
    assert float(inner.abs().max()) < 1e-12


def test_wavelets_are_those_of_pywavelets():
    pywt = pytest.importorskip("pywt")
    x = noise((16, 16))
    for taps, name in ((2, "db1"), (4, "db2")):
        low, details = analyse(x, 2, 1, taps)
        theirs, (h, v, d) = pywt.dwt2(x.numpy(), name, mode="periodization")
        for ours, other in ((low, theirs), *zip(details[0], (v, h, d), strict=True)):
            # the same coefficients, up to where counting begins
            np.testing.assert_allclose(np.sort(np.abs(ours.numpy().ravel())), np.sort(np.abs(other.ravel())), atol=1e-12)


def test_wavelet_prox_is_the_minimum():
    x, wave = noise((16, 16)), Wavelet(0.3, levels=2)
    z = wave.prox(x, 0.7)
    objective = lambda y: float(wave.potential(y) + (y - x).square().sum() / 1.4)  # noqa: E731
    assert all(objective(z) <= objective(z + 1e-3 * noise((16, 16), seed)) for seed in range(1, 6))
    assert float(Wavelet(0.3).potential(torch.ones(5, 5))) == 0.0
    smooth = Wavelet(0.3, levels=2, shifts=4).prox(x, 0.7)
    assert smooth.shape == x.shape


def test_wavelets_deblur():
    clean, b, op = problem()
    x = march(op, b, Fista(Wavelet(0.002, shifts=4)), 1.0, 30)
    assert psnr(x, clean) > psnr(b, clean) + 2


def test_wavelet_branch_starts_at_zero_and_learns():
    from residyn.inverse import Unrolled

    clean, b, op = problem()
    net = Unrolled(op, 4, WaveletBranch().double(), data="proximal").double()
    start = net(b[None])
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    before = (start[0] - clean).square().mean().item()
    for _ in range(15):
        loss = (net(b[None])[0] - clean).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (net(b[None])[0] - clean).square().mean().item() < 0.9 * before
    assert all(branch.threshold.abs().max().item() > 0 for branch in net.prox)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Fista(3), r"`prox` must be callable as prox\(v, h\), got 3"),
        (lambda: HQS(3, lambda v, h: v), r"`data` must know its proximal map or be a function prox\(v, h\), got 3"),
        (lambda: ADMM(torch.nn.Identity(), lambda v, h: v), "`data` must know its proximal map"),
        (lambda: ADMM(lambda v, h: v, lambda v, h: v, relaxation=2.0), r"`relaxation` must lie in \(0, 2\), got 2.0"),
        (lambda: Wavelet(0.0), "`weight` must be > 0 and finite, got 0.0"),
        (lambda: Wavelet(1.0, shifts=0), "`shifts` must be a whole number >= 1, got 0"),
        (lambda: Wavelet(1.0, levels=0), "`levels` must be a whole number >= 1, got 0"),
        (lambda: WaveletBranch(taps=3), "`taps` must be one of 2, 4, got 3"),
        (
            lambda: rd.solve(lambda t, x: x, torch.zeros(2), [1.0, 0.0], scheme=Fista(), control=rd.Fixed(steps=1)),
            "`t` must increase in a splitting scheme, got a step of -1",
        ),
        (lambda: Fista().step(lambda t, x: x, torch.zeros(2, 1), torch.ones(2, 1), torch.ones(2, 1), None), "the same for all samples"),
        (lambda: DataStep(Blur(gaussian(1.0), (9, 9), "unknown"), torch.zeros(9, 9, dtype=F64)).prox(torch.zeros(17, 17), 1.0), "must be diagonal"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
