"""Every reader of the package, with small whole files of its kind, so that one table drives all the hostile input.

A reader is a function of a path. What it may do with any bytes at all: return, or raise a `ResidynError`.
"""

import functools
import gzip
import importlib.util
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Reader:
    """A way in from outside.

    Args:
        name: What it is called in tables.
        ending: How its file's name ends.
        call: Reads a path.
        seeds: Gives whole files, to start from.
        wrap: Puts mutated bytes back into a container whose checksums hold, so that mutations reach what lies within.
        needs: Modules that it cannot do without.
        shake: Changes a whole file by its grammar, so that what comes out is still of the form.
    """

    name: str
    ending: str
    call: Callable[[str], object]
    seeds: Callable[[], list[bytes]]
    wrap: Callable[[bytes], bytes] = bytes
    needs: tuple[str, ...] = ()
    shake: Callable[[bytes, random.Random], bytes] | None = None

    @property
    def whole(self) -> list[bytes]:
        """Its whole files, made once."""
        return _whole_files(self)

    @property
    def there(self) -> bool:
        """Whether its modules are installed."""
        return all(importlib.util.find_spec(name) for name in self.needs)


@functools.cache
def _whole_files(reader):
    return reader.seeds()


def _lazy(path, *arguments, **options):
    """`module:function` called with a file, imported when it is needed."""
    module, _, names = path.partition(":")

    def call(file):
        found = importlib.import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
        return found(file, *arguments, **options)

    return call


def _npy(array):
    page = io.BytesIO()
    np.save(page, array, allow_pickle=False)
    return page.getvalue()


def _npz(**arrays):
    page = io.BytesIO()
    np.savez(page, **arrays)
    return page.getvalue()


def _member(name, beside=True):
    """A zip archive whose one member holds the bytes, with a checksum that fits; others, if any, are whole."""

    def wrap(data):
        page = io.BytesIO()
        with zipfile.ZipFile(page, "w") as archive:
            archive.writestr(f"{name}.npy", data)
            for other, array in _BESIDE.items() if beside else ():
                if other != name:
                    archive.writestr(other + ".npy", _npy(array))
        return page.getvalue()

    return wrap


_BESIDE = {
    "labels": np.array([0, 1, 2, 1]), "logits": np.eye(4, 3) * 3.0, "x": np.ones((4, 2), np.float32),
    "edge_index": np.array([[0, 1, 2, 0], [1, 2, 3, 3]]),
}  # fmt: skip


def _pixels(shape=(6, 5, 3), dtype=np.uint8):
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1.0
    return (np.arange(np.prod(shape)).reshape(shape) * 7919 % 251 / 251 * top).astype(dtype)


def _picture(form, *arrays, **options):
    def make():
        from PIL import Image

        pages = []
        for array in arrays or (_pixels(), _pixels((4, 4))):
            page = io.BytesIO()
            Image.fromarray(array).save(page, form, **options)
            pages.append(page.getvalue())
        return pages

    return make


def _tiffs():
    import tifffile

    pages = []
    for array, options in (
        (_pixels((4, 6, 5), np.uint16), {"photometric": "minisblack"}),
        (_pixels(), {"photometric": "rgb", "compression": "zlib"}),
    ):
        page = io.BytesIO()
        tifffile.imwrite(page, array, **options)
        pages.append(page.getvalue())
    return pages


def sealed_png(data):
    """A PNG whose chunks' checksums fit, whatever is in them."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        body = data[at + 4 : at + 8 + size]
        if at + 12 + size > len(data):
            break
        out.append(data[at : at + 8 + size] + struct.pack(">I", zlib.crc32(body)))
        at += 12 + size
    return b"".join(out) + data[at:]


def sealed_safetensors(data):
    """A safetensors file whose first eight bytes say how long its header is, where there is a header."""
    try:
        end = json.JSONDecoder().raw_decode(data[8:].decode("latin-1"))[1]
    except (ValueError, RecursionError):
        return data
    end += len(data[8 + end :]) - len(data[8 + end :].lstrip(b" "))
    return struct.pack("<Q", end) + data[8:]


HOSTILE = (
    None, True, -1, 0, 3, 1e308, 0.5, 2**63, 10**30, "", "a", "nan", "-inf", "1e999", "\0", "\ud800", "x" * 3000, "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>", "javascript:alert(1)", "../../../tmp/escaped", [], {}, [[]], [1, 2], [None], {"a": {}}, {"": 1},
)  # fmt: skip


def shaken(value, draw, depth=0):
    """A JSON value with one place in it changed: replaced, dropped, doubled, or changed further within."""
    if isinstance(value, str) and value[:1] in "{[" and value:  # JSON within JSON, as in the heads of our files
        try:
            return json.dumps(shaken(json.loads(value), draw, depth))
        except ValueError:
            pass
    if not isinstance(value, dict | list) or not value or draw.random() < 0.1:
        return draw.choice(HOSTILE)
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    place, what = draw.choice(places), draw.random()
    out = value.copy()
    if what < 0.1:
        del out[place]
    elif what < 0.15 and isinstance(out, dict):
        out[draw.choice(("zzz", "", "__class__", f"{place}_"))] = out[place]
    elif what < 0.2 and isinstance(out, list):
        out.insert(place, out[place])
    else:
        out[place] = shaken(out[place], draw, depth + 1)
    return out


def shake_json(data, draw):
    """One or more changes to a JSON text."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(draw.randint(1, 3)):
        value = shaken(value, draw)
    return json.dumps(value).encode()


