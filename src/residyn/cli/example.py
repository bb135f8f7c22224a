"""`residyn example`: files to try a verb on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from residyn.cli.options import Debug
from residyn.cli.output import emit, say
from residyn.cli.samples import SAMPLES
from residyn.errors import InputError, ResidynError, check_choice
from residyn.placing import put


def names(incomplete: str) -> list[str]:
    """How a shell completes the verb.

    Args:
        incomplete: What is typed already.

    Returns:
        The verbs that begin so.
    """
    return [name for name in SAMPLES if name.startswith(incomplete)]


def example(
    verb: Annotated[
        str | None, typer.Argument(metavar="VERB", autocompletion=names, help="What to try; all are listed if none.")
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FOLDER", help="Where they go.")] = ".",
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    debug: Debug = False,
) -> None:
    """Write files to try a verb on, and tell the command to give then."""
    if verb is None:
        width = max(map(len, SAMPLES))
        emit("".join(f"{name:<{width}}  {' '.join(one.files)}: {one.about}\n" for name, one in SAMPLES.items()))
        return
    check_choice("VERB", verb, SAMPLES)
    one = SAMPLES[verb]
    folder = Path(output)
    _refuse(folder, one.files, force)
    for name, content in one.make().items():
        place = folder / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResidynError(f"{str(place.parent)!r} could not be made: {error.strerror}; name a folder by -o") from error
        put(place, content)
    say(f"{one.about}: {', '.join(str(folder / name) for name in one.files)}; to go on{_there(folder)}:")
    emit(one.next)


def _refuse(folder: Path, files: tuple[str, ...], force: bool) -> None:
    """Nothing that is there is lost."""
    there = [name for name in files if (folder / name).exists()]
    if there and not force:
        raise InputError(
            f"`-o` must be a folder without {' and '.join(repr(name) for name in there)}, got {str(folder)!r}; "
            "give another by -o, or --force to write over what is there"
        )


def _there(folder: Path) -> str:
    return "" if folder == Path() else f", in {str(folder)!r}"
