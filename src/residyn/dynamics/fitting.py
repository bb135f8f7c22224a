"""`fit`: from trajectories to a model, by the route that the data call for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from residyn.dynamics import training
from residyn.dynamics.model import Model, Target
from residyn.dynamics.networks import mlp
from residyn.dynamics.scales import scales as scales_of
from residyn.dynamics.theory import Rule, Scales, crossover
from residyn.dynamics.training import Pairs, Progress
from residyn.dynamics.trajectories import Trajectories, gather
from residyn.errors import InputError, check_choice
from residyn.results import Finding

_TARGETS = ("derivative", "flow", "auto")
_RULES = ("auto", "trapezoid", "euler", "measured")


def fit(
    t: Any,
    x: Any = None,
    *,
    target: Literal["derivative", "flow", "auto"] = "derivative",
    model: nn.Module | None = None,
    derivative: Any = None,
    control: Any = None,
    trajectory: Any = None,
    order: int = 1,
    rule: Literal["auto", "trapezoid", "euler", "measured"] = "auto",
    hidden: Sequence[int] = (32, 32),
    epochs: int = 400,
    decay: float = 0.0,
    validation: float = 0.2,
    seed: int = 0,
    progress: Progress | None = None,
) -> Model:
    """Learn a system x' = f(x, u) from sampled trajectories, as its derivative or as its flow map.

    The derivative f_θ is fitted to measured derivatives where there are any; else to the samples themselves, by a rule:
    `"trapezoid"`, (x_{k+1} - x_k)/h = ½(f(x_k) + f(x_{k+1})), or `"euler"`, (x_{k+1} - x_k)/h = f(x_k). The flow map is the
    residual step x_{k+1} = x_k + G_θ(x_k, h). `residyn.dynamics.theory` says which is nearer the truth when.

    Args:
        t: Times, `(n,)` or a list of them, sampled as irregularly as they are; or `Trajectories`, whole.
        x: States, `(n, d)` or a list of them; with `order` 2 positions first, then velocities.
        target: `"derivative"`, `"flow"`, or `"auto"`: by the estimated error of each; the finding `dynamics.target` says why.
        model: A network in place of the default one; it gets scaled inputs, `(…, d + m)` for a derivative, `(…, d + 2m + 1)`
            for a flow map (d states, m controls, the step last), and returns `(…, d)` (`d/2` with `order` 2 and a derivative).
        derivative: Measured dx/dt, listed as x is; with `order` 2 accelerations `(n, d/2)` are enough.
        control: Inputs u, `(n, m)`, listed as x is.
        trajectory: Labels `(n,)`, where several trajectories lie one after the other.
        order: 2 if the second half of the state is the derivative of the first: only accelerations are then learned.
        rule: How a derivative meets the data; measured if it was, else trapezoidal, if `"auto"`.
        hidden: Widths of the default network, of tanh layers.
        epochs: Iterations of L-BFGS at most; the fit ends earlier where held-out data no longer gain.
        decay: Weight of the squared parameters.
        validation: Share held out to end the fit: whole trajectories, or the last block of a single one.
        seed: Seed of weights and split.
        progress: Called as `progress(share, text)`.

    Returns:
        The model.

    Raises:
        InputError: If an argument breaks its rule.
        SolveError: If the fit diverges.

    Reference:
        Chen, Rubanova, Bettencourt & Duvenaud (2018), arXiv:1806.07366 (derivatives); Qin, Wu & Xiu (2019),
        doi:10.1016/j.jcp.2019.06.042 (flow maps as residual steps).

    >>> t = torch.linspace(0, 6, 61, dtype=torch.float64)
    >>> model = fit(t, torch.stack([t.cos(), -t.sin()], 1), hidden=(8,), epochs=200)
    >>> end = model.predict([1.0, 0.0], [0.0, 3.0])[-1]
    >>> bool((end - torch.tensor([-0.98999, -0.14112])).abs().max() < 0.05)
    True
    """
    check_choice("target", target, _TARGETS)
    check_choice("rule", rule, _RULES)
    if epochs < 1:
        raise InputError(f"`epochs` must be a whole number of at least 1, got {epochs!r}; 400 is usual")
    data = gather(t, x, trajectory=trajectory, derivative=derivative, control=control, order=order)
    chosen_rule: Rule = rule if rule != "auto" else "measured" if data.derivative is not None else "trapezoid"
    scales = scales_of(list(data))
    limit = crossover(scales, chosen_rule)
    findings = [decision(scales, chosen_rule, limit, target)]
    route: Target = target if target != "auto" else "derivative" if scales.step < limit else "flow"
    train, held = training.split(data, validation, seed)
    pairs = Pairs.of(train)
    second = data.order if route == "derivative" else 1  # a flow map also moves positions by more than h·v
    outputs = len(data.names) // second
    inputs = pairs.flow_inputs() if route == "flow" else pairs.points
    network = mlp(inputs.shape[1], outputs, hidden, seed) if model is None else model
    net = training.wrap(network, pairs, route, second)
    _check_shape(net, inputs.shape[1], outputs)
    aim = training.residual(pairs, route, chosen_rule)
    check = None if held is None else training.residual(Pairs.of(held), route, chosen_rule)
    error = training.train(net, aim, check, epochs=epochs, decay=decay, progress=progress)
    findings.append(_fitted(error, held))
    steps = torch.cat([one.diff() for one in data.t])
    return Model(
        net, route, chosen_rule, limit, scales, list(data.names), (float(steps.min()), scales.step, float(steps.max())),
        list(data.controls), second, None if model is not None else list(hidden), findings,
    )  # fmt: skip


def decision(scales: Scales, rule: Rule, limit: float, target: str) -> Finding:
    """Which target the data call for, and why.

    Args:
        scales: What is known of the data.
        rule: How a derivative meets the data.
        limit: The cross-over step.
        target: What was asked for.

    Returns:
        A finding that warns where the target asked for is not the one that theory prefers.
    """
    better = "derivative" if scales.step < limit else "flow"
    formula = {"trapezoid": "(h²/12)·‖x'''‖", "euler": "½h·‖x''‖", "measured": "0, it was measured"}[rule]
    why = (
        f"At the step {scales.step:.4g} of the data a fitted derivative is off by the truncation error {formula} = "
        f"{scales.truncation(rule):.3g}, a flow map by what noise of {scales.noise:.2g} standard deviations does to a one-step "
        f"regression, {scales.flow():.3g} (rates, in standard deviations per unit of time; x' itself is {scales.rate:.3g}). "
        f"The derivative is preferred up to a step of {limit:.3g}."
    )
    if limit == 0.0:
        why = (
            f"What looks like noise, {scales.noise:.2g} standard deviations, is {scales.growth:.2g} times as large at twice "
            "the spacing: it moves the system, or the motion is faster than the sampling. A one-step map is then the "
            "conditional mean, which the trapezoidal rule is not."
        )
    taken = better if target == "auto" else target
    fix = "" if taken == better else f'target="{better}" is the better choice by this estimate'
    title = f"The data call for the {'derivative' if better == 'derivative' else 'flow map'}"
    return Finding("dynamics.target", title, "info" if taken == better else "warn", scales.step, limit, "time", why, fix)


def _fitted(error: float, held: Trajectories | None) -> Finding:
    where = "the data" if held is None else f"{held.samples} held-out samples"
    why = "Root mean square of what the fitted rule leaves, relative to the standard deviation of the rate; noise is in it."
    return Finding("dynamics.residual", f"Residual of the fit on {where}", "info", error, unit="", why=why)


def _check_shape(net: nn.Module, inputs: int, outputs: int) -> None:
    """A network that was handed in must fit the data, before it is trained."""
    inner: nn.Module = net.net  # type: ignore[assignment]
    inner.to(torch.float64)
    try:
        found = inner(torch.zeros(2, inputs, dtype=torch.float64))
    except (RuntimeError, ValueError, TypeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise InputError(f"`model` must take (n, {inputs}), got an error: {first}; see `model` in the help of fit") from None
    if not isinstance(found, torch.Tensor) or found.shape != (2, outputs):
        got = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise InputError(f"`model` must return (n, {outputs}) for (n, {inputs}), got {got} for n = 2; change its last layer")
    if not any(p.requires_grad for p in inner.parameters()) or math.isnan(float(found.detach().sum())):
        raise InputError("`model` must have parameters to learn and be finite at 0, got others; hand in an nn.Module")
