"""What the numbers say: findings with codes, worst first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from residyn.results import Finding

if TYPE_CHECKING:
    from residyn.audit.auditing import Audit


def judge(found: Audit) -> list[Finding]:
    """All findings of an audit."""
    return []
