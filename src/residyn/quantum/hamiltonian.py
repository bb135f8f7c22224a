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
    """What is seen of a state, or of several side by side, `(…)`."""

    dipole: Tensor
    energy: Tensor
    norm: Tensor


class _Built:
    """The Fock matrix built last, whose it is, and how many there were; no module, whose attributes are slow to set."""

    __slots__ = ("P", "builds", "counted", "energy", "extra", "fock", "x")

    def __init__(self) -> None:
        self.builds, self.extra, self.counted = 0, 0, False
        self.x: Tensor | None = None
        self.P: Tensor
        self.fock: Tensor
        self.energy: Tensor


class KohnSham(Generator):
    """A(t, x) = -i·(F[P(x)] + r·E(t)) (- W), `(…, s, n, n)`, on orbitals `(…, s, n, m)`; several states move side by side.

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
        eye = torch.eye(molecule.n, dtype=torch.float64)
        # columns that read x, y, z, the trace and the energy in the field of the nuclei off a real density matrix
        self.probe = torch.stack([*molecule.position, eye, molecule.core]).reshape(5, -1).T.contiguous()
        self.nuclei = molecule.nuclear_dipole
        self.ground = molecule.density(molecule.state)
        self._at = _Built()

    @property
    def builds(self) -> int:
        """Fock matrices that the scheme had built, of each state."""
        return self._at.builds

    @property
    def extra(self) -> int:
        """Those built only to see an energy."""
        return self._at.extra

    def matrix(self, t: float | Tensor, x: Tensor) -> Tensor:
        """A(t, x); the Fock matrix of the state that was last looked at is not built again."""
        at = self._at
        if x is not at.x:
            self._build(x)
            at.counted = True
            at.builds += 1
        elif not at.counted:
            at.counted = True
            at.builds += 1
            at.extra -= 1
        H = at.fock
        if self.pulse is not None:
            field = field_at(self.pulse, float(t))
            if field is not None:
                H = H + torch.einsum("c,cij->ij", field.to(H.dtype), self.position)
        return -1j * H if self.sink is None else -1j * H - self.sink

    def observe(self, x: Tensor) -> Observed:
        """Dipole, energy (without that in the field) and norm of a state.

        Where the scheme has built a Fock matrix close by (at the state it predicted), the energy is that there and its
        first-order change, which is right to second order in the distance; else a build of its own is made.
        """
        at = self._at
        P = density(x, self.weight)
        energy = None if x is at.x else self._near(P)
        if x is not at.x and energy is None:
            self._build(x)
            at.counted = False
            at.extra += 1
        seen = self._read(P)
        norm = (seen[..., 3] / self.molecule.electrons).clamp_min(0.0).sqrt()
        return Observed(self.nuclei - seen[..., :3], at.energy if energy is None else energy, norm)

    def _read(self, P: Tensor) -> Tensor:
        """x, y, z, trace and energy of the core, `(…, 5)`, of a density matrix."""
        total = P.real.sum(-3) if P.shape[-3] > 1 else P.real
        return total.reshape(*P.shape[:-3], -1) @ self.probe

    def _near(self, P: Tensor) -> Tensor | None:
        """The energy at P from the last build, if that was close."""
        at = self._at
        if at.x is None or at.P.shape != P.shape:
            return None
        change = torch.view_as_real(P - at.P).flatten(-4)
        distances = change.square().sum(-1)
        distance = float(distances.max())
        # what is left out is of the order of distance; the energy absorbed is of the order of that to the ground state
        if distance > 1e-16:
            away = torch.view_as_real(P - self.ground).flatten(-4).square().sum(-1)
            if bool((distances > 1e-4 * away).any()):
                return None
        return at.energy + (torch.view_as_real(at.fock).flatten(-4) * change).sum(-1)

    def rate(self, x: Tensor) -> Tensor:
        """dμ/dt without a field, `(…, 3)`, with the Fock matrix of the last `observe`: the slope just after a kick."""
        P, F = self.molecule.density(x), self._at.fock
        turned = -1j * (F @ P - P @ F)
        return -self._read(turned)[..., :3]

    @property
    def fock(self) -> Tensor:
        """The Fock matrix built last, without any field, `(…, s, n, n)`."""
        return self._at.fock

    def ready(self, x: Tensor) -> str:
        """Whether the Fock matrix of a state is at hand: `"no"`, `"seen"` (for its energy alone) or `"used"` (and counted)."""
        return "no" if x is not self._at.x else "used" if self._at.counted else "seen"

    def go_on(self, x: Tensor, builds: int, extra: int, ready: str) -> None:
        """Be as a checkpoint was: with its counts, and with what it had at hand."""
        if ready != "no":
            self._build(x)
            self._at.counted = ready == "used"
        self._at.builds, self._at.extra = builds, extra

    def _build(self, x: Tensor) -> None:
        at = self._at
        P = density(x, self.weight)
        V, two = self.potential(P)
        at.x, at.P, at.fock = x, P, self.core + V
        at.energy = self.molecule.nuclear_energy + self._read(P)[..., 4] + two


def density(x: Tensor, weight: int) -> Tensor:
    """weight·x·xᴴ, `(…, n, n)`; the conjugate is written out, which is faster for small matrices."""
    P = x @ x.mT.conj_physical()
    return weight * P if weight != 1 else P


def kicked(molecule: Molecule, x: Tensor, kick: Tensor) -> Tensor:
    """exp(iκ·r)·x, the exact impulse of the field E(t) = -κ·δ(t) within the basis.

    Args:
        molecule: Whose positions.
        x: Orbitals, `(s, n, m)`.
        kick: κ, `(3,)` or `(k, 3)`, 1/bohr.

    Returns:
        The orbitals just after, `(s, n, m)` or `(k, s, n, m)`.
    """
    values, vectors = torch.linalg.eigh(torch.einsum("...c,cij->...ij", kick, molecule.position).unsqueeze(-3))
    phases = torch.exp(1j * values).unsqueeze(-1)
    V = vectors.to(x.dtype)
    return V @ (phases * (V.mH @ x))
