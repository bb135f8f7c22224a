"""Atoms from a file or a text, checked, and their ground state by PySCF."""

from __future__ import annotations

import math
import os
import re
import warnings
from pathlib import Path
from typing import Any

from residyn.errors import InputError, SolveError, require
from residyn.quantum.threads import threads_for
from residyn.results import Outcome

CLOSEST = 0.25
"""Å; no two nuclei of a molecule lie closer."""
_MOST_BYTES = 10_000_000
_STEEP = 1.5
MOST_ATOMS = 2000
"""More than can be propagated with dense matrices of their basis functions."""
_ATOM = "an element and three coordinates in Å, e.g. `O 0.0 0.0 0.117`"

Atoms = list[tuple[str, tuple[float, float, float]]]


def read_atoms(source: str | os.PathLike[str]) -> tuple[Atoms, str]:
    """Atoms (element, position in Å) and a name.

    Args:
        source: The path of an .xyz file, or a text: several lines, atoms apart by semicolons, or one atom.

    Raises:
        InputError: If a line is no atom, or two atoms lie on top of each other.

    >>> read_atoms("H 0 0 0; H 0 0 0.74")[0][1]
    ('H', (0.0, 0.0, 0.74))
    """
    word = os.fspath(source)
    if "\n" in word or ";" in word or _one_atom(word):
        text, name = word.replace(";", "\n"), "molecule"
    else:
        text, name = _read(word), Path(word).stem
    lines = [line.strip() for line in text.splitlines()]
    if lines and lines[0].isdecimal():
        lines = _counted(lines, name)
    atoms = [_atom(line, i, name) for i, line in enumerate(lines, 1) if line]
    if not atoms:
        raise InputError(f"`{name}` must hold at least one atom, got none; a line is {_ATOM}")
    if len(atoms) > MOST_ATOMS:
        raise InputError(
            f"`{name}` must hold at most {MOST_ATOMS} atoms, got {len(atoms)}; cut the molecule out of what is round it"
        )
    _apart(atoms, name)
    return atoms, name


