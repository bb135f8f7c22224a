"""An operator of one's own: a camera that vignettes, smears along its rows as the sensor is read, and lost some columns.

Only the forward map is written; the adjoint is derived from it, the conformance suite holds both to their laws, and FISTA with
total variation inverts it.
"""

import math
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

import residyn as rd
from residyn.errors import package_file
from residyn.inverse import DataStep, Fista, FromFunction, TotalVariation
from residyn.testing import check_operator

SIDE, NOISE = 96, 0.01


def camera(side: int) -> FromFunction:
    """The forward map, plain torch operations on `(…, side, side)`."""
    place = torch.linspace(-1, 1, side)
    vignette = 1 / (1 + 0.6 * (place[:, None] ** 2 + place**2))
    smear = torch.tensor([0.5, 0.25, 0.15, 0.1])
    seen = torch.rand(side, generator=torch.Generator().manual_seed(0)) > 0.1

    def forward(x: torch.Tensor) -> torch.Tensor:
        read = sum(w * torch.roll(x, k, -1) for k, w in enumerate(smear))
        return vignette * seen * read

    return FromFunction(forward, (side, side))


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    """In decibels, for a range of 1."""
    return -10 * math.log10(float((image - truth).square().mean()))


def main() -> None:
    """Check the operator, blur a picture with it, get it back."""
    torch.set_num_threads(1)
    laws = check_operator(camera(24))
    with Image.open(package_file("skimage", "data/camera.png", "imaging")) as opened:
        clean = (
            torch.from_numpy(np.asarray(opened.resize((2 * SIDE, 2 * SIDE)), dtype=np.float32))[20 : 20 + SIDE, 50 : 50 + SIDE]
            / 255
        )
    op = camera(SIDE)
    b = op(clean) + NOISE * torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    step = 1 / float(op.norm_bound()) ** 2
    scheme = Fista(TotalVariation(0.01, iterations=10))
    field, steps = rd.autonomous(DataStep(op, b)), rd.Fixed(steps=60)
    found = rd.solve(field, torch.zeros(SIDE, SIDE), [0.0, 60 * step], scheme=scheme, control=steps).x[-1]
    print(f"{len(laws)} laws kept, expected at least 11")  # noqa: T201
    print(f"{psnr(b, clean):.1f} dB as measured, {psnr(found, clean):.1f} dB restored, expected more than 24")  # noqa: T201
    if len(laws) < 11 or psnr(found, clean) < 24:
        raise SystemExit("not what was expected")


if __name__ == "__main__":
    main()
