"""Where a result came from: the versions that took part, and when. Nothing here imports what it names."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata

from residyn import __version__

_CORE = ("torch", "numpy", "scipy")


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, Residyn, its core dependencies and further packages, read without importing them.

    Args:
        *packages: Names of further installed packages; those that are not installed are left out.

    Returns:
        Name to version, in a fixed order.

    >>> list(versions())[:2]
    ['python', 'residyn']
    """
    found = {"python": platform.python_version(), "residyn": __version__}
    for name in (*_CORE, *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time, ISO 8601 in UTC, to the second.

    Returns:
        For example `"2026-01-31T12:00:00+00:00"`.
    """
    return datetime.now(UTC).isoformat(timespec="seconds")
