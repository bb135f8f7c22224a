"""Graph files as users have them: every form, and what is wrong with them."""

import contextlib

import networkx
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from residyn import InputError
from residyn.graph import laplacian
from residyn.graph.reading import read


def put(tmp_path, name, text):
    (tmp_path / name).write_text(text, "utf-8")
    return str(tmp_path / name)


def dense(graph):
    return laplacian(graph.edges, graph.n, weight=graph.weight, normalized=False, dtype=torch.float64).to_dense().numpy()


def truth(graph, weight=None):
    return networkx.laplacian_matrix(graph, nodelist=list(graph), weight=weight).toarray()


@pytest.mark.parametrize("separator", [" ", "\t", ",", "; "])
def test_edge_lists_of_numbers_and_names(tmp_path, separator):
    graph = networkx.karate_club_graph()
    text = "# a remark\n\n" + "\n".join(f"{i}{separator}{j}" for i, j in graph.edges)
    found = read(put(tmp_path, "karate.txt", text))
    assert found.weight is None
    np.testing.assert_array_equal(dense(found), truth(graph))
    novel = networkx.les_miserables_graph()
    text = "source,target,weight\n" + "\n".join(f"{a},{b},{w}" for a, b, w in novel.edges(data="weight"))
    found = read(put(tmp_path, "novel.csv", text))
    assert found.names == sorted(novel)
    ordered = networkx.laplacian_matrix(novel, nodelist=sorted(novel), weight="weight").toarray()
    np.testing.assert_allclose(dense(found), ordered)


@pytest.mark.parametrize(
    "text",
    [
        'source;target\n"New York";"Los Angeles"\n"Los Angeles";"Zürich"\n',
        '"New York" "Los Angeles"\n"Los Angeles" Zürich\n',
        "New York,Los Angeles\nLos Angeles, Zürich\n",
        "New York\tLos Angeles\nLos Angeles\tZürich\n",
    ],
)
def test_names_with_blanks(tmp_path, text):
    found = read(put(tmp_path, "cities.csv", text))
    assert found.names == ["Los Angeles", "New York", "Zürich"]
    assert found.edges.tolist() == [[1, 0], [0, 2]]
    weighed = read(put(tmp_path, "weighed.csv", 'a,"b, ""the"" second",2\n'))
    assert weighed.names == ["a", 'b, "the" second']
    assert weighed.weight.tolist() == [2.0]


@pytest.mark.parametrize("ending, form", [("gml", "GML"), ("gexf", "GEXF"), ("net", "Pajek")])
def test_forms_that_are_not_read_are_named(tmp_path, ending, form):
    with pytest.raises(InputError, match=f"which is {form}; convert it"):
        read(put(tmp_path, f"g.{ending}", "graph [\n"))


def test_numbers_with_large_gaps_are_names(tmp_path):
    found = read(put(tmp_path, "g.txt", "1000000 5\n5 77\n"))
    assert found.names == ["5", "77", "1000000"]
    assert read(put(tmp_path, "h.txt", "0 1\n1 2\n"), nodes=5).n == 5
    assert read(put(tmp_path, "i.txt", f"0 {10**20}\n1 2\n")).n == 4  # past 64 bits


def test_matrix_market_adjacency_and_laplacian(tmp_path):
    graph = networkx.les_miserables_graph()
    A = networkx.adjacency_matrix(graph, weight="weight").astype(float)
    for matrix, notes in ((A, 0), (scipy.sparse.diags_array(A.sum(1)) - A, 1)):
        scipy.io.mmwrite(tmp_path / "g.mtx", scipy.sparse.coo_array(matrix))
        found = read(str(tmp_path / "g.mtx"))
        np.testing.assert_allclose(dense(found), truth(graph, "weight"))
        assert len(found.notes) == notes


def test_npz_with_edges_features_and_labels(tmp_path):
    graph = networkx.karate_club_graph()
    edges = np.array(graph.edges)
    x, y = np.random.default_rng(0).normal(size=(34, 3)), np.array([c for _, c in graph.nodes(data="club")])
    np.savez(tmp_path / "g.npz", edges=edges, x=x, y=y, edge_weight=np.ones(len(edges)))
    found = read(str(tmp_path / "g.npz"))
    np.testing.assert_array_equal(dense(found), truth(graph))
    assert found.classes == ["Mr. Hi", "Officer"]
    np.testing.assert_array_equal(found.labels, (y == "Officer").astype(int))
    np.testing.assert_allclose(found.features, x, rtol=1e-6)
    scipy.sparse.save_npz(tmp_path / "a.npz", scipy.sparse.csr_array(networkx.adjacency_matrix(graph, weight=None)))
    np.testing.assert_array_equal(dense(read(str(tmp_path / "a.npz"))), truth(graph))
    np.savez(tmp_path / "b.npz", edge_index=edges.T, num_nodes=40)
    assert read(str(tmp_path / "b.npz")).n == 40


def test_graphml_with_classes_features_and_weights(tmp_path):
    graph = networkx.karate_club_graph()
    for i in graph:
        graph.nodes[i]["age"] = float(i)
    networkx.write_graphml(graph, tmp_path / "g.graphml")
    found = read(str(tmp_path / "g.graphml"))
    np.testing.assert_allclose(dense(found), truth(graph, "weight"))
    assert found.classes == ["Mr. Hi", "Officer"]
    np.testing.assert_array_equal(found.features[:, 0], np.arange(34))
    assert read(str(tmp_path / "g.graphml"), labels="age").classes[:2] == ["0.0", "1.0"]


