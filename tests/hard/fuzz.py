"""Coverage-guided fuzzing of every reader:  PYTHONPATH=src:. python -m tests.hard.fuzz [--runs N] [--seed N] [READER …].

Atheris (libFuzzer) steers by which bytecodes of the package an input reached. All readers run in one process: the first byte of
an input says which, the rest is the file. An input may make its reader return or raise a `ResidynError`; anything else, more
than `SECONDS` of processor time or more than `GIB` of memory is written down, once a place, and the run goes on.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

SECONDS, GIB, LONGEST = 20, 6, 1 << 16
ROOT = Path(__file__).parents[2]


class TooLongError(BaseException):
    """A reader that did not come back; no reader may catch it."""


def guarded(call, path, seconds=SECONDS):
    """What a reader did with a file: `""` for a value or a typed error, else what went wrong and where."""
    from residyn.errors import ResidynError

    def stop(*_):
        raise TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(path)
    except ResidynError as error:
        return "" if "\n" not in str(error) else f"an error of several lines: {error!r}"
    except TooLongError:
        return f"more than {seconds} s of processor time{_place()}"
    except BaseException as error:  # noqa: BLE001 - what a reader lets out is what is looked for
        return f"{type(error).__name__}: {str(error)[:100]}{_place()}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return ""


def _place():
    """The innermost line of ours in the traceback being handled."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [frame for frame in frames if f"{os.sep}residyn{os.sep}" in frame.filename]
    return f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""


def child(runs, seed, names, report):
    """Fuzz; `Fuzz` ends the process, so findings are written as they come."""
    import atheris

    with atheris.instrument_imports(include=["residyn"]):
        from tests.hard.readers import READERS

        chosen = [reader for reader in READERS if reader.there and (not names or reader.name in names)]
        folder = Path(tempfile.mkdtemp())
        corpus = folder / "corpus"
        corpus.mkdir()
        seeds = [reader.whole for reader in chosen]
        for i, reader in enumerate(chosen):
            for j, data in enumerate(seeds[i]):
                (corpus / f"{i}-{j}").write_bytes(bytes([i]) + data)
                path = folder / f"seed{reader.ending}"
                path.write_bytes(data)
                found = guarded(reader.call, str(path), 120)  # also imports what it needs, under the instruments
                assert not found, f"{reader.name}: {found}"
                path.unlink()
    resource.setrlimit(resource.RLIMIT_AS, (GIB << 30, GIB << 30))
    known: set[tuple[str, str]] = set()
    counts = dict.fromkeys((reader.name for reader in chosen), 0)

    def one(data):
        if not data:
            return
        reader = chosen[data[0] % len(chosen)]
        path = folder / f"input{reader.ending}"
        content = reader.wrap(data[1:])
        path.write_bytes(content)
        counts[reader.name] += 1
        found = guarded(reader.call, str(path))
        place = found.rpartition(" at ")[2] or found
        if found and (reader.name, place) not in known:
            known.add((reader.name, place))
            with report.open("a") as page:
                page.write(json.dumps({"reader": reader.name, "what": found, "input": content.hex()[:4000]}) + "\n")
        if sum(counts.values()) % 500 == 0:
            report.with_suffix(".counts").write_text(json.dumps(counts))

    draw = random.Random(seed)

    def mutate(data, size, _seed):
        if not data or draw.random() < 0.3:  # what is steered to is where coverage grows; nobody may be left out
            least = min(range(len(chosen)), key=lambda i: counts[chosen[i].name])
            data = bytes([least]) + draw.choice(seeds[least])
        shake = chosen[data[0] % len(chosen)].shake
        if shake is not None and draw.random() < 0.7:
            return (data[:1] + shake(data[1:], draw))[:size]
        return data[:1] + atheris.Mutate(data[1:], size - 1)

    # -close_fd_mask: what libraries print about broken files is not wanted
    options = [
        f"-runs={runs}",
        f"-seed={seed}",
        "-timeout=60",
        f"-max_len={LONGEST}",
        "-rss_limit_mb=0",
        "-verbosity=0",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def run(runs, seed, names=(), limit=3600):
    """Findings of a run in a process of its own, and how many inputs each reader got."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "found.jsonl"
        words = [
            sys.executable,
            "-m",
            "tests.hard.fuzz",
            "--child",
            str(report),
            "--runs",
            str(runs),
            "--seed",
            str(seed),
            *names,
        ]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "TMPDIR": folder}
        ended = subprocess.run(
            words, env=environment, capture_output=True, text=True, errors="replace", timeout=limit, check=False
        )
        found = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
        counts = report.with_suffix(".counts")
        if ended.returncode:
            found.append({"reader": "", "what": f"exit code {ended.returncode}: {ended.stderr[-2000:]}", "input": ""})
        return found, json.loads(counts.read_text()) if counts.exists() else {}


def main():
    """Run, and say what was found."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("names", nargs="*", metavar="READER")
    words.add_argument("--runs", type=int, default=20_000)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.child:
        child(asked.runs, asked.seed, asked.names, asked.child)
    found, counts = run(asked.runs, asked.seed, asked.names)
    for name, count in counts.items():
        sys.stdout.write(f"{count:7d}  {name}\n")
    for one in found:
        sys.stdout.write(f"{one['reader']}: {one['what']}\n    {one['input'][:300]}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
