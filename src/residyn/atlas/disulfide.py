"""Disulfide bonds as shortcuts: one rank-one update of a Laplacian is a loop's entropy, and a skip's gain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from residyn.atlas.context import Context
from residyn.atlas.data import Split, mnist
from residyn.atlas.fit import seeded
from residyn.protein import find_disulfides, loop_entropy, read, sample, shortcut
from residyn.protein.entropy import PACE, R
from residyn.protein.samples import SAMPLES
from residyn.protein.shortcuts import SkipChain, measure, train
from residyn.results import Figure, Finding, Section, Series, Table

BOND = 3.8
"""Å; the virtual bond between neighbouring Cα."""
CAPTURE = (2 * math.pi * BOND**2 / (3 * PACE)) ** 1.5
"""Å³; the volume in which two ends count as met, that g = 2.0228 stands for (57.8)."""
LYSOZYME = ((6, 127), (30, 115), (64, 80), (76, 94))
"""Hen egg-white lysozyme: nested and crossing loops."""
LAYERS, WIDTH, GAIN = 24, 32, 0.7
LOOPS = (5, 10, 20, 40, 80)
SPANS = (2, 4, 8, 16, 32, 64)
SKIPS = (0, 2, 4, 8, 12, 16, 20, 24)
STARTS = 16
SHARED = 20
SHORT = 0.02
"""Relative: a loop of n stiff bonds is rarer than a Gaussian one by 3/(4n), which from n = 20 on bends the slope by 2 %."""

CODE = """\
from residyn.protein import find_disulfides, loop_entropy, read, sample, scan, shortcut

protein = read(sample("5pti"))                       # or your own PDB or mmCIF file
bonds = [(bond.a.number, bond.b.number) for bond in find_disulfides(protein)]
print(loop_entropy(bonds), sum(loop_entropy([bond]) for bond in bonds))   # together, and one by one
print(scan(protein)[0], shortcut(24, 4, 20))         # the best new bond; the same loop in a network
"""


@dataclass(frozen=True)
class _Chains:
    """Random chains: the share whose ends meet, by loop length, and the entropy of two loops that share half of each."""

    share: list[float]
    slope: float
    slope_error: float
    both: float
    both_error: float
    count: int


@dataclass(frozen=True)
class _Protein:
    """Bonds of one protein, their entropy together, by a dense determinant, and summed one by one; cal/mol/K."""

    name: str
    bonds: list[tuple[int, int]]
    joint: float
    dense: float
    alone: float


@dataclass(frozen=True)
class _Twin:
    """A network of plain layers with a skip of some span: how much of the gradient reaches the first layer."""

    span: int
    measured: float
    theory: float
    accuracy: float


def run(context: Context) -> Section:
    """Close loops in random chains, in real proteins and in networks, and hold all three to one function.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    with seeded(context.seed):
        context.advance(0.02, "random chains")
        chains = _chains(200_000 if context.fast else 2_000_000)
    context.advance(0.3, "determinants of real proteins")
    proteins = [_protein(*known) for known in _known()]
    resistances = [_relaxed(span) for span in SPANS]
    split = mnist((1000, 1000) if context.fast else (3000, 2000), context.seed)
    steps = 100 if context.fast else 300
    wanted = (0, 4, 12, 24) if context.fast else SKIPS
    twins = []
    for k, span in enumerate(wanted):
        context.advance(0.35 + 0.6 * k / len(wanted), f"a network with a skip over {span} layers")
        twins.append(_twin(span, split, steps, context.seed))
    findings = [
        _law(chains), _crossing(chains), *_determinant(proteins), _resistance(resistances), *_network(twins, len(split.y[1]))
    ]  # fmt: skip
    return Section(
        "disulfide",
        "Disulfide bonds as shortcuts",
        summary=_summary(chains, proteins, twins, findings),
        equation="x⁺ = x - η·L·x; a bond adds g·b·bᵀ to L, and ΔS = -(3/2)·R·ln det(I + g·Bᵀ·L⁺·B)",
        data="bonds of crambin, BPTI and ribonuclease A from their structures (PDB entries 1EJG, 5PTI, 5RSA, in the package), "
        f"and of hen egg-white lysozyme; {chains.count:,} random chains; {split.source}",
        code=CODE,
        findings=findings,
        figures=[_one_law(chains, proteins, resistances), *_figures(twins)],
        tables=[_table(proteins)],
    )


