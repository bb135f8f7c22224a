"""How fast errors grow: the eigenvalues of one step on small deviations from the ground state, and the limits on the step."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from residyn.analysis import max_stable_step
from residyn.branch import Spectral
from residyn.errors import InputError
from residyn.quantum.corrector import Corrector
from residyn.quantum.hamiltonian import KohnSham
from residyn.quantum.molecule import Molecule
from residyn.quantum.response import LIMIT, matrices, pairs
from residyn.quantum.threads import threads_for
from residyn.results import Estimate
from residyn.schemes import MMUT
from residyn.schemes.base import Scheme

_SMALL = 1e-5
"""Deviation for central differences: they err by its square, 1e-10, and by rounding over it, 1e-11."""
_STILL = 1e-8
"""Growth a step that differences cannot tell from none."""
_SLOW = 1e-5
"""1/a.u.; what grows more slowly than this adds less than a hundredth in a run of 1,000 a.u."""
_WARM = 6
"""Steps after which every scheme has its whole memory."""


@dataclass(frozen=True)
class Stability:
    """What `stability` finds.

    Args:
        growth: Rate at which the fastest small deviation grows, 1/a.u.: by exp(growth·t); about 0 if none does.
        norm_growth: Rate at which the norm of an occupied orbital grows at most, 1/a.u.
        limit: Largest `dt` at which the scheme does not enlarge any orbital of the ground state; 0 for forward Euler, infinite
            for a unitary scheme.
        stable: Whether neither grows.
        frequency: That of the fastest-growing deviation, hartree, modulo 2π/dt.
        parasitic: For a leapfrog: the growth of its odd/even mode as dt → 0, from the response equation with the sign of the
            Fock matrix's response turned round.
        advice: One line.
    """

    growth: float
    norm_growth: float
    limit: Estimate
    stable: bool
    frequency: float
    parasitic: float | None
    advice: str


def stability(molecule: Molecule, scheme: Scheme, dt: float) -> Stability:
    """Whether small deviations from the ground state grow under a scheme, before a step is taken in earnest.

    One step maps deviations of the orbitals, with what the scheme remembers, linearly; the eigenvalues λ of that map tell the
    growth ln|λ|/dt. A check of the norm is not enough: under MMUT it stays 1 to rounding while the dipole explodes.

    Args:
        molecule: The molecule.
        scheme: The propagator.
        dt: Time step, atomic units.

    Returns:
        The growth, the limits, and a line of advice.

    Raises:
        InputError: If `dt` is not positive, the molecule too large for dense linear response, or the scheme a `Corrector`.

    >>> from residyn.schemes import Euler
    >>> stability(Molecule.fixture("h2"), Euler(), 0.1).stable
    False
    """
    if not (isinstance(dt, (int, float)) and 0 < dt < math.inf):
        raise InputError(f"`dt` must be a number > 0 in atomic units of time, got {dt!r}")
    if isinstance(scheme, Corrector):
        raise InputError(f"`scheme` must remember states or matrices -i·H alone, got {scheme!r}; judge it by runs")
    if pairs(molecule) > LIMIT:
        raise InputError(f"`molecule` must have at most {LIMIT} pairs of orbitals, got {pairs(molecule)}")
    with threads_for(molecule.n), torch.no_grad():
        tangent = _Tangent(molecule, scheme, dt)
        values = torch.linalg.eigvals(tangent.matrix())
        top = values[values.abs().argmax()]
        growth = max(math.log(float(top.abs())) / dt, tangent.norm_growth)
        parasitic = _parasitic(molecule) if isinstance(scheme, MMUT) else None
    limit = max_stable(molecule, scheme)
    still = growth < max(_SLOW, _STILL / dt)
    advice = _advice(growth, dt, limit, still)
    return Stability(growth, tangent.norm_growth, limit, still, abs(float(top.angle())) / dt, parasitic, advice)


def max_stable(molecule: Molecule, scheme: Scheme) -> Estimate:
    """Largest dt at which |R(-i·ε·dt)| ≤ 1 for every orbital energy ε, R the stability function of the scheme."""
    energies = molecule.orbital_energies.flatten()
    branch = Spectral(-1j * energies.to(torch.complex128))
    return max_stable_step(branch, torch.zeros(len(energies), dtype=torch.complex128), scheme)


def orbital_limit(molecule: Molecule, scheme: Scheme) -> float:
    """`max_stable` as a number."""
    return float(max_stable(molecule, scheme))


class _Tangent:
    """One step of a scheme on deviations: (X, what it remembers) → the same a step later, by central differences.

    X are the components of the occupied orbitals along the empty ones, in the frame that turns with the ground state; what
    turns orbitals among the occupied ones changes nothing and is left out.
    """

    def __init__(self, molecule: Molecule, scheme: Scheme, dt: float) -> None:
        self.molecule, self.scheme, self.dt = molecule, _exact(scheme), dt
        self.field = KohnSham(molecule, molecule.model("linear"))
        self.x0 = molecule.state
        x, state = self.x0, scheme.init(self.field, 0.0, self.x0)
        before: tuple[Tensor, ...] = ()
        for k in range(_WARM):  # until the scheme has its whole memory
            before = scheme.memory(state)
            found = self.scheme.step(self.field, k * dt, (k + 1) * dt, x, state)
            x, state = found.x, found.state
        memory = scheme.memory(state)
        self.shapes = [tuple(m.shape) for m in memory]
        self.memory = tuple(self._base(m, shape) for m, shape in zip(memory, self.shapes, strict=True))
        self.fixed = [any(m is old for old in before) for m in memory]
        base = self._step(self.x0, self.memory)
        self.phases, rates = self._phases(base[0])
        self.norm_growth = max(math.log(max(abs(r), 1e-300)) for r in rates) / dt

    def _base(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """What is remembered at the ground state, in the frame of t = 0: a matrix stands still, a state was a step back."""
        if shape == tuple(self.x0.shape):
            energies = self.molecule.orbital_energies
            turned = self.x0.clone()
            for s, m in enumerate(self.molecule.occupied):
                turned[s, :, :m] = self.x0[s, :, :m] * torch.exp(1j * energies[s, :m] * self.dt)
            return turned
        return tensor

    def _step(self, x: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        state: Any = self.scheme.recall(memory, self.dt) if memory else self.scheme.init(self.field, 0.0, x)
        found = self.scheme.step(self.field, 0.0, self.dt, x, state)
        return found.x, self.scheme.memory(found.state)

    def _phases(self, x1: Tensor) -> tuple[Tensor, list[complex]]:
        """The factor of every occupied orbital in a step, `(s, 1, m)` of modulus 1, and with its modulus."""
        factors = (self.x0.conj() * x1).sum(1, keepdim=True)  # (s, 1, m)
        rates = [complex(factors[s, 0, i]) for s, m in enumerate(self.molecule.occupied) for i in range(m)]
        safe = torch.where(factors.abs() > 0, factors, torch.ones_like(factors))
        return safe / safe.abs(), rates

    def _coordinates(self, x: Tensor) -> Tensor:
        """A change of the orbitals as real numbers: real and imaginary parts along the empty ones."""
        parts = []
        for s, m in enumerate(self.molecule.occupied):
            C = self.molecule.orbitals[s].to(x.dtype)
            parts.append((C[:, m:].T @ x[s, :, :m]).flatten())
        flat = torch.cat(parts)
        return torch.cat([flat.real, flat.imag])

    def _orbitals(self, v: Tensor) -> Tensor:
        """The inverse of `_coordinates`."""
        k = len(v) // 2
        flat, x, start = torch.complex(v[:k], v[k:]), torch.zeros_like(self.x0), 0
        for s, m in enumerate(self.molecule.occupied):
            size = m * (self.molecule.n - m)
            C = self.molecule.orbitals[s].to(x.dtype)
            x[s, :, :m] = C[:, m:] @ flat[start : start + size].reshape(-1, m)
            start += size
        return x

    def _remember(self, v: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A change of what is remembered from its coordinates: of a state, or of (stacked) matrices -i·F."""
        if shape == tuple(self.x0.shape):
            back = torch.where(self.phases.abs() > 0, self.phases, torch.ones_like(self.phases)).conj()
            return self._orbitals(v) * back
        found = []
        for part in v.reshape(-1, self._size).unbind(0):
            x = self._orbitals(part)
            H = x @ self.x0.mH
            found.append(-1j * (H + H.mH))
        return torch.stack(found).reshape(shape)

    def _recalled(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The coordinates of a change of what is remembered after a step."""
        if shape == tuple(self.x0.shape):
            return self._coordinates(tensor)  # it is the x of before the step, in the frame of before
        stacked = tensor.reshape(-1, *self.x0.shape[:1], self.molecule.n, self.molecule.n)
        return torch.cat([self._coordinates(1j * part @ self.x0) for part in stacked])

    @property
    def _size(self) -> int:
        return 2 * pairs(self.molecule)

    def _parts(self, shape: tuple[int, ...]) -> int:
        """Coordinates of what is remembered."""
        if shape == tuple(self.x0.shape):
            return self._size
        return self._size * (math.prod(shape) // (self.molecule.spins * self.molecule.n**2))

    def matrix(self) -> Tensor:
        """The map, square and real."""
        parts = zip(self.shapes, self.fixed, strict=True)
        sizes = [self._size, *(0 if fixed else self._parts(shape) for shape, fixed in parts)]
        columns = []
        for k in range(sum(sizes)):
            v = torch.zeros(sum(sizes), dtype=torch.float64)
            v[k] = _SMALL
            columns.append((self._image(v, sizes) - self._image(-v, sizes)) / (2 * _SMALL))
        return torch.stack(columns, 1)

    def _image(self, v: Tensor, sizes: list[int]) -> Tensor:
        own, *rest = torch.split(v, sizes)
        memory = tuple(
            base if not len(part) else base + self._remember(part, shape)
            for base, part, shape in zip(self.memory, rest, self.shapes, strict=True)
        )
        x1, kept = self._step(self.x0 + self._orbitals(own), memory)
        found = [self._coordinates(x1 * self.phases.conj())]
        found += [self._recalled(m, shape) for m, shape, part in zip(kept, self.shapes, rest, strict=True) if len(part)]
        return torch.cat(found)


def _exact(scheme: Scheme) -> Scheme:
    """The scheme with its own iteration carried to rounding, which differences need."""
    if not hasattr(scheme, "tol"):
        return scheme
    tight = copy.copy(scheme)
    tight.tol, tight.max_iterations = 1e-14, 200  # type: ignore[attr-defined]
    return tight


def _parasitic(molecule: Molecule) -> float:
    """The largest growth of the response equation with its kernel's sign turned: √-ω² of its negative ω²."""
    plus, minus = matrices(molecule, kernel=-1.0)
    squares = torch.linalg.eigvals(minus @ plus)  # of -d²/dt²; complex pairs grow as well
    return float((1j * squares.sqrt()).real.abs().max())


def _advice(growth: float, dt: float, limit: Estimate, still: bool) -> str:
    if still:
        return f"no small deviation grows at dt = {dt:g}"
    if 0 < float(limit) < math.inf and dt > float(limit):
        return f"take dt ≤ {float(limit):.4g}"
    if float(limit) == 0:
        return "the norm grows at every dt; take a unitary scheme such as AdamsMagnus()"
    return f"a deviation grows tenfold in {math.log(10) / growth:.3g} a.u.; take a smaller dt or another scheme"
