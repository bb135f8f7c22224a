"""PDB text for tests, written from sample files or from scratch."""

import gzip
from pathlib import Path

from residyn.protein.samples import sample


def lines(entry="1ejg"):
    with gzip.open(sample(entry), "rt") as page:
        return page.read().splitlines()


def atom(
    serial, name, residue, chain, number, xyz, *, altloc=" ", insertion=" ", occupancy=1.0, b=10.0, element="C", record="ATOM"
):
    name = f" {name:<3}" if len(name) < 4 else name
    x, y, z = xyz
    return (
        f"{record:<6}{serial:5d} {name}{altloc}{residue:>3} {chain}{number:4d}{insertion}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{b:6.2f}          {element:>2}"
    )


def write(folder: Path, rows, name="x.pdb") -> Path:
    path = folder / name
    path.write_text("\n".join(rows) + "\n")
    return path
