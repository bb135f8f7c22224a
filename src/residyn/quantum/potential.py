"""The two-electron part of the Fock matrix, V[P] and its energy: whole, linear about the ground state, or frozen."""

from __future__ import annotations

import abc
import time
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.quantum.grid import Grid
from residyn.quantum.packed import Packed

LINEAR_LIMIT = 100
"""Basis functions up to which the linear Fock matrix is written out (0.2 GB a spin at the limit)."""


class Potential(abc.ABC):
    """V[P], `(s, n, n)` complex Hermitian, and the energy it stands for; P is the spin (or total) density matrix."""

    @abc.abstractmethod
    def __call__(self, P: Tensor) -> tuple[Tensor, float]:
        """V[P] and E[P], without the core's part."""


class Full(Potential):
    """V = J - c·K + V_xc with the integrals written out; V_xc on the cached grid, or by PySCF above its size.

    Args:
        two: Coulomb and exchange.
        xc: What gives V_xc and E_xc of a real density matrix, or `None`.
    """

    def __init__(self, two: Packed, xc: Grid | DirectXC | None) -> None:
        self.two, self.xc, self.pairs = two, xc, two.pairs

    def __call__(self, P: Tensor) -> tuple[Tensor, float]:
        """V[P] and E[P]."""
        real, imaginary = self.pairs.pack(P)
        symmetric, antisymmetric = self.two(real, imaginary)
        energy = 0.5 * float(((symmetric * real) @ self.pairs.weight).sum())
        if antisymmetric is not None:
            energy += float((antisymmetric * imaginary).sum())
        V = self.pairs.unpack(symmetric, antisymmetric)
        if self.xc is None:
            return V, energy
        vxc, exc = self.xc(P.real)
        return V + vxc, energy + exc


class DirectXC:
    """V_xc by PySCF's own block loop, for more functions than are worth keeping on the grid."""

    def __init__(self, mf: Any, X: Tensor, spins: int) -> None:
        self.mf, self.X, self.spins = mf, X, spins
        self.seconds = 0.0

    def __call__(self, P: Tensor) -> tuple[Tensor, float]:
        """V_xc, `(s, n, n)` real, and E_xc."""
        start = time.process_time()
        found = _pyscf_xc(self.mf, self.X, P, self.spins)
        self.seconds += time.process_time() - start
        return found


class Direct(Potential):
    """All by PySCF, for more functions than integrals can be kept of: J and K of real and imaginary part, V_xc.

    Args:
        mf: The mean-field object.
        X: Orthonormal basis in atomic orbitals, `(n_ao, n)`.
        spins: 1 or 2.
        shares: The share of exact exchange, and of the long-range part with its ω: `(hyb, lr, omega)`.
    """

    def __init__(self, mf: Any, X: Tensor, spins: int, shares: tuple[float, float, float]) -> None:
        self.mf, self.X, self.spins, self.shares = mf, X, spins, shares
        self.dft = hasattr(mf, "xc")

    def __call__(self, P: Tensor) -> tuple[Tensor, float]:
        """V[P] and E[P]."""
        hyb, lr, omega = self.shares
        X, factor = self.X.to(P.dtype), 0.5 if self.spins == 1 else 1.0
        ao = X @ P @ X.T  # (s, n_ao, n_ao)
        real, imaginary = ao.real.contiguous().numpy(), ao.imag.contiguous().numpy()
        mol = self.mf.mol
        J = torch.from_numpy(self.mf.get_j(mol, real.sum(0), hermi=1))
        V = J.expand(self.spins, *J.shape).to(P.dtype)
        for share, kind in ((hyb, {}), (lr, {"omega": omega})):
            if share:
                K = torch.complex(
                    torch.as_tensor(self.mf.get_k(mol, real, hermi=1, **kind)),
                    torch.as_tensor(self.mf.get_k(mol, imaginary, hermi=2, **kind)),
                )
                V = V - factor * share * K
        V = self.X.T.to(P.dtype) @ V @ X
        energy = 0.5 * float((V.conj() * P).real.sum())
        if not self.dft:
            return V, energy
        vxc, exc = _pyscf_xc(self.mf, self.X, P.real, self.spins)
        return V + vxc, energy + exc


def _pyscf_xc(mf: Any, X: Tensor, P: Tensor, spins: int) -> tuple[Tensor, float]:
    ao = (X @ P @ X.T).contiguous().numpy()
    if mf.grids.coords is None:
        mf.grids.build(with_non0tab=True)
    job = mf._numint.nr_rks if spins == 1 else mf._numint.nr_uks
    _, exc, vmat = job(mf.mol, mf.grids, mf.xc, ao[0] if spins == 1 else ao, hermi=1)
    V = torch.as_tensor(vmat).reshape(spins, *ao.shape[1:])
    return X.T @ V @ X, float(exc)


class Linear(Potential):
    """V = V₀ + L·(P - P₀) with L = ∂V/∂P at the ground state, assembled once; E to second order, so that it is conserved.

    Exact to first order in P - P₀, and a thousand times cheaper a step than a grid.

    Args:
        full: The potential that is linearised.
        P0: The density matrix of the ground state.

    Raises:
        InputError: If the basis is too large to write L out, or V is not written out in pairs.
    """

    def __init__(self, full: Potential, P0: Tensor) -> None:
        n = P0.shape[-1]
        if not isinstance(full, Full) or n > LINEAR_LIMIT or isinstance(full.xc, DirectXC):
            raise InputError(
                f'`fock="linear"` must have at most {LINEAR_LIMIT} basis functions (50 with a functional), got {n}; '
                'use fock="full"'
            )
        self.pairs, self.spins = full.pairs, len(P0)
        self.real, self.imaginary = full.two.matrices()
        if isinstance(full.xc, Grid):
            self.real = self.real + full.xc.kernel(P0.real, self.pairs.lower) * self.pairs.weight.repeat(self.spins)
        self.V0, self.E0 = full(P0)
        self.start = self.pairs.pack(P0)
        self.base = self.pairs.pack(self.V0)

    def __call__(self, P: Tensor) -> tuple[Tensor, float]:
        """V[P] and E[P], to first and to second order."""
        real, imaginary = self.pairs.pack(P)
        real, imaginary = real - self.start[0], imaginary - self.start[1]
        change = (self.real @ real.flatten()).reshape(self.spins, -1)
        energy = self.E0 + float((((self.base[0] + 0.5 * change) * real) @ self.pairs.weight).sum())
        if self.imaginary is None:
            return self.V0 + self.pairs.unpack(change, None), energy
        turned = (self.imaginary @ imaginary.flatten()).reshape(self.spins, -1)
        energy += float((turned * imaginary).sum())
        return self.V0 + self.pairs.unpack(change, turned), energy


class Frozen(Potential):
    """V = V₀ whatever P is: electrons that do not see each other move."""

    def __init__(self, full: Potential, P0: Tensor) -> None:
        self.P0 = P0
        self.V0, self.E0 = full(P0)

    def __call__(self, P: Tensor) -> tuple[Tensor, float]:
        """V₀, and the energy to first order."""
        return self.V0, self.E0 + float((self.V0.conj() * (P - self.P0)).real.sum())
