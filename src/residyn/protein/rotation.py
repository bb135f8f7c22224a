"""Where the two sulfurs of a new disulfide would stand: the bridge turned about the line Cβ–Cβ, every pair at once.

With ideal bond lengths and angles the distance d of the Cβ fixes χ3 (closed form, either sign), and with it the whole bridge
Cβ–S–S–Cβ but for its rotation φ about that line. The energy is sampled over φ, and, where the backbone may move, over d,
coarsely and then twice finer. Lengths in Å, energies in kcal/mol, angles of this file in radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from residyn.protein.energy import design_energy
from residyn.protein.geometry import CB_SG, CB_SG_SG, SG_SG, WINDOW, angle, chi3_from_distance, torsion
from residyn.protein.structure import Floats

_TURNS = 24
"""Rotations of the first round, 15° apart."""
_CHUNK = 512
"""Pairs at once, so that the arrays of a round stay in the cache."""
_IDEAL = np.radians(114.6)
_MARGIN = 0.02
"""Å; distances sampled stay this far inside the window, where χ3 is defined."""


@dataclass(frozen=True)
class Bridge:
    """The best bridge of each pair.

    Args:
        distance: Cβ–Cβ distance it is built at, `(m,)`.
        sulfurs: Its two Sγ, relative to their own Cβ, `(m, 2, 3)`.
        chi1: N–Cα–Cβ–Sγ of both ends, degrees, `(m, 2)`.
        chi3: Degrees, `(m,)`.
        theta: Cα–Cβ–Sγ, degrees, `(m, 2)`.
        energy: By `energy.design_energy`, `(m,)`.
        closing: What bringing the Cβ to that distance costs, `(m,)`; 0 for a rigid backbone.
    """

    distance: Floats
    sulfurs: Floats
    chi1: Floats
    chi3: Floats
    theta: Floats
    energy: Floats
    closing: Floats


@dataclass(frozen=True)
class _Frames:
    """Each pair in its own frame: z along Cβ–Cβ, and of both ends the direction to Cα and the one χ1 is counted from.

    Args:
        axes: Unit vectors u, v, z, `(m, 3, 3)`.
        alpha: Direction Cβ→Cα in that frame, `(m, 2, 3)`.
        trans: Unit vector of N across Cβ–Cα, `(m, 2, 3)`.
    """

    axes: Floats
    alpha: Floats
    trans: Floats


def best_bridges(ends: Floats, stiffness: Floats | None = None) -> Bridge:
    """The rotation, handedness and (for a flexible backbone) distance with the least energy, pair by pair.

    Args:
        ends: N, Cα and Cβ of both residues, `(m, 2, 3, 3)` Å.
        stiffness: Spring k of each pair's distance, closing energy ½·k·(Δd)², `(m,)` kcal/mol/Å²; `None` for a rigid backbone:
            then d is as it stands, or the nearest that a bridge can have.

    Returns:
        The bridges.
    """
    parts = []
    for start in range(0, len(ends), _CHUNK):
        some = slice(start, start + _CHUNK)
        parts.append(_best(ends[some], None if stiffness is None else stiffness[some]))
    if not parts:
        none = np.zeros(0)
        return Bridge(none, np.zeros((0, 2, 3)), np.zeros((0, 2)), none, np.zeros((0, 2)), none, none)
    return Bridge(*(np.concatenate([getattr(p, name) for p in parts]) for name in Bridge.__dataclass_fields__))


def _best(ends: Floats, stiffness: Floats | None) -> Bridge:
    frames = _frames(ends)
    stands = np.linalg.norm(ends[:, 1, 2] - ends[:, 0, 2], axis=1)
    inside = np.clip(stands, WINDOW[0] + _MARGIN, WINDOW[1] - _MARGIN)
    m = len(ends)
    phi = np.broadcast_to(2 * np.pi * np.arange(_TURNS) / _TURNS, (m, 1, _TURNS))
    if stiffness is None:
        distance, spring = inside[:, None, None], np.zeros(m)
    else:
        spread = np.linspace(WINDOW[0] + _MARGIN, WINDOW[1] - _MARGIN, 5)
        distance = np.concatenate([inside[:, None], np.broadcast_to(spread, (m, 5))], axis=1)[:, :, None]
        spring = stiffness
    chosen = _minimum(frames, stands, spring, distance, phi, None, exact=False)
    for fine in (1.0, 0.2):
        d, turn, hand = chosen
        near = np.linspace(-1, 1, 9) * fine * (2 * np.pi / _TURNS) / 1.6
        steps = np.zeros(1) if stiffness is None else np.linspace(-1, 1, 5) * fine * 0.2
        around = np.clip(d[:, None] + steps, WINDOW[0] + _MARGIN, WINDOW[1] - _MARGIN)[:, :, None]
        chosen = _minimum(frames, stands, spring, around, turn[:, None, None] + near, hand, exact=True)
    return _described(ends, frames, stands, spring, *chosen)


def _frames(ends: Floats) -> _Frames:
    n, ca, cb = ends[:, :, 0], ends[:, :, 1], ends[:, :, 2]
    z = _unit(cb[:, 1] - cb[:, 0])
    alpha = _unit(ca - cb)
    u = alpha[:, 0] - (alpha[:, 0] * z).sum(-1, keepdims=True) * z
    lone = np.linalg.norm(u, axis=1) < 1e-6  # Cα on the line itself: any direction across will do
    if lone.any():
        u[lone] = np.cross(z[lone], np.eye(3)[np.abs(z[lone]).argmin(axis=1)])
    u = _unit(u)
    axes = np.stack([u, np.cross(z, u), z], axis=1)
    across = (n - ca) - ((n - ca) * alpha).sum(-1, keepdims=True) * alpha
    rotate = axes.transpose(0, 2, 1)
    return _Frames(axes, alpha @ rotate, _unit(across) @ rotate)


def _unit(v: Floats) -> Floats:
    length = np.linalg.norm(v, axis=-1, keepdims=True)
    return v / np.where(length > 0, length, 1.0)


def _bridge(distance: Floats) -> tuple[Floats, Floats, Floats]:
    """Of a bridge at distance d: each S's direction from its Cβ as axial and radial part, and the turn between the radials."""
    far = CB_SG**2 + SG_SG**2 - 2 * CB_SG * SG_SG * np.cos(np.radians(CB_SG_SG))  # |S1 - Cβ2|²
    axial = (CB_SG**2 - far + distance**2) / (2 * distance)
    radial = np.sqrt(np.maximum(CB_SG**2 - axial**2, 1e-9))
    cosine = 1 - (SG_SG**2 - (distance - 2 * axial) ** 2) / (2 * radial**2)
    return axial / CB_SG, radial / CB_SG, np.arccos(np.clip(cosine, -1, 1))


