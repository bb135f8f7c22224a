"""`residyn bench`: the comparisons with other libraries that those installed allow, run by the checkout's `benchmarks/`.

The comparisons stay outside the package: they need peers that no user of Residyn needs, and what they show is for whoever has
the source at hand. So the verb looks for the checkout that it runs from, or that is the current folder, and hands over to
`python -m benchmarks.run` there, which is the same command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

import residyn
from residyn.cli.options import Debug
from residyn.cli.output import Stopped
from residyn.errors import InputError, closest

_PAGE = "docs/benchmarks.md"


def names(incomplete: str) -> list[str]:
    """How a shell completes the name of a comparison.

    Args:
        incomplete: What is typed already.

    Returns:
        The names that begin so; none where there is no checkout.
    """
    home = checkout()
    return [] if home is None else [name for name in known(home) if name.startswith(incomplete)]


def bench(
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", autocompletion=names, help="Which; all if none.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE.md", help="Where the page goes; docs/benchmarks.md if not given."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes, once each, shown and not kept: does it run?")] = False,
    which: Annotated[bool, typer.Option("--list", help="List the comparisons, and what each lacks.")] = False,
    debug: Debug = False,
) -> None:
    """Measure Residyn against the peers that are installed, each comparison in a process of its own, and write the page."""
    home = checkout()
    if home is None:
        raise InputError(
            "`bench` must be run from a checkout of Residyn's source, got an installation without its folder `benchmarks`; get "
            "the source, install it with `python -m pip install -e .`, and run `residyn bench` there"
        )
    for name in wanted or ():
        if name not in known(home):
            hint = closest(name, known(home)) or f"known are {', '.join(known(home))}"
            raise InputError(f"`NAME` must be a comparison, got {name!r}; {hint}")
    target = None if output is None else Path(output).absolute()
    if target is not None and (target.suffix != ".md" or not target.parent.is_dir()):
        raise InputError(f"`-o` must end in .md and be in a folder that exists, got {output!r}; e.g. -o benchmarks.md")
    words = [*(wanted or ()), *(["--quick"] if quick else []), *(["--list"] if which else [])]
    words += [] if target is None else ["-o", str(target)]
    paths = [str(Path(residyn.__file__).parents[1]), str(home), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    try:
        ended = subprocess.run([sys.executable, "-m", "benchmarks.run", *words], env=environment, check=False)
    except KeyboardInterrupt:
        raise Stopped(f"interrupted; what was measured stands in {output or _PAGE}") from None
    raise typer.Exit(ended.returncode)


def checkout() -> Path | None:
    """The folder that holds `benchmarks/`: that of the source this runs from, or the current one."""
    for folder in (Path(residyn.__file__).resolve().parents[2], Path.cwd()):
        if (folder / "benchmarks" / "run.py").is_file() and (folder / "benchmarks" / "harness.py").is_file():
            return folder
    return None


def known(home: Path) -> list[str]:
    """The comparisons of a checkout, read without running it."""
    import ast

    tree = ast.parse((home / "benchmarks" / "run.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "MODULES" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return []
