"""The codes of findings: what each says, when it is raised, why it matters and what to do. Nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """One kind of finding.

    Args:
        id: `"RD1xx"`.
        title: What it says.
        rule: When it is raised.
        why: Why it matters.
        fix: What to do about it.
        reference: Where it was shown.
    """

    id: str
    title: str
    rule: str
    why: str
    fix: str
    reference: str = ""


_ALL = (
    Code(
        "RD100",
        "nothing was found to be wrong",
        "No other finding is a warning or a failure.",
        "The blocks pass every check that could be run on this batch.",
        "",
    ),
    Code(
        "RD101",
        "the stream explodes",
        "The root mean square of a block's output exceeds that of the first block's input a thousandfold; a millionfold fails.",
        "Sums of blocks grow without a bound: late branches hardly count, and half precision overflows.",
        "Normalise before each branch, or start branches small: `audit.retrofit.skip_init()`, `.scale(…)`.",
        "De & Smith (2020), arXiv:2002.10444",
    ),
    Code(
        "RD102",
        "the stream vanishes",
        "The root mean square of a block's output falls below a thousandth of that of the first block's input.",
        "Branches cancel the identity path: what the first layers found does not arrive.",
        "Look for a branch that has learned -x, a scaled skip below 1, or a normalisation with tiny weights.",
    ),
    Code(
        "RD103",
        "the gradient explodes towards the input",
        "The gradient at the first block exceeds that at the last a thousandfold; a millionfold fails.",
        "Steps that suit the last blocks are far too long for the first: training diverges.",
        "Smaller branches (`audit.retrofit.rezero()`), pre-norm, or a lower learning rate with clipping.",
        "Balduzzi et al. (2017), arXiv:1702.08591",
    ),
    Code(
        "RD104",
        "the gradient vanishes towards the input",
        "The gradient at the first block is below a thousandth of that at the last; a millionth fails.",
        "The first blocks learn a thousand times slower than the last: the depth is not used.",
        "Keep the identity path clean: no norm or activation after the sum (pre-norm), or start branches at 0 "
        "(`audit.retrofit.rezero()`).",
        "He, Zhang, Ren & Sun (2016), arXiv:1603.05027; Xiong et al. (2020), arXiv:2002.04745",
    ),
    Code(
        "RD105",
        "dead blocks",
        "The branch is below a thousandth of its skip, ‖F(x)‖/‖x‖ < 0.001.",
        "The block computes and changes nothing.",
        "Take it out (`audit.retrofit.drop(…)`, `.prune()`); in a new model, see that a scale that starts at 0 is trained.",
        "Veit, Wilber & Belongie (2016), arXiv:1605.06431",
    ),
    Code(
        "RD106",
        "redundant blocks",
        "Leaving the block out costs at most a thousandth of the metric; without targets, changes the output by less than 1 %.",
        "The model does as well without: its time and parameters are spent for nothing on this batch.",
        "`audit.retrofit.prune(loss=0.01)` takes out as many as a metric loss of 1 % allows, together and measured.",
        "Men et al. (2024), arXiv:2403.03853",
    ),
    Code(
        "RD107",
        "the skip is drowned",
        "The branch is more than ten times its skip, ‖F(x)‖/‖x‖ > 10.",
        "The sum is the branch: there is no identity path here, for signal or gradient.",
        "Scale the branch (`audit.retrofit.scale(…)`), or normalise what enters it.",
    ),
    Code(
        "RD108",
        "a step past the stability limit",
        "The leading eigenvalues of ∂F/∂x point inwards, and the largest stable step is below the 1 that is taken.",
        "An eigenvalue below -2 makes x + F(x) overshoot: perturbations alternate and grow along it.",
        "Scale the branch to the limit (`audit.retrofit.scale({block: h})`), or bound it (`audit.retrofit.spectral()`).",
        "Haber & Ruthotto (2017), arXiv:1705.03341",
    ),
    Code(
        "RD109",
        "the stack expands",
        "The product of the largest |1 + λ| over all blocks exceeds a million.",
        "Small changes of the input may grow through depth: attacks are easy and half precision is noisy.",
        "Bound the branches (`audit.retrofit.spectral()`), or train with weight decay on them.",
        "Behrmann et al. (2019), arXiv:1811.00995",
    ),
    Code(
        "RD110",
        "uncalibrated outputs",
        "The calibration error is above 5 %, and more than chance would give with this many samples.",
        "The probabilities are not to be believed: decisions by threshold or expected cost are wrong.",
        "Shrink the logits: `residyn calibrate` on held-out logits, or `residyn.calibrate.Shrink().fit(logits, labels)`.",
        "Guo, Pleiss, Sun & Weinberger (2017), arXiv:1706.04599",
    ),
    Code(
        "RD111",
        "post-norm at depth",
        "Twelve or more sums are normalised before the next block; a warning where the gradient is off by ten besides.",
        "A norm on the identity path scales the gradient at every block: deep models need warm-up, or fail to train.",
        "Pre-norm, or DeepNorm's scaled skips, for a new model; a trained one may stay as it is.",
        "Xiong et al. (2020), arXiv:2002.04745; Wang et al. (2022), arXiv:2203.00555",
    ),
    Code(
        "RD112",
        "the identity path is broken",
        "More than half of four or more blocks have a projection as skip.",
        "What passes a projection at every block is a plain network beside another: gradients shrink or grow by its norms.",
        "Project only where the shape changes.",
        "He, Zhang, Ren & Sun (2016), arXiv:1603.05027, section 3",
    ),
    Code(
        "RD113",
        "no gradient arrives",
        "The gradient at a block's output is exactly 0, though others have one.",
        "These blocks cannot learn: their output does not reach the loss, or a saturated function is in the way.",
        "Look for a detach(), a mask, a ReLU that is off everywhere, or a branch of the model that the loss does not use.",
    ),
    Code(
        "RD114",
        "harmful blocks",
        "Without the block the metric is better by more than 1 % of itself and by more than one sample.",
        "The block was trained for other data, or over-fitted.",
        "Look at `with audit.patch(drop=[…])` on held-out data; then `audit.retrofit.drop(…)`, or train it again.",
    ),
    Code(
        "RD115",
        "constant branches",
        "The branch is there, but does not depend on its input: ‖∂F/∂x‖₂ is below a thousandth of ‖F‖/‖x‖.",
        "The block adds a constant, which the next bias could do.",
        "Look for saturated activations or weights that have decayed to 0; take it out and train the bias.",
    ),
    Code(
        "RD190",
        "something may not have been seen",
        "Tracers disagree, tensors left torch, parts are quantised, or the budget was spent: the report's text says which.",
        "A block that was not seen has no number here.",
        "Hand in the model in floating point, in evaluation mode, and keep its branches in torch.",
    ),
    Code(
        "RD191",
        "no residual block was found",
        "No sum of a tensor and of what was computed from it was seen.",
        "The model is plain, joins by concatenation, or hides its sums.",
        "If it should have blocks, look at the sums that were judged to be none (`audit.others`) and at the warnings.",
    ),
)
CODES: dict[str, Code] = {code.id: code for code in _ALL}
