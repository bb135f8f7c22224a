"""The transform of a signal at any frequency: by Fourier, or by the Padé approximant of its power series."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.signal

_MOST = 1200
"""Half the samples that a Padé approximant takes, the first ones: without noise more tell nothing new."""


def fourier(signal: np.ndarray, dt: float, omega: np.ndarray) -> np.ndarray:
    """∫ c(t)·exp(iωt) dt by the trapezoidal rule, with c taken as 0 after its end.

    Args:
        signal: c(0), c(dt), …
        dt: Time step.
        omega: Frequencies, evenly spaced.

    Returns:
        The transform, complex, of the shape of `omega`.
    """
    weights = np.full(len(signal), dt)
    weights[[0, -1]] *= 0.5
    return _power_series(np.asarray(signal) * weights, omega * dt)


def pade(signal: np.ndarray, dt: float, omega: np.ndarray) -> np.ndarray:
    """∫ c(t)·exp(iωt) dt with the series Σ c_k·z^k, z = exp(iω·dt), summed as a ratio of two polynomials.

    It resolves lines that the length of the signal does not, and knows no ripples of its end.

    Args:
        signal: c(0), c(dt), …
        dt: Time step.
        omega: Frequencies, evenly spaced.

    Returns:
        The transform, complex, of the shape of `omega`.

    Reference:
        Bruner, LaMaster & Lopata (2016), "Accelerated broadband spectra using transition dipole decomposition and Padé
        approximants", doi:10.1021/acs.jctc.6b00511.
    """
    c = np.asarray(signal, dtype=np.float64)
    M = min((len(c) - 1) // 2, _MOST)
    c = c[: 2 * M + 1] * dt
    column, row, right = c[M : 2 * M], c[M:0:-1], -c[M + 1 : 2 * M + 1]
    # a signal of few waves leaves the system singular; what is below rounding is cut off
    matrix = scipy.linalg.toeplitz(column, row)
    b = np.concatenate([[1.0], scipy.linalg.lstsq(matrix, right, cond=1e-13, lapack_driver="gelsy")[0]])
    a = scipy.signal.fftconvolve(b, c[: M + 1])[: M + 1]
    angle = omega * dt
    return _power_series(a, angle) / _power_series(b, angle) - 0.5 * c[0]


def _power_series(coefficients: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Σ a_k·z^k at evenly spaced angles of z on the unit circle, by the chirp z-transform."""
    step = angle[1] - angle[0] if len(angle) > 1 else 1.0
    found: np.ndarray = scipy.signal.czt(coefficients, len(angle), np.exp(1j * step), np.exp(-1j * angle[0]))
    return found
