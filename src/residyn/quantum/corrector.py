"""A learned residual in the generator: at a coarse step as accurate as at a finer one, and unitary whatever was learned.

x⁺ = exp(-i·dt·F₀)·exp(-i·(Ω + W·φ))·x in the orbitals of the ground state: Ω from Fock matrices of the past in the interaction
picture, φ differences in time of the density matrix and the field, W what `train_corrector` fits. One Fock build a step.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.quantum.hamiltonian import KohnSham
from residyn.quantum.molecule import Molecule
from residyn.quantum.pulses import field_at
from residyn.schemes.base import Field, Step, Time
from residyn.schemes.magnus import Propagator

KEPT = 3
"""Fock matrices of the past."""
_DIFFERENCE = torch.tensor([(-1.0) ** j * math.comb(KEPT - 1, j) for j in range(KEPT)], dtype=torch.float64)
"""The highest difference in time that the past allows."""
_SWIFT = 3.0
"""Gaps times dt above which the residual sees a matrix element itself, and not its difference in time."""
_FIELDS = 4
"""Gauss points in a step at which the field is looked at."""
_FAST = 0.4
"""Gaps times dt above which a matrix element is not extrapolated, as in `AdamsMagnus`."""


class _Past(NamedTuple):
    """What a step hands on, newest first."""

    change: Tensor
    """δF between the ground state's orbitals at the last starts, `(k, …, s, n, n)`."""
    fields: Tensor
    """E in the last steps, `(KEPT - 1, points, 3)`."""
    density: Tensor
    """What `pack` takes of the density matrices before this step's, `(k - 1, …, targets)`."""


