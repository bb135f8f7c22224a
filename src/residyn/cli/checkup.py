"""What `residyn doctor` looks at: a failure is something broken; what is merely not there is said, with its command."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

from residyn.results import Finding, Section, Verdict

TESTED_TORCH = "2.13.0"
_DEVELOPERS = ("test", "docs", "dev", "all")
_PROGRAM = '#include <Python.h>\n#include <omp.h>\nextern "C" int threads() { return omp_get_max_threads(); }\n'


def core() -> Section:
    """What everything needs: Python, and the packages of the core, each in the range that is asked for."""
    python = platform.python_version()
    fits = sys.version_info >= (3, 11)
    findings = [
        Finding("core.python", "Python", "pass" if fits else "fail", python, ">=3.11", fix="" if fits else "take a newer one")
    ]
    needed = [(name, rule) for name, rule, extra in requirements() if not extra]
    if not needed:
        why = "there is no record of what it needs, as when it is run from a folder that was not installed"
        fix = "python -m pip install ."
        findings.append(Finding("core.residyn", "Residyn as an installed package", "warn", "not installed", why=why, fix=fix))
    findings += [_package(f"core.{name}", name, rule) for name, rule in needed]
    findings.append(_torch())
    return Section("core", "Core", "What everything needs.", findings=findings)


def extras() -> Section:
    """The optional parts: each is whole, missing, or broken."""
    asked: dict[str, list[tuple[str, str]]] = {}
    for name, rule, extra in requirements():
        if extra and extra not in _DEVELOPERS and name != "residyn":
            asked.setdefault(extra, []).append((name, rule))
    findings = [_extra(extra, packages) for extra, packages in asked.items()]
    return Section(
        "extras", "Optional parts", "A missing part is no fault: its verbs say so, with this command.", findings=findings
    )


def machine() -> Section:
    """Cores, threads, BLAS, compiler, memory, disk and encoding."""
    checks = (_threads, _blas, _compiler, _memory, _accelerator, _folder, _encoding)
    return Section("machine", "Machine", "What jobs have to work with.", findings=[check() for check in checks])


def requirements() -> list[tuple[str, str, str]]:
    """Name, range and extra of every requirement that the installed package states; none if it is not installed.

    >>> [rule for name, rule, extra in requirements() if name == "jinja2" and extra == "report"] in (["3.1.4"], [">=3.1.4"], [])
    True
    """
    try:
        lines = metadata.requires("residyn") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        what, _, marker = line.partition(";")
        parts = re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*\(?([^)]*)\)?", what.strip())
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        if parts:
            found.append((parts[1].lower(), parts[2].strip(), extra[1] if extra else ""))
    return found


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what marks a build."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", version)[0]))


def fits(version: str, rule: str) -> bool:
    """Whether a version lies in a range such as `>=2.6,<3`.

    >>> fits("2.13.0+cpu", ">=2.6,<3"), fits("3.0", ">=2.6,<3"), fits("1.2.3", "")
    (True, False, True)
    """
    got = _release(version)
    for sign, bound in re.findall(r"(>=|<=|==|!=|<|>|~=)\s*([\w.+]+)", rule):
        want = _release(bound)
        size = max(len(got), len(want))
        a, b = (part + (0,) * (size - len(part)) for part in (got, want))
        right = {">=": a >= b, "<=": a <= b, "==": a == b, "!=": a != b, "<": a < b, ">": a > b, "~=": a >= b}[sign]
        if not right:
            return False
    return True


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _package(key: str, name: str, rule: str) -> Finding:
    version = _version(name)
    verdict: Verdict = "pass" if version and fits(version, rule) else "fail"
    fix = "" if verdict == "pass" else f'python -m pip install "{name}{rule}"'
    return Finding(key, name, verdict, version or "not installed", rule or "any", fix=fix)


def _torch() -> Finding:
    """Whether torch loads, and is the version that was tested."""
    key, title = "core.torch.loads", "torch loads, and is the version tested"
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken library breaks in any way it likes
        why = " ".join(str(error).split())[:200]
        return Finding(
            key, title, "fail", type(error).__name__, TESTED_TORCH, why=why, fix=f"install torch {TESTED_TORCH} anew"
        )
    same = _release(torch.__version__) == _release(TESTED_TORCH)
    why = "" if same else "others within the range should work; this one was not tried"
    return Finding(key, title, "pass" if same else "info", str(torch.__version__), TESTED_TORCH, why=why)


def _extra(extra: str, packages: list[tuple[str, str]]) -> Finding:
    """A part: what is there, and what is not."""
    missing = [name for name, _ in packages if not _version(name)]
    old = [f"{name} {_version(name)}" for name, rule in packages if _version(name) and not fits(_version(name), rule)]
    there = ", ".join(f"{name} {_version(name)}" for name, _ in packages if _version(name))
    command = f'python -m pip install "residyn[{extra}]"'
    if old:
        return Finding(f"extras.{extra}", extra, "fail", f"out of range: {', '.join(old)}", why=there, fix=command)
    if missing:
        return Finding(f"extras.{extra}", extra, "info", f"missing: {', '.join(missing)}", why=there, fix=command)
    return Finding(f"extras.{extra}", extra, "pass", there)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> Finding:
    key, title = "machine.threads", "Threads of torch"
    try:
        import torch
    except Exception:  # noqa: BLE001 - told above
        return Finding(key, title, "info", None, float(cores()), "cores")
    count, asked = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS", "")
    why = f"OMP_NUM_THREADS is {asked or 'not set'}; the matrices of most jobs are small, and one thread a file is the fastest"
    many = count > cores()
    fix = f"export OMP_NUM_THREADS={cores()}" if many else ""
    return Finding(key, title, "warn" if many else "pass", float(count), f"at most {cores()} cores", why=why, fix=fix)


def _blas() -> Finding:
    try:
        import numpy as np

        config = np.show_config(mode="dicts")
        found = config["Build Dependencies"]["blas"] if isinstance(config, dict) else {}
        name = " ".join(str(found.get(part, "")) for part in ("name", "version")).strip()
    except Exception as error:  # noqa: BLE001 - a build of NumPy that does not say is no fault
        name = f"not told ({type(error).__name__})"
    return Finding("machine.blas", "BLAS of NumPy", "info", name or "not told")


def _compiler() -> Finding:
    """Whether `compile=` has what it needs: a C++ compiler with OpenMP and Python's headers."""
    key, title = "machine.compiler", 'C++ compiler, for `compile="step"` and `"solve"`'
    fix = "Debian: apt-get install g++ python3-dev; macOS: xcode-select --install; all else works without"
    name = os.environ.get("CXX", "") or next((n for n in ("g++", "clang++", "c++") if shutil.which(n)), "")
    if not name or not shutil.which(name):
        return Finding(key, title, "info", "none" if not name else f"{name} is not there", fix=fix)
    said, version = _built(name)
    first = next((line for line in said.splitlines() if "error" in line.lower()), said.strip()[:120])
    if said:
        return Finding(key, title, "warn", f"{name} does not build", why=first[:200], fix=fix)
    return Finding(key, title, "pass", (version.splitlines() or [name])[0][:80])


