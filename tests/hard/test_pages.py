"""Hostile names, in files and of files, stand in every page as text and nothing else."""

import base64
import hashlib
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from residyn import report
from residyn.cli import main
from residyn.results import Result

from .readers import result_plain

NAMES = (
    "<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "javascript:alert(1)", "</style><script>alert(1)</script>",
    "{{ 7*7 }}{% raw %}", "&lt;b&gt;", "\u202eevil", "<!--", "]]><svg onload=alert(1)>", "a\x00b\x1b[31m", "\ud800",
)  # fmt: skip
FILE = "'\"><img src=x onerror=alert(1)> {{ 7*7 }} ü☃"
FORBIDDEN = {
    "iframe",
    "object",
    "embed",
    "form",
    "base",
    "input",
    "button",
    "audio",
    "video",
    "foreignobject",
    "animate",
    "set",
}


class Reader(HTMLParser):
    """What could act in a page."""

    def __init__(self):
        super().__init__()
        self.scripts, self.wrong, self.text, self.inside = [], [], [], ""

    def handle_starttag(self, tag, attributes):
        self.inside = tag
        if tag in FORBIDDEN:
            self.wrong.append(f"<{tag}>")
        for name, value in ((name, value or "") for name, value in attributes):
            if name.startswith("on") or name in ("srcdoc", "formaction", "action", "ping", "background", "srcset"):
                self.wrong.append(f"{tag} {name}={value}")
            if name in ("src", "href", "xlink:href") and not re.match(r"#|data:,$|data:image/png;base64,[\w+/=]*$", value):
                self.wrong.append(f"{tag} {name}={value}")
            if name == "style" and re.search(r"url\((?!#)|expression|@import", value):
                self.wrong.append(f"{tag} {name}={value}")
            if tag == "meta" and name == "http-equiv" and value.lower() == "refresh":
                self.wrong.append("a refresh")

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.text.append(data)

    def handle_endtag(self, tag):
        self.inside = ""


def inert(page, *, seen=()):
    """Assert that nothing in a page acts but our own script, which its policy names by hash; and that the names are shown."""
    reader = Reader()
    reader.feed(page)
    assert reader.wrong == []
    assert len(reader.scripts) <= 1
    for script in reader.scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in page
    text = "".join(reader.text)
    for name in seen:
        assert name in text, f"{name!r} is not shown"
    return text


def hostile(value, name):
    """A plain result with every free text in it replaced."""
    if isinstance(value, dict):
        kept = {"schema", "verdict", "mark", "xscale", "yscale", "png", "started"}
        return {key: item if key in kept else hostile(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, name) for item in value]
    return name if isinstance(value, str) and value not in ("nan", "inf", "-inf") else value


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_every_text_of_a_result_is_only_text(name):
    result = Result.from_dict(hostile(result_plain().to_dict(), name))
    page = report.html(result)
    text = inert(page)
    assert "49" not in text.replace("{{ 7*7 }}", "")
    assert "\x1b" not in page + report.text(result)
    page.encode("utf-8")
    inert(result._repr_html_())


def test_a_picture_that_is_no_base64_stays_within_its_attribute():
    plain = result_plain().to_dict()
    plain["sections"][0]["pictures"][0]["png"] = '" onerror="alert(1)'
    reader = Reader()
    reader.feed(report.html(Result.from_dict(plain)))
    assert [wrong for wrong in reader.wrong if " on" in wrong.partition("=")[0]] == []


def page_of(words, folder, name="page.html", codes=(0, 1)):
    assert main([*words, "-o", str(folder / name)]) in codes
    return (folder / name).read_text("utf-8")


def _scores(draw, labels):
    return (draw.normal(0, 1, (len(labels), 3)) + 2 * np.eye(3)[labels]).round(3)


def test_names_of_classes_and_of_their_file(tmp_path):
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 60)
    rows = "\n".join(f"{a},{b},{c},{k}" for (a, b, c), k in zip(_scores(draw, labels), labels, strict=True))
    path = tmp_path / f"{FILE}.csv"
    path.write_text(f"<script>alert(1)<script>,javascript:x,<img src=x onerror=y>,label\n{rows}\n", "utf-8")
    inert(page_of(["calibrate", str(path)], tmp_path), seen=[FILE])