def _one_atom(word: str) -> bool:
    """Whether a line is an atom and no path: `He 0 0 0`."""
    parts = word.split()
    return len(parts) == 4 and all(re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", part, re.IGNORECASE) for part in parts[1:])


def _read(path: str) -> str:
    try:
        if Path(path).stat().st_size > _MOST_BYTES:
            raise InputError(f"`path` must be an .xyz file of a molecule, got {path!r} of more than 10 MB")
        return Path(path).read_text("utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"`path` must be a file that exists, got {path!r}; or give the atoms as text, separated by ;"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`path` must be an .xyz file that can be read, got {path!r}: {error}") from None


def _counted(lines: list[str], name: str) -> list[str]:
    """The atoms' lines below a header of two: their number, and a comment."""
    count = int(lines[0])
    body = [line for line in lines[2:] if line]
    if len(body) != count:
        more = "more frames follow" if len(body) > count else "the file is cut off"
        raise InputError(f"`{name}` must hold the {count} atoms that its first line says, got {len(body)}; {more}")
    return body


def _atom(line: str, number: int, name: str) -> tuple[str, tuple[float, float, float]]:
    parts = line.replace(",", " ").split()
    try:
        symbol, (x, y, z) = parts[0], map(float, parts[1:4])
    except ValueError:
        raise InputError(f"`{name}` must hold {_ATOM} a line, got {line[:60]!r} as line {number}") from None
    if not all(map(math.isfinite, (x, y, z))):
        raise InputError(f"`{name}` must hold finite coordinates, got {line[:60]!r} as line {number}")
    elements = require("pyscf.data.elements", "chem")
    symbol = elements.ELEMENTS[int(symbol)] if symbol.isdecimal() and 0 < int(symbol) < len(elements.ELEMENTS) else symbol
    if symbol.capitalize() not in elements.ELEMENTS[1:]:
        raise InputError(f"`{name}` must hold elements of the periodic table, got {symbol[:20]!r} as line {number}")
    return symbol.capitalize(), (x, y, z)


def _apart(atoms: Atoms, name: str) -> None:
    for i, (a, p) in enumerate(atoms):
        for j, (b, q) in enumerate(atoms[:i]):
            distance = math.dist(p, q)
            if distance < CLOSEST:
                raise InputError(
                    f"`{name}` must have its atoms apart, got {b}{j + 1} and {a}{i + 1} {distance:.3g} Å from each other; "
                    "coordinates are in Å"
                )


def ground_state(
    source: str | os.PathLike[str], basis: str, xc: str, charge: int, spin: int, grid_level: int, max_cycle: int
) -> tuple[Any, str]:
    """A converged mean-field object of PySCF, and the molecule's name; see `Molecule.from_xyz`."""
    from residyn.quantum.convert import local_only

    gto, scf, dft = (require(f"pyscf.{part}", "chem") for part in ("gto", "scf", "dft"))
    atoms, name = read_atoms(source)
    _electrons(atoms, charge, spin)
    mol = _build(gto, atoms, basis, charge, spin)
    if xc.lower() == "hf":
        mf = scf.UHF(mol) if spin else scf.RHF(mol)
    else:
        _functional(dft, xc)
        mf = dft.UKS(mol) if spin else dft.RKS(mol)
        mf.xc = xc
        mf.grids.level = grid_level
    without_file(mf)
    local_only(mf)
    mf.conv_tol, mf.max_cycle = 1e-10, max_cycle  # `settle` goes further
    with warnings.catch_warnings(), threads_for(mol.nao):
        warnings.simplefilter("ignore")  # PySCF warns of what is checked here
        mf.kernel()
        if not mf.converged:  # second order, which is slower and surer
            mf = _second_order(mf, max_cycle)
    if not mf.converged:
        raise SolveError(
            Outcome(
                "root_failed",
                f"the self-consistent field of {name} ({xc}/{basis}) did not converge in {max_cycle} cycles",
                "check geometry, charge and spin, or converge it in PySCF and use Molecule.from_pyscf",
            )
        )
    return mf, name


def without_file(mf: Any) -> None:
    """Close the temporary file that PySCF opens for every mean-field object; nothing is to be kept in it."""
    mf.chkfile = None
    file = getattr(mf, "_chkfile", None)
    if file is not None:
        file.close()


def _second_order(mf: Any, max_cycle: int) -> Any:
    newton = mf.newton()
    newton.max_cycle = max_cycle
    newton.kernel(mf.mo_coeff, mf.mo_occ)
    mf.mo_coeff, mf.mo_occ, mf.mo_energy = newton.mo_coeff, newton.mo_occ, newton.mo_energy
    mf.converged, mf.e_tot = newton.converged, newton.e_tot
    return mf


def _electrons(atoms: Atoms, charge: int, spin: int) -> None:
    elements = require("pyscf.data.elements", "chem")
    for key, value in (("charge", charge), ("spin", spin)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"`{key}` must be a whole number, got {value!r}")
    count = sum(elements.ELEMENTS.index(symbol) for symbol, _ in atoms) - charge
    if count < 1:
        raise InputError(f"`charge` must leave electrons, got {charge}: none of them would be left")
    if spin < 0 or spin > count:
        raise InputError(f"`spin` must lie in 0 … {count} (unpaired electrons), got {spin}")
    if (count - spin) % 2:
        word = "odd" if count % 2 else "even"
        raise InputError(f"`spin` must be {word} for {count} electrons, got {spin}; it is the number of unpaired electrons")


def _build(gto: Any, atoms: Atoms, basis: str, charge: int, spin: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            core = _cores(gto, atoms, basis)
            mol = gto.M(atom=atoms, basis=basis, ecp=core, charge=charge, spin=spin, unit="Angstrom", verbose=0)
    except Exception as error:  # noqa: BLE001 - PySCF has many ways to say that it has no such basis
        text = " ".join(str(error).split())[:120]
        raise InputError(f"`basis` must be one that PySCF has for these elements, got {basis!r}: {text}; e.g. 6-31g") from None
    _complete(mol, basis)
    return mol


def _complete(mol: Any, basis: str) -> None:
    """Refuse a basis for valence electrons whose core potential is not there: PySCF would put all electrons into it.

    A basis for all electrons has primitives for its 1s orbital, e^(-Zr): STO-3G's steepest exponent is 1.8 Z², of others more.
    """
    for i in range(mol.natm):
        charge = int(mol.atom_charge(i))
        shells = [s for s in range(mol.nbas) if mol.bas_atom(s) == i]
        steepest = max((float(mol.bas_exp(s).max()) for s in shells), default=0.0)
        if charge > 2 and mol.atom_nelec_core(i) == 0 and steepest < _STEEP * charge**2:
            raise InputError(
                f"`basis` must hold all electrons or have a core potential of its own name, got {basis!r}, which leaves out "
                f"the core of {mol.atom_pure_symbol(i)}; set basis and ecp in PySCF and use Molecule.from_pyscf"
            )


def _cores(gto: Any, atoms: Atoms, basis: str) -> dict[str, str]:
    """Elements whose core a basis leaves to an effective potential of its own name: iodine in lanl2dz or def2-svp."""
    found = {}
    for element in {symbol for symbol, _ in atoms}:
        try:
            potential = gto.basis.load_ecp(basis, element)
        except Exception:  # noqa: BLE001 - PySCF has many ways to say that it has none
            continue
        if potential:
            found[element] = basis
    return found


def _functional(dft: Any, xc: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = dft.libxc.parse_xc(xc)
            dft.libxc.xc_type(xc)
    except Exception:  # noqa: BLE001 - PySCF has many ways to say that it has no such functional
        parsed = None
    if parsed is None or (not parsed[1] and not any(parsed[0])):
        raise InputError(f"`xc` must be a functional that libxc has, got {xc!r}; e.g. pbe0, b3lyp, lda, or hf for Hartree–Fock")
