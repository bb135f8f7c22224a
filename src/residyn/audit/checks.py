"""The house's own checks, in the order in which findings of one verdict are told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from residyn.audit.auditing import Audit
from residyn.audit.blocks import Block
from residyn.audit.codes import CODES
from residyn.audit.judge import Check
from residyn.results import Finding, Verdict

_MANY, _TOO_MANY = 1e3, 1e6


class Profile(Check):
    """A number at the first block over that at the last, or the reverse.

    Args:
        code: Its code.
        measure: The ratio, `None` where it was not measured.
    """

    def __init__(self, code: str, measure: Callable[[Audit], float | None]) -> None:
        self.code, self.measure = CODES[code], measure

    def run(self, audit: Audit) -> Iterable[Finding]:
        """One finding where the ratio exceeds a thousand."""
        ratio = self.measure(audit)
        if ratio is not None and not ratio <= _MANY:
            yield self.finding("warn" if ratio <= _TOO_MANY else "fail", value=ratio, theory=_MANY)


class Some(Check):
    """Blocks of which one number crosses a line.

    Args:
        code: Its code.
        measure: The number of a block that is over the line, else `None`.
        line: Where the line is.
        verdict: How bad that is.
    """

    def __init__(
        self, code: str, measure: Callable[[Audit, Block], float | None], line: float | None, verdict: Verdict = "warn"
    ) -> None:
        self.code, self.measure, self.line, self.verdict = CODES[code], measure, line, verdict

    def run(self, audit: Audit) -> Iterable[Finding]:
        """One finding for all such blocks, worst first."""
        over = [(value, block) for block in audit.blocks if (value := self.measure(audit, block)) is not None]
        if over:
            down = self.line is not None and over[0][0] > self.line
            over.sort(key=lambda pair: pair[0], reverse=down)
            yield self.finding(self.verdict, value=over[0][0], theory=self.line, blocks=[block for _, block in over])


class Expanding(Check):
    """The product of the largest |1 + λ|."""

    code = CODES["RD109"]

    def run(self, audit: Audit) -> Iterable[Finding]:
        """One finding where the product exceeds a million."""
        factors = [max(abs(1 + v) for v in b.spectrum) for b in audit.blocks if b.spectrum]
        total = math.exp(min(700.0, sum(math.log(max(f, 1e-300)) for f in factors)))
        if factors and total > _TOO_MANY:
            yield self.finding("warn", value=total, theory=_TOO_MANY, why=f"Over {len(factors)} blocks, an estimate.")


class PostNorm(Check):
    """Norms after many sums."""

    code = CODES["RD111"]

    def run(self, audit: Audit) -> Iterable[Finding]:
        """One finding: a warning where the gradient's profile is off besides."""
        normed = [b for b in audit.blocks if b.normalised]
        if len(normed) < 12:
            return
        slope = gradient(audit)
        verdict: Verdict = "warn" if slope is not None and not 0.1 <= slope <= 10 else "info"
        yield self.finding(verdict, value=float(len(normed)), theory=12.0)


class Projections(Check):
    """Skips that are projections nearly everywhere."""

    code = CODES["RD112"]

    def run(self, audit: Audit) -> Iterable[Finding]:
        """One finding where more than half of the skips are projections."""
        broken = [b for b in audit.blocks if b.kind == "projection"]
        if len(audit.blocks) >= 4 and 2 * len(broken) > len(audit.blocks):
            yield self.finding("warn", value=len(broken) / len(audit.blocks), theory=0.5, blocks=broken)


class Calibration(Check):
    """Whether the probabilities of a classifier are to be believed."""

    code = CODES["RD110"]

    def run(self, audit: Audit) -> Iterable[Finding]:
        """One finding where the calibration error is above 5 % and above what chance gives."""
        if audit.calibration is None:
            return
        error, chance, count = audit.calibration
        if error > 0.05 and error > chance:
            why = f"On {count} samples; a calibrated model would have up to {chance:.3f} by chance (95 %)."
            yield self.finding("warn", value=error, theory=max(0.05, chance), why=why)


