"""A client of the public API, as a type checker sees it from outside: `mypy --strict` and pyright read it, nobody runs it.

Every name that users are promised stands here with the types it is used with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import residyn as rd
from residyn import (
    atlas,
    audit,
    calibrate,
    compat,
    dynamics,
    gradients,
    graph,
    inverse,
    nets,
    protein,
    quantum,
    report,
    results,
    robust,
    roots,
    schemes,
    testing,
    training,
    transfer,
)
from residyn.compat.torchdiffeq import odeint, odeint_adjoint, odeint_event


def use(*values: object) -> None:
    """Somewhere to put what is only looked at."""


def field(t: Tensor, x: Tensor) -> Tensor:
    """A vector field."""
    return -x * t


def scaled(t: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """A vector field with an argument."""
    return a * x


def crossing(t: Tensor, x: Tensor) -> Tensor:
    """Zero where something happens."""
    return x.sum()


def steps(x: Tensor) -> Tensor:
    """A step, and steps repeated."""
    block: nn.Module = rd.Residual(nn.Linear(4, 4), 0.5, keep=0.9)
    stack = rd.Stack([block, rd.Residual(torch.tanh)], gradient=rd.Backprop())
    flow = rd.Flow(field, (0.0, 1.0), scheme=rd.RK4(), control=rd.Fixed(steps=4), gradient=rd.Checkpoint())
    layer = rd.Equilibrium(lambda x, u: torch.tanh(x + u), root=rd.Anderson(), gradient=rd.Implicit())
    out: Tensor = layer(flow(stack(x)))
    return out


def solves(x: Tensor) -> rd.Solution:
    """Every scheme, control and gradient mode."""
    explicit = (rd.Euler(), rd.Midpoint(), rd.Heun(), rd.RK4(), schemes.Bosh3(), rd.Tsit5(), rd.Dopri5(), rd.Dopri8())
    implicit = (rd.BackwardEuler(), schemes.ImplicitMidpoint(), schemes.Trapezoid(), rd.Rodas5P(), rd.Kvaerno5())
    others: tuple[schemes.Scheme, ...] = (schemes.ExponentialMidpoint(), schemes.ForwardBackward(lambda x, h: x.relu()))
    modes: tuple[gradients.GradientMode, ...] = (
        rd.Backprop(), rd.Checkpoint(), rd.Replay(), rd.Adjoint(), gradients.Reversible(),
    )  # fmt: skip
    finders: tuple[roots.RootFinder, ...] = (rd.FixedPoint(), rd.Anderson(), roots.Broyden(), rd.Newton())
    control: schemes.Control = rd.Adaptive(rtol=1e-6, atol=1e-9, per_sample=False, max_steps=1000)
    found = rd.solve(field, x, [0.0, 1.0], scheme=explicit[0], control=control, gradient=modes[2], throw=False)
    rd.solve(rd.autonomous(torch.tanh), x, torch.tensor([0.0, 1.0]), scheme=implicit[0], event=rd.Event(crossing))
    rd.solve(scaled, x, [1.0, 0.0], args=(torch.ones(()),), scheme=others[0], compile=None)
    use(finders)
    times: Tensor = found.t
    ok: bool = found.outcome.ok
    cause, fix = found.outcome.message, found.outcome.fix
    counts: tuple[int, int, int] = (found.stats.evaluations, found.stats.accepted, found.stats.rejected)
    use(times, ok, cause + fix, counts, found.interpolate(0.5))
    return found


def known(branch: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """What is known of a branch."""
    norm: rd.Estimate = rd.spectral_norm(branch, x, rtol=1e-2)
    values: Tensor = rd.spectrum(branch, x, k=6)
    dissipation: rd.Estimate = rd.log_norm(branch, x)
    largest: rd.Estimate = rd.max_stable_step(branch, x, rd.Euler(), criterion="growth", growth=2.0, depth=3)
    certified: rd.Estimate = rd.operator_norm(nn.Conv2d(3, 3, 3), (3, 8, 8))
    bound: rd.Estimate = rd.lipschitz(nn.Linear(4, 4), (4,))
    rd.constrain(nn.Linear(4, 4), lipschitz=1.0)
    kind: results.EstimateKind = norm.kind
    use(values, kind, norm.iterations, norm.converged)
    return float(norm) + float(dissipation) + float(largest) + float(certified) + float(bound)


def audits(model: nn.Module, x: Tensor, y: Tensor) -> rd.Audit:
    """An audit."""
    found = audit.audit(model, x, targets=y, budget=10.0)
    for block in found.blocks:
        use(block.name, block.kind, block.module, block.call, block.ratio, block.cosine, block.influence)
        use(block.jacobian_norm, block.max_step, block.gradient_norm, block.bound)
    findings: list[results.Finding] = found.findings
    warnings: list[str] = found.warnings
    with found.patch(drop=["a"], scale={"b": 0.5}) as patched:
        patched(x)
    use(findings, warnings, found.retrofit)
    found.to_html("a.html")
    found.to_json(Path("a.json"))
    return found


def pictures(image: np.ndarray[Any, Any], psf: Tensor) -> float:
    """Restoration."""
    op = inverse.Blur(psf, (64, 64), boundary="symmetric")
    x = torch.ones(64, 64)
    y: Tensor = op(x)
    back: Tensor = op.adjoint(y)
    normal: Tensor = op.normal(x)
    bound = float(op.norm_bound())
    found = inverse.deblur(image, psf, method="landweber", noise=0.1, boundary="symmetric", steps=5, step=None)
    sigma: float = found.sigma
    residuals: list[float] = found.residuals
    network = inverse.Unrolled(op, 3, inverse.ProximalBranch(8))
    use(back, normal, found.image, residuals, found.filter, network, inverse.denoise(x, snr=2.0))
    return sigma + float(inverse.optimal_gain(2.0)) + bound


def systems(t: Tensor, x: Tensor) -> Tensor:
    """Dynamics."""
    table = dynamics.read_csv("pendulum.csv")
    model: dynamics.Model = dynamics.fit(t, x, target="auto")
    limit: float = model.crossover
    use(limit, table.names)
    return model.predict(x[0], t)


def molecules() -> list[quantum.Peak]:
    """Quantum chemistry."""
    molecule = quantum.Molecule.from_xyz("water.xyz", basis="6-31g", xc="pbe0", charge=0, spin=0)
    stored = quantum.Molecule.fixture("h2o")
    run = quantum.propagate(stored, scheme=quantum.Magnus2(), dt=0.1, duration=10.0, kick=(0.0, 0.0, 1e-4), fock="linear")
    arrays: tuple[Tensor, ...] = (run.t, run.dipole, run.energy, run.norm)
    builds: int = run.builds
    spectrum: quantum.Spectrum = quantum.absorption([run])
    use(molecule, arrays, builds, spectrum.energy_ev, spectrum.strength, quantum.stability(stored, quantum.Magnus2(), 0.1))
    for peak in spectrum.peaks():
        use(peak.energy_ev + peak.strength + peak.width_ev)
    assert callable(quantum.train_corrector)
    return spectrum.peaks()


def proteins() -> None:
    """Disulfides."""
    structure: protein.Structure = protein.read("1ubi.pdb")
    bonds = protein.find_disulfides(structure)
    entropy = float(protein.loop_entropy([(5, 55)], limit="soft", stiffness=2.0228))
    table: protein.Scan = protein.scan(structure, flexible=True, pick=2, exclude=())
    protein.mutate(structure, table[0].pair, "mutant.pdb")
    use(bonds, entropy, protein.shortcut(50, 3, 40))


def graphs(edges: Tensor, x: Tensor) -> Tensor:
    """Graphs."""
    laplacian: Tensor = graph.laplacian(edges, 5, normalized=True, self_loops=False)
    branch = graph.Diffusion(laplacian)
    energy: Tensor = graph.dirichlet_energy(x, laplacian)
    resistance = graph.effective_resistance(laplacian, torch.tensor([[0, 1]]))
    use(branch(x), resistance, graph.GraphConv, graph.ResidualGNN)
    return energy


def networks() -> list[nn.Module]:
    """Networks."""
    made: list[nn.Module] = [
        nets.MLP(4, 8, 2), nets.ResNet(nn.Identity(), [nn.Linear(4, 4)], nn.Identity()), nets.UNet(3, 2, short=True, long=True), nets.Transformer(norm="pre"),
    ]  # fmt: skip
    nets.stochastic_depth(made[1], 0.2, schedule="linear")
    return made


def robustness(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Certificates and attacks."""
    radius: Tensor = robust.certify(model, x, y)
    use(robust.attack(model, x, y, 0.1, norm="l2", box=(0, 1)), robust.trade_off)
    return radius


