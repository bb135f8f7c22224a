"""`residyn explain`: one system in words."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from typing import Annotated

import typer

from residyn.atlas import runner
from residyn.cli.options import Debug, Json
from residyn.cli.output import emit


def explain(
    name: Annotated[str, typer.Argument(metavar="ID", help="An entry of `residyn list`.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a system of the atlas claims, and on what data it is shown."""
    entry = runner.select([name])[0]
    if as_json:
        emit(json.dumps(dataclasses.asdict(entry), ensure_ascii=False, indent=1))
        return
    rows = {
        "branch": entry.branch,
        "claim": entry.claim,
        "data": entry.data,
        "source": entry.module,
        "run": f"residyn atlas {entry.id} -o {entry.id}.html",
    }
    lines = [entry.title, ""]
    for key, value in rows.items():
        lines += textwrap.wrap(value, 92, initial_indent=f"  {key:<8}", subsequent_indent=" " * 10)
    emit("\n".join(lines))
