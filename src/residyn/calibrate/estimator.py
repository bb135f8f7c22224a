"""Any scikit-learn classifier, with probabilities that have been cross-fitted and shrunk. Needs scikit-learn."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from residyn.calibrate.calibrator import Calibrator
from residyn.calibrate.shrink import Shrink
from residyn.errors import InputError


class ShrinkClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """A classifier whose log-probabilities go through z⁺ = (1 - λ)·z, λ from out-of-fold predictions.

    λ is fitted on predictions that each sample got from classifiers which had not seen it; the classifier itself is then
    fitted on all samples. Predictions are those of the classifier.

    Args:
        estimator: A classifier with `predict_proba`; `None` for logistic regression.
        calibrator: What to fit; `None` for `Shrink()`.
        cv: Number of folds, or a scikit-learn splitter.

    Attributes:
        estimator_: The fitted classifier.
        calibrator_: The fitted calibrator; `None` if no λ is best (then a warning says why).
        classes_: The classes.

    >>> from sklearn.datasets import load_wine
    >>> x, y = load_wine(return_X_y=True)
    >>> from sklearn.naive_bayes import GaussianNB
    >>> ShrinkClassifier(GaussianNB()).fit(x, y).predict_proba(x).shape
    (178, 3)
    """

    def __init__(self, estimator: Any = None, calibrator: Calibrator | None = None, cv: Any = 5) -> None:
        self.estimator = estimator
        self.calibrator = calibrator
        self.cv = cv

    def fit(self, X: Any, y: Any) -> Self:  # scikit-learn's name
        """Fit the calibrator on out-of-fold predictions, and the classifier on everything.

        Args:
            X: Features, `(N, D)`.
            y: Classes, `(N,)`.

        Returns:
            Itself.

        Raises:
            ValueError: If scikit-learn's checks of `X` and `y` fail.
        """
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"`y` must hold 2 classes at least, got 1 class: {self.classes_[0]!r}")
        model = LogisticRegression() if self.estimator is None else self.estimator
        self.estimator_ = clone(model).fit(X, y)
        self.calibrator_ = self._calibrator(model, X, y, numbers)
        return self

    def predict_proba(self, X: Any) -> Any:
        """Calibrated probabilities.

        Args:
            X: Features, `(N, D)`.

        Returns:
            `(N, C)`, in the order of `classes_`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        p = self.estimator_.predict_proba(X)
        return p if self.calibrator_ is None else self.calibrator_.predict_proba(np.asarray(p, dtype=np.float64))

    def predict(self, X: Any) -> Any:
        """The class of largest probability.

        Args:
            X: Features, `(N, D)`.

        Returns:
            Classes, `(N,)`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        return self.classes_[self.estimator_.predict_proba(X).argmax(1)]

    def _calibrator(self, model: Any, X: Any, y: Any, numbers: np.ndarray) -> Calibrator | None:
        folds: Any = self.cv
        if isinstance(folds, int):
            least = int(np.bincount(numbers).min())
            if least < 2:
                warnings.warn("not calibrated: a class has one sample, so none can be held out", stacklevel=3)
                return None
            folds = StratifiedKFold(min(folds, least), shuffle=True, random_state=0)
        held_out = cross_val_predict(clone(model), X, y, cv=folds, method="predict_proba")
        try:
            fitted: Calibrator = clone(Shrink() if self.calibrator is None else self.calibrator).fit(
                np.asarray(held_out, dtype=np.float64), numbers
            )
        except InputError as error:
            warnings.warn(f"not calibrated: {error}", stacklevel=3)
            return None
        return fitted
