"""Linear response, stability and spectra: against PySCF, closed forms, and each other."""

import importlib
import math

import numpy as np
import pytest
import torch

from residyn.errors import InputError, SolveError
from residyn.quantum import (
    MMUT,
    AdamsMagnus,
    Molecule,
    absorption,
    excitations,
    propagate,
    richardson,
    stability,
)
from residyn.quantum.inversion import harmonic_inversion
from residyn.quantum.pade import fourier, pade
from residyn.quantum.reading import without_file
from residyn.quantum.response import _unstable, matrices
from residyn.schemes import ETRS, RK4, Euler, ExponentialMidpoint, ExtrapolatedMidpoint

WATER = "O 0 0 0.117790; H 0 0.755453 -0.471161; H 0 -0.755453 -0.471161"
METHYL = "C 0 0 0; H 1.079 0 0; H -0.5395 0.93444 0; H -0.5395 -0.93444 0"
FORMALDEHYDE = "C 0 0 -0.53; O 0 0 0.68; H 0 0.94 -1.11; H 0 -0.94 -1.11"


def pyscf_response(atoms, xc, spin, states):
    from pyscf import dft, gto, scf, tdscf

    mol = gto.M(atom=atoms, basis="6-31g", spin=spin, verbose=0)
    kind = (scf if xc == "hf" else dft).__dict__[("U" if spin else "R") + ("HF" if xc == "hf" else "KS")]
    mf = kind(mol)
    without_file(mf)
    if xc != "hf":
        mf.xc, mf.grids.level = xc, 1
    mf.conv_tol = 1e-11
    mf.kernel()
    td = (tdscf.TDHF if xc == "hf" else tdscf.TDDFT)(mf)
    td.nstates, td.conv_tol = states, 1e-9
    td.kernel()
    return td.e * 27.211386245988, td.oscillator_strength()


def three(molecule, **options):
    return [propagate(molecule, kick=row, fock="linear", **options) for row in (1e-5 * np.eye(3)).tolist()]


@pytest.fixture(scope="module")
def water():
    return Molecule.fixture("h2o")


@pytest.fixture(scope="module")
def runs(water):
    return three(water, dt=0.1, duration=200.0)


def matched(peaks, energies, strengths, top):
    """Bright lines below an energy (degenerate ones together) beside the peaks nearest to them: errors in eV and in parts."""
    errors = []
    for energy in sorted({round(float(e), 3) for e, f in zip(energies, strengths, strict=True) if e < top and f > 1e-3}):
        group = np.abs(np.asarray(energies) - energy) < 2e-3
        strength = float(np.asarray(strengths)[group].sum())
        near = min(peaks, key=lambda p: abs(p.energy_ev - energy))
        exact = float(np.asarray(energies)[group].mean())
        errors.append((abs(near.energy_ev - exact), abs(near.strength / strength - 1)))
    return np.array(errors)


@pytest.mark.parametrize("atoms, xc, spin", [(METHYL, "hf", 1), (WATER, "pbe0", 0)])
def test_excitations_are_pyscfs(atoms, xc, spin):
    energies, strengths = pyscf_response(atoms, xc, spin, 6)
    found = excitations(Molecule.from_xyz(atoms, xc=xc, spin=spin, grid_level=1))
    assert np.abs(found.energies_ev[:6].numpy() - energies).max() < 1e-5
    assert np.abs(found.strengths[:6].numpy() - strengths).max() < 1e-5


def test_an_unstable_ground_state_is_named():
    assert "the ground state is not a minimum: its response has the negative eigenvalue -1.00e-01" in str(_unstable(-0.1))
    # equal orbitals for both spins of stretched lithium hydride with its spin channels apart: not a minimum
    stretched = Molecule.from_xyz("H 0 0 0; H 0 0 3.0")
    open_shell = stretched.fock(stretched.X @ stretched.density(stretched.state)[0].real @ stretched.X.T)
    assert bool(open_shell.isfinite().all().item())
    from pyscf import gto, scf

    mf = scf.UHF(gto.M(atom="H 0 0 0; H 0 0 3.0", basis="6-31g", verbose=0))
    without_file(mf)
    closed = scf.RHF(mf.mol)
    without_file(closed)
    closed.kernel()
    mf.kernel(np.stack([closed.make_rdm1() / 2] * 2))
    with pytest.raises(SolveError, match="the ground state is not a minimum"):
        excitations(Molecule.from_pyscf(mf))


def test_too_large_molecules_are_refused(monkeypatch, water):
    response, module = (importlib.import_module(f"residyn.quantum.{name}") for name in ("response", "stability"))
    monkeypatch.setattr(response, "LIMIT", 10)
    with pytest.raises(InputError, match="`molecule` must have at most 10 pairs of orbitals for dense linear response, got 40"):
        matrices(water)
    monkeypatch.setattr(module, "LIMIT", 10)
    with pytest.raises(InputError, match="`molecule` must have at most 10 pairs of orbitals, got 40"):
        stability(water, MMUT(), 0.1)
    with pytest.raises(InputError, match="`dt` must be a number > 0 in atomic units of time, got 0"):
        stability(water, MMUT(), 0)


