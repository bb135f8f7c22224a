"""MatrixMarket files, read by NumPy: SciPy's own reader brings the process down on some damaged ones (SciPy 1.17)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from scipy import sparse

from residyn.errors import InputError

_FORMS = (b"coordinate", b"array")
_FIELDS = (b"real", b"integer", b"double", b"pattern")
_SYMMETRIES = (b"general", b"symmetric", b"skew-symmetric", b"hermitian")


def read_market(file: Path) -> sparse.coo_array:
    """Read a real matrix.

    Args:
        file: The file.

    Returns:
        The matrix, float64, both halves of a symmetric one.

    Raises:
        InputError: If it is no such file, is complex, or holds other than what it declares.

    Reference:
        Boisvert, Pozo & Remington (1996), The Matrix Market exchange formats, NISTIR 5935.
    """
    with file.open("rb") as text:
        form, field, symmetry = _kind(text.readline(1024), file)
        line = text.readline(1 << 16)
        while line.startswith(b"%") or (line and not line.strip()):
            line = text.readline(1 << 16)
        rows, columns, count = _sizes(line, form, symmetry, file)
        width = 1 if form == b"array" else 2 if field == b"pattern" else 3
        if count * width > file.stat().st_size:  # a number and what parts it from the next: two bytes
            raise _refused(file, f"the {count:,} entries that it declares", f"{file.stat().st_size:,} bytes")
        values = _numbers(text.read(), file)
    if len(values) != count * width:
        raise _refused(file, f"the {count:,} entries that it declares", f"{len(values):,} numbers")
    if form == b"array":
        i, j = _filled(rows, columns, symmetry)
        data = values
    else:
        table = values.reshape(-1, width)
        places = table[:, :2]
        within = (places == np.floor(places)) & (places >= 1) & (places <= [rows, columns])
        if not bool(within.all()):
            raise _refused(file, f"places within {rows} × {columns}", f"{table[~within.all(1)][0].tolist()}")
        i, j = (places.T - 1).astype(np.int64)
        data = np.ones(count) if field == b"pattern" else table[:, 2]
    if symmetry != b"general":
        off = i != j
        mirrored = -data[off] if symmetry == b"skew-symmetric" else data[off]
        i, j, data = np.concatenate([i, j[off]]), np.concatenate([j, i[off]]), np.concatenate([data, mirrored])
    return sparse.coo_array((data, (i, j)), shape=(rows, columns))


def _kind(line: bytes, file: Path) -> tuple[bytes, bytes, bytes]:
    """The first line's words: form, field and symmetry."""
    words = line.lower().split()
    if words[:2] != [b"%%matrixmarket", b"matrix"] or len(words) != 5:
        raise _refused(file, "`%%MatrixMarket matrix` and three more words in its first line", repr(line[:60]))
    form, field, symmetry = words[2:]
    if field == b"complex":
        raise InputError("`FILE` must hold real weights, got complex ones in MatrixMarket")
    if form not in _FORMS or field not in _FIELDS or symmetry not in _SYMMETRIES or (form, field) == (b"array", b"pattern"):
        raise _refused(file, "a form, a field and a symmetry that there are", repr(line[:80]))
    return form, field, symmetry


def _sizes(line: bytes, form: bytes, symmetry: bytes, file: Path) -> tuple[int, int, int]:
    """Rows, columns, and how many entries follow."""
    words = line.split()
    if len(words) != (2 if form == b"array" else 3) or not all(word.isdigit() and len(word) < 19 for word in words):
        raise _refused(file, f"a line with {2 if form == b'array' else 3} sizes", repr(line[:60]))
    rows, columns, *count = map(int, words)
    if symmetry != b"general" and rows != columns:
        raise InputError(f"`FILE` must hold a square matrix, got ({rows}, {columns}) in MatrixMarket, {symmetry.decode()}")
    if form == b"coordinate":
        return rows, columns, count[0]
    half = rows * (rows - 1) // 2
    return rows, columns, rows * columns if symmetry == b"general" else half if symmetry == b"skew-symmetric" else half + rows


def _numbers(body: bytes, file: Path) -> np.ndarray:
    """All numbers of a text."""
    if not body.strip():
        return np.empty(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy only warns where the text is no number
        try:
            return np.fromstring(body.decode("ascii"), dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError) as error:
            raise _refused(file, "numbers below its sizes", " ".join(str(error).split())[:80]) from None


def _filled(rows: int, columns: int, symmetry: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a full matrix's entries, column by column; of a symmetric one those on and below the diagonal."""
    j, i = np.divmod(np.arange(rows * columns), max(rows, 1))
    if symmetry == b"general":
        return i, j
    keep = i > j if symmetry == b"skew-symmetric" else i >= j
    return i[keep], j[keep]


def _refused(file: Path, rule: str, got: str) -> InputError:
    return InputError(f"`FILE` must be MatrixMarket with {rule}, got {got} in {str(file)!r}; write it again")
