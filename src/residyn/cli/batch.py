"""Many files as one job: results as they come, failures kept apart, an interruption that loses nothing, one order at the end.

A verb hands in `work`, a function of a file's name that returns its `Section`, picklable (a module's function or a
`functools.partial` of one); all else is here: processes on this machine (joblib's loky), a Dask or a Ray cluster, a
progress bar, and the file beside the output that a run killed at any moment is taken up from.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residyn.cli.options import among
from residyn.cli.output import Stopped, say
from residyn.cli.progress import one_thread
from residyn.errors import InputError, ResidynError, check_choice, require
from residyn.results import Section

if TYPE_CHECKING:
    from residyn.atlas.store import Store

Work = Callable[[str], Section]

BACKENDS = ("loky", "dask", "ray")
Jobs = Annotated[int, typer.Option("--jobs", metavar="N", help="Files at once; -1 for one a core.")]
Backend = Annotated[
    str, typer.Option("--backend", autocompletion=among(*BACKENDS), help="Where jobs run: loky (this machine), dask or ray.")
]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", metavar="ADDRESS", help="A Dask or Ray cluster that runs already.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a batch that was interrupted.")]

_KILLED = "its process was killed twice, here while it ran alone; it may need more memory than there is, or crash its library"


@dataclass(frozen=True)
class Plan:
    """Where and how a batch runs.

    Args:
        jobs: Files at once; -1 for one a core.
        backend: `"loky"`, `"dask"` or `"ray"`.
        scheduler: Address of a cluster that runs already; without one, Dask and Ray start workers on this machine.
        resume: Take over what an interrupted run of the same output has finished.

    Raises:
        InputError: If a value breaks its rule.
    """

    jobs: int = 1
    backend: str = "loky"
    scheduler: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        check_choice("--backend", self.backend, BACKENDS, "loky uses this machine's cores")
        if self.jobs == 0 or self.jobs < -1:
            raise InputError(f"`--jobs` must be at least 1, or -1 for one a core, got {self.jobs}")
        if self.scheduler is not None and self.backend == "loky":
            raise InputError(f"`--scheduler` needs `--backend dask` or `ray`, got {self.scheduler!r} with loky; name its kind")

    @property
    def here(self) -> bool:
        """Whether all runs in this process."""
        return self.jobs == 1 and self.backend == "loky"


def run(
    files: Sequence[str],
    work: Work,
    plan: Plan,
    *,
    output: str | None = None,
    conditions: dict[str, Any] | None = None,
    title: Callable[[str], str] = str,
) -> list[Section]:
    """Work through files.

    What is finished is kept in `OUTPUT.partial.jsonl` until all is done. Sections come back in the order of `files`,
    whatever the order in which they were finished.

    Args:
        files: Names of the files; one that is named twice is done once.
        work: What to do with a file; its section's id must be the file's name.
        plan: Where and how.
        output: The output file, beside which finished sections are kept; `None` keeps none.
        conditions: What must be equal for a kept section to be taken over: options and versions.
        title: Heads the section of a file that failed.

    Returns:
        A section a file; the section of one that failed says why in `error`.

    Raises:
        InputError: If `plan.resume` is asked for without `output`.
    """
    check(plan, output)
    names = list(dict.fromkeys(files))
    store = None if output is None else _opened(f"{output}.partial.jsonl", conditions or {}, resume=plan.resume)
    stamps = {name: stamp(name) for name in names}
    done = {} if store is None else {n: s for n, s in store.sections.items() if store.stamps.get(n) == stamps.get(n)}
    if plan.resume and done:
        say(f"{len(done)} files are done already")
    todo = [name for name in names if name not in done]
    try:
        with _bar(len(todo)) as advance:
            for section in _sections(todo, _Guarded(work, title, os.getcwd()), plan):
                done[section.id] = section
                if store is not None:
                    store.add(section, stamps[section.id])
                advance(section.id)
    except KeyboardInterrupt:
        if store is None:
            raise
        raise Stopped(
            f"interrupted; {len(store.sections)} of {len(names)} files are kept in {store.path}; --resume goes on from there"
        ) from None
    if store is not None:
        store.remove()
    return [done[name] for name in names]


@dataclass(frozen=True)
class _Guarded:
    """Work whose failures are sections too, so that the other files go on.

    Names of files and modules are meant from the folder in which the command was given: a worker that was started in another
    goes there, and stays, as the next file is of the same command.
    """

    work: Work
    title: Callable[[str], str]
    folder: str

    def __call__(self, file: str) -> Section:
        if os.getcwd() != self.folder and os.path.isdir(self.folder):
            os.chdir(self.folder)
        try:
            with one_thread():
                return self.work(file)
        except ResidynError as error:
            return self.failed(file, str(error))
        except Exception as error:  # noqa: BLE001  # a fault of ours in one file must not take the others with it
            return self.failed(file, f"{type(error).__name__}: {error}; this is a fault of Residyn")

    def failed(self, file: str, why: str) -> Section:
        return Section(file, self.title(file), error=why)


def _opened(path: str, conditions: dict[str, Any], *, resume: bool) -> Store:
    from residyn.atlas.store import Store

    store = Store(path, conditions)
    if resume:
        reason = store.resume()
        if reason:
            say(f"nothing is taken over: {reason}")
        return store
    if store.path.exists():
        say(f"starting anew; what an interrupted run left in {path} would have been taken with `--resume`")
    store.start()
    return store


def check(plan: Plan, output: str | None) -> None:
    """Refuse to go on with a batch that kept nothing.

    Args:
        plan: Where and how.
        output: The output file.

    Raises:
        InputError: If `plan.resume` is asked for without `output`.
    """
    if plan.resume and output is None:
        raise InputError("`--resume` must come with `-o FILE`, got none; the files that are done are kept beside it")


def stamp(file: str | None) -> str:
    """Tells whether a file has changed since it was done.

    Args:
        file: Its name, if there is one.

    Returns:
        Size and time of change; empty where there is no such file.
    """
    if not file:
        return ""
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _sections(files: list[str], work: _Guarded, plan: Plan) -> Iterable[Section]:
    """Sections as they are finished."""
    if plan.here or not files:
        return (work(file) for file in files)
    if plan.backend == "ray":
        return _on_ray(files, work, plan)
    return _on_joblib(files, work, plan)


def _on_joblib(files: list[str], work: _Guarded, plan: Plan) -> Iterator[Section]:
    """By joblib; when a process is killed, what it had not finished is done again, and then alone."""
    joblib = require("joblib", "cluster")
    left = dict.fromkeys(files)
    killed = _killed(plan)
    with _dask(plan) if plan.backend == "dask" else nullcontext():
        for attempt in range(2):
            try:
                with joblib.parallel_config(plan.backend, n_jobs=plan.jobs):
                    found = joblib.Parallel(return_as="generator_unordered")(joblib.delayed(work)(file) for file in list(left))
                for section in found:
                    del left[section.id]
                    yield section
                return
            except killed:
                say(f"a process was killed; {len(left)} files are left" + (", now one by one" if attempt else ""))
        for file in left:
            try:
                with joblib.parallel_config(plan.backend, n_jobs=2):
                    (section,) = joblib.Parallel()([joblib.delayed(work)(file)])
                yield section
            except killed:
                yield work.failed(file, _KILLED)


def _killed(plan: Plan) -> tuple[type[Exception], ...]:
    """What it is called where a process that worked on a file is gone."""
    if plan.backend == "dask":
        return (require("distributed", "cluster").KilledWorker,)
    return (require("joblib.externals.loky.process_executor", "cluster").TerminatedWorkerError,)


@contextmanager
def _dask(plan: Plan) -> Iterator[None]:
    """A client of the cluster, or of workers started here."""
    distributed = require("distributed", "cluster")
    if plan.scheduler is not None:
        try:
            client = distributed.Client(plan.scheduler, timeout=10, set_as_default=True)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(
                f"`--scheduler` must be the address of a Dask scheduler that answers, got {plan.scheduler!r} "
                f"({type(error).__name__}); it looks like tcp://host:8786"
            ) from error
        with client:
            yield
        return
    workers = plan.jobs if plan.jobs > 0 else os.cpu_count() or 1
    cluster = distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster):
        yield


def _on_ray(files: list[str], work: _Guarded, plan: Plan) -> Iterator[Section]:
    """By Ray's own tasks: its joblib backend hands out results only when all are there. Two a processor wait at a time."""
    with _ray(plan) as ray:
        task, left = ray.remote(max_retries=1)(_call), iter(files)
        running: dict[Any, str] = {}
        while True:
            wide = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # asked each time: a cluster may grow
            running |= {task.remote(work, file): file for file in islice(left, max(0, wide - len(running)))}
            if not running:
                return
            for done in ray.wait(list(running))[0]:
                file = running.pop(done)
                try:
                    yield ray.get(done)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                    yield work.failed(file, _KILLED)