class Silence(Check):
    """What may not have been seen."""

    code = CODES["RD190"]
    grave = ("disagree", "left torch", "two runs", "no gradient reaches")

    def run(self, audit: Audit) -> Iterable[Finding]:
        """One finding for all warnings."""
        if audit.warnings:
            grave = any(word in line for line in audit.warnings for word in self.grave)
            said = "; ".join(audit.warnings) + "."
            if grave:
                yield self.finding("warn", why=said)
            else:
                yield Finding(self.code.id, "how the model was run", "info", why=said[0].upper() + said[1:])


class Empty(Check):
    """No block at all."""

    code = CODES["RD191"]

    def run(self, audit: Audit) -> Iterable[Finding]:
        """One finding where there is no block."""
        if not audit.blocks:
            yield self.finding("info", value=0.0, why=audit.seen)


def gradient(audit: Audit) -> float | None:
    """The gradient at the first block over that at the last."""
    norms = [float(b.gradient_norm) for b in audit.blocks if b.gradient_norm]
    return norms[0] / norms[-1] if len(norms) > 1 else None


def _inverse(value: float | None) -> float | None:
    return None if value is None else 1 / max(value, 1e-300)


def _growth(audit: Audit) -> float | None:
    sizes = [float(b.size) for b in audit.blocks if b.size is not None]
    return max(sizes) / max(audit.entering, 1e-300) if sizes and audit.entering is not None else None


def _decay(audit: Audit) -> float | None:
    sizes = [float(b.size) for b in audit.blocks if b.size is not None]
    return audit.entering / max(min(sizes), 1e-300) if sizes and audit.entering is not None else None


def _dead(_: Audit, block: Block) -> float | None:
    return float(block.ratio) if block.ratio is not None and block.ratio < 1e-3 else None


def _redundant(audit: Audit, block: Block) -> float | None:
    if block.dropped is None or _dead(audit, block) is not None:
        return None
    if audit.metric is None:
        return float(block.dropped) if block.dropped < 0.01 else None
    near = abs(block.dropped) <= 1e-3 * abs(audit.metric[1])
    return float(block.dropped) if near else None


def _drowned(_: Audit, block: Block) -> float | None:
    return float(block.ratio) if block.ratio is not None and block.ratio > 10 and block.kind != "projection" else None


def _unstable(_: Audit, block: Block) -> float | None:
    return float(block.max_step) if block.max_step is not None and 0 < block.max_step < 1 else None


def _silent(audit: Audit, block: Block) -> float | None:
    others = any(b.gradient_norm for b in audit.blocks)
    return 0.0 if others and block.gradient_norm is not None and float(block.gradient_norm) == 0.0 else None


def _harmful(audit: Audit, block: Block) -> float | None:
    if audit.metric is None or block.dropped is None:
        return None
    line = max(0.01 * abs(audit.metric[1]), 1.5 / audit.samples if audit.metric[0] == "accuracy" else 0.0)
    return float(block.dropped) if block.dropped > line else None


def _constant(_: Audit, block: Block) -> float | None:
    if block.jacobian_norm is None or block.ratio is None or block.ratio < 1e-3:
        return None
    return float(block.jacobian_norm) if block.jacobian_norm < 1e-3 * block.ratio else None


CHECKS: tuple[Check, ...] = (
    Profile("RD101", _growth),
    Profile("RD102", _decay),
    Profile("RD103", gradient),
    Profile("RD104", lambda audit: _inverse(gradient(audit))),
    Some("RD113", _silent, None),
    Some("RD114", _harmful, 0.0),
    Some("RD105", _dead, 1e-3),
    Some("RD108", _unstable, 1.0),
    Some("RD107", _drowned, 10.0),
    Some("RD115", _constant, None),
    Calibration(),
    Expanding(),
    PostNorm(),
    Projections(),
    Some("RD106", _redundant, None),
    Silence(),
    Empty(),
)
