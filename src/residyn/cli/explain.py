"""`residyn explain`: one system of the atlas, or one code of an audit, in words."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from typing import Annotated

import typer

from residyn.cli.options import Debug, Json, codes
from residyn.cli.output import emit
from residyn.errors import InputError, closest


def explain(
    name: Annotated[
        str, typer.Argument(metavar="ID", autocompletion=codes, help="An entry of `residyn list`, or a code such as RD104.")
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a system of the atlas claims, or what a finding of an audit means."""
    if name.upper().startswith("RD") and name[2:3].isdigit():
        title, rows, plain = _code(name)
    else:
        title, rows, plain = _entry(name)
    if as_json:
        emit(json.dumps(plain, ensure_ascii=False, indent=1))
        return
    lines = [title, ""]
    for key, value in rows.items():
        lines += textwrap.wrap(value, 92, initial_indent=f"  {key:<10}", subsequent_indent=" " * 12)
    emit("\n".join(lines))


def _code(name: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """A code of an audit."""
    from residyn.audit.codes import CODES

    code = CODES.get(name.upper())
    if code is None:
        hint = closest(name, CODES)
        raise InputError(f"`ID` must be a code of an audit, one of {', '.join(CODES)}, got {name!r}{hint and f'; {hint}'}")
    rows = {"raised": code.rule, "why": code.why, "fix": code.fix, "reference": code.reference}
    return f"{code.id}: {code.title}", {key: text for key, text in rows.items() if text}, dataclasses.asdict(code)


def _entry(name: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """A system of the atlas."""
    from residyn.atlas import runner

    entry = runner.select([name])[0]
    rows = {
        "branch": entry.branch,
        "claim": entry.claim,
        "data": entry.data,
        "source": entry.module,
        "run": f"residyn atlas {entry.id} -o {entry.id}.html",
    }
    return entry.title, rows, dataclasses.asdict(entry)
