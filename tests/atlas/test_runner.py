"""The runner, with entries made for the test."""

import random
import sys
import types

import numpy as np
import pytest
import torch

from residyn import atlas
from residyn.atlas import Entry, Interrupted, Store, catalog, runner
from residyn.errors import InputError
from residyn.results import Finding, Section


def drawing(context):
    numbers = [float(torch.rand(())), float(np.random.rand()), random.random()]
    context.advance(0.5, "half way")
    return Section("ignored", "Drawing", findings=[Finding("d", str(numbers), "pass")])


def failing(context):
    raise ValueError("the first line\nthe second line")


def interrupting(context):
    raise KeyboardInterrupt


def wrong(context):
    return {"not": "a section"}


@pytest.fixture
def entries(monkeypatch):
    """Put functions into the catalogue as entries; gives the function that does it."""

    def put(**functions):
        for name, function in functions.items():
            module = types.ModuleType(f"fake_{name}")
            module.run = function
            monkeypatch.setitem(sys.modules, module.__name__, module)
        made = tuple(Entry(name, name.title(), "F", "claim", "data", f"fake_{name}") for name in functions)
        monkeypatch.setattr(catalog, "ENTRIES", made)
        monkeypatch.setattr(catalog, "OVERVIEW", None)

    return put


def test_sections_come_in_order_with_id_seconds_and_provenance(entries):
    entries(a=drawing, b=drawing)
    result = atlas.run(["b", "a"], fast=True, seed=7)
    assert [section.id for section in result.sections] == ["b", "a"]
    assert all(section.seconds > 0 for section in result.sections)
    assert result.command == "residyn atlas b a --fast --seed 7"
    assert (result.seed, result.complete, result.versions["residyn"]) == (7, True, "0.1.0")


def test_figures_do_not_depend_on_order_or_company(entries):
    entries(a=drawing, b=drawing)
    together = {section.id: section.findings for section in atlas.run(["a", "b"]).sections}
    assert atlas.run(["b"]).sections[0].findings == together["b"]
    assert together["a"] != together["b"]
    assert atlas.run(["b"], seed=1).sections[0].findings != together["b"]


def test_the_callers_generators_and_threads_are_left_as_they_were(entries):
    entries(a=drawing, b=failing)
    threads = torch.get_num_threads()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    atlas.run()
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()
    assert torch.get_num_threads() == threads


def test_a_failing_entry_keeps_its_failure_to_itself(entries):
    entries(a=failing, b=drawing, c=wrong)
    a, b, c = atlas.run().sections
    assert a.error == "a: ValueError: the first line"
    assert b.error == ""
    assert c.error == "c: ResidynError: `fake_c.run` must return a Section, got dict"


def test_a_missing_module_is_a_failure_of_its_entry(monkeypatch):
    monkeypatch.setattr(catalog, "ENTRIES", (Entry("x", "X", "F", "c", "d", "residyn.atlas.not_there"),))
    monkeypatch.setattr(catalog, "OVERVIEW", None)
    assert "ModuleNotFoundError" in atlas.run().sections[0].error


def test_ctrl_c_hands_over_what_was_finished(entries):
    entries(a=drawing, b=interrupting, c=drawing)
    with pytest.raises(Interrupted) as stop:
        atlas.run()
    result = stop.value.result
    assert [section.id for section in result.sections] == ["a"]
    assert not result.complete
    assert result.note == "Interrupted after 1 of 3 systems."


def test_kept_sections_are_not_run_again(entries, tmp_path):
    entries(a=drawing, b=interrupting)
    path, conditions = tmp_path / "x.partial.jsonl", runner.conditions(fast=False, seed=0)
    store = Store(path, conditions)
    store.start()
    with pytest.raises(Interrupted):
        atlas.run(keep=store)
    entries(a=failing, b=drawing)
    again = Store(path, conditions)
    assert again.resume() == ""
    result = atlas.run(keep=again)
    assert [section.error for section in result.sections] == ["", ""]


def test_progress_is_told(entries):
    entries(a=drawing)
    seen = []
    atlas.run(progress=lambda *step: seen.append(step))
    assert seen == [("a", 0.0, "loading"), ("a", 0.5, "half way"), ("a", 1.0, "done")]


def test_a_single_id_may_be_a_string(entries):
    entries(ab=drawing)
    assert [entry.id for entry in runner.select("ab")] == ["ab"]


@pytest.mark.parametrize(
    ("name", "hint"), [("wienr", "did you mean 'wiener'?"), ("ODE", "did you mean 'ode'?"), ("zzz", "known are depth, wiener")]
)
def test_unknown_id(name, hint):
    with pytest.raises(InputError, match="must be an entry of the atlas") as error:
        atlas.run([name])
    assert repr(name) in str(error.value)
    assert hint in str(error.value)


def test_catalogue_is_consistent():
    names = [entry.id for entry in catalog.ENTRIES]
    assert len(set(names)) == len(names)
    assert all(entry.module == f"residyn.atlas.{entry.id.replace('-', '_')}" for entry in catalog.ENTRIES)
