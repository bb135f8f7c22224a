"""Find the disulfides of a protein, choose two more that go together, and write the mutant with its bond record.

Expected (about 2 s on one core): ribonuclease A has four bonds; together they cost the unfolded chain 45.1 cal/mol/K, where
their sum says 50.3; the best new pair is 4–118, and the mutant is read back with five bonds.
"""

import tempfile
from pathlib import Path

import torch

from residyn.protein import find_disulfides, loop_entropy, mutate, read, sample, scan


def main() -> tuple[int, float, float, tuple[int, int], int]:
    """Bonds, entropy together and summed, the best new pair, and the bonds of its mutant."""
    torch.set_num_threads(1)
    protein = read(sample("5rsa"))
    bonds = [(bond.a.number, bond.b.number) for bond in find_disulfides(protein)]
    together, summed = float(loop_entropy(bonds)), sum(float(loop_entropy([bond])) for bond in bonds)
    table = scan(protein, pick=2)
    best = table.picks[0].candidate
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mutant.cif")
        written = mutate(protein, (best.a, best.b), path)
        found = len(find_disulfides(read(path)))
    for row in [*(pick.candidate for pick in table.picks), table[len(table) - 1]]:
        print(f"{row}: {table.why(row.a, row.b)}")  # noqa: T201
    print(f"S–S as written {written.distance:.2f} Å, {written.clashes} atoms in its way: {', '.join(written.near)}")  # noqa: T201
    return len(bonds), together, summed, best.pair, found


if __name__ == "__main__":
    bonds, together, summed, best, found = main()
    print(f"{bonds} bonds cost {together:.1f} together, {summed:.1f} summed (expected -45.1 and -50.3); best {best}")  # noqa: T201
    assert bonds == 4
    assert abs(together + 45.1) < 0.05
    assert abs(summed + 50.3) < 0.05
    assert best == (4, 118)
    assert found == 5