def transfers(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Adapters, tasks one after the other, and other domains."""
    use(transfer.add_adapters(model))
    learner = transfer.Continual(model)
    use(learner.run([transfer.Task("one", x, y, x, y)]).forgetting)
    found: transfer.Adaptation = transfer.adapt(model, (x, y), x)
    use(found.model)
    distance: Tensor = transfer.mmd(x, x) + transfer.coral(x, x)
    return distance


def probabilities(logits: Tensor, labels: Tensor) -> float:
    """Calibration."""
    error = calibrate.ece(logits, labels, bins=15, norm="l1")
    shrink = calibrate.Shrink().fit(logits, labels)
    lam: float = shrink.lam
    better: Tensor = shrink.transform(logits)
    use(better, calibrate.reliability(logits, labels))
    return float(error) + lam


def whole() -> results.Result:
    """The atlas, reports, conformance, errors, and what was written for torchdiffeq."""
    result: results.Result = atlas.run(["wiener"], fast=True, seed=0)
    report.write(result, "a.html")
    again = results.Result.from_json(result.to_json())
    try:
        testing.check_step(torch.tanh, torch.ones(3))
    except rd.ResidynError as error:
        use(error)
    problem: type[ValueError] = rd.InputError
    failure: type[ArithmeticError] = rd.SolveError
    use(problem, failure, compat, training.Trainer, odeint(field, torch.ones(2), torch.tensor([0.0, 1.0]), rtol=1e-6))
    use(odeint_adjoint, odeint_event, testing.check_operator)
    return again