def shake_lines(data, draw):
    """The same for a line of JSON lines."""
    lines = data.splitlines()
    if not lines:
        return data
    place = draw.randrange(len(lines))
    return b"\n".join([*lines[:place], shake_json(lines[place], draw), *lines[place + 1 :]])


def shake_safetensors(data, draw):
    """The same for the header of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    header = shake_json(data[8 : 8 + size], draw)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _protein(entry, lines=0):
    from residyn.protein.samples import sample

    with gzip.open(sample(entry), "rt") as page:
        text = page.read()
    if lines:
        rows = text.splitlines(keepends=True)
        kept = [row for row in rows if row.startswith(("SSBOND", "CRYST1", "SEQRES"))][:12]
        text = "".join([*kept, *[row for row in rows if row.startswith("ATOM")][:lines], "TER\nEND\n"])
    return text.encode()


_CIF = b"""data_x
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_entity_id
_atom_site.label_seq_id
_atom_site.pdbx_PDB_ins_code
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
_atom_site.auth_seq_id
_atom_site.auth_asym_id
_atom_site.pdbx_PDB_model_num
ATOM 1 N N . CYS A 1 1 ? 0.0 0.0 0.0 1.0 9.0 1 A 1
ATOM 2 C CA . CYS A 1 1 ? 1.458 0.0 0.0 1.0 9.0 1 A 1
ATOM 3 C C . CYS A 1 1 ? 2.0 1.42 0.0 1.0 9.0 1 A 1
ATOM 4 O O . CYS A 1 1 ? 1.25 2.39 0.0 1.0 9.0 1 A 1
ATOM 5 C CB A CYS A 1 1 ? 1.99 -0.77 -1.2 0.5 9.0 1 A 1
ATOM 6 S SG A CYS A 1 1 ? 3.8 -0.9 -1.2 0.5 9.0 1 A 1
ATOM 7 N N . GLY A 1 2 ? 3.32 1.54 0.0 1.0 9.0 2 A 1
ATOM 8 C CA . GLY A 1 2 ? 3.97 2.85 0.0 1.0 9.0 2 A 1
ATOM 9 C C . GLY A 1 2 ? 5.48 2.7 0.0 1.0 9.0 2 A 1
#
"""

_GRAPHML = b"""<?xml version="1.0"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
<key id="d0" for="node" attr.name="club" attr.type="string"/><key id="d1" for="node" attr.name="age" attr.type="double"/>
<key id="w" for="edge" attr.name="weight" attr.type="double"/>
<graph edgedefault="undirected">
<node id="a"><data key="d0">x</data><data key="d1">1.5</data></node>
<node id="b"><data key="d0">y</data><data key="d1">2</data></node>
<node id="c"/>
<edge source="a" target="b"><data key="w">2.5</data></edge><edge source="b" target="c"/>
</graph></graphml>
"""

_MATRICES = (
    b"%%MatrixMarket matrix coordinate real symmetric\n% a path\n3 3 2\n2 1 1.0\n3 2 2.5\n",
    b"%%MatrixMarket matrix array integer general\n2 2\n0\n1\n1\n0\n",
)
_EDGES = (b"# a graph\n0 1\n1 2 0.5\n2 0\n", b"source,target,weight\nann,bob,1\nbob,cy,2.5e-1\n")
_TRAJECTORIES = (
    b"t,x,vx,u\n0,1,0,0\n0.1,0.99,-0.1,1\n0.2,0.97,-0.2,0\n",
    b"trajectory;t;x\na;0;1\na;1;2\nb;0;3\nb;2;4\n",
    "t\tθ\n0\t1e-3\n1\t2\n".encode("utf-16"),
)
_SCORES = (b"cat,dog,label\n2.0,0.5,0\n0.1,1.0,1\n", b"p;y\n0.2;0\n0.9;1\n")
_ATOMS = (b"3\nwater\nO 0 0 0.117\nH 0 0.757 -0.467\nH 0 -0.757 -0.467\n", b"1 0 0 0\n1 0 0 0.74\n")


@functools.cache
def _models():
    """Safetensors files as the package writes them."""
    import tempfile

    import torch

    from residyn.inverse import ProximalBranch, Unrolled
    from residyn.inverse.operators import Blur
    from residyn.inverse.pretrained import save_network
    from residyn.nets.segmentation.segmenter import Form, Segmenter
    from residyn.training import save_weights

    folder = Path(tempfile.mkdtemp())
    form = Form(1, 2, width=4, levels=2)
    Segmenter(form.build(), form, torch.zeros(1), torch.ones(1), [0, 255]).save(folder / "a.safetensors")
    network = Unrolled(Blur(torch.ones(1, 1), (16, 16), "circular"), 1, ProximalBranch(4), data="proximal")
    save_network(network, folder / "b.safetensors")
    save_weights(folder / "c.safetensors", {"x": torch.arange(6.0).reshape(2, 3)}, {"step": 3, "name": "é"})
    return {name: (folder / f"{name}.safetensors").read_bytes() for name in "abc"}


def _model(name):
    return lambda: [_models()[name]]


def _pickles():
    import torch

    pages = []
    for state in ({"a": torch.ones(2, 2)}, {"state_dict": {"b": torch.zeros(3)}}):
        page = io.BytesIO()
        torch.save(state, page)
        pages.append(page.getvalue())
    return pages


def _program():
    import torch

    page = io.BytesIO()
    torch.export.save(
        torch.export.export(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh()), (torch.ones(1, 2),)), page
    )
    return [page.getvalue()]


def result_plain():
    """A result with a part of every kind."""
    from residyn.results import Figure, Finding, Picture, Result, Section, Series, Table

    series = [
        Series("theory", [1.0, 2.0, 3.0], [1.0, 4.0, 9.0]),
        Series("measured", [1.0, 2.0], [1.1, float("nan")], "points"),
        Series("range", [1.0, 2.0], [1.0, 2.0], "band", [2.0, 3.0]),
        Series("count", [1.0, 2.0], [1.0, 2.0], "bars"),
    ]
    figure = Figure("f", "x", "y", series, "log", "linear", "caption")
    heat = Figure("h", "x", "y", [Series("row", [1.0, 2.0], [1.0, -2.0], "heat")])
    finding = Finding("a.x", "x is 1", "pass", 1.0, "about 1", "fs", "why", "fix")
    picture = Picture("p", "iVBORw0KGgo=", "alt")
    table = Table("t", ["a", "b"], [[1.0, "x"], [None, float("inf")]])
    section = Section("a", "A", "s", "x⁺ = x", "d", "c", [finding], [figure, heat], [picture], [table], 1.5)
    return Result("demo", "Demo", [section, Section("b", "B", error="broke")], "residyn demo", 0, {"python": "3"}, "2026", 2.0)


def _report(path):
    from residyn import report
    from residyn.results import Result

    result = Result.from_json(Path(path).read_bytes())
    report.text(result)
    return report.html(result)


def _kept(path):
    from residyn.atlas.store import Store

    return Store(path, {"seed": 0}).resume()


def _store_seed():
    import tempfile

    from residyn.atlas.store import Store

    path = Path(tempfile.mkdtemp()) / "x.partial.jsonl"
    store = Store(path, {"seed": 0})
    store.start()
    for section in result_plain().sections:
        store.add(section, "12 34")
    return [path.read_bytes()]


def _audited(path):
    import torch

    from residyn.audit import inputs

    return inputs.read(path, torch.nn.Linear(2, 2), size=8)


def _dynamics(path):
    from residyn.dynamics import Model

    Path(path).with_suffix(".json").write_bytes(_fitted()[1])
    return Model.load(path)


def _dynamics_side(path):
    """The JSON beside a model's weights."""
    from residyn.dynamics import Model

    weights = Path(path).with_suffix(".safetensors")
    weights.write_bytes(_fitted()[0])
    return Model.load(weights)


