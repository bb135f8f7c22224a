"""MatrixMarket as SciPy writes and reads it, and what SciPy does not survive."""

import itertools

import numpy as np
import pytest
from scipy import io, sparse

from residyn.errors import InputError
from residyn.graph.market import read_market
from residyn.graph.reading import read

FULL = np.array([[0.0, 1.5, 0.0], [2.0, 0.0, -3.0], [0.0, 4.0, 5.0]])
MATRICES = {"general": FULL, "symmetric": FULL + FULL.T, "skew-symmetric": FULL - FULL.T, "hermitian": FULL + FULL.T}


@pytest.mark.parametrize(("symmetry", "full", "field"), [*itertools.product(MATRICES, (False, True), ("real", "integer"))])
def test_agrees_with_scipy(symmetry, full, field, tmp_path):
    matrix = MATRICES[symmetry] if field == "real" else (2 * MATRICES[symmetry]).astype(int)
    path = tmp_path / "a.mtx"
    io.mmwrite(path, matrix if full else sparse.coo_array(matrix), field=field, symmetry=symmetry, comment="a\nremark")
    np.testing.assert_array_equal(read_market(path).toarray(), matrix)


def test_pattern_blank_lines_and_an_empty_matrix(tmp_path):
    path = tmp_path / "a.mtx"
    path.write_text("%%MatrixMarket MATRIX Coordinate pattern general\n% x\n\n2 3 2\n1 2\n\n2 3\n")
    np.testing.assert_array_equal(read_market(path).toarray(), [[0, 1, 0], [0, 0, 1]])
    path.write_text("%%MatrixMarket matrix coordinate real general\n4 4 0\n")
    assert read(str(path)).n == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("real symmetric\n3 3 2\n2 1 1\0\0\0\0 2 2.5\n", "numbers below its sizes"),  # kills SciPy 1.17's reader
        ("complex general\n1 1 1\n1 1 1 0\n", "`FILE` must hold real weights, got complex ones in MatrixMarket"),
        ("real strange\n1 1 1\n1 1 1\n", "a form, a field and a symmetry that there are"),
        ("real\n1 1 1\n1 1 1\n", "three more words in its first line"),
        ("real general\n1 1\n1 1 1\n", "a line with 3 sizes"),
        ("real general\n1 1 -1\n", "a line with 3 sizes"),
        ("real symmetric\n1 2 1\n1 2 1\n", r"a square matrix, got \(1, 2\) in MatrixMarket, symmetric"),
        ("real general\n3 3 100000000000\n1 1 1\n", "the 100,000,000,000 entries that it declares, got 69 bytes"),
        ("real general\n3 3 2\n1 1 1\n", "the 2 entries that it declares, got 3 numbers"),
        ("real general\n3 3 1\n4 1 1\n", r"places within 3 × 3, got \[4.0, 1.0, 1.0\]"),
        ("real general\n3 3 1\n1.5 1 1\n", "places within 3 × 3"),
        ("real general\n3 3 1\nnan 1 1\n", "places within 3 × 3"),
        ("real general\n3 3 1\n1 1 ü\n", "numbers below its sizes"),
        ("real general\n1000000000000 1000000000000 1\n1 1 1.0\n", "at most 1,000,000 nodes, or 100 an edge"),
        ("real general\n", "a line with 3 sizes"),
    ],
)
def test_refused_in_a_line(text, words, tmp_path):
    path = tmp_path / "a.mtx"
    path.write_text(f"%%MatrixMarket matrix coordinate {text}")
    with pytest.raises(InputError, match=words):
        read(str(path))


def test_a_negative_number_of_nodes_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", edge_index=np.array([[0], [1]]), num_nodes=np.array(-5))
    with pytest.raises(InputError, match="`FILE` must have at most 1,000,000 nodes, or 100 an edge, got -5 nodes and 1 edges"):
        read(str(tmp_path / "a.npz"))
