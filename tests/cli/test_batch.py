"""Many files as one job: order, failures kept apart, killed workers, resumption, clusters."""

import importlib
from pathlib import Path

import pytest

from residyn.cli import batch
from residyn.cli.output import Stopped
from residyn.errors import InputError


@pytest.fixture
def measure(monkeypatch):
    from joblib.externals.loky import get_reusable_executor

    # workers that an earlier test started do not know where the module of jobs is
    get_reusable_executor().shutdown(wait=True)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("jobs").measure


def files(folder, *names):
    for size, name in enumerate(names, 1):
        (folder / name).write_bytes(b"x" * size)
    return [str(folder / name) for name in names]


def sizes(sections):
    return [section.findings[0].value if section.findings else None for section in sections]


BACKENDS = [
    pytest.param(batch.Plan(), id="here"),
    pytest.param(batch.Plan(2), id="loky"),
    pytest.param(batch.Plan(2, "dask"), id="dask", marks=pytest.mark.slow),
    pytest.param(batch.Plan(2, "ray"), id="ray", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("plan", BACKENDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_sections_in_the_order_of_the_files_and_failures_apart(tmp_path, measure, plan):
    names = files(tmp_path, "c", "bad", "a", "fault", "b")
    found = batch.run([*names, names[0]], measure, plan, output=str(tmp_path / "out.json"), title=lambda f: f"T {Path(f).name}")
    assert [section.id for section in found] == names
    assert sizes(found) == [1.0, None, 3.0, None, 5.0]
    assert found[1].error == "`file` must be good, got 'bad'; choose another"
    assert found[1].title == "T bad"
    assert found[3].error == "ZeroDivisionError: of ours; this is a fault of Residyn"
    assert not list(tmp_path.glob("*.partial.jsonl"))


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)
@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_a_killed_worker_loses_nothing(tmp_path, measure, backend, capfd):
    names = files(tmp_path, "a", "once1", "b", "once2", "c")
    found = batch.run(names, measure, batch.Plan(2, backend))
    assert sizes(found) == [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_that_always_kills_is_reported_and_the_others_are_done(tmp_path, measure, capsys):
    found = batch.run(files(tmp_path, "a", "kills", "b"), measure, batch.Plan(2))
    assert sizes(found) == [1.0, None, 3.0]
    assert "its process was killed twice" in found[1].error
    assert "a process was killed" in capsys.readouterr().err


def test_an_interruption_keeps_what_is_done_and_a_changed_file_is_done_again(tmp_path, measure, capsys):
    names = files(tmp_path, "a", "b", "stop")
    output = str(tmp_path / "out.json")
    with pytest.raises(Stopped, match="--resume goes on from there"):
        batch.run(names, measure, batch.Plan(), output=output, conditions={"k": 1})
    assert Path(f"{output}.partial.jsonl").exists()
    Path(names[1]).write_bytes(b"x" * 9)
    seen = []
    found = batch.run(
        names, lambda file: (seen.append(file), measure(file))[1], batch.Plan(resume=True), output=output, conditions={"k": 1}
    )
    assert seen == names[1:]
    assert sizes(found) == [1.0, 9.0, 3.0]
    assert "1 files are done already" in capsys.readouterr().err


def test_other_conditions_take_nothing_over(tmp_path, measure, capsys):
    names = files(tmp_path, "a", "stop")
    output = str(tmp_path / "out.json")
    with pytest.raises(Stopped, match="--resume goes on from there"):
        batch.run(names, measure, batch.Plan(), output=output, conditions={"k": 1})
    assert sizes(batch.run(names, measure, batch.Plan(resume=True), output=output, conditions={"k": 2})) == [1.0, 2.0]
    assert "nothing is taken over: it was made with k 1, now 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"jobs": 0}, "`--jobs` must be at least 1, or -1 for one a core, got 0"),
        ({"backend": "mpi"}, "`--backend` must be one of loky, dask, ray, got 'mpi'"),
        ({"scheduler": "tcp://x:1"}, "`--scheduler` needs `--backend dask` or `ray`"),
    ],
)
def test_plans_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        batch.Plan(**arguments)


def test_resume_needs_an_output():
    with pytest.raises(InputError, match="`--resume` must come with `-o FILE`"):
        batch.run([], None, batch.Plan(resume=True))


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)
def test_a_scheduler_that_does_not_answer_is_named(tmp_path, measure):
    with pytest.raises(InputError, match="`--scheduler` must be the address of a Dask scheduler that answers"):
        batch.run(files(tmp_path, "a"), measure, batch.Plan(2, "dask", "tcp://127.0.0.1:9"))
