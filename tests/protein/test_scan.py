"""The scan against brute force, on proteins whose bonds are known, and where there is nothing to find."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from residyn.errors import InputError
from residyn.protein import find_disulfides, loop_entropy, read, sample, scan
from residyn.protein.energy import design_energy
from residyn.protein.entropy import R
from residyn.protein.geometry import SG_SG, angle, torsion
from residyn.protein.rotation import best_bridges
from residyn.protein.table import joint_entropy

from .pdbtext import lines, write

ENTRIES = ("1ejg", "5pti", "5rsa")


def bare(entry):
    """A protein as if nobody had told of its bonds."""
    return dataclasses.replace(read(sample(entry)), sulfurs=(), annotations=())


@pytest.mark.parametrize("flexible", [False, True])
@pytest.mark.parametrize("entry", ENTRIES)
def test_native_bonds_come_first_even_unseen(entry, flexible):
    # a scan that knows nothing of the bonds must still put each of them among the best, as evolution did
    natives = find_disulfides(read(sample(entry)))
    table = scan(bare(entry), flexible=flexible)
    for bond in natives:
        rank = table.rank(bond.a, bond.b)
        assert rank is not None
        # in a handful of rows, or in the best tenth: a short loop such as 65–72 of ribonuclease gains little
        assert rank <= max(2 * len(natives), len(table) // 10)
        row = table[rank - 1]
        assert not row.existing
        assert np.sign(row.chi3) == np.sign(bond.chi3)
        assert abs(row.chi3 - bond.chi3) < 15
        gaps = np.abs((np.array(row.chi1) - bond.chi1 + 180) % 360 - 180)
        assert gaps.max() < 20


@pytest.mark.parametrize("entry", ENTRIES)
def test_bonds_that_are_there_are_marked_and_gain_what_they_add_to_the_others(entry):
    protein = read(sample(entry))
    bonds = find_disulfides(protein)
    table = scan(protein)
    ends = [(bond.a.number, bond.b.number) for bond in bonds]
    for pair in ends:
        row = table[table.rank(*pair) - 1]
        assert row.existing
        assert row.warnings == ("existing bond",)
        others = [other for other in ends if other != pair]
        assert row.entropy == pytest.approx(float(loop_entropy(ends) - loop_entropy(others)), abs=1e-9)


@pytest.mark.parametrize("flexible", [True, False])
def test_bonds_that_are_there_are_rows_however_strained(flexible, monkeypatch):
    monkeypatch.setattr("residyn.protein.scanning.WINDOW", (2.925, 3.0))
    monkeypatch.setattr("residyn.protein.scanning.FLEXIBLE_WINDOW", (2.925, 3.0))
    table = scan(read(sample("5rsa")), flexible=flexible, max_strain=0.01)
    assert {row.pair for row in table if row.existing} == {(26, 84), (40, 95), (58, 110), (65, 72)}
    assert len(scan(read(sample("5rsa")), flexible=flexible, max_strain=0.01, exclude=["A:26"])) < len(table)


def test_rows_add_up_and_stand_in_order():
    protein = read(sample("5rsa"))
    table = scan(protein)
    nets = [row.net for row in table]
    assert nets == sorted(nets, reverse=True)
    ends = [(x.a.number, x.b.number) for x in find_disulfides(protein)]
    for row in list(table)[::17]:
        assert row.net == pytest.approx(row.gain - row.strain - row.closing)
        assert row.gain == pytest.approx(-298.15 * row.entropy / 1000)
        assert row.length == abs(row.a.number - row.b.number)
        if not row.existing:
            assert row.entropy == pytest.approx(float(loop_entropy([*ends, row.pair]) - loop_entropy(ends)), abs=1e-9)
        energy = design_energy(np.array(row.chi1), np.array(row.chi3), np.array(row.theta))
        assert row.strain == pytest.approx(float(energy))
    assert len(table.rows) == len(table)
    assert table[-1].rank == len(table)


def test_best_rotation_is_the_best_of_all():
    # brute force: every degree, either hand, at the distance as it stands
    protein = read(sample("5rsa"))
    pairs = np.array([(25, 83), (3, 117), (89, 95)])
    ends = np.stack([protein.atoms[name][pairs] for name in ("N", "CA", "CB")], axis=2)
    found = best_bridges(ends)
    for k in range(len(pairs)):
        (n1, a1, b1), (n2, a2, b2) = ends[k]
        z = (b2 - b1) / np.linalg.norm(b2 - b1)
        s1, s2 = b1 + found.sulfurs[k, 0], b1 + found.distance[k] * z + found.sulfurs[k, 1]
        assert np.linalg.norm(s1 - s2) == pytest.approx(SG_SG, abs=1e-9)
        best = math.inf
        for hand, turn in itertools.product((1, -1), range(0, 360, 2)):
            spun = [turned(s - b1, z, np.radians(turn)) + b1 for s in (s1, s2)]
            if hand < 0:  # the other hand: mirrored in the plane of the line and the first sulfur
                across = np.cross(z, spun[0] - b1)
                across /= np.linalg.norm(across)
                spun[1] = spun[1] - 2 * ((spun[1] - b1) @ across) * across
            far = b1 + found.distance[k] * z
            moved = far - b2
            chi1 = np.array([torsion(n1, a1, b1, spun[0]), torsion(n2, a2, b2, spun[1] - moved)])
            theta = np.array([angle(a1, b1, spun[0]), angle(a2, b2, spun[1] - moved)])
            best = min(best, float(design_energy(chi1, torsion(b1, *spun, far), theta)))
        # a grid of 2° is up to 1° off the minimum; the energy rises there by at most 2·(55·1° ² + 1.4·(3·1°)²/2) = 0.04
        assert found.energy[k] <= best + 1e-3
        assert found.energy[k] >= best - 0.05


def turned(v, axis, phi):
    """Rodrigues' rotation."""
    return v * np.cos(phi) + np.cross(axis, v) * np.sin(phi) + axis * (axis @ v) * (1 - np.cos(phi))


