"""Any bytes at all end in a value or a typed error, run no code, and write nowhere."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .fuzz import guarded
from .readers import READERS

EACH = pytest.mark.parametrize(
    "reader", [pytest.param(r, id=r.name, marks=pytest.mark.skipif(not r.there, reason="extra")) for r in READERS]
)
FEW = settings(
    max_examples=12, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def mangled(data, draw):
    """A whole file with parts of it cut, doubled, moved, or changed."""
    data = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at, size = draw.randrange(len(data) + 1), draw.choice((1, 1, 2, 4, 16, 200))
        what = draw.randrange(6)
        if what == 0:
            del data[at : at + size]
        elif what == 1:
            data[at:at] = bytes(draw.choice((0, 255, 32, 44, 10, 57, 45)) for _ in range(size))
        elif what == 2:
            data[at : at + size] = draw.randbytes(size)
        elif what == 3:
            data[at:at] = data[draw.randrange(len(data) + 1) :][:size]
        elif what == 4 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        else:
            del data[at:]
    return bytes(data)


@EACH
def test_whole_files_are_read(reader, tmp_path):
    for i, data in enumerate(reader.whole):
        path = tmp_path / f"{i}{reader.ending}"
        path.write_bytes(reader.wrap(data))
        reader.call(str(path))


@EACH
@FEW
@given(st.randoms(use_true_random=False))
def test_damaged_files_end_in_a_value_or_a_typed_error(reader, tmp_path, draw):
    data = draw.choice(reader.whole)
    data = reader.shake(data, draw) if reader.shake and draw.random() < 0.6 else mangled(data, draw)
    path = tmp_path / f"input{reader.ending}"
    path.write_bytes(reader.wrap(data))
    assert guarded(reader.call, str(path)) == ""


@EACH
@FEW
@given(st.binary(max_size=400))
def test_any_bytes_end_in_a_value_or_a_typed_error(reader, tmp_path, data):
    path = tmp_path / f"input{reader.ending}"
    path.write_bytes(data)
    assert guarded(reader.call, str(path)) == ""


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def pickles(canary):
    """Files in which a careless reader would run code."""
    import torch

    plain = pickle.dumps(Evil(canary))
    objects = np.empty(1, object)
    objects[0] = Evil(canary)
    array, archive, tensor = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, objects, allow_pickle=True)
    np.savez(archive, logits=objects, labels=np.array([0]), edge_index=objects, input=objects)
    torch.save({"a": Evil(canary)}, tensor)
    program = io.BytesIO()
    with zipfile.ZipFile(program, "w") as file:
        for name in (
            "archive/data.pkl",
            "data.pkl",
            "archive/data/sample_inputs/model.pt",
            "archive/data/constants/custom_obj_0",
        ):
            file.writestr(name, plain)
        file.writestr("archive/version", "3")
    yaml = f"!!python/object/apply:os.mkdir ['{canary}']\n".encode()
    entity = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY e SYSTEM "file://{canary}">]><graphml>&e;</graphml>'.encode()
    header = b"\x93NUMPY\x01\x00\x46\x00" + f"__import__('os').mkdir('{canary}')".ljust(69).encode() + b"\n"
    return [plain, array.getvalue(), archive.getvalue(), tensor.getvalue(), program.getvalue(), yaml, entity, header]


@EACH
def test_nothing_in_a_file_is_run(reader, tmp_path):
    canary = tmp_path / "canary"
    for data in pickles(canary):
        for content in (data, reader.wrap(data)):
            path = tmp_path / f"input{reader.ending}"
            path.write_bytes(content)
            assert guarded(reader.call, str(path)) == ""
            assert not canary.exists()


def test_the_canary_sings_where_a_pickle_is_loaded(tmp_path):
    pickle.loads(pickles(tmp_path / "canary")[0])
    assert (tmp_path / "canary").is_dir()


@pytest.mark.slow
def test_coverage_guided_fuzzing_finds_nothing():
    pytest.importorskip("atheris", reason="Atheris has wheels for Linux only")
    from .fuzz import run

    found, counts = run(runs=2000, seed=int(os.environ.get("RESIDYN_FUZZ_SEED", "1")))
    assert found == []
    assert len(counts) == sum(reader.there for reader in READERS)