class Corrector(Propagator):
    """The propagator that `train_corrector` returns; it belongs to one molecule and one time step.

    A step predicts where it ends, from the last Fock matrices; builds the one there; and goes again, with it. Both times the
    residual stands in the exponent. While the past is short (the first steps) there are residuals of their own.

    Args:
        molecule: The molecule.
        dt: Its time step.
        weights: W, `(features, KEPT·2·targets)`: for 1, 2, … matrices of the past, of the prediction and of the step; `None`
            for the plain step.
        in_state: Whether the residual is added to the state instead: the twin that is not unitary.
    """

    order = 3
    carries_memory = True

    def __init__(self, molecule: Molecule, dt: float, weights: Tensor | None = None, *, in_state: bool = False) -> None:
        self.molecule, self.dt, self.weights, self.in_state = molecule, dt, weights, in_state
        self.C = molecule.orbitals.to(torch.complex128)
        self.back = self.C.mT.contiguous()
        energies = molecule.orbital_energies
        self.turn = torch.exp(-1j * dt * energies).unsqueeze(-1)  # (s, n, 1)
        ground = molecule.density(molecule.state)
        self.F0 = molecule.core + molecule.potential(ground)[0]
        self.rest = self.back @ (ground / molecule.weight) @ self.C  # 1 for each occupied orbital
        position = molecule.orbitals.mT.unsqueeze(1) @ molecule.position @ molecule.orbitals.unsqueeze(1)  # (s, 3, n, n)
        gaps = dt * (energies.unsqueeze(-1) - energies.unsqueeze(-2))
        slow = 1 / (1 + (gaps / _FAST) ** 8)
        self.first = [dt * _blend(_turned(_nodes(k), gaps), _turned((0,), gaps), slow) for k in range(1, KEPT + 1)]
        ends = _turned((1, 0), gaps, mean=True)
        self.second = [dt * _blend(_turned((1, *_nodes(k)), gaps), ends, slow) for k in range(1, KEPT + 1)]
        self.points = tuple(float(c) for c in 0.5 * (1 + np.polynomial.legendre.leggauss(_FIELDS)[0]))
        # (2, points, 3, s, n, n): what each component of the field at each point adds to both integrals
        self.pushes = dt * _turned(self.points, gaps).unsqueeze(2) * position.movedim(1, 0)
        where = [self._place(s, m) for s, m in enumerate(molecule.occupied)]
        self.rows, self.columns = torch.cat([w[0] for w in where]), torch.cat([w[1] for w in where])
        self.swift = (gaps.flatten()[self.rows].abs() > _SWIFT).repeat(2)

    def _place(self, s: int, m: int) -> tuple[Tensor, Tensor]:
        """Where the elements between occupied and empty orbitals lie, in flat `(s, n, n)`: below and above the diagonal."""
        n = self.molecule.n
        a, i = torch.meshgrid(torch.arange(m, n), torch.arange(m), indexing="ij")
        return (s * n * n + a * n + i).flatten(), (s * n * n + i * n + a).flatten()

    @property
    def targets(self) -> int:
        """Numbers that a residual has: real and imaginary parts between occupied and empty orbitals."""
        return 2 * len(self.rows)

    @property
    def features(self) -> int:
        """Numbers that it is made of: as many of the density matrix, and the fields in this step and those before."""
        return self.targets + KEPT * _FIELDS * 3

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; `state` holds the changes of the Fock matrix at the last starts."""
        field = getattr(f, "f", f)
        if not isinstance(field, KohnSham) or abs(float(t1) - float(t0) - self.dt) > 1e-6 * self.dt:
            raise InputError(f"`scheme` must be used with propagate at the dt it was trained for, {self.dt:g}, got another")
        past = state if isinstance(state, _Past) else self.begin(field, t0, x)
        E = self.fields(field, float(t0))
        y = self.back @ x
        rho = torch.cat([self.pack(y @ y.mH - self.rest)[None], past.density])
        phi = None if self.weights is None else self.seen(rho, E, past.fields)
        k = len(past.change)
        guess = self._move(self.plain(self.first[k - 1], past.change, E), phi, 2 * k - 2, y)
        field.matrix(t1, self.C @ (self.turn * guess))
        known = torch.cat([self.change(field)[None], past.change])
        y1 = self._move(self.plain(self.second[k - 1], known, E), phi, 2 * k - 1, y)
        x1 = self.C @ (self.turn * y1)
        fields = torch.cat([E[None], past.fields])[: KEPT - 1]
        return Step(x1, None, lambda theta: torch.lerp(x, x1, theta), _Past(known[:KEPT], fields, rho[: KEPT - 1]))

    def begin(self, field: KohnSham, t: Time, x: Tensor) -> _Past:
        """The past of a first step: the Fock matrix there, and no field before."""
        field.matrix(t, x)
        fields = torch.zeros(KEPT - 1, _FIELDS, 3, dtype=torch.float64)
        return _Past(self.change(field)[None], fields, torch.zeros(0, *x.shape[:-3], self.targets, dtype=torch.float64))

    def change(self, field: KohnSham) -> Tensor:
        """δF between the ground state's orbitals, of the Fock matrix that was built last."""
        return self.back @ (field.fock - self.F0) @ self.C

    def fields(self, field: KohnSham, t: float) -> Tensor:
        """E at the points of the step from t, `(points, 3)`."""
        found = [field_at(field.pulse, t + c * self.dt) for c in self.points]
        return torch.stack([torch.zeros(3, dtype=torch.float64) if E is None else E for E in found])

    def plain(self, shares: Tensor, changes: Tensor, E: Tensor) -> Tensor:
        """Ω = a - i·[b, a] with a = ∫G and b = ∫(s - ½)·G over the step, G = e^{iF₀s}·(δF(s) + r·E(s))·e^{-iF₀s}.

        Args:
            shares: Of each matrix in both integrals, `(2, k, s, n, n)`.
            changes: δF, `(k, …, s, n, n)`.
            E: The field at the points of the step.
        """
        extra = changes.ndim - shares.ndim + 1
        a, b = (shares.reshape(*shares.shape[:2], *[1] * extra, *shares.shape[2:]) * changes).sum(1)
        if bool(E.any()):
            push = torch.einsum("pc,qpcsij->qsij", E.to(self.pushes.dtype), self.pushes)
            a, b = a + push[0], b + push[1]
        return a - 1j * (b @ a - a @ b)

    def seen(self, rho: Tensor, E: Tensor, before: Tensor) -> Tensor:
        """φ, `(…, features)`: the density matrix's change, once there is a whole past its difference in time, and fields.

        A slow motion, of whatever strength, has next to no such difference: it is left to the extrapolation, which follows
        it. Elements so fast that a step may be a whole turn of them are taken as they are.

        Args:
            rho: The changes, newest first, `(k, …, targets)`.
            E: The field at the points of the step.
            before: That of the steps before.
        """
        now = rho[0]
        if len(rho) == KEPT:
            now = torch.where(self.swift, now, torch.tensordot(_DIFFERENCE, rho, 1))
        fields = torch.cat([E[None], before]).flatten()
        return torch.cat([now, fields.expand(*now.shape[:-1], -1)], -1)

    def residual(self, phi: Tensor, which: int) -> Tensor:
        """W·φ as a Hermitian matrix, `(…, s, n, n)`."""
        assert self.weights is not None
        return self.unpack(phi @ self.weights[:, which * self.targets : (which + 1) * self.targets])

    def pack(self, matrix: Tensor) -> Tensor:
        """The elements between occupied and empty orbitals of Hermitian matrices as real numbers, `(…, targets)`."""
        picked = matrix.flatten(-3).index_select(-1, self.rows)
        return torch.cat([picked.real, picked.imag], -1)

    def unpack(self, numbers: Tensor) -> Tensor:
        """The Hermitian matrices `(…, s, n, n)` that have them, and zeros elsewhere."""
        n, half = self.molecule.n, len(self.rows)
        values = torch.complex(numbers[..., :half], numbers[..., half:])
        flat = torch.zeros(*numbers.shape[:-1], self.molecule.spins * n * n, dtype=torch.complex128)
        flat[..., self.rows], flat[..., self.columns] = values, values.conj()
        return flat.reshape(*numbers.shape[:-1], self.molecule.spins, n, n)

    def _move(self, omega: Tensor, phi: Tensor | None, which: int, y: Tensor) -> Tensor:
        """exp(-i·(Ω + W·φ))·y, or the twin's."""
        learned = None if phi is None else self.residual(phi, which)
        if learned is not None and not self.in_state:
            omega = omega + learned
        moved = turn(omega, y)
        if learned is not None and self.in_state:
            moved = moved - 1j * learned @ moved
        return moved

    def memory(self, state: Any) -> tuple[Tensor, ...]:
        """The changes of the Fock matrix at the last starts, the fields since, and the density matrices before."""
        if not isinstance(state, _Past):
            return ()
        return (state.change, state.fields.to(torch.complex128), state.density.to(torch.complex128))

    def recall(self, memory: tuple[Tensor, ...], h: Time) -> Any:
        """The same."""
        return _Past(memory[0], memory[1].real.contiguous(), memory[2].real.contiguous())

    def __repr__(self) -> str:
        digest = (
            "plain" if self.weights is None else hashlib.sha256(self.weights.contiguous().numpy().tobytes()).hexdigest()[:16]
        )
        twin = ", in_state=True" if self.in_state else ""
        return f"Corrector(dt={self.dt:g}, weights={digest}{twin})"


