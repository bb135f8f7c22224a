"""Unrolled deconvolution: k residual blocks are one filter, noise makes a best k, and learned blocks beat plain ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.analysis.stability import max_stable_step
from residyn.atlas.context import Context
from residyn.atlas.data import picture
from residyn.inverse import (
    Blur,
    ProximalBranch,
    Rings,
    Unrolled,
    data_block,
    deblur,
    gaussian,
    landweber_gain,
    spectral_data_step,
)
from residyn.inverse.drawing import picture as drawn
from residyn.inverse.operators.blur import squared
from residyn.inverse.restoration import Forecast
from residyn.inverse.training import fit_unrolled
from residyn.results import Figure, Finding, Picture, Section, Series, Table

SEEN = ("astronaut", "brick", "coffee", "grass", "coins")
UNSEEN = ("camera", "moon", "chelsea", "gravel")
WIDTH, NOISE, DEPTH = 2.0, 0.01, 5
FILTERED = (1, 10, 100, 1000)

CODE = """\
import numpy as np
from PIL import Image
from residyn.inverse import deblur, gaussian

blurred = np.asarray(Image.open("photo.png"))
plain = deblur(blurred, gaussian(2.0), method="landweber")   # residual blocks, stopped where the residual is noise
learned = deblur(blurred, gaussian(2.0), method="unrolled")  # five trained blocks
print(plain.steps, plain.sigma, learned.residuals)
"""


@dataclass(frozen=True)
class _Case:
    """A real picture, blurred and made noisy here."""

    name: str
    clean: Tensor
    blurred: Tensor
    op: Blur

    def psnr(self, x: Tensor) -> float:
        return -10 * math.log10(float((x - self.clean).double().square().mean()))

    @property
    def power(self) -> Tensor:
        return squared(self.op._transfer).double()


@dataclass(frozen=True)
class _Course:
    """How blocks fared on a picture: measured by running them, predicted from noise and spectrum."""

    steps: list[int]
    measured: list[float]
    known: list[float]
    """Predicted with the picture's true ring spectrum."""
    blind: list[float]
    """Predicted from the blurred picture alone."""
    before: float

    def best(self, values: list[float]) -> int:
        return max(range(len(values)), key=values.__getitem__)


