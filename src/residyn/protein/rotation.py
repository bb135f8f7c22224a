"""Where the two sulfurs of a new disulfide would stand: the bridge turned about the line Cβ–Cβ, every pair at once.

With ideal bond lengths and angles the distance d of the Cβ fixes χ3 (closed form, either sign), and with it the whole bridge
Cβ–S–S–Cβ but for its rotation φ about that line. The energy is sampled over φ, and, where the backbone may move, over d,
coarsely and then twice finer. Lengths in Å, energies in kcal/mol, angles of this file in radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from residyn.protein.energy import design_energy
from residyn.protein.geometry import CB_SG, CB_SG_SG, SG_SG, WINDOW, angle, chi3_from_distance, torsion
from residyn.protein.structure import Floats

_TURNS = 20
"""Rotations of the first round, 18° apart."""
_FINER = (0.6, 0.25, 0.1)
"""Reach of the later rounds, in steps of the first."""
_DOUBT = 4.0
"""kcal/mol; the first round is off by less."""
_CHUNK = 1024
"""Pairs at once, so that the arrays of a round stay in the cache."""
_COS, _SIN = float(np.cos(np.radians(114.6))), float(np.sin(np.radians(114.6)))
_SPREAD = (3.1, 3.5, 3.9, 4.3)
"""Å; distances of the first round beside the one as it stands. An unstrained χ3 of -87° or 97° gives 3.79 or 3.93."""
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


def best_bridges(ends: Floats, stiffness: Floats | None = None, *, hopeless: float = math.inf) -> Bridge:
    """The rotation, handedness and (for a flexible backbone) distance with the least energy, pair by pair.

    Args:
        ends: N, Cα and Cβ of both residues, `(m, 2, 3, 3)` Å.
        stiffness: Spring k of each pair's distance, closing energy ½·k·(Δd)², `(m,)` kcal/mol/Å²; `None` for a rigid backbone:
            then d is as it stands, or the nearest that a bridge can have.
        hopeless: What costs more than this after the first round is not refined, kcal/mol.

    Returns:
        The bridges.
    """
    parts = []
    for start in range(0, len(ends), _CHUNK):
        some = slice(start, start + _CHUNK)
        parts.append(_best(ends[some], None if stiffness is None else stiffness[some], hopeless))
    if not parts:
        none = np.zeros(0)
        return Bridge(none, np.zeros((0, 2, 3)), np.zeros((0, 2)), none, np.zeros((0, 2)), none, none)
    return Bridge(*(np.concatenate([getattr(p, name) for p in parts]) for name in Bridge.__dataclass_fields__))


def _best(ends: Floats, stiffness: Floats | None, hopeless: float) -> Bridge:
    frames = _frames(ends)
    stands = np.linalg.norm(ends[:, 1, 2] - ends[:, 0, 2], axis=1)
    spring = np.zeros(len(ends)) if stiffness is None else stiffness
    spread = np.zeros(0) if stiffness is None else np.array(_SPREAD)
    distance = np.concatenate([_clipped(stands)[:, None], np.broadcast_to(spread, (len(ends), len(spread)))], axis=1)
    phi = np.broadcast_to(2 * np.pi * np.arange(_TURNS) / _TURNS, (len(ends), _TURNS))
    # minima of the two hands lie apart: each that may win is followed down before one is taken
    d, turn, total = (np.concatenate(both) for both in zip(*_minima(frames, stands, spring, distance, phi), strict=True))
    pair, hand = np.tile(np.arange(len(ends)), 2), np.repeat((1.0, -1.0), len(ends))
    least = np.minimum(*total.reshape(2, -1))
    near = np.flatnonzero(total <= np.minimum(least + _DOUBT, hopeless)[pair])
    own = _Frames(*(part[pair[near]] for part in (frames.axes, frames.alpha, frames.trans)))
    for fine in _FINER if len(near) else ():
        turns = turn[near, None] + np.linspace(-1, 1, 5) * fine * (2 * np.pi / _TURNS)
        steps = np.zeros(1) if stiffness is None else np.linspace(-1, 1, 5) * fine * 0.4
        around = _clipped(d[near, None] + steps)
        d[near], turn[near], total[near] = _minimum(
            own, stands[pair[near]], spring[pair[near]], around, turns, hand[near, None]
        )
    left = total[len(ends) :] < total[: len(ends)]
    chosen = np.arange(len(ends)) + np.where(left, len(ends), 0)
    return _described(ends, frames, stands, spring, d[chosen], turn[chosen], hand[chosen])


def _clipped(distance: Floats) -> Floats:
    """Inside the window, where χ3 is defined."""
    return np.clip(distance, WINDOW[0] + _MARGIN, WINDOW[1] - _MARGIN)


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


def _minima(
    frames: _Frames, stands: Floats, spring: Floats, distance: Floats, phi: Floats
) -> tuple[tuple[Floats, Floats, Floats], ...]:
    """`_minimum` for the right and the left hand, which share the first end."""
    axial, radial, turn = _bridge(distance)
    basis = _basis(phi)
    first = _end(frames, 0, axial, radial, np.ones_like(turn), np.zeros_like(turn), basis)
    found = []
    for hand in (1.0, -1.0):
        second = _end(frames, 1, -axial, radial, np.cos(turn), hand * np.sin(turn), basis)
        second += first
        second += _alone(stands, spring, distance, hand)
        found.append(_lowest(second, distance, phi))
    return tuple(found)


def _minimum(
    frames: _Frames, stands: Floats, spring: Floats, distance: Floats, phi: Floats, hand: Floats
) -> tuple[Floats, Floats, Floats]:
    """Of distances `(m, D)` and rotations `(m, K)`, those of least energy and that energy, each `(m,)`; hands `(m, 1)`.

    The angles and torsions of an end are linear in (1, cos φ, sin φ), so that no trigonometry is left within; single precision
    tells minima apart that lie 1e-3 kcal/mol apart, and what is chosen is described in full precision.
    """
    axial, radial, turn = _bridge(distance)
    basis = _basis(phi)
    total = _end(frames, 0, axial, radial, np.ones_like(turn), np.zeros_like(turn), basis)
    total += _end(frames, 1, -axial, radial, np.cos(turn), hand * np.sin(turn), basis)
    total += _alone(stands, spring, distance, hand)
    return _lowest(total, distance, phi)


def _basis(phi: Floats) -> np.ndarray:
    """cos φ and sin φ, `(m, 2, K)`."""
    return np.stack([np.cos(phi), np.sin(phi)], axis=1).astype(np.float32)


def _alone(stands: Floats, spring: Floats, distance: Floats, hand: Floats | float) -> np.ndarray:
    """What does not depend on the rotation: 4·(1 - cos 1.957·(χ3 + 87°)) and the closing, `(m, D, 1)`."""
    middle = 4.0 * (1 - np.cos(np.radians(1.957 * (hand * chi3_from_distance(distance) + 87.0))))
    closing = 0.5 * spring[:, None] * (distance - stands[:, None]) ** 2
    whole: np.ndarray = (middle + closing).astype(np.float32)[:, :, None]
    return whole


def _lowest(total: np.ndarray, distance: Floats, phi: Floats) -> tuple[Floats, Floats, Floats]:
    """Distance, rotation and energy of the least of `(m, D, K)`."""
    flat = total.reshape(len(phi), -1)
    place = flat.argmin(axis=1)
    row, column = np.divmod(place, phi.shape[1])
    every = np.arange(len(phi))
    return distance[every, row], phi[every, column], flat[every, place].astype(np.float64)


def _end(frames: _Frames, end: int, axial: Floats, radial: Floats, cos: Floats, sin: Floats, basis: np.ndarray) -> np.ndarray:
    """One end's share, `(m, D, K)`: 1.4·(1 + cos 3χ1) + 55·(θ - 114.6°)², its S at (ρ·cos(φ + τ), ρ·sin(φ + τ), a).

    θ - θ₀ is taken from cos θ to second order.
    """
    bend, across = (
        _along(v[:, end], axial, radial, cos, sin, basis) for v in (frames.alpha, frames.trans)
    )  # cos θ, and cos χ1·sin θ
    c = across / np.sqrt(np.maximum(1 - bend * bend, np.float32(1e-6)))
    np.clip(c, -1, 1, out=c)
    bend -= np.float32(_COS)
    off = bend * (np.float32(1 / _SIN) + np.float32(_COS / (2 * _SIN**3)) * bend)
    c *= 4 * c * c - 3
    off *= off
    off *= np.float32(55.0)
    c *= np.float32(1.4)
    c += off
    c += np.float32(1.4)
    return c


def _along(v: Floats, axial: Floats, radial: Floats, cos: Floats, sin: Floats, basis: np.ndarray) -> np.ndarray:
    """Component along v of the direction (ρ·cos(φ + τ), ρ·sin(φ + τ), a), `(m, D, K)`."""
    x, y, z = v[:, :1], v[:, 1:2], v[:, 2:]
    a = (radial * (x * cos + y * sin)).astype(np.float32)[:, :, None]
    b = (radial * (y * cos - x * sin)).astype(np.float32)[:, :, None]
    found: np.ndarray = a * basis[:, None, 0]
    found += b * basis[:, None, 1]
    found += (axial * z).astype(np.float32)[:, :, None]
    return found


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
