"""Kill −9 at random moments, and the same bytes in the end:  PYTHONPATH=src:. python -m tests.hard.kill [--kills N] [--seed N] [JOB …].

Each job is a command line. It runs once undisturbed; then again, killed at random moments of its run, with what its help says
to go on with (`--resume`, or nothing but the same words) given from the second start on, until it has been killed as often as
asked; then it may finish. What it wrote must be the same to the byte, times of day and seconds spent apart, and no reader may
find half a file in its place at any moment between.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TIMES = ("seconds", "started", "stamp")
MOST = 900


@dataclass(frozen=True)
class Job:
    """Something long.

    Args:
        name: What it is called in tables.
        words: The command after `python`.
        prepare: Puts its inputs into a folder.
        outputs: What it writes, below the folder; a folder stands for all files in it.
        again: More words, from the second start on.
        blind: Findings whose figures are measured times, which differ from run to run.
    """

    name: str
    words: tuple[str, ...]
    prepare: Callable[[Path], None]
    outputs: tuple[str, ...]
    again: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of killing a job."""

    job: str
    kills: int
    starts: int
    seconds: float
    wrong: str


def _verb(*words):
    return ("-m", "residyn", *words)


def _nothing(folder):
    """No inputs."""


def _pictures(folder):
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for i in range(6):
        y, x = np.mgrid[:64, :64]
        disk = (x - draw.integers(20, 44)) ** 2 + (y - draw.integers(20, 44)) ** 2 < 120
        picture = np.clip(90 + 80 * disk + draw.normal(0, 12, disk.shape), 0, 255)
        Image.fromarray(picture.astype(np.uint8)).save(folder / "images" / f"{i}.png")
        Image.fromarray((255 * disk).astype(np.uint8)).save(folder / "masks" / f"{i}.png")
    (folder / "out").mkdir()


def _trajectories(folder):
    import math

    rows = ["trajectory,t,x,vx"]
    for k in range(4):
        for i in range(60):
            t, a = 0.1 * i, 1 + 0.3 * k
            rows.append(f"{k},{t:.1f},{a * math.cos(t):.9f},{-a * math.sin(t):.9f}")
    (folder / "pendulum.csv").write_text("\n".join(rows) + "\n")


