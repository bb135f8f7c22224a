"""All systems in one plane: the spectrum of each branch times its step, in the region where its scheme does not grow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from residyn.analysis import constrain, max_stable_step, spectrum
from residyn.analysis.region import Region
from residyn.atlas import catalog, data
from residyn.atlas.context import Context
from residyn.atlas.fit import seeded
from residyn.branch import Spectral
from residyn.graph import Diffusion, laplacian
from residyn.nets import MLP, Attention, Dissipative, Tokens
from residyn.quantum import Molecule
from residyn.results import Figure, Section, Series, Table
from residyn.schemes import BackwardEuler, Bosh3, Euler, ExponentialMidpoint, Heun, Scheme

REAL, IMAGINARY = (-3.3, 1.1), (-2.2, 2.2)
"""The part of the plane of hλ that every drawing shows."""
DEPTH, GROWTH, WIDTH = 4, math.e, 32

CODE = """\
import residyn as rd

print(rd.spectrum(F, x, k=10))                       # F: your branch, any callable or nn.Module; x: a state
print(rd.max_stable_step(F, x))                      # of the residual step itself; or scheme=rd.RK4(), …
print(rd.max_stable_step(F, x, criterion="growth", growth=2.718, depth=24))   # if a stack of 24 may grow by e
"""


@dataclass(frozen=True)
class System:
    """A branch at a state, and what its step is asked for.

    Args:
        branch: F.
        x: The state.
        what: Which branch that is, in words.
        scheme: Its scheme.
        closed: The largest step in closed form, where there is one.
        used: The step that is drawn where the largest is 0 or infinite.
        asks: Further arguments of `max_stable_step`: what a network may grow by.
    """

    branch: Callable[[Tensor], Tensor]
    x: Tensor
    what: str
    scheme: Scheme = field(default_factory=Euler)
    closed: float | None = None
    used: float = 1.0
    asks: dict[str, Any] = field(default_factory=dict)

    def largest(self) -> float:
        """What the one function says."""
        return float(max_stable_step(self.branch, self.x, self.scheme, **self.asks))

    @property
    def level(self) -> float:
        """|R| that a single step may reach."""
        return float(self.asks.get("growth", 1.0)) ** (1.0 / self.asks.get("depth", 1))


def run(context: Context) -> Section:
    """Draw every system of the catalogue in the plane of hλ.

    Args:
        context: How to run.

    Returns:
        A section of one small figure a system, with the systems' ids as captions, and a table of largest steps.
    """
    entries = [entry for entry in catalog.ENTRIES if entry.id in SYSTEMS]
    figures: list[Figure] = []
    rows: list[list[float | str | None]] = []
    for place, entry in enumerate(entries):
        context.advance(place / len(entries), entry.id)
        with seeded(context.seed):
            system = SYSTEMS[entry.id]()
        largest = system.largest()
        figures.append(_panel(entry.id, system, largest))
        name = type(system.scheme).__name__
        rows.append([entry.title, system.what, name, _asked(system), largest, system.closed])
    columns = ["system", "branch", "scheme", "asked of a step", "largest step", "closed form"]
    return Section(
        "plane",
        "One step, one plane",
        summary=SUMMARY,
        equation="x⁺ = x + h·F(x): no mode grows where |R(h·λ)| ≤ 1, λ the eigenvalues of ∂F/∂x",
        code=CODE,
        figures=figures,
        tables=[Table("The largest stable step, by one function", columns, rows)],
    )


SUMMARY = (
    "Every system of this page is the step x⁺ = x + h·F(x) with another branch F, so that one question is put to all of them: "
    "how large may the step be? Each picture shows the same part of the complex plane. Grey is where the system's scheme does "
    "not grow; the points are the eigenvalues of its branch times the step. They are drawn at the largest stable step, which "
    "one function, max_stable_step, finds for a layer, an optimiser, a graph filter and a quantum propagator alike: the "
    "outermost point then lies on the border. Where every step is stable, one is drawn that the system may take.\n\n"
    "A network whose branch expands in some direction grows at every step, which is no harm while it is little: its step is "
    "asked to let a stack of four blocks grow by no more than e, in norm, so that the eigenvalues stay well within the border."
)


def _asked(system: System) -> str:
    return f"‖R‖^{DEPTH} ≤ e" if system.asks else "|R| ≤ 1"


def _panel(name: str, system: System, largest: float) -> Figure:
    values = spectrum(system.branch, system.x, k=system.x.numel()).detach().to(torch.complex128)
    step = largest if 0 < largest < math.inf else system.used
    points = (step * values).numpy()
    points = np.unique(points.round(4))
    return Figure(
        name,
        "Re hλ",
        "Im hλ",
        [*_region(system.scheme, system.level), Series("eigenvalues times the step", *_xy(points), mark="points")],
        caption=f"{type(system.scheme).__name__}: {_words(largest)}"
        + ("" if step == largest else f", drawn at h = {step:.3g}"),
        equal=True,
        xlim=list(REAL),
        ylim=list(IMAGINARY),
    )


def _words(largest: float) -> str:
    if largest == 0:
        return "no h > 0 is stable"
    return "every h is stable" if math.isinf(largest) else f"h ≤ {largest:.3g}"


def _xy(points: np.ndarray) -> tuple[list[float], list[float]]:
    return points.real.tolist(), points.imag.tolist()


def _region(scheme: Scheme, level: float) -> list[Series]:
    """{|R| ≤ level} column by column: where it begins and ends above the real axis, and the mirror image below."""
    xs, ys = np.linspace(*REAL, 111), np.linspace(0, IMAGINARY[1], 221)
    inside = Region(scheme)(xs[:, None] + 1j * ys[None, :]) <= level * (1 + 1e-9)
    there = inside.any(1)
    low = np.where(there, ys[inside.argmax(1)], np.nan).round(4)
    high = np.where(there, ys[-1 - inside[:, ::-1].argmax(1)], np.nan).round(4)
    x = np.where(there, xs, np.nan).round(4).tolist()
    label = "the scheme does not grow"
    return [
        Series(label, x, low.tolist(), mark="region", y2=high.tolist()),
        Series(label, x, (-high).tolist(), mark="region", y2=(-low).tolist()),
    ]


def _digits() -> Tensor:
    return data.mnist((16, 16), 0).x[0].double()


def _stack(branch: nn.Module, x: Tensor, what: str, scheme: Scheme | None = None) -> System:
    """A branch of a network: asked to let a stack of DEPTH blocks grow by GROWTH."""
    asks = {"criterion": "growth", "growth": GROWTH, "depth": DEPTH}
    return System(branch.double(), x.double(), what, scheme or Euler(), asks=asks)


def _depth() -> System:
    x = nn.Linear(784, WIDTH).double()(_digits()[0]).detach()
    return _stack(MLP(WIDTH, WIDTH, WIDTH), x, "W₂·relu(W₁·x) at its start, at a digit")


def _wiener() -> System:
    power = torch.fft.rfft2(data.picture("camera")[:64, :64].double() - 0.5).abs() ** 2 / 64**2
    values = -1 / (power / 0.1**2 + 1)
    closed = 2 / float(-values.min())
    return System(
        Spectral(values.flatten()), torch.zeros(values.numel()).double(), "-x/(SNR+1), frequency by frequency", closed=closed
    )


def _unrolled() -> System:
    from residyn.inverse import Blur, DataStep, gaussian

    blur = Blur(gaussian(1.0), (12, 12), "circular")
    branch = DataStep(blur, torch.zeros(12, 12).double())
    closed = 2.0  # the PSF sums to one, so |H| ≤ 1, and is 1 at frequency 0
    return System(branch, torch.zeros(12, 12).double(), "-Hᵀ(H·x - b), a Gaussian blur", closed=closed)


def _ode() -> System:
    field_ = nn.Sequential(nn.Linear(WIDTH, 48), nn.Tanh(), nn.Linear(48, WIDTH))
    x = nn.Linear(784, WIDTH).double()(_digits()[0]).tanh().detach()
    return _stack(field_, x, "V·tanh(W·x + b) at its start, at a digit", Heun())


def _implicit() -> System:
    x = nn.Linear(784, 16).double()(_digits()[0]).detach()
    return System(
        Dissipative(16, 32, margin=0.1, gain=1.0).double(), x, "dissipative by construction", BackwardEuler(), math.inf, 0.3
    )


def _learn_dynamics() -> System:
    def pendulum(x: Tensor) -> Tensor:
        return torch.stack([x[1], -torch.sin(x[0])])

    return System(pendulum, torch.zeros(2).double(), "a pendulum about rest", Bosh3(), math.sqrt(3))


def _disulfide() -> System:
    from residyn.protein import find_disulfides, read, sample

    bonds = [(bond.a.number - 1, bond.b.number - 1) for bond in find_disulfides(read(sample("1ejg")))]
    return _diffusing([(i, i + 1) for i in range(45)] + bonds, 46, "-L·x, the chain of crambin and its bonds", normalized=False)


def _diffusing(edges: list[tuple[int, int]], n: int, what: str, *, normalized: bool) -> System:
    L = laplacian(torch.tensor(edges).T, n, normalized=normalized, dtype=torch.float64)
    closed = 2 / float(torch.linalg.eigvalsh(L.to_dense()).max())
    return System(Diffusion(L), torch.zeros(n).double(), what, closed=closed)


def _unet() -> System:
    branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    patch = torch.nn.functional.avg_pool2d(_digits()[:8].reshape(1, 8, 28, 28), 7)
    return _stack(branch, patch, "two convolutions of one level, at their start")


def _transformer() -> System:
    corpus = data.text()
    x = Tokens(corpus.count, 8, 16)(corpus.symbols[None, :8]).detach()
    return _stack(Attention(16, 4), nn.functional.layer_norm(x, (16,)), "attention of eight characters of text, at its start")


def _graph() -> System:
    import networkx  # type: ignore[import-untyped]

    club = networkx.karate_club_graph()
    return _diffusing(
        [(int(a), int(b)) for a, b in club.edges], club.number_of_nodes(), "-L·x, Zachary's karate club", normalized=True
    )


def _tddft() -> System:
    energies = Molecule.fixture("h2o").orbital_energies.flatten().to(torch.complex128)
    branch = Spectral(-1j * energies)
    return System(branch, torch.zeros_like(energies), "-i·H·x, orbitals of water", ExponentialMidpoint(), math.inf, 0.1)


def _calibrate() -> System:
    return System(Spectral(-torch.ones(10).double()), torch.zeros(10).double(), "-z, its step the shrinkage λ", closed=2.0)


def _stochastic_depth() -> System:
    x = nn.Linear(784, WIDTH).double()(_digits()[0]).detach()
    inner = MLP(WIDTH, WIDTH, WIDTH).double()
    return _stack(_Scaled(inner, 0.75), x, "0.75·W₂·relu(W₁·x): a block that is kept three times in four, on average")


def _robust() -> System:
    branch = constrain(MLP(WIDTH, WIDTH, WIDTH).double(), 1.0)
    x = nn.Linear(784, WIDTH).double()(_digits()[0]).detach()
    return _stack(branch, x, "W₂·relu(W₁·x), constrained to K = 1")


def _correction(what: str) -> System:
    inner = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, WIDTH))
    x = nn.Linear(784, WIDTH).double()(_digits()[0]).detach()
    return _stack(inner, x, what)


class _Scaled(nn.Module):
    """c·F(x)."""

    def __init__(self, branch: nn.Module, factor: float) -> None:
        super().__init__()
        self.branch, self.factor = branch, factor

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.factor * self.branch(x)
        return out


SYSTEMS: dict[str, Callable[[], System]] = {
    "depth": _depth,
    "unrolled": _unrolled,
    "wiener": _wiener,
    "ode": _ode,
    "learn-dynamics": _learn_dynamics,
    "implicit": _implicit,
    "tddft": _tddft,
    "disulfide": _disulfide,
    "graph": _graph,
    "unet": _unet,
    "transformer": _transformer,
    "robust": _robust,
    "continual": lambda: _correction("a bottleneck of width 8 for a new task"),
    "domain": lambda: _correction("a bottleneck of width 8 for a new domain"),
    "calibrate": _calibrate,
    "stochastic-depth": _stochastic_depth,
}