def test_labels_and_features_beside_the_graph(tmp_path):
    edges = put(tmp_path, "g.txt", "a b\nb c\n")
    labels = put(tmp_path, "l.csv", "node,class\na,red\nc,blue\n")
    features = put(tmp_path, "f.csv", "a,1,2\nb,3,4\nc,5,6\n")
    found = read(edges, labels=labels, features=features)
    assert found.classes == ["blue", "red"]
    assert found.labels.tolist() == [1, -1, 0]
    assert found.features.tolist() == [[1, 2], [3, 4], [5, 6]]
    np.save(tmp_path / "f.npy", np.eye(3))
    assert read(edges, features=str(tmp_path / "f.npy")).features.shape == (3, 3)


@given(st.binary(max_size=200), st.sampled_from(["g.txt", "g.mtx", "g.npz", "g.graphml"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        read(str(path))


ENTITY = '<?xml version="1.0"?><!DOCTYPE g [<!ENTITY a "a">]><graphml/>'
EDGE = '<graphml><graph><node id="a"/><edge source="a" target="b"/></graph></graphml>'
WEIGHT = (
    '<graphml><key id="d0" for="edge" attr.name="weight" attr.type="string"/><graph><node id="a"/><node id="b"/>'
    '<edge source="a" target="b"><data key="d0">much</data></edge></graph></graphml>'
)


@pytest.mark.parametrize(
    "name, text, options, words",
    [
        ("absent", None, {}, "`FILE` must be a file that is there"),
        ("g.txt", "a b\nc\n", {}, "must have two node names and perhaps a weight a line, got 1 fields in line 2"),
        ("g.txt", "a b heavy\n", {}, "must have numbers as weights, got 'heavy'"),
        ("g.txt", "# nothing\n", {}, "`FILE` must hold a node, got none"),
        ("g.txt", "0 1\n1 7\n", {"nodes": 3}, "`--nodes` must be more than the largest node number, 7, got 3"),
        ("g.txt", "a b\n", {"nodes": 3}, "`--nodes` must come with node numbers"),
        ("g.mtx", "not a matrix", {}, "`FILE` must be MatrixMarket with"),
        (
            "g.mtx",
            "%%MatrixMarket matrix coordinate real general\n2 3 1\n1 1 1.0\n",
            {},
            r"must hold a square matrix, got \(2, 3\)",
        ),
        (
            "g.mtx",
            "%%MatrixMarket matrix coordinate complex general\n2 2 1\n1 2 1.0 1.0\n",
            {},
            "must hold real weights, got complex",
        ),
        ("g.npz", "PK", {}, "must be an npz archive of plain numbers"),
        ("g.graphml", "<graphml>", {}, "`FILE` must be GraphML"),
        ("g.graphml", ENTITY, {}, "must be GraphML without a document type"),
        ("g.graphml", EDGE, {}, "must declare the nodes of its edges, got an edge of 'b'"),
        ("g.graphml", WEIGHT, {}, "must have numbers as weights, got something else in GraphML"),
        (
            "g.graphml",
            "<graphml><graph><node id='a'/></graph></graphml>",
            {"labels": "club"},
            "`--labels` must be a file or a node attribute, one of none, got 'club'",
        ),
        ("g.txt", "a b\n", {"labels": "absent.csv"}, "`--labels` must be a file that is there"),
    ],
)
def test_what_is_refused(tmp_path, name, text, options, words):
    path = str(tmp_path / name) if text is None else put(tmp_path, name, text)
    with pytest.raises(InputError, match=words):
        read(path, **options)


@pytest.mark.parametrize(
    "option, text, words",
    [
        ("labels", "a,x\nz,y\n", "`--labels` must name nodes of the graph, got 'z' in line 2"),
        ("labels", "a x y\n", "`--labels` must have a node and what belongs to it a line, got 3 fields in line 1"),
        ("features", "a,1\n", "`--features` must have a line for each node, got none for 'b'"),
        ("features", "a,1\nb,many\n", "`--features` must hold as many numbers a node"),
        ("features", "a,1\nb,nan\n", "`features` must be finite"),
    ],
)
def test_files_beside_the_graph_that_are_refused(tmp_path, option, text, words):
    with pytest.raises(InputError, match=words):
        read(put(tmp_path, "g.txt", "a b\n"), **{option: put(tmp_path, "beside.csv", text)})


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"z": np.ones(2)}, "must hold `edge_index`, `edges` or a sparse matrix, got z in npz"),
        ({"edges": np.ones((3, 3))}, r"`edges` must be \(2, edges\) of whole numbers, got float64"),
        ({"edges": np.array([[0], [1]]), "n": 2, "y": np.zeros(3)}, r"`y` must have one label a node, \(2,\), got \(3,\)"),
        (
            {"edges": np.array([[0], [1]]), "n": 2, "x": np.zeros(3)},
            r"`features` must be numbers, \(2, d\), one row a node, got float64 \(3,\)",
        ),
        ({"edges": np.array([["a"], ["b"]], dtype=object)}, "must be an npz archive of plain numbers"),
    ],
)
def test_arrays_that_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "g.npz", **arrays)
    with pytest.raises(InputError, match=words):
        read(str(tmp_path / "g.npz"))


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "g.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(InputError, match="`FILE` must be text in UTF-8"):
        read(str(tmp_path / "g.txt"))