def _molecules(folder):
    (folder / "runs").mkdir()
    (folder / "h2.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    (folder / "lih.xyz").write_text("2\n\nLi 0 0 0\nH 0 0 1.6\n")


def _proteins(folder):
    import gzip

    from residyn.protein.samples import sample

    for i in range(5):
        for entry in ("1ejg", "1ubi"):
            with gzip.open(sample(entry)) as page:
                (folder / f"{entry}-{i}.pdb").write_bytes(page.read())


def _graph(folder):
    import random as standard

    draw = standard.Random(0)
    edges = {(i, j) for i in range(60) for j in range(i) if draw.random() < (0.3 if i % 3 == j % 3 else 0.02)}
    (folder / "g.txt").write_text("".join(f"{i} {j}\n" for i, j in sorted(edges)))
    (folder / "labels.txt").write_text("".join(f"{i} class{i % 3}\n" for i in range(60)))


def _logits(folder):
    import numpy as np

    draw = np.random.default_rng(1)
    labels = draw.integers(0, 5, 4000)
    logits = draw.normal(0, 1, (4000, 5)) + 2.5 * np.eye(5)[labels]
    np.savez(folder / "a.npz", logits=3 * logits, labels=labels)


def _domains(folder):
    import numpy as np

    draw = np.random.default_rng(2)
    centres, y = 3 * draw.normal(size=(3, 4)), np.arange(150) % 3
    for name, scale, moved in (("a.csv", 1.0, 0.0), ("b.csv", 1.5, 2.0)):
        x = scale * (centres[y] + draw.normal(size=(150, 4))) + moved
        rows = [",".join(f"{v:.5f}" for v in row) + f",class{k}" for row, k in zip(x, y, strict=True)]
        (folder / name).write_text("\n".join(["a,b,c,d,label", *rows]) + "\n")


def _nets(folder):
    import numpy as np

    (folder / "mynet.py").write_text(
        "from torch import nn\nfrom residyn.nets import MLP, ResNet\n\n"
        "def make():\n    return ResNet(nn.Linear(8, 32), [MLP(32, 64, 32) for _ in range(12)], nn.Linear(32, 3))\n"
    )
    draw = np.random.default_rng(3)
    for i in range(5):
        np.savez(folder / f"b{i}.npz", x=draw.normal(size=(32, 8)).astype(np.float32), labels=draw.integers(0, 3, 32))


_IMAGES = tuple(f"images/{i}.png" for i in range(6))
_FILES = tuple(f"{entry}-{i}.pdb" for i in range(5) for entry in ("1ejg", "1ubi"))

JOBS = (
    Job("atlas", _verb("atlas", "calibrate", "wiener", "graph", "--fast", "-o", "r.json"), _nothing, ("r.json",), ("--resume",)),
    Job(
        "segment train",
        _verb("segment", "train", "images", "masks", "-o", "m.safetensors", "--report", "r.json", "--epochs", "6", "--crops", "48",
              "--crop", "32", "--width", "4", "--levels", "2"),
        _pictures, ("m.safetensors", "r.json"), ("--force",),
    ),
    Job(
        "dynamics fit", _verb("dynamics", "fit", "pendulum.csv", "--model-out", "m.safetensors", "-o", "r.json"), _trajectories,
        ("m.safetensors", "m.json", "r.json"),
    ),
    Job(
        "spectrum",
        _verb("spectrum", "h2.xyz", "lih.xyz", "--basis", "6-31g", "--xc", "hf", "--duration", "150", "--checkpoint", "runs", "-o",
              "r.csv"),
        _molecules, ("r.csv",), ("--force",),
    ),
    Job("disulfide, batch", _verb("disulfide", *_FILES, "-o", "r.csv"), _proteins, ("r.csv",), ("--resume",)),
    Job(
        "deblur, batch", _verb("deblur", *_IMAGES, "--psf", "gaussian:1.5", "--method", "tv", "-o", "out", "--report", "r.json"),
        _pictures, ("r.json", "out"), ("--resume",),
    ),
    Job("graph", _verb("graph", "g.txt", "--labels", "labels.txt", "--epochs", "60", "-o", "r.json"), _graph, ("r.json",)),
    Job("calibrate", _verb("calibrate", "a.npz", "-o", "r.json"), _logits, ("r.json",)),
    Job(
        "adapt",
        _verb("adapt", "a.csv", "b.csv", "--steps", "40", "--width", "16", "--branch", "b.safetensors", "--predictions", "p.csv", "-o",
              "r.json"),
        _domains, ("b.safetensors", "p.csv", "r.json"), ("--force",),
    ),
    Job(
        "audit, batch", _verb("audit", "mynet:make", *(f"b{i}.npz" for i in range(5)), "-o", "r.csv"), _nets, ("r.csv",),
        ("--resume",),
    ),
    Job(
        "training", (str(ROOT / "tests" / "hard" / "train.py"),),
        _nothing, ("w.safetensors",),
    ),
)  # fmt: skip


def environment():
    """Ours, one thread, and no stale byte code between."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}


def start(job, folder, *, again=False):
    """The job's process, in a group of its own, so that its helpers die with it."""
    words = [sys.executable, *job.words, *(job.again if again else ())]
    with (folder / ".log").open("ab") as log:
        return subprocess.Popen(words, cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True)


def finish(job, folder, *, again=False):
    """Run to the end; its exit code may be 1, which says that a check found something."""
    process = start(job, folder, again=again)
    code = process.wait(timeout=MOST)
    assert code in (0, 1), f"exit code {code}: {(folder / '.log').read_text(errors='replace')[-1500:]}"


def written(job, folder):
    """What the job wrote, by name: bytes, or JSON without times."""
    found = {}
    for name in job.outputs:
        place = folder / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and not path.name.startswith("."):
                found[str(path.relative_to(folder))] = whole(path)
    return found


def whole(path):
    """The content of a file, refused if it is half one."""
    data = path.read_bytes()
    if path.suffix == ".json":
        return timeless(json.loads(data))
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt"):
            pass
    if path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            image.load()
    return data


def timeless(value):
    """JSON without what a clock had a hand in."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in _TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def tried(job, kills, seed):
    """Run undisturbed, then killed `kills` times, and compare."""
    draw, began, starts = random.Random(f"{seed}:{job.name}"), time.monotonic(), 0
    with tempfile.TemporaryDirectory() as top:
        calm, wild = Path(top, "calm"), Path(top, "wild")
        for folder in (calm, wild):
            folder.mkdir()
            job.prepare(folder)
        before = time.monotonic()
        finish(job, calm)
        span, truth = time.monotonic() - before, written(job, calm)
        assert truth, f"{job.name} wrote nothing"
        done, wrong = 0, ""
        while done < kills and starts < 5 * kills:
            process = start(job, wild, again=starts > 0)
            starts += 1
            try:
                process.wait(timeout=draw.uniform(0.1, 1.0) * span)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
                wrong = wrong or _half(job, wild)
                continue
            # it was quicker than the clock said: what it wrote is compared, and it begins anew
            wrong = wrong or _compared(truth, written(job, wild))
            shutil.rmtree(wild)
            wild.mkdir()
            job.prepare(wild)
            starts = 0 if done == 0 else starts
        try:
            finish(job, wild, again=True)
        except AssertionError as error:
            wrong = wrong or str(error)
        wrong = wrong or _compared(truth, written(job, wild))
    return Outcome(job.name, done, starts + 1, time.monotonic() - began, wrong)


def _half(job, folder):
    """Why what stands in the outputs' places is not whole; empty if it is."""
    try:
        written(job, folder)
    except Exception as error:  # noqa: BLE001 - half a file breaks its reader in any way it likes
        return f"half a file after a kill: {error}"
    return ""


def _compared(truth, found):
    for name in sorted(truth.keys() | found.keys()):
        if truth.get(name) != found.get(name):
            return f"{name} differs: {_first(truth.get(name), found.get(name))}"
    return ""


def _first(a, b, where=""):
    """The first place at which two values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        key = next((k for k in (*a, *b) if a.get(k) != b.get(k)), None)
        return _first(a.get(key), b.get(key), f"{where}.{key}")
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        place = next(i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1])
        return _first(a[place], b[place], f"{where}[{place}]")
    return f"{where}: {str(a)[:80]} against {str(b)[:80]}"


def run(kills, seed, names=()):
    """Share the kills among the jobs."""
    jobs = [job for job in JOBS if not names or job.name in names]
    for place, job in enumerate(jobs):
        share = kills // len(jobs) + (place < kills % len(jobs))
        if share:
            yield tried(job, share, seed)


def main():
    """Run, and say what was survived."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("names", nargs="*", metavar="JOB")
    words.add_argument("--kills", type=int, default=50)
    words.add_argument("--seed", type=int, default=1)
    asked = words.parse_args()
    bad = 0
    for one in run(asked.kills, asked.seed, asked.names):
        verdict = one.wrong or "the same bytes"
        sys.stdout.write(f"{one.job:18} {one.kills:3d} kills, {one.starts:3d} starts, {one.seconds:6.0f} s: {verdict}\n")
        sys.stdout.flush()
        bad += bool(one.wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
