"""Models and inputs from files: what is read, and that nothing in a file is ever run."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import residyn as rd
from residyn.audit import inputs
from residyn.audit.loading import load
from residyn.nets import MLP, ResNet

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
NETS = """
import torch
from residyn.nets import MLP, ResNet

def make():
    torch.manual_seed(0)
    return ResNet(torch.nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(3)], torch.nn.Linear(8, 2))

ready = make()
number = 3

def broken():
    raise RuntimeError("no weights\\nsecond line")

def other():
    return 7
"""


def net():
    torch.manual_seed(0)
    return ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(3)], nn.Linear(8, 2))


class Evil:
    """Its pickle makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETS, "utf-8")
    return name


def test_import_paths(here, tmp_path):
    assert torch.equal(load(f"{here}:make").stem.weight, net().stem.weight)
    assert isinstance(load(f"{here}:ready"), ResNet)
    other = net()
    nn.init.ones_(other.stem.weight)
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": other.state_dict()}, tmp_path / "w.pt")
    for file in ("w.safetensors", "w.pt"):
        assert torch.equal(load(f"{here}:make", file).stem.weight, torch.ones(8, 4))


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        ("{}:absent", None, "`MODEL` must name something in `{}`, got 'absent'; it has "),
        ("{}:number", None, "`MODEL` must name a factory or a module, got '{}:number', which is int"),
        ("{}:broken", None, "must name a factory that needs no arguments, got RuntimeError from {}:broken(): no weights"),
        ("{}:other", None, "must name a factory of a torch.nn.Module, got int from {}:other()"),
        ("no_such_package:make", None, "must name a module that can be imported, got 'no_such_package'"),
        ("nothing", None, "must be package.module:factory, FILE.pt2 or hf:DIRECTORY, got 'nothing'"),
        ("hf:nowhere", None, "must be hf:DIRECTORY with a config.json in it, got 'nowhere'; nothing is downloaded"),
        ("hf:nowhere", "w.pt", "`--weights` must come with package.module:factory, got a folder of transformers"),
        ("x.pt2", "w.pt", "`--weights` must come with package.module:factory, got a saved program"),
        ("x.pt2", None, "`MODEL` must be a file that can be read, got 'x.pt2': nothing there"),
        ("{}:make", "absent.safetensors", "`weights` must be a file that can be read, got 'absent.safetensors'"),
        ("{}:make", "text.safetensors", "text.safetensors: must be a safetensors file"),
        ("{}:make", "small.safetensors", "`--weights` must fit the model, got 'small.safetensors'"),
        ("{}:make", "part.safetensors", "with 15 missing (stem.bias, "),
        ("{}:make", "list.pt", "list.pt: must be a state dict, got list"),
        ("good.safetensors", None, "must say how the network is built, got the weights 'good.safetensors'"),
        ("good.pt", None, "must say how the network is built, got the pickled weights 'good.pt'"),
        ("evil.pt", None, "evil.pt: must hold weights only, got a pickle that would run code"),
        ("{}:make", "evil.pt", "evil.pt: must hold weights only, got a pickle that would run code"),
        ("text.pt2", None, "text.pt2: must be a program of torch.export.save"),
        ("empty.pt2", None, "empty.pt2: must be a program of torch.export.save"),
    ],
)
def test_bad_models(model, weights, words, here, tmp_path):
    (tmp_path / "text.safetensors").write_text("text")
    (tmp_path / "text.pt2").write_text("text")
    zipfile.ZipFile(tmp_path / "empty.pt2", "w").close()
    save_file({"stem.weight": torch.zeros(2, 2)}, tmp_path / "small.safetensors")
    save_file({"stem.weight": torch.zeros(8, 4), "strange": torch.zeros(1)}, tmp_path / "part.safetensors")
    save_file(net().state_dict(), tmp_path / "good.safetensors")
    torch.save(net().state_dict(), tmp_path / "good.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    with pytest.raises(rd.InputError) as caught:
        load(model.format(here), weights)
    assert words.format(here) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "net.pt2"
    batch = torch.export.Dim("batch", min=2, max=64)
    torch.export.save(torch.export.export(net(), (torch.randn(3, 4),), dynamic_shapes=({0: batch},)), path)
    return path


def test_program(program):
    model = load(str(program))
    given = inputs.made([], model, 0)
    assert given.args[0].shape == (3, 4)
    found = rd.audit(model, torch.randn(5, 4))
    assert [b.name for b in found.blocks] == ["body.blocks.0", "body.blocks.1", "body.blocks.2"]
    assert all(b.bound is not None and b.jacobian_norm <= b.bound for b in found.blocks)


def changed(program, change):
    """The program with one member of its archive changed."""
    out = program.with_name("changed.pt2")
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            inner, content = change(name.partition("/")[2], old.read(name))
            new.writestr(f"{name.partition('/')[0]}/{inner}", content)
    return out


def pickled(thing):
    page = io.BytesIO()
    torch.save(thing, page)
    return page.getvalue()


def edited(key, value):
    def change(name, content):
        if name != "models/model.json":
            return name, content
        model = json.loads(content)

        def walk(tree):
            if isinstance(tree, dict):
                return {k: value if k == key else walk(v) for k, v in tree.items()}
            return [walk(item) for item in tree] if isinstance(tree, list) else tree

        return name, json.dumps(walk(model)).encode()

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mark: lambda n, c: (n, pickled(Evil(mark)) if "sample_inputs" in n else c), "a pickle with more than tensors"),
        (lambda mark: edited("target", "torch.os.system"), "the operator 'torch.os.system'"),
        (lambda mark: edited("target", "_operator.call"), "the operator '_operator.call'"),
        (lambda mark: edited("expr_str", f"__import__('os').mkdir('{mark}')"), 'the expression "__import__'),
        (lambda mark: edited("guards_code", [f"__import__('os').mkdir('{mark}')"]), 'the guard "__import__'),
        (lambda mark: edited("guards_code", ["L.__class__ == 1"]), "the guard 'L.__class__ == 1'"),
        (lambda mark: edited("guards_code", ["not ("]), "the guard 'not ('"),
        (
            lambda mark: lambda n, c: ("data/constants/opaque_obj_0", b"") if n.endswith("constants_config.json") else (n, c),
            "pickled objects",
        ),
        (
            lambda mark: lambda n, c: ("data/aotinductor/model/x.so", b"") if n.endswith("constants_config.json") else (n, c),
            "compiled code or sources",
        ),
    ],
)
def test_program_that_would_run_something(change, words, program, tmp_path):
    path = changed(program, change(tmp_path / "mark"))
    with pytest.raises(rd.InputError) as caught:
        load(str(path))
    assert "must run no code of its own when it is loaded, got " + words in str(caught.value)
    assert not (tmp_path / "mark").exists()