def _chains(count: int) -> _Chains:
    """Freely jointed chains: the density of closed loops, the last two bonds taken by their own law instead of by chance."""
    density, square, done = torch.zeros(len(LOOPS), dtype=torch.float64), torch.zeros(len(LOOPS), dtype=torch.float64), 0
    both, both_square = 0.0, 0.0
    while done < count:
        batch = min(20_000, count - done)
        path = _walk(batch, max(LOOPS) - 2)
        closing = torch.stack([_two_bonds(path[n - 3]) for n in LOOPS]).double()
        density, square = density + closing.sum(1), square + closing.square().sum(1)
        # three stretches of SHARED bonds, the middle one in both loops: the outer two must each undo it
        middle, before, after = (path[SHARED - 1], *(_walk(batch, SHARED - 2)[-1] for _ in range(2)))
        product = (_two_bonds(middle + before) * _two_bonds(middle + after)).double()
        both, both_square = both + float(product.sum()), both_square + float(product.square().sum())
        done += batch
    error = (square - density.square() / count).sqrt() / density  # of ln density
    slope, slope_error = _line([math.log(n) for n in LOOPS[2:]], density[2:].log(), error[2:])
    joint = R * math.log(both / count * CAPTURE**2)
    joint_error = R * math.sqrt(both_square - both**2 / count) / both
    return _Chains((density / count * CAPTURE).tolist(), R * slope, R * slope_error, joint, joint_error, count)


def _walk(chains: int, bonds: int) -> Tensor:
    """Positions after each bond, `(bonds, chains, 3)` Å."""
    steps = torch.nn.functional.normalize(torch.randn(bonds, chains, 3), dim=2)
    return BOND * steps.cumsum(0)


def _two_bonds(gap: Tensor) -> Tensor:
    """Density, 1/Å³, with which two bonds of random direction lead back over a gap: 1/(8π·l²·|gap|) within 2·l."""
    length = gap.norm(dim=1)
    return torch.where(length < 2 * BOND, 1 / (8 * math.pi * BOND**2 * length), 0.0)


def _line(x: list[float], y: Tensor, error: Tensor) -> tuple[float, float]:
    """Slope of the weighted least-squares line, and its standard error."""
    weight, at = error.square().reciprocal(), torch.tensor(x, dtype=torch.float64)
    middle = (weight * at).sum() / weight.sum()
    spread = (weight * (at - middle) ** 2).sum()
    return float((weight * (at - middle) * y).sum() / spread), float(spread.rsqrt())


def _known() -> list[tuple[str, list[tuple[int, int]], int]]:
    """Proteins with bonds: name, bonds as places along the chain, residues."""
    found = []
    for entry in ("1ejg", "5pti", "5rsa"):
        protein = read(sample(entry))
        place = {residue: int(at) for residue, at in zip(protein.residues, protein.position, strict=True)}
        bonds = [(place[b.a], place[b.b]) for b in find_disulfides(protein) if b.present and not b.symmetry]
        found.append((SAMPLES[entry], bonds, int(protein.position[-1]) + 1))
    return [*found, ("hen egg-white lysozyme", [(i - 1, j - 1) for i, j in LYSOZYME], 129)]


def _protein(name: str, bonds: list[tuple[int, int]], count: int) -> _Protein:
    joint = float(loop_entropy(bonds))
    alone = sum(float(loop_entropy([bond])) for bond in bonds)
    return _Protein(name, bonds, joint, _dense(bonds, count), alone)


