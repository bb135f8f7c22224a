"""Linear residual denoising: one strength a for the whole picture, and one a frequency."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from residyn.atlas.context import Context
from residyn.atlas.data import PICTURES, picture
from residyn.inverse import Rings, denoise, optimal_gain, ring_spectrum, snr
from residyn.results import Figure, Finding, Section, Series, Table
from residyn.step import Residual

TOLERANCE = 0.02
BLIND = 1.0

CODE = """\
import numpy as np
from PIL import Image
from residyn.inverse import denoise, optimal_gain, snr

picture = np.asarray(Image.open("noisy.png").convert("L"), dtype=float)
print(snr(picture), optimal_gain(snr(picture)))   # estimated from the picture alone; the best single strength a
clean = denoise(picture)                          # one residual step, a(f) for each frequency f
"""


@dataclass(frozen=True)
class _Fit:
    """The strength fitted at one level of noise."""

    decibels: float
    fitted: float
    theory: float
    error: float
    """Expected standard error of the fit, relative to a."""
    reached: float
    """Mean squared error of x⁺ on fresh noise; the signal has variance 1."""


@dataclass(frozen=True)
class _Rings:
    """The gain fitted ring by ring, at one level of noise."""

    frequency: list[float]
    fitted: list[float]
    theory: list[float]
    error: list[float]


@dataclass(frozen=True)
class _Blind:
    """What was estimated from one noisy picture alone."""

    name: str
    truth: float
    estimate: float
    grain: float
    """Level in decibels at which the picture itself stands above what the estimator takes for its noise."""
    expected: float
    """The estimate that added noise and grain together would give."""
    gain: float
    """Decibels by which blind denoising lowers the mean squared error."""
    bound: float
    """The same for the Wiener filter that knows noise and ring spectrum."""

    @property
    def judged(self) -> bool:
        """Whether the truth is known: the grain lies 10 dB or more below the noise that was added."""
        return self.grain >= self.truth + 10


def run(context: Context) -> Section:
    """Fit a over the levels of noise, then frequency by frequency, then estimate the noise blindly.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    names = PICTURES[:3] if context.fast else PICTURES
    generator = torch.Generator().manual_seed(context.seed)
    signals = {name: _signal(name) for name in names}
    levels = [-30.0, -10.0, 10.0, 30.0] if context.fast else [float(d) for d in range(-30, 31, 5)]
    # three standard errors of the fit, √(SNR/N), make up this share of a
    aim = TOLERANCE if context.fast else TOLERANCE / 2
    fits = []
    for i, level in enumerate(levels):
        context.advance(0.6 * i / len(levels), f"fitting a at {level:g} dB")
        fits.append(_fit(list(signals.values()), level, aim, generator))
    context.advance(0.6, "fitting a at each frequency")
    rings = _fit_rings(signals[names[0]], 10.0, 4 if context.fast else 16, generator)
    blind = _estimates(signals, context, generator)
    findings = [_strength(fits), _reached(fits), _frequency(rings), *_blindly(blind)]
    return Section(
        "wiener",
        "Linear residual denoising",
        summary=_summary(findings, fits, blind),
        equation="x⁺ = y + a·y,  a* = -1/(SNR + 1);  per frequency a(f) = -1/(SNR(f) + 1)",
        data=f"{len(names)} pictures of scikit-image's wheel ({', '.join(names)}), grey, each less its mean and scaled "
        "to variance 1; white Gaussian noise added with the seed, fresh for each fit",
        code=CODE,
        findings=findings,
        figures=[*_fit_figures(fits, rings), *_blind_figures(blind)],
        tables=[_fit_table(fits), _blind_table(blind)],
    )


def _estimates(signals: dict[str, Tensor], context: Context, generator: torch.Generator) -> list[_Blind]:
    levels = [0.0, 10.0, 30.0] if context.fast else [-5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 30.0]
    found = []
    for i, (name, signal) in enumerate(signals.items()):
        context.advance(0.65 + 0.34 * i / len(signals), f"estimating the noise in {name}")
        found += [_estimate(name, signal, level, generator) for level in levels]
    return found


