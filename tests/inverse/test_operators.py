"""Operators against SciPy and NumPy, the conformance suite, and norms on random ones."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from residyn.errors import InputError
from residyn.inverse import Blur, Downsample, Fourier, FromFunction, Inpainting, Radon, gaussian, motion
from residyn.inverse.operators.border import cosine_transform, extend, fold, inverse_cosine_transform, smooth_size
from residyn.inverse.operators.convolve import factors
from residyn.testing import check_operator

F64 = torch.float64


def kernel(shape, *, outer=False, seed=0):
    rng = np.random.default_rng(seed)
    if not outer:
        return rng.random(shape)
    lines = [rng.random(k) for k in shape]
    product = lines[0]
    for line in lines[1:]:
        product = np.multiply.outer(product, line)
    return product


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 3), (4, 5), (7, 6)])
@pytest.mark.parametrize("boundary, mode", [("symmetric", "reflect"), ("circular", "wrap")])
@pytest.mark.parametrize("backend", ["direct", "separable", "fft"])
def test_blur_is_scipys_convolution(shape, boundary, mode, backend):
    psf = kernel(shape, outer=backend == "separable")
    x = torch.randn(2, 9, 11, dtype=F64, generator=torch.Generator().manual_seed(0))
    expected = np.stack([scipy.ndimage.convolve(plane, psf, mode=mode) for plane in x.numpy()])
    got = Blur(psf, (9, 11), boundary, backend=backend)(x)
    # sums of up to 42 products of numbers of order one
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-12)


def test_blur_of_a_volume_is_scipys_convolution():
    psf, x = kernel((3, 4, 5)), np.random.default_rng(1).random((6, 7, 8))
    for boundary, mode in (("symmetric", "reflect"), ("circular", "wrap")):
        got = Blur(psf, x.shape, boundary)(torch.from_numpy(x))
        np.testing.assert_allclose(got.numpy(), scipy.ndimage.convolve(x, psf, mode=mode), rtol=0, atol=1e-12)


def test_unknown_borders_keep_what_the_picture_alone_decides():
    psf, x = kernel((4, 3)), np.random.default_rng(1).random((12, 10))
    op = Blur(psf, (9, 8), "unknown")
    assert op.domain == (12, 10)
    from scipy.signal import convolve2d

    np.testing.assert_allclose(op(torch.from_numpy(x)).numpy(), convolve2d(x, psf, mode="valid"), rtol=0, atol=1e-12)


def operators():
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for backend in ("direct", "separable", "fft"):
        for boundary in ("symmetric", "circular", "unknown"):
            yield f"blur-{backend}-{boundary}", Blur(kernel((3, 4), outer=True), (8, 9), boundary, backend=backend)
    yield "blur-single", Blur(kernel((5, 5)).astype(np.float32), (16, 16))
    yield "blur-3d", Blur(kernel((3, 3, 3)), (5, 6, 7))
    yield "blur-1d", Blur(rng.standard_normal(5), (40,), "unknown")
    yield "blur-cosine", Blur(gaussian(1.0), (11, 14))
    yield "blur-signed", Blur(rng.standard_normal((5, 5)), (28, 30))
    yield "inpainting", Inpainting(rng.random((6, 7)) > 0.5)
    yield "downsample", Downsample((9, 8), 2, dtype=F64)
    yield "downsample-blur", Downsample((8, 12), 2, Blur(kernel((3, 3)), (8, 12), "circular"))
    yield "downsample-mirrored", Downsample((9, 7), 3, Blur(kernel((3, 3)), (9, 7)))
    yield "radon", Radon(15, [0.0, 30.0, 77.0, 120.0], dtype=F64)
    yield "fourier", Fourier(rng.random((6, 5)))
    yield "fourier-coils", Fourier(rng.random((6, 5)), torch.randn(3, 6, 5, dtype=torch.complex128, generator=generator))
    matrix = torch.randn(12, 20, dtype=F64, generator=generator)
    yield "function", FromFunction(lambda x: x @ matrix.T, (20,), dtype=F64)
    yield "function-single", FromFunction(lambda x: matrix @ x, (20,), dtype=F64, batched=False)
    yield "function-complex", FromFunction(torch.fft.fft, (20,), dtype=F64)
    yield "function-adjoint", FromFunction(lambda x: x @ matrix.T, (20,), adjoint=lambda y: y @ matrix, dtype=F64)


@pytest.mark.parametrize("op", [pytest.param(op, id=name) for name, op in operators()])
def test_operator_keeps_the_laws(op):
    assert len(check_operator(op)) >= 12


def random_operators(count):
    rng, generator = np.random.default_rng(5), torch.Generator().manual_seed(5)
    for i in range(count):
        axes = int(rng.integers(1, 4))
        psf = rng.random([int(k) for k in rng.integers(1, 6, axes)]) - 0.5 * (i % 2)
        top = {1: 120, 2: 14, 3: 6}[axes]
        shape = [int(rng.integers(max(k, 3), top + 1)) for k in psf.shape]
        kind = i % 10
        if kind < 6:
            yield Blur(psf, shape, ("symmetric", "circular", "unknown")[kind % 3])
        elif kind == 6:
            yield Radon(int(rng.integers(3, 14)), 180 * rng.random(int(rng.integers(1, 9))), dtype=F64)
        elif kind == 7:
            sides = [int(n) for n in rng.integers(4, 12, 2)]
            yield Downsample(sides, 2, Blur(rng.standard_normal((3, 3)), sides, ("circular", "symmetric")[i // 10 % 2]))
        elif kind == 8:
            sides = [int(n) for n in rng.integers(3, 9, 2)]
            coils = torch.randn(2, *sides, dtype=torch.complex128, generator=generator)
            yield Fourier(rng.random(sides), coils if i // 10 % 2 else None)
        else:
            matrix = torch.randn(*[int(n) for n in rng.integers(2, 60, 2)], dtype=F64, generator=generator)
            yield FromFunction(lambda x, matrix=matrix: x @ matrix.T, (matrix.shape[1],), dtype=F64)


def true_norm(op):
    n = op.domain.numel()
    columns = op(torch.eye(n, dtype=op.dtype).reshape(n, *op.domain)).reshape(n, -1)
    return float(torch.linalg.matrix_norm(columns, 2))


def test_norm_bound_on_two_hundred_random_operators():
    excess = [float(op.norm_bound()) / true_norm(op) - 1 for op in random_operators(200)]
    assert len(excess) == 200
    # never below: the truth itself comes from an SVD in float64, exact to some 1e-13
    assert min(excess) >= -1e-13
    assert max(excess) <= 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_lanczos_bound_where_nothing_else_is_known(seed):
    """900 unknowns: past the size at which the matrix is written out."""
    matrix = torch.randn(400, 900, dtype=F64, generator=torch.Generator().manual_seed(seed))
    op = FromFunction(lambda x: x @ matrix.T, (900,), dtype=F64)
    bound, truth = op.norm_bound(), float(torch.linalg.matrix_norm(matrix, 2))
    assert bound.kind == "upper"
    assert truth <= float(bound) <= 1.001 * truth


def test_the_collatz_bound_is_certified_for_a_large_mirrored_motion_blur():
    op = Blur(motion(9, 30), (48, 48))
    assert op.spectrum is None
    bound = op.norm_bound()
    x = torch.ones(48, 48, dtype=F64)
    for _ in range(3000):
        x = op.normal(x)
        x = x / x.norm()
    lower = float(op(x).norm())  # a Rayleigh quotient: never above the truth
    assert bound.kind in ("certified", "upper")
    assert lower <= float(bound) <= 1.001 * lower


def test_radon_is_that_of_scikit_image():
    transform = pytest.importorskip("skimage.transform")
    yy, xx = np.mgrid[:65, :65] - 32
    slice_ = np.exp(-((xx - 6) ** 2 + (yy + 3) ** 2) / 60.0) + 0.5 * np.exp(-((xx + 9) ** 2 + yy**2) / 30.0)
    slice_[yy**2 + xx**2 > 32**2] = 0
    angles = np.linspace(0, 180, 24, endpoint=False)
    got = Radon(65, angles, dtype=F64)(torch.from_numpy(slice_)).numpy().T
    expected = transform.radon(slice_, angles)
    # both discretise a smooth slice by linear interpolation, whose error is h²/8·max|f''| ~ 1/8·1/30·2 = 0.8 % of the peak
    assert np.abs(got - expected).max() <= 0.01 * expected.max()


def test_radon_keeps_mass():
    x = torch.zeros(21, 21, dtype=F64)
    x[6:15, 6:15] = torch.rand(9, 9, dtype=F64, generator=torch.Generator().manual_seed(0))
    sums = Radon(21, [0.0, 13.0, 45.0, 90.0, 171.0], dtype=F64)(x).sum(-1)
    torch.testing.assert_close(sums, x.sum().expand(5), rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [4, 5, 9, 16])
def test_cosine_transform_is_scipys(n):
    from scipy.fft import dct

    x = torch.randn(3, n, dtype=F64, generator=torch.Generator().manual_seed(n))
    ours = cosine_transform(x, -1)
    np.testing.assert_allclose(ours.numpy(), dct(x.numpy(), norm="ortho"), atol=1e-13)
    torch.testing.assert_close(inverse_cosine_transform(ours, -1), x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("mode", ["symmetric", "circular", "zero"])
def test_fold_is_the_adjoint_of_extend(mode):
    margins = [(2, 3), (0, 4)]
    x = torch.randn(6, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    wide = extend(x, margins, mode)
    y = torch.randn(wide.shape, dtype=F64, generator=torch.Generator().manual_seed(1))
    assert float((wide * y).sum()) == pytest.approx(float((x * fold(y, margins, mode)).sum()), rel=1e-12)


def test_smooth_sizes_have_no_prime_above_seven():
    for n in range(1, 300):
        size = smooth_size(n)
        assert n <= size < 1.2 * n + 3
        rest = size
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1


def test_only_outer_products_are_separable():
    assert factors(torch.eye(3)) is None
    lines = factors(gaussian(1.2))
    torch.testing.assert_close(torch.outer(*lines), gaussian(1.2), rtol=1e-14, atol=0)
    assert Blur(gaussian(2.0), (64, 64)).backend == "separable"
    assert Blur(torch.eye(3), (64, 64)).backend == "direct"
    assert Blur(motion(9, 30), (64, 64)).backend == "fft"


def test_gradient_reaches_the_input_twice_over():
    op = Blur(kernel((3, 4)), (6, 7))
    x = torch.randn(6, 7, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(op, x)
    assert torch.autograd.gradgradcheck(lambda v: op(v) ** 2, x)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Blur(torch.zeros(3, 3), (8, 8)), "must not be zero everywhere"),
        (lambda: Blur(torch.full((3, 3), math.nan), (8, 8)), "`psf` must be finite"),
        (lambda: Blur(torch.ones(9, 9), (8, 8)), "must not be larger than the picture"),
        (lambda: Blur(torch.ones(3, 3), (8, 8), "reflect"), "`boundary` must be one of symmetric, circular, unknown"),
        (lambda: Blur(torch.ones(3, 3), (3, 8, 8)), "one size for each of the PSF's 2 axes"),
        (lambda: Blur(torch.ones(3, 3, dtype=torch.complex64), (8, 8)), "`psf` must be a real array"),
        (lambda: Blur(torch.eye(3), (8, 8), backend="separable"), "must not be 'separable'"),
        (lambda: Blur(torch.ones(3, 3), (8, 8))(torch.ones(8, 9)), "`x` must have the shape"),
        (lambda: Inpainting([math.inf]), "`mask` must be finite"),
        (lambda: Fourier([[math.nan]]), "`mask` must be finite"),
        (lambda: Fourier(torch.ones(2, 2), torch.ones(1, 3, 3)), "`coils` must be"),
        (lambda: Downsample((8, 8), 0), "`factor` must be a whole number"),
        (lambda: Downsample((8, 8), 2, Blur(torch.ones(3, 3), (9, 9))), "`blur` must have the shape"),
        (lambda: Radon(1, [0.0]), "`n` must be a whole number >= 2"),
        (lambda: Radon(4, [[0.0]]), "`angles` must be a list of finite degrees"),
        (lambda: FromFunction(lambda x: x.detach(), (3,)), "must be made of torch operations"),
        (lambda: Inpainting(torch.ones(0)), "`shape` must have positive sides"),
        (lambda: Blur(torch.eye(4), (8, 8)).analyse(torch.ones(8, 8)), "must be diagonal in a known basis"),
        (lambda: Blur(torch.eye(4), (8, 8)).synthesise(torch.ones(8, 8)), "must be diagonal in a known basis"),
    ],
)
def test_errors_say_what_to_do(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_the_centre_of_an_even_kernel_is_the_right_one_of_the_middle():
    psf = torch.zeros(4, 4)
    psf[2, 2] = 1.0
    x = torch.rand(8, 8)
    torch.testing.assert_close(Blur(psf, (8, 8))(x), x)
