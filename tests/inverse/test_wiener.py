"""The linear denoiser against closed forms and against a Fourier computation written out."""

import math

import numpy as np
import pytest
import torch

from residyn.errors import InputError
from residyn.inverse import Rings, Wiener, denoise, noise_level, optimal_gain, ring_spectrum, snr


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(height=128, width=160):
    """A smooth scene of mean zero and variance about one."""
    rows, columns = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
    return torch.sin(rows / 9) + torch.cos(columns / 11) * torch.sin((rows + columns) / 17)


@pytest.mark.parametrize("ratio", [0.0, 1e-3, 1.0, 7.0, 1e3])
def test_gain_minimises_the_expected_error(ratio):
    a = optimal_gain(ratio)

    def error(b):  # σ_n = 1: a²·σ_x² + (1 + a)²
        return b * b * ratio + (1 + b) ** 2

    assert -1 <= a <= 0
    assert all(error(a) <= error(a + d) for d in (-1e-3, 1e-3))
    # derivative 2a·SNR + 2(1 + a) is zero up to rounding
    assert a * ratio + 1 + a == pytest.approx(0, abs=1e-12)


def test_gain_of_a_tensor_and_at_the_ends():
    assert torch.equal(optimal_gain(torch.tensor([0.0, 1.0, math.inf])), torch.tensor([-1.0, -0.5, -0.0]))
    assert optimal_gain(math.inf) == 0


@pytest.mark.parametrize("width", [12, 13])
def test_step_is_the_filter_written_out(width):
    y, power = noise((10, width)), noise((10, width // 2 + 1), seed=1) ** 2
    gain = power / (power + 0.3)
    want = torch.fft.irfft2(gain * torch.fft.rfft2(y), s=y.shape)
    assert torch.allclose(Wiener(power, 0.3, width=width)(y), want, atol=1e-13)  # a few hundred roundings


def test_rings_average_and_count():
    rings = Rings(9, 12)
    values = torch.rand(9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # the weights of all rings together are those of the whole plane, where inner columns count twice
    whole = (values * torch.tensor([1.0, 2, 2, 2, 2, 2, 1])).sum()
    assert float((rings.mean(values) * rings.total).sum()) == pytest.approx(float(whole), rel=1e-13)
    assert float(rings.total.sum()) == pytest.approx(9 * 12, rel=1e-13)
    assert torch.allclose(rings.spread(torch.full((len(rings),), 2.0, dtype=torch.float64)), torch.tensor(2.0).double())


def test_spectrum_of_white_noise_is_flat():
    # a ring mean of n coefficients scatters by √(2/n); rings of radius > 8 hold more than 50: five standard errors
    level = ring_spectrum(3 * noise((128, 128)))[8:64, 8:]
    assert float((level / 9 - 1).abs().max()) < 5 * math.sqrt(2 / 50)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 2.0])
def test_noise_level_is_found(sigma):
    # the 60 smallest of 64 eigenvalues of 18,000 overlapping patches scatter by a few percent
    assert noise_level(smooth() + sigma * noise((128, 160))) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("decibels", [-10, 0, 10, 20])
def test_snr_is_found(decibels):
    clean = smooth()
    sigma = float(clean.std(correction=0)) * 10 ** (-decibels / 20)
    # 5 % of σ is 0.4 dB; at -10 dB the picture's variance is a small difference of two large ones: 1 dB
    assert 10 * math.log10(snr(clean + sigma * noise(clean.shape))) == pytest.approx(decibels, abs=1.0)


def test_pure_noise_and_no_noise():
    assert snr(noise((64, 64))) < 0.1
    assert snr(torch.zeros(32, 32)) == math.inf


@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_denoising_comes_near_the_filter_that_knows(sigma):
    clean = smooth()
    noisy = clean + sigma * noise(clean.shape)
    power = ring_spectrum(clean)
    known = Wiener(power, sigma**2, width=clean.shape[1])(noisy)
    reached, best = (float((x - clean).square().mean()) for x in (denoise(noisy), known))
    # the spectrum is estimated, and the borders differ: a tenth more than with both known
    assert reached < 1.1 * best
    assert reached < 0.2 * sigma**2


def test_known_snr_is_used():
    noisy = smooth() + noise((128, 160))
    assert torch.equal(denoise(noisy, snr=math.inf), noisy)
    # no signal at all leaves the mean; float64 sums of 20,000 pixels
    assert torch.allclose(denoise(noisy, snr=0.0), noisy.mean(), atol=1e-12)


def test_types_come_back():
    grey = (100 + 40 * smooth() + 10 * noise((128, 160))).clamp(0, 255).to(torch.uint8)
    out = denoise(grey.numpy())
    assert isinstance(out, np.ndarray)
    assert (out.dtype, out.shape) == (np.uint8, (128, 160))
    colour = torch.stack([smooth()] * 3, dim=2).float() + noise((128, 160, 3)).float()
    assert denoise(colour).dtype == torch.float32
    assert denoise(colour).shape == colour.shape


def test_a_border_does_not_ring():
    # a ramp is no periodic picture; mirrored, its ends stay as good as its middle
    ramp = torch.linspace(0, 10, 128, dtype=torch.float64).expand(128, 128)
    off = (denoise(ramp + noise((128, 128))) - ramp).square()
    assert float(off[:, :4].mean()) < 10 * float(off[:, 60:68].mean()) + 0.05


P = torch.zeros(32, 32)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: optimal_gain(-0.1), r"`snr` must be >= 0, got -0.1; it is a ratio of powers, not decibels: 10\*\*"),
        (lambda: optimal_gain(math.nan), r"`snr` must be >= 0, got nan"),
        (lambda: optimal_gain(torch.tensor([1.0, -2.0])), r"`snr` must be >= 0, got -2.0; it is a ratio of powers"),
        (lambda: Wiener(torch.ones(4, 3), 0.0), r"`noise` must be a variance > 0, got 0.0; without noise there is nothing"),
        (lambda: Wiener(-torch.ones(4, 3), 1.0), r"`snr` must be >= 0, got -1.0"),
        (lambda: denoise(P, snr=-1.0), r"`snr` must be >= 0, got -1.0"),
        (lambda: denoise(P.bool()), r"`image` must hold real intensities, got torch.bool; convert it with .astype"),
        (lambda: denoise(P[0]), r"`image` must be \(H, W\) or \(H, W, C\) with C <= 4, got \(32,\); put the channels last"),
        (lambda: denoise(torch.zeros(3, 32, 32)), r"with C <= 4, got \(3, 32, 32\)"),
        (lambda: noise_level(P[:8]), r"`image` must have 16 pixels or more on each side, got \(8, 32\)"),
        (lambda: snr(P / 0), r"`image` must be finite, got 1024 pixels that are nan or infinite; fill them in first"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
