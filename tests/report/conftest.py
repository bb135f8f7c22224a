"""Results to render: a pleasant one and a hostile one."""

import base64
import math

import numpy as np
import pytest

from residyn.results import Figure, Finding, Picture, Result, Section, Series, Table

HOSTILE = "<script>alert(1)</script> & \"'`{{ 7*7 }}{% x %} $x^ \\frac \x1b[31mred\x00 \udc80 [bold]b[/bold] --> ]]>"

# One grey pixel.
PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
        "3a7e9b550000000a49444154789c63680000008200815772480b0000000049454e44ae426082"
    )
).decode()


@pytest.fixture(scope="package")
def pleasant() -> Result:
    """What an atlas gives: theory beside measurement, all verdicts, one broken section."""
    snr = np.linspace(-30, 30, 61)
    theory = -1 / (10 ** (snr / 10) + 1)
    few = snr[::6]
    steps = np.array([4, 8, 16, 32, 64, 128.0])
    wiener = Section(
        "wiener",
        "Linear residual denoising",
        summary="A single residual step with a linear branch removes noise best at exactly one strength. It is near 0 "
        "where the signal is strong and near −1 where there is little but noise.",
        equation="x⁺ = x + a·x,   a* = −1/(SNR + 1)",
        data="camera, 512 × 512, of scikit-image",
        code="import residyn as rd\n\nclean = rd.inverse.denoise(image, snr=12.0)",
        findings=[
            Finding(
                "wiener.gain",
                "Fitted a agrees with −1/(SNR+1) from −30 to 30 dB",
                "pass",
                0.0042,
                0.02,
                "",
                "Largest relative deviation over 61 noise levels; 2 % are allowed.",
            ),
            Finding(
                "wiener.blind",
                "Blind estimate of the SNR",
                "warn",
                11.2,
                12.0,
                "dB",
                "More than 0.5 dB off.",
                "Give the SNR where it is known: denoise(image, snr=…).",
            ),
            Finding("wiener.seed", "Pictures used", "info", "camera, coins, page"),
        ],
        figures=[
            Figure(
                "Best residual strength against signal-to-noise ratio",
                "SNR (dB)",
                "a",
                [
                    Series("theory, −1/(SNR+1)", snr.tolist(), theory.tolist()),
                    Series("fitted on the picture", few.tolist(), (theory[::6] * 1.004).tolist(), "points"),
                    Series(
                        "spread of 20 repeats",
                        few.tolist(),
                        (theory[::6] - 0.04).tolist(),
                        "band",
                        (theory[::6] + 0.04).tolist(),
                    ),
                ],
                caption="The points lie on the line over six decades of noise power.",
            ),
        ],
        pictures=[Picture("Noisy", PIXEL, "a noisy picture"), Picture("Restored", PIXEL, "the restored picture")],
        tables=[
            Table(
                "Pictures",
                ["picture", "SNR / dB", "a"],
                [["camera", 12.0, -0.0594], ["coins", 3.0, -0.334], ["page", math.nan, None]],
            )
        ],
        seconds=12.3,
    )
    orders = {"Euler": 1, "Midpoint": 2, "RK4": 4}
    ode = Section(
        "ode",
        "Residual network as forward Euler",
        summary="Depth refined at a fixed span converges to the ODE, at the order of the scheme.",
        equation="x⁺ = x + h·f(t, x)",
        data="handwritten digits of scikit-learn, 1,797 of them",
        findings=[
            Finding(
                f"ode.order.{name.lower()}",
                f"Order of {name}",
                "pass" if p < 4 else "fail",
                p - 0.02 if p < 4 else 3.2,
                float(p),
                "",
                "Slope of the last three points.",
                "" if p < 4 else "Use float64.",
            )
            for name, p in orders.items()
        ],
        figures=[
            Figure(
                "Error against depth",
                "steps",
                "error at t = 1",
                [
                    series
                    for name, p in orders.items()
                    for series in (
                        Series(f"{name}, slope −{p}", steps.tolist(), (steps**-p).tolist()),
                        Series(
                            f"{name}, measured",
                            [*steps.tolist(), 256.0],
                            [*(1.1 * steps**-p).tolist(), math.inf],
                            "points",
                        ),
                    )
                ],
                "log",
                "log",
                "Each line has the slope that theory gives.",
            ),
            Figure(
                "Reliability",
                "confidence",
                "accuracy",
                [
                    Series("plain", [0.1, 0.3, 0.5, 0.7, 0.9], [0.05, 0.2, 0.4, 0.5, 0.7], "bars"),
                    Series("shrunk", [0.1, 0.3, 0.5, 0.7, 0.9], [0.1, 0.31, 0.5, 0.68, 0.9], "bars"),
                    Series("perfect", [0.0, 1.0], [0.0, 1.0]),
                ],
            ),
            Figure(
                "Eigenvalues",
                "Re λ",
                "Im λ",
                [
                    Series("stability boundary", (np.cos(snr / 9.55) - 1).tolist(), np.sin(snr / 9.55).tolist()),
                    Series("eigenvalues", [-0.5, -1.0, -1.5], [0.3, -0.4, 0.1], "points"),
                ],
                equal=True,
            ),
        ],
        seconds=71.0,
    )
    depth = Section("depth", "Deep residual networks", error="depth: MissingExtraError: `mlxtend` is not installed")
    return Result(
        "atlas",
        "The Residyn atlas",
        [wiener, ode, depth],
        "residyn atlas --seed 0",
        0,
        {"python": "3.11.7", "residyn": "0.1.0", "torch": "2.13.0"},
        "2026-01-31T12:00:00+00:00",
        83.3,
    )


@pytest.fixture(scope="package")
def hostile() -> Result:
    """Every text an attack, every number a trap."""
    h, bad = HOSTILE, [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e308, 1.0]
    figures = [
        Figure(
            h,
            h,
            h,
            [Series(h, bad, bad, mark, bad if mark == "band" else None), Series("_" + h, [], [], mark)],
            s,
            s,
            h,
        )
        for mark in ("line", "points", "band", "bars")
        for s in ("linear", "log", "symlog")
    ]
    section = Section(
        h,
        h,
        h,
        h,
        h,
        h,
        [Finding(h, h, "fail", h, math.nan, h, h, h)],
        [*figures, Figure(h, h, h, [])],
        [Picture(h, h, h)],
        [Table(h, [h, h], [[h, math.inf], [None, 1e-30]])],
        math.inf,
        h,
    )
    return Result(h, h, [section, section, Section("", "")], h, 1, {h: h}, h, 0.0, False, h)
