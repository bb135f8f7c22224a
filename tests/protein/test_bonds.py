"""The bonds of real files, and the cases that annotation and geometry see differently."""

import math

import numpy as np
import pytest

from residyn.protein import find_disulfides, read
from residyn.protein.energy import design_energy, dihedral_strain
from residyn.protein.geometry import GAIN, WINDOW, angle, chi3_from_distance, torsion
from residyn.protein.samples import sample

from .pdbtext import atom, lines, write

# From the entries' papers: crambin (Teeter 1984), BPTI (Wlodawer 1984), ribonuclease A (Wlodawer 1982).
NATIVE = {
    "1ejg": {(3, 40), (4, 32), (16, 26)},
    "5pti": {(5, 55), (14, 38), (30, 51)},
    "5rsa": {(26, 84), (40, 95), (58, 110), (65, 72)},
    "1ubi": set(),
}


@pytest.mark.parametrize("entry", NATIVE)
def test_every_native_bond_is_found_and_annotated(entry):
    protein = read(sample(entry))
    bonds = find_disulfides(protein)
    assert {(x.a.number, x.b.number) for x in bonds} == NATIVE[entry]
    for bond in bonds:
        assert bond.status == "annotated"
        assert bond.annotated
        assert bond.present
        assert not bond.interchain
        assert 1.9 < bond.distance < 2.15  # 5RSA, of 1985, has one of 1.94
        assert bond.length == bond.b.number - bond.a.number
        beta = [protein.atoms["CB"][protein.index(end)] for end in (bond.a, bond.b)]
        distance = np.linalg.norm(beta[0] - beta[1])
        assert WINDOW[0] <= distance <= WINDOW[1]
        assert 70 < abs(bond.chi3) < 120
        # closed form against the measured torsion: real bond lengths and angles spread it by some 10°
        assert abs(float(chi3_from_distance(distance)) - abs(bond.chi3)) < 15
        assert 0 <= bond.energy < 4
        assert 0 <= bond.strain < 8


def test_torsions_agree_with_gemmi():
    import gemmi

    protein = read(sample("5rsa"))
    chain = protein.model[0]["A"]
    for bond in find_disulfides(protein):
        one, two = (chain[str(end.number)][0] for end in (bond.a, bond.b))
        pos = [r[name][0].pos for r in (one, two) for name in ("N", "CA", "CB", "SG")]
        n1, a1, b1, s1, _, a2, b2, s2 = pos
        turns = [gemmi.calculate_dihedral(*four) for four in ((n1, a1, b1, s1), (a1, b1, s1, s2), (b1, s1, s2, b2))]
        np.testing.assert_allclose([bond.chi1[0], bond.chi2[0], bond.chi3], np.degrees(turns), atol=1e-9)
        np.testing.assert_allclose(bond.theta[1], np.degrees(gemmi.calculate_angle(a2, b2, s2)), atol=1e-9)


def test_extra_where_the_file_is_silent(tmp_path):
    bonds = find_disulfides(read(write(tmp_path, [row for row in lines("5rsa") if not row.startswith("SSBOND")])))
    assert [x.status for x in bonds] == ["extra"] * 4
    assert not any(x.annotated for x in bonds)


def test_missing_where_the_sulfur_is(tmp_path):
    rows = [row for row in lines("5rsa") if not (row.startswith("ATOM") and row[12:16] == " SG " and int(row[22:26]) == 84)]
    bonds = {(x.a.number, x.b.number): x for x in find_disulfides(read(write(tmp_path, rows)))}
    assert bonds[26, 84].status == "missing"
    assert not bonds[26, 84].present
    assert bonds[26, 84].length == 58
    assert math.isnan(bonds[26, 84].energy)
    assert bonds[40, 95].status == "annotated"


def cystine(shift=0.0, *, chain="B", **how):
    """A cystine in two chains with an Sγ–Sγ distance of 2.04 + shift."""
    ends = {
        "N": (-1.2, 1.2, 0.5), "CA": (0.0, 0.9, 0.0), "C": (0.9, 2.1, 0.2), "CB": (0.4, -0.4, 0.7), "SG": (1.3, -1.6, -0.3),
    }  # fmt: skip
    rows = [atom(k, name, "CYS", "A", 5, xyz, element=name[0]) for k, (name, xyz) in enumerate(ends.items(), 1)]
    for k, (name, (x, y, z)) in enumerate(ends.items(), 11):
        other = (2.6 + 2.04 + shift - x, y, -0.6 - z)
        rows.append(atom(k, name, "CYS", chain, 30, other, element=name[0], **how))
    return rows


