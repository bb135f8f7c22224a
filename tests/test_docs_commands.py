"""Every command line of README and docs is run, one page after the other, in a folder with the files that its reader has."""

import glob
import gzip
import importlib
import itertools
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from residyn.audit.loading import load
from residyn.cli import main
from residyn.protein import sample

from .test_docs_expected import without

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
WRITES = ("-o", "--report", "--model-out", "--branch", "--predictions")
SLOW = {
    "adapt",
    "atlas",
    "audit",
    "calibrate",
    "dynamics",
    "graph",
    "index",
    "inverse",
    "protein",
    "quantum",
    "scale",
    "segment",
}

# What is not run here, and why.
LEFT = {
    'python -m pip install -c constraints.txt ".[all]" && residyn atlas -o atlas.html': "installs; CI's own first step",
    'python -m pip install -c constraints.txt -e ".[all,test]" && pytest': "installs, and is the run that this test is part of",
    "residyn bench solvers stiff -o mine.md": "minutes, with peers that CI does not install",
    "residyn disulfide models/*.cif.gz -o all.csv --backend dask --scheduler tcp://head:8786 --resume": "needs a cluster: cli/test_cluster.py",
    "residyn spectrum *.xyz -o lines.csv --backend ray --scheduler auto": "needs a cluster: cli/test_cluster.py",
}
# What is run with more words behind it, and why.
LONGER = {
    "residyn atlas -o atlas.html": ("wiener --fast", "all sixteen systems take minutes"),
    "residyn segment train images/ masks/ -o model.safetensors --report training.html": (
        "--epochs 1 --crops 4 --crop 32",
        "twenty epochs take a minute",
    ),
    "residyn adapt clinic_a.csv clinic_b.csv -o report.html --predictions classes.csv": (
        "--steps 20 --width 8",
        "300 steps of every recipe take a minute",
    ),
    "residyn adapt photos/ sketches/ --model mynets:resnet --weights resnet.safetensors --branch sketches.safetensors": (
        "--steps 10 --width 8",
        "300 steps of every recipe take a minute",
    ),
}
# What rightly ends in another way than 0.
CODES = {"residyn explain wienr": 2}


def commands(page):
    """The lines of the console blocks that are typed: those after `$ `, or all where a block has no such mark."""
    found = []
    for block in BLOCK.findall(without(page.read_text("utf-8"))):  # those with their output are run by test_docs_expected.py
        lines = block.splitlines()
        typed = [line[2:] for line in lines if line.startswith("$ ")] or lines
        found += [line.partition("  #")[0].strip() for line in typed if line.strip()]
    return found


def picture(name, side=64):
    """The middle of a sample of scikit-image."""
    from importlib.resources import files

    with Image.open(str(files("skimage").joinpath("data", name))) as opened:
        left, top = (opened.width - side) // 2, (opened.height - side) // 2
        return opened.crop((left, top, left + side, top + side)).copy()


def audit():
    Path("mypackage").mkdir()
    Path("mypackage/__init__.py").touch()
    Path("mypackage/nets.py").write_text(
        "from torch import nn\nfrom residyn.nets import ResNet\n\n"
        "def branch():\n    return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))\n\n"
        "def make():\n"
        "    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))\n"
        "    return ResNet(nn.Conv2d(3, 8, 3, padding=1), [branch() for _ in range(2)], head)\n",
        "utf-8",
    )
    model = load("mypackage.nets:make")
    save_file(model.state_dict(), "trained.safetensors")
    x = torch.randn(8, 3, 32, 32)
    Path("batches").mkdir()
    for name in ("batch", "batches/first", "batches/second"):
        np.savez(f"{name}.npz", x=x.numpy(), labels=np.arange(8) % 3)
    torch.export.save(torch.export.export(model.eval(), (x,)), "exported.pt2")

    import transformers

    folder = Path("path/to/folder")
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "step", "is", "small", "large"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=10)).save_pretrained(folder)
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    Path("sentences.txt").write_text("a step is small\na small step\na step is large\n", "utf-8")


def calibrate():
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(3, 600, 4))
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    y = (p.cumsum(-1) > rng.random((3, 600, 1))).argmax(-1)
    Path("runs").mkdir()
    for name, k in (("logits", 0), ("runs/first", 1), ("runs/second", 2)):
        np.savez(f"{name}.npz", logits=2 * z[k], labels=y[k])
    for name, k in (("held_out.csv", 1), ("test.csv", 2)):
        rows = [",".join(f"{v:.6f}" for v in row) + f",{label}" for row, label in zip(2 * z[k], y[k], strict=True)]
        Path(name).write_text("\n".join(["ant,bee,cat,dog,label", *rows]) + "\n", "utf-8")


def dynamics():
    from scipy.integrate import solve_ivp

    t = np.linspace(0, 10, 101)
    x = solve_ivp(lambda _, s: [s[1], -math.sin(s[0])], (0, 10), [1.0, 0.0], t_eval=t, rtol=1e-9, atol=1e-9).y.T
    rows = [f"{a:.2f},{b:.8f},{c:.8f}" for a, (b, c) in zip(t, x, strict=True)]
    Path("pendulum.csv").write_text("\n".join(["t,angle,velocity", *rows]) + "\n", "utf-8")


