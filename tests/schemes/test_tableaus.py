"""Every order condition of every tableau, on rooted trees that are grown here; exact rational arithmetic is not needed, as the
numbers are doubles and the sums have at most 13^8 terms of size one, folded stage by stage."""

import math
from functools import cache

import numpy as np
import pytest

from residyn.schemes import explicit, tableaus
from residyn.schemes.tableaus import Tableau

# scheme, order of b, order of b - error (None without an estimate), order of the scheme's own dense weights (None without)
TABLE = {
    "EULER": (1, None, None),
    "MIDPOINT": (2, None, None),
    "HEUN": (2, 1, None),
    "RK4": (4, None, None),
    "BOSH3": (3, 2, 3),
    "TSIT5": (5, 4, 4),
    "DOPRI5": (5, 4, 4),
    "DOPRI8": (8, 7, None),
}
Tree = tuple  # a rooted tree is the sorted tuple of the trees that hang on its root


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with `order` nodes."""
    if order == 1:
        return ((),)
    return tuple(sorted({tuple(sorted((*rest, branch))) for size in range(1, order) for branch in trees(size)
                         for rest in trees(order - size)}))  # fmt: skip


def nodes(tree: Tree) -> int:
    return 1 + sum(nodes(branch) for branch in tree)


def density(tree: Tree) -> int:
    """γ(tree), Hairer, Nørsett & Wanner II.2: the number of nodes times the densities of the branches."""
    return nodes(tree) * math.prod(density(branch) for branch in tree)


def square(tableau: Tableau, stages: int) -> np.ndarray:
    """A as a square matrix, with the stage at the end of the step (its row is b) where `stages` counts it."""
    rows = [*tableau.a, tableau.b][:stages]
    return np.array([[*row, *[0.0] * (stages - len(row))] for row in rows])


def elementary_weights(a: np.ndarray, tree: Tree) -> np.ndarray:
    """Φ_i(tree) of each stage."""
    result = np.ones(len(a))
    for branch in tree:
        result = result * (a @ elementary_weights(a, branch))
    return result


def worst_defect(a: np.ndarray, b: np.ndarray, order: int, theta: float = 1.0) -> float:
    return max(abs(b @ elementary_weights(a, tree) - theta**order / density(tree)) for tree in trees(order))


def test_trees_are_all_there():
    # OEIS A000081: the numbers of rooted trees; 200 up to order 8.
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize("name", TABLE)
def test_nodes_are_row_sums(name):
    tableau = getattr(tableaus, name)
    sums = [math.fsum(row) for row in tableau.a]
    assert sums == pytest.approx(tableau.c, abs=1e-14)  # a rounding for each of at most 12 entries of size up to 12


@pytest.mark.parametrize("name,order", [(name, n) for name, row in TABLE.items() for n in range(1, row[0] + 1)])
def test_result_meets_every_condition(name, order):
    tableau = getattr(tableaus, name)
    # Entries reach 50 and cancel to numbers of size one: 50·13·2^-53 ≈ 7e-14 in each fold.
    assert worst_defect(square(tableau, tableau.stages), np.array(tableau.b), order) < 1e-12


@pytest.mark.parametrize("name", TABLE)
def test_result_is_of_no_higher_order(name):
    tableau = getattr(tableaus, name)
    assert worst_defect(square(tableau, tableau.stages), np.array(tableau.b), TABLE[name][0] + 1) > 1e-7


def embedded(tableau: Tableau) -> tuple[np.ndarray, np.ndarray]:
    size = len(tableau.error)
    b = np.array([*tableau.b, 0.0][:size])
    return square(tableau, size), b - np.array(tableau.error)


@pytest.mark.parametrize("name,order", [(name, n) for name, row in TABLE.items() for n in range(1, (row[1] or 0) + 1)])
def test_embedded_result_meets_every_condition(name, order):
    a, b = embedded(getattr(tableaus, name))
    assert worst_defect(a, b, order) < 1e-12


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row[1]])
def test_error_estimate_sees_the_next_order(name):
    """An estimate that vanishes one order further would be blind to the error it stands for."""
    a, b = embedded(getattr(tableaus, name))
    assert worst_defect(a, b, TABLE[name][1] + 1) > 1e-7


@pytest.mark.parametrize("name,order", [(name, n) for name, row in TABLE.items() for n in range(1, (row[2] or 0) + 1)])
@pytest.mark.parametrize("theta", [0.0, 0.21, 0.5, 0.83, 1.0])
def test_dense_weights_meet_every_condition(name, order, theta):
    tableau = getattr(tableaus, name)
    size = len(tableau.dense)
    b = np.array([math.fsum(c * theta ** (j + 1) for j, c in enumerate(row)) for row in tableau.dense])
    # Tsitouras's interpolant is published to 16 digits with coefficients up to 50.
    assert worst_defect(square(tableau, size), b, order, theta) < 1e-12


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row[2]])
def test_dense_weights_end_in_the_result(name):
    tableau = getattr(tableaus, name)
    at_one = [math.fsum(row) for row in tableau.dense]
    assert at_one == pytest.approx([*tableau.b, 0.0], abs=2e-14)


@pytest.mark.parametrize("name", TABLE)
def test_stability_polynomial_is_that_of_the_order(name):
    """R(z) = Σ z^k/k! up to the order, by the order conditions of the tall trees."""
    polynomial = getattr(tableaus, name).stability_polynomial()
    order = TABLE[name][0]
    assert polynomial[: order + 1] == pytest.approx([1 / math.factorial(k) for k in range(order + 1)], abs=1e-14)


@pytest.mark.parametrize("theta, weights", tableaus.DOPRI8.within)
@pytest.mark.parametrize("order", range(1, 6))
def test_states_within_a_step_meet_every_condition(theta, weights, order):
    # Weights below 1/2 and 14 stages: a few units of rounding.
    assert worst_defect(square(tableaus.DOPRI8, 14), np.array(weights), order, theta) < 2e-15
    assert max(map(abs, weights)) < 0.5


def test_states_within_a_step_lie_where_the_continuous_result_asks_for_the_slope():
    assert tuple(theta for theta, _ in tableaus.DOPRI8.within) == explicit._ROUNDS[2][2:]
