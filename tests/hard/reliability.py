"""Everything that was tried to break Residyn, and what it survived:  PYTHONPATH=src:. python -m tests.hard.reliability.

Runs the coverage-guided fuzzing, the kills and the tests of this folder, and writes docs/reliability.md. `--kills`, `--runs` and
`--seed` say how much of it; each part that was run before is kept with `--keep`, so that a long run can be taken up again.
"""

import argparse
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as Tree
from pathlib import Path

from residyn import provenance

from . import fuzz, kill

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
HEAD = """# What was tried to break it

Written by `python -m tests.hard.reliability`; not by hand. A reader may do two things with a file, whatever is in it: return what
it holds, or raise a `ResidynError` whose one line says what is wrong. A job may be stopped at any moment: what stands in the place
of its output is whole or not there, and it goes on to the same bytes.

"""
# What each test of this folder tries, in words; the name of a test is matched from its beginning.
TRIED = {
    "test_readers::test_whole": "Whole files of every kind are read",
    "test_readers::test_damaged": "Whole files, cut, doubled, moved and changed by byte and by grammar (hypothesis)",
    "test_readers::test_any": "Any bytes at all (hypothesis)",
    "test_readers::test_nothing": "Pickles, object arrays, YAML, external entities and headers that would run code",
    "test_sizes::test_an_empty": "Files of no bytes",
    "test_sizes::test_a_gibibyte": "Files of 1 GiB: zeros behind a whole file, within 6 GiB of memory",
    "test_sizes::test_bombs": "Archives and pictures that unpack to far more, and headers that declare what is not there",
    "test_pages::": "Names that are HTML, script, URLs, templates, control codes: in data, of files, in every page",
    "test_machine::test_a_full": "A full disk",
    "test_machine::test_standard": "Standard output on a full disk",
    "test_machine::test_a_folder": "A folder that nobody may write to",
    "test_machine::test_a_closed": "A reader that goes away (`| head -1`)",
    "test_machine::test_nobody": "Standard error that nobody reads",
    "test_machine::test_ctrl": "Ctrl-C at the start and in the middle: exit 130, one line that says what was kept",
    "test_machine::test_locales": "Locales: C without UTF-8, Turkish, Latin-1",
    "test_machine::test_folders": "Folders and files with blanks, quotes, line breaks and other letters in their names",
    "test_machine::test_jobs": "Every batch in such a folder",
    "test_machine::test_outputs": "Names in the data that look like paths",
}


def tested() -> dict[str, list[int]]:
    """Passed, failed and skipped of each line of `TRIED`."""
    report = ROOT / ".reliability.xml"
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", f"--junitxml={report}", "tests/hard"]
    words += ["-k", "not fuzzing and not killed_at_random"]
    subprocess.run(words, cwd=ROOT, env=kill.environment(), stdout=sys.stderr, check=False)
    counts = {what: [0, 0, 0] for what in TRIED.values()}
    for case in Tree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}"
        what = next((words for start, words in TRIED.items() if name.startswith(start)), None)
        if what is not None:
            place = (
                1
                if case.find("failure") is not None or case.find("error") is not None
                else 2
                if case.find("skipped") is not None
                else 0
            )
            counts[what][place] += 1
    report.unlink()
    return counts


def page(found: dict) -> str:
    """The page."""
    lines = [HEAD + "Made with " + ", ".join(f"{key} {value}" for key, value in found["versions"].items()) + ".\n"]
    if "tests" in found:
        lines += ["## Tests\n", "| what was tried | cases | survived | |", "|---|---:|---:|---|"]
        for what, (good, bad, skipped) in found["tests"].items():
            if not good + bad + skipped:  # a run that was stopped before it came to this
                continue
            note = f"{skipped} skipped: a part is not installed" if skipped else ""
            lines.append(f"| {what} | {good + bad} | {good} | {'**not all**' if bad else note} |")
    if "kills" in found:
        rows = found["kills"]
        total = sum(row["kills"] for row in rows)
        lines += [
            "",
            f"## Kill −9, {total} times\n",
            "Each job is killed at random moments, started again with what its help says, and compared",
        ]
        lines += [
            "with an undisturbed run: the same bytes, times of day and seconds spent apart, and never half a file between.",
            "",
        ]
        lines += ["| job | kills | starts | outcome |", "|---|---:|---:|---|"]
        lines += [f"| {row['job']} | {row['kills']} | {row['starts']} | {row['wrong'] or 'the same bytes'} |" for row in rows]
    if "fuzz" in found:
        bad = {one["reader"]: one["what"] for one in found["fuzz"]["found"]}
        counts = found["fuzz"]["counts"]
        lines += ["", f"## Coverage-guided fuzzing, {sum(counts.values()):,} inputs\n"]
        lines += [
            f"Atheris (libFuzzer), steered by the bytecodes of the package that an input reached; at most {fuzz.SECONDS} s of"
        ]
        lines += [
            f"processor time and {fuzz.GIB} GiB of memory an input.",
            "",
            "| reader | inputs | outcome |",
            "|---|---:|---|",
        ]
        lines += [f"| {name} | {count:,} | {bad.get(name, 'a value or a typed error')} |" for name, count in counts.items()]
        lines += [f"| the process | | {bad['']} |"] if "" in bad else []
    return "\n".join([*lines, "", FOUND])


FOUND = """## What this found, and what was done

- SciPy's MatrixMarket reader brings the process down on a damaged file (a segmentation fault): a reader of ours takes its place.
- MatrixMarket, npz and xyz files of a few bytes that declare a billion nodes, entries or atoms took all memory, or hours: sizes are
  held against the bytes that are there before room is made.
- npz archives that unpack to far more than their size, or whose headers say more than they hold: one reader for all of them.
- A PDB residue without a number, an npz that is a single array, an altered checkpoint, a result without a title: a traceback
  became a line.
- A batch of pictures that was killed between a picture and its record refused that picture when it went on.
- Standard output on a full disk, and standard error that nobody reads: a traceback became a line and an exit code.
- A model that no disk had room for ended a training in a traceback: safetensors has an error of its own for that.
- Control codes in a file's names reached the terminal through error messages: they are shown as �.
"""


def main() -> int:
    """Run what is asked for, and write the page."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--kills", type=int, default=50)
    words.add_argument("--runs", type=int, default=20_000)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--keep", type=Path, help="a JSON file of parts that were run before")
    words.add_argument("-o", "--output", type=Path, default=PAGE)
    asked = words.parse_args()
    os.chdir(ROOT)
    found = json.loads(asked.keep.read_text()) if asked.keep and asked.keep.exists() else {}
    found["versions"] = found.get("versions", {}) | provenance.versions("hypothesis", "atheris")  # of all who had a part in it

    def keep() -> None:
        if asked.keep:
            asked.keep.write_text(json.dumps(found))
        asked.output.write_text(page(found), "utf-8")

    if "kills" not in found or sum(row["kills"] for row in found["kills"]) < asked.kills:
        done = found.setdefault("kills", [])
        left = [job.name for job in kill.JOBS if job.name not in {row["job"] for row in done}]
        share = -(-asked.kills // len(kill.JOBS))
        for name in left:
            done += [vars(one) for one in kill.run(share, asked.seed, [name])]
            keep()
    if "tests" not in found:
        found["tests"] = tested()
        keep()
    if "fuzz" not in found:
        errors, counts = fuzz.run(asked.runs, asked.seed)
        found["fuzz"] = {"found": errors, "counts": counts}
    keep()
    failed = (
        any(row["wrong"] for row in found["kills"])
        or any(bad for _, bad, _ in found["tests"].values())
        or found["fuzz"]["found"]
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
