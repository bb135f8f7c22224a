"""The two-electron part of the Fock matrix, V[P] and its energy: whole, linear about the ground state, or frozen."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.quantum.grid import Grid
from residyn.quantum.packed import Packed

LINEAR_LIMIT = 100
"""Basis functions up to which the linear Fock matrix is written out (0.2 GB a spin at the limit)."""


class Potential(abc.ABC):
    """V[P], `(…, s, n, n)` complex Hermitian, and the energy it stands for, `(…)`; P is the spin (or total) density matrix."""

    @abc.abstractmethod
    def __call__(self, P: Tensor) -> tuple[Tensor, Tensor]:
        """V[P] and E[P], without the core's part."""


def _each(build: Callable[[Tensor], tuple[Tensor, float]], P: Tensor) -> tuple[Tensor, Tensor]:
    """What takes one density matrix, on each of `(…, s, n, n)`."""
    found = [build(p) for p in P.reshape(-1, *P.shape[-3:])]
    matrices = torch.stack([matrix for matrix, _ in found]).reshape(P.shape)
    return matrices, torch.tensor([energy for _, energy in found], dtype=torch.float64).reshape(P.shape[:-3])


class Full(Potential):
    """V = J - c·K + V_xc with the integrals written out; V_xc on the cached grid, or by PySCF above its size.

    Args:
        two: Coulomb and exchange.
        xc: What gives V_xc and E_xc of a real density matrix, or `None`.
    """

    def __init__(self, two: Packed, xc: Grid | DirectXC | None) -> None:
        self.two, self.xc, self.pairs = two, xc, two.pairs

    def __call__(self, P: Tensor) -> tuple[Tensor, Tensor]:
        """V[P] and E[P]."""
        real, imaginary = self.pairs.pack(P)
        symmetric, antisymmetric = self.two(real, imaginary)
        energy = 0.5 * ((symmetric * real) @ self.pairs.weight).sum(-1)
        if antisymmetric is not None:
            energy = energy + (antisymmetric * imaginary).flatten(-2).sum(-1)
        V = self.pairs.unpack(symmetric, antisymmetric)
        if self.xc is None:
            return V, energy
        vxc, exc = _each(self.xc, P.real)
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

    def __call__(self, P: Tensor) -> tuple[Tensor, Tensor]:
        """V[P] and E[P]."""
        return _each(self._one, P)

    def _one(self, P: Tensor) -> tuple[Tensor, float]:
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
        self.start = self.pairs.flat(P0)
        base, lower, s = self.pairs.flat(self.V0), len(self.pairs.lower), self.spins
        weight = torch.cat([self.pairs.weight, torch.full((base.shape[-1] // s - lower,), 2.0, dtype=torch.float64)]).repeat(s)
        self.slope, self.weight = base * weight, weight
        # one matrix for both parts, transposed: a row of it for each number in P, a column for each in V
        self.both = torch.zeros(s, len(weight) // s, s, len(weight) // s, dtype=torch.float64)
        self.both[:, :lower, :, :lower] = self.real.T.reshape(s, lower, s, lower)
        if self.imaginary is not None:
            rest = len(weight) // s - lower
            self.both[:, lower:, :, lower:] = self.imaginary.T.reshape(s, rest, s, rest)
        self.both = self.both.reshape(len(weight), len(weight))

    def __call__(self, P: Tensor) -> tuple[Tensor, Tensor]:
        """V[P] and E[P], to first and to second order."""
        change = self.pairs.flat(P) - self.start  # (…, numbers)
        answer = change @ self.both
        energy = self.E0 + (change * torch.addcmul(self.slope, answer, self.weight, value=0.5)).sum(-1)
        return self.V0 + self.pairs.whole(answer, self.spins), energy


class Frozen(Potential):
    """V = V₀ whatever P is: electrons that do not see each other move."""

    def __init__(self, full: Potential, P0: Tensor) -> None:
        self.P0 = P0
        self.V0, self.E0 = full(P0)

    def __call__(self, P: Tensor) -> tuple[Tensor, Tensor]:
        """V₀, and the energy to first order."""
        energy = self.E0 + (self.V0.conj() * (P - self.P0)).real.flatten(-3).sum(-1)
        return self.V0.expand(P.shape), energy