def test_flexible_rows_pay_for_what_they_move():
    protein = read(sample("1ubi"))
    rigid, flexible = scan(protein, flexible=False), scan(protein)
    assert len(flexible) > len(rigid) > 0
    assert all(row.closing == 0 and 2.9 <= row.built <= 4.6 for row in rigid)
    for row in flexible:
        assert row.closing >= 0
        if row.distance > 4.6:
            assert row.closing > 0
    for row in rigid:  # room to move can only help
        other = flexible[flexible.rank(row.a, row.b) - 1]
        assert other.strain + other.closing <= row.strain + 0.05


def test_every_rejected_pair_has_a_reason():
    protein = read(sample("5rsa"))
    table = scan(protein, exclude=["A:4", "10-12"])
    assert table.why(4, 118) == "A:4 is excluded"
    assert table.why(11, 44) == "A:11 is excluded"
    assert table.why(1, 2) == "A:1 and A:2 are neighbours in the chain"
    assert table.why(1, 1) == "A:1 is one residue; a bond needs two"
    assert table.why(1, 124).endswith("Å, outside 2–7.5 Å")
    assert table.why(26, 85) == "A:26 is bonded to A:84 already; a cysteine has one partner"
    assert table.why(26, 84).startswith("rank 2 of")
    for i, j in itertools.combinations(range(0, 124, 5), 2):
        assert table.why(protein.residues[i], protein.residues[j])
    rigid = scan(protein, flexible=False)
    assert rigid.why(4, 117).endswith("outside 2.925–4.569 Å")
    strained = scan(protein, flexible=False, max_strain=0.5)
    assert strained.why(108, 117).endswith("every bridge is strained by more than 0.5 kcal/mol, or too costly to close")


