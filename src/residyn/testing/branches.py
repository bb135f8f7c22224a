"""The laws of a branch."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from residyn.analysis.boundary import Branch, as_branch, as_state
from residyn.analysis.jacobian import Jacobian
from residyn.analysis.undisturbed import undisturbed
from residyn.branch import Generator, Gradient, Linear
from residyn.errors import InputError
from residyn.results import Finding
from residyn.testing.known import check_generator, check_gradient, check_linear
from residyn.testing.report import ConformanceError, Report


def check_step(branch: Branch | Generator, x: Tensor, *, t: float = 0.0) -> list[Finding]:
    """Check that a branch keeps the laws of a residual step x⁺ = x + h·F(x), and those of its kind.

    Every branch: the form of x is kept, x is not written to, equal input gives equal output, forward and reverse derivative
    are each other's transpose and agree with finite differences. A `Linear` branch: additivity, the adjoint, eigenvalues,
    norm bound and `normal` flag. A `Gradient`: the symmetric Jacobian, F = -∇φ, and that `prox` minimises. A `Generator`:
    F = A·x and the `skew` flag. How samples of a batch act on each other is reported, not judged.

    Args:
        branch: F(x), or a `Generator` field F(t, x).
        x: A state to check it at, `(B, …)`; in double precision the laws bite hardest.
        t: Time at which a `Generator` is checked.

    Returns:
        One finding a law kept, with what was measured.

    Raises:
        ConformanceError: At the first law that is broken, with its name, the value and the tolerance.
        InputError: If `branch` is not a branch, or x not a state.

    >>> len(check_step(torch.tanh, torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3))) > 5
    True
    """
    field = branch if isinstance(branch, Generator) else None
    known = field if field is not None else as_branch(branch)
    function: Branch = functools.partial(field, t) if field is not None else as_branch(branch)
    x = as_state(x)
    report = Report("step", getattr(known, "__name__", type(known).__name__))
    _check_form(report, function, x)
    _note_coupling(report, function, x)
    try:
        # Hidden in a lambda: what a branch knows of itself is judged below, its derivative by what torch makes of it.
        jacobian = Jacobian(lambda z: function(z), x)  # noqa: PLW0108
        _check_derivative(report, function, jacobian)
    except InputError as error:
        raise ConformanceError(f"{report.name} breaks the law `derivative` (F is differentiable at x): {error}") from error
    if isinstance(known, Linear):
        check_linear(report, known, x)
    elif isinstance(known, Gradient):
        check_gradient(report, known, x)
    elif isinstance(known, Generator):
        check_generator(report, known, t, x)
    return report.findings


def _check_form(report: Report, branch: Branch, x: Tensor) -> None:
    start = x.clone()
    with undisturbed(x.device), torch.no_grad():
        y = branch(x)
        again = branch(start.clone())
    report.require("tensor", "F(x) is a tensor", isinstance(y, Tensor), type(y).__name__, "return one tensor")
    for name in ("shape", "dtype", "device"):
        got, asked = getattr(y, name), getattr(x, name)
        report.require(
            name, f"F(x) has the {name} of x", got == asked, f"{_text(got)} for {_text(asked)}", f"convert to x's {name} inside"
        )
    report.require("input", "F leaves x as it is", torch.equal(x, start), "another x", "replace in-place operations on x")
    finite = bool(torch.isfinite(y).all())
    report.require("finite", "F(x) is finite", finite, "nan or inf", "look at the parameters and the range of x")
    # The order of a parallel sum may differ between runs, by rounding; memory and fresh random numbers differ by more.
    scale = float(y.abs().max()) or 1.0
    report.law(
        "repeatable", "equal x gives equal F(x)", float((y - again).abs().max()) / scale, 1e3 * _eps(x),
        "keep no state between calls and draw no random numbers: call .eval()",
    )  # fmt: skip


def _note_coupling(report: Report, branch: Branch, x: Tensor) -> None:
    """By how much the last samples move when the first does; batch statistics and graphs couple them, and that is no fault."""
    if x.ndim < 2 or x.shape[0] < 2:
        return
    moved = x.clone()
    moved[0] = moved[0] + 0.1 * (1 + moved[0].abs())
    with undisturbed(x.device), torch.no_grad():
        gap = branch(moved)[1:] - branch(x)[1:]
    report.note("coupling", "change of the other samples when the first changes", float(gap.abs().max()))


def _check_derivative(report: Report, branch: Branch, jacobian: Jacobian) -> None:
    x, eps = jacobian.x, jacobian.eps
    v, w = jacobian.random(1), jacobian.random(2)
    forward, reverse = jacobian.apply(v), jacobian.adjoint(w)
    size = float(forward.norm() + reverse.norm()) or 1.0
    # Each product rounds like some hundred operations; a mistake shows at the size of the product itself.
    report.law(
        "transpose", "<J·v, w> = <v, Jᵀ·w>", abs(float(forward @ w - v @ reverse)) / size, 1e3 * eps,
        "correct the `jvp` or `backward` of an autograd.Function",
    )  # fmt: skip
    # Central differences with step δ = eps^(1/3): truncation δ² and rounding eps/δ are both eps^(2/3). A ReLU that changes
    # sign within δ errs by O(δ), one unit in 1/δ; ten times δ allows for both.
    delta = eps ** (1 / 3) * (1.0 + float(x.abs().max()))
    direction = _unit(jacobian, v)
    with undisturbed(x.device), torch.no_grad():
        difference = (branch(x + delta * direction) - branch(x - delta * direction)) / (2 * delta)
    gap = float(torch.linalg.vector_norm(difference - _unit(jacobian, forward)))
    report.law(
        "gradient", "J·v is the limit of finite differences", gap / size, 10 * eps ** (1 / 3),
        "look for detach() and wrong backwards; at a kink of F choose another x",
    )  # fmt: skip


def _unit(jacobian: Jacobian, vector: Tensor) -> Tensor:
    """A flat real vector in the shape and dtype of x."""
    x = jacobian.x
    if x.is_complex():
        return torch.view_as_complex(vector.reshape(*x.shape, 2).contiguous()).to(x.dtype)
    return vector.reshape(x.shape).to(x.dtype)


def _eps(x: Tensor) -> float:
    return float(torch.finfo(x.dtype).eps)


def _text(value: object) -> str:
    return str(tuple(value)) if isinstance(value, torch.Size) else str(value)
