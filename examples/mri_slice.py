"""Magnetic resonance imaging from a third of its Fourier coefficients, with sparse wavelets as what is known of the picture.

A slice of the MNI152 brain where nilearn is installed, else the phantom that scikit-image ships.
"""

import importlib.util
import math
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

import residyn as rd
from residyn.errors import package_file
from residyn.inverse import DataStep, Fista, Fourier, Wavelet

SIDE = 128


def slice_of_a_head() -> tuple[str, torch.Tensor]:
    """A name and intensities in [0, 1], `(128, 128)`."""
    if importlib.util.find_spec("nilearn"):
        from nilearn import datasets

        volume = datasets.load_mni152_template(resolution=2).get_fdata().astype(np.float32)
        image, name = Image.fromarray(volume[:, :, volume.shape[2] // 2].copy()), "MNI152 of nilearn"
    else:
        image, name = Image.open(package_file("skimage", "data/phantom.png", "imaging")).convert("F"), "phantom of scikit-image"
    x = torch.from_numpy(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32).copy())
    return name, (x - x.min()) / (x.max() - x.min())


def sampled(side: int) -> torch.Tensor:
    """Rows of Fourier space that were measured: all near the middle, fewer beyond."""
    row = torch.fft.fftfreq(side).abs()
    chance = torch.exp(-((row / 0.12) ** 2)) + 0.18
    return (torch.rand(side, generator=torch.Generator().manual_seed(0)) < chance)[:, None].expand(side, side)


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    """In decibels, for a range of 1."""
    return -10 * math.log10(float((image - truth).square().mean()))


def main() -> None:
    """Measure, fill with zeros, reconstruct."""
    torch.set_num_threads(1)
    name, clean = slice_of_a_head()
    op = Fourier(sampled(SIDE))
    generator = torch.Generator().manual_seed(1)
    noise = torch.complex(*(0.003 * torch.randn(SIDE, SIDE, generator=generator) for _ in range(2)))
    y = op(clean + 0j) + op.mask * noise
    filled = op.adjoint(y).real
    wave = Wavelet(0.004, shifts=4)
    real = Fista(lambda v, h: wave.prox(v.real, h) + 0j)  # what is known besides: the picture is real
    field = rd.autonomous(DataStep(op, y))
    found = rd.solve(field, torch.zeros(SIDE, SIDE) + 0j, [0.0, 60.0], scheme=real, control=rd.Fixed(steps=60)).x[-1].real
    share = float(op.mask.mean())
    print(f"{name}, {share:.0%} measured: {psnr(filled, clean):.1f} dB filled with zeros,")  # noqa: T201
    print(f"{psnr(found, clean):.1f} dB by wavelets, expected at least 2 dB more")  # noqa: T201
    if psnr(found, clean) < psnr(filled, clean) + 2:
        raise SystemExit("not what was expected")


if __name__ == "__main__":
    main()
