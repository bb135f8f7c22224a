"""What the numbers say: findings with codes, worst first."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from residyn.audit.codes import CODES, Code
from residyn.results import Finding, Verdict

if TYPE_CHECKING:
    from residyn.audit.auditing import Audit
    from residyn.audit.blocks import Block

_RANK = {"fail": 0, "warn": 1, "info": 2, "pass": 3}


class Check(ABC):
    """One question that is put to every audit; a new one is a class with a code and `run`, handed in as `checks=[…]`.

    >>> from residyn.nets import MLP, ResNet
    >>> import torch, residyn
    >>> class Deep(Check):
    ...     code = Code("X1", "more blocks than we deploy", "More than 2.", "Latency.", "Prune.")
    ...     def run(self, audit):
    ...         if len(audit.blocks) > 2:
    ...             yield self.finding("warn", value=len(audit.blocks), theory=2.0)
    >>> net = ResNet(torch.nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(3)], torch.nn.Linear(8, 2))
    >>> [f.title for f in residyn.audit(net, torch.ones(2, 4), budget=0, checks=[Deep()]).findings]
    ['more blocks than we deploy']
    """

    code: Code

    @abstractmethod
    def run(self, audit: Audit) -> Iterable[Finding]:
        """What there is to say; nothing where all is well or the numbers are missing.

        Args:
            audit: The audit, measured as far as its budget went.
        """

    def finding(
        self,
        verdict: Verdict,
        *,
        value: float | str | None = None,
        theory: float | str | None = None,
        blocks: Sequence[Block] = (),
        why: str = "",
    ) -> Finding:
        """A finding of this check.

        Args:
            verdict: How bad it is.
            value: What was measured; the worst of several.
            theory: Where the line is drawn.
            blocks: The blocks it is about.
            why: What is to be said beyond the code's own words.
        """
        title = self.code.title + (f": {named(blocks)}" if blocks else "")
        reasons = " ".join(part for part in (why, self.code.why) if part)
        return Finding(self.code.id, title, verdict, value, theory, why=reasons, fix=self.code.fix)


def named(blocks: Sequence[Block], most: int = 8) -> str:
    """The names of some blocks, not too many."""
    names = [block.name for block in blocks]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def judge(found: Audit, checks: Sequence[Check] | None = None) -> list[Finding]:
    """All findings of an audit, worst first.

    Args:
        found: The audit.
        checks: What to ask; the house's own checks if `None`.

    Returns:
        The findings; one that all is well if there is nothing else to say.
    """
    if checks is None:
        from residyn.audit.checks import CHECKS

        checks = CHECKS
    findings = [finding for check in checks for finding in check.run(found)]
    measured = sum(b.ratio is not None for b in found.blocks)
    if all(f.verdict == "info" for f in findings) and measured:
        code = CODES["RD100"]
        text = f"{len(found.blocks)} blocks were found, {measured} of them measured."
        findings.append(Finding(code.id, code.title, "pass", why=f"{code.why} {text}"))
    return [dataclasses.replace(f) for f in sorted(findings, key=lambda f: _RANK[f.verdict])]
