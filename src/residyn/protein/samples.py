"""Four small proteins that come with the package: entries of the Protein Data Bank, which are in the public domain (CC0)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from residyn.errors import InputError

SAMPLES = {"1ejg": "crambin", "1ubi": "ubiquitin", "5pti": "pancreatic trypsin inhibitor (BPTI)", "5rsa": "ribonuclease A"}
"""Their entries and names."""

_FILES = {"1ejg": "1ejg.pdb.gz", "1ubi": "1ubi.pdb.gz", "5pti": "5pti.cif.gz", "5rsa": "5rsa.pdb.gz"}


def sample(entry: str) -> str:
    """Path of a small protein to try things on.

    Args:
        entry: One of `SAMPLES`.

    Returns:
        Its path, for `read` and for the command line.

    Raises:
        InputError: If there is no such sample.

    >>> Path(sample("1ejg")).name
    '1ejg.pdb.gz'
    """
    if entry not in _FILES:
        raise InputError(f"`entry` must be one of {', '.join(_FILES)}, got {entry!r}")
    return str(Path(str(resources.files("residyn.protein").joinpath("data", _FILES[entry]))))
