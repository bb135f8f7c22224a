"""Graphs from files: edge lists, GraphML, MatrixMarket and npz. All checks of what a user hands in are here."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from residyn.arrays import read_npy, read_npz
from residyn.errors import InputError
from residyn.graph.market import read_market

_ALONE = 1_000_000
"""Nodes that a file may have whatever its edges."""
_EDGES = ("edge_index", "edges", "edge_list")
_FEATURES, _LABELS, _WEIGHTS = ("x", "features", "feat"), ("y", "labels", "label"), ("edge_weight", "weight", "weights")


_UNREADABLE = (
    ValueError, TypeError, AttributeError, LookupError, ArithmeticError, OSError, EOFError, MemoryError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""What NumPy's and SciPy's readers raise on files that are not what their ending says."""


@dataclass(frozen=True)
class GraphFile:
    """A graph as a file has it.

    Args:
        names: Name of each node.
        edges: `(2, edges)`, as given: one way or both, repeated, with loops.
        weight: `(edges,)` float64; `None` if there is none.
        features: `(n, d)` float32; `None` if there are none.
        labels: Class numbers, `(n,)`, -1 where there is none; `None` if no node has one.
        classes: Name of each class.
        notes: What the reader had to decide, in words for the user.
    """

    names: list[str]
    edges: Tensor
    weight: Tensor | None = None
    features: Tensor | None = None
    labels: Tensor | None = None
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.names)


_OTHERS = {".gml": "GML", ".gexf": "GEXF", ".net": "Pajek", ".paj": "Pajek", ".dot": "Graphviz", ".json": "JSON"}


