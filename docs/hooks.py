"""What mkdocs fills in while it builds: `[[api residyn.roots]]` becomes the reference of every public name of that module.

The names are those of the module's `__all__`, so that a new one needs no line in the documentation.
"""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "src"
_OUTSIDE = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
_log = logging.getLogger("mkdocs.plugins.residyn")  # what is logged below this name counts for --strict
_API = re.compile(r"^\[\[api ([\w.]+)((?: [\w.]+)*)\]\]$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the references in.

    Args:
        markdown: The page as written.

    Returns:
        The page for mkdocstrings.
    """
    markdown = _API.sub(lambda found: reference(found[1], found[2].split()), markdown)
    if "[[errors]]" in markdown:
        markdown = markdown.replace("[[errors]]", errors())
    return markdown.replace("[[codes]]", codes()) if "[[codes]]" in markdown else markdown


def errors() -> str:
    """The table of what Residyn raises on purpose: every class of `residyn.errors`.

    Returns:
        A table in Markdown.
    """
    tree = ast.parse(_path("residyn.errors").read_text("utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    rows = [
        f"| `{node.name}` | {', '.join(f'`{ast.unparse(base)}`' for base in node.bases)} | {_first_line(node)} |"
        for node in classes
    ]
    return "\n".join(["| class | also a | |", "|---|---|---|", *rows])


def codes() -> str:
    """The table of an audit's findings, from `residyn.audit.codes`.

    Returns:
        A table in Markdown.
    """
    from residyn.audit.codes import CODES

    return "\n".join(["| code | | raised |", "|---|---|---|", *(f"| {c.id} | {c.title} | {c.rule} |" for c in CODES.values())])


def _first_line(node: ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").splitlines()[0]


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """See that opening a page asks nothing of the net.

    Args:
        output: The page as HTML.
        page: Where it belongs.

    Returns:
        The same.
    """
    for tag in _OUTSIDE.findall(output):
        if 'rel="canonical"' not in tag:
            _log.warning("%s fetches from outside: %s", page.file.src_path, tag)
    return output


def reference(module: str, only: list[str]) -> str:
    """The directives of a module's public names, each at the place where it is defined.

    Args:
        module: Dotted name.
        only: The names to take; all public ones if empty.

    Returns:
        One directive a name.
    """
    tree = ast.parse(_path(module).read_text("utf-8"))
    homes = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("residyn")
        for alias in node.names
    }
    return "\n\n".join(f"::: {homes.get(name, module)}.{name}" for name in only or _public(tree, module))


def _path(module: str) -> Path:
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _public(tree: ast.Module, module: str) -> list[str]:
    """The names in a module's `__all__`, read without importing it."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    raise ValueError(f"`{module}` has no `__all__`")