def _signal(name: str) -> Tensor:
    image = picture(name)
    return (image - image.mean()) / image.std(correction=0)


def _noise(like: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """White noise `level` decibels below a signal of variance 1."""
    return torch.randn(like.shape, generator=generator).to(like.dtype) * 10 ** (-level / 20)


def _fit(signals: list[Tensor], level: float, aim: float, generator: torch.Generator) -> _Fit:
    """Least squares of x - y on y over as many draws of noise as the aimed accuracy takes."""
    ratio = 10 ** (level / 10)
    pixels = sum(signal.numel() for signal in signals)
    draws = max(1, math.ceil(9 * ratio / aim**2 / pixels))
    flat = torch.cat([signal.flatten() for signal in signals]).float()
    cross = power = 0.0
    for _ in range(draws):
        y = flat + _noise(flat, level, generator)
        cross += float(torch.dot(y.double(), (flat - y).double()))
        power += float(torch.dot(y.double(), y.double()))
    a = cross / power
    fresh = (flat + _noise(flat, level, generator)).double()
    # the branch is the identity: x⁺ = y + a·y
    reached = float((Residual(torch.clone, a)(fresh) - flat).square().mean())
    return _Fit(level, a, optimal_gain(ratio), math.sqrt(ratio / (pixels * draws)), reached)


def _fit_rings(signal: Tensor, level: float, draws: int, generator: torch.Generator) -> _Rings:
    """Least squares of the clean coefficients on the noisy ones, ring by ring."""
    rings, noise = Rings(*signal.shape), 10 ** (-level / 10)
    clean = torch.fft.rfft2(signal, norm="ortho")
    cross, power = torch.zeros(len(rings), dtype=torch.float64), torch.zeros(len(rings), dtype=torch.float64)
    for _ in range(draws):
        noisy = torch.fft.rfft2(signal + _noise(signal, level, generator), norm="ortho")
        cross += rings.mean((clean * noisy.conj()).real)
        power += rings.mean(noisy.abs() ** 2)
    s = rings.mean(clean.abs() ** 2)
    theory = 1 + optimal_gain(s / noise)
    # variance over draws of the numerator X·Y - g·Y², X fixed: (1 - 2g)²·S·σ² + 2·g²·σ⁴ a coefficient
    variance = (1 - 2 * theory) ** 2 * s * noise + 2 * theory**2 * noise**2
    error = (variance / (rings.count * draws)).sqrt() / (s + noise)
    kept = (rings.count >= 8).nonzero()[:, 0]
    columns = (rings.frequency, cross / power, theory, error)
    return _Rings(*(column[kept].tolist() for column in columns))


def _estimate(name: str, signal: Tensor, level: float, generator: torch.Generator) -> _Blind:
    noise = 10 ** (-level / 10)
    noisy = signal + _noise(signal, level, generator)
    own = 1 / (1 + snr(signal))
    both = own + noise
    power = ring_spectrum(signal)
    rings = Rings(*signal.shape)
    left = rings.mean(-optimal_gain(power / noise) * power)
    least = float((left * rings.total).sum() / rings.total.sum())
    reached = float((denoise(noisy) - signal).square().mean())
    return _Blind(
        name,
        level,
        _decibels(snr(noisy)),
        _decibels(1 / own) if own > 0 else math.inf,
        _decibels(max(1 + noise - both, 1e-9) / both),
        _decibels(noise / reached),
        _decibels(noise / least),
    )


def _decibels(ratio: float) -> float:
    return 10 * math.log10(max(ratio, 1e-9)) if math.isfinite(ratio) else math.inf


def _strength(fits: list[_Fit]) -> Finding:
    worst = max(fits, key=lambda f: abs(f.fitted / f.theory - 1))
    off = abs(worst.fitted / worst.theory - 1)
    return Finding(
        "wiener.strength",
        f"Fitted a furthest from -1/(SNR+1) over {fits[0].decibels:g} to {fits[-1].decibels:g} dB: {off:.2%} off, "
        f"at {worst.decibels:g} dB",
        "pass" if off <= TOLERANCE else "fail",
        worst.fitted,
        worst.theory,
        why=f"Passes within {TOLERANCE:.0%} of theory at every level; noise is drawn until three standard errors of "
        "the fit, √(SNR/N) of a each, lie inside that.",
    )


def _reached(fits: list[_Fit]) -> Finding:
    theory = [-f.theory for f in fits]
    worst = max(range(len(fits)), key=lambda i: abs(fits[i].reached / theory[i] - 1))
    off = abs(fits[worst].reached / theory[worst] - 1)
    return Finding(
        "wiener.error",
        f"Mean squared error of x⁺ on fresh noise, furthest from theory at {fits[worst].decibels:g} dB: {off:.2%} off",
        "pass" if off <= TOLERANCE else "fail",
        fits[worst].reached,
        theory[worst],
        "signal variance",
        why=f"The least error of a single strength is σ_x²·σ_n²/(σ_x² + σ_n²); passes within {TOLERANCE:.0%} at every level.",
    )


def _frequency(rings: _Rings) -> Finding:
    off = [abs(f - t) for f, t in zip(rings.fitted, rings.theory, strict=True)]
    root = math.sqrt(sum(d * d for d in off) / len(off))
    expected = math.sqrt(sum(e * e for e in rings.error) / len(off))
    return Finding(
        "wiener.frequency",
        f"Root mean square gap between the gain fitted at each of {len(off)} frequencies and the Wiener filter, at 10 dB",
        "pass" if root <= 1.5 * expected else "fail",
        root,
        expected,
        why="Theory is the gap that the noise of the fit alone leaves. Passes at 1.5 times that or less: over this "
        "many rings the ratio scatters by less than 0.1.",
    )


def _blindly(blind: list[_Blind]) -> list[Finding]:
    judged = [b for b in blind if b.judged]
    off = sorted(abs(b.estimate - b.truth) for b in judged)
    inside = sum(d <= BLIND for d in off) / len(off)
    top = max(b.truth for b in blind)
    grainy = [b for b in blind if b.truth == top and math.isfinite(b.grain) and not b.judged]
    findings = [
        Finding(
            "wiener.blind",
            f"Median error of the SNR estimated from a noisy picture alone, {len(off)} pictures and levels; worst "
            f"{off[-1]:.2f} dB",
            "pass" if inside >= 0.95 else "warn",
            off[len(off) // 2],
            0.0,
            "dB",
            why=f"Passes if 95 % lie within {BLIND:g} dB, which costs at most (0.26)²/4 = 1.7 % of the least error. "
            "Judged where the picture's own grain, which counts as noise, lies 10 dB or more below the noise that was "
            "added.",
        ),
        Finding(
            "wiener.blind.denoise",
            "Median gain of blind denoising over the noisy picture, in the same cases",
            "pass" if all(b.gain > 0 for b in judged) else "fail",
            _median([b.gain for b in judged]),
            _median([b.bound for b in judged]),
            "dB",
            why="Theory: the Wiener filter that knows the noise and the picture's ring spectrum. Passes if no picture "
            "gets worse.",
        ),
    ]
    if grainy:
        findings.append(
            Finding(
                "wiener.blind.grain",
                f"Median SNR estimated at a true {top:g} dB in {len(grainy)} pictures with grain of their own",
                "info",
                _median([b.estimate for b in grainy]),
                _median([b.expected for b in grainy]),
                "dB",
                why="Theory: added noise and the grain found in the picture without it, together. Where the estimate "
                "is far below the truth, blind denoising smooths what was there before: give `snr` if it is known.",
            )
        )
    return findings


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _summary(findings: list[Finding], fits: list[_Fit], blind: list[_Blind]) -> str:
    worst = max(abs(f.fitted / f.theory - 1) for f in fits)
    by_id = {f.id: f for f in findings}
    opening = "The claim holds" if all(f.verdict in ("pass", "info") for f in findings) else "The claim holds in part"
    text = (
        f"{opening}: the strength fitted on real pictures stays within {worst:.2%} of -1/(SNR+1) from "
        f"{fits[0].decibels:g} to {fits[-1].decibels:g} dB, from {fits[0].fitted:.4f} to {fits[-1].fitted:.6f}, and "
        "frequency by frequency it is the Wiener filter. From the noisy picture alone, the SNR is estimated with a "
        f"median error of {by_id['wiener.blind'].value:.2f} dB where the added noise dominates."
    )
    if "wiener.blind.grain" in by_id:
        grain = by_id["wiener.blind.grain"]
        text += (
            f" At {max(b.truth for b in blind):g} dB it is not: most pictures have grain of their own, which counts as "
            f"noise, and the median estimate is {grain.value:.1f} dB ({grain.theory:.1f} dB predicted from that grain)."
        )
    return text


def _fit_figures(fits: list[_Fit], rings: _Rings) -> list[Figure]:
    db = [f.decibels for f in fits]
    return [
        Figure(
            "Strength against noise",
            "SNR (dB)",
            "-a",
            [
                Series("theory, 1/(SNR+1)", db, [-f.theory for f in fits]),
                Series("fitted", db, [-f.fitted for f in fits], "points"),
            ],
            yscale="log",
            caption="Near 0 at high SNR, near 1 at low.",
        ),
        Figure(
            "Mean squared error against noise",
            "SNR (dB)",
            "error (signal variance 1)",
            [
                Series("without denoising", db, [10 ** (-f.decibels / 10) for f in fits]),
                Series("theory, one strength", db, [-f.theory for f in fits]),
                Series("reached, one strength", db, [f.reached for f in fits], "points"),
            ],
            yscale="log",
        ),
        Figure(
            "Gain by frequency at 10 dB",
            "frequency (cycles a pixel)",
            "1 + a(f)",
            [
                Series("Wiener filter", rings.frequency, rings.theory),
                Series("fitted", rings.frequency, rings.fitted, "points"),
            ],
        ),
    ]


def _blind_figures(blind: list[_Blind]) -> list[Figure]:
    levels = sorted({b.truth for b in blind})
    gains = [_median([b.gain for b in blind if b.truth == level]) for level in levels]
    bounds = [_median([b.bound for b in blind if b.truth == level]) for level in levels]
    return [
        Figure(
            "SNR from the noisy picture alone",
            "true SNR (dB)",
            "estimate (dB)",
            [
                Series("equal", levels, levels),
                Series(
                    "median with each picture's own grain",
                    levels,
                    [_median([b.expected for b in blind if b.truth == level]) for level in levels],
                ),
                Series("estimated, all pictures", [b.truth for b in blind], [b.estimate for b in blind], "points"),
            ],
            caption="Grain of the picture itself counts as noise and caps the estimate.",
        ),
        Figure(
            "What denoising gains",
            "true SNR (dB)",
            "lower error (dB), median",
            [
                Series("Wiener filter that knows noise and spectrum", levels, bounds),
                Series("blind, measured", levels, gains, "points"),
            ],
            caption="Below 0 the picture got worse: its own grain was taken for noise.",
        ),
    ]


def _fit_table(fits: list[_Fit]) -> Table:
    rows: list[list[float | str | None]] = [[f.decibels, f.fitted, f.theory, f.fitted / f.theory - 1, f.error] for f in fits]
    return Table("Strength", ["SNR (dB)", "a fitted", "a theory", "relative gap", "relative standard error"], rows)


def _blind_table(blind: list[_Blind]) -> Table:
    rows: list[list[float | str | None]] = [
        [b.name, b.truth, b.estimate, b.grain, "yes" if b.judged else "no", b.gain, b.bound] for b in blind
    ]
    heads = [
        "picture",
        "true SNR (dB)",
        "estimate (dB)",
        "own grain (dB)",
        "judged",
        "gain (dB)",
        "gain, spectrum known (dB)",
    ]
    return Table("Noise estimated blindly", heads, rows)
