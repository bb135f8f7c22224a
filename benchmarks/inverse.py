"""Restoration on the camera picture, 512×512, Gaussian blur of 2 pixels, noise 0.01, in pairs of FFTs and in decibels.

P is the cost of one `rfft2` and `irfft2` of the picture, measured in turn with each line. Peers where they are installed:
scikit-image, deepinv, pylops, SigPy. PSNR for a range of 1; what was asked stands beside.

The step in pixels is a residual block, x + α·F(x): it costs the pair, a pass over the coefficients and one over the picture.
As a single multiplier, (1 - α·|H|²)·X + α·H̄·B between the FFTs, it was tried: one pass less, and a rounding error that grows
from block to block, for what is left of F is then lost in what is left of x. "TV, whole call" has the noise estimate and the
search for the weight in it.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import residyn as rd
from residyn.atlas.data import picture
from residyn.inverse import Blur, DataStep, FourierDescent, Unrolled, data_block, deblur, gaussian, landweber_gain
from residyn.inverse.operators.blur import squared
from residyn.testing import check_operator

SIGMA, NOISE = 2.0, 0.01


def problem(seed: int = 0, boundary: str = "circular") -> tuple[Tensor, Tensor, Blur]:
    """Truth, blurred and noisy picture, operator, float32."""
    clean = picture("camera").float()
    op = Blur(gaussian(SIGMA).float(), tuple(clean.shape), boundary)  # type: ignore[arg-type]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return clean, op(clean) + NOISE * noise, op


def psnr(image: Tensor, clean: Tensor) -> float:
    """In decibels, for a range of 1."""
    return -10 * math.log10(float((image - clean).square().mean()))


def pairs(job: Callable[[], object], like: Tensor, repeat: int = 15) -> float:
    """Cost of a job in pairs of FFTs of a picture: the median of ratios, each measured in turn with two pairs beside it."""

    def pair() -> None:
        torch.fft.irfft2(torch.fft.rfft2(like), s=like.shape)

    job(), pair()
    ratios = []
    for _ in range(repeat):
        marks = [time.process_time()]
        for part in (pair, job, pair):
            part()
            marks.append(time.process_time())
        ratios.append((marks[2] - marks[1]) / ((marks[1] - marks[0] + marks[3] - marks[2]) / 2))
    return statistics.median(ratios)


Line = tuple[str, str, str, str]
"""What, measured, asked, verdict."""


def line(name: str, value: float, asked: float, unit: str, *, at_most: bool) -> Line:
    """A line with its verdict."""
    good = value <= asked if at_most else value >= asked
    sign = "≤" if at_most else "≥"
    return name, f"{value:.4g} {unit}", f"{sign} {asked:g} {unit}", "reached" if good else "**not reached**"


def costs(repeat: int) -> Iterator[Line]:
    """What steps cost."""
    _clean, b, op = problem()
    spectrum = op.spectrum
    assert spectrum is not None
    power = squared(spectrum)
    gain = spectrum.conj() / (power + 1e-3)
    yield line("closed-form solve", pairs(lambda: op.synthesise(op.analyse(b).mul_(gain)), b, repeat), 1.1, "P", at_most=True)
    descent = FourierDescent(op, b, 1.0)
    yield line("GD step in Fourier", pairs(lambda: descent.advance(10), b, repeat) / 10, 0.1, "P", at_most=True)
    block = data_block(op, b, 1.0)
    with torch.no_grad():
        x = torch.zeros_like(b)
        yield line("GD step in pixels, a residual block", pairs(lambda: block(x), b, repeat), 1.15, "P", at_most=True)


def quality(repeat: int, seconds: float | None) -> Iterator[Line]:
    """What restoration reaches."""
    clean, b, _op = problem()
    psf = gaussian(SIGMA).float()

    def restored(method: object, **more: object) -> Tensor:
        return deblur(b, psf, method=method, boundary="circular", **more).image  # type: ignore[arg-type]

    linear = psnr(restored("auto"), clean)
    yield line("automatic linear, no oracle", linear, 27.7, "dB", at_most=False)
    tv = psnr(restored("tv"), clean)
    yield line("TV", tv, 28.6, "dB", at_most=False)
    yield line("TV, whole call", pairs(lambda: restored("tv"), b, repeat), 30, "P", at_most=True)
    learned = psnr(restored("unrolled"), clean)
    yield line("learned, 5 blocks, the network that ships", learned, 28.6, "dB", at_most=False)
    cost, once = pairs(lambda: restored("unrolled"), b, 5), pairs(lambda: restored("tv", steps=1), b, 5)
    each = (pairs(lambda: restored("tv", steps=11), b, 5) - once) / 10
    equal = max(8, round((cost - once) / each))
    best = max(psnr(restored("tv", steps=k), clean) for k in sorted({8, equal // 2, equal}))
    yield line(f"learned above TV at equal time ({cost:.0f} P, {equal} iterations)", learned - best, 0.0, "dB", at_most=False)
    gaps = []
    for seed in range(4):
        _clean, wide, _ = problem(seed)
        inner = (slice(32, 480), slice(32, 480))
        gaps.append(psnr(deblur(wide[inner], psf).image, clean[inner]))
    yield line("real border, 448 crop, automatic linear, mean of 4 seeds", statistics.mean(gaps), 27.9, "dB", at_most=False)
    yield ("the same, least of them", f"{min(gaps):.4g} dB", "", "")
    if seconds:
        yield trained(seconds)


def trained(seconds: float) -> Line:
    """A network trained here on this one blur and noise, on pictures that are not the camera."""
    from residyn.inverse import ProximalBranch
    from residyn.inverse.training import fit_unrolled

    clean, b, _ = problem()
    names = ("astronaut", "brick", "chelsea", "coffee", "coins", "grass", "gravel", "moon")
    torch.manual_seed(0)
    psf = gaussian(SIGMA).float()
    network = Unrolled(Blur(psf, (96, 96), "circular"), 5, ProximalBranch(32), data="proximal")
    fit_unrolled(
        network, [picture(n).float() for n in names], lambda g: (psf, NOISE), seconds=seconds, batch=4, side=96
    )  # fmt: skip
    found = psnr(deblur(b, psf, method=network, boundary="circular").image, clean)
    return line(f"learned, 5 blocks, this blur alone, {seconds:.0f} s of training", found, 28.6, "dB", at_most=False)


def exactness() -> Iterator[Line]:
    """K blocks one after the other against the closed form in float64."""
    for dtype, asked in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        clean, b, _ = problem()
        b = b.to(dtype)
        op = Blur(gaussian(SIGMA).to(dtype), tuple(clean.shape), "circular")
        wide = Blur(gaussian(SIGMA).to(dtype).double(), tuple(clean.shape), "circular")
        block, x, worst = data_block(op, b, 1.0), torch.zeros_like(b), 0.0
        transfer = wide.spectrum
        assert transfer is not None
        with torch.no_grad():
            for k in range(1, 1001):
                x = block(x)
                if k in (1, 10, 100, 300, 1000):
                    gain = landweber_gain(squared(transfer), 1.0, k) * transfer.conj()
                    truth = wide.synthesise(wide.analyse(b.double()) * gain)
                    worst = max(worst, float((x - truth).norm() / truth.norm()))
        yield line(f"K blocks against the filter, K to 1,000, {dtype}".replace("torch.", ""), worst, asked, "", at_most=True)


def peak(gradient: object, depth: int, side: int) -> float:
    """Peak bytes of one forward and backward pass of an unrolled network."""
    torch.manual_seed(0)
    op = Blur(gaussian(SIGMA).float(), (side, side), "circular")
    network = Unrolled(op, depth, gradient=gradient)  # type: ignore[arg-type]
    b = torch.rand(4, side, side)

    def run() -> None:
        network(b).square().sum().backward()

    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    level = top = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        top = max(top, level)
    return float(top)


def memory(side: int) -> Iterator[Line]:
    """Training memory of 40 blocks."""
    whole = peak(rd.Backprop(), 40, side)
    ratio = whole / peak(rd.Checkpoint(), 40, side)
    yield line("training memory, K = 40, full over Checkpoint()", ratio, 20, "times", at_most=False)
    yield (
        "the same over Replay(), one more evaluation instead of two",
        f"{whole / peak(rd.Replay(), 40, side):.3g} times",
        "",
        "",
    )


def norms(count: int) -> Iterator[Line]:
    """Norm bounds of random operators against the singular values of their matrices."""
    from residyn.inverse import Downsample, Fourier, FromFunction, Inpainting, Radon

    generator = torch.Generator().manual_seed(0)
    low, high = math.inf, 0.0
    for i in range(count):
        n = 8 + int(torch.randint(0, 9, (), generator=generator))
        k = [1 + int(torch.randint(0, min(7, n), (), generator=generator)) for _ in range(2)]
        psf = torch.randn(k, generator=generator, dtype=torch.float64)
        matrix = torch.randn(2 * n, n, generator=generator, dtype=torch.float64)
        boundary = ("circular", "symmetric", "unknown")[i % 3]
        made: list[Callable[[], object]] = [
            lambda psf=psf, n=n, boundary=boundary: Blur(psf, (n, n + 1), boundary),
            lambda n=n: Inpainting(torch.randn(n, n, generator=generator, dtype=torch.float64)),
            lambda psf=psf, n=n: Downsample((n, n), 2, Blur(psf, (n, n), "circular")),
            lambda n=n: Radon(n, torch.rand(5, generator=generator, dtype=torch.float64) * 180, dtype=torch.float64),
            lambda n=n: Fourier(torch.rand(n, n, generator=generator, dtype=torch.float64)),
            lambda matrix=matrix, n=n: FromFunction(lambda x: x @ matrix.T, (n,), dtype=torch.float64),
        ]
        op = made[i % len(made)]()
        shape = op.domain  # type: ignore[attr-defined]
        basis = torch.eye(shape.numel(), dtype=op.dtype).reshape(-1, *shape)  # type: ignore[attr-defined]
        columns = op(basis).reshape(shape.numel(), -1)  # type: ignore[operator]
        # the singular value is itself off by some n roundings
        truth = float(torch.linalg.matrix_norm(columns, 2)) * (1 - 2 * shape.numel() * torch.finfo(torch.float64).eps)
        excess = float(op.norm_bound()) / truth - 1  # type: ignore[attr-defined]
        low, high = min(low, excess), max(high, excess)
    yield line(f"norm_bound over the truth, {count} random operators, least excess", low, 0, "", at_most=False)
    yield line("the same, largest excess", high, 1e-3, "", at_most=True)


def peers(repeat: int) -> Iterator[Line]:
    """What others offer for the same picture."""
    clean, b, op = problem()
    psf = gaussian(SIGMA).float()
    yield from _skimage(clean, b, psf, repeat)
    for name, job in (("deepinv", _deepinv), ("pylops", _pylops), ("SigPy", _sigpy)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield from job(b, op, repeat)
        except (ImportError, RuntimeError, OSError) as error:  # deepinv asks for a torchvision that fits this torch
            yield name, "not run", "", str(error).splitlines()[0][:60]


def _skimage(clean: Tensor, b: Tensor, psf: Tensor, repeat: int) -> Iterator[Line]:
    from skimage import restoration

    image, kernel = b.numpy(), psf.numpy()
    jobs: dict[str, Callable[[], object]] = {
        "unsupervised_wiener": lambda: restoration.unsupervised_wiener(image, kernel, clip=False, rng=0)[0],
        "wiener, balance 0.01": lambda: restoration.wiener(image, kernel, 0.01, clip=False),
        "richardson_lucy, 10 iterations": lambda: restoration.richardson_lucy(image, kernel, 10),
    }
    for name, job in jobs.items():
        found = psnr(torch.as_tensor(job()).float(), clean)  # type: ignore[call-overload]
        yield f"scikit-image {name}", f"{found:.4g} dB", f"{pairs(job, b, 3):.0f} P", ""


def _deepinv(b: Tensor, op: Blur, repeat: int) -> Iterator[Line]:
    import deepinv

    physics = deepinv.physics.BlurFFT(img_size=(1, 512, 512), filter=op.psf[None, None])
    data, y, x = deepinv.optim.data_fidelity.L2(), b[None, None], torch.zeros(1, 1, 512, 512)
    step = DataStep(op, b)
    with torch.no_grad():
        theirs = pairs(lambda: x - data.grad(x, y, physics), b, repeat)
        ours = pairs(lambda: b + step(b), b, repeat)
    yield "deepinv: gradient step of BlurFFT", f"{theirs:.3g} P", f"ours {ours:.3g} P", f"ratio {theirs / ours:.2f}"


def _pylops(b: Tensor, op: Blur, repeat: int) -> Iterator[Line]:
    import numpy as np
    import pylops

    theirs = pylops.signalprocessing.Convolve2D(
        (512, 512), h=op.psf.numpy(), offset=tuple(k // 2 for k in op.psf.shape), dtype="float32"
    )
    x, y = np.zeros(512 * 512, np.float32), b.numpy().ravel()
    cost = pairs(lambda: x - theirs.H @ (theirs @ x - y), b, repeat)
    yield "pylops: gradient step of Convolve2D", f"{cost:.3g} P", "", ""


def _sigpy(b: Tensor, op: Blur, repeat: int) -> Iterator[Line]:
    import numpy as np
    import sigpy

    mask = np.random.default_rng(0).random((512, 512)) < 0.3
    chain = sigpy.linop.Multiply((512, 512), mask) * sigpy.linop.FFT((512, 512))
    x = (b.numpy() + 0j).astype(np.complex64)
    from residyn.inverse import Fourier

    ours = Fourier(torch.from_numpy(np.fft.ifftshift(mask)))
    z = torch.from_numpy(x)
    theirs, own = pairs(lambda: chain.H(chain(x)), b, repeat), pairs(lambda: ours.normal(z), b, repeat)
    yield "SigPy: HᴴH of a masked FFT", f"{theirs:.3g} P", f"ours {own:.3g} P", f"ratio {theirs / own:.2f}"


def main(*, quick: bool = False) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    print(f"{'what':76} {'measured':>14} {'asked':>14}  verdict")
    parts = (
        costs(5 if quick else 15), quality(3 if quick else 9, None if quick else 90.0), exactness(),
        memory(64 if quick else 128), norms(20 if quick else 200), peers(3 if quick else 9),
    )  # fmt: skip
    for part in parts:
        for name, value, asked, verdict in part:
            print(f"{name:76} {value:>14} {asked:>14}  {verdict}", flush=True)
    check_operator(Blur(gaussian(SIGMA), (32, 32)))


if __name__ == "__main__":
    main()
