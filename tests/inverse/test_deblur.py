"""`deblur` against NumPy written out, loops of blocks, and what it must reach on real pictures."""

import math
import warnings

import numpy as np
import pytest
import torch

import residyn as rd
from residyn.errors import InputError, ResidynWarning
from residyn.inverse import Blur, DataStep, data_block, deblur, gaussian, landweber_gain, motion
from residyn.inverse.frame import Frame
from residyn.inverse.spectrum_model import SpectrumModel, fit_spectrum, squared_frequencies

from .pictures import blurred, noise, psnr, scene

F64 = torch.float64


def camera():
    from residyn.atlas.data import picture

    return picture("camera")


@pytest.mark.parametrize("steps", [1, 7, 40, 1000])
@pytest.mark.parametrize("dtype, tolerance", [(F64, 1e-12), (torch.float32, 2e-6)])
def test_blocks_are_the_closed_form_filter(steps, dtype, tolerance):
    """The loop of residual blocks, the filter in NumPy's float64 and `deblur` agree, relative to the picture's size."""
    _clean, b = blurred(dtype=dtype)
    psf = gaussian(1.5, dtype=dtype)
    op = Blur(psf, tuple(b.shape), "circular")
    block = data_block(op, b, 1.0)
    x = torch.zeros_like(b)
    for _ in range(steps):
        x = block(x)
    wide = np.zeros(b.shape)
    wide[: psf.shape[0], : psf.shape[1]] = psf.double().numpy()
    transfer = np.fft.fft2(np.roll(wide, [-(k // 2) for k in psf.shape], (0, 1)))
    power = np.abs(transfer) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(power > 1e-14, -np.expm1(steps * np.log1p(-np.minimum(power, 1 - 1e-16))) / power, steps)
    filtered = np.fft.ifft2(gain * transfer.conj() * np.fft.fft2(b.double().numpy())).real
    size = np.linalg.norm(filtered)
    assert np.linalg.norm(x.double().numpy() - filtered) <= tolerance * size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResidynWarning)
        restored = deblur(b, psf, method="landweber", boundary="circular", steps=steps, step=1.0)
    assert np.linalg.norm(restored.image.double().numpy() - filtered) <= tolerance * size
    assert restored.steps == steps
    assert len(restored.residuals) == steps + 1
    torch.testing.assert_close(restored.residuals[-1], float((op(x) - b).square().mean().sqrt()), rtol=1e-4, atol=0)


def test_mirrored_landweber_is_the_loop_with_scipys_blur():
    import scipy.ndimage

    _clean, b = blurred(boundary="symmetric")
    psf = gaussian(1.5)
    x = np.zeros(b.shape)
    for _ in range(25):  # the PSF is symmetric, and so is the matrix of the mirrored blur
        gap = scipy.ndimage.convolve(x, psf.numpy(), mode="reflect") - b.numpy()
        x = x - 0.8 * scipy.ndimage.convolve(gap, psf.numpy(), mode="reflect")
    restored = deblur(b, psf, method="landweber", steps=25, step=0.8)
    np.testing.assert_allclose(restored.image.numpy(), x, rtol=0, atol=1e-12)
    assert restored.filter is not None


def test_blocks_without_a_closed_form_run_one_by_one():
    psf = motion(7, 30)
    clean = scene()
    b = Blur(psf, tuple(clean.shape))(clean)
    restored = deblur(b, psf, method="landweber", steps=30)
    op = Blur(psf, tuple(clean.shape))
    x = torch.zeros_like(b)
    for _ in range(30):
        x = x - restored.step * op.adjoint(op(x) - b)
    torch.testing.assert_close(restored.image, x, rtol=0, atol=1e-12)
    assert restored.filter is None
    assert np.all(np.diff(restored.residuals) <= 0)


def test_gain_keeps_its_digits_where_the_filter_vanishes():
    power = torch.tensor([0.0, 1e-300, 1e-18, 1e-9, 0.3, 0.99, 1.0, 1.6], dtype=F64)
    exact = [10.0, 10.0, 10.0]  # (1 - (1 - P)^k)/P → k
    exact += [(1 - (1 - p) ** 10) / p if p > 1e-6 else 10 - 45 * p for p in power[3:].tolist()]
    np.testing.assert_allclose(landweber_gain(power, 1.0, 10).numpy(), exact, rtol=1e-14)


@pytest.mark.parametrize(
    "step, steps, words", [(0.0, 1, "`step` must be > 0"), (1.0, -1, "`steps` must be"), (1.0, True, "`steps`")]
)
def test_gain_refuses(step, steps, words):
    with pytest.raises(InputError, match=words):
        landweber_gain(torch.ones(1), step, steps)


def test_stack_of_blocks_collapses_to_two_transforms():
    from residyn.inverse import spectral_data_step
    from residyn.schemes.collapse import collapse

    _clean, b = blurred()
    op = Blur(gaussian(1.5), tuple(b.shape), "circular")
    x = rd.Stack([data_block(op, b, 0.9) for _ in range(60)])(torch.zeros_like(b))
    once = collapse(spectral_data_step(op, b), rd.Euler(), 0.9, 60, torch.zeros_like(b))
    torch.testing.assert_close(once, x, rtol=0, atol=1e-12)
    flow = rd.Flow(rd.autonomous(spectral_data_step(op, b)), (0.0, 54.0), scheme=rd.Euler(), control=rd.Fixed(steps=60))
    torch.testing.assert_close(flow(torch.zeros_like(b)), x, rtol=0, atol=1e-12)


def test_the_largest_stable_step_is_two_over_the_norm():
    op = Blur(gaussian(1.0), (24, 24), "circular")
    found = rd.max_stable_step(DataStep(op, torch.zeros(24, 24, dtype=F64)), torch.zeros(24, 24, dtype=F64))
    assert float(found) == pytest.approx(2.0, rel=1e-3)  # H(0) = 1 is its norm


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_automatic_linear_reaches_what_was_asked(dtype):
    """Camera, σ = 2, noise 0.01, periodic: 27.7 dB without an oracle; the ceiling, with the true spectrum, is 28.02."""
    clean, b = blurred(0.01, 2.0, dtype=dtype, clean=camera().to(dtype))
    restored = deblur(b, gaussian(2.0), boundary="circular")
    assert psnr(restored.image, clean) >= 27.7
    # the fit uses some 4,000 frequencies that hold noise alone: σ to 1/√8000 = 1.1 %, three times
    assert restored.sigma == pytest.approx(0.01, rel=0.034)


@pytest.mark.parametrize("seed", [0, 1])
def test_total_variation_reaches_what_was_asked(seed):
    clean, b = blurred(0.01, 2.0, dtype=torch.float32, clean=camera().float(), seed=seed)
    assert psnr(deblur(b, gaussian(2.0), method="tv", boundary="circular").image, clean) >= 28.6


@pytest.mark.parametrize("method, asked", [("auto", 27.87), ("tv", 28.6)])
def test_real_borders(method, asked):
    """A crop of the blurred picture; over seeds 0 to 3 `auto` reaches 27.89 to 27.93, its mean is above 27.9."""
    clean, b = blurred(0.01, 2.0, clean=camera(), seed=1)
    inner = (slice(32, 480), slice(32, 480))
    restored = deblur(b[inner], gaussian(2.0), method=method)
    periodic = deblur(b[inner], gaussian(2.0), method=method, boundary="circular")
    assert psnr(restored.image, clean[inner]) >= asked
    assert psnr(restored.image, clean[inner]) >= psnr(periodic.image, clean[inner]) + 3.4
    unknown = deblur(b[inner], gaussian(2.0), method=method, boundary="unknown")
    assert psnr(unknown.image, clean[inner]) >= psnr(restored.image, clean[inner])


def test_the_wiener_filter_written_out():
    """With noise and spectrum as estimated, the picture is that of NumPy's closed form."""
    _clean, b = blurred()
    restored = deblur(b, gaussian(1.5), boundary="circular")
    transfer, model = restored.transfer, restored.model
    f2 = squared_frequencies(tuple(b.shape))
    penalty = model.sigma**2 / (model.amplitude * (f2 + model.knee**2) ** (-model.exponent / 2))
    penalty[0, 0] = 0
    expected = np.fft.irfft2((transfer.conj() / (transfer.abs() ** 2 + penalty)).numpy() * np.fft.rfft2(b.numpy()), s=b.shape)
    np.testing.assert_allclose(restored.image.numpy(), expected, rtol=0, atol=1e-10)
    assert float(restored.image.mean()) == pytest.approx(float(b.mean()), rel=1e-12)


def test_spectrum_is_found_where_it_is_a_power_law():
    size, model = (128, 160), SpectrumModel(2e-4, 2.4, 0.004, 0.02)
    transfer = Blur(gaussian(1.2), size, "circular").spectrum
    mean = transfer.abs() ** 2 * model.power(squared_frequencies(size)) + model.sigma**2
    white = torch.fft.rfft2(noise(size))
    found = fit_spectrum(white * mean.sqrt(), transfer, size)
    # 4,000 samples: Fisher information gives σ to 1 %, β to 3 %; three times that
    assert found.sigma == pytest.approx(0.02, rel=0.03)
    assert found.exponent == pytest.approx(2.4, rel=0.09)


def test_discrepancy_stops_at_the_noise():
    clean, b = blurred(0.02)
    restored = deblur(b, gaussian(1.5), method="landweber", boundary="circular", noise=0.02)
    assert restored.residuals[-1] <= 0.02 < restored.residuals[-2]
    assert psnr(restored.image, clean) > psnr(b, clean)


def test_too_many_steps_warn_and_fewer_do_not():
    clean, b = blurred(0.01, 2.0, clean=camera())
    with pytest.warns(ResidynWarning, match="1000 steps are past the best, about .* further from the truth than before"):
        late = deblur(b, gaussian(2.0), method="landweber", boundary="circular", steps=1000)
    assert psnr(late.image, clean) < psnr(b, clean)  # it says so because it is so
    early = deblur(b, gaussian(2.0), method="landweber", boundary="circular", steps=50)
    assert early.notes == ()
    assert psnr(early.image, clean) > psnr(b, clean)


def test_noise_that_is_never_reached_is_said():
    b = torch.rand(24, 24, dtype=F64, generator=torch.Generator().manual_seed(0))
    psf = torch.zeros(3, 3, dtype=F64)
    psf[0] = psf[2] = 1 / 6
    with pytest.warns(ResidynWarning, match="did not reach the noise"):
        deblur(b, psf, method="landweber", boundary="circular", noise=1e-9)


def test_colour_is_restored_channel_by_channel():
    clean, b = blurred()
    colour = torch.stack([b, 1 - b, 0.5 * b], -1)
    for boundary in ("circular", "symmetric"):
        restored = deblur(colour, gaussian(1.5), boundary=boundary, noise=0.01)
        assert restored.image.shape == colour.shape
    # one filter for all channels is linear: the negative of a channel is restored to the negative
    torch.testing.assert_close(restored.image[..., 1], 1 - restored.image[..., 0], rtol=0, atol=1e-9)
    vector = deblur(colour, gaussian(1.5), method="tv", boundary="circular").image
    assert psnr(vector[..., 0], clean) > psnr(b, clean)


def test_volumes_are_restored():
    clean = torch.zeros(12, 40, 40, dtype=F64)
    clean[3:9, 10:30, 14:26] = 1.0
    line = torch.tensor([0.25, 0.5, 0.25], dtype=F64)
    plane = gaussian(1.2)
    psf = line[:, None, None] * plane
    b = Blur(psf, tuple(clean.shape))(clean) + 0.01 * noise(clean.shape)
    for method in ("auto", "tv"):
        assert psnr(deblur(b, psf, method=method).image, clean) > psnr(b, clean) + 2


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float16, np.float32, np.float64])
def test_types_are_kept(kind):
    clean, b = blurred()
    span = 255 if kind == np.uint8 else 60000 if np.issubdtype(kind, np.integer) else 1
    given = (b.clamp(0, 1).numpy() * span).astype(kind)
    restored = deblur(given, gaussian(1.5), boundary="circular")
    assert restored.image.dtype == kind
    assert restored.image.shape == given.shape
    assert psnr(restored.image.astype(float) / span, clean) > psnr(b, clean) + 1
    if kind == np.uint8:
        assert deblur(torch.from_numpy(given), gaussian(1.5), boundary="circular").image.dtype == torch.uint8


def test_arrays_that_may_not_be_written_and_foreign_byte_orders():
    _clean, b = blurred()
    given = b.float().numpy()
    given.flags.writeable = False
    plain = deblur(given, gaussian(1.5)).image
    np.testing.assert_array_equal(deblur(given.astype(">f4"), gaussian(1.5)).image, plain)
    np.testing.assert_array_equal(deblur(given[::-1], gaussian(1.5)[::1]).image.shape, plain.shape)


@pytest.mark.parametrize("psf", [gaussian(1.0), motion(9, 30), gaussian(3.0)], ids=["gaussian", "motion", "wide"])
@pytest.mark.parametrize("sigma", [0.0, 0.001, 0.02])
@pytest.mark.parametrize("method", ["auto", "tv", "unrolled"])
def test_real_borders_never_make_a_picture_worse(psf, sigma, method):
    """With little noise a filter blows up what the mirrored border is wrong by; the free border has nothing to be wrong by."""
    clean, b = blurred(0.0, clean=scene(180, 170))
    b = Blur(psf, tuple(clean.shape), "circular")(clean) + sigma * noise(clean.shape)
    inner = (slice(20, -20), slice(20, -20))
    restored = deblur(b[inner], psf, method=method).image
    assert psnr(restored, clean[inner]) > psnr(b[inner], clean[inner]) + 1.0
    if not sigma:  # with a border, no less noise than that of 8 bits is reckoned with: an oracle without any is no measure
        return
    # the Wiener filter that knows σ and the true ring spectrum, and sees what lies beyond the border
    from residyn.inverse import ring_spectrum

    op = Blur(psf, tuple(clean.shape), "circular")
    known = (ring_spectrum(clean - clean.mean())).clamp(min=1e-12)
    gain = op.spectrum.conj() / (op.spectrum.abs() ** 2 + sigma**2 / known)
    gain[0, 0] = 1
    oracle = torch.fft.irfft2(torch.fft.rfft2(b) * gain, s=b.shape)
    # what is left to it: a scene of boxes has no power law as its spectrum
    assert psnr(restored, clean[inner]) > psnr(oracle[inner], clean[inner]) - 2.5


@pytest.mark.parametrize("method", ["auto", "tv", "unrolled"])
def test_the_unit_of_the_pixels_does_not_matter(method):
    _clean, b = blurred()
    plain = deblur(b, gaussian(1.5), method=method).image
    for unit in (1e-3, 255.0, 65535.0):
        # rounding of float32 in the network, whose sums are of order 1, over some hundred operations
        torch.testing.assert_close(deblur(unit * b, gaussian(1.5), method=method).image / unit, plain, rtol=0, atol=2e-5)


def test_constant_pictures_stay_as_they_are():
    flat = torch.full((32, 32), 0.4, dtype=F64)
    for method in ("auto", "tv"):
        torch.testing.assert_close(deblur(flat, gaussian(1.0), method=method).image, flat, rtol=0, atol=1e-9)


def test_no_noise_is_asked_for_and_none_assumed():
    _clean, b = blurred(0.0)
    restored = deblur(b, gaussian(1.5), boundary="circular", noise=0.0)
    assert restored.sigma == 0.0
    assert bool(torch.isfinite(restored.image).all())


def test_psf_of_another_sum_is_normalised_and_said():
    _clean, b = blurred()
    with pytest.warns(ResidynWarning, match="`psf` sums to 3, not to one"):
        restored = deblur(b, 3 * gaussian(1.5), boundary="circular")
    torch.testing.assert_close(restored.image, deblur(b, gaussian(1.5), boundary="circular").image, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape, gap", [((30,), 7), ((10,), 14), ((20, 26), 5)])
def test_frame_joins_the_edges_without_a_jump(shape, gap):
    frame = Frame(shape, tuple(n + gap for n in shape))
    x = torch.linspace(0, 1, math.prod(shape), dtype=F64).reshape(shape)
    wide = frame.place(x)
    assert torch.equal(frame.crop(wide), x)
    for axis in range(len(shape)):
        jumps = (wide - wide.roll(1, axis)).abs()
        # the ramp of slope s comes back over the gap by mirror images and a raised cosine: at most s + π/2·(rise)/(gap + 1)
        rise = float(x.max() - x.min())
        assert float(jumps.max()) <= rise * (math.pi / 2 / (gap + 1) + 2 / (min(shape) - 1))
    assert 0.5 < frame.noise_share < 1


def make_image(**changes):
    image = blurred()[1]
    for place, value in changes.items():
        image[int(place[1:]), 0] = value
    return image


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: deblur(make_image(p3=math.nan), gaussian(1.0)), "got 1 pixels that are nan or infinite"),
        (lambda: deblur(make_image(), gaussian(1.0), noise=-0.1), "`noise` must be a standard deviation >= 0, got -0.1"),
        (lambda: deblur(make_image(), gaussian(1.0), method="magic"), "`method` must be one of auto, tv, landweber"),
        (lambda: deblur(make_image(), gaussian(1.0), boundary="zero"), "`boundary` must be one of"),
        (lambda: deblur(make_image(), gaussian(1.0), steps=3), "with method tv or landweber"),
        (lambda: deblur(make_image(), gaussian(1.0), method="tv", steps=0), "`steps` must be a whole number >= 1"),
        (
            lambda: deblur(make_image(), gaussian(1.0), method="tv", step=1.0),
            "`step` must be > 0 and finite, with method landweber",
        ),
        (lambda: deblur(make_image(), gaussian(1.0), method="landweber", step=2.5), "`step` must be below 2/‖H‖² = 2"),
        (lambda: deblur(make_image(), torch.zeros(3, 3)), "must not be zero everywhere"),
        (lambda: deblur(make_image(), torch.tensor([[1.0, -1.0]])), "must not sum to zero"),
        (lambda: deblur(make_image(), torch.tensor([[0.5, -1.0]])), "`psf` must have a sum > 0, got -0.5; a spread of light"),
        (lambda: deblur(make_image(), torch.ones(200, 200) / 40000), "no larger than the picture"),
        (lambda: deblur(make_image(), torch.ones(3)), "`psf` must have two axes"),
        (lambda: deblur(make_image() > 0, gaussian(1.0)), "must hold real intensities"),
        (lambda: deblur(torch.ones(3, 64), torch.ones(1, 1)), "must have 4 pixels or more"),
        (lambda: deblur(torch.ones(2, 20, 20), gaussian(1.0)), "channels \\(at most 4\\) last"),
    ],
)
def test_errors_say_what_to_do(call, words):
    with pytest.raises(InputError, match=words):
        call()
