"""The Kohn–Sham equation as a branch: F(t, x) = -i·H(t, x)·x, x the occupied orbitals in an orthonormal basis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from residyn.branch import Generator
from residyn.errors import InputError
from residyn.quantum.molecule import Molecule
from residyn.quantum.potential import Potential
from residyn.quantum.pulses import Pulse, field_at


@dataclass(frozen=True)
class Absorber:
    """-i·W in the Hamiltonian, W = Σ γ_a·|a⟩⟨a| over orbitals above an onset: γ_a = rate·(exp(steepness·(ε_a - onset)) - 1).

    Gives states above the ionisation threshold a finite lifetime, and their lines a width; the norm falls by what is ionised.

    Args:
        onset: Orbital energy from which it acts, hartree.
        rate: Scale of γ, hartree.
        steepness: 1/hartree.
        most: γ at most, hartree.

    Reference:
        Lopata & Govind (2013), "Near and above ionization electronic excitations with non-Hermitian real-time
        time-dependent density functional theory", doi:10.1021/ct400569s.
    """

    onset: float = 0.0
    rate: float = 0.01
    steepness: float = 1.0
    most: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rate", "steepness", "most"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"`{name}` must be a number > 0, got {value!r}")

    def matrix(self, molecule: Molecule) -> Tensor:
        """W, `(s, n, n)`, of the empty orbitals of a molecule."""
        found = []
        for C, energies, m in zip(molecule.orbitals, molecule.orbital_energies, molecule.occupied, strict=True):
            above = (energies - self.onset).clamp_min(0.0)
            gamma = (self.rate * torch.expm1((self.steepness * above).clamp_max(50.0))).clamp_max(self.most)
            gamma[:m] = 0.0
            found.append((C * gamma) @ C.T)
        return torch.stack(found)


class Observed(NamedTuple):
    """What is seen of a state."""

    dipole: Tensor
    energy: float
    norm: float


class KohnSham(Generator):
    """A(t, x) = -i·(F[P(x)] + r·E(t)) (- W), `(s, n, n)`, on orbitals `(s, n, m)`.

    The electrons' charge is -1: a field E adds +r·E to their Hamiltonian.

    Args:
        molecule: The molecule.
        potential: V[P]; that of the molecule if not given.
        pulse: E(t).
        absorber: What absorbs ionised electrons.
    """

    def __init__(
        self,
        molecule: Molecule,
        potential: Potential | None = None,
        pulse: Pulse | None = None,
        absorber: Absorber | None = None,
    ) -> None:
        super().__init__()
        self.molecule, self.pulse = molecule, pulse
        self.potential = molecule.potential if potential is None else potential
        self.skew = absorber is None
        self.core, self.weight = molecule.core.to(torch.complex128), molecule.weight
        self.position = molecule.position.to(torch.complex128)
        self.sink = None if absorber is None else absorber.matrix(molecule).to(torch.complex128)
        self.flat = molecule.position.reshape(3, -1)
        self.builds = 0
        self.extra = 0
        self._x: Tensor | None = None
        self._fock: Tensor | None = None
        self.ground = molecule.density(molecule.state)
        self._counted = False

    def matrix(self, t: float | Tensor, x: Tensor) -> Tensor:
        """A(t, x); the Fock matrix of the state that was last looked at is not built again."""
        if x is not self._x or self._fock is None:
            self._build(x)
            self._counted = True
            self.builds += 1
        elif not self._counted:
            self._counted = True
            self.builds += 1
            self.extra -= 1
        assert self._fock is not None
        H = self._fock
        field = field_at(self.pulse, float(t))
        if field is not None:
            H = H + torch.einsum("c,cij->ij", field.to(H.dtype), self.position)
        return -1j * H if self.sink is None else -1j * H - self.sink

    def observe(self, x: Tensor) -> Observed:
        """Dipole, energy (without that in the field) and norm of a state.

        Where the scheme has built a Fock matrix close by (at the state it predicted), the energy is that there and its
        first-order change, which is right to second order in the distance; else a build of its own is made.
        """
        P = self.weight * (x @ x.mH)
        total = P[0] if len(P) == 1 else P.sum(0)
        if x is not self._x:
            near = self._near(P)
            if near is None:
                self._build(x)
                self._counted = False
                self.extra += 1
        if x is self._x:
            energy = self._energy
        else:
            assert near is not None
            energy = near
        dipole = self.molecule.nuclear_dipole - self.flat @ total.real.reshape(-1)
        trace = float(total.diagonal().real.sum())
        return Observed(dipole, energy, math.sqrt(max(trace, 0.0) / self.molecule.electrons))

    def _near(self, P: Tensor) -> float | None:
        """The energy at P from the last build, if that was close."""
        if self._fock is None:
            return None
        change = P - self._P
        distance = float(torch.view_as_real(change).square().sum())
        # what is left out is of the order of distance; the energy absorbed is of the order of that to the ground state
        if distance > 1e-16 and distance > 1e-4 * float(torch.view_as_real(P - self.ground).square().sum()):
            return None
        return self._energy + float((self._fock.conj() * change).real.sum())

    def rate(self, x: Tensor) -> Tensor:
        """dμ/dt without a field, `(3,)`, with the Fock matrix of the last `observe`: the slope just after a kick."""
        assert self._fock is not None
        P = self.molecule.density(x)
        turned = -1j * (self._fock @ P - P @ self._fock)
        return -self.flat @ turned.sum(0).real.reshape(-1)

    @property
    def fock(self) -> Tensor:
        """The Fock matrix built last, without any field, `(s, n, n)`."""
        assert self._fock is not None
        return self._fock

    def ready(self, x: Tensor) -> str:
        """Whether the Fock matrix of a state is at hand: `"no"`, `"seen"` (for its energy alone) or `"used"` (and counted)."""
        return "no" if x is not self._x else "used" if self._counted else "seen"

    def go_on(self, x: Tensor, builds: int, extra: int, ready: str) -> None:
        """Be as a checkpoint was: with its counts, and with what it had at hand."""
        if ready != "no":
            self._build(x)
            self._counted = ready == "used"
        self.builds, self.extra = builds, extra

    def _build(self, x: Tensor) -> None:
        P = self.weight * (x @ x.mH)  # (s, n, n)
        V, two = self.potential(P)
        core = float((self.molecule.core * P.sum(0).real).sum())
        self._x, self._P, self._fock = x, P, self.core + V
        self._energy = self.molecule.nuclear_energy + core + two


def kicked(molecule: Molecule, x: Tensor, kick: Tensor) -> Tensor:
    """exp(iκ·r)·x, the exact impulse of the field E(t) = -κ·δ(t) within the basis.

    Args:
        molecule: Whose positions.
        x: Orbitals, `(s, n, m)`.
        kick: κ, `(3,)`, 1/bohr.

    Returns:
        The orbitals just after.
    """
    values, vectors = torch.linalg.eigh(torch.einsum("c,cij->ij", kick, molecule.position))
    phases = torch.exp(1j * values)[:, None]
    V = vectors.to(x.dtype)
    return V @ (phases * (V.mH @ x))