def test_program_with_pickled_weights(program, tmp_path):
    def change(name, content):
        if name.endswith("model_weights_config.json"):
            config = json.loads(content)
            next(iter(config["config"].values()))["use_pickle"] = True
            return name, json.dumps(config).encode()
        return name, pickled(Evil(tmp_path / "mark")) if name.endswith("weights/weight_0") else content

    with pytest.raises(rd.InputError, match="got a pickle with more than tensors in net/data/weights/weight_0"):
        load(str(changed(program, change)))
    assert not (tmp_path / "mark").exists()


# --- inputs --------------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    def forward(self, first, second=None):
        return first


def test_arrays(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(3, 4)), np.array([0, 1, 2], dtype=np.int16)
    np.savez(tmp_path / "a.npz", x=x, labels=y)
    given = inputs.read(str(tmp_path / "a.npz"), nn.Linear(4, 4))
    assert given.args[0].dtype == torch.float32
    assert torch.equal(given.labels, torch.tensor([0, 1, 2]))
    np.savez(tmp_path / "b.npz", first=x, second=y)
    given = inputs.read(str(tmp_path / "b.npz"), Two())
    assert sorted(given.kwargs) == ["first", "second"]
    np.save(tmp_path / "c.npy", x.astype(">f4"))
    assert inputs.read(str(tmp_path / "c.npy"), nn.Linear(4, 4).double()).args[0].dtype == torch.float64
    save_file({"input": torch.ones(2, 4), "targets": torch.tensor([1, 0])}, tmp_path / "d.safetensors")
    given = inputs.read(str(tmp_path / "d.safetensors"), nn.Linear(4, 4))
    assert given.labels.tolist() == [1, 0]
    (tmp_path / "labels.txt").write_text("0\n2\n1\n")
    np.save(tmp_path / "labels.npy", np.array([4]))
    assert inputs.labels(str(tmp_path / "labels.txt")).tolist() == [0, 2, 1]
    assert inputs.labels(str(tmp_path / "labels.npy")).tolist() == [4]


