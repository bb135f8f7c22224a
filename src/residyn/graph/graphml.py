"""GraphML: nodes, edges, the weight of an edge, the class and the numbers of a node."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch

from residyn.errors import InputError
from residyn.graph.reading import GraphFile, as_features, as_labels

_CLASSES = ("label", "class", "group", "club", "community", "y")
_NUMBERS = ("int", "long", "float", "double")


def read_graphml(file: Path, attribute: str | None) -> GraphFile:
    """Read a GraphML file.

    Args:
        file: The file.
        attribute: Node attribute that is the class; if not given the first of label, class, group, club, community, y.

    Returns:
        The graph; numeric attributes that every node has are its features, an edge attribute `weight` its weights.

    Raises:
        InputError: If it is no GraphML, or declares entities, which a graph has no use for.

    Reference:
        Brandes, Eiglsperger, Herman, Himsolt & Marshall (2002), doi:10.1007/3-540-45848-4_59.
    """
    text = file.read_bytes()
    if b"<!ENTITY" in text or b"<!DOCTYPE" in text:
        raise InputError(f"`FILE` must be GraphML without a document type, got one in {str(file)!r}; remove it")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"`FILE` must be GraphML, got {str(file)!r}: {error}") from None
    keys = {item.get("id"): item for item in _all(root, "key")}
    nodes = [(str(item.get("id")), _data(item, keys)) for item in _all(root, "node")]
    place = {name: i for i, (name, _) in enumerate(nodes)}
    ends, weights = [], []
    for item in _all(root, "edge"):
        pair = [str(item.get(side)) for side in ("source", "target")]
        missing = next((name for name in pair if name not in place), None)
        if missing is not None:
            raise InputError(f"`FILE` must declare the nodes of its edges, got an edge of {missing!r}, which is none")
        ends.append([place[name] for name in pair])
        weights.append(_data(item, keys).get("weight", "1"))
    edges = torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).T
    try:
        weight = torch.tensor([float(word) for word in weights], dtype=torch.float64)
    except ValueError:
        raise InputError("`FILE` must have numbers as weights, got something else in GraphML") from None
    chosen = _class_attribute(nodes, attribute)
    labels, classes = as_labels([data.get(chosen, "") for _, data in nodes]) if chosen else (None, [])
    columns = [
        str(key.get("attr.name"))
        for key in keys.values()
        if key.get("for") == "node" and key.get("attr.type") in _NUMBERS and key.get("attr.name") != chosen
    ]
    columns = [name for name in columns if all(name in data for _, data in nodes)]
    table = np.array([[float(data[name]) for name in columns] for _, data in nodes], dtype=np.float64)
    features = as_features(table, len(nodes)) if columns and nodes else None
    notes = [f"The class of a node is its attribute `{chosen}`."] if labels is not None else []
    plain = bool((weight == 1).all())
    return GraphFile([name for name, _ in nodes], edges, None if plain else weight, features, labels, classes, notes)


def _class_attribute(nodes: list[tuple[str, dict[str, str]]], wanted: str | None) -> str | None:
    known = {name for _, data in nodes for name in data}
    if wanted is not None and wanted not in known:
        raise InputError(
            f"`--labels` must be a file or a node attribute, one of {', '.join(sorted(known)) or 'none'}, got {wanted!r}"
        )
    return wanted if wanted is not None else next((name for name in _CLASSES if name in known), None)


def _all(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    """All elements of a tag, whatever their namespace."""
    return [item for item in root.iter() if item.tag.rpartition("}")[2] == tag]


def _data(item: ElementTree.Element, keys: dict[str | None, ElementTree.Element]) -> dict[str, str]:
    """Attributes of a node or edge by name."""
    found = {}
    for part in item:
        if part.tag.rpartition("}")[2] == "data" and part.get("key") in keys:
            found[str(keys[part.get("key")].get("attr.name"))] = (part.text or "").strip()
    return found
