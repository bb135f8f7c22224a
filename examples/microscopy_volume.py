"""A volume from a fluorescence microscope: a point spread function that is long in depth, taken back in three dimensions.

Bars of falling brightness are made here; a volume of one's own is read by `residyn.inverse.files.read("stack.tif").pixels`.
"""

import math
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from residyn.inverse import Blur, deblur, gaussian


def bars() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The truth in [0, 1], what a microscope sees of it, and its point spread function."""
    truth = torch.zeros(24, 64, 64)
    for i in range(5):
        truth[4:20, 8 + 10 * i : 12 + 10 * i, 8:56] = 1 - 0.1 * i
    psf = gaussian(2.0, 1.2, 1.2).float()
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    return truth, Blur(psf, tuple(truth.shape))(truth) + 0.02 * noise, psf


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    """In decibels, for a range of 1."""
    return -10 * math.log10(float((image - truth).square().mean()))


def main() -> None:
    """Restore by the Wiener filter and by total variation."""
    torch.set_num_threads(1)
    truth, seen, psf = bars()
    before = psnr(seen, truth)
    linear, tv = (psnr(deblur(seen, psf, method=method).image, truth) for method in ("auto", "tv"))
    print(f"bars, {' × '.join(map(str, truth.shape))}: {before:.1f} dB as seen, {linear:.1f} dB by the Wiener filter,")  # noqa: T201
    print(f"{tv:.1f} dB by total variation, expected at least 1 dB above what was seen, and no less than the filter")  # noqa: T201
    if linear < before + 1 or tv < linear:
        raise SystemExit("not what was expected")


if __name__ == "__main__":
    main()
