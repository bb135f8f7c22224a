"""JSON schemas (draft 2020-12) of what the verbs print with `--json`: the files beside this one, made from the types.

`python -m residyn.schemas FOLDER` writes them; a test holds the published files against the types, and every verb's output
against its file.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from residyn.errors import check_choice

NAMES = ("result", "list", "explain")
VERBS = {"list": "list", "explain": "explain"}
"""Verbs whose output has a schema of its own; all others print a `result`."""


def schema(name: str = "result") -> dict[str, Any]:
    """A published schema.

    Args:
        name: `"result"` (the output of every job), `"list"` or `"explain"`.

    Returns:
        The schema, as JSON types.

    Raises:
        InputError: If there is none of this name.

    >>> schema("list")["type"]
    'array'
    """
    check_choice("name", name, NAMES)
    found: dict[str, Any] = json.loads(resources.files("residyn.schemas").joinpath(f"{name}.json").read_text("utf-8"))
    return found
