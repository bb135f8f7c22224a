"""What a Lipschitz constraint costs and what it buys: one network trained at several strengths, judged on the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from residyn.analysis import constrain, lipschitz
from residyn.display import table
from residyn.errors import InputError
from residyn.provenance import versions
from residyn.results import Figure, Finding, Result, Section, Series, Table
from residyn.robust.attacking import attack
from residyn.robust.certificate import certify
from residyn.robust.inputs import as_box, as_eps, as_labels, as_norm, as_samples

Samples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Point:
    """One training.

    Attributes:
        bound: Lipschitz constant that was asked for; inf without constraint.
        lipschitz: What is certified of the trained network.
        accuracy: Share of all test samples that are right.
        certified: Share of the judged samples that are right with a certified radius of at least ε.
        attacked: Share of them that withstood the attack at ε.
        radius: Median certified radius of the judged samples.
        radii: Their certified radii.
    """

    bound: float
    lipschitz: float
    accuracy: float
    certified: float
    attacked: float
    radius: float
    radii: tuple[float, ...]


@dataclass(frozen=True)
class TradeOff:
    """The curve.

    Attributes:
        points: One a strength, in the order asked for.
        eps: ε of `certified` and `attacked`.
        norm: Its norm.
        networks: The trained networks, in evaluation mode.
        result: The same as tables, figures and findings, for a report.
    """

    points: list[Point]
    eps: float
    norm: str
    networks: list[nn.Module]
    result: Result

    def _repr_html_(self) -> str:
        rows: list[tuple[object, ...]] = [(p.bound, p.accuracy, p.certified, p.attacked, p.radius) for p in self.points]
        title = f"Accuracy against robustness, ε = {self.eps:g} in {self.norm}"
        return table(title, ["bound", "accuracy", "certified", "under attack", "median radius"], rows)

    @property
    def table(self) -> Table:
        """The points as rows."""
        return self.result.sections[0].tables[0]


def trade_off(
    build: Callable[[], nn.Module],
    train: Samples,
    test: Samples,
    *,
    eps: float,
    bounds: Sequence[float | None] = (None, 30.0, 10.0, 3.0, 1.0),
    norm: str = "l2",
    box: tuple[float, float] | None = (0, 1),
    epochs: int = 10,
    rate: float = 2e-3,
    batch: int = 100,
    judged: int = 100,
    steps: int = 40,
    seed: int = 0,
    watch: Callable[[float, str], None] | None = None,
) -> TradeOff:
    """Train one network at several Lipschitz constants; measure accuracy, certified radii, and accuracy under attack.

    Each training begins from the same weights and sees the same batches. `constrain` keeps the certified constant of the whole
    network at or below the bound in every step. With a small K logits cannot be far apart, and the cross-entropy then
    asks for wide margins on all samples rather than for certainty on each: hard samples are given up, easy ones moved far from
    the boundary.

    Args:
        build: Makes the network, untrained; it may draw from the global generator, which is seeded for it and put back.
        train: Inputs `(N, …)` in the box and classes `(N,)`.
        test: The same, unseen.
        eps: ε at which samples are counted as certified and are attacked.
        bounds: K of each training; None for no constraint.
        norm: `"l2"` or `"linf"`, of ε and radii; the constraint is on the Euclidean norm.
        box: Range of inputs, for the attack.
        epochs: Passes over the training samples.
        rate: Step of Adam; falls to zero along a half cosine.
        batch: Samples a step.
        judged: Test samples that are certified and attacked, the first ones.
        steps: Iterations of each ascent of the attack.
        seed: Seed of weights, batches and attack.
        watch: Told of progress, as a share and in words.

    Returns:
        A `TradeOff`; the same for the same seed.

    Raises:
        InputError: If an argument breaks its rule, or a bound cannot be reached.

    Reference:
        Gouk, Frank, Pfahringer & Cree (2021), doi:10.1007/s10994-020-05929-w; Tsipras, Santurkar, Engstrom, Turner & Madry
        (2019), "Robustness May Be at Odds with Accuracy", arXiv:1805.12152; Béthune et al. (2022), "Pay attention to your
        loss", arXiv:2104.05097 (K times the scale of the logits is what trades).

    >>> x = torch.rand(200, 2)
    >>> y = (x.sum(1) > 1).long()
    >>> found = trade_off(lambda: nn.Linear(2, 2), (x, y), (x, y), eps=0.05, bounds=(None, 0.5), epochs=1)
    >>> found.points[1].lipschitz <= 0.5
    True
    """
    strengths = _strengths(bounds)
    kind, limits = as_norm(norm), as_box(box)
    x, tx = as_samples(train[0], limits), as_samples(test[0], limits)
    as_eps(eps, tx)
    for name, value in (("epochs", epochs), ("batch", batch), ("judged", judged), ("steps", steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"`{name}` must be a whole number >= 1, got {value!r}")
    points, networks = [], []
    for k, bound in enumerate(strengths):
        words = "no constraint" if bound == math.inf else f"K = {bound:g}"
        if watch is not None:
            watch(k / len(strengths), f"training, {words}")
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(seed)
            net = build()
            if not isinstance(net, nn.Module):
                raise InputError(f"`build` must make an nn.Module, got {type(net).__name__}")
            if bound < math.inf:
                constrain(net, bound, input_shape=tuple(x.shape[1:]))
            torch.manual_seed(seed)
            _fit(net, x, torch.as_tensor(train[1]), epochs, rate, batch)
        if watch is not None:
            watch((k + 0.5) / len(strengths), f"certifying and attacking, {words}")
        networks.append(net)
        points.append(_judge(net, bound, tx, torch.as_tensor(test[1]), eps, kind, box, judged, steps, seed))
    return TradeOff(points, float(eps), kind, networks, _result(points, eps, kind, seed, len(x), len(tx), min(judged, len(tx))))


def _strengths(bounds: Sequence[float | None]) -> list[float]:
    found = [math.inf if bound is None else bound for bound in bounds]
    if not found:
        raise InputError("`bounds` must hold at least one Lipschitz constant or None, got none")
    for bound in found:
        if not (isinstance(bound, (int, float)) and bound > 0):
            raise InputError(f"`bounds` must hold constants > 0 or None, got {bound!r}; 1 makes a network non-expansive")
    return [float(bound) for bound in found]


def _fit(net: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float, batch: int) -> None:
    with torch.no_grad():
        classes = net.eval()(x[:1]).shape[-1]
    y = as_labels(y, x, classes)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    rows = [part for _ in range(epochs) for part in torch.split(torch.randperm(len(x)), batch)]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(rows))
    net.train()
    for part in rows:
        optimiser.zero_grad()
        f.cross_entropy(net(x[part]), y[part]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    net.eval()


def _judge(
    net: nn.Module, bound: float, x: Tensor, y: Tensor, eps: float, norm: str, box: tuple[float, float] | None, judged: int,
    steps: int, seed: int,
) -> Point:  # fmt: skip
    with torch.no_grad():
        scores = net(x)
        accuracy = float((scores.argmax(1) == as_labels(y, x, scores.shape[1])).double().mean())
    few, labels = x[:judged], y[:judged]
    radius = certify(net, few, labels, norm).double()
    withstood = attack(net, few, labels, eps, norm, box, steps=steps, seed=seed).accuracy
    certified = float((radius >= eps).double().mean())
    constant = float(lipschitz(net, tuple(x.shape[1:])))
    return Point(bound, constant, accuracy, certified, withstood, float(radius.median()), tuple(radius.tolist()))


def _result(points: list[Point], eps: float, norm: str, seed: int, trained: int, tested: int, judged: int) -> Result:
    name = {"l2": "L2", "linf": "L∞"}[norm]
    columns = ["bound asked", "certified constant", "accuracy", f"certified at ε = {eps:g}", f"attacked at ε = {eps:g}",
               f"median certified radius ({name})"]  # fmt: skip
    rows: list[list[float | str | None]] = [
        ["none" if p.bound == math.inf else p.bound, p.lipschitz, p.accuracy, p.certified, p.attacked, p.radius] for p in points
    ]
    broken = sum(p.certified > p.attacked for p in points)
    over = sum(p.lipschitz > p.bound for p in points)
    findings = [
        Finding(
            "robust.bound.kept", "Trainings whose certified constant ended above the bound", "fail" if over else "pass",
            float(over), 0.0, why="The constraint scales each layer by its true norm in every step of the optimiser.",
        ),
        Finding(
            "robust.certified.below", "Trainings of which more samples are certified at ε than withstood the attack",
            "fail" if broken else "pass", float(broken), 0.0, why="A certificate is a lower bound, an attack an upper one.",
        ),
    ]  # fmt: skip
    section = Section(
        "trade-off",
        "Robustness against accuracy",
        summary=f"{len(points)} trainings on {trained} samples; accuracy on {tested}, the rest on {judged} of them.",
        equation="‖y(x + δ) - y(x)‖ ≤ K·‖δ‖",
        findings=findings,
        figures=curves(points, eps, name),
        tables=[Table("Accuracy and robustness by constraint", columns, rows)],
    )
    return Result("robust", "Robustness against accuracy", [section], seed=seed, versions=versions())


def curves(points: list[Point], eps: float, name: str) -> list[Figure]:
    """Accuracies against the certified constant, and the share of samples certified at each radius."""
    x = [p.lipschitz for p in points]
    shares = [("accuracy", [p.accuracy for p in points]), (f"attacked, ε = {eps:g}", [p.attacked for p in points]),
              (f"certified, ε = {eps:g}", [p.certified for p in points])]  # fmt: skip
    top = max(max(p.radii) for p in points)
    grid = [top * k / 60 for k in range(61)]
    falls = [
        Series(
            "no constraint" if p.bound == math.inf else f"K = {p.bound:g}",
            grid,
            [sum(r > g for r in p.radii) / len(p.radii) for g in grid],
        )
        for p in points
    ]
    return [
        Figure("What a constraint costs and buys", "certified Lipschitz constant of the trained network", "share of samples",
               [Series(label, x, y, "points") for label, y in shares], "log",
               caption="From right to left the constraint tightens."),
        Figure("Certified accuracy by radius", f"radius ({name})", "share of samples certified", falls),
    ]  # fmt: skip
