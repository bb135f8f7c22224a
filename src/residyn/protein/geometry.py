"""Geometry of a cystine: distances, angles, torsions, and where an ideal Cβ stands. Lengths in Å, angles in degrees."""

from __future__ import annotations

import numpy as np

from residyn.protein.structure import Floats

CB_SG = 1.81
"""Cβ–Sγ bond."""
SG_SG = 2.04
"""Sγ–Sγ bond."""
CB_SG_SG = 104.15
"""Angle Cβ–Sγ–Sγ."""
CA_CB = 1.53
"""Cα–Cβ bond."""

# d² = d₀² + a·(1 - cos χ3) with d₀ = s - 2·b·cos θ and a = 2·(b·sin θ)²: the cis distance, and the gain of turning away from it
CIS = SG_SG - 2 * CB_SG * float(np.cos(np.radians(CB_SG_SG)))
GAIN = 2 * (CB_SG * float(np.sin(np.radians(CB_SG_SG)))) ** 2
WINDOW = (2.925, 4.569)
"""Cβ–Cβ distances that χ3 = 0 and χ3 = 180° give."""


def torsion(a: Floats, b: Floats, c: Floats, d: Floats) -> Floats:
    """Torsion a–b–c–d about b–c, positive clockwise when looking from b to c; arrays of shape `(…, 3)`.

    Args:
        a: First atoms.
        b: Second.
        c: Third.
        d: Fourth.

    Returns:
        Angles in (-180, 180].

    >>> float(torsion(*np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]])))
    90.0
    """
    axis = c - b
    left, right = _cross(a - b, axis), _cross(d - c, axis)
    length = np.linalg.norm(axis, axis=-1)
    return np.degrees(np.arctan2((_cross(left, right) * axis).sum(-1), length * (left * right).sum(-1)))


def _cross(a: Floats, b: Floats) -> Floats:
    """Vector product along the last axis; for few vectors NumPy's own spends most of its time on axes."""
    (x, y, z), (u, v, w) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=-1)


def angle(a: Floats, b: Floats, c: Floats) -> Floats:
    """Angle a–b–c at b, in [0, 180]; arrays of shape `(…, 3)`.

    Args:
        a: First atoms.
        b: Vertices.
        c: Last atoms.

    Returns:
        Angles.

    >>> float(angle(*np.array([[1.0, 0, 0], [0, 0, 0], [0, 2, 0]])))
    90.0
    """
    u, v = a - b, c - b
    return np.degrees(np.arctan2(np.linalg.norm(_cross(u, v), axis=-1), (u * v).sum(-1)))


def chi3_from_distance(distance: Floats) -> Floats:
    """|χ3| of an ideal disulfide from its Cβ–Cβ distance: cos χ3 = 1 - (d² - d₀²)/a.

    Args:
        distance: Cβ–Cβ distances.

    Returns:
        |χ3| in [0, 180]; nan outside the window that ideal bond lengths allow.

    Reference:
        Dombkowski & Crippen (2000), Protein Engineering 13, 679, doi:10.1093/protein/13.10.679, equation 9.

    >>> chi3_from_distance(np.array([2.925, 3.8, 5.0])).round(1)
    array([ 0.6, 87.4,  nan])
    """
    cosine = 1 - (np.asarray(distance, dtype=np.float64) ** 2 - CIS**2) / GAIN
    slack = 1e-3  # the published window is rounded to 1 pm, and so is what lies on its edge
    return np.degrees(np.arccos(np.where(np.abs(cosine) <= 1 + slack, np.clip(cosine, -1, 1), np.nan)))


def ideal_beta(n: Floats, ca: Floats, c: Floats) -> Floats:
    """Cβ of an L-amino acid from its backbone, at 1.53 Å and 110.3° from N and C.

    Args:
        n: Backbone nitrogens, `(m, 3)`.
        ca: Cα.
        c: Carbonyl carbons.

    Returns:
        Coordinates, `(m, 3)`; nan where an atom is missing.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = n - ca, c - ca
        u, v = u / np.linalg.norm(u, axis=-1, keepdims=True), v / np.linalg.norm(v, axis=-1, keepdims=True)
        between, up = -(u + v), _cross(u, v)
        half = np.linalg.norm(between, axis=-1, keepdims=True) / 2  # cos of half the angle N–Cα–C
        away = np.clip(-np.cos(np.radians(110.3)) / half, -1, 1)
        bisector, normal = between / (2 * half), up / np.linalg.norm(up, axis=-1, keepdims=True)
        return ca + CA_CB * (away * bisector + np.sqrt(1 - away**2) * normal)
