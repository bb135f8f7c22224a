"""A molecule in its ground state: all that a propagation needs, in an orthonormal basis and atomic units."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError, SolveError
from residyn.quantum.potential import Frozen, Full, Linear, Potential
from residyn.results import Outcome

_LINDEP = 1e-8
_TIGHT = 1e-11


@dataclass(frozen=True)
class Molecule:
    """A molecule with its self-consistent ground state; made by `from_xyz`, `from_pyscf` or `fixture`.

    All matrices are in the orthonormal basis X = S^(-1/2), in atomic units. A closed shell has one spin channel that holds two
    electrons an orbital; an open shell has two, and the one with fewer electrons is filled up with zero columns.

    Args:
        name: What it is called in reports.
        elements: Symbols of the atoms.
        coordinates: `(atoms, 3)`, bohr.
        charges: Nuclear charges (those of the cores where a pseudopotential is used), `(atoms,)`.
        basis: Name of the basis.
        xc: Name of the functional; `"hf"` for Hartree–Fock.
        occupied: Occupied orbitals of each spin channel.
        weight: Electrons an orbital: 2 (closed shell) or 1.
        X: Orthonormal basis in atomic orbitals, `(n_ao, n)`.
        overlap: Overlap of the atomic orbitals, `(n_ao, n_ao)`.
        core: Kinetic energy and nuclei, `(n, n)`.
        position: x, y and z, `(3, n, n)`.
        orbitals: Columns, occupied ones first, `(s, n, n)`.
        orbital_energies: `(s, n)`, hartree.
        nuclear_energy: Repulsion of the nuclei.
        energy: Energy of the ground state.
        potential: V[P] of the electrons among themselves.

    >>> water = Molecule.fixture("h2o")
    >>> water.electrons, round(water.energy, 4)
    (10, -75.9838)
    """

    name: str
    elements: tuple[str, ...]
    coordinates: Tensor
    charges: Tensor
    basis: str
    xc: str
    occupied: tuple[int, ...]
    weight: int
    X: Tensor = field(repr=False)
    overlap: Tensor = field(repr=False)
    core: Tensor = field(repr=False)
    position: Tensor = field(repr=False)
    orbitals: Tensor = field(repr=False)
    orbital_energies: Tensor = field(repr=False)
    nuclear_energy: float
    energy: float
    potential: Potential = field(repr=False)

    @staticmethod
    def from_xyz(
        path: str | os.PathLike[str],
        basis: str = "6-31g",
        xc: str = "hf",
        charge: int = 0,
        spin: int = 0,
        *,
        grid_level: int = 3,
        max_cycle: int = 100,
    ) -> Molecule:
        """Read atoms, and find the ground state with PySCF.

        Args:
            path: An .xyz file (Å), or its text, or atoms as `"O 0 0 0; H 0 0.76 0.59; H 0 -0.76 0.59"`.
            basis: A basis that PySCF knows, e.g. `"6-31g"`.
            xc: A functional that libxc knows, e.g. `"pbe0"`; `"hf"` for Hartree–Fock.
            charge: Charge of the molecule.
            spin: Number of unpaired electrons.
            grid_level: Fineness of the integration grid, 0 to 9.
            max_cycle: Iterations of the self-consistent field at most.

        Returns:
            The molecule.

        Raises:
            InputError: If the text, basis, functional, charge or spin breaks a rule, or atoms lie on top of each other.
            SolveError: If the self-consistent field does not converge.
            MissingExtraError: If PySCF is not installed.
        """
        from residyn.quantum.reading import ground_state

        mf, name = ground_state(path, basis, xc, charge, spin, grid_level, max_cycle)
        return replace(Molecule.from_pyscf(mf), name=name, basis=basis, xc=xc.lower())

    @staticmethod
    def from_pyscf(mf: Any) -> Molecule:
        """Take over a converged RHF, UHF, RKS or UKS object of PySCF.

        Args:
            mf: The mean-field object, after `kernel()`.

        Returns:
            The molecule. Its orbitals are converged further where they were not to 1e-11.

        Raises:
            InputError: If the object is of another kind, or not converged.
        """
        from residyn.quantum.convert import from_pyscf

        return from_pyscf(mf)

    @staticmethod
    def fixture(name: str) -> Molecule:
        """A small molecule in Hartree–Fock/6-31G with stored integrals; PySCF is not needed.

        Args:
            name: `"h2"`, `"lih"` or `"h2o"`.

        Returns:
            The molecule.

        Raises:
            InputError: If there is no such fixture.
        """
        from residyn.quantum.fixtures import load

        return load(name)

    @property
    def n(self) -> int:
        """Number of orthonormal basis functions."""
        return self.core.shape[-1]

    @property
    def spins(self) -> int:
        """Spin channels: 1 or 2."""
        return len(self.occupied)

    @property
    def electrons(self) -> int:
        """Number of electrons."""
        return self.weight * sum(self.occupied)

    @property
    def state(self) -> Tensor:
        """The occupied orbitals of the ground state, `(s, n, m)`, complex; what is propagated."""
        m = max(self.occupied)
        x = torch.zeros(self.spins, self.n, m, dtype=torch.complex128)
        for s, count in enumerate(self.occupied):
            x[s, :, :count] = self.orbitals[s, :, :count]
        return x

    @property
    def nuclear_dipole(self) -> Tensor:
        """Σ Z·R, `(3,)`."""
        return self.charges @ self.coordinates

    @property
    def dipole(self) -> Tensor:
        """Dipole moment of the ground state, `(3,)`, e·bohr, about the origin of the coordinates."""
        return self.nuclear_dipole - torch.einsum("cij,sij->c", self.position, self.density(self.state).real)

    def density(self, x: Tensor) -> Tensor:
        """P = Σ_i weight·x_i·x_iᴴ, `(…, s, n, n)`, of orbitals `(…, s, n, m)`."""
        return self.weight * (x @ x.mH)

    def fock(self, density: Tensor | np.ndarray) -> Tensor:
        """The Fock (Kohn–Sham) matrix in atomic orbitals of a density matrix in atomic orbitals, as PySCF's `get_fock`.

        Args:
            density: `(n_ao, n_ao)`, or `(2, n_ao, n_ao)` for an open shell; real or complex Hermitian.

        Returns:
            A complex tensor of the same shape.

        Raises:
            InputError: If the shape is another.
        """
        given = torch.as_tensor(density).to(torch.complex128)
        ao = self.X.shape[0]
        shape = (ao, ao) if self.spins == 1 else (2, ao, ao)
        if tuple(given.shape) != shape:
            raise InputError(f"`density` must be of shape {shape}, got {tuple(given.shape)}; give one matrix a spin channel")
        back = (self.overlap @ self.X).to(given.dtype)  # (n_ao, n): S·X, whose transpose undoes X
        P = back.T @ given.reshape(-1, ao, ao) @ back
        F = self.core + self.potential(P)[0]
        return (back @ F @ back.T).reshape(shape)

    def model(self, fock: str) -> Potential:
        """V[P] as `propagate` uses it: `"full"`, `"linear"` (about the ground state) or `"frozen"`.

        Raises:
            InputError: If the name is another, or the molecule too large for it.
        """
        if fock == "full":
            return self.potential
        kinds = {"linear": Linear, "frozen": Frozen}
        if fock not in kinds:
            raise InputError(f"`fock` must be full, linear or frozen, got {fock!r}; linear is for weak fields")
        cache: dict[str, Potential] = self.__dict__.setdefault("_models", {})
        if fock not in cache:
            cache[fock] = kinds[fock](self.potential, self.density(self.state))
        return cache[fock]

    def fingerprint(self) -> str:
        """A digest of all numbers that decide how it moves: another molecule, basis or functional has another."""
        digest = hashlib.sha256(f"{self.elements}{self.xc.lower()}{self.occupied}{self.weight}".encode())
        for tensor in (self.coordinates, self.core, self.position, self.orbitals, self.orbital_energies):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def orthonormal(overlap: np.ndarray) -> Tensor:
    """X = S^(-1/2), `(n, n)`.

    Raises:
        InputError: If S is singular to rounding: the basis is linearly dependent.
    """
    values, vectors = torch.linalg.eigh(torch.from_numpy(np.ascontiguousarray(overlap)))
    least = float(values[0])
    if least < _LINDEP:
        raise InputError(
            f"`basis` must be linearly independent, got an overlap with eigenvalue {least:.1e}; "
            "take a basis with fewer diffuse functions, or move the atoms apart"
        )
    return (vectors * values.rsqrt()) @ vectors.T


def settle(
    core: Tensor, potential: Potential, orbitals: Tensor, occupied: tuple[int, ...], weight: int, *, rounds: int = 60
) -> tuple[Tensor, Tensor, float]:
    """Converge given occupied orbitals until [F, P] vanishes to 1e-11, so that the ground state stands still.

    Args:
        core: `(n, n)`.
        potential: V[P].
        orbitals: Occupied ones first, `(s, n, n)`.
        occupied: How many of them, for each spin.
        weight: Electrons an orbital.
        rounds: Iterations at most.

    Returns:
        Orbitals, their energies, and the electronic energy.

    Raises:
        SolveError: If [F, P] stays above 1e-7.
    """
    C, best = orbitals, float("inf")
    history: list[tuple[Tensor, Tensor]] = []
    F, energy = core, 0.0
    for _ in range(rounds):
        P = torch.stack([weight * c[:, :m] @ c[:, :m].T for c, m in zip(C, occupied, strict=True)])
        V, two = potential(P.to(torch.complex128))
        F = core + V.real
        energy = float((core * P.sum(0)).sum() + two)
        error = F @ P - P @ F
        size = float(error.abs().max())
        history = [*history[-7:], (F, error)]
        if size < _TIGHT or (size < 1e-9 and size > 0.5 * best):
            best = min(best, size)
            break
        best = min(best, size)
        C = _follow(_diis(history), C, occupied)
    if best > 1e-7:
        raise SolveError(
            Outcome(
                "root_failed",
                f"the self-consistent field did not converge: [F, P] is still {best:.1e}",
                "start from another guess, or use a level shift in PySCF",
            )
        )
    return (*_canonical(F, C, occupied), energy)


def _diis(history: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Pulay's combination of Fock matrices with the least error."""
    k = len(history)
    errors = torch.stack([error.flatten() for _, error in history])
    B = torch.zeros(k + 1, k + 1, dtype=torch.float64)
    gram = errors @ errors.T
    B[:k, :k] = gram / gram.diagonal().max()
    B[k, :k] = B[:k, k] = 1.0
    right = torch.zeros(k + 1, dtype=torch.float64)
    right[k] = 1.0
    weights = torch.linalg.lstsq(B, right, driver="gelsd").solution[:k]
    return torch.einsum("k,ksij->sij", weights, torch.stack([F for F, _ in history]))


