"""What pyproject.toml, constraints.txt and the README promise to an installer."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#"))


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!;~ ]", requirement)[0].lower().replace("_", "-")


def requirements() -> list[str]:
    extras = [r for group in PROJECT["optional-dependencies"].values() for r in group]
    return [r for r in [*PROJECT["dependencies"], *extras] if name_of(r) != "residyn"]


@pytest.mark.parametrize("requirement", requirements())
def test_every_requirement_is_pinned(requirement):
    assert name_of(requirement) in {name.lower().replace("_", "-") for name in PINS}


def test_torch_is_pinned_so_that_its_cpu_build_fits():
    assert PINS["torch"] == "2.13.0"


def test_nothing_asks_for_torchvision():
    assert "torchvision" not in {name.lower() for name in PINS} | {name_of(r) for r in requirements()}


def test_all_holds_every_extra_of_users():
    extras = PROJECT["optional-dependencies"]
    named = set(re.findall(r"\[([\w,]+)\]", extras["all"][0])[0].split(","))
    assert named == set(extras) - {"all", "test", "docs", "dev"}


def test_constraints_are_exact_and_name_no_place():
    text = (ROOT / "constraints.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
