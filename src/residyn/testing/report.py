"""What a conformance suite returns, and what it raises."""

from __future__ import annotations

from residyn.errors import ResidynError
from residyn.results import Finding


class ConformanceError(ResidynError, AssertionError):
    """A branch or scheme breaks a law that the library relies on; the text names the law, the value and the tolerance."""


class Report:
    """The laws checked so far; the first that is broken raises.

    Args:
        subject: What is checked, e.g. `"step"`: the first word of every id.
        name: The name of the branch or scheme, for the message.
    """

    def __init__(self, subject: str, name: str) -> None:
        self.subject, self.name = subject, name
        self.findings: list[Finding] = []

    def law(self, id: str, title: str, value: float, tolerance: float, fix: str, *, theory: float = 0.0) -> None:
        """Hold |value - theory| against a tolerance.

        Args:
            id: Short name of the law.
            title: The law in one line.
            value: What was measured; nan breaks the law.
            tolerance: How far it may be from `theory`.
            fix: What to look for if it is broken.
            theory: What it should be.

        Raises:
            ConformanceError: If the law is broken.
        """
        if not abs(value - theory) <= tolerance:
            goal = f"{theory:g} ± {tolerance:.2g}" if theory else f"at most {tolerance:.2g}"
            raise ConformanceError(f"{self.name} breaks the law `{id}` ({title}): got {value:.3g}, must be {goal}; {fix}")
        self.findings.append(Finding(f"{self.subject}.{id}", title, "pass", value, theory, why=f"tolerance {tolerance:.2g}"))

    def require(self, id: str, title: str, holds: bool, got: str, fix: str) -> None:
        """A law that holds or does not.

        Raises:
            ConformanceError: If it does not.
        """
        if not holds:
            raise ConformanceError(f"{self.name} breaks the law `{id}` ({title}): got {got}; {fix}")
        self.findings.append(Finding(f"{self.subject}.{id}", title, "pass"))

    def note(self, id: str, title: str, value: float | str) -> None:
        """Something measured that no law asks for."""
        self.findings.append(Finding(f"{self.subject}.{id}", title, "info", value))
