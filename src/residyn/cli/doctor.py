"""`residyn doctor`: what is installed, what is missing and the command to get it, and what the machine offers."""

from __future__ import annotations

import time

from residyn import provenance, report
from residyn.cli.options import Debug, Json, Output
from residyn.cli.output import deliver, leave
from residyn.results import Result


def doctor(output: Output = None, as_json: Json = False, debug: Debug = False) -> None:
    """Look at versions, extras, threads, BLAS, compiler and memory; exit code 1 if something is broken."""
    if output is not None:
        report.check(output)
    began, started = time.perf_counter(), provenance.now()
    from residyn.cli import checkup

    sections = [checkup.core(), checkup.extras(), checkup.machine()]
    seconds = time.perf_counter() - began
    result = Result("doctor", "This installation", sections, "residyn doctor", None, provenance.versions(), started, seconds)
    deliver(result, output, as_json=as_json)
    leave(result)
