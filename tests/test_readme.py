"""The README is a promise: its code runs, its commands are the ones that CI runs."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_there_is_code():
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize(
    "command",
    [
        'python -m pip install -c constraints.txt ".[all]" && residyn atlas -o atlas.html',
        'python -m pip install -c constraints.txt -e ".[all,test]" && pytest',
    ],
)
def test_commands_stand_on_a_line_of_their_own(command):
    assert command in README.splitlines()
