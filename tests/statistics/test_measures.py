"""Calibration error against a loop in NumPy and against cases that can be done by hand."""

import math

import numpy as np
import pytest
import torch

from residyn.calibrate import brier, classwise_ece, ece, nll, reliability, smooth_ece, stationarity
from residyn.errors import InputError


def brute_force(probs, labels, bins, norm):
    """The definition, sample by sample and bin by bin, right-closed."""
    edges = np.linspace(0, 1, bins + 1)
    total, worst = 0.0, 0.0
    for b in range(bins):
        rows = [
            i
            for i, p in enumerate(probs)
            if (edges[b] < max(p) <= edges[b + 1]) or (b == 0 and max(p) == 0) or (b == bins - 1 and max(p) > 1)
        ]
        if rows:
            confidence = math.fsum(max(probs[i]) for i in rows) / len(rows)
            right = sum(int(np.argmax(probs[i]) == labels[i]) for i in rows) / len(rows)
            gap = abs(right - confidence)
            total += len(rows) / len(probs) * (gap if norm == "l1" else gap**2)
            worst = max(worst, gap)
    return {"l1": total, "l2": math.sqrt(total), "max": worst}[norm]


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_agrees_with_the_definition(bins, norm):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(500, 4)) * 3
    labels = rng.integers(0, 4, 500)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # both sum 500 numbers below 1 in float64: 500·eps = 1e-13
    assert ece(logits, labels, bins, norm) == pytest.approx(brute_force(probs, labels, bins, norm), abs=1e-12)


def test_edges_belong_to_the_bin_on_their_left():
    probs = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]], dtype=torch.float64)
    points = reliability(probs, torch.tensor([0, 1, 1]), bins=4)
    assert points.upper == [0.5, 0.75, 1.0]
    assert points.count == [1, 1, 1]


def test_confidence_of_exactly_one_is_in_the_last_bin():
    # nine of ten sure predictions are right: the error is 0.1, not what a bin open on the right would drop
    probs = torch.tensor([[0.0, 1.0]] * 10)
    assert ece(probs, torch.tensor([1] * 9 + [0])) == pytest.approx(0.1, abs=1e-15)


def test_sums_do_not_lose_digits():
    # 300,000 float32 confidences of 0.6 sum to 180,000 in float64; in float32 the sum is off by whole units
    probs = torch.tensor([[0.4, 0.6]]).repeat(300_000, 1)
    labels = torch.ones(300_000, dtype=torch.int64)
    assert ece(probs, labels) == pytest.approx(1 - float(torch.tensor(0.6)), abs=1e-9)


def test_torch_and_numpy_and_precision_agree():
    z = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(64) % 3
    assert ece(z, y) == ece(z.numpy(), y.numpy())
    # exponentials are taken in the precision of the scores: three single roundings of 6e-8 a confidence, none at an edge
    assert ece(z, y) == pytest.approx(ece(z.double(), y.int()), abs=3e-7)


def test_ties_are_right_only_for_the_first_class():
    """As `argmax` predicts: of equal scores the first."""
    p = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    assert ece(p, torch.tensor([0, 1])) == 0.0  # confidence 1/2, one of two right
    assert ece(p, torch.tensor([1, 1])) == 0.5  # none right
    assert ece(torch.zeros(2, 4), torch.tensor([3, 0])) == 0.25


def test_equal_mass_bins_by_hand():
    p = torch.tensor([0.6, 0.7, 0.8, 0.9], dtype=torch.float64)
    y = torch.tensor([1, 1, 0, 1])
    # two bins of two: |1 - 0.65| and |0.5 - 0.85|, each with half of the samples
    assert ece(p, y, bins=2, binning="mass") == pytest.approx(0.35, abs=1e-12)
    # equal confidences stay together, so all is one bin: |0.75 - 0.6|
    assert ece(torch.full((4,), 0.6, dtype=torch.float64), y, bins=2, binning="mass") == pytest.approx(0.15, abs=1e-12)


