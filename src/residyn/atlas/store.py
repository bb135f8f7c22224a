"""Finished sections of a run, one JSON line each as they come, so that no interruption (kill -9 included) loses them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from residyn.errors import InputError, ResidynError
from residyn.results import SCHEMA, Result, Section

STORE_SCHEMA = "residyn.atlas.partial/1"
_STAMP = "stamp"


class Store:
    """A file of finished sections: a header line that says under which conditions they ran, then one line a section.

    Args:
        path: The file; its folder must exist.
        conditions: What must be equal for a section to be taken again: seed, speed, versions.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.partial.jsonl"
    >>> store = Store(path, {"seed": 0})
    >>> store.start()
    >>> store.add(Section("a", "A"))
    >>> Store(path, {"seed": 0}).resume(), list(store.sections)
    ('', ['a'])
    >>> Store(path, {"seed": 1}).resume()
    'it was made with seed 0, now 1'
    """

    def __init__(self, path: str | Path, conditions: dict[str, Any]) -> None:
        self.path = Path(path)
        self.conditions: dict[str, Any] = json.loads(json.dumps(conditions))
        self.sections: dict[str, Section] = {}
        self.stamps: dict[str, str] = {}

    def start(self) -> None:
        """Begin anew; what the file held is lost.

        Raises:
            ResidynError: If the file cannot be written.
        """
        self.sections, self.stamps = {}, {}
        self._write({"schema": STORE_SCHEMA, **self.conditions}, mode="w")

    def resume(self) -> str:
        """Take over what the file holds, if it was made under the same conditions; else begin anew.

        Returns:
            Why nothing was taken, in words that complete a sentence; empty if all is well.

        Raises:
            ResidynError: If the file cannot be written.
        """
        header, sections = _read(self.path)
        reason = _differs(header, self.conditions)
        # Written again even when taken over: a line cut short by the interruption must not swallow the next one.
        self.start()
        for section, stamp in [] if reason else sections:
            self.add(section, stamp)
        return reason

    def add(self, section: Section, stamp: str = "") -> None:
        """Keep a finished section; one that broke off is not kept, so that `resume` tries it again.

        Args:
            section: The section.
            stamp: What tells whether its source is still the same; found again in `stamps`.

        Raises:
            ResidynError: If the file cannot be written.
        """
        if section.error:
            return
        self.sections[section.id] = section
        self.stamps[section.id] = stamp
        plain = Result("atlas", "", [section]).to_dict()["sections"][0]
        self._write({**plain, _STAMP: stamp} if stamp else plain, mode="a")

    def remove(self) -> None:
        """Delete the file; the run is complete."""
        self.path.unlink(missing_ok=True)

    def _write(self, line: dict[str, Any], mode: str) -> None:
        try:
            with self.path.open(mode, encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ResidynError(
                f"finished sections cannot be kept in {str(self.path)!r}: {error.strerror}; free some space there or "
                "choose another folder with `-o`"
            ) from error


def _read(path: Path) -> tuple[dict[str, Any] | None, list[tuple[Section, str]]]:
    """The header (`None` if there is none) and the sections that can be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None, []
    parsed = [value for value in map(_parse, lines) if value is not None]
    if not parsed or parsed[0].get("schema") != STORE_SCHEMA:
        return None, []
    stamps = [str(line.pop(_STAMP, "")) for line in parsed[1:]]
    sections = zip(map(_section, parsed[1:]), stamps, strict=True)
    return parsed[0], [(section, stamp) for section, stamp in sections if section is not None]


def _parse(line: str) -> dict[str, Any] | None:
    """One line; `None` where the interruption cut it short."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _section(data: dict[str, Any]) -> Section | None:
    try:
        return Result.from_dict({"schema": SCHEMA, "kind": "atlas", "title": "", "sections": [data]}).sections[0]
    except (InputError, TypeError):
        return None


def _differs(header: dict[str, Any] | None, conditions: dict[str, Any]) -> str:
    """Why sections kept under `header` do not fit `conditions`; empty if they do."""
    if header is None:
        return "there is no readable file of an earlier run"
    for key, want in conditions.items():
        got = header.get(key)
        if isinstance(want, dict) and isinstance(got, dict):
            inner = _differs(got, want)
            if inner or set(got) != set(want):
                return inner or f"it was made with other {key}"
        elif got != want:
            return f"it was made with {key} {got}, now {want}"
    return ""
