"""Computed tomography from few angles: back-projection, plain residual steps, and FISTA with total variation.

A slice of a real scan (pydicom's sample) where that package is installed, else the phantom that scikit-image ships.
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
from residyn.inverse import DataStep, Fista, Radon, TotalVariation

SIDE, ANGLES = 64, 24


def slice_of_a_scan() -> tuple[str, torch.Tensor]:
    """A name and intensities in [0, 1], `(64, 64)`."""
    if importlib.util.find_spec("pydicom"):
        import pydicom
        from pydicom.data import get_testdata_file

        pixels = pydicom.dcmread(get_testdata_file("CT_small.dcm")).pixel_array.astype(np.float32)
        image, name = Image.fromarray(pixels), "CT_small.dcm of pydicom"
    else:
        image, name = Image.open(package_file("skimage", "data/phantom.png", "imaging")).convert("F"), "phantom of scikit-image"
    x = torch.from_numpy(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32).copy())
    x = (x - x.min()) / (x.max() - x.min())
    place = torch.linspace(-1, 1, SIDE)
    return name, x * (place[:, None] ** 2 + place**2 < 1)  # what lies outside the circle is not seen from all sides


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    """In decibels, for a range of 1."""
    return -10 * math.log10(float((image - truth).square().mean()))


def main() -> None:
    """Project, add noise, reconstruct."""
    torch.set_num_threads(1)
    name, clean = slice_of_a_scan()
    op = Radon(SIDE, torch.arange(ANGLES) * (180 / ANGLES))
    y = op(clean)
    y = y + 0.01 * float(y.max()) * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    step = 1 / float(op.norm_bound()) ** 2
    field, start = rd.autonomous(DataStep(op, y)), torch.zeros(SIDE, SIDE)

    def reconstructed(scheme: rd.schemes.Scheme, steps: int) -> torch.Tensor:
        return rd.solve(field, start, [0.0, steps * step], scheme=scheme, control=rd.Fixed(steps=steps)).x[-1]

    plain = psnr(reconstructed(rd.Euler(), 60), clean)
    tv = psnr(reconstructed(Fista(TotalVariation(0.3, iterations=10)), 60), clean)
    print(f"{name}, {ANGLES} angles: {plain:.1f} dB after 60 plain steps, {tv:.1f} dB with FISTA and total variation,")  # noqa: T201
    print("expected more than 20 and at least 2 more")  # noqa: T201
    if plain < 20 or tv < plain + 2:
        raise SystemExit("not what was expected")


if __name__ == "__main__":
    main()