def test_binary_vector_is_two_columns():
    z, y = torch.randn(200, generator=torch.Generator().manual_seed(1)).double(), torch.arange(200) % 2
    two = torch.stack([torch.zeros_like(z), z], 1)
    assert ece(z, y) == pytest.approx(ece(two, y), abs=1e-15)
    assert ece(torch.sigmoid(z), y) == pytest.approx(ece(two, y), abs=1e-12)
    assert nll(z, y) == pytest.approx(float(torch.nn.functional.binary_cross_entropy_with_logits(z, y.double())), abs=1e-14)


def test_multilabel_counts_every_event():
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(2)).double()
    marks = (torch.rand(50, 3, generator=torch.Generator().manual_seed(3)) < 0.4).long()
    p = torch.sigmoid(z)
    total = 0.0
    for b in range(10):
        inside = (p > b / 10) & (p <= (b + 1) / 10)
        if inside.any():
            total += float(inside.sum()) / 150 * abs(float(marks[inside].double().mean() - p[inside].mean()))
    assert ece(z, marks, bins=10) == pytest.approx(total, abs=1e-12)
    assert brier(z, marks) == pytest.approx(float(((p - marks) ** 2).mean()), abs=1e-15)
    assert len(classwise_ece(z, marks)) == 3


@pytest.mark.parametrize("classes", [2, 5])
def test_agrees_with_scikit_learn(classes):
    metrics = pytest.importorskip("sklearn.metrics")
    g = torch.Generator().manual_seed(classes)
    p = torch.softmax(torch.randn(300, classes, generator=g).double(), 1)
    y = torch.randint(classes, (300,), generator=g)
    onehot = torch.nn.functional.one_hot(y, classes).double()
    assert brier(p, y) == pytest.approx(float(((p - onehot) ** 2).sum(1).mean()), abs=1e-14)
    assert nll(p.log(), y) == pytest.approx(metrics.log_loss(y.numpy(), p.numpy(), labels=list(range(classes))), abs=1e-12)
    if classes == 2:  # scikit-learn's binary score has one of the two equal terms
        assert brier(p, y) == pytest.approx(2 * metrics.brier_score_loss(y.numpy(), p[:, 1].numpy()), abs=1e-14)


def test_smooth_error_equals_its_definition():
    """Against a direct sum over images of the kernel and quadrature of the integral, at the width that it found."""
    g = torch.Generator().manual_seed(4)
    p = torch.rand(200, generator=g).double() * 0.8 + 0.15
    y = (torch.rand(200, generator=g) < p**2).long()
    found = smooth_ece(p, y)
    conf = torch.maximum(p, 1 - p)
    right = ((p > 0.5).long() == y).double()
    t = torch.linspace(0, 1, 20001, dtype=torch.float64)
    images = torch.cat([2 * k + s * conf for k in (-2, -1, 0, 1, 2) for s in (1.0, -1.0)])
    residual = (right - conf).repeat(10) / 200
    kernel = torch.exp(-((t[:, None] - images) ** 2) / (2 * found**2)) / (found * math.sqrt(2 * math.pi))
    direct = float(torch.trapezoid((kernel @ residual).abs(), t))
    # samples sit on a grid of 1/4096 here: at σ of some hundredths the integral moves by (1/4096/σ)² of itself
    assert direct == pytest.approx(found, rel=1e-3)


def test_smooth_error_does_not_jump():
    y = torch.tensor([1, 0] * 50)
    low, high = (torch.full((100,), 0.6 + d, dtype=torch.float64) for d in (0.0, 1e-6))
    assert abs(smooth_ece(low, y) - smooth_ece(high, y)) < 1e-5
    assert smooth_ece(low, y) == pytest.approx(0.1, abs=2e-3)  # |1/2 - 0.6|, all in one place


