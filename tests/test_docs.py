"""README and docs are a promise: their Python runs, their commands exist, and what they show is what comes out."""

import ast
import io
import re
import shlex
import sys
import types
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import typer

from residyn.cli import main
from residyn.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
SLOW = {"adapt", "compiled", "quantum", "nets", "transfer", "training"}

NETWORK = """
import torch
from torch import nn
from residyn.nets import MLP, ResNet
torch.manual_seed(0)

def build():
    return ResNet(nn.Linear(8, 16), [MLP(16, 16, 16) for _ in range(3)], nn.Linear(16, 3))

def train(model, parameters):
    pass

model = build()
x, y = torch.randn(24, 8), torch.randint(3, (24,))
x_test, y_test = torch.randn(24, 8), torch.randint(3, (24,))
images, labels, held_out = x, y, (x_test, y_test)
"""
# What a reader of a page has of his own: models, data, files.
HAS = {
    "audit": NETWORK + """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return x + self.outer(torch.relu(self.inner(x)))

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
        self.layer3, self.layer4 = (nn.Sequential(*[Block() for _ in range(3)]) for _ in range(2))

    def forward(self, x):
        return self.head(self.layer4(self.layer3(self.stem(x))))

model = Model()
""",
    "graph": """
import torch
n, features, classes = 12, 4, 3
edge_index = torch.stack([torch.arange(12), (torch.arange(12) + 1) % 12])
x = torch.randn(n, features)
""",
    "inverse": """
import torch
import numpy as np
from PIL import Image
Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48), dtype=np.uint8)).save("photo.png")
from residyn.inverse import Blur, gaussian
op = Blur(gaussian(1.0), (16, 16), "circular")
b = x0 = torch.rand(16, 16, dtype=torch.float64)
""",
    "quantum": """
from pathlib import Path
Path("water.xyz").write_text("2\\n\\nH 0 0 0\\nH 0 0 0.74\\n")  # two atoms: three of them take minutes
""",
    "robust": NETWORK + "x, x_test = x.clamp(0, 1), x_test.clamp(0, 1)\n",
    "training": NETWORK.replace("nn.Linear(8, 16)", "nn.Linear(784, 16)") + """
images, labels = torch.randn(200, 784), torch.randint(10, (200,))
held_out = images[:50], labels[:50]
""",
    "adapt": NETWORK + """
x_source, y_source, x_target, x_new = x, y, x + 1, x_test + 1
""",
    "transfer": NETWORK + """
from torch.utils.data import TensorDataset
x2, y2, x2_test, y2_test = x + 1, y, x_test + 1, y_test
model = ResNet(nn.Linear(8, 64), [MLP(64, 64, 64) for _ in range(3)], nn.Linear(64, 3))
""",
}  # fmt: skip


def blocks(page, language):
    return [code for found, code in BLOCK.findall(page.read_text("utf-8")) if found == language]


def alike(shown, came):
    """Whether a text is the one shown: numbers within 2 % or the rounding of the last digit that is shown, and … for anything."""
    shown, came = " ".join(shown.split()), " ".join(came.split())
    pattern = "".join(
        "(-?[0-9.e+-]+)" if part == "#" else ".*" if part == "…" else re.escape(part)
        for part in re.split("(#|…)", NUMBER.sub("#", shown))
    )
    found = re.fullmatch(pattern, came, re.DOTALL)
    return bool(found) and all(
        float(a) == pytest.approx(float(b), rel=0.02, abs=0.51 * 10.0 ** -len(b.partition(".")[2]) if "." in b else 0)
        for a, b in zip(found.groups(), NUMBER.findall(shown), strict=True)
    )


def test_there_is_code_on_most_pages():
    assert sum(bool(blocks(page, "python")) for page in PAGES) >= 12


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page.stem in SLOW)) for page in PAGES if blocks(page, "python")],
    ids=lambda page: page.stem,
)
def test_python_runs(page, tmp_path, monkeypatch):
    """One block after the other, in one namespace, as a reader would."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page_of_the_documentation")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # torch.compile looks names up there
    names = vars(module)
    exec(compile(HAS.get(page.stem, ""), "what the reader has", "exec"), names)
    for code in blocks(page, "python"):
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(code, page.name, "exec"), names)
        promised = [(node.lineno, node.end_lineno) for node in ast.walk(ast.parse(code)) if is_print(node)]
        lines = code.splitlines()
        marks = [re.search(r"#\s*(-?[\d.]+|inf|True|False)(?=$|[ ,:;])", lines[end - 1]) for _, end in promised]
        if marks and all(marks) and len(said.getvalue().splitlines()) == len(marks):
            for mark, line in zip(marks, said.getvalue().splitlines(), strict=True):
                assert alike(mark[1], line.split()[0] if "tensor" not in line else re.sub(r"tensor\((.*)\)", r"\1", line)), line


def is_print(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "print"


def commands():
    """Every `residyn …` in a console block, with the page it stands on."""
    for page in PAGES:
        for code in blocks(page, "console"):
            for line in code.splitlines():
                words = line.removeprefix("$ ").partition("  #")[0].strip()
                if words.startswith("residyn "):
                    yield pytest.param(words, id=f"{page.stem}: {words[:60]}")


@pytest.mark.parametrize("command", list(commands()))
def test_a_command_has_the_words_that_its_verb_knows(command):
    """Verbs and options exist; the files are the reader's."""
    words = shlex.split(command)[1:]
    verb = typer.main.get_command(app)
    while words and hasattr(verb, "commands") and words[0] in verb.commands:
        verb = verb.commands[words.pop(0)]
    assert not getattr(verb, "commands", None), f"{command}: no such verb"
    known = {name for parameter in verb.params for name in parameter.opts + parameter.secondary_opts}
    assert [word for word in words if word.startswith("-") and word.partition("=")[0] not in known and word != "-1"] == []


@pytest.mark.parametrize(
    ("page", "code"),
    [
        pytest.param(page, code, id=f"{page.stem}: {code.splitlines()[0][:40]}")
        for page in PAGES
        for code in blocks(page, "console")
        if re.search(r"^\$ residyn .*\n(?!\$|\n)", code, re.MULTILINE)
    ],
)
def test_what_a_command_prints_is_what_the_page_shows(page, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        if shown.strip():
            main(shlex.split(command.partition("  #")[0])[1:])
            out, err = capsys.readouterr()
            assert alike(shown, out + err), out + err


@pytest.mark.parametrize(
    "command",
    [
        'python -m pip install -c constraints.txt ".[all]" && residyn atlas -o atlas.html',
        'python -m pip install -c constraints.txt -e ".[all,test]" && pytest',
    ],
)
def test_commands_stand_on_a_line_of_their_own(command):
    assert command in (ROOT / "README.md").read_text("utf-8").splitlines()


def test_the_hook_lists_every_error_and_every_code():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import hooks
    finally:
        sys.path.remove(str(ROOT / "docs"))
    from residyn import errors
    from residyn.audit.codes import CODES

    classes = [name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__]
    assert all(f"`{name}`" in hooks.errors() for name in classes)
    assert all(f"| {code} |" in hooks.codes() for code in CODES)
