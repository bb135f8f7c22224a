"""λ against a closed form, SciPy's scalar minimiser, and records that break a bare Newton iteration."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from residyn.calibrate import Shrink, nll, stationarity
from residyn.errors import InputError, ResidynError


def record(scale, n=2000, classes=5, seed=0):
    """Logits whose labels are drawn from their own softmax, then made `scale` times as sure."""
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    y = torch.multinomial(torch.softmax(z, 1), 1, generator=generator)[:, 0]
    return scale * z, y


def test_closed_form_for_two_classes():
    # all logits (a, 0), right in a share q: softmax((1-λ)·a) = q, so 1 - λ = log(q/(1-q))/a
    z, y = torch.tensor([[3.0, 0.0]] * 10, dtype=torch.float64), torch.tensor([0] * 8 + [1] * 2)
    # Newton stops at steps below 1e-13 of the scale
    assert Shrink().fit(z, y).lam == pytest.approx(1 - math.log(4.0) / 3, abs=1e-12)


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 2.0, 30.0, 1000.0])
def test_agrees_with_scipy(scale):
    z, y = record(scale)
    table, rows = z.numpy(), np.arange(len(y))

    def loss(log_s):
        s = math.exp(log_s) * table
        return float((logsumexp(s, axis=1) - s[rows, y.numpy()]).mean())

    best = minimize_scalar(loss, bracket=(math.log(0.5 / scale), math.log(2 / scale)), method="brent", options={"xtol": 1e-10})
    shrink = Shrink().fit(z, y)
    # at a flat minimum a float64 loss locates s to √eps = 1.5e-8 only; SciPy is the less exact of the two
    assert 1 - shrink.lam == pytest.approx(math.exp(best.x), rel=1e-6)
    left, right = stationarity(z, y, shrink.lam)
    assert left == pytest.approx(right, rel=1e-12)


def test_both_signs():
    assert 0 < Shrink().fit(*record(3.0)).lam < 1
    assert Shrink().fit(*record(0.3)).lam < 0


@pytest.mark.parametrize("start", [None, 1 - 1e-6, 0.99, 0.0, -99.0, -1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_iterations_from_every_start_and_scale(start, dtype):
    z, y = record(2.0)
    heavy = z * torch.exp(2 * torch.randn(len(z), 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    for table in (z, heavy):
        best = 1 - Shrink().fit(table, y).lam
        for decade in range(-6, 7, 3):
            shrink = Shrink(start).fit((10.0**decade * table).to(dtype), y)
            assert shrink.iterations <= 15
            # Newton stops at errors of 1e-12; rounding the logits to float32 moves s by some 6e-8 of itself; λ = 1 - s is
            # rounded to 1.1e-16
            rel, rounding = 1e-10 if dtype == torch.float64 else 1e-6, 2.3e-16 * 10.0**decade
            assert (1 - shrink.lam) * 10.0**decade == pytest.approx(best, rel=rel, abs=rounding)


def test_survives_where_newton_fails():
    # saturated logits: at s = 1 the curvature underflows to 0 and -g/0 is not a step
    z, y = torch.tensor([[2000.0, 0.0]] * 9 + [[2000.0, 0.0]], dtype=torch.float64), torch.tensor([0] * 9 + [1])
    assert Shrink().fit(z, y).lam == pytest.approx(1 - math.log(9.0) / 2000, abs=1e-12)


def test_single_and_double_precision_agree():
    z, y = record(2.0)
    # rounding the logits to float32 moves them by 6e-8 of themselves, and λ by no more than a few times that
    assert Shrink().fit(z.float(), y).lam == pytest.approx(Shrink().fit(z, y).lam, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_stay_and_likelihood_improves(dtype):
    z, y = record(4.0)
    z = z.to(dtype)
    shrink = Shrink().fit(z, y)
    after = shrink.transform(z)
    assert after.dtype == dtype
    assert torch.equal(after.argmax(1), z.argmax(1))
    assert nll(after, y) < nll(z, y)


def test_numpy_comes_back_as_numpy():
    z, y = record(2.0)
    shrink = Shrink().fit(z.numpy(), y.numpy())
    after = shrink.transform(z.numpy().astype(np.float32))
    assert isinstance(after, np.ndarray)
    assert after.dtype == np.float32
    np.testing.assert_allclose(after, shrink.transform(z).numpy(), rtol=3e-7, atol=1e-6)  # two roundings of float32


def test_shift_of_a_row_changes_nothing():
    z, y = record(2.0)
    # a constant a row costs up to 1e3·eps of each logit
    assert Shrink().fit(z + 1e3 * torch.arange(len(z))[:, None] / len(z), y).lam == pytest.approx(
        Shrink().fit(z, y).lam, abs=1e-9
    )


def test_bad_input_is_named():
    z, y = record(1.0, n=50)
    with pytest.raises(InputError, match=r"`labels` must differ from the top class at least once.*more held-out data"):
        Shrink().fit(z, z.argmax(1))
    with pytest.raises(InputError, match=r"`logits` must differ between classes for a sample at least, got rows of equal ones"):
        Shrink().fit(torch.arange(50.0)[:, None].expand(50, 5), y)
    with pytest.raises(InputError, match=r"got the contrary: λ >= 1 would be best.*check that labels and columns"):
        Shrink().fit(z, z.argmin(1))
    with pytest.raises(ResidynError, match=r"`Shrink` must be fitted before `transform`; call fit\(logits, labels\)"):
        Shrink().transform(z)
    for start in (1.0, math.nan, -math.inf):
        with pytest.raises(
            InputError, match=r"`start` must be a number < 1, got .*; leave it out to start from the data's scale"
        ):
            Shrink(start).fit(z, y)
    with pytest.raises(InputError, match=r"`labels` must lie in \[0, 4\]"):
        Shrink().fit(z, y + 5)


def test_probabilities_stand_for_their_logarithms():
    z, y = record(1.5)
    by_logits, by_probs = Shrink().fit(z.double(), y), Shrink().fit(torch.softmax(z.double(), 1), y)
    assert by_probs.lam == pytest.approx(by_logits.lam, abs=1e-9)  # a constant a row is all that the logarithm adds
    p = by_logits.predict_proba(torch.softmax(z.double(), 1))
    assert np.allclose(p, torch.softmax(by_logits.transform(z.double()), 1).numpy(), atol=1e-12)
