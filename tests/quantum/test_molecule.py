"""Molecules: Fock matrices and energies against PySCF, fixtures without it, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from residyn.errors import InputError, SolveError
from residyn.quantum import Molecule, excitations
from residyn.quantum.fixtures import make, reference
from residyn.quantum.molecule import orthonormal
from residyn.quantum.potential import Direct, Linear
from residyn.quantum.reading import read_atoms, without_file

WATER = "O 0 0 0.117790; H 0 0.755453 -0.471161; H 0 -0.755453 -0.471161"
METHYL = "C 0 0 0; H 1.079 0 0; H -0.5395 0.93444 0; H -0.5395 -0.93444 0"


def mean_field(atoms, xc, spin):
    from pyscf import dft, gto, scf

    mol = gto.M(atom=atoms, basis="6-31g", spin=spin, verbose=0)
    kind = (scf if xc == "hf" else dft).__dict__[("U" if spin else "R") + ("HF" if xc == "hf" else "KS")]
    mf = kind(mol)
    without_file(mf)
    if xc != "hf":
        mf.xc, mf.grids.level = xc, 1
    return mf


CASES = [
    (WATER, "hf", 0), (WATER, "lda", 0), (WATER, "pbe0", 0), (WATER, "camb3lyp", 0), (METHYL, "hf", 1), (METHYL, "pbe0", 1),
    pytest.param(WATER, "tpss", 0, marks=pytest.mark.slow), pytest.param(METHYL, "tpss", 1, marks=pytest.mark.slow),
]  # fmt: skip
# no linear radical: which of its degenerate orbitals is singly filled is chance, and a grid tells their energies apart by 1e-6


@pytest.mark.parametrize(("atoms", "xc", "spin"), CASES)
def test_fock_matrix_is_pyscfs(atoms, xc, spin):
    molecule = Molecule.from_xyz(atoms, "6-31g", xc, spin=spin, grid_level=1)
    noise = torch.randn(molecule.state.shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    x = molecule.state + 0.05 * noise
    X = molecule.X.to(x.dtype)
    density = (X @ molecule.density(x) @ X.T).numpy()
    density = density if spin else density[0]
    mf = mean_field(atoms, xc, spin)
    if xc != "hf":  # PySCF's functionals take real density matrices; the imaginary part meets exact exchange alone
        density = density.real.copy()
    expected = mf.get_hcore() + np.asarray(mf.get_veff(mf.mol, density))
    assert np.abs(molecule.fock(density).numpy() - expected).max() <= 1e-10
    mf.conv_tol = 1e-11
    assert molecule.energy == pytest.approx(mf.kernel(), abs=1e-7)


def test_the_ground_state_stands_still():
    molecule = Molecule.from_xyz(METHYL, "6-31g", "hf", spin=1)
    P = molecule.density(molecule.state)
    F = molecule.core + molecule.potential(P)[0]
    assert float((F @ P - P @ F).abs().max()) < 1e-10
    assert (molecule.occupied, molecule.electrons, molecule.spins) == ((5, 4), 9, 2)


@pytest.mark.parametrize("xc", ["hf", "pbe0"])
def test_the_direct_build_is_the_packed_one(xc, monkeypatch):
    from residyn.quantum import convert

    packed = Molecule.from_xyz(METHYL, "6-31g", xc, spin=1, grid_level=0)
    noise = torch.randn(packed.state.shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    P = packed.density(packed.state + 0.05 * noise)
    mf = mean_field(METHYL, xc, 1)
    if xc != "hf":
        mf.grids.level = 0
    V, energy = packed.potential(P)
    for limit in ("PACKED_LIMIT", "GRID_LIMIT"):
        with monkeypatch.context() as patch:
            patch.setattr(convert, limit, 1)
            other = convert.potential_of(mf, packed.X, 2)
        W, same = other(P)
        assert float((W - V).abs().max()) < 1e-10
        assert float(same) == pytest.approx(float(energy), abs=1e-9)
    direct = Direct(mf, packed.X, 2, (1.0, 0.0, 0.0))
    with pytest.raises(InputError, match='`fock="linear"` must have at most 100 basis functions'):
        Linear(direct, P)


@pytest.mark.parametrize("name", ["h2", "lih", "h2o"])
def test_fixtures_have_the_linear_response_of_pyscf(name):
    found = excitations(Molecule.fixture(name))
    energies, strengths = reference(name)
    # both are converged to 1e-9 or better
    assert np.abs(np.sort(energies) - found.energies.numpy()).max() < 1e-8
    assert float(found.strengths.sum()) == pytest.approx(strengths.sum(), abs=1e-7)


def test_a_fixture_can_be_made_again():
    made, stored = make("h2"), Molecule.fixture("h2")
    np.testing.assert_allclose(made["coordinates"], stored.coordinates.numpy(), atol=1e-12)
    np.testing.assert_allclose(made["overlap"], stored.overlap.numpy(), atol=1e-12)
    np.testing.assert_allclose(np.sort(made["response_energies"]), np.sort(reference("h2")[0]), atol=1e-9)


def test_fixtures_need_no_pyscf():
    code = "import sys; from residyn.quantum import *; m = Molecule.fixture('h2'); propagate(m, dt=0.1, duration=1); " \
        "stability(m, AdamsMagnus(), 0.1); sys.exit('pyscf' in sys.modules)"  # fmt: skip
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("atoms", "options", "words"),
    [
        ("none.xyz", {}, "`path` must be a file that exists, got 'none.xyz'; or give the atoms as text"),
        ("H 0 0 0;", {}, "`spin` must be odd for 1 electrons, got 0; it is the number of unpaired electrons"),
        ("H 0 0 0; H 0 0 0.1", {}, "must have its atoms apart, got H1 and H2 0.1 Å from each other"),
        ("H 0 0; H 0 0 1", {}, "must hold an element and three coordinates in Å, e.g. `O 0.0 0.0 0.117` a line, got 'H 0 0'"),
        ("H 0 0 nan; H 0 0 1", {}, "must hold finite coordinates"),
        ("Qq 0 0 0; H 0 0 1", {}, "must hold elements of the periodic table, got 'Qq'"),
        ("\n\n", {}, "must hold at least one atom, got none"),
        ("3\ncomment\nH 0 0 0\nH 0 0 0.74\n", {}, "must hold the 3 atoms that its first line says, got 2; the file is cut off"),
        ("1\n\nH 0 0 0\n1\n\nH 0 0 0\n", {}, "must hold the 1 atoms that its first line says, got 3; more frames follow"),
        ("H 0 0 0; H 0 0 0.74", {"basis": "7-99g"}, "`basis` must be one that PySCF has for these elements, got '7-99g'"),
        ("H 0 0 0; H 0 0 0.74", {"xc": "pbe99"}, "`xc` must be a functional that libxc has, got 'pbe99'"),
        ("H 0 0 0; H 0 0 0.74", {"xc": "wb97x-v"}, "`xc` must be without non-local correlation, got 'wb97x-v'"),
        (
            "H 0 0 0; H 0 0 0.74",
            {"xc": "b3lyp-d3bj"},
            "`xc` must be without a dispersion term, got 'b3lyp-d3bj'; such a term moves",
        ),
        (
            "O 0 0 0; H 0 0 0.97; H 0 0.9 -0.3",
            {"basis": "gth-dzvp"},
            "got 'gth-dzvp', which leaves out the core of O; set basis",
        ),
        ("O 0 0 0; H 0 0 0.97; H 0 0.9 -0.3", {"basis": "ccecpccpvdz"}, "got 'ccecpccpvdz', which leaves out the core of O"),
        ("H 0 0 0; H 0 0 0.74", {"xc": "wb97x-d"}, "`xc` must be a functional that PySCF has whole, got 'wb97x-d'"),
        ("H 0 0 0; H 0 0 0.74", {"xc": "mgga_x_br89_explicit"}, "`xc` must not take the Laplacian of the density, got 'mgga"),
        ("H 0 0 0; H 0 0 0.74", {"charge": 2}, "`charge` must leave electrons, got 2"),
        ("H 0 0 0; H 0 0 0.74", {"charge": 0.5}, "`charge` must be a whole number, got 0.5"),
        ("H 0 0 0; H 0 0 0.74", {"spin": 4}, "`spin` must lie in 0 … 2 (unpaired electrons), got 4"),
        ("H 0 0 0; H 0 0 0.74", {"spin": 1}, "`spin` must be even for 2 electrons, got 1"),
    ],
)
def test_input_errors(atoms, options, words):
    with pytest.raises(InputError) as error:
        Molecule.from_xyz(atoms, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("basis", "core"), [("lanl2dz", 46), ("def2-svp", 28)])
def test_a_basis_brings_its_core_potential(basis, core):
    from pyscf import gto, scf

    atoms = "H 0 0 0; I 0 0 1.61"
    mol = gto.M(atom=atoms, basis=basis, ecp={"I": basis}, verbose=0)
    assert mol.nelectron == 54 - core
    truth = scf.RHF(mol).run(conv_tol=1e-11).e_tot
    found = Molecule.from_xyz(atoms, basis=basis, xc="hf")
    assert float(found.energy) == pytest.approx(truth, abs=1e-9)  # both converged to 1e-10 hartree or further


@pytest.mark.parametrize("basis", ["sto-3g", "3-21g", "6-31g", "cc-pvdz", "def2-svp", "minao", "dz"])
def test_bases_for_all_electrons_are_taken_for_that(basis):
    import pyscf.gto

    from residyn.quantum.reading import _build

    for element in ("H", "He", "Li", "C", "F", "Na", "Cl"):
        try:
            pyscf.gto.basis.load(basis, element)
        except Exception:  # noqa: BLE001 - not every basis has every element
            continue
        _build(pyscf.gto, [(element, (0.0, 0.0, 0.0))], basis, 0, pyscf.gto.charge(element) % 2)


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / "x.xyz"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="`path` must be an .xyz file that can be read"):
        Molecule.from_xyz(path)
    path.write_bytes(b"1" * 10_000_001)
    with pytest.raises(InputError, match="`path` must be an .xyz file of a molecule, got .* of more than 10 MB"):
        Molecule.from_xyz(path)


def test_xyz_file_and_text_are_the_same(tmp_path):
    path = tmp_path / "water.xyz"
    path.write_text("3\nwater\n" + "\n".join(WATER.split("; ")) + "\n")
    assert read_atoms(path) == (read_atoms(WATER)[0], "water")
    assert read_atoms("1 0 0 0; H 0 0 1")[0][0][0] == "H"
    assert read_atoms("He 0 0 -1.5e0") == ([("He", (0.0, 0.0, -1.5))], "molecule")
    path.write_text("\ufeff1\n\nHe 0 0 0\n", "utf-8")  # with the mark that some editors put first
    assert read_atoms(path)[0] == [("He", (0.0, 0.0, 0.0))]


def test_no_convergence_is_said():
    with pytest.raises(
        SolveError, match=r"the self-consistent field of molecule \(hf/6-31g\) did not converge in 1 cycles; check"
    ):
        Molecule.from_xyz(WATER, max_cycle=1)
    mf = mean_field(WATER, "hf", 0)
    with pytest.raises(SolveError, match=r"of the RHF object has not converged; call mf.kernel\(\) first"):
        Molecule.from_pyscf(mf)


def test_linear_dependence_is_said():
    with pytest.raises(InputError, match="`basis` must be linearly independent, got an overlap with eigenvalue"):
        orthonormal(np.ones((2, 2)))


def test_other_objects_are_refused():
    from pyscf import gto, scf

    mol = gto.M(atom=METHYL, basis="6-31g", spin=1, verbose=0)
    other = scf.ROHF(mol)
    without_file(other)
    with pytest.raises(InputError, match="`mf` must be an RHF, UHF, RKS or UKS object of PySCF for a molecule, got ROHF"):
        Molecule.from_pyscf(other)
    with pytest.raises(InputError, match="got int; use mf.to_uks"):
        Molecule.from_pyscf(3)
    mf = mean_field(WATER, "hf", 0)
    mf.kernel()
    good = mf.mo_occ
    mf.mo_occ = good * 0.5
    with pytest.raises(InputError, match="`mf` must have whole occupations, got fractions; leave smearing off"):
        Molecule.from_pyscf(mf)
    mf.mo_occ, mf.mo_coeff = good, mf.mo_coeff * 1j
    with pytest.raises(InputError, match="`mf` must have real orbitals, got complex ones"):
        Molecule.from_pyscf(mf)
    solvent = mean_field(WATER, "hf", 0).PCM()
    solvent.kernel()
    with pytest.raises(InputError, match="`mf` must be a molecule alone, got one with a solvent"):
        Molecule.from_pyscf(solvent)


def test_unknown_fixtures_shapes_and_models():
    with pytest.raises(InputError, match="`name` must be one of h2, lih, h2o, got 'ch4'; others come with Molecule.from_xyz"):
        Molecule.fixture("ch4")
    molecule = Molecule.fixture("h2")
    with pytest.raises(InputError, match=r"`density` must be of shape \(4, 4\), got \(2, 2\)"):
        molecule.fock(torch.eye(2))
    with pytest.raises(InputError, match="`fock` must be full, linear or frozen, got 'half'"):
        molecule.model("half")


def test_an_unstable_ground_state_is_named():
    # restricted H2 stretched far breaks its spin only; a hydrogen ring of two electrons with a hole does break
    from residyn.quantum.response import _unstable

    assert "the ground state is not a minimum: its response has the negative eigenvalue -1.00e-01" in str(_unstable(-0.1))
