"""Conformance suites that ship: whoever writes a branch or a scheme has it checked against the laws the library relies on."""

from residyn.testing.branches import check_step
from residyn.testing.operators import check_operator
from residyn.testing.report import ConformanceError
from residyn.testing.schemes import check_scheme

__all__ = ["ConformanceError", "check_operator", "check_scheme", "check_step"]
