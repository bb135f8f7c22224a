"""From PySCF's mean-field objects: integrals in an orthonormal basis, and which way V[P] is built."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError, SolveError, require
from residyn.quantum.grid import Grid
from residyn.quantum.molecule import Molecule, orthonormal, settle
from residyn.quantum.packed import Packed
from residyn.quantum.potential import Direct, DirectXC, Full, Potential
from residyn.quantum.threads import threads_for
from residyn.results import Outcome

PACKED_LIMIT = 64
"""Basis functions up to which two-electron integrals are kept."""
GRID_LIMIT = 50
"""Basis functions up to which their values on the grid are kept."""


def from_pyscf(mf: Any) -> Molecule:
    """See `Molecule.from_pyscf`."""
    _check(mf)
    spins = 2 if np.ndim(mf.mo_occ) == 2 else 1
    mol = mf.mol
    with threads_for(mol.nao):
        overlap = mf.get_ovlp()
        X = orthonormal(overlap)
        core = X.T @ torch.from_numpy(np.ascontiguousarray(mf.get_hcore())) @ X
        with mol.with_common_origin((0.0, 0.0, 0.0)):
            position = torch.from_numpy(mol.intor_symmetric("int1e_r", comp=3))
        potential = potential_of(mf, X, spins)
        orbitals, occupied = _orbitals(mf, X, overlap, spins)
        orbitals, energies, electronic = settle(core, potential, orbitals, occupied, 3 - spins)
    nuclear = float(mf.energy_nuc())
    return Molecule(
        name=_formula(mol),
        elements=tuple(mol.atom_pure_symbol(i) for i in range(mol.natm)),
        coordinates=torch.from_numpy(np.array(mol.atom_coords(), dtype=np.float64)),
        charges=torch.from_numpy(np.array(mol.atom_charges(), dtype=np.float64)),
        basis=mol.basis if isinstance(mol.basis, str) else "own",
        xc=str(mf.xc).lower() if hasattr(mf, "xc") else "hf",
        occupied=occupied,
        weight=3 - spins,
        X=X,
        overlap=torch.from_numpy(np.ascontiguousarray(overlap)),
        core=core,
        position=X.T @ position @ X,
        orbitals=orbitals,
        orbital_energies=energies,
        nuclear_energy=nuclear,
        energy=electronic + nuclear,
        potential=potential,
    )


def potential_of(mf: Any, X: Tensor, spins: int) -> Potential:
    """V[P]: written out where it fits, by PySCF where it does not."""
    mol, n = mf.mol, X.shape[1]
    hyb, lr, omega = _shares(mf)
    if n > PACKED_LIMIT:
        return Direct(mf, X, spins, (hyb, lr, omega))
    coulomb = _integrals(mf, X)
    exchange = None if not hyb and not lr else hyb * coulomb
    if lr and exchange is not None:
        with mol.with_range_coulomb(omega):
            exchange = exchange + lr * _transform(mol.intor("int2e"), X)
    xc: Grid | DirectXC | None = None
    if hasattr(mf, "xc") and mf._numint._xc_type(mf.xc) != "HF":
        xc = Grid(mf, X, spins) if n <= GRID_LIMIT else DirectXC(mf, X, spins)
    return Full(Packed(coulomb, exchange, spins), xc)


def _check(mf: Any) -> None:
    scf = require("pyscf.scf", "chem")
    kind = type(mf).__name__
    if not isinstance(mf, scf.hf.SCF) or isinstance(mf, (scf.rohf.ROHF, scf.ghf.GHF)) or hasattr(mf, "kpt"):
        raise InputError(f"`mf` must be an RHF, UHF, RKS or UKS object of PySCF for a molecule, got {kind}; use mf.to_uks()")
    if getattr(mf, "mo_coeff", None) is None or not mf.converged:
        raise SolveError(
            Outcome(
                "root_failed",
                f"the self-consistent field of the {kind} object has not converged",
                "call mf.kernel() first, with more cycles (mf.max_cycle) or as mf.newton()",
            )
        )
    if np.iscomplexobj(mf.mo_coeff):
        raise InputError("`mf` must have real orbitals, got complex ones; start from a real guess")
    if not np.isin(mf.mo_occ, (0, 2) if np.ndim(mf.mo_occ) == 1 else (0, 1)).all():
        raise InputError("`mf` must have whole occupations, got fractions; leave smearing off")
    if getattr(mf, "with_solvent", None) is not None:
        raise InputError("`mf` must be a molecule alone, got one with a solvent; leave the solvent model off")
    local_only(mf)


def local_only(mf: Any) -> None:
    """Refuse functionals that a grid of densities, gradients and τ does not give whole.

    Raises:
        InputError: If it has non-local correlation, a dispersion term, or takes the Laplacian of the density.
    """
    if not hasattr(mf, "xc"):
        return
    dispersion, dft = require("pyscf.scf.dispersion", "chem"), require("pyscf.dft", "chem")
    try:
        term = dispersion.parse_dft(mf.xc)[2] or getattr(mf, "disp", None)
    except NotImplementedError:
        raise InputError(
            f"`xc` must be a functional that PySCF has whole, got {mf.xc!r}; take one without dispersion"
        ) from None
    if term:
        raise InputError(f"`xc` must be without a dispersion term, got {mf.xc!r}; such a term moves no electrons: leave it out")
    if mf.do_nlc():
        raise InputError(f"`xc` must be without non-local correlation, got {mf.xc!r}; take a functional without VV10")
    if dft.libxc.needs_laplacian(mf.xc):
        raise InputError(f"`xc` must not take the Laplacian of the density, got {mf.xc!r}; take another meta-GGA, e.g. tpss")


def _shares(mf: Any) -> tuple[float, float, float]:
    """Exact exchange, what the long range has more of it, and ω."""
    if not hasattr(mf, "xc"):
        return 1.0, 0.0, 0.0
    omega, alpha, hyb = mf._numint.rsh_and_hybrid_coeff(mf.xc, spin=mf.mol.spin)
    return float(hyb), float(alpha - hyb) if omega else 0.0, float(omega)


def _integrals(mf: Any, X: Tensor) -> np.ndarray:
    """(ij|kl) in the orthonormal basis, `(n, n, n, n)`; those of density fitting where the object has it."""
    fitted = getattr(mf, "with_df", None)
    if fitted:
        ao2mo = require("pyscf.ao2mo", "chem")
        return _transform(ao2mo.restore(1, fitted.get_eri(), X.shape[0]), X)
    return _transform(mf.mol.intor("int2e"), X)


def _transform(eri: np.ndarray, X: Tensor) -> np.ndarray:
    n = X.shape[0]
    x, g = X, torch.from_numpy(np.ascontiguousarray(eri)).reshape(n, -1)
    for _ in range(4):  # each turn transforms the first index and moves it to the end
        g = (x.T @ g.reshape(n, -1)).T.contiguous()
    found: np.ndarray = g.reshape(X.shape[1], X.shape[1], X.shape[1], X.shape[1]).numpy()
    return found


def _orbitals(mf: Any, X: Tensor, overlap: np.ndarray, spins: int) -> tuple[Tensor, tuple[int, ...]]:
    """Orbitals in the orthonormal basis, occupied ones first."""
    S = torch.from_numpy(np.ascontiguousarray(overlap))
    coefficients = torch.from_numpy(np.array(mf.mo_coeff, dtype=np.float64)).reshape(spins, *np.shape(mf.mo_coeff)[-2:])
    filled = torch.from_numpy(np.array(mf.mo_occ, dtype=np.float64)).reshape(spins, -1) > 0
    found = []
    for c, mask in zip(coefficients, filled, strict=True):
        C = X.T @ S @ c
        found.append(torch.cat([C[:, mask], C[:, ~mask]], 1))
    return torch.stack(found), tuple(int(mask.sum()) for mask in filled)


def _formula(mol: Any) -> str:
    """Hill's formula."""
    symbols = [mol.atom_pure_symbol(i) for i in range(mol.natm)]
    counts = {symbol: symbols.count(symbol) for symbol in symbols}
    order = sorted(counts, key=lambda s: (s != "C", s != "H", s) if "C" in counts else (False, False, s))
    return "".join(s + (str(counts[s]) if counts[s] > 1 else "") for s in order)