def test_picks_go_together_and_add_up_to_the_joint_entropy():
    protein = read(sample("5rsa"))
    table = scan(protein, pick=3)
    touched = [end for pick in table.picks for end in (pick.candidate.a, pick.candidate.b)]
    assert len(set(touched)) == 6
    assert not any(pick.candidate.existing for pick in table.picks)
    natives = [(x.a.number, x.b.number) for x in find_disulfides(protein)]
    marginal = sum(pick.gain for pick in table.picks) * -1000 / 298.15
    picked = [pick.candidate.pair for pick in table.picks]
    assert marginal == pytest.approx(float(loop_entropy([*natives, *picked]) - loop_entropy(natives)), abs=1e-9)
    assert joint_entropy(table) == pytest.approx(float(loop_entropy([*natives, *picked])), abs=1e-9)
    # by hand: the first pick is the best row that is not there already
    assert table.picks[0].candidate == next(row for row in table if not row.existing)
    assert all(pick.gain <= -298.15 * float(loop_entropy([pick.candidate.pair])) / 1000 + 1e-12 for pick in table.picks)


def test_pick_of_too_many():
    protein = read(sample("1ejg"))
    with pytest.raises(InputError, match=r"`pick` must be at most 0, the bonds that go together here, got 1"):
        scan(protein, flexible=False, max_strain=1.0, pick=1)
    with pytest.raises(InputError, match="`pick` must be at least 1, got 0"):
        scan(protein, pick=0)


def test_warnings_name_what_a_designer_should_look_at():
    table = scan(read(sample("5rsa")))
    words = [w for row in table for w in row.warnings]
    for text in ("proline A:117 loses its ring", "is next to the bond at A:", "near neighbours in the chain", "glycine A:"):
        assert any(text in w for w in words), text


def test_a_free_cysteine_is_named(tmp_path):
    rows = [row for row in lines("5rsa") if not (row[12:16] == " SG " and row[22:26].strip() == "84")]
    table = scan(read(write(tmp_path, rows)))
    row = table[table.rank(26, 84) - 1]
    assert not row.existing
    assert "A:26 is a free cysteine already" in row.warnings


def test_between_chains_there_is_no_loop(tmp_path):
    # ribonuclease cut in two chains after residue 20: pairs across have no loop, and stand behind those that have
    rows = [
        f"{r[:21]}B{r[22:]}" if r.startswith("ATOM") and int(r[22:26]) > 20 else r
        for r in lines("5rsa")
        if r.startswith("ATOM")
    ]
    table = scan(read(write(tmp_path, rows)))
    across = [row for row in table if row.a.chain != row.b.chain]
    assert across
    assert all(row.length is row.gain is row.net is row.entropy is None for row in across)
    assert min(row.rank for row in across) > max(row.rank for row in table if row.gain is not None)
    assert "between chains no loop is closed" in table.why(across[0].a, across[0].b)
    assert ",n/a," in table.to_csv()


def test_predicted_models_keep_their_confidence_out_of_it(tmp_path):
    rows = [f"{r[:60]}{95.0:6.2f}{r[66:]}" for r in lines("1ubi") if r.startswith("ATOM")]
    plain = scan(read(write(tmp_path, rows)))
    predicted = scan(read(write(tmp_path, ["TITLE     ALPHAFOLD PREDICTION", *rows])))
    assert any("usual mean of 20 Å²" in note for note in predicted.notes)
    assert plain[0].closing != predicted[0].closing


def test_nothing_to_design_is_said(tmp_path):
    trace = scan(read(write(tmp_path, [row for row in lines("1ubi") if row[12:16] == " CA "])))
    assert len(trace) == 0
    assert "nothing can be designed on a trace of Cα" in trace.notes[-1]
    assert trace.why(1, 20).startswith("A:1 lacks backbone atoms")
    assert trace.to_csv().count("\n") == 1
    with pytest.raises(InputError, match="`pick` must be at most 0"):
        trace.picked(1)
    one = scan(read(write(tmp_path, [row for row in lines("1ubi") if row.startswith("ATOM") and int(row[22:26]) == 5])))
    assert len(one) == 0
    assert "no pair has its Cβ within" in one.notes[-1]


