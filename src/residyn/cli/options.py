"""Options that several verbs share, how words are completed, and the form of their examples."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer


def _seed(given: str | int) -> int:
    """A seed; by hand because the rule, the value and the fix belong in the error."""
    word = str(given)  # the default comes here as the number it is
    if not word.isdecimal() or int(word) >= 2**63:
        raise typer.BadParameter(f"must be a whole number >= 0 and < 2**63, got {word!r}")
    return int(word)


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", parser=_seed, help="Seed of all that is random.")]
Output = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write a report; its ending says which: .html .json .csv .txt"),
]


def among(*words: str) -> Callable[[str], list[str]]:
    """How a shell completes a value that is one of a few words.

    Args:
        *words: The words.

    Returns:
        What typer asks for as `autocompletion`.

    >>> among("auto", "tv", "landweber")("l")
    ['landweber']
    """

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def entries(incomplete: str) -> list[str]:
    """How a shell completes the id of an atlas entry.

    Args:
        incomplete: What is typed already.

    Returns:
        The ids that begin so.
    """
    from residyn.atlas import catalog

    return [entry.id for entry in catalog.ENTRIES if entry.id.startswith(incomplete)]


def codes(incomplete: str) -> list[str]:
    """How a shell completes the id of an atlas entry or the code of an audit.

    Args:
        incomplete: What is typed already.

    Returns:
        The ids and codes that begin so.
    """
    from residyn.audit.codes import CODES

    return [*entries(incomplete), *(code for code in CODES if code.startswith(incomplete.upper()))]


def examples(first: str, second: str) -> str:
    """The end of a help text: two command lines to start from.

    Args:
        first: The commonest use.
        second: One that shows more.

    Returns:
        Text for the `epilog` of a command.

    >>> examples("residyn list", "residyn list --json").count("$")
    2
    """
    return f"Examples:\n\n$ {first}\n\n$ {second}"


def command(verb: str, files: Sequence[str], options: Mapping[str, object]) -> str:
    """The command line as a report records it, for a shell.

    Args:
        verb: The verb.
        files: What it works on; beyond twenty of them stands `…`.
        options: Values by the names of the options; `None` and `False` are left out, `True` is the option alone.

    >>> command("graph", ["my graph.txt"], {"eta": 0.5, "labels": None, "force": True, "shape": ["2,3", "4"], "-o": "out.html"})
    "residyn graph 'my graph.txt' --eta 0.5 --force --shape 2,3 --shape 4 -o out.html"
    """
    words = ["residyn", *verb.split(), *files[:20], *(["…"] if len(files) > 20 else [])]
    for name, value in options.items():
        option = name if name.startswith("-") else f"--{name}"
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is True:
                words.append(option)
            elif one is not None and one is not False:
                words += [option, f"{one:g}" if isinstance(one, float) else str(one)]
    return shlex.join(words)
