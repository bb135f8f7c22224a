"""Unsupervised domain adaptation: residual corrections of a frozen model, trained without a label of the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.transfer.correction import Adapted, Correction, table
from residyn.transfer.discrepancy import coral, mmd
from residyn.transfer.inputs import classes, samples
from residyn.transfer.mapping import Affine, recolour, standardise
from residyn.transfer.recipes import RECIPES, Recipe, information
from residyn.transfer.sealed import Sealed
from residyn.transfer.units import Units, units

Watch = Callable[[float, str], None]
_ROWS = 1024
_MEASURED = 800
"""Samples of each domain that a gap is measured on: all pairs are compared."""
_SHORT = 0.05
"""What a branch costs in the score, in nats for a mean square as large as the target's variance: of equal ones the shortest."""


@dataclass(frozen=True)
class Settings:
    """How each recipe is trained.

    Args:
        at: Where corrections stand: `"input"`, `"features"` (before the last linear layer), or both.
        width: Hidden width of a correction.
        steps: Steps of Adam.
        batch: Samples of each domain in a step.
        rate: Peak learning rate; it rises and falls once.
        seed: Of all that is drawn.

    Raises:
        InputError: If a value breaks its rule.
    """

    at: tuple[str, ...] = ("input", "features")
    width: int = 128
    steps: int = 300
    batch: int = 128
    rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.at or not set(self.at) <= {"input", "features"}:
            raise InputError(f'`at` must hold "input", "features" or both, got {self.at!r}')
        for name, least in (("width", 1), ("steps", 1), ("batch", 8), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise InputError(f"`{name}` must be a whole number >= {least}, got {value!r}")
        if not 0 < self.rate < 1:
            raise InputError(f"`rate` must be a learning rate in (0, 1), got {self.rate}; 3e-3 is usual")


@dataclass(frozen=True)
class Trial:
    """What one recipe came to, none of it from labels of the target.

    Args:
        recipe: The recipe.
        information: Mutual information of target samples and predicted classes, nats.
        gap: Squared maximum mean discrepancy of the features.
        covariance: `coral` of the features.
        branch: Root mean square of F(x) at the input over the spread of the target, both in the units of the correction.
        score: By which one is chosen; higher is better.
    """

    recipe: Recipe
    information: float
    gap: float
    covariance: float
    branch: float
    score: float


@dataclass
class Adaptation:
    """An adapted model, and how it came about.

    Args:
        model: The frozen model with its corrections; call it as the model.
        chosen: The trial it is from.
        trials: The trials in the order they were made, those left out whose training left the numbers.
        before: The same measures of the model as it was.
        source: Samples and class numbers of the source.
        target: Samples of the target.
        labels: What came with them, unopened.
        settings: How it was trained.
        maps: The z-score and the covariance map of target samples, to compare with.
        scales: The units of the corrections, by place.
    """

    model: Adapted
    chosen: Trial
    trials: list[Trial]
    before: Trial
    source: tuple[Tensor, Tensor]
    target: Tensor
    labels: Sealed
    settings: Settings
    maps: dict[str, Affine] = field(default_factory=dict)
    scales: dict[str, Units] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of target samples, `(n, C)`."""
        return logits(self.model, x)


def adapt(
    model: nn.Module,
    source: tuple[Any, Any],
    target: Any,
    *,
    recipes: Sequence[Recipe] = RECIPES,
    at: Sequence[str] = ("input", "features"),
    width: int = 128,
    steps: int = 300,
    batch: int = 128,
    rate: float = 3e-3,
    seed: int = 0,
    watch: Watch | None = None,
) -> Adaptation:
    """Adapt a frozen classifier to a new domain by residual corrections, x⁺ = x + F(x), without a label of that domain.

    One correction stands before the model and one before its last linear layer; both start as the identity (or at a map of the
    first moments) and are all that is trained. Each recipe minimises the gap between source and target features and maximises
    the mutual information of target samples and predicted classes; the recipe that comes out best by these two, which need no
    label, is taken. The model itself is copied and left as it is.

    Args:
        model: A classifier that returns logits `(n, C)`.
        source: Samples `(n, …)` and class numbers `(n,)`, torch or NumPy, of the domain it was trained for.
        target: Samples `(m, …)` of the new domain; or a pair with labels, which are carried along unread for `judge`.
        recipes: What to try.
        at: Where corrections stand: `"input"`, `"features"`.
        width: Hidden width of a correction.
        steps: Steps of Adam a recipe.
        batch: Samples of each domain in a step.
        rate: Peak learning rate.
        seed: Of all that is drawn; the caller's generators are left as they are.
        watch: Told the share that is done, and what is being done.

    Returns:
        The adapted model and the measures of each trial.

    Raises:
        InputError: If the domains have different features, a domain is empty or holds nan, the source has one class, the model
            does not take the samples, a setting breaks its rule, or every training leaves the numbers.

    Reference:
        Long, Cao, Wang & Jordan (2015), "Learning Transferable Features with Deep Adaptation Networks", arXiv:1502.02791; Sun &
        Saenko (2016), arXiv:1607.01719; Liang, Hu & Feng (2020), "Do We Really Need to Access the Source Data?",
        arXiv:2002.08546.

    >>> generator = torch.Generator().manual_seed(0)
    >>> y = torch.arange(200) % 2
    >>> x = torch.randn(200, 2, generator=generator) + 4 * y[:, None] - 2
    >>> model = nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.tensor([[-1.0, -1.0], [1.0, 1.0]])), model.bias.data.zero_()
    >>> moved = x + 2.5  # half of class 0 is now taken for class 1
    >>> adapted = adapt(model, (x, y), moved, recipes=[Recipe("mmd", start="standardise")], steps=50)
    >>> bool((model(moved).argmax(1) == y).double().mean() < 0.9), bool((adapted(moved).argmax(1) == y).double().mean() > 0.97)
    (True, True)
    """
    settings = Settings(tuple(at), width, steps, batch, rate, seed)
    if not recipes or not all(isinstance(recipe, Recipe) for recipe in recipes):
        raise InputError(f"`recipes` must be one or more Recipe, got {recipes!r}; leave it out for the usual ones")
    if not isinstance(source, (tuple, list)) or len(source) != 2:
        raise InputError(f"`source` must be a pair of samples and class numbers, got {type(source).__name__}")
    sealed = Sealed(target[1]) if isinstance(target, (tuple, list)) and len(target) == 2 else Sealed(None)
    xs, xt = samples(source[0], "source"), samples(target[0] if sealed else target, "target")
    if xs.shape[1:] != xt.shape[1:]:
        raise InputError(
            f"`target` must have the source's features, {tuple(xs.shape[1:])} a sample, got {tuple(xt.shape[1:])}; bring both "
            "to one form first"
        )
    start = Adapted(model, xs[:2])
    ys = classes(source[1], xs, start.classes, "source")
    maps = {"standardise": standardise(xt, xs), "recolour": recolour(xt, xs)}
    scales = {"input": units(xs), "features": units(parts(start, xs)[0])}
    before = _measured(start, xs, xt, Recipe())
    trials: list[Trial] = []
    best: tuple[Trial, Adapted] | None = None
    for number, recipe in enumerate(recipes):
        made = _made(model, xs, recipe, settings, maps, scales)
        watcher = _share(watch, number, len(recipes), str(recipe))
        if not _fit(made, xs, xt, recipe, settings, watcher):
            continue
        trial = _measured(made, xs, xt, recipe)
        trials.append(trial)
        if best is None or trial.score > best[0].score:
            best = trial, made
    if best is None:
        raise InputError(
            f"`rate` must be small enough to train, got {rate:g}: every recipe left the numbers; try {rate / 10:g}"
        )
    return Adaptation(best[1], best[0], trials, before, (xs, ys), xt, sealed, settings, maps, scales)


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Logits in evaluation mode, some rows at a time.

    Args:
        model: The model.
        x: Samples, `(n, …)`.
    """
    with torch.no_grad():
        return torch.cat([table(model(rows)) for rows in torch.split(x, _ROWS)])