def turn(omega: Tensor, y: Tensor) -> Tensor:
    """exp(-i·Ω)·y through the eigenvalues of the Hermitian part of Ω; not a number where Ω is none."""
    if not bool(omega.isfinite().all()):
        return torch.full_like(y, math.nan)
    angles, vectors = torch.linalg.eigh(0.5 * (omega + omega.mH))
    return vectors @ (torch.exp(-1j * angles).unsqueeze(-1) * (vectors.mT.conj_physical() @ y))


def _nodes(k: int) -> tuple[int, ...]:
    return tuple(-j for j in range(k))


def _turned(nodes: tuple[float, ...], gaps: Tensor, *, mean: bool = False) -> Tensor:
    """∫₀¹ ℓ_k(s)·exp(i·gap·s) ds, and the same times (s - ½), `(2, k, s, n, n)`; ℓ are Lagrange polynomials, or 1/k."""
    points, weights = np.polynomial.legendre.leggauss(16 + int(gaps.abs().max()))
    s, w = 0.5 * (1 + points), 0.5 * weights
    basis = np.full((len(nodes), len(s)), 1 / len(nodes) if mean else 1.0)
    for k, at in enumerate(nodes):
        for other in nodes:
            if other != at and not mean:
                basis[k] *= (s - other) / (at - other)
    turns = torch.exp(1j * torch.from_numpy(s).reshape(-1, *[1] * gaps.ndim) * gaps)
    both = torch.from_numpy(np.stack([basis * w, basis * w * (s - 0.5)])).to(turns.dtype)
    return torch.einsum("pkq,qsij->pksij", both, turns)


def _blend(high: Tensor, low: Tensor, slow: Tensor) -> Tensor:
    """High order where elements are slow, low order, of the newest matrices alone, where they are fast."""
    padded = torch.zeros_like(high)
    padded[:, : low.shape[1]] = low
    return padded + slow * (high - padded)