def test_pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (40, 20), (255, 0, 51)).save(tmp_path / "p.png")
    made = inputs.read(str(tmp_path / "p.png"), nn.Identity(), size=16, normalise="none").args[0]
    assert made.shape == (1, 3, 16, 16)
    assert made[0, :, 3, 3].tolist() == pytest.approx([1, 0, 0.2])
    half = inputs.read(str(tmp_path / "p.png"), nn.Identity(), size=16, normalise="half").args[0]
    assert half[0, :, 3, 3].tolist() == pytest.approx([1, -1, -0.6])


def test_made_up():
    net = nn.Linear(4, 4).double()
    given = inputs.made(["2,4", "3x5:10"], net, 0)
    assert [t.shape for t in given.args] == [(2, 4), (3, 5)]
    assert given.args[0].dtype == torch.float64
    assert int(given.args[1].max()) < 10
    assert torch.equal(inputs.made(["2,4"], net, 0).args[0], given.args[0])


def bad(tmp_path):
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.savez(tmp_path / "names.npz", a=np.zeros(2), b=np.zeros(2))
    np.savez(tmp_path / "none.npz")
    for name in ("x.npz", "x.png", "x.safetensors", "x.doc", "x.txt"):
        (tmp_path / name).write_text("not it")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xfa")


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (lambda f, m: inputs.read(f("absent.npz"), m), "`INPUT` must be a file that can be read"),
        (lambda f, m: inputs.read(f("objects.npz"), m), "must be an npz archive of plain numbers, got: objects"),
        (lambda f, m: inputs.read(f("text.npy"), m), "must hold numbers, got <U1"),
        (
            lambda f, m: inputs.read(f("names.npz"), m),
            "must name its arrays as the forward's arguments, first, second, got a, b",
        ),
        (lambda f, m: inputs.read(f("none.npz"), m), "must hold an array, got none"),
        (lambda f, m: inputs.read(f("x.npz"), m), "must be an npz archive of plain numbers"),
        (lambda f, m: inputs.read(f("x.png"), m), "must be a picture"),
        (lambda f, m: inputs.read(f("x.safetensors"), m), "must be a safetensors file"),
        (lambda f, m: inputs.read(f("x.doc"), m), "`INPUT` must end in .npz, .npy, .safetensors, .txt or be a picture"),
        (lambda f, m: inputs.read(f("x.txt"), m), "`INPUT` must not be a text for this model"),
        (lambda f, m: inputs.read(f("empty.txt"), m, home="x"), "must hold a sample a line, got an empty text"),
        (lambda f, m: inputs.read(f("latin.txt"), m, home="x"), "must be text in UTF-8"),
        (lambda f, m: inputs.read(f("x.png"), m, size=0), "`--size` must be >= 1, got 0"),
        (lambda f, m: inputs.labels(f("x.txt")), "must hold a whole class number a line"),
        (lambda f, m: inputs.made(["2,-3"], m, 0), "`--shape` must be positive sizes such as 2,3,224,224"),
        (lambda f, m: inputs.made(["2:0"], m, 0), "`--shape` must be positive sizes"),
        (lambda f, m: inputs.made([], m, 0), "`INPUT` must be given, or its shape, got neither"),
    ],
)
def test_bad_inputs(job, words, tmp_path):
    bad(tmp_path)
    with pytest.raises(rd.InputError) as caught:
        job(lambda name: str(tmp_path / name), Two())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_transformers_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=32,
        vocab_size=50,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    model = load(f"hf:{tmp_path}")
    given = inputs.made([], model, 0)
    assert given.kwargs["input_ids"].shape == (4, 64)
    assert len(rd.audit(model, budget=0, **given.kwargs).blocks) == 4
    (tmp_path / "text.txt").write_text("one\ntwo\n")
    with pytest.raises(rd.InputError, match="`MODEL` must have a tokenizer, for texts"):
        inputs.read(str(tmp_path / "text.txt"), model, home=str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(rd.InputError, match="`MODEL` must have a tokenizer that loads, for texts, got"):
        inputs.read(str(tmp_path / "text.txt"), model, home=str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(rd.InputError, match="`MODEL` must be a folder that transformers can load"):
        load(f"hf:{tmp_path}")


def test_labels_of_a_gibibyte_are_refused_before_they_are_read(tmp_path):
    with (tmp_path / "labels.txt").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(
        rd.InputError, match="must hold at most 100,000,000 bytes of class numbers as text, got more; save them as .npy"
    ):
        inputs.labels(str(tmp_path / "labels.txt"))