class TestStability:
    def test_a_leapfrogs_parasite_grows_as_the_turned_response_equation_says(self):
        pbe0 = Molecule.from_xyz(WATER, xc="pbe0", grid_level=0)
        found = stability(pbe0, MMUT(), 0.05)
        assert not found.stable
        assert found.parasitic == pytest.approx(0.595, abs=0.01)
        # the leapfrog differs from its limit dt → 0 by (growth·dt)²/6, 1.5e-4
        assert found.growth == pytest.approx(found.parasitic, rel=5e-4)
        run = propagate(pbe0, scheme=MMUT(), dt=0.05, duration=30.0, kick=(0, 0, 1e-6), fock="linear", checks=False)
        odd_even = (run.dipole[2:, 2] - 2 * run.dipole[1:-1, 2] + run.dipole[:-2, 2]).abs()
        tops = [float(odd_even[i : i + 100].max()) for i in (200, 400)]
        assert math.log(tops[1] / tops[0]) / 10.0 == pytest.approx(found.growth, rel=0.1)
        assert abs(float(run.norm[-1]) - 1) < 1e-12

    def test_hartree_fock_water_is_one_that_a_leapfrog_leaves_alone(self, water):
        found = stability(water, MMUT(), 0.1)
        assert found.stable
        assert found.parasitic == pytest.approx(0.0, abs=1e-6)

    @pytest.mark.parametrize("scheme", [AdamsMagnus(), ETRS(), ExtrapolatedMidpoint()], ids=repr)
    def test_the_default_and_others_are_stable(self, water, scheme):
        found = stability(water, scheme, 0.1)
        assert found.stable
        assert float(found.limit) == math.inf
        assert "no small deviation grows" in found.advice

    def test_growth_that_is_predicted_is_measured(self, water):
        scheme = ExponentialMidpoint(history=True)
        found = stability(water, scheme, 0.1)
        run = propagate(water, scheme=scheme, dt=0.1, duration=300.0, kick=(0, 0, 1e-6), fock="linear", checks=False)
        gained = (run.energy - run.ground_energy).abs()
        # energy grows as the square of the deviation
        assert math.log(float(gained[3000] / gained[2000])) / 200 == pytest.approx(found.growth, rel=0.05)

    def test_euler_and_an_explicit_scheme(self, water):
        found = stability(water, Euler(), 0.01)
        deepest = float(water.orbital_energies.abs().max())
        assert float(found.limit) == 0.0
        assert found.norm_growth == pytest.approx(math.log(1 + (0.01 * deepest) ** 2) / 0.02, rel=1e-9)
        assert "the norm grows at every dt" in found.advice
        # |R(iy)| ≤ 1 to y = 2√2 for RK4
        assert float(stability(water, RK4(), 0.3).limit) == pytest.approx(2 * math.sqrt(2) / deepest, rel=1e-4)
        assert stability(water, RK4(), 0.3).advice.startswith("take dt ≤ 0.13")


