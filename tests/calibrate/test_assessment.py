"""The judgement of a record: λ from one half, verdicts on the other."""

import pytest
import torch

from residyn.calibrate import Record, Shrink, ece
from residyn.calibrate.assessment import assess
from residyn.errors import InputError


def record(scale=2.0, n=1200, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, 5, generator=g).double()
    y = torch.multinomial(torch.softmax(z, 1), 1, generator=g)[:, 0]
    return Record(scale * z, y, [])


def findings(section):
    return {f.id.removeprefix("calibrate."): f for f in section.findings}


def test_over_confidence_is_mended():
    shrink, section = assess(record())
    assert section.verdict == "pass"
    assert 0 < shrink.lam < 1
    assert findings(section)["accuracy"].value == 0


def test_a_file_for_the_test_is_used_whole():
    first, second = record(), record(seed=1)
    shrink, section = assess(first, test=second)
    assert shrink.lam == Shrink().fit(first.scores, first.labels).lam
    expected = ece(shrink.transform(second.scores), second.labels)
    assert findings(section)["ece"].value == pytest.approx(expected, abs=1e-12)


def test_says_when_the_error_rises_though_the_likelihood_improves():
    """One sample in twenty is far too sure, the others are right about themselves: the likelihood listens to the few."""
    g = torch.Generator().manual_seed(0)
    n = 20000
    few = torch.rand(n, generator=g) < 0.05
    p = torch.where(few, 0.9999, 0.7).double()
    y = (torch.rand(n, generator=g).double() < torch.where(few, 0.85, 0.7)).long()
    z = torch.stack([torch.zeros(n).double(), torch.log(p / (1 - p))], 1)
    found = findings(assess(Record(z, y, []))[1])
    assert found["nll"].verdict == "pass"
    assert found["ece"].verdict == "warn"
    assert "likelihood may improve all the same" in found["ece"].why


def test_bad_records_are_named():
    z, y = record(n=40).scores, record(n=40).labels
    with pytest.raises(InputError, match=r"`labels` must hold 2 classes at least, got class 1 only"):
        assess(Record(z, torch.ones(40, dtype=torch.long), []))
    with pytest.raises(InputError, match=r"`scores` must differ between samples, got the same prediction for all"):
        assess(Record(torch.tensor([[1.0, 2.0]]).expand(40, 2), y % 2, []))
    with pytest.raises(InputError, match=r"`bins` must be at most the 20 test samples, got 50"):
        assess(Record(z, y, []), bins=50)
    with pytest.raises(InputError, match=r"`scores` must hold 4 samples at least, half of them for the test, got 3"):
        assess(Record(z[:3], y[:3], []))
    with pytest.raises(InputError, match=r"`test` must have the record's 5 classes, got 4"):
        assess(Record(z, y, []), test=Record(z[:, :4], y.clamp(max=3), []))