def read(path: str, *, nodes: int | None = None, labels: str | None = None, features: str | None = None) -> GraphFile:
    """Read a graph.

    Args:
        path: `.mtx` (MatrixMarket), `.npz` (`edge_index` or `edges`, or a matrix of `scipy.sparse.save_npz`; `x`, `y`,
            `edge_weight` if there are), `.graphml`, or else an edge list: two node names and perhaps a weight a line, separated
            by blanks, tabs, commas or semicolons, `#` or `%` before remarks; a name may stand in double quotes.
        nodes: Number of nodes, for an edge list of numbers that leaves out isolated ones.
        labels: A file with a node and its class a line, for forms that hold none; or the attribute of a GraphML file.
        features: A file with a node and its features a line, or an `.npy` array `(n, d)`.

    Returns:
        The graph.

    Raises:
        InputError: If the file cannot be read as what it says it is.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"`FILE` must be a file that is there, got {path!r}")
    ending = file.suffix.lower()
    try:
        if ending == ".npz":
            graph = _npz(file)
        elif ending == ".mtx":
            graph = _matrix(read_market(file), "MatrixMarket")
        elif ending in (".graphml", ".xml"):
            from residyn.graph.graphml import read_graphml

            attribute = labels if labels is not None and not Path(labels).is_file() else None
            graph = read_graphml(file, attribute)
            labels = None if attribute is not None else labels
        elif ending in _OTHERS:
            raise InputError(
                f"`FILE` must be an edge list, .graphml, .mtx or .npz, got {path!r}, which is {_OTHERS[ending]}; convert it: "
                "networkx.write_graphml"
            )
        else:
            graph = _edge_list(_text(file), nodes)
    except _UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"`FILE` must be readable as {ending or 'an edge list'}, got {path!r}: {_first_line(error)}"
        ) from error
    if not graph.names:
        raise InputError(f"`FILE` must hold a node, got none in {path!r}; an edge list has two node names a line")
    if labels is not None:
        graph = _with_labels(graph, labels)
    return graph if features is None else _with_features(graph, features)


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(
            f"`FILE` must be text in UTF-8, got {str(file)!r}; other forms end in .npz, .mtx or .graphml"
        ) from None


def lines_of(text: str) -> Iterator[tuple[int, list[str]]]:
    """Fields of each line that is not empty and no remark, with its number."""
    for number, row in enumerate(text.splitlines(), 1):
        line = row.strip()
        if line and line[0] not in "#%":
            yield number, _fields(line)


def _fields(line: str) -> list[str]:
    """Fields between blanks, tabs, commas or semicolons; where names have blanks, between the others alone, or in quotes."""
    plain = [part for part in re.split(r"[\s,;]+", line) if part]
    mark = next((mark for mark in "\t;," if mark in line), None)
    if '"' in line:
        quoted = re.findall(rf"\"((?:[^\"]|\"\")*)\"|([^{mark or ' '}\"]+)", line)
        return [text for text in (quote.replace('""', '"') or bare.strip() for quote, bare in quoted) if text]
    if mark is None or " " not in line or all(map(_number, plain)):
        return plain
    return [part for part in map(str.strip, line.split(mark)) if part]


def _edge_list(text: str, nodes: int | None) -> GraphFile:
    sources, targets, weights, first = [], [], [], True
    for number, parts in lines_of(text):
        header, first = first, False
        if len(parts) not in (2, 3):
            raise InputError(
                f"`FILE` must have two node names and perhaps a weight a line, got {len(parts)} fields in line {number}"
            )
        if header and {part.lower() for part in parts} & {"source", "target", "from", "to", "src", "dst", "node1", "u"}:
            continue
        sources.append(parts[0])
        targets.append(parts[1])
        weights.append(parts[2] if len(parts) == 3 else "")
    whole = all(name.isascii() and name.isdigit() and len(name) < 19 for name in (*sources, *targets))  # else past int64
    if whole and (nodes is not None or _dense(sources, targets)):
        numbers = np.array([[int(name) for name in side] for side in (sources, targets)], dtype=np.int64).reshape(2, -1)
        n = int(numbers.max(initial=-1)) + 1 if nodes is None else nodes
        if numbers.size and numbers.max() >= n:
            raise InputError(f"`--nodes` must be more than the largest node number, {numbers.max()}, got {nodes}")
        names = _numbered(n, len(sources))
    elif nodes is not None:
        raise InputError("`--nodes` must come with node numbers 0, 1, …, got names; leave it out")
    else:
        names = sorted({*sources, *targets}, key=lambda name: (len(name), name) if whole else (0, name))
        place = {name: i for i, name in enumerate(names)}
        numbers = np.array([[place[name] for name in side] for side in (sources, targets)], dtype=np.int64).reshape(2, -1)
    return GraphFile(names, torch.from_numpy(numbers), _weights(weights))


def _numbered(n: int, edges: int) -> list[str]:
    """Names 0 … n - 1; a file of a few bytes may say any n, and room is made only for what its edges can reach."""
    if not 0 <= n <= max(_ALONE, 100 * edges):
        raise InputError(
            f"`FILE` must have at most {_ALONE:,} nodes, or 100 an edge, got {n:,} nodes and {edges:,} edges; leave out the "
            "nodes without an edge"
        )
    return [str(i) for i in range(n)]


def _dense(*sides: list[str]) -> bool:
    """Whether node numbers are 0 … n - 1, or nearly: else they are names, of which most are not there."""
    found = {int(name) for side in sides for name in side}
    return bool(found) and max(found) < 2 * len(found)


def _weights(given: list[str]) -> Tensor | None:
    if not any(given):
        return None
    try:
        values = [float(word) if word else 1.0 for word in given]
    except ValueError:
        wrong = next(word for word in given if word and not _number(word))
        raise InputError(f"`FILE` must have numbers as weights, got {wrong!r}; a third field is a weight") from None
    return torch.tensor(values, dtype=torch.float64)


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _matrix(matrix: Any, form: str) -> GraphFile:
    """A graph whose adjacency is a matrix; one with negative entries off its diagonal is taken for a Laplacian."""
    if not sparse.issparse(matrix):
        matrix = sparse.coo_array(np.asarray(matrix))
    coo = sparse.coo_array(matrix)
    if coo.ndim != 2 or coo.shape[0] != coo.shape[1]:
        raise InputError(f"`FILE` must hold a square matrix, got {coo.shape} in {form}; entry (i, j) is the edge from i to j")
    if np.iscomplexobj(coo.data):
        raise InputError(f"`FILE` must hold real weights, got complex ones in {form}")
    rows, columns, data = coo.row, coo.col, coo.data.astype(np.float64)
    off, notes = rows != columns, []
    if off.any() and (data[off] <= 0).all() and (data[off] < 0).any() and (data[~off] >= 0).all():
        rows, columns, data = rows[off], columns[off], -data[off]
        notes.append("The matrix has no positive entry off its diagonal: it was read as a Laplacian, whose weights are -L.")
    edges = torch.from_numpy(np.stack([rows, columns]).astype(np.int64))
    weight = None if len(data) and (data == 1).all() else torch.from_numpy(np.ascontiguousarray(data))
    return GraphFile(_numbered(coo.shape[0], coo.nnz), edges, weight, notes=notes)


def _npz(file: Path) -> GraphFile:
    arrays = read_npz(file)
    key = next((key for key in _EDGES if key in arrays), None)
    features, labels = (next((arrays[k] for k in keys if k in arrays), None) for keys in (_FEATURES, _LABELS))
    if key is None and {"data", "shape"} <= set(arrays):
        graph = _matrix(sparse.load_npz(file), "npz")
    elif key is None:
        raise InputError(
            f"`FILE` must hold `edge_index`, `edges` or a sparse matrix, got {', '.join(arrays) or 'nothing'} in npz"
        )
    else:
        edges = arrays[key]
        edges = edges.T if edges.ndim == 2 and edges.shape[0] != 2 and edges.shape[1] == 2 else edges
        if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype.kind not in "iu":
            raise InputError(f"`{key}` must be (2, edges) of whole numbers, got {edges.dtype} {arrays[key].shape}")
        n = next((int(arrays[k]) for k in ("num_nodes", "n") if k in arrays), None)
        sizes = [len(array) for array in (features, labels) if array is not None and array.ndim]
        n = n if n is not None else sizes[0] if sizes else int(edges.max(initial=-1)) + 1
        weight = next((torch.from_numpy(arrays[k].astype(np.float64)) for k in _WEIGHTS if k in arrays), None)
        graph = GraphFile(_numbered(n, edges.shape[1]), torch.from_numpy(edges.astype(np.int64)), weight)
    changes: dict[str, Any] = {}
    if features is not None:
        changes["features"] = as_features(features, graph.n)
    if labels is not None:
        if len(labels) != graph.n or labels.ndim != 1:
            raise InputError(f"`y` must have one label a node, ({graph.n},), got {labels.shape}")
        changes["labels"], changes["classes"] = as_labels([str(label) for label in labels.tolist()])
    return GraphFile(**{**graph.__dict__, **changes})


def as_features(array: np.ndarray, n: int) -> Tensor:
    """Features, `(n, d)`, finite."""
    if array.ndim != 2 or len(array) != n or array.dtype.kind not in "fiub":
        raise InputError(f"`features` must be numbers, ({n}, d), one row a node, got {array.dtype} {array.shape}")
    found = torch.from_numpy(array.astype(np.float32))
    if not bool(torch.isfinite(found).all()):
        raise InputError("`features` must be finite, got nan or inf; fill the gaps first")
    return found


def as_labels(words: list[str]) -> tuple[Tensor | None, list[str]]:
    """Class numbers in the order of their names; empty, `nan`, `?` and -1 are no class."""
    known = [word if word.strip().lower() not in ("", "nan", "none", "?", "-1", "-1.0") else "" for word in words]
    whole = all(_number(word) for word in known if word)
    classes = sorted({word for word in known if word}, key=lambda word: (float(word), word) if whole else (0.0, word))
    place = {word: i for i, word in enumerate(classes)}
    return (torch.tensor([place.get(word, -1) for word in known]) if classes else None), classes


def _with_labels(graph: GraphFile, path: str) -> GraphFile:
    found = _by_node(graph, path, "--labels", 2)
    words = [found[name][0] if name in found else "" for name in graph.names]
    labels, classes = as_labels(words)
    return GraphFile(**{**graph.__dict__, "labels": labels, "classes": classes})


def _with_features(graph: GraphFile, path: str) -> GraphFile:
    if Path(path).suffix.lower() == ".npy" and Path(path).is_file():
        array = read_npy(path)
        return GraphFile(**{**graph.__dict__, "features": as_features(array, graph.n)})
    found = _by_node(graph, path, "--features", None)
    missing = next((name for name in graph.names if name not in found), None)
    if missing is not None:
        raise InputError(f"`--features` must have a line for each node, got none for {missing!r} in {path!r}")
    try:
        array = np.array([[float(word) for word in found[name]] for name in graph.names])
    except ValueError:
        raise InputError(f"`--features` must hold as many numbers a node, got something else in {path!r}") from None
    return GraphFile(**{**graph.__dict__, "features": as_features(array, graph.n)})


def _by_node(graph: GraphFile, path: str, option: str, fields: int | None) -> dict[str, list[str]]:
    """What a file says of each node: its name, then the fields."""
    if not Path(path).is_file():
        raise InputError(f"`{option}` must be a file that is there, got {path!r}")
    known, found = set(graph.names), {}
    for number, parts in lines_of(_text(Path(path))):
        if len(parts) < 2 or (fields is not None and len(parts) != fields):
            raise InputError(
                f"`{option}` must have a node and what belongs to it a line, got {len(parts)} fields in line {number}"
            )
        if parts[0] not in known:
            if number == 1:
                continue  # a header
            raise InputError(f"`{option}` must name nodes of the graph, got {parts[0]!r} in line {number}")
        found[parts[0]] = parts[1:]
    return found


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