def _dense(bonds: list[tuple[int, int]], count: int) -> float:
    """-(3/2)·R·ln of the determinant of the chain's Laplacian with the bonds over that without, node 0 grounded."""
    chain = 2 * np.eye(count) - np.eye(count, k=1) - np.eye(count, k=-1)
    chain[0, 0] = chain[-1, -1] = 1.0
    bonded = chain.copy()
    for i, j in bonds:
        bonded[[i, j], [i, j]] += PACE
        bonded[[i, j], [j, i]] -= PACE
    with_bonds, without = (np.linalg.slogdet(L[1:, 1:])[1] for L in (bonded, chain))
    return float(-1.5 * R * (with_bonds - without))


def _relaxed(span: int) -> float:
    """ln of the resistance between the ends of `span` layers without a skip over that with it, by residual diffusion to rest.

    A unit current enters at one end and leaves at the other; x⁺ = x + η·(b - L·x) until nothing moves.
    """
    drop = []
    for skip in (0.0, PACE):
        L = 2 * np.eye(span + 1) - np.eye(span + 1, k=1) - np.eye(span + 1, k=-1)
        L[0, 0] = L[-1, -1] = 1.0 + skip
        L[0, -1] -= skip
        L[-1, 0] -= skip
        current = np.zeros(span + 1)
        current[0], current[-1] = 1.0, -1.0
        step = 1.9 / float(np.linalg.eigvalsh(L)[-1])
        x, moved = np.zeros(span + 1), math.inf
        while moved > 1e-12:
            new = x + step * (current - L @ x)
            moved, x = float(np.abs(new - x).max()), new
        drop.append(x[0] - x[-1])
    return math.log(drop[0] / drop[1])


def _twin(span: int, split: Split, steps: int, seed: int) -> _Twin:
    """Gradient at the first layer over that at the last, before training over four starts; digits right after training."""
    start = (LAYERS - span) // 2
    skips = [(start, start + span)] if span else []
    x, y = split.x[0][:300], split.y[0][:300]
    own = np.mean([math.log(measure(_net(skips, seed + k), x, y).preserved) for k in range(STARTS)])
    plain = np.mean([math.log(measure(_net([], seed + k), x, y).preserved) for k in range(STARTS)])
    factor = math.exp(plain / (LAYERS - 1))  # what one layer leaves of a gradient, from the plain twin
    lengths = shortcut(LAYERS, *skips[0]).lengths if skips else {LAYERS: 1}
    # gradients along random paths add in quadrature; a skip is a step that costs nothing, nor does the layer compared with
    square = sum(count * factor ** (2 * (length - (length < LAYERS) - 1)) for length, count in lengths.items())
    net = _net(skips, seed)
    with seeded(seed):
        train(net, split.x[0], split.y[0], steps=steps)
    return _Twin(span, math.exp(own), math.sqrt(square), measure(net, split.x[1], split.y[1]).accuracy)


def _net(skips: list[tuple[int, int]], seed: int) -> SkipChain:
    """The same weights whatever the skips."""
    with seeded(seed):
        return SkipChain(LAYERS, WIDTH, 784, 10, skips, gain=GAIN)


def _law(chains: _Chains) -> Finding:
    theory, off = -1.5 * R, abs(chains.slope + 1.5 * R)
    return Finding(
        "disulfide.law",
        f"Entropy that {chains.count:,} random chains lose when a loop e times as long is closed",
        "pass" if off <= 3 * chains.slope_error + SHORT * 1.5 * R else "fail",
        chains.slope,
        theory,
        "cal/mol/K",
        why=f"Slope of R·ln(density of closed loops) over ln n, n from {LOOPS[2]} to {LOOPS[-1]}; the empirical law, "
        f"-2.1 - (3/2)·R·ln n, has the same. Passes within three standard errors ({chains.slope_error:.3f}) and {SHORT:.0%}, "
        "by which a chain of 20 stiff bonds still differs from a Gaussian one.",
    )