class TestSpectrum:
    def test_lines_and_strengths_are_those_of_linear_response(self, water, runs):
        found = excitations(water)
        errors = matched(absorption(runs).peaks(), found.energies_ev, found.strengths, 20.0)
        assert len(errors) == 5
        assert errors[:, 0].max() <= 3e-3
        assert errors[:, 1].max() <= 0.01

    def test_the_integral_is_the_sum_of_strengths(self, water, runs):
        spectrum = absorption(runs)
        total = float(excitations(water).strengths.sum())
        assert spectrum.f_sum == pytest.approx(total, rel=1e-6)
        assert spectrum.integral() == pytest.approx(total, rel=0.01)
        assert spectrum.electrons == 10
        assert spectrum.directions == 3

    def test_fourier_is_pade_within_its_width(self, runs):
        by_fft = absorption(runs, method="fft")
        by_pade = absorption(runs, width_ev=by_fft.width_ev)
        below = by_fft.energy_ev < 25
        gap = (by_fft.strength - by_pade.strength)[below].abs().max()
        assert float(gap) < 0.02 * float(by_pade.strength[below].max())  # e^(-γT) is 1/100

    def test_one_direction_is_its_part(self, water, runs):
        parts = [absorption(run).peaks() for run in runs]
        whole = absorption(runs).peaks()
        assert sum(p.strength for part in parts for p in part if p.energy_ev < 20) == pytest.approx(
            sum(p.strength for p in whole if p.energy_ev < 20), rel=1e-3
        )

    def test_richardson_extrapolates(self, water):
        scheme = ExtrapolatedMidpoint()
        ran = [propagate(water, scheme=scheme, dt=dt, duration=200.0, kick=(0, 0, 1e-4)) for dt in (0.2, 0.1)]
        coarse, fine = map(absorption, ran)
        found = excitations(water)
        along = (2 / 3 * found.energies * found.dipoles[2] ** 2).numpy()
        before, after = (
            matched(p, found.energies_ev, along, 20.0)[:, 0].max() for p in (fine.peaks(), richardson(coarse, fine))
        )
        assert before > 3e-3
        assert after <= 5e-4
        with pytest.raises(InputError, match="`coarse` must have the longer time step, got 0.1 beside 0.2"):
            richardson(fine, coarse)

    def test_trajectories_that_do_not_belong_together(self, water, runs):
        other = propagate(Molecule.fixture("h2"), dt=0.1, duration=200.0, kick=(0, 1e-4, 0))
        driven = propagate(Molecule.fixture("h2"), dt=0.1, duration=5.0, pulse=lambda t: (0, 0, 1e-4))
        short = propagate(Molecule.fixture("h2"), dt=0.1, duration=1.0, kick=(0, 1e-4, 0))
        for given, words in (
            ([], "`trajectories` must be one to three trajectories, got 0"),
            ([driven], "`trajectories` must be of kicked molecules without a pulse"),
            ([runs[0], other], "`trajectories` must have one molecule, dt and duration, got H2 at 0.1 for 200 beside H2O"),
            ([runs[0], runs[0]], "`trajectories` must be kicked along directions at right angles"),
            ([short], "`trajectories` must have at least 20 times, got 11"),
        ):
            with pytest.raises(InputError) as error:
                absorption(given)
            assert words in str(error.value)
        with pytest.raises(InputError, match="`method` must be pade or fft, got 'dft'"):
            absorption(runs, method="dft")
        with pytest.raises(InputError, match="`width_ev`, `spacing_ev` and `max_ev` must be > 0, got -1"):
            absorption(runs, width_ev=-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "atoms, xc, spin", [(FORMALDEHYDE, "pbe0", 0), (METHYL, "pbe0", 1), ("Li 0 0 0; H 0 0 1.5957", "hf", 0)]
)
def test_spectra_of_other_molecules(atoms, xc, spin):
    molecule = Molecule.from_xyz(atoms, xc=xc, spin=spin, grid_level=1)
    energies, strengths = pyscf_response(atoms, xc, spin, 14)
    spectrum = absorption(three(molecule, dt=0.1, duration=600.0))
    errors = matched(spectrum.peaks(), energies, strengths, min(20.0, energies.max() - 0.1))
    assert len(errors) >= 2
    assert errors[:, 0].max() <= 3e-3
    assert errors[:, 1].max() <= 0.01


@pytest.mark.slow
def test_a_full_kohn_sham_run_has_the_same_lines():
    molecule = Molecule.from_xyz("H 0 0 -0.37; H 0 0 0.37", xc="pbe0", grid_level=0)
    run = propagate(molecule, dt=0.1, duration=100.0, kick=(0, 0, 1e-4))
    found = excitations(molecule)
    assert abs(absorption(run).peaks()[0].energy_ev - float(found.energies_ev[0])) < 3e-3
    assert run.grid_seconds > 0


def test_harmonic_inversion_finds_close_and_damped_waves():
    t = 0.1 * np.arange(3001)
    omega, decay, size = np.array([0.3, 0.31, 0.5, 1.3]), np.array([0.0, 0.0, 1e-3, 0.0]), np.array([1.0, 0.3, 0.2, 0.5])
    signal = (size * np.sin(np.outer(t, omega)) * np.exp(-np.outer(t, decay))).sum(1)
    modes = harmonic_inversion(signal, 0.1, 0.05, 2.0)
    strong = np.abs(modes.amplitude) > 0.05
    # resolution 2π/T is 0.021: the first two are half of it apart
    np.testing.assert_allclose(modes.frequency[strong], omega, atol=1e-8)
    np.testing.assert_allclose(modes.decay[strong], decay, atol=1e-8)
    np.testing.assert_allclose(modes.amplitude[strong], 0.5j * size, atol=1e-6)


def test_transforms_of_a_damped_wave_are_lorentzians():
    t, omega = 0.1 * np.arange(2001), np.linspace(0.1, 1.0, 181)
    signal = np.sin(0.4 * t) * np.exp(-0.03 * t)
    exact = 0.4 / ((0.03 - 1j * omega) ** 2 + 0.16)
    # (ω·dt)²/12 of the trapezoidal rule, and what the end cuts off
    assert np.abs(fourier(signal, 0.1, omega) - exact).max() < 2e-3 * np.abs(exact).max() + math.exp(-6) / 0.03
    assert np.abs(pade(signal[:401], 0.1, omega) - exact).max() < 2e-3 * np.abs(exact).max()
    assert torch.from_numpy(exact).is_complex()


def test_silence_has_no_waves():
    assert len(harmonic_inversion(np.zeros(500), 0.1, 0.05, 2.0).frequency) == 0


@pytest.mark.parametrize(("atoms", "spin"), [("Ne 0 0 0", 0), ("H 0 0 0", 1)])
def test_a_basis_without_an_empty_orbital(atoms, spin):
    molecule = Molecule.from_xyz(atoms, basis="sto-3g", xc="hf", spin=spin)
    with pytest.raises(InputError, match="must have an empty orbital to excite an electron into, got . orbitals that are all"):
        excitations(molecule)