def _made(
    model: nn.Module, xs: Tensor, recipe: Recipe, settings: Settings, maps: dict[str, Affine], scales: dict[str, Units]
) -> Adapted:
    made = Adapted(model, xs[:2])
    generator = torch.Generator().manual_seed(settings.seed)
    for place in settings.at:
        start = maps.get(recipe.start) if place == "input" else None
        correction = Correction(made.shapes[place], settings.width, start, generator, scales[place])
        made.corrections[place] = correction.to(xs.device, xs.dtype)
    return made


def _fit(made: Adapted, xs: Tensor, xt: Tensor, recipe: Recipe, settings: Settings, watch: Callable[[float], None]) -> bool:
    """Train the corrections; labels of neither domain are needed. False if it left the numbers."""
    generator = torch.Generator().manual_seed(settings.seed + 1)
    parameters = list(made.corrections.parameters())
    optimiser = torch.optim.Adam(parameters, lr=settings.rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=settings.steps + 1)
    known = parts(made, xs, corrected=False)[0].flatten(1)
    first: Any = made.corrections["input"] if "input" in settings.at else None
    unit = first.one if first is not None else torch.ones((), dtype=xt.dtype, device=xt.device)
    spread = (xt / unit).var(0).sum().clamp(min=torch.finfo(xt.dtype).tiny)
    for step in range(settings.steps):
        rows, others = (torch.randint(len(x), (settings.batch,), generator=generator).to(x.device) for x in (xs, xt))
        x = xt[others]
        features, out = made.parts(x)
        if not bool(features.isfinite().all()):
            return False
        # the domains are brought together first, then the classes apart: the other way round whole classes change places
        sharpen = recipe.information * min(1.0, 2 * step / settings.steps)
        loss = recipe.distance(known[rows], features.flatten(1)) - sharpen * information(out)
        if first is not None and recipe.penalty:
            u = x if first.start is None else first.start(x)
            loss = loss + recipe.penalty * (first.taken(u) / unit).square().flatten(1).sum(1).mean() / spread
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        cycle.step()
        watch((step + 1) / settings.steps)
    made.requires_grad_(False)
    return bool(parts(made, xt)[1].isfinite().all())


