"""Probabilities to be believed: calibration error, reliability, and the residual step z⁺ = z - λz that mends it."""

from residyn.calibrate.measures import Reliability, ece, nll, reliability
from residyn.calibrate.shrink import Shrink, stationarity

__all__ = ["Reliability", "Shrink", "ece", "nll", "reliability", "stationarity"]