def _reach(address: str) -> None:
    """See that something answers at a host and port; other addresses are for Ray to understand."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _ray(plan: Plan) -> Iterator[Any]:
    """Ray, connected to the cluster or to workers started here; as it is, if it runs already."""
    ray = require("ray", "cluster")
    if ray.is_initialized():
        yield ray
        return
    cores = None if plan.scheduler else (plan.jobs if plan.jobs > 0 else os.cpu_count() or 1)
    try:
        if plan.scheduler:
            _reach(plan.scheduler)  # Ray itself knocks for many minutes
        # "local", for with none it would join what cluster somebody has started here, and that takes no number of processors
        address = plan.scheduler or "local"
        ray.init(address=address, num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise InputError(
            f"`--scheduler` must be the address of a Ray cluster that answers, got {plan.scheduler!r} "
            f"({type(error).__name__}); `auto` finds one on this machine"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _call(work: _Guarded, file: str) -> Section:
    return work(file)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str], None]]:
    """How far a batch is, on standard error: a bar on a terminal, else a line each hundred files."""
    if sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True, highlight=False), transient=True) as progress:
            task: Any = progress.add_task("files", total=total)
            yield lambda file: progress.update(task, advance=1, description=Path(file).name)
        return
    count = 0

    def advance(file: str) -> None:
        nonlocal count
        count += 1
        if count % 100 == 0 and count < total:
            say(f"{count} of {total} files")

    yield advance
