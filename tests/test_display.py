"""Results in a notebook: a small table whose every text is only text."""

import pytest
import torch
from tests.hard.test_pages import inert

import residyn as rd
from residyn.display import card, table
from residyn.results import Finding, Result, Section

EVIL = "<script>alert(1)</script>"


def shown():
    """One of each, by name."""
    yield "Estimate", rd.Estimate(2.0, "upper", 7, converged=False), ["2", "upper", "not reached"]
    solution = rd.solve(lambda t, x: -x, torch.ones(2), [0.0, 1.0])
    yield "Solution", solution, ["success", "(2, 2)", "evaluations"]
    section = Section("a", EVIL, findings=[Finding("a.x", EVIL, "warn", 1.5, 1.0, "fs")], error=EVIL)
    yield "Result", Result("demo", EVIL, [section]), [EVIL, "1.5", "1 fail", "1 warn"]
    net = torch.nn.Sequential(rd.Residual(torch.nn.Linear(4, 4)), rd.Residual(torch.nn.Linear(4, 4)))
    yield "Audit", rd.audit(net, torch.ones(3, 4), budget=0), ["2 blocks"]


@pytest.mark.parametrize(("name", "value", "words"), list(shown()), ids=lambda v: v if isinstance(v, str) else "")
def test_core_results(name, value, words):
    text = inert(value._repr_html_())
    assert all(word in text for word in words)
    assert len(value._repr_html_()) < 20_000


def test_restoration():
    from residyn.inverse import deblur, gaussian

    torch.manual_seed(0)
    found = deblur(torch.rand(16, 16), gaussian(1.0), method="landweber", steps=3, noise=0.01)
    text = inert(found._repr_html_())
    assert all(word in text for word in ("landweber", "(16, 16)", "noise σ"))


def test_trajectory_and_spectrum():
    from residyn import quantum
    from residyn.schemes import Magnus2

    run = quantum.propagate(
        quantum.Molecule.fixture("h2"), scheme=Magnus2(), dt=0.2, duration=200.0, kick=(0, 0, 1e-4), fock="linear"
    )
    assert "1000 of 0.2 a.u." in inert(run._repr_html_())
    assert "oscillator strength" in inert(quantum.absorption([run])._repr_html_())


def test_protein():
    pytest.importorskip("gemmi")
    from residyn import protein
    from residyn.protein.samples import sample

    structure = protein.read(sample("1ejg"))
    assert "residues46" in inert(structure._repr_html_())
    scan = protein.scan(structure, flexible=False)
    assert f"{len(scan)} pairs that could be bonded" in inert(scan._repr_html_())


def test_model_of_a_system():
    from residyn.dynamics import fit

    t = torch.linspace(0, 6, 61, dtype=torch.float64)
    model = fit(t, torch.stack([t.cos(), -t.sin()], 1), hidden=(4,), epochs=2)
    assert "derivative" in inert(model._repr_html_())


def test_trade_off():
    from residyn.robust.trading import Point, TradeOff

    point = Point(3.0, 3.1, 0.9, 0.5, 0.6, 0.2, (0.1, 0.3))
    text = inert(TradeOff([point], 0.1, EVIL, [], Result("robust", "", []))._repr_html_())
    assert EVIL in text
    assert "0.9" in text


def test_long_texts_and_many_rows_are_cut():
    assert len(card("a", [("b", "x" * 10_000)])) < 500
    assert "88 more rows" in table("a", ["b"], [(i,) for i in range(100)])
    assert "\x1b" not in card("a", [("b", "\x1b[31m")])
