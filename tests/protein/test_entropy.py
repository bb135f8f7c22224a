"""One determinant for any set of loops: against the dense Laplacian, the empirical law, and hand-counted overlaps."""

import itertools
import math

import numpy as np
import pytest
import torch

from residyn.errors import InputError
from residyn.protein import loop_entropy
from residyn.protein.entropy import CLOSE, PACE, R, loop_overlaps, pair_entropies, pair_overlaps

LYSOZYME = [(6, 127), (30, 115), (64, 80), (76, 94)]  # hen egg white
BPTI = [(5, 55), (14, 38), (30, 51)]


def dense(bonds, g, limit, n):
    """-(3/2)·R·ln det(I + g·Bᵀ·L⁺·B) with L⁺ from NumPy's SVD."""
    L = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    L[0, 0] = L[-1, -1] = 1
    B = np.zeros((n, len(bonds)))
    for k, (i, j) in enumerate(bonds):
        B[i, k], B[j, k] = 1, -1
    M = g * B.T @ np.linalg.pinv(L) @ B + (np.eye(len(bonds)) if limit == "soft" else 0)
    return -1.5 * R * np.linalg.slogdet(M)[1]


@pytest.mark.parametrize("seed", range(6))
def test_joint_entropy_is_the_dense_determinant_in_any_order(seed):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 9))
    ends = rng.permutation(120)[: 2 * m].reshape(m, 2).tolist()
    for limit in ("soft", "hard"):
        truth = dense(ends, PACE, limit, 120)
        for _ in range(4):
            rng.shuffle(ends)
            flipped = [pair[::-1] if rng.random() < 0.5 else pair for pair in ends]
            # the condition of det is below 1e4 here: 1e-10 leaves four decades over rounding
            assert abs(float(loop_entropy(flipped, limit=limit)) - truth) < 1e-10


def test_residues_may_be_shared():
    assert (
        abs(float(loop_entropy([(3, 40), (3, 60), (40, 60)])) - dense([(3, 40), (3, 60), (40, 60)], PACE, "soft", 80)) < 1e-10
    )


def test_single_loops_have_the_slope_and_offset_of_the_empirical_law():
    n = torch.arange(5, 200, dtype=torch.float64)
    hard = loop_entropy(torch.stack([torch.zeros_like(n), n], -1).unsqueeze(-2), limit="hard")
    # -2.1 - (3/2)·R·ln n; PACE is given to 5 digits, which moves the offset by (3/2)·R·2.5e-5
    np.testing.assert_allclose(hard, -2.1 - 1.5 * R * n.log(), atol=1e-4)
    slope = torch.diff(hard) / torch.diff(n.log())
    np.testing.assert_allclose(slope, -1.5 * R, rtol=1e-10)
    soft = loop_entropy(torch.stack([torch.zeros_like(n), n], -1).unsqueeze(-2))
    np.testing.assert_allclose(soft, -1.5 * R * torch.log1p(PACE * n), rtol=1e-13)
    assert ((soft - hard) < 0).all()  # a spring closes the loop as well, and takes its own part
    # the slope of the soft law is (3/2)·R·g·n/(1 + g·n), within 1/(g·n) of the hard one
    assert abs(float((soft[-1] - soft[-60]) / (n[-1] / n[-60]).log()) / (-1.5 * R) - 1) < 1 / (PACE * 130)


def test_both_published_constants_follow_from_their_capture_volumes():
    # g = (2π·l²/3)/v^(2/3), l = 3.8 Å
    reach = 2 * math.pi * 3.8**2 / 3
    assert reach / 29.65 ** (2 / 3) == pytest.approx(CLOSE, abs=1e-3)
    assert reach / 57.9 ** (2 / 3) == pytest.approx(PACE, rel=2e-3)
    assert math.exp(2.1 / (1.5 * R)) == pytest.approx(PACE, abs=5e-5)


@pytest.mark.parametrize("bonds", [LYSOZYME, BPTI])
@pytest.mark.parametrize("limit", ["soft", "hard"])
def test_the_sum_over_bonds_over_counts_nested_loops(bonds, limit):
    joint = float(loop_entropy(bonds, limit=limit))
    total = sum(float(loop_entropy([bond], limit=limit)) for bond in bonds)
    assert total < joint - 1.0  # lysozyme 3.5 and BPTI 3.9 cal/mol/K at least
    apart = [(1, 20), (30, 50)]  # side by side they add up
    assert float(loop_entropy(apart, limit=limit)) == pytest.approx(sum(float(loop_entropy([b], limit=limit)) for b in apart))


