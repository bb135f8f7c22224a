"""Files of no bytes and of a gibibyte, archives that unpack to far more, and headers that declare what is not there."""

import gzip
import io
import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from .fuzz import guarded
from .readers import READERS

ROOT = Path(__file__).parents[2]
GIB = 1 << 30


def within(code, *, gib=4, seconds=60):
    """A process of its own with so much memory and processor time; what it said, and how it ended."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (gib * GIB, gib * GIB))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))

    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, preexec_fn=limit, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("reader", [r for r in READERS if r.there], ids=lambda r: r.name)
def test_an_empty_file_is_refused_in_a_line(reader, tmp_path):
    path = tmp_path / f"empty{reader.ending}"
    path.write_bytes(b"")
    assert guarded(reader.call, str(path)) == ""


BIG = """
import sys
from tests.hard.fuzz import guarded
from tests.hard.readers import READERS
for reader in READERS:
    if reader.there:
        path = f"{folder}/big{reader.ending}"
        with open(path, "wb") as file:
            file.write(reader.whole[0])
            file.truncate(1 << 30)
        found = guarded(reader.call, path, 60)
        if found:
            print(reader.name, "whole, then zeros:", found, flush=True)
        import os
        os.unlink(path)
"""


@pytest.mark.slow
def test_a_gibibyte_of_zeros_neither_hangs_nor_fills_memory(tmp_path):
    ended = within(f"folder = {str(tmp_path)!r}\n{BIG}", gib=6, seconds=300)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr[-2000:]


def png(width, height, data):
    """A PNG that says how large it is."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def npy(shape, descr="<f8", data=b""):
    """An .npy file that says how large it is."""
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def npz(**members):
    page = io.BytesIO()
    with zipfile.ZipFile(page, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return page.getvalue()


def lying(data):
    """A zip archive that says its first member is small, where it is not."""
    at = data.index(b"PK\x01\x02")
    return data[:22] + struct.pack("<I", 100) + data[26 : at + 24] + struct.pack("<I", 100) + data[at + 28 :]


ZEROS = zlib.compress(bytes(64 << 20))
BOMBS = {
    ".png": [png(60_000, 60_000, ZEROS), png(2**31 - 1, 2**31 - 1, b""), png(8000, 8000, ZEROS)],
    ".npy": [npy("(1000000000000,)"), npy("(2147483648, 2147483648)"), npy("()", "<U2000000000"), npy("(4, 9223372036854775807)")],
    ".npz": [
        npz(logits=npy("(1000000000000, 3)"), labels=npy("(1000000000000,)", "<i8")),
        npz(edge_index=npy("(2, 500000000000)", "<i8"), input=npy("(10, 100000000000)")),
        npz(**{f"a{i}": npy("(8388608,)", data=bytes(64 << 20)) for i in range(20)}),
        lying(npz(edge_index=npy("(2, 4000000)", "<i8", bytes(64 << 20)), input=npy("(8,)"))),
        npz(edge_index=npy("(2, 1)", "<i8", struct.pack("<qq", 0, 10**15)), num_nodes=npy("()", "<i8", struct.pack("<q", 10**15))),
        npz(
            data=npy("(1,)", "<f8", bytes(8)), row=npy("(1,)", "<i4", bytes(4)), col=npy("(1,)", "<i4", bytes(4)),
            shape=npy("(2,)", "<i8", struct.pack("<qq", 10**12, 10**12)), format=npy("()", "|S3", b"coo"),
        ),
    ],
    ".mtx": [b"%%MatrixMarket matrix coordinate real general\n1000000000000 1000000000000 1\n1 1 1.0\n",
             b"%%MatrixMarket matrix array real general\n1000000 1000000\n1.0\n",
             b"%%MatrixMarket matrix coordinate real general\n3 3 100000000000\n1 1 1.0\n"],
    ".txt": [b"0 999999999999999\n", b"0 " + b"9" * 5000 + b"\n", b"1\n" * 10 + b"9" * 100_000],
    ".graphml": [b"<graphml>" + b"<a>" * 200_000 + b"</a>" * 200_000 + b"</graphml>"],
    ".json": [b"[" * 200_000, b'{"a":' * 100_000, b"9" * 200_000],
    ".jsonl": [b"[" * 200_000 + b"\n{}", b'{"a":' * 100_000],
    ".csv": [b"t,x\n0," + b"9" * 200_000 + b"\n1,2\n", b"t" + b",x" * 200_000 + b"\n", b'"' * 300_001],
    ".xyz": [b"1000000000\n\nH 0 0 0\n", b"".join(b"H %d 0 0\n" % i for i in range(200_000))],
    ".safetensors": [struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 100_000_000) + b"{" * 1000,
                     struct.pack("<Q", 64) + b'{"a":{"dtype":"F64","shape":[9999999999],"data_offsets":[0,8]}}'.ljust(64) + bytes(8)],
    ".pdb.gz": [gzip.compress(bytes(256 << 20)), gzip.compress(gzip.compress(bytes(64 << 20)))],
    ".pdb": [b"ATOM      1  CA  ALA A   1    9999999.9999999.9999999.9\n" * 2000],
}  # fmt: skip
EXPLODED = """
from tests.hard.fuzz import guarded
from tests.hard.readers import READERS
from tests.hard.test_sizes import BOMBS
for reader in READERS:
    for place, data in enumerate(BOMBS.get(reader.ending, ()) if reader.there else ()):
        path = f"{folder}/{place}{reader.ending}"
        with open(path, "wb") as file:
            file.write(data)
        found = guarded(reader.call, path, 20)
        if found:
            print(f"{reader.name} {place}: {found}", flush=True)
"""


@pytest.mark.slow
def test_bombs_and_boasts_are_refused_before_they_are_unpacked(tmp_path):
    ended = within(f"folder = {str(tmp_path)!r}\n{EXPLODED}", gib=5, seconds=240)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr[-2000:]
