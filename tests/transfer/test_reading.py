"""Domains from files: tables, pictures, and every rule by its words."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residyn.errors import InputError, MissingExtraError
from residyn.transfer.reading import Domain, aligned, class_names, numbered, read_domain

X = np.arange(12.0).reshape(4, 3)


def csv(path, header="a,b,c,label", rows=("0,1,2,cat", "3,4,5,dog", "6,7,8,cat", "9,10,11,dog")):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def picture(path, value, mode="L", side=6):
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (side, side) if mode == "L" else (side, side, 3)
    image.fromarray(np.full(shape, value, np.uint8)).save(path)


def folder(path):
    (path / "empty" / "inner").mkdir(parents=True)
    return path / "empty"


def broken(path):
    pytest.importorskip("PIL")
    (path / "pictures").mkdir()
    (path / "pictures" / "a.png").write_bytes(b"no picture")
    return path / "pictures"


def test_tables_agree(tmp_path):
    one = read_domain(csv(tmp_path / "a.csv"))
    np.savez(tmp_path / "a.npz", x=X, y=np.array(["cat", "dog", "cat", "dog"]))
    two = read_domain(tmp_path / "a.npz")
    assert torch.equal(one.x, two.x)
    assert one.labels == two.labels == ["cat", "dog", "cat", "dog"]
    assert one.features == ["a", "b", "c"]
    assert numbered(one, class_names(one)).tolist() == [0, 1, 0, 1]
    assert read_domain(csv(tmp_path / "b.csv", "a,b", ["1,2"])).labels is None
    assert read_domain(tmp_path / "a.csv", labels="label").labels == one.labels


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    table = {"a": X[:, 0], "b": X[:, 1].astype(int), "c": X[:, 2], "label": [1, 0, 1, 2]}
    parquet.write_table(pa.table(table), tmp_path / "a.parquet")
    found = read_domain(tmp_path / "a.parquet")
    assert torch.equal(found.x, torch.tensor(X, dtype=torch.float32))
    assert found.labels == ["1", "0", "1", "2"]
    parquet.write_table(pa.table({**table, "b": [1, None, 2, 3]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"column 'b' must hold numbers without gaps, got 1 missing values"):
        read_domain(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"must be a Parquet file, got"):
        read_domain(tmp_path / "c.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"`pyarrow` is not installed; it comes with the extra `tables`"):
        read_domain(tmp_path / "a.parquet")


def test_pictures(tmp_path):
    for number in range(2):
        picture(tmp_path / "set" / "dark" / f"{number}.png", 51)
        picture(tmp_path / "set" / "light" / f"{number}.png", 255)
        picture(tmp_path / "flat" / f"{number}.png", 102, "RGB")
    found = read_domain(tmp_path / "set", size=4)
    assert found.x.shape == (4, 1, 4, 4)
    assert found.labels == ["dark", "dark", "light", "light"]
    assert found.x[0].unique().tolist() == pytest.approx([0.2])
    flat = read_domain(tmp_path / "flat", size=4)
    assert (flat.x.shape, flat.labels) == ((2, 3, 4, 4), None)
    assert read_domain(tmp_path / "flat", size=4, channels=1).x.shape == (2, 1, 4, 4)
    assert read_domain(tmp_path / "set", size=4, channels=3).x.shape == (4, 3, 4, 4)


def test_features_are_matched_by_name():
    one = Domain("one", torch.tensor([[1.0, 2.0]]), None, ["a", "b"])
    two = Domain("two", torch.tensor([[3.0, 4.0]]), None, ["b", "a"])
    assert aligned(one, two).x.tolist() == [[4.0, 3.0]]
    assert aligned(one, Domain("two", two.x, None, [])).x.tolist() == [[3.0, 4.0]]
    with pytest.raises(InputError, match=r"two: must have the features of one, got none named 'a'; name them alike"):
        aligned(one, Domain("two", two.x, None, ["b", "c"]))
    with pytest.raises(
        InputError, match=r"two: must have the features of one, \(2,\) a sample, got \(1,\), without 'a'; bring"
    ):
        aligned(one, Domain("two", torch.zeros(1, 1), None, ["b"]))


def test_class_names():
    zero = torch.zeros(2, 1)
    assert class_names(Domain("d", zero, ["10", "2"], [])) == [str(n) for n in range(11)]
    with pytest.raises(InputError, match=r"d: must hold classes, named labels, label, y, target"):
        class_names(Domain("d", zero, None, []))
    with pytest.raises(InputError, match=r"d: must hold class numbers from 0 up, got -1"):
        class_names(Domain("d", zero, ["-1", "2"], []))
    with pytest.raises(InputError, match=r"d: must hold classes of the source \(a, b\), got 'c'; leave those samples out"):
        numbered(Domain("d", zero, ["a", "c"], []), ["a", "b"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "absent.csv", r"absent.csv: must be a file that can be read"),
        (lambda p: p / "absent", r"absent: must be a file or folder that can be read, got nothing there"),
        (lambda p: csv(p / "a.json"), r"must be .npz, .csv, .tsv, .parquet or a folder of pictures, got '.json'"),
        (lambda p: csv(p / "a.csv", "a,label", []), r"must hold samples, got none; a domain cannot be empty"),
        (lambda p: csv(p / "a.csv", "label", ["1"]), r"must hold features besides the labels, got none"),
        (lambda p: csv(p / "a.csv", "a,a", ["1,2"]), r"line 1 must name each column once, got 'a' twice; rename one"),
        (lambda p: csv(p / "a.csv", "a,b", ["1"]), r"line 2 must have 2 cells, as the header, got 1 cells"),
        (lambda p: csv(p / "a.csv", "a,b", ["1,nan"]), r"line 2, column 'b' must have no missing value"),
        (lambda p: csv(p / "a.csv", "", []), r"line 1 must be a header that names the features, got nothing"),
        (lambda p: npz(p, z=X), r"must hold an array of samples named x, features, .*, got z; name it so"),
        (lambda p: npz(p, x=X[0]), r"`x` must be numbers \(n, …\), got float64 of shape \(3,\)"),
        (lambda p: npz(p, x=X / 0, y=np.arange(4)), r"must be finite, got nan or inf in sample 1; fill it in"),
        (lambda p: npz(p, x=X, y=np.arange(3)), r"must hold one label a sample, got 3 for 4"),
        (folder, r"must hold pictures \(.png .*\), or a folder of them a class, got none"),
        (broken, r"a.png: must be a picture, got: cannot identify"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in divide")
def test_broken_files_are_named(tmp_path, make, words):
    with pytest.raises(InputError, match=words):
        read_domain(make(tmp_path))


def test_options_are_checked(tmp_path):
    picture(tmp_path / "a.png", 3)
    with pytest.raises(InputError, match=r"`size` must be a whole number of pixels from 4 to 512, got 2; 32 is usual"):
        read_domain(tmp_path, size=2)
    with pytest.raises(InputError, match=r"`channels` must be 1 or 3, got 2"):
        read_domain(tmp_path, channels=2)
    with pytest.raises(InputError, match=r"must hold the labels 'kind', got a, b, c, label; check the name"):
        read_domain(csv(tmp_path / "a.csv"), labels="kind")


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".npz", ".csv"]))
def test_any_bytes_give_a_domain_or_a_typed_error(tmp_path_factory, data, ending):
    path = tmp_path_factory.mktemp("fuzz") / f"a{ending}"
    path.write_bytes(data)
    with contextlib.suppress(InputError):  # anything else fails the test
        assert read_domain(path).x.is_floating_point()


def npz(path, **arrays):
    with np.errstate(all="ignore"):
        np.savez(path / "a.npz", **arrays)
    return path / "a.npz"
