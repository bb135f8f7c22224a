"""Files appear whole or not at all."""

import os

import pytest

from residyn.errors import ResidynError
from residyn.placing import placed, put


def test_a_file_takes_the_place_of_the_one_before(tmp_path):
    path = tmp_path / "ein Name mit ü.txt"
    put(path, "one")
    put(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == [path.name]


def test_what_a_link_points_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "there" / "file.txt")
    put(tmp_path / "link.txt", "text")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "there" / "file.txt").read_text() == "text"


def test_what_breaks_off_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "kept.txt"
    put(path, "kept")

    def breaks_off():
        with placed(path) as draft:
            draft.write_text("half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaks_off()
    assert path.read_text() == "kept"
    assert os.listdir(tmp_path) == ["kept.txt"]


def test_a_disk_that_refuses_is_one_line(tmp_path):
    with pytest.raises(
        ResidynError, match=r"'.*gone/file' could not be written: No such file or directory; nothing was changed there"
    ):
        put(tmp_path / "gone" / "file", "text")
