"""`residyn list`: what the atlas holds."""

from __future__ import annotations

import dataclasses
import json

from residyn.atlas import catalog
from residyn.cli.options import Debug, Json
from residyn.cli.output import emit


def list_entries(as_json: Json = False, debug: Debug = False) -> None:
    """List the systems of the atlas."""
    if as_json:
        entries = [dataclasses.asdict(entry) for entry in catalog.ENTRIES]
        emit(json.dumps(entries, ensure_ascii=False, indent=1))
        return
    width = max((len(entry.id) for entry in catalog.ENTRIES), default=0)
    emit("".join(f"{entry.id:<{width}}  {entry.title}\n" for entry in catalog.ENTRIES))
