"""Harmonic inversion: the frequencies, decay rates and amplitudes of a sum of damped waves, window by window.

Far below the resolution 2π/T of a Fourier transform where the signal is free of noise, as a propagation's is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.linalg

_BASIS = 60
"""Trial frequencies a window; windows overlap by half, and only the middle half of each is kept."""
_RANK = 1e-13
"""Singular values below this part of the largest are rounding."""


class Modes(NamedTuple):
    """c(t) = Σ amplitude·exp(-i·ω·t), ω = frequency - i·decay."""

    frequency: np.ndarray
    decay: np.ndarray
    amplitude: np.ndarray
    error: np.ndarray


def harmonic_inversion(signal: np.ndarray, dt: float, low: float, high: float) -> Modes:
    """The waves of a real or complex signal with frequencies in a range, by filter diagonalisation.

    In a basis of Fourier-filtered states, the one-step and two-step evolution operators are written down from the signal alone
    as U⁽ᵖ⁾_jk = Σ_nm c_{n+m+p}·z_j^-n·z_k^-m; the generalised eigenvalues of (U⁽¹⁾, U⁽⁰⁾) are exp(-iω·dt).

    Args:
        signal: c(0), c(dt), …, `(N,)`.
        dt: Time step.
        low: Least frequency.
        high: Largest; at most π/dt.

    Returns:
        Frequencies ascending, decay rates, amplitudes (complex), and how far U⁽²⁾ misses the square of the eigenvalue.

    Reference:
        Mandelshtam & Taylor (1997), "Harmonic inversion of time signals and its applications", doi:10.1063/1.475324.
    """
    c = np.asarray(signal, dtype=np.complex128)
    K = (len(c) - 3) // 2
    basis = max(8, min(_BASIS, K // 2))
    width = basis * 2 * math.pi / (2 * K * dt)  # trial frequencies as dense as the signal resolves
    found: list[np.ndarray] = []
    start = low - width / 4
    while start + width / 4 < high:
        part = _window(c, dt, K, np.linspace(start, start + width, basis))
        inside = (part[0].real >= max(start + width / 4, low)) & (part[0].real < min(start + 3 * width / 4, high))
        found.append(part[:, inside])
        start += width / 2
    omega, amplitude, error = np.concatenate(found, axis=1) if found else np.zeros((3, 0), dtype=np.complex128)
    order = np.argsort(omega.real)
    return Modes(omega.real[order], -omega.imag[order], amplitude[order], error.real[order])


def _window(c: np.ndarray, dt: float, K: int, trial: np.ndarray) -> np.ndarray:
    """ω, amplitude and error of the waves that one window of trial frequencies sees, `(3, k)`."""
    powers = np.exp(1j * dt * np.outer(trial, np.arange(2 * K + 1)))  # z^-n
    U0, U1, U2 = (_operator(c, powers, K, p) for p in range(3))
    left, values, right = scipy.linalg.svd(U0)
    if not values[0] > 0:  # no signal: a direction in which nothing moves
        return np.zeros((3, 0), dtype=np.complex128)
    rank = max(1, int((values > _RANK * values[0]).sum()))
    half = 1 / np.sqrt(values[:rank])
    a, b = left[:, :rank] * half, right[:rank].conj().T * half
    z, B = scipy.linalg.eig(a.conj().T @ U1 @ b)
    B = b @ B  # columns in the trial basis, to be normalised by Bᵀ·U0·B = 1
    norm = np.einsum("jk,jl,lk->k", B, U0, B)
    good = (np.abs(z) > 1e-12) & (np.abs(norm) > 1e-300)
    z, B, norm = z[good], B[:, good], norm[good]
    B = B / np.sqrt(norm)
    two = np.einsum("jk,jl,lk->k", B, U2, B)
    g = powers[:, : K + 1] @ c[: K + 1]
    omega = 1j * np.log(z) / dt
    return np.stack([omega, (B.T @ g) ** 2, np.abs(two - z**2).astype(np.complex128)])


def _operator(c: np.ndarray, powers: np.ndarray, K: int, p: int) -> np.ndarray:
    """U⁽ᵖ⁾, `(k, k)`: the double sum in closed form through single ones, O(N·k)."""
    head, tail = powers[:, : K + 1] @ c[p : K + 1 + p], powers[:, K + 1 :] @ c[K + 1 + p : 2 * K + 1 + p]
    z, last = powers[:, 1].conj(), powers[:, K]
    x, y, at_x, at_y = z[:, None], z[None, :], last[:, None], last[None, :]
    # n + m = s: up to K all pairs count; above, those with n or m past K drop out
    low = x * head[None, :] - y * head[:, None]
    high = y * at_x / at_y * tail[None, :] - x * at_y / at_x * tail[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        U = (low - high) / (x - y)
    weight = K + 1 - np.abs(K - np.arange(2 * K + 1))
    np.fill_diagonal(U, powers @ (weight * c[p : 2 * K + 1 + p]))
    return U
