"""What the commands of the pages print: `python docs/expected.py` writes it into them, `tests/test_docs_expected.py` compares.

A `console` block directly above a `text` block is run, line by line, in an empty folder; the second block is what
its last command prints (to standard error only if nothing goes to standard output), without the lines of date and duration.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
_PAIR = re.compile(r"^```console\n((?:\$ [^\n]*\n)+)```\n\n```text\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[-−]?\d[\d,]*\.?\d*(?:×10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+|e[-+]?\d+)?")
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")
_LASTED = re.compile(r"(?:; )?\b\d+(?:\.\d+)? (?:s|min|min \d+ s)$", re.MULTILINE)
NEAR = 0.2
"""Numbers may differ by this share: another processor rounds otherwise, and a training makes that larger."""
_ROUNDING = 1e-5
"""And by this much: drifts and widths that would be zero without rounding."""
_TIME = re.compile(r"\ba moment\b|\b\d+(?:\.\d+)? (?:s|min)\b")


def pairs(page: Path) -> list[tuple[list[str], str]]:
    """Commands and what the last of them prints, of a page.

    Args:
        page: The Markdown.
    """
    found = _PAIR.findall(page.read_text("utf-8"))
    return [([line[2:].partition("  #")[0].strip() for line in typed.splitlines()], shown) for typed, shown in found]


def without(text: str) -> str:
    """A page without those pairs.

    Args:
        text: The Markdown.
    """
    return _PAIR.sub("", text)


def printed(commands: list[str]) -> str:
    """What the last of some commands prints, run in an empty folder.

    Args:
        commands: Lines that begin with `residyn`.

    Raises:
        RuntimeError: If one of them ends in something else than 0 or 1.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    env.pop("COLUMNS", None)
    said = ""
    with tempfile.TemporaryDirectory() as folder:
        for command in commands:
            words = [sys.executable, "-m", *command.split()]
            ended = subprocess.run(words, cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False)
            if ended.returncode not in (0, 1):
                raise RuntimeError(f"{command}: exit code {ended.returncode}: {ended.stderr}")
            said = ended.stdout or ended.stderr
    return settled(said)


def settled(said: str) -> str:
    """Without the last lines, of command, versions and date, and without durations.

    Args:
        said: What a command printed.
    """
    body = re.sub(r"\nresidyn [^\n]*\n(?:[^\n]+\n)*python \d[^\n]*\n(?:[^\n]+\n)*\Z", "", said)
    lines = (_LASTED.sub("", line).rstrip() for line in body.splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip("\n")) + "\n"


def differences(shown: str, said: str) -> list[str]:
    """Where two such texts differ: in a word, or a number by more than `NEAR`; line breaks, rules and durations do not count.

    Args:
        shown: On the page.
        said: By the command.
    """
    ours, theirs = (_TIME.sub("…", " ".join(re.sub(r"─+", " ", text).split())) for text in (shown, said))
    words = [_NUMBER.sub("#", text).split() for text in (ours, theirs)]
    if words[0] != words[1]:
        first = next((k for k, (a, b) in enumerate(zip(*words, strict=False)) if a != b), min(map(len, words)))
        return [f"{' '.join(words[0][first : first + 8])!r} on the page, {' '.join(words[1][first : first + 8])!r} printed"]
    values = [[_value(found) for found in _NUMBER.findall(text)] for text in (ours, theirs)]
    apart = [(a, b) for a, b in zip(*values, strict=True) if abs(a - b) > NEAR * max(abs(a), abs(b)) + _ROUNDING]
    return [f"{a} on the page, {b} printed" for a, b in apart]


def _value(found: str) -> float:
    return float(found.translate(_RAISED).replace("×10", "e").replace(",", ""))


def main() -> None:
    """Write what is printed into all pages, or into those whose names are given."""
    for page in sorted(DOCS.glob("*.md")):
        if not pairs(page) or (sys.argv[1:] and page.stem not in sys.argv[1:]):
            continue
        text = page.read_text("utf-8")
        for commands, shown in pairs(page):
            said = printed(commands)
            sys.stdout.write(f"{page.name}: {commands[-1]}: {len(differences(shown, said)) if shown else 'new'}\n")
            old = next(found for found in _PAIR.finditer(text) if found[1].splitlines()[-1][2:].startswith(commands[-1]))
            text = text[: old.start(2)] + said + text[old.end(2) :]
            page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