def _follow(F: Tensor, C: Tensor, occupied: tuple[int, ...]) -> Tensor:
    """Eigenvectors of F, those that overlap most with what is occupied first."""
    found = []
    for f, c, m in zip(F, C, occupied, strict=True):
        vectors = torch.linalg.eigh(f).eigenvectors
        overlap = (c[:, :m].T @ vectors).square().sum(0)
        chosen = torch.zeros(len(overlap), dtype=torch.bool)
        chosen[overlap.topk(m).indices] = True
        found.append(torch.cat([vectors[:, chosen], vectors[:, ~chosen]], 1))
    return torch.stack(found)


def _canonical(F: Tensor, C: Tensor, occupied: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Orbitals that diagonalise F among the occupied and among the empty ones."""
    orbitals, energies = [], []
    for f, c, m in zip(F, C, occupied, strict=True):
        parts = []
        for block in (c[:, :m], c[:, m:]):
            values, vectors = torch.linalg.eigh(block.T @ f @ block)
            parts.append((values, block @ vectors))
        energies.append(torch.cat([values for values, _ in parts]))
        orbitals.append(torch.cat([vectors for _, vectors in parts], 1))
    return torch.stack(orbitals), torch.stack(energies)


def whole(potential: Potential) -> Full | None:
    """The potential, if its integrals are written out."""
    return potential if isinstance(potential, Full) else None