@functools.cache
def _fitted():
    import tempfile

    import torch

    from residyn.dynamics import fit

    t = torch.linspace(0, 1, 12, dtype=torch.float64)
    model = fit(t, torch.stack([t.cos(), t.sin()], -1), target="derivative", hidden=(4,), epochs=1)
    path = Path(tempfile.mkdtemp()) / "m.safetensors"
    model.save(path)
    return path.read_bytes(), path.with_suffix(".json").read_bytes()


def _checkpointed(path):
    from residyn.quantum.checkpoint import Checkpoint

    return Checkpoint(path, {"dt": 0.1}, None, 0.1).load()


def _checkpoint_seed():
    import tempfile

    import torch

    from residyn.quantum.checkpoint import Checkpoint, Saved

    path = Path(tempfile.mkdtemp()) / "x.safetensors"
    x = torch.ones(2, 2, dtype=torch.complex128)
    Checkpoint(path, {"dt": 0.1}, None, 0.1).save(Saved(1, torch.ones(2, 5), x, (x,), 3, 0, "", torch.ones(3), 0.0))
    return [path.read_bytes()]


def _base():
    """A model that adapters belong to."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def _adapter(path):
    from residyn.transfer import load_adapter

    return load_adapter(_base(), path)


def _adapter_seed():
    import tempfile

    from residyn.transfer import add_adapters

    path = Path(tempfile.mkdtemp()) / "a.safetensors"
    add_adapters(_base(), modules=["0", "2"], kind="low_rank", rank=2).save(path)
    return [path.read_bytes()]


def _lora(path):
    """The settings of a PEFT folder, with whole weights beside them."""
    import torch
    from safetensors.torch import save_file

    from residyn.transfer import load_peft

    folder = Path(path).with_suffix("")
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_bytes(Path(path).read_bytes())
    parts = {"0.lora_A.weight": torch.ones(2, 3), "0.lora_B.weight": torch.zeros(4, 2)}
    save_file({f"base_model.model.{name}": tensor for name, tensor in parts.items()}, folder / "adapter_model.safetensors")
    return load_peft(_base(), folder)


_LORA = b'{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["0"], "bias": "none", "lora_dropout": 0.0}'

_IMAGES = "residyn.inverse.files:read"
_PILLOW = ("PIL",)
_WHOLE = ("PIL", "tifffile")

READERS = (
    Reader("PDB", ".pdb", _lazy("residyn.protein:read"), lambda: [_protein("1ejg", 60)], needs=("gemmi",)),
    Reader("mmCIF", ".cif", _lazy("residyn.protein:read"), lambda: [_CIF], needs=("gemmi",)),
    Reader("PDB, gzipped", ".pdb.gz", _lazy("residyn.protein:read"), lambda: [gzip.compress(_protein("1ejg", 9))], needs=("gemmi",)),
    Reader("xyz", ".xyz", _lazy("residyn.quantum.reading:read_atoms"), lambda: [*_ATOMS], needs=("pyscf",)),
    Reader("trajectories, CSV", ".csv", _lazy("residyn.dynamics:read_csv"), lambda: [*_TRAJECTORIES]),
    Reader("scores, CSV", ".csv", _lazy("residyn.calibrate.reading:read"), lambda: [*_SCORES]),
    Reader("scores, npz", ".npz", _lazy("residyn.calibrate.reading:read"), lambda: [_npz(**_BESIDE)]),
    Reader("scores, an array in npz", ".npz", _lazy("residyn.calibrate.reading:read"), lambda: [_npy(_BESIDE["logits"])], _member("logits")),
    Reader("graph, edge list", ".txt", _lazy("residyn.graph.reading:read"), lambda: [*_EDGES]),
    Reader("graph, GraphML", ".graphml", _lazy("residyn.graph.reading:read"), lambda: [_GRAPHML]),
    Reader("graph, MatrixMarket", ".mtx", _lazy("residyn.graph.reading:read"), lambda: [*_MATRICES]),
    Reader("graph, npz", ".npz", _lazy("residyn.graph.reading:read"), lambda: [_npz(**_BESIDE)]),
    Reader("graph, an array in npz", ".npz", _lazy("residyn.graph.reading:read"), lambda: [_npy(_BESIDE["edge_index"])], _member("edge_index")),
    Reader("picture, PNG", ".png", _lazy(_IMAGES), _picture("PNG", _pixels(), _pixels((4, 4)), _pixels((4, 4), np.uint16)), sealed_png, _PILLOW),
    Reader("picture, JPEG", ".jpg", _lazy(_IMAGES), _picture("JPEG"), needs=_PILLOW),
    Reader("picture, TIFF", ".tif", _lazy(_IMAGES), _tiffs, needs=_WHOLE),
    Reader("picture, npy", ".npy", _lazy(_IMAGES), lambda: [_npy(_pixels()), _npy(_pixels((3, 4), np.float32))]),
    Reader("PSF, table", ".csv", _lazy("residyn.inverse.files:read_psf"), lambda: [b"0,1,0\n1,4,1\n0,1,0\n"]),
    Reader("PSF, npy", ".npy", _lazy("residyn.inverse.files:read_psf"), lambda: [_npy(np.ones((3, 3)))]),
    Reader("mask, PNG", ".png", _lazy("residyn.nets.segmentation.pictures:read_mask"), _picture("PNG", _pixels((4, 4))), sealed_png, _PILLOW),
    Reader("mask, npy", ".npy", _lazy("residyn.nets.segmentation.pictures:read_mask"), lambda: [_npy(np.eye(3, dtype=np.int16))]),
    Reader("segmenter's picture, TIFF", ".tif", _lazy("residyn.nets.segmentation.pictures:read_picture"), _tiffs, needs=_WHOLE),
    Reader("segmenter's picture, BMP", ".bmp", _lazy("residyn.nets.segmentation.pictures:read_picture"), _picture("BMP"), needs=_PILLOW),
    Reader("segmenter, safetensors", ".safetensors", _lazy("residyn.nets.segmentation:Segmenter.load"), _model("a"), sealed_safetensors, shake=shake_safetensors),
    Reader("restorer, safetensors", ".safetensors", _lazy("residyn.inverse.pretrained:load"), _model("b"), sealed_safetensors, shake=shake_safetensors),
    Reader("training run, safetensors", ".safetensors", _lazy("residyn.training:load_weights"), _model("c"), sealed_safetensors, shake=shake_safetensors),
    Reader("propagation, safetensors", ".safetensors", _checkpointed, _checkpoint_seed, sealed_safetensors, shake=shake_safetensors),
    Reader("dynamics model, safetensors", ".safetensors", _dynamics, lambda: [_fitted()[0]], sealed_safetensors, shake=shake_safetensors),
    Reader("dynamics model, JSON", ".json", _dynamics_side, lambda: [_fitted()[1]], shake=shake_json),
    Reader("adapter, safetensors", ".safetensors", _adapter, _adapter_seed, sealed_safetensors, shake=shake_safetensors),
    Reader("LoRA of PEFT, JSON", ".json", _lora, lambda: [_LORA], shake=shake_json),
    Reader("audit's input, npz", ".npz", _audited, lambda: [_npz(input=np.ones((2, 2), np.float32), labels=np.array([0, 1]))]),
    Reader("audit's input, an array in npz", ".npz", _audited, lambda: [_npy(np.ones((2, 2), np.float32))], _member("input", beside=False)),
    Reader("audit's input, npy", ".npy", _audited, lambda: [_npy(np.ones((2, 2), np.float32))]),
    Reader("audit's input, safetensors", ".safetensors", _audited, _model("c"), sealed_safetensors, shake=shake_safetensors),
    Reader("audit's input, PNG", ".png", _audited, _picture("PNG"), sealed_png, _PILLOW),
    Reader("audit's input, GIF", ".gif", _audited, _picture("GIF", _pixels((4, 4))), needs=_PILLOW),
    Reader("audit's labels, text", ".txt", _lazy("residyn.audit.inputs:labels"), lambda: [b"0\n1\n2 1\n"]),
    Reader("audit's labels, npy", ".npy", _lazy("residyn.audit.inputs:labels"), lambda: [_npy(np.array([0, 1, 2]))]),
    Reader("weights, safetensors", ".safetensors", _lazy("residyn.audit.loading:_weights", ), _model("c"), sealed_safetensors, shake=shake_safetensors),
    Reader("weights, pickle", ".pt", _lazy("residyn.audit.loading:_weights"), _pickles),
    Reader("program, torch.export", ".pt2", _lazy("residyn.audit.loading:program"), _program),
    Reader("result, JSON to HTML", ".json", _report, lambda: [result_plain().to_json().encode()], needs=("jinja2", "matplotlib"), shake=shake_json),
    Reader("interrupted run, JSON lines", ".jsonl", _kept, _store_seed, shake=shake_lines),
)  # fmt: skip
