"""Calibration error against a loop in NumPy and against cases that can be done by hand."""

import math

import numpy as np
import pytest
import torch

from residyn.calibrate import ece, nll, reliability, stationarity
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
    assert ece(z, y) == ece(z.numpy(), y.numpy()) == ece(z.double(), y.int())


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
        (lambda: ece(Z[0], Y), r"must be \(N, C\) .* got \(2,\); for a binary logit z pass the two columns"),
        (lambda: ece(Z[:, :1], Y), r"C >= 2 classes, got \(3, 1\)"),
        (lambda: ece(Z[:0], Y[:0]), r"N >= 1 samples .* got \(0, 2\)"),
        (lambda: ece(Z / 0, Y), r"must be finite, got \[nan, nan\] in row 0; drop or mend that row"),
        (lambda: ece(Z, Y.float()), r"`labels` must be integer class numbers, got torch.float32; convert them with .long"),
        (lambda: ece(Z, Y[:2]), r"`labels` must be \(3,\), one a row of scores, got \(2,\)"),
        (lambda: ece(Z, Y + 1), r"`labels` must lie in \[0, 1\], got 2; count classes from 0"),
        (lambda: ece(Z, Y - 1), r"`labels` must lie in \[0, 1\], got -1"),
        (lambda: ece(Z, Y, bins=0), r"`bins` must be a whole number >= 1, got 0; 15 is usual"),
        (lambda: ece(Z, Y, bins=True), r"`bins` must be a whole number >= 1, got True"),
        (lambda: ece(Z, Y, norm="l3"), r'`norm` must be "l1", "l2" or "max", got \'l3\''),
        (lambda: nll(Z / 0, Y), r"`logits` must be finite"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
