"""What every calibrator of this package is: a positive factor a row, so that no prediction changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from residyn.errors import ResidynError
from residyn.statistics import inputs
from residyn.statistics.inputs import Labels, Scores

S = TypeVar("S", Tensor, np.ndarray)


class Calibrator(ABC):
    """A residual step on logits, z⁺ = z - λ(z)·z with λ(z) < 1 a number a row.

    1 - λ(z) > 0 keeps the order of the classes in every row: accuracy is the same, sample by sample. With `get_params`,
    `predict` and `predict_proba` it stands where scikit-learn's tools expect a classifier of logits.
    """

    classes_: np.ndarray

    @abstractmethod
    def fit(self, logits: Scores, labels: Labels) -> Self:
        """Fit λ on held-out logits `(N, C)` and class numbers `(N,)`."""

    @abstractmethod
    def scale(self, logits: Tensor) -> Tensor:
        """1 - λ(z) of each row, `(N, 1)` or a scalar, in the logits' dtype; positive."""

    def transform(self, logits: S) -> S:
        """(1 - λ(z))·z.

        Args:
            logits: z, `(N, C)`, torch or NumPy; not probabilities.

        Returns:
            The calibrated logits, of the same type, shape and dtype.

        Raises:
            ResidynError: If `fit` was not called before.
        """
        self._require_fit()
        z = torch.as_tensor(logits)
        shrunk: Any = self.scale(z) * z
        return shrunk if isinstance(logits, Tensor) else shrunk.numpy()

    def predict_proba(self, logits: Scores) -> np.ndarray:
        """Calibrated probabilities.

        Args:
            logits: `(N, C)` or `(N,)`; rows of probabilities stand for their logarithms.

        Returns:
            Probabilities, `(N, C)`, float64.

        Raises:
            ResidynError: If `fit` was not called before.
        """
        self._require_fit()
        return torch.softmax(self.transform(inputs.log_scores(logits, "logits")), 1).cpu().numpy()

    def predict(self, logits: Scores) -> np.ndarray:
        """The top class of each row: what it was before calibration.

        Args:
            logits: `(N, C)` or `(N,)`.

        Returns:
            Class numbers, `(N,)`.
        """
        return inputs.log_scores(logits, "logits").argmax(1).cpu().numpy()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor, as scikit-learn's `clone` asks for them.

        Args:
            deep: Asked for by scikit-learn; there is nothing deeper.

        Returns:
            Name and value.
        """
        return {}

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor.

        Args:
            **params: Names and values.

        Returns:
            Itself.

        Raises:
            ResidynError: If there is no such argument.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ResidynError(
                    f"`{name}` must be an argument of {type(self).__name__}, which has {sorted(known) or 'none'}"
                )
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags())

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_")

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items() if value is not None)
        return f"{type(self).__name__}({given})"

    def _fitted(self, classes: int) -> None:
        self.classes_ = np.arange(classes)

    def _require_fit(self) -> None:
        if not hasattr(self, "classes_"):
            name = type(self).__name__
            raise ResidynError(f"`{name}` must be fitted before `transform`; call fit(logits, labels) with held-out data")
