"""The learned residual: unitary whatever was learned, better than the default on what it has not seen, and what it costs."""

import math

import pytest
import torch

from residyn.errors import InputError
from residyn.quantum import Corrector, Gaussian, Molecule, propagate, respond, stability, train_corrector
from residyn.quantum.corrector import KEPT, turn
from residyn.quantum.learning import _ridge, _rotation


@pytest.fixture(scope="module")
def hydride():
    return Molecule.fixture("lih")


@pytest.fixture(scope="module")
def hydrogen():
    return Molecule.fixture("h2")


@pytest.fixture(scope="module")
def trained(hydrogen):
    return train_corrector(hydrogen, duration=16.0, test_factor=5.0)


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def weights(scheme, size):
    return size * noise(scheme.features, 2 * KEPT * scheme.targets).real


def test_packing_is_undone(hydride):
    scheme = Corrector(hydride, 0.4)
    numbers = noise(3, scheme.targets).real
    H = scheme.unpack(numbers)
    torch.testing.assert_close(H, H.mH)
    torch.testing.assert_close(scheme.pack(H), numbers)


def test_a_small_rotation_is_found():
    z = torch.linalg.qr(noise(6, 2)).Q
    y = torch.linalg.qr(z + 1e-3 * noise(6, 2, seed=1)).Q
    turned = turn(_rotation(z, y), z)
    # what is left out of log is of fifth order in 1e-3
    assert float((turned @ turned.mH - y @ y.mH).abs().max()) < 1e-12


def test_the_fit_is_ridge_regression_in_closed_form():
    X, T = noise(20, 6).real, noise(20, 3, seed=1).real
    top = float(torch.linalg.matrix_norm(X, 2))
    (found,) = _ridge(X, T, [0.1])
    exact = torch.linalg.solve(X.T @ X + (0.1 * top) ** 2 * torch.eye(6, dtype=torch.float64), X.T @ T)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)  # condition below 100, some 100 eps


def test_without_weights_it_is_a_scheme_of_one_build(hydride):
    options = {"duration": 8.0, "kick": (0, 0, 1e-2)}
    exact = propagate(hydride, dt=0.0125, **options).dipole[-1]
    gaps = []
    for dt in (0.1, 0.05):
        run = propagate(hydride, scheme=Corrector(hydride, dt), dt=dt, **options)
        gaps.append(float((run.dipole[-1] - exact).norm()))
        assert run.builds == run.steps + 1
    assert gaps[0] / gaps[1] > 6  # order 3, 8 in the limit


def test_unitary_for_any_weights_and_its_twin_is_not(hydride):
    W = weights(Corrector(hydride, 0.4), 1e-2)
    options = {"dt": 0.4, "duration": 8.0, "kick": (0, 0, 1e-2), "checks": False}
    run = propagate(hydride, scheme=Corrector(hydride, 0.4, W), **options)
    assert float((run.norm - 1).abs().max()) < 1e-13
    assert run.builds == run.steps + 1
    twin = propagate(hydride, scheme=Corrector(hydride, 0.4, W, in_state=True), **options)
    assert float((twin.norm - 1).abs().max()) > 1e-9


def test_side_by_side_and_from_a_checkpoint(hydrogen, trained, tmp_path):
    kicks = [(0, 0, 1e-3), (0, 0, -2e-3)]
    options = {"scheme": trained.scheme, "dt": 0.4, "duration": 60.0, "fock": "full"}
    together = respond(hydrogen, kicks=kicks, **options)
    for kick, run in zip(kicks, together, strict=True):
        alone = propagate(hydrogen, kick=kick, **options)
        assert float((alone.dipole - run.dipole).abs().max()) < 1e-12  # 150 steps of rounding
    pulse = Gaussian((0, 0, 1e-3), 20.0, 3.0)
    whole = propagate(hydrogen, pulse=pulse, **options)

    def stop(share, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        propagate(hydrogen, pulse=pulse, checkpoint=tmp_path / "run", progress=stop, **options)
    resumed = propagate(hydrogen, pulse=pulse, checkpoint=tmp_path / "run", **options)
    assert torch.equal(whole.dipole, resumed.dipole)


def test_belongs_to_its_time_step(hydride):
    with pytest.raises(InputError, match="`scheme` must be used with propagate at the dt it was trained for, 0.4, got another"):
        propagate(hydride, scheme=Corrector(hydride, 0.4), dt=0.2, duration=1.0)


def test_its_growth_is_judged_by_runs(hydride):
    with pytest.raises(InputError, match="`scheme` must remember states or matrices -i·H alone, got Corrector"):
        stability(hydride, Corrector(hydride, 0.4), 0.4)


def test_a_steady_motion_is_left_to_the_extrapolation(hydride):
    scheme = Corrector(hydride, 0.05)  # so short a step that no element turns round in it
    assert not bool(scheme.swift.any())
    t = torch.arange(KEPT, dtype=torch.float64).flip(0)
    steady = (1 + 2 * t + 3 * t ** (KEPT - 2)).unsqueeze(-1) * noise(scheme.targets).real
    fields = torch.zeros(KEPT, 4, 3, dtype=torch.float64)
    assert float(scheme.seen(steady, fields[0], fields[1:]).abs().max()) < 1e-13  # a polynomial below the difference's order


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dt": 0}, "`dt` must be a number > 0, got 0"),
        ({"ridge": -1.0}, "`ridge` must be a number > 0, got -1.0"),
        ({"substeps": 0}, "`substeps` must be a whole number of at least 1, got 0"),
        ({"substeps": 1.5}, "`substeps` must be a whole number of at least 1, got 1.5"),
        (
            {"kicks": [], "pulses": []},
            "`kicks` and `pulses` must hold at least one run to learn from, got none; leave them out",
        ),
        ({"kicks": [(1, 2)]}, "`kicks` must be three finite numbers"),
    ],
)
def test_input_errors(hydride, options, words):
    with pytest.raises(InputError, match=words):
        train_corrector(hydride, **options)


def test_what_was_not_seen_is_followed_ten_times_better(trained):
    assert [run.name for run in trained.held_out][-1] == "a pulse"
    for run in trained.held_out:
        assert run.error <= 0.1 * run.plain_error
    assert 0 < trained.break_even < math.inf
    assert trained.twin_norm > 1e-10
    assert [f.id for f in trained.findings] == [
        "tddft.learned", "tddft.learned.1", "tddft.learned.2", "tddft.twin", "tddft.cost", "tddft.break-even",
    ]  # fmt: skip
    assert {f.verdict for f in trained.findings} == {"pass", "info"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lih", "h2o"])
def test_larger_molecules(name):
    found = train_corrector(Molecule.fixture(name), test_factor=2.0)
    assert all(run.error <= 0.1 * run.plain_error for run in found.held_out)


@pytest.mark.slow
def test_an_open_shell_and_a_functional():
    radical = Molecule.from_xyz("Li 0 0 0;", spin=1, xc="lda", grid_level=0)
    found = train_corrector(radical, duration=24.0, test_factor=2.0)
    assert all(run.error <= 0.1 * run.plain_error for run in found.held_out)
