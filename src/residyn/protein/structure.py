"""What the package knows of a protein: residues with their atoms, where each stands along its chain, and annotated bonds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from residyn.display import card
from residyn.errors import InputError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

BACKBONE = ("N", "CA", "C", "O")
_LABEL = re.compile(r"(?:(?P<chain>[^:]+):)?(?P<name>[A-Za-z]{3})?(?P<number>-?\d+)(?P<insertion>[A-Za-z]?)")


@dataclass(frozen=True, order=True)
class Residue:
    """A residue by its address.

    Args:
        chain: Chain name, as in the file (the author's, in mmCIF).
        number: Sequence number, as in the file.
        insertion: Insertion code; empty for none.
        name: Three-letter name.

    >>> str(Residue("A", 52, "A", "GLY"))
    'A:52A'
    """

    chain: str
    number: int
    insertion: str = ""
    name: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.chain}:{self.number}{self.insertion}"


@dataclass(frozen=True)
class Annotation:
    """A disulfide bond as the file states it (SSBOND, struct_conn).

    Args:
        a: One end.
        b: The other.
        symmetry: Whether the second end lies in a symmetry mate.
    """

    a: Residue
    b: Residue
    symmetry: bool = False


@dataclass(frozen=True)
class Sulfur:
    """A sulfur (or selenium) that could take part in a bond, in one conformer.

    Args:
        residue: Index of its residue.
        conformer: Label of its alternative location; empty if there is one only.
        occupancy: Its occupancy.
        position: Coordinates, (3,), Å.
        beta: Coordinates of the Cβ of the same conformer; nan where missing.
        alpha: Of the Cα.
        nitrogen: Of the N.
    """

    residue: int
    conformer: str
    occupancy: float
    position: Floats
    beta: Floats
    alpha: Floats
    nitrogen: Floats


@dataclass(frozen=True)
class Structure:
    """One model of a protein in one conformer.

    Args:
        name: What to call it: the entry's id or the file's name.
        residues: The amino-acid residues, in file order; n of them.
        position: Place of each along its own chain: |difference| is the number of chain bonds between two residues, and gaps
            count by the sequence numbering, not as neighbours. `(n,)`.
        atoms: Backbone and Cβ coordinates by name (N, CA, C, O, CB), each `(n, 3)` in Å; nan where the file has none. Cβ of a
            glycine, or one that is missing, is placed by ideal geometry where the backbone allows.
        built: Whether the Cβ was placed so, `(n,)`.
        b_factors: B factor of the Cα, Å², `(n,)`; nan where the Cα is missing.
        sulfurs: Sulfurs of cysteines, in every conformer.
        annotations: Disulfide bonds that the file states; `None` if it was not looked for.
        conformer: Label of the conformer taken; empty where the file has one only.
        predicted: Whether this is a predicted model, whose B column is a confidence and no mobility.
        notes: What the reader should know: records repaired, numbering that jumps, atoms built.
        model: The gemmi structure, for writing mutants and looking at symmetry.
    """

    name: str
    residues: tuple[Residue, ...]
    position: Ints
    atoms: dict[str, Floats]
    built: NDArray[np.bool_]
    b_factors: Floats
    sulfurs: tuple[Sulfur, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    conformer: str = ""
    predicted: bool = False
    notes: tuple[str, ...] = ()
    model: Any = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.residues)

    def _repr_html_(self) -> str:
        rows: list[tuple[str, object]] = [("residues", len(self)), ("chains", ", ".join(self.chains[:20]))]
        rows += [("sulfurs", len(self.sulfurs)), ("bonds that the file states", len(self.annotations))]
        return card(self.name, rows, "; ".join(self.notes))

    @property
    def chains(self) -> tuple[str, ...]:
        """Names of the chains, in file order."""
        return tuple(dict.fromkeys(residue.chain for residue in self.residues))

    @property
    def chain_index(self) -> Ints:
        """Number of each residue's chain in `chains`, `(n,)`."""
        place = {name: k for k, name in enumerate(self.chains)}
        return np.array([place[residue.chain] for residue in self.residues], dtype=np.int64)

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Whether a residue has N, Cα, C and a Cβ, `(n,)`: what placing a cysteine needs."""
        present = [np.isfinite(self.atoms[name]).all(axis=1) for name in ("N", "CA", "C", "CB")]
        whole: NDArray[np.bool_] = np.logical_and.reduce(present)
        return whole

    def index(self, residue: Residue | str | int, *, what: str = "residue") -> int:
        """Index of a residue given as `Residue`, as "A:9" (or "9", "A:GLY9", "A:52A"), or as a number.

        Args:
            residue: Which; the chain may be left out where only one chain has that number.
            what: What to call it in messages.

        Returns:
            Its index in `residues`.

        Raises:
            InputError: If it is no address, is not there, or stands in several chains.
        """
        wanted = residue if isinstance(residue, Residue) else _parse(residue, what)
        found = [
            k
            for k, r in enumerate(self.residues)
            if r.number == wanted.number
            and r.insertion == wanted.insertion
            and (not wanted.chain or r.chain == wanted.chain)
            and (not wanted.name or r.name == wanted.name)
        ]
        if len(found) == 1:
            return found[0]
        if not found:
            raise InputError(f"`{what}` must be one of {self.name}, got {str(residue)!r}; it has {self._span()}")
        raise InputError(f"`{what}` must say its chain, got {str(residue)!r}; write {self.residues[found[0]]}")

    def _span(self) -> str:
        """The chains with the range of their numbers, for messages."""
        parts = []
        for chain in self.chains[:6]:
            own = [r for r in self.residues if r.chain == chain]
            parts.append(f"{own[0]} to {own[-1]}")
        return ", ".join(parts) + (", …" if len(self.chains) > 6 else "")


def _parse(text: str | int, what: str) -> Residue:
    match = _LABEL.fullmatch(str(text).strip())
    if match is None:
        raise InputError(f'`{what}` must be a number or an address such as "A:9", got {str(text)!r}')
    name = (match["name"] or "").upper()
    return Residue(match["chain"] or "", int(match["number"]), match["insertion"].upper(), name)