def test_names_of_nodes_and_of_their_classes(tmp_path):
    draw = np.random.default_rng(0)
    names = [f"<script>{i}</script>" for i in range(12)]
    pairs = {(i, j) for i in range(12) for j in range(i) if draw.random() < 0.4} | {(i, i - 1) for i in range(1, 12)}
    path, labels = tmp_path / f"{FILE}.txt", tmp_path / "labels.txt"
    path.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in pairs), "utf-8")
    labels.write_text("".join(f"{name} <img/src=x/onerror=alert({i % 2})>\n" for i, name in enumerate(names)), "utf-8")
    inert(page_of(["graph", str(path), "--labels", str(labels), "--layers", "0", "--depth", "4"], tmp_path), seen=[FILE])


def test_names_in_a_structure(tmp_path):
    pytest.importorskip("gemmi")
    from .readers import _CIF

    path = tmp_path / f"{FILE}.cif"
    text = (
        _CIF.replace(b" A 1", b" '<i>x</i>' 1")
        .replace(b" A 1\n", b" '<i>x</i>' 1\n")
        .replace(b"CYS", b"'<b>'")
        .replace(b"GLY", b"CYS")
    )
    path.write_bytes(b"data_x\n_entry.id '<script>alert(1)</script>'\n" + text.removeprefix(b"data_x\n"))
    inert(page_of(["disulfide", str(path)], tmp_path))


def test_the_environment_of_a_doctor(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", NAMES[1])
    monkeypatch.setenv("OMP_NUM_THREADS", NAMES[0])
    inert(page_of(["doctor"], tmp_path), seen=[NAMES[0]])


@pytest.mark.slow
def test_names_of_columns_pictures_molecules_and_modules(tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    t = np.linspace(0, 3, 40)
    rows = "\n".join(f"{a:.4f},{b:.6f},{c:.6f}" for a, b, c in zip(t, np.cos(t), -np.sin(t), strict=True))
    (tmp_path / f"{FILE}.csv").write_text(f"t,<script>alert(1)</script>,<img src=x onerror=y>\n{rows}\n", "utf-8")
    inert(page_of(["dynamics", "fit", f"{FILE}.csv"], tmp_path), seen=["<script>alert(1)</script>"])

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24)).astype(np.uint8)).save(f"{FILE}.png")
    for verb in (["deblur", "--psf", "gaussian:1"], ["denoise"]):
        assert main([*verb, f"{FILE}.png", "--report", f"{verb[0]}.html"]) == 0
        inert((tmp_path / f"{verb[0]}.html").read_text("utf-8"), seen=[FILE])

    (tmp_path / "hostile_nets.py").write_text(
        "import torch\n"
        "class Block(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.add_module('<script>alert(1)</script>', torch.nn.Linear(4, 4))\n"
        "    def forward(self, x):\n"
        "        return x + next(self.children())(x)\n"
        "Block.__name__ = Block.__qualname__ = '<img src=x onerror=alert(1)>'\n"
        "def make():\n"
        "    return torch.nn.Sequential(Block(), Block())\n"
    )
    np.savez(f"{FILE}.npz", input=np.ones((3, 4), np.float32))
    inert(page_of(["audit", "hostile_nets:make", f"{FILE}.npz"], tmp_path))

    pytest.importorskip("pyscf")
    (tmp_path / f"{FILE}.xyz").write_text("2\n<script>alert(1)</script>\nH 0 0 0\nH 0 0 0.74\n")
    words = ["spectrum", f"{FILE}.xyz", "--basis", "sto-3g", "--xc", "hf", "--duration", "60"]
    inert(page_of(words, tmp_path, "molecule.html"), seen=["<img src=x onerror=alert(1)>"])


@pytest.mark.skipif(os.name != "posix", reason="names of such letters")
def test_a_name_that_is_no_unicode(tmp_path, capsys):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.npz")
    labels = np.arange(60) % 3
    np.savez(path, logits=_scores(np.random.default_rng(0), labels), labels=labels)
    inert(page_of(["calibrate", path], tmp_path))
    assert main(["calibrate", path, "--json"]) in (0, 1)
    Result.from_json(capsys.readouterr().out)
