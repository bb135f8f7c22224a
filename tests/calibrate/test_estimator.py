"""The scikit-learn classifier, by scikit-learn's own checks."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.utils.estimator_checks import parametrize_with_checks

from residyn.calibrate import Calibrator, ShrinkClassifier, nll


@pytest.mark.filterwarnings("ignore")  # the checks fit on noise, where "not calibrated" is right
@parametrize_with_checks([ShrinkClassifier()])
def test_passes_scikit_learns_checks(estimator, check):
    check(estimator)


def test_naive_bayes_is_mended():
    """Naive Bayes multiplies evidence that is correlated, so it is over-confident on this table."""
    x, y = load_breast_cancer(return_X_y=True)
    train, test = np.arange(len(x)) % 2 == 0, np.arange(len(x)) % 2 == 1
    bare = GaussianNB().fit(x[train], y[train])
    mended = ShrinkClassifier(GaussianNB()).fit(x[train], y[train])
    assert isinstance(mended.calibrator_, Calibrator)
    assert 0 < mended.calibrator_.lam < 1
    assert np.array_equal(bare.predict(x[test]), mended.predict(x[test]))
    labels = torch.from_numpy(y[test])
    before, after = (np.log(np.clip(m.predict_proba(x[test]), 1e-300, 1)) for m in (bare, mended))
    assert nll(after, labels) < 0.7 * nll(before, labels)


def test_says_why_it_did_not_calibrate():
    x = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    with pytest.warns(UserWarning, match="not calibrated: `labels` must differ from the top class"):
        model = ShrinkClassifier(LogisticRegression(C=100.0), cv=3).fit(x, [0, 0, 0, 1, 1, 1])
    assert model.calibrator_ is None
    assert model.predict_proba(x).shape == (6, 2)
    with pytest.warns(UserWarning, match="a class has one sample"):
        ShrinkClassifier().fit(x, [0, 0, 0, 0, 0, 1])
