"""Where a scheme does not grow: the stability region |R(z)| ≤ g along rays from 0, and what follows for eigenvalues."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from residyn.schemes.base import Scheme

_CLEAN = 1e-13
"""A coefficient this small against the terms that it is the sum of is a zero that rounding has blurred."""

_FEW = 512
"""Directions for which polynomials are solved one by one; of more eigenvalues, only those that can bind are looked at."""


class Region:
    """{z : |R(z)| ≤ g}, seen along rays z = s·d, |d| = 1, s ≥ 0.

    For a rational R = P/Q, |P(s·d)|² - g²·|Q(s·d)|² is a polynomial in s; the ray is inside until it turns positive, and its
    coefficients tell what no sampling can: 0 where it is positive at once, inf where it never is.

    Args:
        scheme: The scheme whose stability function R is.
        bound: g ≥ 1.
    """

    def __init__(self, scheme: Scheme, bound: float = 1.0) -> None:
        self.scheme = scheme
        self.bound = bound
        rational = scheme.rational()
        self.rational: tuple[np.ndarray, np.ndarray] | None = None
        if rational is not None:
            numerator = _exact(rational.numerator, scheme.order, rational.denominator)
            self.rational = numerator, np.array(rational.denominator)

    @property
    def polynomial(self) -> bool:
        """Whether R is a polynomial: an explicit scheme."""
        return self.rational is not None and not np.any(self.rational[1][1:])

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """|R(z)|."""
        points = torch.from_numpy(np.ascontiguousarray(z, dtype=np.complex128))
        return np.asarray(self.scheme.stability(points).abs().numpy())

    def reach(self, direction: complex) -> float:
        """The largest s such that |R(s'·d)| ≤ g for all s' in [0, s]; 0 or inf where that is so."""
        if self.bound == 1.0 and direction.real > 0:
            return 0.0  # R(z) = 1 + z + O(z²)
        return self._scan(direction) if self.rational is None else first_rise(self._excess(direction))

    def largest_step(self, eigenvalues: np.ndarray) -> float:
        """The largest h such that |R(s·λ)| ≤ g for all s in [0, h] and all λ; eigenvalues 0 ask nothing of it."""
        values = eigenvalues[eigenvalues != 0]
        # R has real coefficients, so λ and its conjugate bind alike.
        values = np.unique(values.real + 1j * np.abs(values.imag))
        if len(values) == 0:
            return math.inf
        if self.bound == 1.0 and values.real.max() > 0:
            return 0.0
        chosen = _longest(values) if len(values) > _FEW else values
        h = self._least(chosen)
        for _ in range(50):
            violators = self._violators(values, h) if len(values) > _FEW else values[:0]
            if len(violators) == 0:
                break
            h = min(h, self._least(violators))
        return h

    def _least(self, values: np.ndarray) -> float:
        least, known = math.inf, {}
        for value, radius in zip(values.tolist(), np.abs(values).tolist(), strict=True):
            direction = _direction(value, radius)
            if direction not in known:  # a real spectrum has two directions, however long it is
                known[direction] = self.reach(direction)
            least = min(least, known[direction] / radius)
        return least

    def _violators(self, values: np.ndarray, h: float) -> np.ndarray:
        """The worst of those eigenvalues whose ray leaves the region before h."""
        if not math.isfinite(h):
            h = 1e6 / float(np.abs(values).max())
        excess = np.max([self(h * s * values) for s in (0.25, 0.5, 0.75, 0.9, 1.0)], axis=0) - self.bound
        worst = np.argsort(-excess)[:64]
        outside: np.ndarray = values[worst[excess[worst] > 1e-9 * self.bound]]
        return outside

    def _excess(self, direction: complex) -> np.ndarray:
        """Coefficients of |P(s·d)|² - g²·|Q(s·d)|² in ascending powers of s."""
        assert self.rational is not None
        top, below = (_squared(c, direction) for c in self.rational)
        size = max(len(top[0]), len(below[0]))
        (p, p_size), (q, q_size) = ((np.pad(v, (0, size - len(v))) for v in pair) for pair in (top, below))
        excess = p - self.bound**2 * q
        excess[np.abs(excess) <= _CLEAN * (p_size + self.bound**2 * q_size)] = 0.0
        if self.bound == 1.0:
            excess[0] = 0.0
            if direction.real == 0.0:  # |exp(iy)| = 1, and R(z) agrees with exp(z) up to its order
                excess[: self.scheme.order + 1] = 0.0
        return excess

    def _scan(self, direction: complex) -> float:
        """The reach where R is not rational, by sampling: exact for exp, else blind to what happens between samples."""
        s = np.geomspace(1e-3, 1e6, 4000)
        outside = ~(self(s * direction) <= self.bound * (1 + 1e-12))
        if not outside.any():
            return math.inf
        i = int(np.argmax(outside))
        low, high = (float(s[i - 1]) if i else 0.0), float(s[i])
        for _ in range(60):
            middle = (low + high) / 2
            inside = bool(self(np.array([middle * direction]))[0] <= self.bound * (1 + 1e-15))
            low, high = (middle, high) if inside else (low, middle)
        return low

    @functools.cached_property
    def a_stable(self) -> bool:
        """Whether |R| ≤ 1 in the whole left half plane: on its edge, and no pole inside (maximum principle)."""
        unit = Region(self.scheme)
        if unit.reach(1j) != math.inf:
            return False
        if self.rational is not None:
            poles = np.roots(self.rational[1][::-1])
            degrees = [int(np.flatnonzero(c)[-1]) for c in self.rational]
            return bool(np.all(poles.real > 0)) and degrees[0] <= degrees[1]
        return all(unit.reach(complex(-math.sin(a), math.cos(a))) == math.inf for a in np.linspace(0.05, math.pi / 2, 16))

    def reach_by_log_norm(self) -> float:
        """The largest x ≥ 0 with sup over Re z ≤ x of |R(z)| at most g, for an A-stable scheme.

        By von Neumann's theorem ‖R(A)‖₂ ≤ g then holds for every A with logarithmic norm at most x.

        Reference:
            Hairer, Bader & Lubich (1982), "On the stability of semi-implicit methods for ordinary differential equations",
            doi:10.1007/BF01934411.
        """
        line = 1j * np.concatenate([[0.0], np.geomspace(1e-3, 1e8, 4000)])
        low, high = 0.0, max(1.0, 2 * math.log(self.bound) + 1.0)
        if self.rational is not None and len(poles := np.roots(self.rational[1][::-1])):
            high = min(high, float(poles.real.min()))
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self(middle + line).max() <= self.bound * (1 + 1e-13) else (low, middle)
        return low


def first_rise(coefficients: np.ndarray) -> float:
    """The least s ≥ 0 behind which a polynomial (ascending powers) turns positive: 0 if at once, inf if never."""
    powers = np.flatnonzero(coefficients)
    if len(powers) == 0:
        return math.inf
    low = coefficients[powers[0] :]
    if low[0] > 0:
        return 0.0
    roots = np.roots(low[::-1])
    # A double root, where the polynomial only touches 0, may come out as a close complex pair; the signs between decide.
    candidates = np.sort(roots.real[(np.abs(roots.imag) <= 1e-4 * np.abs(roots)) & (roots.real > 0)])
    ends = np.append(candidates[1:], 2 * candidates[-1:])
    before = 0.0
    for root, end in zip(candidates.tolist(), ends.tolist(), strict=True):
        after = (root + end) / 2
        if _value(low, after) > 0:
            return _bisected(low, before, root, after)
        before = after
    return math.inf


def _bisected(low: np.ndarray, before: float, root: float, after: float) -> float:
    """The sign change between `before` and `after`, to the last digit; `root` itself if it is exact."""
    if _value(low, root) == 0.0:
        return root
    for _ in range(200):
        middle = (before + after) / 2
        if middle in (before, after):
            break
        before, after = (before, middle) if _value(low, middle) > 0 else (middle, after)
    return before


def _value(coefficients: np.ndarray, s: float) -> float:
    value = 0.0
    for c in coefficients[::-1].tolist():
        value = value * s + c
    return value


def _squared(coefficients: np.ndarray, direction: complex) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients in s of |C(s·d)|², and the sums of the moduli of their terms."""
    powers = [1.0 + 0.0j]
    for _ in coefficients[1:]:
        powers.append(powers[-1] * direction)  # exact for d = ±1 and ±i
    total, size = np.zeros(2 * len(coefficients) - 1), np.zeros(2 * len(coefficients) - 1)
    for j, a in enumerate(coefficients.tolist()):
        for k, b in enumerate(coefficients.tolist()):
            total[j + k] += a * b * (powers[j] * powers[k].conjugate()).real
            size[j + k] += abs(a * b)
    return total, size


def _exact(numerator: tuple[float, ...], order: int, denominator: tuple[float, ...]) -> np.ndarray:
    """The numerator; of a polynomial R the first coefficients are 1/j!, which published tableaus miss by a rounding."""
    coefficients = np.array(numerator)
    for j in range(min(order + 1, len(coefficients)) if not any(denominator[1:]) else 0):
        if abs(coefficients[j] * math.factorial(j) - 1) < 1e-9:
            coefficients[j] = 1 / math.factorial(j)
    return coefficients


def _direction(value: complex, radius: float) -> complex:
    """λ/|λ|, exact on the axes."""
    if value.imag == 0.0:
        return complex(math.copysign(1.0, value.real), 0.0)
    return 1j if value.real == 0.0 else complex(value.real / radius, value.imag / radius)


def _longest(values: np.ndarray) -> np.ndarray:
    """The longest eigenvalue in each of some hundred narrow sectors."""
    sectors = np.floor(np.angle(values) / math.pi * (_FEW - 1)).astype(int)
    order = np.argsort(-np.abs(values), kind="stable")
    return values[order[np.unique(sectors[order], return_index=True)[1]]]