def run(context: Context) -> Section:
    """Run blocks on real pictures beside their filter, look for the best number of them, and train learned ones.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    names = UNSEEN[:1] if context.fast else UNSEEN
    generator = torch.Generator().manual_seed(context.seed)
    cases = [_case(name, generator) for name in names]
    context.advance(0.02, "running blocks beside their filter")
    gap, filters = _filters(cases[0], 100 if context.fast else 1000)
    courses = []
    for i, case in enumerate(cases):
        context.advance(0.1 + 0.3 * i / len(cases), f"looking for the best number of blocks on {case.name}")
        courses.append(_course(case, 1500))
    network, seconds = _trained(context)
    context.advance(0.9, "trying the learned blocks")
    table, learned = _compared(cases, courses, network)
    findings = [
        _filter_finding(gap, filters), _inverse_finding(cases[0]), _stable_finding(cases[0]), _best_finding(cases, courses),
        _late_finding(cases, courses), *_learned_findings(table, seconds),
    ]  # fmt: skip
    return Section(
        "unrolled",
        "Unrolled optimisation for deconvolution",
        summary=_summary(findings, cases, courses, table),
        equation="x⁺ = x - α·Hᵀ(H·x - b);  after k blocks x̂(f) = (1 - (1 - α|H|²)^k)/H · b(f)",
        data=f"pictures of scikit-image's wheel ({', '.join(names)}), grey, blurred by a Gaussian of {WIDTH:g} pixels with "
        f"periodic borders, white noise of {NOISE:g} of the range; the learned blocks saw {', '.join(SEEN)} instead",
        code=CODE,
        findings=findings,
        figures=[
            _filter_figure(filters),
            _course_figure(cases, courses),
            _learned_figure(cases[0], courses[0], table[0], network),
        ],
        pictures=_pictures(cases[0], learned),
        tables=[_table(cases, courses, table)],
    )


def _case(name: str, generator: torch.Generator) -> _Case:
    clean = picture(name).float()
    op = Blur(gaussian(WIDTH).float(), tuple(clean.shape), "circular")
    return _Case(name, clean, op(clean) + NOISE * torch.randn(clean.shape, generator=generator), op)


def _filters(case: _Case, most: int) -> tuple[float, dict[int, tuple[list[float], list[float], list[float]]]]:
    """Run the blocks one by one; gain by ring, measured and in theory, and the largest gap of the picture itself."""
    rings = Rings(*case.clean.shape)
    kept = ((rings.count >= 8) & (rings.frequency <= 0.35)).nonzero()[:, 0]
    b = torch.fft.rfft2(case.blurred.double())
    bottom = rings.mean(b.abs() ** 2)
    transfer = case.op._transfer.to(torch.complex128)
    block, x, worst = data_block(case.op, case.blurred, 1.0), torch.zeros_like(case.blurred), 0.0
    found = {}
    for k in range(1, most + 1):
        x = block(x)
        if k not in FILTERED and k != most:
            continue
        gain = landweber_gain(case.power, 1.0, k) * transfer.conj()
        theory = torch.fft.irfft2(gain * b, s=case.clean.shape)
        worst = max(worst, float((x - theory).norm() / theory.norm()))
        measured = rings.mean((torch.fft.rfft2(x.double()) * b.conj()).real) / bottom
        expected = rings.mean(gain.real * b.abs() ** 2) / bottom
        found[k] = (rings.frequency[kept].tolist(), measured[kept].tolist(), expected[kept].tolist())
    return worst, found


def _course(case: _Case, most: int) -> _Course:
    """PSNR after k blocks on a grid of k, measured and predicted."""
    steps = sorted({round(1.35**i) for i in range(math.ceil(math.log(most) / math.log(1.35)) + 1)})
    linear = deblur(case.blurred, case.op.psf, boundary="circular")
    blind = Forecast(linear.model, case.op._transfer, tuple(case.clean.shape), 1.0)
    known = _Known(case)
    measured = []
    b = torch.fft.rfft2(case.blurred.double())
    back = case.op._transfer.to(torch.complex128).conj() * b
    for k in steps:
        x = torch.fft.irfft2(landweber_gain(case.power, 1.0, k) * back, s=case.clean.shape)
        measured.append(case.psnr(x))
    return _Course(
        steps, measured, [known.psnr(k) for k in steps], [-10 * math.log10(blind.after(k)) for k in steps],
        case.psnr(case.blurred),
    )  # fmt: skip


class _Known:
    """The error that theory predicts when spectrum and noise are known: Σ (1 - αP)^2k·S + q_k²·P·σ² over frequencies."""

    def __init__(self, case: _Case) -> None:
        self.case, rings = case, Rings(*case.clean.shape)
        clean = case.clean.double()
        self.mean, power = float(clean.mean()), torch.fft.rfft2(clean - clean.mean(), norm="ortho").abs() ** 2
        self.spectrum = rings.spread(rings.mean(power))
        self.weight = torch.full_like(self.spectrum, 2.0)
        self.weight[:, 0] = 1.0
        self.weight[:, -1] = 1.0 if clean.shape[1] % 2 == 0 else 2.0

    def psnr(self, k: int) -> float:
        power = self.case.power
        gain = landweber_gain(power, 1.0, k)
        error = (1 - gain * power) ** 2 * self.spectrum + gain**2 * power * NOISE**2
        return -10 * math.log10(float((error * self.weight).sum() / self.weight.sum()))


def _trained(context: Context) -> tuple[Unrolled, float]:
    """Five learned blocks, trained here on other pictures."""
    side, width = (64, 16) if context.fast else (96, 32)
    psf = gaussian(WIDTH).float()
    network = Unrolled(Blur(psf, (side, side), "circular"), DEPTH, ProximalBranch(width), data="proximal")
    done = fit_unrolled(
        network, [picture(name).float() for name in SEEN], lambda _: (psf, NOISE), seconds=1e9,
        steps=40 if context.fast else 200, batch=4, side=side, rate=4e-3, seed=context.seed,
        progress=lambda fraction, text: context.advance(0.4 + 0.5 * fraction, f"training learned blocks: {text}"),
    )  # fmt: skip
    return network, done.seconds


def _compared(cases: list[_Case], courses: list[_Course], network: Unrolled) -> tuple[list[dict[str, float]], Tensor]:
    """PSNR a picture: before, plain blocks at equal depth, at their best depth, Wiener filter, learned blocks."""
    rows: list[dict[str, float]] = []
    first = torch.empty(0)
    for case, course in zip(cases, courses, strict=True):
        plain, block = torch.zeros_like(case.blurred), data_block(case.op, case.blurred, 1.0)
        for _ in range(DEPTH):
            plain = block(plain)
        linear = deblur(case.blurred, case.op.psf, boundary="circular").image
        learned = deblur(case.blurred, case.op.psf, boundary="circular", method=network).image
        first = learned if not rows else first
        rows.append(
            {
                "before": course.before,
                "plain": case.psnr(plain),
                "best": max(course.measured),
                "linear": case.psnr(linear),
                "learned": case.psnr(learned),
            }
        )
    return rows, first


def _filter_finding(gap: float, filters: dict[int, tuple[list[float], list[float], list[float]]]) -> Finding:
    return Finding(
        "unrolled.filter",
        f"Largest relative gap of k blocks, one by one in float32, from the filter (1-(1-α|H|²)^k)/H, k to {max(filters)}",
        "pass" if gap <= 2e-6 * math.sqrt(max(filters) / 1000 + 1) else "fail",
        gap,
        0.0,
        why="Passes at some tens of roundings of float32; the blocks are the filter, so nothing but rounding is left.",
    )


def _inverse_finding(case: _Case) -> Finding:
    power = case.power
    seen = power > 1e-3
    gap = float(((landweber_gain(power, 1.0, 10**5) * power)[seen] - 1).abs().max())
    return Finding(
        "unrolled.inverse",
        "The filter times H after 100,000 blocks, furthest from 1 where |H|² > 0.001",
        "pass" if gap <= 1e-3 else "fail",
        1 - gap,
        1.0,
        why="With ever more blocks it tends to the inverse filter 1/H, the slower the smaller |H| is: (1-α|H|²)^k is left.",
    )


def _stable_finding(case: _Case) -> Finding:
    branch = spectral_data_step(case.op, case.blurred)
    found = float(max_stable_step(branch, torch.zeros_like(case.blurred)))
    theory = 2 / float(case.power.max())
    return Finding(
        "unrolled.step",
        "Largest stable step of the data branch, by the function that also serves networks and propagators",
        "pass" if abs(found / theory - 1) <= 1e-2 else "fail",
        found,
        theory,
        why="2/‖H‖²; passes within the 1 % to which norms are asked.",
    )


def _best_finding(cases: list[_Case], courses: list[_Course]) -> Finding:
    lost = [max(c.measured) - c.measured[c.best(c.blind)] for c in courses]
    worst = max(range(len(lost)), key=lost.__getitem__)
    at = courses[worst]
    return Finding(
        "unrolled.best",
        f"Number of blocks with the least error, on {cases[worst].name}, where the blind forecast is worst: it costs "
        f"{lost[worst]:.2f} dB",
        "pass" if lost[worst] <= 0.5 else "fail",
        float(at.steps[at.best(at.measured)]),
        float(at.steps[at.best(at.blind)]),
        "blocks",
        why="Theory: the forecast from the blurred picture alone, noise and spectrum by likelihood. Passes if stopping there "
        "is within 0.5 dB of the best on every picture.",
    )


def _late_finding(cases: list[_Case], courses: list[_Course]) -> Finding:
    late = [c.measured[-1] - max(c.measured) for c in courses]
    below = [case.name for case, c in zip(cases, courses, strict=True) if c.measured[-1] < c.before]
    return Finding(
        "unrolled.late",
        f"What {courses[0].steps[-1]} blocks lose against the best number, mean; worse than the blurred picture itself: "
        + (", ".join(below) or "none"),
        "pass" if max(late) < 0 else "fail",
        sum(late) / len(late),
        sum(c.known[-1] - max(c.known) for c in courses) / len(courses),
        "dB",
        why="Noise makes a best k: past it, blocks bring back noise faster than detail. Theory from the true ring spectrum.",
    )


def _learned_findings(table: list[dict[str, float]], seconds: float) -> list[Finding]:
    equal = [row["learned"] - row["plain"] for row in table]
    linear = [row["learned"] - row["linear"] for row in table]
    return [
        Finding(
            "unrolled.learned",
            f"What {DEPTH} learned blocks gain over {DEPTH} plain ones on pictures they have not seen, mean; {seconds:.0f} s "
            "of training",
            "pass" if min(equal) > 0 else "fail",
            sum(equal) / len(equal),
            0.0,
            "dB",
            why="Theory is silent but for what nothing learned would gain. Passes if it is positive on every picture.",
        ),
        Finding(
            "unrolled.linear",
            "What they gain over the best linear filter that is told from the picture alone, mean",
            "pass" if min(linear) > 0 else "warn",
            sum(linear) / len(linear),
            0.0,
            "dB",
            why="The learned branch is not linear: it tells edges from noise, which no filter can.",
        ),
    ]


def _summary(findings: list[Finding], cases: list[_Case], courses: list[_Course], table: list[dict[str, float]]) -> str:
    opening = "The claim holds" if all(f.verdict == "pass" for f in findings) else "The claim holds in part"
    first, course = table[0], courses[0]
    return (
        f"{opening}: residual blocks with the branch -Hᵀ(H·x - b) are gradient descent, and k of them one filter, to rounding. "
        f"On {cases[0].name} the error is least after {course.steps[course.best(course.measured)]} blocks "
        f"({max(course.measured):.2f} dB, {course.before:.2f} dB before); the blurred picture alone says "
        f"{course.steps[course.best(course.blind)]}. {DEPTH} blocks with learned steps and a learned branch reach "
        f"{first['learned']:.2f} dB, {DEPTH} plain ones {first['plain']:.2f} dB, the Wiener filter {first['linear']:.2f} dB."
    )


def _filter_figure(filters: dict[int, tuple[list[float], list[float], list[float]]]) -> Figure:
    series = []
    for k, (frequency, measured, theory) in filters.items():
        series.append(Series(f"k = {k}, theory", frequency, theory))
        series.append(Series(f"k = {k}, blocks", frequency[::4], measured[::4], "points"))
    return Figure(
        "What k blocks do to each frequency", "frequency (cycles a pixel)", "gain", series, yscale="symlog",
        caption="The blocks were run on the picture one by one; each new block lets the inverse filter reach a little further.",
    )  # fmt: skip


def _course_figure(cases: list[_Case], courses: list[_Course]) -> Figure:
    series = []
    for case, course in zip(cases, courses, strict=True):
        x = [float(k) for k in course.steps]
        series.append(Series(f"{case.name}, theory", x, course.known))
        series.append(Series(f"{case.name}, measured", x, course.measured, "points"))
    return Figure(
        "A best number of blocks", "blocks k", "PSNR (dB)", series, xscale="log",
        caption="Left of the top detail is missing, right of it noise has come along. Theory: true ring spectrum and noise.",
    )  # fmt: skip


def _learned_figure(case: _Case, course: _Course, row: dict[str, float], network: Unrolled) -> Figure:
    x = [float(k) for k in course.steps]
    ends = [x[0], x[-1]]
    return Figure(
        f"Learned blocks on {case.name}", "blocks k", "PSNR (dB)",
        [
            Series("plain blocks", x, course.measured, "points"),
            Series("Wiener filter, no oracle", ends, [row["linear"]] * 2),
            Series("before", ends, [row["before"]] * 2),
            Series(f"{network.depth} learned blocks", [float(network.depth)], [row["learned"]], "points"),
        ],
        xscale="log",
        caption="Five learned blocks stand above what any number of plain ones, or any linear filter, reaches.",
    )  # fmt: skip


def _pictures(case: _Case, learned: Tensor) -> list[Picture]:
    part = (slice(96, 288), slice(160, 352))
    plain = deblur(case.blurred, case.op.psf, boundary="circular").image
    shown = {"Blurred and noisy": case.blurred, "Wiener filter": plain, "Learned blocks": learned, "Truth": case.clean}
    large = {title: x[part].numpy().repeat(2, 0).repeat(2, 1) for title, x in shown.items()}
    return [drawn(x, f"{title} ({case.name}, a part)", 0.0, 1.0) for title, x in large.items()]


def _table(cases: list[_Case], courses: list[_Course], table: list[dict[str, float]]) -> Table:
    heads = [
        "picture",
        "before (dB)",
        f"{DEPTH} plain (dB)",
        "best k",
        "at best k (dB)",
        "Wiener (dB)",
        f"{DEPTH} learned (dB)",
    ]
    rows: list[list[float | str | None]] = [
        [
            case.name, row["before"], row["plain"], float(course.steps[course.best(course.measured)]), row["best"],
            row["linear"], row["learned"],
        ]
        for case, course, row in zip(cases, courses, table, strict=True)
    ]  # fmt: skip
    return Table("Pictures the learned blocks have not seen", heads, rows)
