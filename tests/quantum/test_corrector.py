"""The learned residual: unitary whatever was learned, better than the default on what it has not seen, and what it costs."""

import pytest
import torch

from residyn.errors import InputError
from residyn.quantum import Molecule, propagate, train_corrector
from residyn.quantum.corrector import Corrector, _rotation, packed, unpacked


@pytest.fixture(scope="module")
def hydride():
    return Molecule.fixture("lih")


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def test_packing_is_undone(hydride):
    H = noise(1, hydride.n, hydride.n)
    H = H + H.mH
    torch.testing.assert_close(unpacked(packed(H), hydride), H)


def test_a_small_rotation_is_found():
    z = torch.linalg.qr(noise(6, 2)).Q
    y = torch.linalg.qr(z + 1e-3 * noise(6, 2, seed=1)).Q
    turned = torch.linalg.matrix_exp(-1j * _rotation(z, y)) @ z
    # what is left out of log is of fifth order in 1e-3
    assert float((turned @ turned.mH - y @ y.mH).abs().max()) < 1e-12


def test_unitary_for_any_weights_and_its_twin_is_not(hydride):
    count = 2 * hydride.n**2 + 9
    weights = 1e-2 * noise(count, hydride.n**2).real
    options = {"dt": 0.4, "duration": 8.0, "kick": (0, 0, 1e-2), "checks": False}
    run = propagate(hydride, scheme=Corrector(hydride, 0.4, 1, weights), **options)
    assert float((run.norm - 1).abs().max()) < 1e-13
    assert run.builds == run.steps
    twin = propagate(hydride, scheme=Corrector(hydride, 0.4, 1, weights, in_state=True), **options)
    assert float((twin.norm - 1).abs().max()) > 1e-9


def test_belongs_to_its_time_step(hydride):
    with pytest.raises(InputError, match="`scheme` must be used with propagate at the dt it was trained for, 0.4, got another"):
        propagate(hydride, scheme=Corrector(hydride, 0.4, 1), dt=0.2, duration=1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dt": 0}, "`dt` must be a number > 0, got 0"),
        ({"substeps": 0}, "`substeps` must be a whole number of at least 1, got 0"),
        ({"history": 1.5}, "`history` must be a whole number of at least 1, got 1.5"),
    ],
)
def test_input_errors(hydride, options, words):
    with pytest.raises(InputError, match=words):
        train_corrector(hydride, **options)


@pytest.mark.slow
def test_a_held_out_kick_is_followed_ten_times_better(hydride):
    trained = train_corrector(hydride)
    assert trained.error <= 0.1 * trained.plain_error
    assert 0 < trained.break_even < float("inf")
    assert trained.twin_norm > 1e-8
    assert {f.id for f in trained.findings} == {"tddft.learned", "tddft.twin", "tddft.cost", "tddft.break-even"}