def _built(name: str) -> tuple[str, str]:
    """What a compiler complains of when it builds a small extension, nothing if it does; and its version."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "try.cpp")
        source.write_text(_PROGRAM, "utf-8")
        headers = f"-I{sysconfig.get_path('include')}"
        words = [name, "-shared", "-fPIC", "-fopenmp", headers, str(source), "-o", f"{folder}/try.so"]
        try:
            ended = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=60, check=False)
            version = subprocess.run([name, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
        except (OSError, subprocess.SubprocessError) as error:
            return str(error), ""
    return ended.stderr if ended.returncode else "", version


def memory() -> tuple[float, float]:
    """GiB that are free and that there are, within the limits of a container; nan where the system does not say."""
    total = free = float("nan")
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        sizes = {line.partition(":")[0]: float(line.split()[1]) / 2**20 for line in lines if line.endswith("kB")}
        total, free = sizes["MemTotal"], sizes["MemAvailable"]
        limit = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
        used = float(Path("/sys/fs/cgroup/memory.current").read_text("utf-8"))
        if limit.isdecimal():
            total, free = min(total, float(limit) / 2**30), min(free, (float(limit) - used) / 2**30)
    except (OSError, KeyError, ValueError, IndexError):
        pass
    return free, total


def _memory() -> Finding:
    free, total = memory()
    if total != total:
        return Finding("machine.memory", "Memory", "info", "not told by this system")
    why = "the whole atlas asks for 3 GiB" if free < 3 else ""
    fix = "close other programs, or run systems one at a time" if free < 3 else ""
    verdict: Verdict = "warn" if free < 3 else "pass"
    return Finding("machine.memory", "Memory that is free", verdict, round(free, 1), f"of {total:.1f}", "GiB", why, fix)


def _accelerator() -> Finding:
    key, title = "machine.accelerator", "Accelerator"
    try:
        import torch

        if torch.cuda.is_available():
            return Finding(key, title, "info", f"CUDA {torch.version.cuda}: {torch.cuda.get_device_name(0)}")
        return Finding(key, title, "info", "MPS" if torch.backends.mps.is_available() else "none; jobs run on the processor")
    except Exception as error:  # noqa: BLE001 - a driver that breaks is no fault of ours
        return Finding(key, title, "info", f"not told ({type(error).__name__})")


def _folder() -> Finding:
    folder = tempfile.gettempdir()
    key, title = "machine.folder", f"Room for temporary files in {folder}"
    try:
        free = shutil.disk_usage(folder).free / 2**30
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
    except OSError as error:
        return Finding(key, title, "fail", error.strerror, fix="export TMPDIR=FOLDER, one that may be written to")
    verdict: Verdict = "pass" if free > 1 else "warn"
    return Finding(key, title, verdict, round(free, 1), None, "GiB", fix="" if free > 1 else "free some, or set TMPDIR")


def _encoding() -> Finding:
    name = getattr(sys.stdout, "encoding", None) or "none"
    good = name.lower().replace("-", "") == "utf8"
    fix = "" if good else "export PYTHONUTF8=1; letters that it lacks are shown as ?"
    return Finding("machine.encoding", "Letters of standard output", "pass" if good else "info", name, "utf-8", fix=fix)
