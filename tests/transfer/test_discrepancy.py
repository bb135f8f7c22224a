"""Gaps between samples, against loops and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import energy_distance

from residyn.errors import InputError
from residyn.transfer import Energy, Gaussian, InverseMultiquadric, Laplace, coral, mmd, recolour, standardise


def samples(seed=0, n=23, m=31, d=4):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g).double(), 1.5 * torch.randn(m, d, generator=g).double() + 0.7


FORMS = {
    Gaussian((0.5, 2.0)): lambda d, m: (math.exp(-d * d / (0.5 * m)) + math.exp(-d * d / (2 * m))) / 2,
    Laplace(): lambda d, m: math.exp(-d / math.sqrt(m)),
    InverseMultiquadric(): lambda d, m: 1 / math.sqrt(1 + d * d / m),
    Energy(): lambda d, m: -d,
}


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("kernel", FORMS, ids=lambda k: type(k).__name__)
def test_agrees_with_the_definition(kernel, unbiased):
    a, b = samples()
    squares = sorted(float((x - y).square().sum()) for x in a for y in b)
    length = squares[(len(squares) - 1) // 2]  # torch's median: the lower of the two in the middle

    def mean(one, other, same):
        values = [
            FORMS[kernel](float((x - y).norm()), length)
            for i, x in enumerate(one)
            for j, y in enumerate(other)
            if not (same and unbiased and i == j)
        ]
        return math.fsum(values) / len(values)

    expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    # squared distances of some tens by products lose 1e-15 of that; a root of a distance near 0 no more than 1e-7 of few pairs
    assert float(mmd(a, b, kernel=kernel, unbiased=unbiased)) == pytest.approx(expected, abs=1e-10)


def test_energy_kernel_is_the_energy_distance():
    a, b = samples(d=1)
    # SciPy's is the root of twice the integral of squared differences of distribution functions, whose square is ours
    assert float(mmd(a, b, kernel=Energy())) == pytest.approx(energy_distance(a[:, 0].numpy(), b[:, 0].numpy()) ** 2, abs=1e-10)


@pytest.mark.parametrize("kernel", FORMS, ids=lambda k: type(k).__name__)
def test_gap_is_zero_for_a_sample_with_itself_and_has_a_slope(kernel):
    a, b = samples()
    # between copies of a point the squared distance comes out as 1e-15 of the squares, its root as some 3e-8, one pair in 23
    assert float(mmd(a, a, kernel=kernel)) == pytest.approx(0, abs=1e-8)
    b = torch.cat([b, b[:1], a[:1]]).requires_grad_()  # points that coincide
    mmd(a, b, kernel=kernel).backward()
    assert bool(torch.isfinite(b.grad).all())
    assert float(b.grad.norm()) > 0
    assert float(mmd(torch.zeros(3, 2), torch.zeros(3, 2), kernel=kernel)) == 0.0


def test_coral_by_numpy():
    a, b = samples()
    gap = np.cov(a.numpy().T) - np.cov(b.numpy().T)
    assert float(coral(a, b)) == pytest.approx((gap**2).sum() / (4 * 16), rel=1e-12)


def test_maps_have_the_moments_asked_for():
    a, b = samples(n=200, m=300)
    z, c = standardise(a, b)(a), recolour(a, b, ridge=0.0)(a)
    assert torch.allclose(z.mean(0), b.mean(0), atol=1e-12)
    assert torch.allclose(z.std(0), b.std(0), atol=1e-12)
    assert torch.allclose(torch.cov(c.T), torch.cov(b.T), atol=1e-10)
    assert torch.allclose(c.mean(0), b.mean(0), atol=1e-12)
    still = torch.cat([a, torch.ones(200, 1).double()], 1)  # a feature that does not vary is shifted only
    assert bool((standardise(still, torch.cat([b, torch.full((300, 1), 3.0).double()], 1))(still)[:, 4] == 3.0).all())


def test_covariance_map_agrees_with_skada():
    """skada maps the source and trains again; its matrix for (source, target) is ours for (target, source)."""
    mapping = pytest.importorskip("skada").CORALAdapter
    a, b = samples(n=200, m=300)
    x, domain = torch.cat([b, a]).numpy(), np.array([1] * 300 + [-2] * 200)
    fitted = mapping(reg=1e-12).fit(x, np.zeros(500), sample_domain=domain)
    theirs = np.asarray(fitted.transform(x, sample_domain=domain, allow_source=True))[:300]
    ours = recolour(b, a, ridge=0.0)(b).numpy()
    # its covariances are divided by n and m, ours by n - 1 and m - 1; it leaves the means where its matrix takes them, so both
    # are centred; its ridge is 1e-12
    factor = np.sqrt(300 / 299 * 199 / 200)
    assert np.allclose(theirs - theirs.mean(0), factor * (ours - ours.mean(0)), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a, b: mmd(a[:0], b), r"`a` must hold 1 or more samples with features, got torch.float64 of shape \(0, 4\)"),
        (lambda a, b: mmd(a[:1], b, unbiased=True), r"`a` must hold 2 or more samples"),
        (lambda a, b: coral(a, b[:1]), r"`b` must hold 2 or more samples"),
        (lambda a, b: mmd(a, b[:, :3]), r"`a` and `b` must have the same features, got 4 and 3"),
        (lambda a, b: mmd(a, b / 0), r"`b` must be finite, got nan or inf; drop or mend those samples"),
        (lambda a, b: mmd(a.long(), b), r"`a` must be a floating-point tensor \(n, …\), got torch.int64 of shape \(23, 4\)"),
        (lambda a, b: mmd([1.0], b), r"`a` must be a floating-point tensor \(n, …\), got list"),
        (lambda a, b: Gaussian(()), r"`scales` must be numbers > 0, got \(\)"),
        (lambda a, b: Gaussian((1.0, 0.0)), r"`scales` must be numbers > 0, got \(1.0, 0.0\)"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call(*samples())
