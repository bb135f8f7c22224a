"""Files to try each verb on: real data from the packages of its extra where there are some, computed where not."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from residyn.errors import require

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Files = Mapping[str, "str | bytes"]
"""Contents by relative path."""


@dataclass(frozen=True)
class Sample:
    """What there is to try a verb on.

    Args:
        about: What the files are, in a line.
        files: Their names, a folder's with a slash.
        next: The command to give then.
        make: Gives the contents.
    """

    about: str
    files: tuple[str, ...]
    next: str
    make: Callable[[], Files]


def _adapt() -> Files:
    """Digits of 8 × 8 pixels from scikit-learn, and MNIST's brought to that size: other people, other pens, another scanner."""
    import torch

    from residyn.atlas.domain import FAST, small

    ours, theirs = small(FAST, seed=0)
    return {
        name: _npz(x=torch.cat(x).numpy(), y=torch.cat(y).numpy())
        for name, (x, y) in (("scans.npz", ours), ("mnist.npz", theirs))
    }


def _audit() -> Files:
    """A network that is trained for a moment, its weights, and digits to look at it with."""
    import torch
    from safetensors.torch import save

    from residyn.atlas.data import digits
    from residyn.cli import samplenet

    split = digits((1200, 256), seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = samplenet.make()
    _train(net, [one for name, one in net.named_parameters() if not name.startswith("5.")], split.x[0], split.y[0], 3e-3)
    return {
        "net.py": Path(samplenet.__file__).read_bytes(),
        "net.safetensors": save(net.state_dict()),
        "batch.npz": _npz(x=split.x[1].numpy(), labels=split.y[1].numpy()),
    }


def _train(net: nn.Module, parameters: list[nn.Parameter], x: Tensor, y: Tensor, rate: float) -> None:
    """A hundred and fifty steps of Adam on all samples."""
    import torch

    optimizer = torch.optim.Adam(parameters, rate)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def _npz(**arrays: np.ndarray) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _calibrate() -> Files:
    """Scores of a network that has learned 200 digits by heart, on 1,400 others."""
    import torch

    from residyn.atlas.data import digits

    split = digits((200, 1400), seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    _train(net, list(net.parameters()), split.x[0], split.y[0], 3e-2)
    with torch.no_grad():
        return {"logits.npz": _npz(logits=net(split.x[1]).numpy(), labels=split.y[1].numpy())}


def _png(values: np.ndarray) -> bytes:
    image = require("PIL.Image", "imaging")
    buffer = io.BytesIO()
    image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def _crop(name: str) -> np.ndarray:
    """256 × 256 pixels from the middle of a photograph of scikit-image."""
    import numpy as np

    from residyn.errors import package_file

    image = require("PIL.Image", "imaging")
    with image.open(package_file("skimage", f"data/{name}.png", "imaging")) as opened:
        left, top = (opened.width - 256) // 2, (opened.height - 256) // 2
        return np.asarray(opened.crop((left, top, left + 256, top + 256)), dtype=np.float64)


def _deblur() -> Files:
    """A photograph out of focus: a Gaussian of two pixels, and noise of 1 %."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(_crop("camera"), 2, mode="reflect")
    return {"blurred.png": _png(_bytes(blurred + np.random.default_rng(0).normal(0, 2.55, blurred.shape)))}


def _denoise() -> Files:
    """A photograph in colours, with noise of σ = 20 of 255."""
    import numpy as np

    clean = _crop("astronaut")
    return {"noisy.png": _png(_bytes(clean + np.random.default_rng(0).normal(0, 20, clean.shape)))}


def _bytes(values: np.ndarray) -> np.ndarray:
    import numpy as np

    return values.round().clip(0, 255).astype(np.uint8)


def _disulfide() -> Files:
    """Ribonuclease A, entry 5RSA of the Protein Data Bank."""
    from residyn.protein import sample

    return {"protein.pdb": gzip.decompress(Path(sample("5rsa")).read_bytes())}


def _dynamics() -> Files:
    """A pendulum that swings out over two radians, seen with an error of 0.002."""
    import numpy as np
    from scipy.integrate import solve_ivp

    t = np.linspace(0, 20, 201)
    solved = solve_ivp(lambda _, s: [s[1], -math.sin(s[0])], (0, 20), [2.0, 0.0], t_eval=t, rtol=1e-9, atol=1e-9)
    seen = solved.y.T + np.random.default_rng(0).normal(0, 0.002, (201, 2))
    rows = [f"{a:.1f},{b:.5f},{c:.5f}" for a, (b, c) in zip(t, seen, strict=True)]
    return {"pendulum.csv": "\n".join(["t,angle,velocity", *rows]) + "\n"}


def _graph() -> Files:
    """Who saw whom in a karate club, and which half each went with when it split (Zachary 1977)."""
    networkx = require("networkx", "atlas")
    buffer = io.BytesIO()
    networkx.write_graphml_xml(networkx.karate_club_graph(), buffer)
    return {"club.graphml": buffer.getvalue()}


def _segment() -> Files:
    """Discs in noise with their masks, to learn from; and some without, to try it on."""
    import numpy as np

    draw = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    files: dict[str, bytes] = {}
    for k in range(15):
        a, b, r = (*draw.uniform(16, 48, 2), draw.uniform(6, 14))
        disc = (x - a) ** 2 + (y - b) ** 2 < r * r
        seen = _png(_bytes(90 + 60 * disc + draw.normal(0, 20, disc.shape)))
        if k < 12:
            files |= {f"images/{k:02}.png": seen, f"masks/{k:02}.png": _png(255 * disc.astype(np.uint8))}
        else:
            files[f"new/{k:02}.png"] = seen
    return files


def _spectrum() -> Files:
    """A molecule of water, in Å."""
    return {"water.xyz": "3\nwater\nO 0.0000 0.0000 0.1173\nH 0.0000 0.7572 -0.4692\nH 0.0000 -0.7572 -0.4692\n"}


SAMPLES = {
    "adapt": Sample(
        "digits from two sources: MNIST at 8 × 8 pixels, and scikit-learn's scans",
        ("mnist.npz", "scans.npz"),
        "residyn adapt mnist.npz scans.npz -o report.html",
        _adapt,
    ),
    "audit": Sample(
        "a residual network with a block that does nothing, its weights, and digits",
        ("net.py", "net.safetensors", "batch.npz"),
        "residyn audit net:make batch.npz --weights net.safetensors -o report.html",
        _audit,
    ),
    "calibrate": Sample(
        "scores of a network that has learned 200 digits by heart, on 1,400 others",
        ("logits.npz",),
        "residyn calibrate logits.npz -o report.html",
        _calibrate,
    ),
    "deblur": Sample(
        "a photograph, blurred by a Gaussian of two pixels, with noise of 1 %",
        ("blurred.png",),
        "residyn deblur blurred.png --psf gaussian:2 -o sharp.png",
        _deblur,
    ),
    "denoise": Sample(
        "a photograph in colours, with noise of σ = 20",
        ("noisy.png",),
        "residyn denoise noisy.png -o clean.png",
        _denoise,
    ),
    "disulfide": Sample(
        "ribonuclease A (entry 5RSA of the Protein Data Bank)",
        ("protein.pdb",),
        "residyn disulfide protein.pdb -o table.html",
        _disulfide,
    ),
    "dynamics": Sample(
        "a pendulum that swings out over two radians, seen with an error of 0.002",
        ("pendulum.csv",),
        "residyn dynamics fit pendulum.csv -o report.html",
        _dynamics,
    ),
    "graph": Sample(
        "who saw whom in Zachary's karate club, and which half each went with",
        ("club.graphml",),
        "residyn graph club.graphml -o report.html",
        _graph,
    ),
    "segment": Sample(
        "discs in noise with their masks, and three without",
        ("images/", "masks/", "new/"),
        "residyn segment train images/ masks/ -o model.safetensors",
        _segment,
    ),
    "spectrum": Sample("a molecule of water", ("water.xyz",), "residyn spectrum water.xyz --xc hf -o spectrum.html", _spectrum),
}
"""By verb."""
