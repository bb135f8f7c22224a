"""Run the benchmarks and write docs/benchmarks.md:  PYTHONPATH=. python -m benchmarks.run [--quick] [NAME …]."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path

MODULES = (
    "solvers",
    "compiled", "memory", "imports", "spectral_norm", "equilibrium",
    "stiff", "calibrate", "audit", "protein", "graph", "bounds",
    "robust", "unet", "inverse", "depth", "quantum",
)  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Written by `python -m benchmarks.run`; not by hand. Both sides in one process and in turn, CPU time of the process, one thread,
median of 7. *ratio* is the peer's cost over ours: above 1, ours is cheaper. Machines differ and are noisy; the ratios travel,
the times do not.

"""


def table(name: str, quick: bool) -> str:
    """One module's rows as a Markdown table, under its docstring."""
    try:
        module = importlib.import_module(f"benchmarks.{name}")
        if not hasattr(module, "rows"):
            return f"## {name}\n\n{(module.__doc__ or '').strip()}\n\n```text\n{printed(module.main)}```\n"
        rows = module.rows(quick)
    except (ImportError, SystemExit) as error:
        return f"## {name}\n\nNot run: {error}.\n"
    lines = [f"## {name}", "", (module.__doc__ or "").strip(), ""]
    lines += ["| what | ours | peer | ratio | asked | | note |", "|---|---:|---:|---:|---:|---|---|"]
    for row in rows:
        asked = getattr(row, "asked", None)
        verdict = getattr(row, "verdict", "")
        lines.append(
            f"| {row.name} | {row.ours:.3g} {row.unit} | {row.peer:.3g} {row.unit} | {row.ratio:.2f} | "
            f"{'' if asked is None else f'≥ {asked:.3g}'} | {verdict} | {row.note} |"
        )
    return "\n".join(lines) + "\n"


def printed(job: Callable[[], object]) -> str:
    """What a job prints."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        job()
    return page.getvalue()


def main(arguments: list[str]) -> None:
    """Run all, or the named ones, and write their sections of the page; with `--quick` show them instead."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    quick = "--quick" in arguments
    names = [name for name in arguments if not name.startswith("-")] or list(MODULES)
    unknown = [name for name in names if name not in MODULES]
    if unknown:
        sys.exit(f"no benchmark is called {unknown[0]!r}; there are {', '.join(MODULES)}")
    from residyn.provenance import versions

    found = ", ".join(f"{key} {value}" for key, value in versions().items())
    machine = f"{found}; {platform.machine()}, {os.cpu_count()} cores.\n\n"
    sections = {} if quick else kept(PAGE)
    for name in names:
        sections[name] = table(name, quick)
        if not quick:  # after each, so that what was measured outlives an interruption
            write(sections, machine)
    if quick:
        sys.stdout.write("\n".join(sections[name] for name in names))


def kept(page: Path) -> dict[str, str]:
    """The sections that a page has, by name."""
    text = page.read_text("utf-8") if page.exists() else ""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].strip(): f"## {part.rstrip()}\n" for part in parts}


def write(sections: dict[str, str], machine: str) -> None:
    """The page: sections in the order of `MODULES`."""
    PAGE.write_text(HEAD + machine + "\n".join(sections[name] for name in MODULES if name in sections), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
