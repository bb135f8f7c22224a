"""Whether a saved torch.export program can be loaded without running anything that is in the file.

`torch.export.load` unpickles some members, evaluates expressions of sizes and guards, and looks operators up by dotted name. A
file passes if its pickles hold tensors and plain containers only, its expressions only numbers, sizes and their names, and its
operators are torch's.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import torch

from residyn.errors import InputError

_SIZES = frozenset(
    "FloorDiv ModularIndexing Where PythonMod Mod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatPow "
    "FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat Max Min "
    "Eq Ne Lt Le Gt Ge Unequality Equality StrictLessThan LessThan GreaterThan StrictGreaterThan Identity Symbol Integer "
    "Rational Float Add Mul Pow And Or Not Tuple oo int_oo".split()
)
_SYMBOL = re.compile(r"[suz][a-z]*\d+")
_ARITHMETIC = "add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ not_ xor lshift rshift getitem index"
_OPERATOR = re.compile(
    r"torch\.ops\.\w+\.\w+(?:\.\w+)?|math\.\w+|torch\.sym_\w+|torch\._sym_\w+|_operator\.(?:"
    + _ARITHMETIC.replace(" ", "|")
    + ")"
)
_NODES = (
    ast.Expression, ast.Compare, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.BinOp, ast.Add, ast.Sub,
    ast.Mult, ast.FloorDiv, ast.Mod, ast.Pow, ast.Constant, ast.Subscript, ast.Name, ast.Load, ast.Call, ast.Attribute, ast.Eq,
    ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.In, ast.Tuple, ast.List, ast.keyword, ast.Div,
)  # fmt: skip
_GUARD_NAMES = {"L", "args", "kwargs", "len", "size", "shape", "stride", "storage_offset", "ndim", "device", "dtype"}


def inspect(path: str) -> None:
    """Refuse a program that would run something of its own when it is loaded.

    Args:
        path: The `.pt2` file.

    Raises:
        InputError: If the file is no such archive, or holds what would be run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                _member(path, name, archive)
    except (zipfile.BadZipFile, OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: must be a program of torch.export.save, got: {str(error)[:120]}") from error


def _member(path: str, name: str, archive: zipfile.ZipFile) -> None:
    inner = name.partition("/")[2] if "/" in name else name
    if "aotinductor" in inner or inner.endswith((".so", ".dylib", ".dll", ".py", ".cpp")):
        raise _refused(path, name, "compiled code or sources")
    if inner.startswith("data/constants/") and ("opaque_obj" in inner or "custom_obj" in inner):
        raise _refused(path, name, "pickled objects")
    if inner.startswith("data/sample_inputs/") and not inner.endswith(".json"):
        _tensors_only(path, name, archive.read(name))
    if inner.startswith("data/") and inner.endswith("config.json"):
        folder = name.rpartition("/")[0]
        for entry in json.loads(archive.read(name)).get("config", {}).values():
            if entry.get("use_pickle"):
                _tensors_only(path, f"{folder}/{entry['path_name']}", archive.read(f"{folder}/{entry['path_name']}"))
    if inner.startswith("models/") and inner.endswith(".json"):
        _graph(path, name, json.loads(archive.read(name)))


def _tensors_only(path: str, name: str, content: bytes) -> None:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise _refused(path, name, "a pickle with more than tensors") from error


def _graph(path: str, name: str, model: Any) -> None:
    for key, value in _pairs(model):
        if key == "expr_str" and not _plain(str(value), _sized):
            raise _refused(path, name, f"the expression {str(value)[:40]!r}")
        if key in ("target", "as_operator") and isinstance(value, str) and not _OPERATOR.fullmatch(value):
            raise _refused(path, name, f"the operator {value[:40]!r}")
        if key == "guards_code":
            for guard in value or ():
                if not _plain(str(guard), _guarding):
                    raise _refused(path, name, f"the guard {str(guard)[:40]!r}")


def _plain(text: str, allowed: Callable[[ast.AST], bool]) -> bool:
    """Whether an expression is made of what is allowed."""
    try:
        return all(isinstance(node, _NODES) and allowed(node) for node in ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False


def _sized(node: ast.AST) -> bool:
    """Whether a part of a size's expression is a number, a size's name, or a function of such."""
    if isinstance(node, ast.Attribute):
        return False
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return bool(_SYMBOL.fullmatch(node.value))
    return not isinstance(node, ast.Name) or node.id in _SIZES or bool(_SYMBOL.fullmatch(node.id))


def _guarding(node: ast.AST) -> bool:
    """Whether a part of a guard looks at the sizes of the inputs, and at nothing else."""
    name = getattr(node, "id", None) or getattr(node, "attr", None)
    return name is None or name in _GUARD_NAMES


def _pairs(tree: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of nested JSON."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _pairs(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from _pairs(item)


def _refused(path: str, name: str, what: str) -> InputError:
    return InputError(
        f"{path}: must run no code of its own when it is loaded, got {what} in {name}; it was not run. Export the model again "
        "with torch.export.save, or hand in package.module:factory"
    )