def _crossing(chains: _Chains) -> Finding:
    loops = [(0, 2 * SHARED), (SHARED, 3 * SHARED)]
    theory = float(loop_entropy(loops, limit="hard"))
    alone = sum(float(loop_entropy([loop], limit="hard")) for loop in loops)
    allowed = 3 * chains.both_error + 3 * R * 0.75 / SHARED
    return Finding(
        "disulfide.crossing",
        f"Entropy of closing two loops of {2 * SHARED} bonds that share {SHARED}, in random chains",
        "pass" if abs(chains.both - theory) <= allowed < abs(chains.both - alone) else "fail",
        chains.both,
        theory,
        "cal/mol/K",
        why=f"The sum over bonds would say {alone:.2f}. Passes if chains agree with the determinant within {allowed:.2f} "
        f"(three standard errors, and 3/(4n) for each of three stretches of n = {SHARED} stiff bonds), and not with the sum.",
    )


def _determinant(proteins: list[_Protein]) -> list[Finding]:
    gap = max(abs(p.joint - p.dense) for p in proteins)
    least = min(proteins, key=lambda p: abs(p.alone - p.joint))
    return [
        Finding(
            "disulfide.determinant",
            "Largest gap between the loop formula and the determinant of the whole Laplacian, over the bonds of four proteins",
            "pass" if gap <= 1e-10 else "fail",
            gap,
            0.0,
            "cal/mol/K",
            why="det(I + g·M) of as many rows as bonds is the ratio of two determinants of as many rows as residues; passes at "
            "1e-10, a thousand roundings of their logarithms.",
        ),
        Finding(
            "disulfide.overcount",
            f"Cost of the bonds of {least.name} together, where the sum over bonds over-counts least",
            "pass" if least.alone < least.joint else "fail",
            least.joint,
            f"above {least.alone:.2f}, the sum",
            "cal/mol/K",
            why="Loops that nest or cross share a part of the chain, which the sum counts in each of them.",
        ),
    ]


def _resistance(found: list[float]) -> Finding:
    off = [abs(value - math.log1p(PACE * span)) for value, span in zip(found, SPANS, strict=True)]
    return Finding(
        "disulfide.resistance",
        f"ln of the factor by which a skip over {SPANS[-1]} layers shortens the way between its ends, by diffusion to rest",
        "pass" if max(off) <= 1e-6 else "fail",
        found[-1],
        float(loop_entropy([(0, SPANS[-1])])) / (-1.5 * R),
        why="Resistance without the skip over resistance with it is 1 + g·ℓ, the number whose logarithm is a loop's entropy. "
        f"Passes within 1e-6 for all of {', '.join(map(str, SPANS))} layers; the diffusion stops at moves of 1e-12.",
    )


def _network(twins: list[_Twin], count: int) -> list[Finding]:
    off = max(twins, key=lambda t: abs(math.log(t.measured / t.theory)))
    allowed = 3 * math.sqrt(LAYERS / 4 / (2 * WIDTH)) / math.sqrt(STARTS)  # ln of a norm through W has variance 1/(2·width)
    plain, longest = twins[0], twins[-1]
    spread = math.sqrt(sum(t.accuracy * (1 - t.accuracy) / count for t in (plain, longest)))
    return [
        Finding(
            "disulfide.twin",
            f"Gradient at the first of {LAYERS} layers over the last's, with the skip where theory does worst: over {off.span}",
            "pass" if abs(math.log(off.measured / off.theory)) <= allowed else "warn",
            off.measured,
            off.theory,
            why="Theory: a path from loss to input loses what the plain twin's layers on it lose, and paths add in quadrature. "
            f"What {WIDTH} units let through varies from layer to layer: passes within a factor of {math.exp(allowed):.2f}, "
            f"three standard deviations of what half of the layers lose, over {STARTS} starts.",
        ),
        Finding(
            "disulfide.trained",
            f"Digits right after the same short training with a skip over all {longest.span} layers",
            "pass" if longest.accuracy - plain.accuracy > 3 * spread else "fail",
            longest.accuracy,
            f"above {plain.accuracy:.3f}, without",
            why="A gradient that does not arrive cannot train; passes if the difference exceeds three standard errors.",
        ),
    ]