def _minimum(
    frames: _Frames, stands: Floats, spring: Floats, distance: Floats, phi: Floats, hand: Floats | None, *, exact: bool
) -> tuple[Floats, Floats, Floats]:
    """Distance `(m, D, 1)`, rotation `(m, 1, K)` and hand of least energy, each `(m,)`; one hand a pair, or both if `None`."""
    m, count = distance.shape[0], distance.shape[1]
    axial, radial, turn = _bridge(distance)
    closing = 0.5 * spring[:, None, None] * (distance - stands[:, None, None]) ** 2
    chi3 = chi3_from_distance(distance)
    first = _end(frames.alpha[:, 0], frames.trans[:, 0], axial, radial, phi, exact=exact)
    totals, hands = [], (np.array([1.0, -1.0])[:, None] if hand is None else hand[None])
    for sign in hands:
        side = np.broadcast_to(sign, (m,))[:, None, None]
        second = _end(frames.alpha[:, 1], frames.trans[:, 1], -axial, radial, phi + side * turn, exact=exact)
        middle = 4.0 * (1 - np.cos(np.radians(1.957 * (side * chi3 + 87.0))))
        totals.append((first + second + (middle + closing)).reshape(m, -1))
    total = np.concatenate(totals, axis=1)
    place = total.argmin(axis=1)
    side_number, rest = np.divmod(place, count * phi.shape[2])
    row, column = np.divmod(rest, phi.shape[2])
    every = np.arange(m)
    found = np.where(side_number == 0, 1.0, -1.0) if hand is None else hand
    return distance[every, row, 0], np.broadcast_to(phi, (m, 1, phi.shape[2]))[every, 0, column], found


def _end(alpha: Floats, trans: Floats, axial: Floats, radial: Floats, phi: Floats, *, exact: bool) -> Floats:
    """One end's share, `(m, D, K)`: 1.4·(1 + cos 3χ1) + 55·(θ - 114.6°)², its S in the direction (ρ·cos φ, ρ·sin φ, a)."""
    cos, sin = np.cos(phi), np.sin(phi)
    bend, across = (
        axial * v[:, 2, None, None] + radial * (cos * v[:, 0, None, None] + sin * v[:, 1, None, None]) for v in (alpha, trans)
    )
    c = across / np.sqrt(np.maximum(1 - bend * bend, 1e-6))
    np.clip(c, -1, 1, out=c)
    if exact:
        off = np.arccos(np.clip(bend, -1, 1)) - _IDEAL
    else:
        off = (bend - np.cos(_IDEAL)) / np.sin(_IDEAL)
    return 1.4 * (1 + c * (4 * c * c - 3)) + 55.0 * off * off


def _described(ends: Floats, frames: _Frames, stands: Floats, spring: Floats, d: Floats, phi: Floats, hand: Floats) -> Bridge:
    axial, radial, turn = _bridge(d)
    other = phi + hand * turn
    local = np.stack(
        [
            np.stack([radial * np.cos(phi), radial * np.sin(phi), axial], -1),
            np.stack([radial * np.cos(other), radial * np.sin(other), -axial], -1),
        ],
        axis=1,
    )
    sulfurs = CB_SG * local @ frames.axes
    n, ca, cb = ends[:, :, 0], ends[:, :, 1], ends[:, :, 2]
    chi1, theta = torsion(n, ca, cb, cb + sulfurs), angle(ca, cb, cb + sulfurs)
    chi3 = hand * chi3_from_distance(d)
    return Bridge(d, sulfurs, chi1, chi3, theta, design_energy(chi1, chi3, theta), 0.5 * spring * (d - stands) ** 2)