def test_reliability_has_wilson_intervals():
    points = reliability(torch.tensor([[0.2, 0.8]] * 10), torch.tensor([1] * 8 + [0] * 2), bins=1)
    # closed form for 8 of 10 at z = 1.96: centre (0.8 + z²/20)/(1 + z²/10), from Wilson's formula
    z2 = 1.959963984540054**2
    half = math.sqrt(z2) / (1 + z2 / 10) * math.sqrt(0.016 + z2 / 400)
    centre = (0.8 + z2 / 20) / (1 + z2 / 10)
    assert points.low == pytest.approx([centre - half], abs=1e-12)
    assert points.high == pytest.approx([centre + half], abs=1e-12)


def test_likelihood_and_its_condition_by_hand():
    z, y = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64), torch.tensor([0])
    assert nll(z, y) == pytest.approx(math.log(4.0), abs=1e-14)
    # relative to the larger logit: z = (-log 3, 0), p = (1/4, 3/4)
    left, right = stationarity(z, y, 0.0)
    assert (left, right) == pytest.approx((-math.log(3.0), -math.log(3.0) / 4), abs=1e-14)


Z, Y = torch.zeros(3, 2), torch.tensor([0, 1, 0])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ece(Z.long(), Y), r"`logits_or_probs` must be floating point, got torch.int64; convert it with .float\(\)"),
        (lambda: ece(Z[0], Y), r"`labels` must be \(2,\), one a row of scores, got \(3,\)"),
        (lambda: ece(Z[:, :1], Y), r"C >= 2 classes, got \(3, 1\)"),
        (lambda: ece(Z[:0], Y[:0]), r"N >= 1 samples .* got \(0, 2\)"),
        (lambda: ece(Z / 0, Y), r"must be finite, got \[nan, nan\] in row 0; drop or mend that row"),
        (lambda: ece(Z, Y.float()), r"`labels` must be integer class numbers, got torch.float32; convert them with .long"),
        (lambda: ece(Z, Y[:2]), r"`labels` must be \(3,\), one a row of scores, got \(2,\)"),
        (lambda: ece(Z, Y + 1), r"`labels` must lie in \[0, 1\], got 2; count classes from 0"),
        (lambda: ece(Z, Y - 1), r"`labels` must lie in \[0, 1\], got -1"),
        (lambda: ece("z", Y), "`logits_or_probs` must be a tensor or an array of numbers, got str; convert it"),
        (lambda: ece(Z, ["a", "b", "c"]), "`labels` must be a tensor or an array of numbers, got list; convert it"),
        (
            lambda: ece(Z.numpy().astype(object), Y),
            "`logits_or_probs` must be a tensor or an array of numbers, got an array of object",
        ),
        (lambda: ece(Z, Y, bins=0), r"`bins` must be a whole number >= 1, got 0; 15 is usual"),
        (lambda: ece(Z, Y, bins=True), r"`bins` must be a whole number >= 1, got True"),
        (lambda: ece(Z, Y, norm="l3"), r'`norm` must be "l1", "l2" or "max", got \'l3\''),
        (
            lambda: ece(Z + 0.2, Y),
            r"must be logits, or rows of .*; row 0 lies in \[0, 1\] and sums to 0.4; pass kind=\"logits\"",
        ),
        (lambda: ece(Z - 2, Y, kind="probabilities"), r"row 0 sums to -4; divide each row by its sum"),
        (lambda: ece(Z[:, 0] - 2, Y, kind="probabilities"), r"must lie in \[0, 1\] as probabilities do, got -2 to -2"),
        (lambda: ece(Z, Y, kind="odds"), r'`kind` must be "auto", "logits" or "probabilities", got \'odds\''),
        (lambda: ece(Z, Y, binning="equal"), r'`binning` must be "width" or "mass", got \'equal\''),
        (lambda: ece(Z, torch.zeros(3, 4)), r"`labels` must be \(3, 2\) as the scores are, got \(3, 4\)"),
        (lambda: ece(Z, torch.full((3, 2), 2)), r"must be zeros and ones, got other values; class numbers go in \(N,\)"),
        (lambda: ece(Z[None], Y), r"must be \(N, C\) with N >= 1 samples and C >= 2 classes, or \(N,\) of class 1's"),
        (lambda: nll(Z / 0, Y), r"`logits` must be finite"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