def _summary(chains: _Chains, proteins: list[_Protein], twins: list[_Twin], findings: list[Finding]) -> str:
    holds = all(f.verdict == "pass" for f in findings)
    last = proteins[-1]
    return (
        f"{'The claim holds' if holds else 'The claim holds in part'}: closing a loop costs {-chains.slope:.2f} cal/mol/K for "
        f"each factor e in its length, measured in random chains (law: {1.5 * R:.2f}); the bonds of {last.name} cost "
        f"{-last.joint:.1f} cal/mol/K together, where their sum says {-last.alone:.1f}; and the same function of the same "
        f"Laplacian says how far a skip shortens the way through a network. With one over {twins[-1].span} of {LAYERS} layers "
        f"the gradient arrives {twins[-1].measured / twins[0].measured:,.0f} times as strong, and {twins[-1].accuracy:.0%} of "
        f"digits are right instead of {twins[0].accuracy:.0%}."
    )


def _one_law(chains: _Chains, proteins: list[_Protein], resistances: list[float]) -> Figure:
    """Chains, proteins and networks on the one curve."""
    x = [1.2 * 100 ** (k / 60) for k in range(61)]
    loops = [(abs(i - j), p) for p in proteins for i, j in p.bonds]
    singles = [_dense([(0, n)], n + 1) / (-1.5 * R) for n, _ in loops]
    return Figure(
        "One law: random chains, proteins, networks",
        "length of the loop ℓ: residues, or layers under the skip",
        "−ΔS/(3R/2) = ln(1 + g·ℓ)",
        [
            Series("ln(1 + g·ℓ), the bond as a spring", x, [math.log1p(PACE * v) for v in x]),
            Series("(2.1 + (3/2)·R·ln ℓ)/(3R/2), the empirical law", x, [(2.1 + 1.5 * R * math.log(v)) / (1.5 * R) for v in x]),
            Series(
                "random chains whose ends meet", list(map(float, LOOPS)), [-math.log(p) / 1.5 for p in chains.share], "points"
            ),
            Series("bonds of four proteins, dense determinant", [float(n) for n, _ in loops], singles, "points"),
            Series("skip in a network, diffusion to rest", list(map(float, SPANS)), resistances, "points"),
        ],
        xscale="log",
        caption="Three measurements that know nothing of each other lie on one curve: how often the ends of random chains meet "
        "(on the hard limit), the determinant of a protein's Laplacian with a bond over that without, and the resistance of "
        "layers without a skip over that with it.",
    )


def _figures(twins: list[_Twin]) -> list[Figure]:
    x = [float(t.span) for t in twins]
    return [
        Figure(
            "What a skip lets through",
            "layers that the skip spans",
            "gradient, first layer over last",
            [
                Series("paths of the plain twin's layers", x, [t.theory for t in twins]),
                Series(f"measured, {STARTS} starts", x, [t.measured for t in twins], "points"),
            ],
            yscale="log",
        ),
        Figure(
            "And what it makes trainable",
            "layers that the skip spans",
            "share of digits right",
            [Series("test digits", x, [t.accuracy for t in twins], "points")],
        ),
    ]


def _table(proteins: list[_Protein]) -> Table:
    rows: list[list[float | str | None]] = [
        [p.name, float(len(p.bonds)), p.joint, p.alone, p.joint - p.alone, -0.29815 * p.joint] for p in proteins
    ]
    heads = ["protein", "bonds", "ΔS together", "ΔS summed", "over-counted", "−T·ΔS together, kcal/mol"]
    return Table("Bonds together and one by one (cal/mol/K)", heads, rows)
