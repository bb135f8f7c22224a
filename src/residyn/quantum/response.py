"""Linear response, dense: the two matrices (A+B) and (A-B), and the excitations of a molecule.

A small deviation X + iY of the occupied orbitals into the empty ones obeys Ẋ = (A-B)·Y, Ẏ = -(A+B)·X.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.errors import InputError, SolveError
from residyn.quantum.molecule import Molecule
from residyn.quantum.potential import Linear
from residyn.quantum.threads import threads_for
from residyn.results import Outcome

HARTREE_EV = 27.211386245988
"""One hartree in electronvolt (CODATA 2018)."""
LIMIT = 3000
"""Pairs of occupied and empty orbitals up to which the matrices are written out."""


@dataclass(frozen=True)
class Excitations:
    """The excitations that a closed shell's singlets, or an open shell's spin-conserving ones, are.

    Args:
        energies: hartree, ascending, `(k,)`.
        strengths: Oscillator strengths, `(k,)`.
        dipoles: Transition dipoles, `(3, k)`, e·bohr.
    """

    energies: Tensor
    strengths: Tensor
    dipoles: Tensor

    @property
    def energies_ev(self) -> Tensor:
        """Energies in eV."""
        return self.energies * HARTREE_EV


def pairs(molecule: Molecule) -> int:
    """Number of pairs of occupied and empty orbitals.

    Raises:
        InputError: If there is none.
    """
    found = sum(m * (molecule.n - m) for m in molecule.occupied)
    if not found:
        raise InputError(
            f"`molecule` must have an empty orbital to excite an electron into, got {molecule.n} orbitals that are all "
            "occupied; take a larger basis"
        )
    return found


def orbital_basis(molecule: Molecule) -> Tensor:
    """The real symmetric change of density x_a·x_iᵀ + h.c. of each pair, times its weight, `(k, s, n, n)`, lower half kept.

    Returned are the plain products, weight·C_a·C_iᵀ; the symmetric and antisymmetric changes follow from them.
    """
    n, found = molecule.n, []
    for s, m in enumerate(molecule.occupied):
        C = molecule.orbitals[s]
        block = torch.zeros(m * (n - m), molecule.spins, n, n, dtype=torch.float64)
        block[:, s] = molecule.weight * torch.einsum("pa,qi->aipq", C[:, m:], C[:, :m]).reshape(-1, n, n)
        found.append(block)
    return torch.cat(found)


def matrices(molecule: Molecule, kernel: float = 1.0) -> tuple[Tensor, Tensor]:
    """(A+B) and (A-B), `(k, k)`; `kernel` scales the response of the Fock matrix (-1 for the parasitic mode of a leapfrog).

    Raises:
        InputError: If there are too many pairs, or the linear Fock matrix cannot be written out.
    """
    k = pairs(molecule)
    if k > LIMIT:
        raise InputError(f"`molecule` must have at most {LIMIT} pairs of orbitals for dense linear response, got {k}")
    model = molecule.model("linear")
    assert isinstance(model, Linear)
    with threads_for(molecule.n):
        basis = orbital_basis(molecule)
        lower, strict = model.pairs.lower, model.pairs.strict
        flat = basis.reshape(k, molecule.spins, -1)
        turned = basis.mT.reshape(k, molecule.spins, -1)
        # the pairs' own products, packed: columns of the change, and rows that read the (a, i) element
        change = (flat + turned)[..., lower].reshape(k, -1)
        turn = (flat - turned)[..., strict].reshape(k, -1)
        weight = model.pairs.weight.repeat(molecule.spins)
        # C_aᵀ·V·C_i of packed V: half the weighted product with the symmetric change, or half that with the turn
        plus = (0.5 / molecule.weight) * (change * weight) @ model.real @ change.T
        minus = torch.zeros_like(plus)
        if model.imaginary is not None:
            minus = (1.0 / molecule.weight) * turn @ model.imaginary @ turn.T
        gaps = torch.diag(_gaps(molecule))
        return gaps + kernel * 0.5 * (plus + plus.T), gaps + kernel * 0.5 * (minus + minus.T)


def excitations(molecule: Molecule) -> Excitations:
    """All excitations by Casida's equation (A-B)^½·(A+B)·(A-B)^½·Z = ω²·Z.

    Args:
        molecule: The molecule.

    Returns:
        Energies, strengths, transition dipoles.

    Raises:
        InputError: If the molecule is too large for dense matrices.
        SolveError: If the ground state is not a minimum, so that some ω² is negative.

    Reference:
        Casida (1995), doi:10.1142/9789812830586_0005.

    >>> round(float(excitations(Molecule.fixture("h2")).energies_ev[0]), 2)
    15.02
    """
    plus, minus = matrices(molecule)
    with threads_for(molecule.n):
        values, vectors = torch.linalg.eigh(minus)
        if float(values[0]) <= 0:
            raise _unstable(float(values[0]))
        root = (vectors * values.sqrt()) @ vectors.T
        squares, Z = torch.linalg.eigh(root @ plus @ root)
        if float(squares[0]) < -1e-6:
            raise _unstable(float(squares[0]))
        omega = squares.clamp_min(0.0).sqrt()
        moments = (transition_positions(molecule) @ root @ Z) * (molecule.weight**0.5)  # (3, k)
    strengths = (2.0 / 3.0) * moments.square().sum(0)
    return Excitations(omega, strengths, moments / omega.clamp_min(1e-12).sqrt())


def transition_positions(molecule: Molecule) -> Tensor:
    """⟨a|r|i⟩ of every pair, `(3, k)`."""
    found = []
    for s, m in enumerate(molecule.occupied):
        C = molecule.orbitals[s]
        found.append((C[:, m:].T @ molecule.position @ C[:, :m]).reshape(3, -1))
    return torch.cat(found, 1)


def _gaps(molecule: Molecule) -> Tensor:
    """ε_a - ε_i of every pair, `(k,)`."""
    return torch.cat(
        [(e[m:, None] - e[None, :m]).flatten() for e, m in zip(molecule.orbital_energies, molecule.occupied, strict=True)]
    )


def _unstable(value: float) -> SolveError:
    return SolveError(
        Outcome(
            "root_failed",
            f"the ground state is not a minimum: its response has the negative eigenvalue {value:.2e}",
            "follow the instability in PySCF (mf.stability()), then use Molecule.from_pyscf",
        )
    )
