"""What the shape of a disulfide costs, by two published functions of its torsions. Angles in degrees, energies in kcal/mol."""

from __future__ import annotations

import numpy as np

from residyn.protein.structure import Floats

KJ = 1 / 4.184
"""kcal/mol in a kJ/mol."""


def design_energy(chi1: Floats, chi3: Floats, theta: Floats) -> Floats:
    """Energy of Disulfide by Design 2, with θ the angle Cα–Cβ–Sγ and both ends' terms summed.

        E = Σ 1.4·(1 + cos 3χ1) + 4·(1 - cos 1.957·(χ3 + 87°)) + Σ 55·(θ - 114.6°)²   (θ in radians there)

    The middle term has its minima at -87° and +97°, the left- and right-handed disulfides of known structures.

    Args:
        chi1: N–Cα–Cβ–Sγ of both ends, `(…, 2)`.
        chi3: Cβ–Sγ–Sγ–Cβ, `(…)`.
        theta: Cα–Cβ–Sγ of both ends, `(…, 2)`.

    Returns:
        Energies, `(…)`; a missing angle (nan) gives nan.

    Reference:
        Dombkowski (2003), doi:10.1093/bioinformatics/btg231; Craig & Dombkowski (2013), doi:10.1186/1471-2105-14-346.

    >>> round(float(design_energy(np.array([60.0, -60.0]), np.array(-87.0), np.array([114.6, 114.6]))), 3)
    0.0
    """
    side = 1.4 * (1 + np.cos(np.radians(3 * chi1)))
    middle = 4.0 * (1 - np.cos(np.radians(1.957 * (chi3 + 87.0))))
    bend = 55.0 * np.radians(theta - 114.6) ** 2
    total: Floats = side.sum(-1) + middle + bend.sum(-1)
    return total


def dihedral_strain(chi1: Floats, chi2: Floats, chi3: Floats) -> Floats:
    """Dihedral strain energy of a disulfide from its five torsions; published in kJ/mol, given in kcal/mol.

        E = Σ 8.37·(1 + cos 3χ1) + Σ 4.18·(1 + cos 3χ2) + 14.64·(1 + cos 2χ3) + 2.51·(1 + cos 3χ3)

    Args:
        chi1: N–Cα–Cβ–Sγ of both ends, `(…, 2)`.
        chi2: Cα–Cβ–Sγ–Sγ of both ends, `(…, 2)`.
        chi3: Cβ–Sγ–Sγ–Cβ, `(…)`.

    Returns:
        Energies, `(…)`; a missing angle (nan) gives nan.

    Reference:
        Katz & Kossiakoff (1986), J. Biol. Chem. 261, 15480; Schmidt, Ho & Hogg (2006), doi:10.1021/bi0603064.

    >>> round(float(dihedral_strain(np.full(2, 60.0), np.full(2, 60.0), np.array(90.0))), 3)
    0.6
    """
    one = 8.37 * (1 + np.cos(np.radians(3 * chi1)))
    two = 4.18 * (1 + np.cos(np.radians(3 * chi2)))
    three = 14.64 * (1 + np.cos(np.radians(2 * chi3))) + 2.51 * (1 + np.cos(np.radians(3 * chi3)))
    total: Floats = KJ * (one.sum(-1) + two.sum(-1) + three)
    return total
