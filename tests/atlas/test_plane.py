"""The unifying figure: every system is in it, at the step that theory gives."""

import math

import pytest

from residyn import report
from residyn.atlas import catalog, plane
from residyn.atlas.context import Context
from residyn.results import Result, Section


@pytest.fixture(scope="module")
def drawn():
    return plane.run(Context())


def test_every_system_of_the_catalogue_is_drawn(drawn):
    ids = [entry.id for entry in catalog.ENTRIES]
    assert [figure.title for figure in drawn.figures] == ids
    assert [row[0] for row in drawn.tables[0].rows] == [entry.title for entry in catalog.ENTRIES]


def test_the_one_function_agrees_with_every_closed_form(drawn):
    rows = [row for row in drawn.tables[0].rows if row[5] is not None]
    assert len(rows) >= 8
    for *_, largest, closed in rows:
        # eigenvalues of at most 144 rows in double precision: relative error below 144·2.2e-16·(some tens)
        assert largest == closed or largest == pytest.approx(closed, rel=1e-12)


def test_points_lie_in_the_region_and_the_outermost_on_its_border(drawn):
    for figure, row in zip(drawn.figures, drawn.tables[0].rows, strict=True):
        system = plane.SYSTEMS[figure.title]().scheme
        points = next(series for series in figure.series if series.mark == "points")
        growth = plane.Region(system)(plane.np.array(points.x) + 1j * plane.np.array(points.y))
        if row[3] == "|R| ≤ 1":
            assert growth.max() <= 1 + 3e-4  # points are rounded to 1e-4, and |R'| < 3 on the plane that is shown
            assert math.isinf(row[4]) or growth.max() >= 1 - 3e-4
        else:
            assert growth.max() <= math.e ** (1 / plane.DEPTH) + 3e-4


def test_the_region_of_euler_is_the_unit_disc_about_minus_one(drawn):
    upper, lower = plane._region(plane.Euler(), 1.0)
    for x, low, high in zip(upper.x, upper.y, upper.y2, strict=True):
        if not math.isnan(x):
            assert low == 0.0
            assert high == pytest.approx(math.sqrt(max(0.0, 1 - (x + 1) ** 2)), abs=0.011)  # a row is 0.01 high
    assert lower.y2 == pytest.approx([-v for v in upper.y], nan_ok=True)


def test_the_page_begins_with_it_and_links_to_the_systems(drawn):
    page = report.html(Result("atlas", "The atlas", [Section("wiener", "Linear residual denoising")], overview=drawn))
    assert page.index("One step, one plane") < page.index('aria-label="Contents"')
    assert '<a href="#wiener">wiener</a>' in page
    assert "1 system, 0 findings" in page
    text = report.text(Result("atlas", "The atlas", [], overview=drawn))
    assert "The largest stable step, by one function" in text
    assert "Zachary's" in text
    assert "…" not in text


def test_it_survives_json(drawn):
    result = Result("atlas", "The atlas", [], overview=drawn)
    assert Result.from_dict(result.to_dict()).to_json() == result.to_json()
