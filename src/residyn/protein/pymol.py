"""A PyMOL script that shows bonds and candidates on the structure."""

from __future__ import annotations

import re
from pathlib import Path

from residyn.results import Section

_PATH = re.compile(r"[\w ./+@-]+")
_ADDRESS = re.compile(r"(?P<chain>[A-Za-z0-9_]*):(?P<number>-?\d+[A-Za-z]?)")


def script(sections: list[Section], limit: int = 20) -> str:
    """Commands that load each file, draw its bonds as sticks and its best candidates as dashes.

    Names that could be read as commands are left out: PyMOL runs what it reads.

    Args:
        sections: Sections of `assess`.
        limit: Candidates a file.

    Returns:
        The script.
    """
    lines = ["# bonds that are there are yellow sticks, the best candidates are dashes between their Cβ"]
    for number, part in enumerate(sections, 1):
        name = re.sub(r"\W", "_", Path(part.id).name.split(".")[0])[:40] or f"file{number}"
        lines += [
            f"load {part.id}, {name}" if _PATH.fullmatch(part.id) else f"# load the file as {name}",
            f"as cartoon, {name}",
        ]
        rank = 0
        for row in next((t.rows for t in part.tables if t.columns[:2] == ["rank", "residue"]), []):
            ends = [_selection(name, str(row[k])) for k in (1, 3)]
            if not all(ends):
                continue
            if row[5]:
                lines.append(f"show sticks, {name} and ({ends[0]} or {ends[1]})")
            elif rank < limit:
                rank += 1
                lines.append(
                    f"distance {name}_{rank}, {name} and {ends[0]} and name CB+CA, {name} and {ends[1]} and name CB+CA, mode=4"
                )
    return "\n".join([*lines, "color yellow, elem S", "hide labels", "zoom", ""])


def _selection(name: str, address: str) -> str:
    """An address as a selection; empty where its chain's name is no plain word."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return ""
    chain = f"chain {match['chain']} and " if match["chain"] else ""
    return f"({chain}resi {match['number'].replace('-', chr(92) + '-')})"
