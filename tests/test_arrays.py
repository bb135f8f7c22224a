"""NumPy's files: whole ones as NumPy reads them, hostile ones refused before room is made for them."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from residyn.arrays import read_npy, read_npz
from residyn.errors import InputError

ARRAYS = {
    "c": np.arange(12.0).reshape(3, 4),
    "f": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big_endian": np.arange(5, dtype=">i4"),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "text": np.array(["a", "bcd"]),
    "complex": np.array([1 + 2j]),
}


def header(shape, descr="'<f8'", version=(1, 0)):
    """An .npy header that says whatever it likes."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-len(text) - 11 % 64 % 64) + b"\n"
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2, "little") + text


def archive(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in members.items():
            file.writestr(name, data)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_read_as_numpy_does(save, tmp_path):
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_npz(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].flags.f_contiguous == array.flags.f_contiguous
        assert found[name].flags.writeable


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_read_as_numpy_does(name, tmp_path):
    np.save(tmp_path / "a.npy", ARRAYS[name])
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), ARRAYS[name])


def test_an_array_larger_than_what_is_read_at_once(tmp_path):
    array = np.arange(200_000)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), array)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "got: "),
        (b"\x93NUMPY\x09\x00\x10\x00{}", "version 9.0 of the format, which is unknown"),
        (header((10**15,)), "bytes where (1000000000000000,) of float64 need 8000000000000000"),
        (header((10**30, 10**30)), "need "),
        (header((-1,)), "an array (-1,)"),
        (header((2,), "'|O'"), "objects, which would have to be unpickled"),
        (header((2,), "__import__('os').system('true')"), "got: "),
        (header((2,)) + b"\0" * 15, "15 bytes where (2,) of float64 need 16"),
        (header((2,)).replace(b"}", b" "), "got: "),
        (pickle.dumps({"a": 1}), "got: "),
    ],
)
def test_hostile_arrays_are_refused_alone_and_in_an_archive(data, words, tmp_path):
    (tmp_path / "a.npy").write_bytes(data)
    archive(tmp_path / "a.npz", {"a.npy": data})
    with pytest.raises(InputError, match="must be an .npy file of plain numbers, got: ") as alone:
        read_npy(tmp_path / "a.npy")
    with pytest.raises(InputError, match="must be an npz archive of plain numbers, got: ") as inside:
        read_npz(tmp_path / "a.npz")
    assert words in str(alone.value)
    assert words in str(inside.value)


def test_a_bomb_is_not_unpacked(tmp_path):
    page = io.BytesIO()
    np.save(page, np.zeros(2 << 20))
    archive(tmp_path / "a.npz", {f"{i}.npy": page.getvalue() for i in range(65)}, compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "a.npz").stat().st_size < 2 << 20
    with pytest.raises(InputError, match="must unpack to at most 1 GiB, got 1.02 GiB declared; .* save it again with np.savez"):
        read_npz(tmp_path / "a.npz")


def test_a_file_that_is_cut_off_or_not_there(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(100))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    with pytest.raises(InputError, match="must be an npz archive"):
        read_npz(tmp_path / "b.npz")
    for read in (read_npy, read_npz):
        with pytest.raises(InputError, match="must be a file that can be read, got: No such file"):
            read(tmp_path / "c.npz")
        with pytest.raises(InputError, match="must be a file that can be read, got: Is a directory"):
            read(tmp_path)
