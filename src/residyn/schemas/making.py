"""Makes a JSON schema from a dataclass: one definition a class, its docstring's words, its types."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any, Literal

from residyn.atlas.catalog import Entry
from residyn.audit.codes import Code
from residyn.results import SCHEMA, Result

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    # what JSON has no form for is a word
    float: {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]},
}


def made(name: str) -> dict[str, Any]:
    """The schema of a name in `residyn.schemas.NAMES`, from the types.

    Args:
        name: `"result"`, `"list"` or `"explain"`.

    Returns:
        The schema.
    """
    definitions: dict[str, Any] = {}
    if name == "result":
        body = _of(Result, definitions)
        definitions["Result"]["properties"]["schema"] = {"const": SCHEMA}
    elif name == "list":
        body = {"type": "array", "items": _of(Entry, definitions)}
    else:
        body = {"anyOf": [_of(Entry, definitions), _of(Code, definitions)]}
    return {"$schema": _DRAFT, "title": f"residyn {name}", **body, "$defs": dict(sorted(definitions.items()))}


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; those of dataclasses go to the definitions."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        name = typing.cast("type", kind).__name__
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _object(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is list:
        return {"type": "array", "items": _of(inner[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(inner[1], definitions)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [part for one in inner for part in _flat(_of(one, definitions))]}
    return dict(_PLAIN[kind])


def _flat(part: dict[str, Any]) -> list[dict[str, Any]]:
    return list(part["anyOf"]) if set(part) == {"anyOf"} else [part]


def _object(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    told = _told(kind.__doc__ or "")
    properties = {}
    for part in dataclasses.fields(kind):
        properties[part.name] = _of(hints[part.name], definitions)
        if part.name in told:
            properties[part.name]["description"] = told[part.name]
    return {
        "type": "object",
        "description": (kind.__doc__ or "").strip().partition("\n")[0],
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _told(text: str) -> dict[str, str]:
    """What a docstring says of each argument."""
    _, _, body = text.partition("Args:\n")
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {12,}.*)*)", body, flags=re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}
