"""Probabilities to be believed: calibration error, reliability, and the residual step z⁺ = z - λz that mends it."""

from typing import TYPE_CHECKING, Any

from residyn.calibrate.calibrator import Calibrator
from residyn.calibrate.decomposition import Interval, Parts, bootstrap, decompose
from residyn.calibrate.export import Calibrated
from residyn.calibrate.reading import Record, read
from residyn.calibrate.shrink import Shrink, stationarity
from residyn.calibrate.smooth import smooth_ece
from residyn.calibrate.varying import ClassShrink, InputShrink, cross_fit
from residyn.statistics.measures import Reliability, brier, classwise_ece, ece, nll, reliability

if TYPE_CHECKING:
    from residyn.calibrate.estimator import ShrinkClassifier

__all__ = [
    "Calibrated",
    "Calibrator",
    "ClassShrink",
    "InputShrink",
    "Interval",
    "Parts",
    "Record",
    "Reliability",
    "Shrink",
    "ShrinkClassifier",
    "bootstrap",
    "brier",
    "classwise_ece",
    "cross_fit",
    "decompose",
    "ece",
    "nll",
    "read",
    "reliability",
    "smooth_ece",
    "stationarity",
]


def __getattr__(name: str) -> Any:
    """`ShrinkClassifier` needs scikit-learn, so it is loaded when asked for."""
    if name == "ShrinkClassifier":
        from residyn.errors import require

        require("sklearn", "atlas")
        from residyn.calibrate.estimator import ShrinkClassifier

        return ShrinkClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
