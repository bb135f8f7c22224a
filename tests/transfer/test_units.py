"""A correction reckons in units: what columns are measured in does not decide whether it can be trained."""

import math

import pytest
import torch
from torch import nn

from residyn.errors import InputError
from residyn.transfer import Recipe, adapt, load_adapted, save_adapted
from residyn.transfer.correction import Correction
from residyn.transfer.units import Units, units

FACTORS = torch.tensor([1e-4, 1.0, 1e3, 1e6])


def domains(n=240):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = torch.randn(n, 4, generator=generator) + 3 * y[:, None] - 1.5
    return x, y, x + 1.3


class Scaled(nn.Module):
    """A classifier of columns in units: sign of their sum once the units are gone."""

    def __init__(self, factors):
        super().__init__()
        self.register_buffer("factors", factors)
        self.last = nn.Linear(4, 2)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[-1.0] * 4, [1.0] * 4]))
            self.last.bias.zero_()

    def forward(self, x):
        return self.last(x / self.factors)


def right(model, x, y):
    return float((model(x).argmax(1) == y).double().mean())


def test_columns_in_other_units_are_adapted_as_well_as_before():
    x, y, moved = domains()
    recipe = [Recipe("mmd")]
    plain = adapt(Scaled(torch.ones(4)), (x, y), moved, recipes=recipe, steps=150)
    mixed = adapt(Scaled(FACTORS), (x * FACTORS, y), moved * FACTORS, recipes=recipe, steps=150)
    assert right(Scaled(torch.ones(4)), moved, y) < 0.9
    assert right(plain, moved, y) > 0.95
    assert right(mixed, moved * FACTORS, y) > 0.95
    assert mixed.chosen.branch == pytest.approx(plain.chosen.branch, rel=0.5)


def test_units_of_unlike_columns_are_powers_of_ten_of_their_own():
    x, _, _ = domains()
    found = units(x * FACTORS)
    ratio = (x * FACTORS).std(0) / found.one
    assert bool(((ratio > 10**-0.5) & (ratio < 10**0.5)).all())
    assert torch.equal(found.one.log10().round(), found.one.log10())


def test_like_columns_and_pictures_have_one_unit_and_near_one_it_is_one():
    x, _, _ = domains()
    for sample in (x, x.reshape(-1, 1, 2, 2), 0.5 * x):
        found = units(sample)
        assert (found.zero.shape, float(found.zero), float(found.one)) == ((), 0.0, 1.0)
    far = units(500 + 255 * x.reshape(-1, 1, 2, 2))
    assert float(far.one) == 1000.0  # a spread of about 460
    assert float(units(5000 + x).zero) == pytest.approx(5000, abs=1)


def test_constant_columns_and_constant_data():
    x = torch.tensor([[7.0, 1.0], [7.0, 200.0], [7.0, 3000.0]])
    assert bool(units(x).one.isfinite().all())
    assert float(units(torch.zeros(4, 2)).one) == 1.0
    table = torch.cat(
        [torch.full((50, 1), 3e7), torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * FACTORS[1:]], 1
    )
    assert units(table).one[0] == 1e7


def test_a_correction_is_its_formula_in_units():
    generator = torch.Generator().manual_seed(1)
    own = Units(torch.tensor([1.0, -2.0, 0.0]), torch.tensor([10.0, 0.1, 1.0]))
    made = Correction((3,), 5, None, generator, own).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    u = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    v = (u - own.zero) / own.one.double()
    expected = u - own.one.double() * (torch.relu(v @ made.down.T + made.bias) @ made.up.T + made.shift)
    # single precision units, widened: 0.1 is 0.1 to 1.5e-9
    torch.testing.assert_close(made(u), expected, rtol=1e-7, atol=1e-7)


def test_units_are_kept_in_the_file(tmp_path):
    x, y, moved = domains()
    model = Scaled(FACTORS)
    adapted = adapt(model, (x * FACTORS, y), moved * FACTORS, recipes=[Recipe("mmd")], steps=20)
    save_adapted(adapted.model, tmp_path / "branch.safetensors")
    again = load_adapted(tmp_path / "branch.safetensors", model, x[:2] * FACTORS)
    assert torch.equal(again(moved * FACTORS), adapted(moved * FACTORS))


def test_a_training_that_leaves_the_numbers_is_said_and_not_an_error_about_samples():
    x, y, moved = domains()

    class Cliff(nn.Linear):
        def forward(self, z):
            return super().forward(torch.where(z > 1.5, z * math.inf, z))

    model = nn.Sequential(nn.Identity(), Cliff(4, 2))
    calm = x.clamp(max=1.4)
    with pytest.raises(
        InputError, match=r"`rate` must be small enough to train, got 0.9: every recipe left the numbers; try 0.09"
    ):
        adapt(model, (calm, y), moved.clamp(max=1.4), recipes=[Recipe("mmd")], steps=40, rate=0.9)