def parts(made: Adapted, x: Tensor, *, corrected: bool = True) -> tuple[Tensor, Tensor]:
    """Features and logits without gradients, some rows at a time.

    Args:
        made: The adapted model.
        x: Samples.
        corrected: Whether the corrections are at work.
    """
    with torch.no_grad():
        pieces = [made.parts(rows, corrected=corrected) for rows in torch.split(x, _ROWS)]
    return torch.cat([f for f, _ in pieces]), torch.cat([z for _, z in pieces])


def _measured(made: Adapted, xs: Tensor, xt: Tensor, recipe: Recipe) -> Trial:
    known, _ = parts(made, xs, corrected=False)
    features, out = parts(made, xt)
    some, others = _some(known.flatten(1)), _some(features.flatten(1))
    told, gap = float(information(out)), float(mmd(some, others))
    branch = _branch(made, xt)
    return Trial(recipe, told, gap, float(coral(some, others)), branch, told - gap - _SHORT * branch**2)


def _branch(made: Adapted, xt: Tensor) -> float:
    if "input" not in made.corrections:
        return 0.0
    correction: Any = made.corrections["input"]
    moved = torch.cat([(correction(rows) - rows) / correction.one for rows in torch.split(xt, _ROWS)]).flatten(1)
    return float((moved.square().sum(1).mean() / (xt / correction.one).flatten(1).var(0).sum()).sqrt())


def _some(x: Tensor) -> Tensor:
    """Rows spread evenly over all."""
    return x if len(x) <= _MEASURED else x[torch.linspace(0, len(x) - 1, _MEASURED, device=x.device).long()]


def _share(watch: Watch | None, number: int, count: int, text: str) -> Callable[[float], None]:
    return (lambda _: None) if watch is None else lambda share: watch((number + share) / count, text)