def test_overlaps_counted_by_hand():
    # Wang–Uhlenbeck's example of ribonuclease A: loops 26–84 and 58–110 share 26 bonds, determinant 58·52 - 26²
    bonds = torch.tensor([[26.0, 84.0], [58.0, 110.0]])
    assert loop_overlaps(bonds, bonds).tolist() == [[58.0, 26.0], [26.0, 52.0]]
    assert float(loop_entropy(bonds, limit="hard", stiffness=1.0)) == pytest.approx(-1.5 * R * math.log(2340), rel=1e-12)


def test_batches_are_their_members():
    rng = np.random.default_rng(0)
    batch = torch.from_numpy(rng.permuted(np.tile(np.arange(90), (2, 5, 1)), axis=-1)[..., :6].reshape(2, 5, 3, 2)).double()
    joint = loop_entropy(batch)
    assert joint.shape == (2, 5)
    for k, i in itertools.product(range(2), range(5)):
        assert float(joint[k, i]) == pytest.approx(float(loop_entropy(batch[k, i])), abs=1e-12)


def test_differentiable_in_ends_and_stiffness():
    bonds = torch.tensor([[3.2, 41.0], [10.7, 22.1], [35.0, 60.3]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([2.0, 3.0, 1.5], dtype=torch.float64, requires_grad=True)
    contacts = torch.tensor([[5.0, 30.0], [28.0, 50.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b, s: loop_entropy(b, stiffness=s), (bonds, g))
    assert torch.autograd.gradcheck(lambda b, s: loop_entropy(b, stiffness=s, limit="hard"), (bonds, g))
    assert torch.autograd.gradcheck(lambda b, c: loop_entropy(b, contacts=c), (bonds, contacts))


def test_background_of_contacts_is_the_difference_of_two_determinants():
    bonds, contacts = [(4, 50), (20, 33)], [(2, 30), (8, 14), (25, 60), (40, 44)]
    both = torch.tensor([*bonds, *contacts], dtype=torch.float64)
    g = torch.tensor([PACE] * 2 + [0.5] * 4, dtype=torch.float64)
    truth = loop_entropy(both, stiffness=g) - loop_entropy(contacts, stiffness=0.5)
    assert float(loop_entropy(bonds, contacts=contacts, contact_stiffness=0.5)) == pytest.approx(float(truth), abs=1e-10)
    assert float(loop_entropy(bonds, contacts=[])) == float(loop_entropy(bonds))


def test_all_pairs_at_once_are_each_pair():
    place = torch.cat([torch.arange(40.0), torch.arange(45.0, 60.0)])
    pairs = pair_entropies(place, BPTI)
    base = loop_entropy(BPTI)
    for i, j in [(0, 54), (3, 20), (30, 52), (14, 38)]:
        alone = loop_entropy([*BPTI, (float(place[i]), float(place[j]))]) - base
        assert float(pairs[i, j]) == pytest.approx(float(alone), abs=1e-10)
        assert float(pairs[j, i]) == pytest.approx(float(alone), abs=1e-10)
    assert float(pair_overlaps(place)[0, -1]) == 59.0
    assert (pairs.diagonal().abs() < 1e-10).all()


def test_no_bond_costs_nothing():
    assert float(loop_entropy([])) == 0.0
    assert loop_entropy(torch.zeros(4, 0, 2)).shape == (4,)


@pytest.mark.parametrize(
    ("bonds", "how", "words"),
    [
        ([(1, 2, 3)], {}, "must be pairs of residue numbers, (…, m, 2), got the shape (1, 3)"),
        ([(1, math.nan)], {}, "must be finite residue numbers"),
        ([("A:1", "B:2")], {}, "must be pairs of residue numbers, got"),
        ([(1, 9)], {"limit": "firm"}, '`limit` must be "soft" or "hard", got \'firm\''),
        ([(1, 9)], {"stiffness": 0.0}, "`stiffness` must be > 0 and finite, got 0"),
        ([(1, 9)], {"contacts": [(1, 5)], "contact_stiffness": -1.0}, "`contact_stiffness` must be > 0"),
        ([(1, 9), (1, 9)], {"limit": "hard"}, "got a set that closes one twice; use limit='soft'"),
        ([(4, 4)], {"limit": "hard"}, "got a set that closes one twice"),
    ],
)
def test_refused(bonds, how, words):
    with pytest.raises(InputError) as caught:
        loop_entropy(bonds, **how)
    assert words in str(caught.value)
