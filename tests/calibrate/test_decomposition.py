"""Scores in parts, against scikit-learn's isotonic regression and closed forms; the bootstrap against the normal law."""

import math

import numpy as np
import pytest
import torch

from residyn.calibrate import Shrink, bootstrap, brier, decompose, ece, nll
from residyn.errors import InputError


def events(n=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(n, generator=g).double()
    return p, (torch.rand(n, generator=g).double() < p**2).long()


@pytest.mark.parametrize("loss", ["brier", "nll"])
def test_binary_parts_agree_with_isotonic_regression(loss):
    isotonic = pytest.importorskip("sklearn.isotonic")
    p, y = events()
    parts = decompose(p, y, loss=loss)
    fitted = isotonic.IsotonicRegression(y_min=0, y_max=1).fit(p.numpy(), y.numpy()).predict(p.numpy())

    def score(q):
        q, t = np.broadcast_to(q, y.shape), y.double().numpy()
        if loss == "brier":
            return 2 * np.mean((q - t) ** 2)  # two classes, two equal terms
        with np.errstate(divide="ignore", invalid="ignore"):
            return -np.mean(np.where(t == 1, np.log(q), np.log(1 - q)))

    assert parts.score == pytest.approx(score(p.numpy()), abs=1e-12)
    assert parts.miscalibration == pytest.approx(score(p.numpy()) - score(fitted), abs=1e-12)
    assert parts.uncertainty == pytest.approx(score(y.double().mean().item()), abs=1e-12)
    assert parts.miscalibration - parts.discrimination + parts.uncertainty == pytest.approx(parts.score, abs=1e-12)


def test_several_classes():
    g = torch.Generator().manual_seed(1)
    z = 3 * torch.randn(500, 4, generator=g).double()
    y = torch.multinomial(torch.softmax(z / 3, 1), 1, generator=g)[:, 0]
    parts = decompose(z, y, loss="nll")
    best = nll(Shrink().fit(z, y).transform(z), y)
    share = torch.bincount(y) / 500
    entropy = float(-(share.double() * share.double().log()).sum())
    assert parts.score == nll(z, y)
    assert parts.miscalibration == pytest.approx(parts.score - best, abs=1e-12)
    assert parts.uncertainty == pytest.approx(entropy, abs=1e-7)  # shares are single precision above
    squares = decompose(z, y)
    assert squares.score == pytest.approx(brier(z, y), abs=1e-12)
    assert min(squares.miscalibration, squares.discrimination, parts.discrimination) >= 0


def test_perfect_forecast_has_no_miscalibration():
    p = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    parts = decompose(p, torch.tensor([0, 1, 1, 0]))
    assert (parts.score, parts.miscalibration) == (0.0, 0.0)
    assert parts.discrimination == parts.uncertainty == 0.5  # 2·(1/2)²


def test_multilabel_parts_add_up():
    g = torch.Generator().manual_seed(5)
    z = torch.randn(80, 3, generator=g).double()
    marks = (torch.rand(80, 3, generator=g) < 0.5).long()
    for loss, score in (("brier", brier(z, marks)), ("nll", nll(z, marks))):
        parts = decompose(z, marks, loss=loss)
        assert parts.score == pytest.approx(score, abs=1e-12)
        assert parts.miscalibration - parts.discrimination + parts.uncertainty == pytest.approx(score, abs=1e-12)


def test_interval_of_a_mean():
    """The mean of n zeros and ones has standard error sqrt(q(1-q)/n); its 95 % interval is 1.96 of those wide."""
    n, q = 1000, 0.3
    y = (torch.arange(n) < q * n).long()
    interval = bootstrap(lambda _, truth: float(truth.double().mean()), torch.zeros(n, 2), y, draws=4000)
    half = 1.96 * math.sqrt(q * (1 - q) / n)
    # a 2.5 % quantile of 4000 draws scatters by sqrt(0.025·0.975/4000)/0.058 = 4 % of a standard error; 4 of those
    assert interval.value == q
    assert interval.low == pytest.approx(q - half, abs=0.17 * half)
    assert interval.high == pytest.approx(q + half, abs=0.17 * half)


def test_bootstrap_leaves_the_global_generator():
    state = torch.get_rng_state()
    p, y = events(50)
    first, second = bootstrap(ece, p, y, draws=20, seed=3), bootstrap(ece, p, y, draws=20, seed=3)
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_input_is_named():
    p, y = events(20)
    with pytest.raises(InputError, match=r'`loss` must be "brier" or "nll", got \'hinge\''):
        decompose(p, y, loss="hinge")
    with pytest.raises(InputError, match=r"`draws` must be a whole number >= 1, got 0; 1000 is usual"):
        bootstrap(ece, p, y, draws=0)
    with pytest.raises(InputError, match=r"`level` must lie in \(0, 1\), got 95; 0.95 is usual"):
        bootstrap(ece, p, y, level=95)
    with pytest.raises(InputError, match=r"`labels` must be \(20,\), one a row of scores, got \(19,\)"):
        bootstrap(ece, p, y[1:])
