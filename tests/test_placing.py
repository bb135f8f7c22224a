"""Files appear whole or not at all."""

import os
import re
import signal
import subprocess
import sys

import pytest

from residyn.errors import ResidynError
from residyn.placing import _lives, _swept, draft_of, placed, put


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


def test_what_a_killed_process_left_is_gone_after_the_next_and_nothing_else(tmp_path):
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, signal, sys\nfrom residyn.placing import placed\n"
            "with placed(sys.argv[1]) as draft:\n    draft.write_text('half of')\n    os.kill(os.getpid(), signal.SIGKILL)",
            str(tmp_path / "page.html"),
        ],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    other = left.name.rpartition("-")[0].rpartition(".")[0] + ".0123abcd-1.tmp"  # another machine's
    mine = re.sub(r"-\d+\.tmp$", f"-{os.getppid()}.tmp", left.name)  # of a process that lives
    for name in (other, mine, ".hidden.tmp", "plain.txt"):
        (tmp_path / name).write_text("kept")
    put(tmp_path / "page.html", "whole")
    assert sorted(os.listdir(tmp_path)) == sorted([other, mine, ".hidden.tmp", "plain.txt", "page.html"])


def test_a_folder_that_a_killed_process_left(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    draft = draft_of(tmp_path / "lora")
    left = draft.with_name(draft.name.replace(f"-{os.getpid()}.", f"-{gone.stdout.strip()}."))
    (left / "inside").mkdir(parents=True)
    assert not _lives(int(gone.stdout))
    _swept.cache_clear()
    put(tmp_path / "a.txt", "")
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "x" * 199, "x" * 200])
def test_names_as_long_as_the_file_system_takes_them(tmp_path, name):
    put(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]