def test_missing_backbone_atoms_leave_a_residue_out(tmp_path):
    rows = [row for row in lines("1ubi") if not (row.startswith("ATOM") and row[12:16] == " N  " and int(row[22:26]) == 4)]
    table = scan(read(write(tmp_path, rows)))
    assert "1 residues lack backbone atoms and were left out" in table.notes
    assert table.why(4, 66) == "A:4 lacks backbone atoms (N, Cα, C), so that no Cβ can be placed"
    missing_alpha = [
        row for row in lines("1ubi") if not (row.startswith("ATOM") and row[12:16] == " CA " and int(row[22:26]) == 30)
    ]
    assert len(scan(read(write(tmp_path, missing_alpha)))) > 50


def test_tables_as_plain_values():
    table = scan(read(sample("1ejg")))
    rows = table.to_dicts(5)
    assert len(rows) == 5
    assert rows[0]["a"] == "A:3"
    assert rows[0]["name_b"] == "CYS"
    heads, *body = table.to_csv().splitlines()
    assert heads.startswith("rank,a,name_a,b,name_b,existing,net,gain,strain,closing,dihedral,length")
    assert len(body) == len(table)


def test_temperature_scales_the_gain():
    protein = read(sample("1ubi"))
    warm, cold = scan(protein, flexible=False, temperature=310.0), scan(protein, flexible=False, temperature=280.0)
    assert warm[0].gain / cold[0].gain == pytest.approx(310 / 280)
    assert warm[0].entropy == pytest.approx(-1.5 * R * math.log(1 + 2.0228 * warm[0].length), rel=1e-9)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"temperature": 0.0}, "`temperature` must be > 0 K, got 0"),
        ({"max_strain": -1.0}, "`max_strain` must be > 0 kcal/mol, got -1"),
        ({"exclude": ["A:900-910"]}, "`exclude` must name residues of 1UBI, got 'A:900-910' without any"),
        ({"exclude": ["B:4"]}, "`exclude` must be one of 1UBI, got 'B:4'"),
    ],
)
def test_refused(how, words):
    with pytest.raises(InputError) as caught:
        scan(read(sample("1ubi")), **how)
    assert words in str(caught.value)


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("pull", [-0.42, 0.7])
def test_a_bond_that_is_drawn_badly_is_no_candidate(tmp_path, stated, pull):
    # 26–84 of ribonuclease A with its sulfurs drawn nearer or farther than a bond has them, as some refined entries do
    rows = list(lines("5rsa"))
    at = [k for k, r in enumerate(rows) if r.startswith("ATOM") and r[12:16] == " SG " and r[22:26] in ("  26", "  84")]
    a, b = (np.array([float(rows[k][i : i + 8]) for i in (30, 38, 46)]) for k in at)
    moved = b + pull * (b - a) / np.linalg.norm(b - a)
    rows[at[1]] = rows[at[1]][:30] + "".join(f"{x:8.3f}" for x in moved) + rows[at[1]][54:]
    if not stated:
        rows = [row for row in rows if not row.startswith("SSBOND")]
    protein = read(write(tmp_path, rows))
    bond = next(b for b in find_disulfides(protein) if b.a.number == 26)
    assert bond.status == ("short" if pull < 0 else "long")
    assert bond.bonded == (stated or pull < 0)
    row = next(row for row in scan(protein, max_strain=40.0) if row.pair == (26, 84))
    assert row.existing == bond.bonded


def test_exclude_as_one_text():
    protein = read(sample("1ubi"))
    assert scan(protein, exclude="A:4,10-12").why(4, 66) == "A:4 is excluded"
