"""A report in another language: sentences looked up whole, numbers and names left as they are.

A language is a gettext catalogue (`.po`) whose ids are the English sentences with `#` for each number or proper name, or list
of such; a translation names each of them once, as `#` in the same order or `{2}` for the second. So a number can be neither
changed nor lost, and what has no translation is found by `Language.missing`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import resources
from typing import Any, TypeVar

from residyn.errors import InputError
from residyn.results import Result

LANGUAGES = ("en", "zh")
CATALOGUES = ("residyn.report", "residyn.atlas")
"""Packages that bring a folder `languages`."""

T = TypeVar("T")

_NUMBER = (
    r"(?<![\w.])[-−+]?\d+(?:,\d{3})*(?:\.\d+)?"
    r"(?:e[-+]?\d+|×?10[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+|[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)?(?!\w)"
    r"|[-−]?∞|(?<!\w)(?:inf|nan)(?!\w)"
)
_NAME = (
    r"(?<!\w)(?:BackwardEuler|ExponentialMidpoint|Midpoint|Euler|Heun|Bosh3|RK4|Tsit5|Dopri5|Dopri8|MMUT|"
    r"camera|moon|brick|grass|gravel|coins|astronaut|coffee|chelsea)(?!\w)"
)
_HOLE = re.compile(f"(?:{_NUMBER})(?:, (?:{_NUMBER}))*|{_NAME}(?:, {_NAME})*")
_SENTENCE = re.compile(r"(?<=[.!?]) (?=[^a-z])")
_CLAIM = re.compile(r"(The claim [a-z ]+:) ")
_WORD = re.compile(r"[^\W\d_]{2}")
_ENTRY = re.compile(r'^msgid (".+")\nmsgstr (".*")$', re.MULTILINE)

_KEPT = {"code", "id", "png", "command", "versions", "started", "schema", "kind", "mark", "xscale", "yscale", "verdict"}


def shape(sentence: str) -> str:
    """A sentence without its numbers and names.

    Args:
        sentence: English.

    Returns:
        The id under which its translation stands.

    >>> shape("Passes within 0.5 % at 20, 30 and 1,000 dB")
    'Passes within # % at # and # dB'
    """
    return _HOLE.sub("#", sentence)


def sentences(text: str) -> Iterator[str]:
    """The parts of a text that are looked up; the opening of a verdict is one.

    Args:
        text: English, one paragraph.

    Yields:
        Its parts.

    >>> list(sentences("The claim holds: it is 1. Passes below 2."))
    ['The claim holds:', 'it is 1.', 'Passes below 2.']
    """
    for sentence in _SENTENCE.split(text):
        opening = _CLAIM.match(sentence)
        yield from (opening[1], sentence[opening.end() :]) if opening else (sentence,)


@dataclass(frozen=True)
class Language:
    """A language and its catalogue.

    Args:
        code: `"en"` or `"zh"`.
        catalogue: Translations by id.
    """

    code: str
    catalogue: dict[str, str]

    def __call__(self, text: str) -> str:
        """A text in this language; what has no translation stays English."""
        if self.code == "en":
            return text
        return "\n\n".join(self._paragraph(part) for part in text.split("\n\n"))

    def result(self, result: Result) -> Result:
        """A result whose texts are in this language; numbers, ids and code are the same objects."""
        return result if self.code == "en" else self._translated(result)

    def missing(self, value: Any) -> list[str]:
        """Ids of what has no translation.

        Args:
            value: A result, a section or a text.

        Returns:
            The ids, in order.
        """
        found = dict.fromkeys(shape(part) for text in _texts(value) for part in self._parts(text))
        return [part for part in found if _says(part) and part not in self.catalogue]

    def _parts(self, text: str) -> Iterator[str]:
        for paragraph in text.split("\n\n"):
            yield from (paragraph,) if shape(paragraph) in self.catalogue else sentences(paragraph)

    def _paragraph(self, text: str) -> str:
        if shape(text) in self.catalogue:
            return self._sentence(text)
        return "".join(self._sentence(part) for part in sentences(text))

    def _sentence(self, text: str) -> str:
        found = self.catalogue.get(shape(text))
        if found is None:
            return text
        return self._fill(found, _HOLE.findall(text))

    @staticmethod
    def _fill(translation: str, values: list[str]) -> str:
        rest = iter(values)
        return re.sub(r"#|\{(\d+)\}", lambda hole: values[int(hole[1]) - 1] if hole[1] else next(rest), translation)

    def _translated(self, value: T) -> T:
        """The same dataclass, list or text, in this language."""
        done: Any = value
        if isinstance(value, str):
            done = self(value)
        elif isinstance(value, list):
            done = [self._translated(item) for item in value]
        elif is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in fields(value) if field.name not in _KEPT]
            done = replace(value, **{name: self._translated(getattr(value, name)) for name in names})
        return done


@functools.cache
def language(code: str) -> Language:
    """A language by its code.

    Args:
        code: `"en"` or `"zh"`.

    Returns:
        The language, its catalogues read.

    Raises:
        InputError: If there is no such language.

    >>> language("zh")("Findings")
    '结论'
    """
    if code not in LANGUAGES:
        raise InputError(f"`--lang` must be one of {', '.join(LANGUAGES)}, got {code!r}; en is English, zh Chinese")
    catalogue: dict[str, str] = {}
    for package in CATALOGUES if code != "en" else ():
        text = resources.files(package).joinpath("languages", f"{code}.po").read_text("utf-8")
        catalogue |= {json.loads(found[1]): json.loads(found[2]) for found in _ENTRY.finditer(text)}
    return Language(code, catalogue)


def _says(part: str) -> bool:
    """Whether there are words in it: a formula of single letters needs no translation."""
    return bool(_WORD.search(part))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if field.name not in _KEPT:
                yield from _texts(getattr(value, field.name))
