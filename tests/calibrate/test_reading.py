"""Records from npz and CSV; every rule by its words."""

import contextlib
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from residyn.calibrate import read
from residyn.errors import InputError

Z, Y = np.array([[1.5, -0.5], [0.25, 2.0], [0.0, 1.0]]), np.array([0, 1, 1])


def test_npz_and_csv_agree(tmp_path):
    np.savez(tmp_path / "a.npz", logits=Z, labels=Y)
    rows = "\n".join(f"{a},{b},{y}" for (a, b), y in zip(Z, Y, strict=True))
    (tmp_path / "a.csv").write_text("no,yes,label\n" + rows + "\n")
    one, two = read(tmp_path / "a.npz"), read(tmp_path / "a.csv")
    assert torch.equal(one.scores, two.scores)
    assert torch.equal(one.labels, two.labels)
    assert two.names == ["no", "yes"]


def test_names_can_be_said(tmp_path):
    np.savez(tmp_path / "a.npz", out=Z.astype(">f4"), truth=Y.astype(float))
    record = read(tmp_path / "a.npz", scores="out", labels="truth")
    assert record.scores.dtype == torch.float32
    assert record.labels.tolist() == [0, 1, 1]
    (tmp_path / "b.tsv").write_text("p\tgold\n0.3\t0\n0.8\t1\n")
    assert read(tmp_path / "b.tsv", labels="gold").scores.shape == (2,)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "absent.npz", r"absent.npz: must be a file that can be read, got: No such file"),
        (lambda p: _npz(p, z=Z), r"must hold an array of labels named labels, label, y, .*, got z; name it so"),
        (lambda p: _npz(p, foo=Z, labels=Y), r"must hold an array of scores named logits, scores, .*got foo, labels"),
        (lambda p: _npz(p, logits=Y, labels=Y), r"`logits` must hold floating point numbers, got int64"),
        (lambda p: _npz(p, logits=Z, labels=Y + 0.5), r"`labels` must hold whole class numbers, got fractions"),
        (lambda p: _npz(p, logits=Z, labels=np.array(["a", "b", "c"])), r"`labels` must hold  ?numbers, got <U1"),
        (lambda p: _npz(p, logits=np.array([{}], dtype=object), labels=Y), r"must be an npz archive of plain numbers"),
        (lambda p: _text(p, "a.npz", "hello"), r"must be an npz archive of plain numbers"),
        (lambda p: _text(p, "a.json", "{}"), r"must end in .npz, .csv, .tsv or .txt, got '.json'"),
        (lambda p: _text(p, "a.csv", ""), r"line 1 must be a header that names a column of labels and one a class"),
        (lambda p: _text(p, "a.csv", "a,b\n1,2\n"), r"line 1 must name a column of labels: labels or label"),
        (lambda p: _text(p, "a.csv", "a,label\n1,2,3\n"), r"line 2 must have 2 cells, as the header, got 3 cells"),
        (lambda p: _text(p, "a.csv", "a,label\n1,0.5\n"), r"line 2, column 'label' must be a whole class number, got 0.5"),
        (lambda p: _text(p, "a.csv", "a,label\nx,1\n"), r"line 2, column 'a' must hold numbers only, got 'x'"),
        (lambda p: _text(p, "a.csv", "a,label\n"), r"line 2 must have rows of data, got none"),
    ],
)
def test_broken_files_are_named(tmp_path, make, words):
    with pytest.raises(InputError, match=words):
        read(make(tmp_path))


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (tmp_path / "a.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", logits=np.array([Trap()], dtype=object), labels=Y)
    (tmp_path / "sprung").unlink(missing_ok=True)
    with pytest.raises(InputError):
        read(tmp_path / "b.npz")
    assert not (tmp_path / "sprung").exists()


@given(st.binary(max_size=200), st.sampled_from([".npz", ".csv"]))
def test_any_bytes_give_a_record_or_a_typed_error(tmp_path_factory, data, ending):
    path = tmp_path_factory.mktemp("fuzz") / f"a{ending}"
    path.write_bytes(data)
    with contextlib.suppress(InputError):  # anything else fails the test
        assert read(path).scores.is_floating_point()


def _npz(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def _text(folder, name, text):
    (folder / name).write_text(text)
    return folder / name
