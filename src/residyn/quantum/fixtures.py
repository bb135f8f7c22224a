"""Stored molecules, Hartree–Fock in 6-31G: integrals, orbitals, and PySCF's linear response beside them.

`python -m residyn.quantum.fixtures` makes the files again, with PySCF.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from residyn.errors import check_choice
from residyn.quantum.convert import _transform
from residyn.quantum.molecule import Molecule, orthonormal, settle
from residyn.quantum.packed import Packed
from residyn.quantum.potential import Full
from residyn.quantum.threads import threads_for

FOLDER = Path(__file__).parent / "data"
GEOMETRIES = {
    "h2": "H 0 0 -0.37; H 0 0 0.37",
    "lih": "Li 0 0 0; H 0 0 1.5957",
    "h2o": "O 0 0 0.117790; H 0 0.755453 -0.471161; H 0 -0.755453 -0.471161",
}


def load(name: str) -> Molecule:
    """See `Molecule.fixture`."""
    stored = _read(name)
    X = orthonormal(stored["overlap"])
    with threads_for(X.shape[0]):
        coulomb = _transform(_unpacked(stored["eri"], X.shape[0]), X)
        potential = Full(Packed(coulomb, coulomb, 1), None)
        core = X.T @ torch.from_numpy(stored["core"]) @ X
        S = torch.from_numpy(stored["overlap"])
        C = (X.T @ S @ torch.from_numpy(stored["orbitals"]))[None]
        occupied = (int(stored["occupied"]),)
        orbitals, energies, electronic = settle(core, potential, C, occupied, 2)
    nuclear = float(stored["nuclear_energy"])
    return Molecule(
        name=name.upper(),
        elements=tuple(str(symbol) for symbol in stored["elements"]),
        coordinates=torch.from_numpy(stored["coordinates"]),
        charges=torch.from_numpy(stored["charges"]),
        basis="6-31g",
        xc="hf",
        occupied=occupied,
        weight=2,
        X=X,
        overlap=S,
        core=core,
        position=X.T @ torch.from_numpy(stored["position"]) @ X,
        orbitals=orbitals,
        orbital_energies=energies,
        nuclear_energy=nuclear,
        energy=electronic + nuclear,
        potential=potential,
    )


def reference(name: str) -> tuple[np.ndarray, np.ndarray]:
    """PySCF's linear response of a fixture: excitation energies (hartree) and oscillator strengths, stored with it.

    Args:
        name: `"h2"`, `"lih"` or `"h2o"`.

    Raises:
        InputError: If there is no such fixture.
    """
    stored = _read(name)
    return stored["response_energies"], stored["response_strengths"]


def _read(name: str) -> dict[str, np.ndarray]:
    path = FOLDER / f"{str(name).lower()}.npz"
    check_choice("name", str(name).lower(), GEOMETRIES, "others come with Molecule.from_xyz")
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _unpacked(packed: np.ndarray, n: int) -> np.ndarray:
    """(ij|kl), `(n, n, n, n)`, from its eightfold-unique part."""
    i, j = np.tril_indices(n)
    pair = np.zeros((n, n), dtype=np.int64)
    pair[i, j] = pair[j, i] = np.arange(len(i))
    p, q = pair[:, :, None, None], pair[None, None]
    high, low = np.maximum(p, q), np.minimum(p, q)
    return packed[high * (high + 1) // 2 + low]


def make(name: str) -> dict[str, Any]:
    """What a file holds, computed with PySCF."""
    from pyscf import tdscf

    from residyn.quantum.reading import ground_state

    mf, _ = ground_state(GEOMETRIES[name], "6-31g", "hf", 0, 0, 3, 100)
    mol = mf.mol
    mf.conv_tol, mf.conv_tol_grad = 1e-13, 1e-9
    mf.kernel(mf.make_rdm1())
    td = tdscf.TDHF(mf)
    occupied = int((mf.mo_occ > 0).sum())
    td.nstates, td.conv_tol = occupied * (mol.nao - occupied), 1e-10
    td.kernel()
    with mol.with_common_origin((0.0, 0.0, 0.0)):
        position = mol.intor_symmetric("int1e_r", comp=3)
    return {
        "elements": np.array([mol.atom_pure_symbol(i) for i in range(mol.natm)]),
        "coordinates": mol.atom_coords(),
        "charges": mol.atom_charges().astype(np.float64),
        "overlap": mf.get_ovlp(),
        "core": mf.get_hcore(),
        "position": position,
        "eri": mol.intor("int2e", aosym="s8"),
        "orbitals": np.asarray(mf.mo_coeff),
        "occupied": np.array(occupied),
        "nuclear_energy": np.array(mf.energy_nuc()),
        "response_energies": np.asarray(td.e),
        "response_strengths": np.asarray(td.oscillator_strength()),
    }


def write(folder: Path = FOLDER) -> None:
    """Make all files anew; equal content gives equal files, as no time is written into them."""
    folder.mkdir(exist_ok=True)
    for name in GEOMETRIES:
        with zipfile.ZipFile(folder / f"{name}.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for key, value in make(name).items():
                with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w") as file:
                    np.lib.format.write_array(file, np.asarray(value, order="C"), allow_pickle=False)


if __name__ == "__main__":
    write()