@pytest.mark.parametrize(
    ("shift", "status"), [(0.0, "extra"), (0.4, "extra"), (0.7, "long"), (-0.5, "short"), (1.2, None), (-1.5, None)]
)
def test_status_by_distance(tmp_path, shift, status):
    bonds = find_disulfides(read(write(tmp_path, cystine(shift))))
    assert [x.status for x in bonds] == [status] * (status is not None)


def test_between_chains_no_loop_is_closed(tmp_path):
    (bond,) = find_disulfides(read(write(tmp_path, cystine())))
    assert bond.interchain
    assert bond.length is None


def test_different_conformers_do_not_bond(tmp_path):
    rows = cystine()
    rows[4] = rows[4][:16] + "A" + rows[4][17:]
    rows[9] = rows[9][:16] + "B" + rows[9][17:]
    assert find_disulfides(read(write(tmp_path, rows))) == []
    rows[9] = rows[9][:16] + "A" + rows[9][17:]
    (bond,) = find_disulfides(read(write(tmp_path, rows)))
    assert bond.conformer == "A"


def test_symmetry_mates(tmp_path):
    # one cysteine and a twofold axis along z through its Sγ + 1.02 Å: the mate's Sγ stands 2.04 Å away
    rows = cystine()[:5]
    moved = []
    for row in rows:
        x, y = float(row[30:38]) - 2.32, float(row[38:46]) + 1.6
        moved.append(f"{row[:30]}{x:8.3f}{y:8.3f}{row[46:]}")
    cell = "CRYST1   50.000   60.000   70.000  90.00  90.00  90.00 P 1 1 2       2"
    (bond,) = find_disulfides(read(write(tmp_path, [cell, *moved])))
    assert bond.symmetry.startswith("2_")
    assert bond.a == bond.b
    assert bond.interchain
    assert bond.status == "extra"
    assert abs(bond.distance - 2.04) < 2e-3  # three decimals in the file
    stated = "SSBOND   1 CYS A    5    CYS A    5                          1555   2555  2.04"
    (bond,) = find_disulfides(read(write(tmp_path, [stated, cell, *moved])))
    assert bond.status == "annotated"


def test_published_energies():
    # minima and barriers read off the formulas
    best = design_energy(np.array([60.0, 180.0]), np.array(97.0), np.array([114.6, 114.6]))
    assert float(best) == pytest.approx(4 * (1 - np.cos(np.radians(1.957 * 184))), abs=1e-12)
    assert float(best) < 0.01
    eclipsed = design_energy(np.array([0.0, 60.0]), np.array(-87.0), np.array([114.6, 124.6]))
    assert float(eclipsed) == pytest.approx(2.8 + 55 * np.radians(10) ** 2, abs=1e-12)
    worst = dihedral_strain(np.zeros(2), np.zeros(2), np.array(0.0)) * 4.184
    assert float(worst) == pytest.approx(2 * (4 * 8.37 / 2 + 4 * 4.18 / 2 + 14.64 + 2.51), abs=1e-9)
    assert math.isnan(float(design_energy(np.array([math.nan, 0.0]), np.array(90.0), np.array([114.6, 114.6]))))


def test_closed_form_of_chi3_is_the_geometry():
    # build Cβ–Sγ–Sγ–Cβ from ideal lengths and angles and measure it back
    from residyn.protein.geometry import CB_SG, CB_SG_SG, CIS, SG_SG

    for chi in (0.0, 40.0, 87.0, 133.0, 180.0):
        s1, s2 = np.zeros(3), np.array([SG_SG, 0.0, 0.0])
        c, s, t = np.cos(np.radians(CB_SG_SG)), np.sin(np.radians(CB_SG_SG)), np.radians(chi)
        b1 = s1 + CB_SG * np.array([c, s, 0.0])
        b2 = s2 + CB_SG * np.array([-c, s * np.cos(t), s * np.sin(t)])
        assert abs(abs(float(torsion(b1, s1, s2, b2))) - chi) < 1e-6
        assert abs(float(angle(b1, s1, s2)) - CB_SG_SG) < 1e-9
        distance = np.linalg.norm(b1 - b2)
        assert abs(distance**2 - (CIS**2 + GAIN * (1 - np.cos(t)))) < 1e-12
        assert abs(float(chi3_from_distance(distance)) - chi) < 0.1  # arccos at its ends turns 1e-12 into 1e-4 degrees
    assert abs(CIS - WINDOW[0]) < 1e-2
    assert abs(math.sqrt(CIS**2 + 2 * GAIN) - WINDOW[1]) < 1e-2
