"""Propagation: exact kicks, growth of Euler, response against finite fields, energy balance, and what ends a run."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import residyn as rd
from residyn.errors import InputError
from residyn.quantum import (
    MMUT,
    Absorber,
    AdamsMagnus,
    Continuous,
    CosineSquared,
    ExtrapolatedMidpoint,
    Gaussian,
    Molecule,
    PropagationError,
    excitations,
    propagate,
    respond,
)  # fmt: skip
from residyn.quantum.hamiltonian import kicked
from residyn.quantum.reading import without_file
from residyn.schemes import CFM4, ETRS, RK4, BackwardEuler, CrankNicolson, Euler, ExponentialMidpoint, Magnus2


@pytest.fixture(scope="module")
def water():
    return Molecule.fixture("h2o")


@pytest.fixture(scope="module")
def hydrogen():
    return Molecule.fixture("h2")


def test_one_build_a_step_and_all_that_is_reported(water):
    run = propagate(water, dt=0.1, duration=20.0, kick=(0, 0, 1e-3))
    assert run.steps == 200
    assert run.builds == 201
    assert run.observed == 0
    assert run.t.shape == run.energy.shape == run.norm.shape == (201,)
    assert run.dipole.shape == (201, 3)
    assert run.outcome.ok
    assert {f.id: f.verdict for f in run.checks} == {
        "tddft.norm": "pass", "tddft.idempotency": "pass", "tddft.trace": "pass", "tddft.energy": "pass", "tddft.absorbed": "info",
    }  # fmt: skip
    assert float(run.t[-1]) == pytest.approx(20.0)


def test_the_kick_is_exact(water):
    x = kicked(water, water.state, torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64))
    exact = torch.linalg.matrix_exp(0.3j * water.position[2]) @ water.state
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-13)
    there = kicked(water, x, torch.tensor([0.0, 0.0, -0.3], dtype=torch.float64))
    torch.testing.assert_close(there, water.state, rtol=0, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 50])
def test_euler_grows_as_the_residual_block_says(water, steps):
    # in the frozen field of the ground state each orbital is an eigenvector, and a step multiplies it by 1 - i·ε·dt
    dt = 0.02
    run = propagate(water, scheme=Euler(), dt=dt, duration=steps * dt, fock="frozen")
    factors = (1 + dt**2 * water.orbital_energies[0, :5] ** 2) ** (0.5 * steps)
    own = run.state[0].abs().square().sum(0).sqrt()
    assert float((own / factors - 1).abs().max()) < 1e-8
    assert float(run.norm[-1]) == pytest.approx(math.sqrt(float(factors.square().mean())), rel=1e-8)


def test_euler_grows_as_the_product_over_its_steps(hydrogen):
    # one orbital whose field changes as it grows: a step multiplies its norm by √(1 + dt²⟨F²⟩) with F of that moment
    run = propagate(hydrogen, scheme=Euler(), dt=0.05, duration=2.0)
    product, x = 1.0, hydrogen.state
    for _ in range(run.steps):
        F = hydrogen.core + hydrogen.potential(hydrogen.density(x))[0]
        square = float((F @ x).abs().square().sum() / x.abs().square().sum())
        product *= math.sqrt(1 + 0.05**2 * square)
        x = x - 0.05j * F @ x
    assert float(run.norm[-1]) == pytest.approx(product, rel=1e-8)
    assert {f.verdict for f in run.checks} == {"info"}


@pytest.mark.parametrize(
    ("scheme", "builds"),
    [
        (ExtrapolatedMidpoint(), 41), (ExponentialMidpoint(), 80), (ETRS(), 80), (CrankNicolson(), 80), (RK4(), 161),
        (ExponentialMidpoint(history=True), 41), (Magnus2(), None), (CFM4(), None),
    ],
    ids=repr,
)  # fmt: skip
def test_schemes_agree_and_count_their_builds(hydrogen, scheme, builds):
    fine = propagate(hydrogen, scheme=CFM4(), dt=0.025, duration=2.0, kick=(0, 0, 0.01))
    run = propagate(hydrogen, scheme=scheme, dt=0.05, duration=2.0, kick=(0, 0, 0.01))
    change = float((fine.dipole[-1] - fine.dipole[0]).norm())
    assert float((run.dipole[-1] - fine.dipole[-1]).norm()) < 2e-3 * change  # (0.05·ω)²/12 with ω of some 1.5 is 5e-4
    assert builds is None or abs(run.builds - builds) <= 1


def test_linear_is_full_in_hartree_fock_and_first_order_with_a_functional(water):
    full, linear = (propagate(water, dt=0.1, duration=5.0, kick=(0, 0, 1e-2), fock=f) for f in ("full", "linear"))
    assert float((full.dipole - linear.dipole).abs().max()) < 1e-10  # F is linear in P there
    lda = Molecule.from_xyz("Li 0 0 0; H 0 0 1.6", xc="lda", grid_level=0)
    ran = [propagate(lda, dt=0.1, duration=5.0, kick=(0, 0, k), fock=f) for k in (1e-2, 1e-3) for f in ("full", "linear")]
    gaps = [float((a.dipole - b.dipole).abs().max()) for a, b in (ran[:2], ran[2:])]
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.2)  # what is left out is of second order in the kick


def test_the_first_order_response_is_the_static_polarisability():
    # a field switched on slowly; compared with finite fields in PySCF's own self-consistent field
    from pyscf import gto, scf

    atoms = "H 0 0 -0.37; H 0 0 0.37"
    mol = gto.M(atom=atoms, basis="6-31g", verbose=0)
    moments = []
    for field in (1e-3, -1e-3):
        mf = scf.RHF(mol)
        without_file(mf)
        core = mf.get_hcore() + field * mol.intor("int1e_r")[2]  # +r·E for electrons
        mf.get_hcore = lambda *_, core=core: core
        mf.conv_tol = 1e-12
        mf.kernel()
        moments.append(mf.dip_moment(unit="AU", verbose=0)[2])
    static = (moments[0] - moments[1]) / 2e-3
    molecule = Molecule.from_xyz(atoms)
    run = propagate(molecule, dt=0.1, duration=80.0, pulse=lambda t: (0, 0, 1e-4 * math.sin(math.pi / 160 * min(t, 80.0)) ** 2))
    # adiabatic to (1/(80·0.55))², and the ramp ends at rest
    assert static > 0
    assert float(run.dipole[-1, 2]) / 1e-4 == pytest.approx(static, rel=5e-3)


def test_the_response_to_a_kick_is_the_sum_over_states(water):
    found = excitations(water)
    run = propagate(water, dt=0.05, duration=5.0, kick=(0, 1e-4, 0), fock="linear")
    # μ(t) - μ(0) = -κ·Σ 2d²·sin(ωt): the kick is the impulse of a field -κ·δ(t)
    waves = (2 * found.dipoles[1] ** 2 * torch.sin(torch.outer(run.t, found.energies))).sum(1)
    gap = (run.dipole[:, 1] - run.dipole[0, 1]) / -1e-4 - waves
    assert float(gap.abs().max()) < 5e-3 * float(waves.abs().max())
    # the slope needs no step in time: Σ 2·ω·d²
    assert float(run.slope[1]) / -1e-4 == pytest.approx(float((2 * found.energies * found.dipoles[1] ** 2).sum()), rel=1e-6)


def test_the_work_of_a_pulse_is_the_energy_absorbed(hydrogen):
    pulse = Gaussian((0.0, 0.0, 0.02), centre=10.0, width=2.0, frequency=0.5)
    run = propagate(hydrogen, dt=0.02, duration=20.0, pulse=pulse)
    field = torch.tensor([pulse(float(t))[2] for t in run.t], dtype=torch.float64)
    work = torch.trapezoid(field, run.dipole[:, 2])  # ∫E·dμ
    gained = float(run.energy[-1]) - run.ground_energy
    assert gained > 1e-5
    assert float(work) == pytest.approx(gained, rel=2e-3)
    assert [f.id for f in run.checks][-1] == "tddft.absorbed"


@pytest.mark.parametrize("fock", ["linear", "full"])
def test_side_by_side_is_one_after_the_other(water, fock):
    kicks = [(1e-3, 0, 0), (0, 1e-3, 0), (0, 5e-4, -1e-3)]
    together = respond(water, kicks=kicks, dt=0.1, duration=20.0, fock=fock)
    for kick, run in zip(kicks, together, strict=True):
        alone = propagate(water, kick=kick, dt=0.1, duration=20.0, fock=fock)
        assert run.kick.tolist() == list(kick)
        assert (run.builds, run.observed, run.steps) == (alone.builds, alone.observed, alone.steps)
        # rounding of some n·eps a step, and the energy's of eps·76
        assert float((run.dipole - alone.dipole).abs().max()) < 1e-11
        assert float((run.energy - alone.energy).abs().max()) < 1e-10
        assert float((run.slope - alone.slope).abs().max()) < 1e-12
        assert float((run.state @ run.state.mH - alone.state @ alone.state.mH).abs().max()) < 1e-11


def test_an_open_shell_with_a_functional_side_by_side():
    lithium = Molecule.from_xyz("Li 0 0 0;", spin=1, xc="pbe0", grid_level=0)
    for fock in ("linear", "full"):
        runs = respond(lithium, dt=0.1, duration=2.0, fock=fock)
        alone = propagate(lithium, kick=(0, 0, 1e-5), dt=0.1, duration=2.0, fock=fock)
        assert float((runs[2].dipole - alone.dipole).abs().max()) < 1e-11
        assert (runs[2].grid_seconds > 0) == (fock == "full")


def test_the_run_that_fails_is_told(water):
    with pytest.raises(InputError, match="`kicks` must hold at least one kick, got none"):
        respond(water, kicks=[], dt=0.1, duration=1.0)
    with pytest.raises(InputError, match=r"`kick` must be weak \(at most 0.01 1/bohr\) with fock=.linear., got 0.5"):
        respond(water, kicks=[(1e-5, 0, 0), (0.5, 0, 0)], dt=0.1, duration=1.0)
    with pytest.raises(PropagationError, match="is not finite") as caught:
        respond(water, kicks=[(1e-3, 0, 0), (0, 0, 1e-3)], scheme=RK4(), dt=0.5, duration=400.0, checks=False, fock="full")
    assert caught.value.trajectory.steps > 0


def test_open_shell_moves_both_spins():
    atoms = "C 0 0 0; H 1.079 0 0; H -0.5395 0.93444 0; H -0.5395 -0.93444 0"
    methyl = Molecule.from_xyz(atoms, spin=1)
    run = propagate(methyl, dt=0.1, duration=5.0, kick=(1e-3, 0, 0))
    assert run.state.shape == (2, 15, 5)
    assert float(run.state[1, :, 4].abs().max()) == 0.0
    assert abs(float(run.norm[-1]) - 1) < 1e-12


def test_an_absorber_takes_norm_out(hydrogen):
    absorber = Absorber(onset=0.2, rate=0.05)
    run = propagate(hydrogen, dt=0.1, duration=20.0, kick=(0, 0, 0.1), absorber=absorber)
    assert 0.9 < float(run.norm[-1]) < 1 - 1e-5
    assert bool((run.norm[1:] <= run.norm[:-1] + 1e-14).all())
    with pytest.raises(InputError, match="`rate` must be a number > 0, got -1"):
        Absorber(rate=-1)


def test_threads_are_restored(hydrogen):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = []
        propagate(hydrogen, dt=0.1, duration=10.0, progress=lambda share, text: seen.append(torch.get_num_threads()))
        assert seen == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_leapfrog_whose_parasite_grows_is_refused():
    atoms = "O 0 0 0.117790; H 0 0.755453 -0.471161; H 0 -0.755453 -0.471161"
    lda = Molecule.from_xyz(atoms, xc="lda", grid_level=0)
    with pytest.raises(InputError, match=r"`scheme` must be stable, got MMUT\(\) on .*, whose parasitic mode grows by exp\("):
        propagate(lda, scheme=MMUT(), dt=0.1, duration=1.0)
    run = propagate(lda, scheme=MMUT(), dt=0.1, duration=10.0, kick=(0, 0, 1e-4), fock="linear", checks=False)
    assert abs(float(run.norm[-1]) - 1) < 1e-12  # which is why a check of the norm is not enough


def test_a_step_past_the_stability_limit_is_refused(water):
    with pytest.raises(InputError, match=r"`dt` must be at most 0.1\d+ for RK4\(\) on H2O .* got 0.2; take a smaller one"):
        propagate(water, scheme=RK4(), dt=0.2, duration=1.0)


def test_a_run_that_blows_up_keeps_what_was_good(water):
    with pytest.raises(PropagationError, match="is not finite; take a smaller dt, or a unitary scheme") as caught:
        propagate(water, scheme=RK4(), dt=0.5, duration=200.0, checks=False)
    kept = caught.value.trajectory
    assert 0 < kept.steps < 400
    assert bool(kept.dipole.isfinite().all())
    assert bool(kept.state.isfinite().all())
    same = propagate(water, scheme=RK4(), dt=0.5, duration=200.0, checks=False, throw=False)
    assert same.outcome.kind == "non_finite"
    assert same.steps == kept.steps


def test_drift_of_the_energy_ends_a_run(water):
    unstable = ExponentialMidpoint(history=True)
    with pytest.raises(
        PropagationError, match="the energy has drifted by .* dt is past the stability limit; take a smaller dt"
    ):
        propagate(water, scheme=unstable, dt=0.1, duration=600.0, kick=(0, 0, 5e-3))


def test_equations_that_are_not_solved_end_a_run(water):
    with pytest.raises(PropagationError, match="the equations of the step after t = 0 were not solved; take a smaller dt"):
        propagate(water, scheme=Magnus2(max_iterations=1), dt=0.1, duration=1.0, kick=(0, 0, 0.1))


def test_linear_is_for_weak_fields(water):
    with pytest.raises(
        InputError, match=r"`kick` must be weak \(at most 0.01 1/bohr\) with fock=\"linear\", got 0.5; use fock"
    ):
        propagate(water, dt=0.1, duration=1.0, kick=(0.5, 0, 0), fock="linear")
    with pytest.raises(PropagationError, match="the field is not weak: .* too much for a linear Fock matrix"):
        propagate(water, dt=0.1, duration=20.0, pulse=Continuous((0, 0, 0.2), 0.4), fock="linear")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dt": 0}, "`dt` must be a number > 0 in atomic units of time, got 0; 1 fs is 41.34"),
        ({"duration": -1.0}, "`duration` must be a number > 0"),
        ({"duration": 1e9}, "`duration` must be at most 1e8 steps, got 1.0e+10"),
        ({"kick": (1, 2)}, "`kick` must be three finite numbers (x, y, z), got (1, 2)"),
        ({"kick": (0, 0, math.nan)}, "`kick` must be three finite numbers"),
        ({"kick": "zz"}, "`kick` must be three finite numbers"),
        ({"scheme": "euler"}, "`scheme` must be a scheme such as AdamsMagnus(), got 'euler'; pass an instance"),
        ({"scheme": BackwardEuler()}, "`scheme` must take complex states and hand out what it remembers, got BackwardEuler"),
        ({"fock": "half"}, "`fock` must be full, linear or frozen, got 'half'"),
        ({"pulse": 3}, "`pulse` must be a function of the time, got int"),
        ({"pulse": lambda t: (1, 2)}, "`pulse` must return three finite numbers, (Ex, Ey, Ez), got [1.0, 2.0]"),
        ({"pulse": lambda t: "x"}, "`pulse` must return three numbers, (Ex, Ey, Ez), at t = 0"),
        ({"checkpoint": "nowhere/x"}, "`checkpoint` must be a file in a folder that exists and may be written to, got 'nowhere/x'"),
    ],
)  # fmt: skip
def test_input_errors(hydrogen, change, words):
    with pytest.raises(InputError) as error:
        propagate(hydrogen, **{"dt": 0.1, "duration": 1.0, **change})
    assert words in str(error.value)


def test_pulses_are_what_they_say():
    assert Continuous((0, 0, 1.0), math.pi / 2)(1.0)[2] == pytest.approx(1.0)
    assert Continuous((0, 0, 1.0), math.pi / 2, ramp=2.0)(1.0)[2] == pytest.approx(0.5)
    pulse = CosineSquared((1.0, 0, 0), centre=5.0, duration=4.0)
    assert [pulse(t)[0] for t in (3.0, 5.0, 7.5)] == [0.0, 1.0, 0.0]
    assert pulse(4.0)[0] == pytest.approx(0.5)
    for make, words in (
        (lambda: Gaussian((0, 0), 1, 1), r"`amplitude` must be three finite numbers \(x, y, z\)"),
        (lambda: Gaussian((0, 0, 1), 1, 0), "`width` must be a number > 0, got 0"),
        (lambda: CosineSquared((0, 0, 1), 1, -1), "`duration` must be a number > 0, got -1"),
        (lambda: Continuous((0, 0, 1), 1, ramp=-1), "`ramp` must be a number ≥ 0, got -1"),
    ):
        with pytest.raises(InputError, match=words):
            make()


def test_a_longer_run_repeats_the_shorter_one(hydrogen):
    short, long = (propagate(hydrogen, dt=0.1, duration=d, kick=(0, 0, 1e-3)) for d in (2.0, 3.0))
    assert torch.equal(short.dipole, long.dipole[:21])
    assert dataclasses.replace(short).steps == 20
    assert np.asarray(short.t).shape == (21,)
    assert rd.quantum.AdamsMagnus is AdamsMagnus