def graph():
    club = networkx.karate_club_graph()
    Path("friends.txt").write_text("".join(f"{a} {b}\n" for a, b in club.edges), "utf-8")
    np.savez("cites.npz", edge_index=np.array(club.edges).T)
    Path("topics.csv").write_text("".join(f"{node},{club.nodes[node]['club'].split()[0]}\n" for node in club), "utf-8")
    networkx.write_graphml(club, "club.graphml")
    networkx.write_graphml(networkx.path_graph(12), "path.graphml")


def inverse():
    picture("camera.png").save("photo.png")
    picture("coins.png").save("scan.tif")
    line = np.exp(-(np.linspace(-2, 2, 9) ** 2))
    np.save("psf.npy", np.outer(line, line) / line.sum() ** 2)
    for name, source in (("night.jpg", "astronaut.png"), ("cat.jpg", "chelsea.png")):
        picture(source).save(name, quality=95)


def segment():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    for folders, number in ((("images", "masks"), 4), (("new", "truth"), 2)):
        for k in range(number):
            a, b, r = (*rng.uniform(12, 36, 2), rng.uniform(6, 12))
            mask = (x - a) ** 2 + (y - b) ** 2 < r * r
            grey = (90 + 80 * mask + rng.normal(0, 20, mask.shape)).clip(0, 255)
            for folder, values in zip(folders, (grey, 200 * mask), strict=True):
                Path(folder).mkdir(exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(f"{folder}/s{k}.png")


def protein():
    import gemmi

    Path("models").mkdir()
    for entry, name in (("1ejg", "models/crambin"), ("5pti", "models/inhibitor"), ("1ubi", "protein")):
        structure = gemmi.read_structure(sample(entry))
        structure.write_pdb(f"{name}.pdb")
        Path(f"{name}.cif.gz").write_bytes(gzip.compress(structure.make_mmcif_document().as_string().encode()))


def quantum():
    Path("water.xyz").write_text("3\nwater\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n", "utf-8")
    Path("hydrogen.xyz").write_text("2\nhydrogen\nH 0 0 0\nH 0 0 0.74\n", "utf-8")


def adapt():
    rng = np.random.default_rng(0)
    centres, y = 3 * rng.normal(size=(3, 4)), np.arange(120) % 3
    for name, scale, moved in (("clinic_a.csv", 1.0, 0.0), ("clinic_b.csv", 1.5, 2.0)):
        x = scale * (centres[y] + rng.normal(size=(120, 4))) + moved
        rows = [",".join(f"{v:.5f}" for v in row) + f",{'ant bee cat'.split()[k]}" for row, k in zip(x, y, strict=True)]
        Path(name).write_text("\n".join(["a,b,c,d,label", *rows]) + "\n", "utf-8")
    for folder, shift in (("photos", 0), ("sketches", 60)):
        for kind, level in (("cat", 60), ("dog", 150)):
            Path(folder, kind).mkdir(parents=True)
            for k in range(12):
                values = (level + shift + rng.normal(0, 15, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(values).save(f"{folder}/{kind}/{k}.png")
    Path("mynets.py").write_text(
        "from torch import nn\nfrom residyn.nets import MLP, ResNet\n\n"
        "def resnet():\n"
        "    stem = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 16))\n"
        "    return ResNet(stem, [MLP(16, 16, 16) for _ in range(2)], nn.Linear(16, 2))\n",
        "utf-8",
    )
    save_file(load("mynets:resnet").state_dict(), "resnet.safetensors")


HAS = {f.__name__: f for f in (adapt, audit, calibrate, dynamics, graph, inverse, protein, quantum, segment)} | {
    "scale": protein
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the reader works; modules of his are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("mypackage", "mynets"):
            del sys.modules[name]


def expanded(words):
    """What a shell makes of `*`."""
    for word in words:
        found = sorted(glob.glob(word)) if "*" in word else [word]
        assert found, f"nothing is called {word}"
        yield from found


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page.stem in SLOW), id=page.stem)
        for page in PAGES
        if set(commands(page)) - set(LEFT)
    ],
)
def test_the_commands_of_a_page_run(page, folder, capfd):
    """One after the other, as they stand; what they write is there."""
    HAS.get(page.stem, lambda: None)()
    for command in commands(page):
        if command in LEFT:
            continue
        if command.startswith("mkdir "):
            Path(command.split()[-1]).mkdir()
            continue
        more, _ = LONGER.get(command, ("", ""))
        program, *words = expanded(shlex.split(f"{command} {more}"))
        assert program == "residyn", f"{page.name}: {command}: neither a command of residyn nor among those left out"
        if "--jobs" in words:  # workers stay in the folder in which the first of them was started: a process of its own
            done = subprocess.run(
                [sys.executable, "-m", "residyn", *words], capture_output=True, text=True, timeout=300, check=False
            )
            code, said = done.returncode, done.stdout + done.stderr
        else:
            code, said = main(words), "".join(capfd.readouterr())
        assert code == CODES.get(command, 0), f"{command}: {said}"
        for option, value in itertools.pairwise(words):
            if option in WRITES:
                made = Path(value)
                assert (made.is_dir() and any(made.iterdir())) or (made.is_file() and made.stat().st_size), (
                    f"{command}: {value}"
                )


def test_what_is_left_out_or_made_longer_stands_on_a_page():
    standing = {command for page in PAGES for command in commands(page)}
    assert not set(LEFT) & set(LONGER)
    assert [command for command in [*LEFT, *LONGER, *CODES] if command not in standing] == []


def test_only_pages_with_commands_are_furnished():
    assert [name for name in HAS if not commands(ROOT / "docs" / f"{name}.md")] == []
