"""Threads: two of them slow small matrices by orders of magnitude, so a propagation takes one below a size."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

SMALL = 100
"""Basis functions below which one thread is used."""


@contextmanager
def threads_for(n: int) -> Iterator[None]:
    """One thread for torch and PySCF inside where n is small; what was set before is restored.

    Args:
        n: Number of basis functions.
    """
    if n >= SMALL:
        yield
        return
    before = torch.get_num_threads()
    with ExitStack() as stack:
        if "pyscf" in sys.modules:
            stack.enter_context(sys.modules["pyscf"].lib.with_omp_threads(1))
        if before != 1:
            torch.set_num_threads(1)
            stack.callback(torch.set_num_threads, before)
        yield
