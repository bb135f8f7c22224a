"""The typed surface, checked from outside: a client that uses every promised name passes strict type checkers."""

import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

import residyn

CLIENT = Path(__file__).with_name("client.py")
TEXT = CLIENT.read_text("utf-8")


def test_the_package_says_that_it_is_typed():
    assert (Path(residyn.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("name", residyn.__all__)
def test_every_root_name_is_in_the_client(name):
    assert re.search(rf"\brd\.{name}\b", TEXT)


def outside(tmp_path, *words):
    """A type checker in a folder that knows nothing of this one's settings."""
    (tmp_path / "client.py").write_text(TEXT, "utf-8")
    environment = os.environ | {
        "MYPYPATH": str(Path(residyn.__file__).parents[1]),
        "PYTHONPATH": str(Path(residyn.__file__).parents[1]),
    }
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_mypy_from_outside(tmp_path):
    if util.find_spec("mypy") is None:
        pytest.skip("mypy comes with the extra dev; CI runs it on the client too")
    ended = outside(tmp_path, "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "client.py")
    ours = [line for line in ended.stdout.splitlines() if line.startswith("client.py")]
    assert ours == []
    assert "client.py" not in ended.stderr


@pytest.mark.slow
def test_pyright_from_outside(tmp_path):
    if util.find_spec("basedpyright") is None:
        pytest.skip("no basedpyright (a pyright that installs from wheels alone)")
    (tmp_path / "pyrightconfig.json").write_text(
        f'{{"typeCheckingMode": "strict", "extraPaths": ["{Path(residyn.__file__).parents[1]}"], "reportMissingTypeStubs": "none"}}'
    )
    ended = outside(tmp_path, "basedpyright", "client.py")
    errors = [line for line in ended.stdout.splitlines() if " error: " in line]
    assert errors == []
