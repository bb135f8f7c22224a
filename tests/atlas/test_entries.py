"""Each entry in its fast form: theory beside measurement, verdicts that hold, a form that survives JSON."""

import importlib
import math

import pytest

from residyn.atlas import catalog
from residyn.atlas.context import Context
from residyn.report.language import language
from residyn.results import Result

EXPECTED = {
    "depth": {"depth.gradient.residual", "depth.gradient.plain", "depth.alike", "depth.train.residual", "depth.train.plain"},
    "unrolled": {
        "unrolled.filter",
        "unrolled.inverse",
        "unrolled.best",
        "unrolled.late",
        "unrolled.learned",
        "unrolled.linear",
    },
    "wiener": {"wiener.strength", "wiener.error", "wiener.frequency", "wiener.blind", "wiener.blind.denoise"},
    "ode": {"ode.order.known.rk4", "ode.order.trained.euler", "ode.leading", "ode.continuous", "ode.work.dopri5"},
    "tddft": {"tddft.block", "tddft.euler", "tddft.leapfrog", "tddft.unitary", "tddft.lines", "tddft.sum"},
    "domain": {"domain.mnist-digits.gain", "domain.digits-mnist.gain", "domain.digits-mnist.gap", "domain.mnist-digits.labels"},
    "calibrate": {"calibrate.ece", "calibrate.lambda", "calibrate.stationary", "calibrate.accuracy"},
    "robust": {"robust.block", "robust.network", "robust.radius.below", "robust.radius.product", "robust.trade.accuracy"},
    "continual": {"continual.identity", "continual.forgetting", "continual.added", "continual.bound", "continual.safe"},
    "graph": {"graph.energy.plain", "graph.energy.anchored", "graph.rate.karate", "graph.limit", "graph.accuracy.anchored"},
    "disulfide": {"disulfide.law", "disulfide.crossing", "disulfide.determinant", "disulfide.overcount", "disulfide.twin"},
    "unet": {"unet.dice", "unet.boundary", "unet.detail", "unet.depth"},
    "transformer": {"transformer.expands", "transformer.bound", "transformer.separates", "transformer.train.post"},
    "stochastic-depth": {"stochastic-depth.accuracy.100", "stochastic-depth.one", "stochastic-depth.evaluated"},
}


@pytest.fixture(scope="module", params=sorted(EXPECTED))
def ran(request):
    """The section of one entry, and the progress it reported."""
    entry = next(entry for entry in catalog.ENTRIES if entry.id == request.param)
    told = []
    context = Context(fast=True, seed=0, advance=lambda share, text: told.append((share, text)))
    return importlib.import_module(entry.module).run(context), told


@pytest.mark.slow
class TestEntry:
    def test_no_claim_fails(self, ran):
        section, _ = ran
        assert [f for f in section.findings if f.verdict == "fail"] == []

    def test_says_what_was_measured_and_what_theory_says(self, ran):
        section, _ = ran
        found = {f.id: f for f in section.findings}
        assert EXPECTED[section.id] <= set(found)
        assert all(f.value is not None and f.theory is not None and f.why for f in section.findings)
        assert len(found) == len(section.findings)
        assert "claim" in section.summary

    def test_figures_can_be_drawn(self, ran):
        section, _ = ran
        assert section.figures
        for figure in section.figures:
            for series in figure.series:
                assert len(series.x) == len(series.y) > 0
                assert all(math.isfinite(v) for v in [*series.x, *series.y, *(series.y2 or [])])
                assert figure.yscale != "log" or min(series.y) > 0
        for table in section.tables:
            assert all(len(row) == len(table.columns) for row in table.rows)

    def test_every_text_has_a_translation(self, ran):
        section, _ = ran
        assert language("zh").missing(section) == []

    def test_survives_json(self, ran):
        section, _ = ran
        result = Result("atlas", "one entry", [section])
        assert Result.from_dict(result.to_dict()).to_json() == result.to_json()

    def test_tells_where_it_is(self, ran):
        _, told = ran
        shares = [share for share, _ in told]
        assert len(shares) >= 4
        assert shares == sorted(shares)
        assert all(0 <= share <= 1 and text for share, text in told)

    def test_code_is_python_of_the_public_surface(self, ran):
        section, _ = ran
        code = compile(section.code, section.id, "exec")
        for line in section.code.splitlines():
            if line.startswith(("from residyn", "import residyn")):
                exec(compile(line, section.id, "exec"), {})
        assert code.co_names


@pytest.mark.slow
def test_a_seed_gives_the_same_figures_again():
    wiener = importlib.import_module("residyn.atlas.wiener")
    one, two = (wiener.run(Context(fast=True, seed=3)) for _ in range(2))
    assert one.findings == two.findings
