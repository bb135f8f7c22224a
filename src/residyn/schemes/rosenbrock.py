"""Rosenbrock schemes: the linearisation is part of the formula, so a stiff step costs linear solves and no iteration."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.results import OutcomeKind
from residyn.roots.linear import DENSE_LIMIT, DenseSolver, jacobian, rows_of, widened
from residyn.schemes.base import Field, Rational, Scheme, Step, Time
from residyn.schemes.explicit import combine, step_size
from residyn.schemes.linearised import Transformed
from residyn.schemes.problem import Rhs, coupled, evaluate_once
from residyn.state import inside_transform


@dataclass(frozen=True)
class RosenbrockTableau:
    """Coefficients in the form that needs no product with the Jacobian (Hairer & Wanner 1996, IV.7, eq. 7.25).

    Args:
        gamma: γ.
        c: Nodes.
        a: Row i weighs the earlier u_j in the argument of f.
        coupling: Row i weighs the earlier u_j/h on the right-hand side.
        d: Weights of h·∂f/∂t.
        b: Weights of u_j in the result.
        error: Weights of u_j in the error estimate.
        dense: Row m weighs u_j in the m-th coefficient of the dense output.
    """

    gamma: float
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    coupling: tuple[tuple[float, ...], ...]
    d: tuple[float, ...]
    b: tuple[float, ...]
    error: tuple[float, ...]
    dense: tuple[tuple[float, ...], ...]


class Rosenbrock(Scheme):
    """(I/(hγ) - J)·u_i = f(t + c_i·h, x + Σ_j a_ij·u_j) + Σ_j (c_ij/h)·u_j + h·d_i·∂f/∂t, then x⁺ = x + Σ b_i·u_i.

    J = ∂f/∂x at the start of the step, written out sample by sample. Gradients are exact: they pass through J, so f must be
    twice differentiable.

    Raises:
        InputError: On use, with more than 256 unknowns a sample (`Kvaerno5` solves those by Newton–Krylov).

    Reference:
        Hairer & Wanner (1996), "Solving Ordinary Differential Equations II", IV.7, doi:10.1007/978-3-642-05221-7.
    """

    tableau: ClassVar[RosenbrockTableau]
    real_state: ClassVar[bool] = True
    failure: ClassVar[OutcomeKind] = "singular"

    def step(self, f: Field, t0: Time, t1: Time, x: Tensor, state: Any) -> Step:
        """Take one step; `state` holds the linearisation where a step is only tried shorter."""
        tableau = self.tableau
        h = step_size(t0, t1, x)
        still = None
        if isinstance(h, Tensor):  # samples that have arrived take steps of length zero: their u are zero, whatever h
            still = h == 0
            h = torch.where(still, torch.ones_like(h), h)
        if not isinstance(state, _Linearised) or not state.is_at(x):
            state = _TransformedLinearised(f, t0, x) if inside_transform() else _Linearised(f, t0, x)
        here = state
        scale = h * tableau.gamma
        shift = 1.0 / scale if isinstance(scale, float) else (1.0 / scale).reshape(-1, 1, 1)
        eye = torch.eye(here.matrix.shape[-1], dtype=x.dtype, device=x.device)
        system = shift * eye - here.matrix
        if still is not None:
            system = torch.where(still.reshape(-1, 1, 1), eye, system)
        lasting = here.tracked and not inside_transform()  # vmap of lu_solve's own derivative mixes the lanes up (torch 2.13)
        solve = _DifferentiableSolver(system, here.coupled) if lasting else DenseSolver(system, here.coupled)
        us: list[Tensor] = []
        inverse_h = 1.0 / h
        for i, c in enumerate(tableau.c):
            if i == 0:
                right = here.slope
            else:
                t = t1 if c == 1.0 else t0 + c * (t1 - t0)
                right = combine(f(t, combine(x, 1.0, tableau.a[i], us)), inverse_h, tableau.coupling[i], us)
            if tableau.d[i] != 0.0 and here.drift is not None:
                right = right + (h * tableau.d[i]) * here.drift
            us.append(solve(right if still is None else torch.where(still, 0.0, right)))
        x1 = combine(x, 1.0, tableau.b, us)
        dense = functools.partial(_dense, tableau, x, x1, us)
        failed = solve.singular.reshape(-1, *[1] * (x.ndim - 1)) if x.ndim > 1 and not here.coupled else solve.singular.any()
        return Step(x1, lambda: combine(None, 1.0, tableau.error, [u.detach() for u in us]), dense, here, failed)

    def merge(self, accept: Tensor, new: Any, old: Any) -> Any:
        """Nothing: the linearisation belongs to one state."""
        return None

    def stability(self, z: Tensor) -> Tensor:
        """R(z)."""
        return self.rational()(z)

    def rational(self) -> Rational:
        """R(z) = P(z)/(1 - γz)^s, P from R's value at s+1 points."""
        return _stability(type(self).tableau)


class _Linearised:
    """f, ∂f/∂x and ∂f/∂t at the start of a step."""

    def __init__(self, f: Field, t: Time, x: Tensor) -> None:
        self.x = x
        # with a leaf of its own everything would want a gradient; whether anything does is f's to say
        track = torch.is_grad_enabled() and (x.requires_grad or f(t, x).requires_grad)
        self.tracked = track
        with torch.enable_grad():
            leaf = x if track and x.requires_grad else x.detach().requires_grad_()
            time = _time_leaf(f, t, x)
            slope = _evaluate(f, t if time is None else time, leaf)
        self.coupled = coupled(f, t, slope, leaf)
        n = rows_of(x, self.coupled).shape[1]
        if n > DENSE_LIMIT:
            raise InputError(_too_large(n))
        with torch.enable_grad():
            self.matrix = jacobian(slope, leaf, self.coupled, create_graph=track)
            self.drift = None if time is None else _time_derivative(f, slope, leaf, time, track)
        self.slope = slope if track else slope.detach()

    def is_at(self, x: Tensor) -> bool:
        """Whether this is the linearisation at x."""
        return self.x is x


class _TransformedLinearised(_Linearised):
    """As `_Linearised`, inside a transform of torch.func or with dual numbers."""

    def __init__(self, f: Field, t: Time, x: Tensor) -> None:
        here = Transformed(f, t, x)
        if here.size > DENSE_LIMIT:
            raise InputError(_too_large(here.size))
        self.x, self.tracked, self.coupled = x, True, here.coupled
        self.slope, self.matrix, self.drift = here.image, here.matrix(), None
        if not (isinstance(f, Rhs) and f.timeless):
            # f may read the time as a number, which no derivative sees
            time = t if isinstance(t, Tensor) else torch.scalar_tensor(t, dtype=torch.float64, device=x.device)
            real = x.dtype.to_real() if x.is_complex() else x.dtype
            shift = torch.finfo(real).eps ** (1 / 3) * (1.0 + time.detach().abs())
            ahead, behind = (f(time.detach() + sign * shift, x) for sign in (1, -1))
            self.drift = (ahead - behind) / (2 * shift).to(real)


def _too_large(n: int) -> str:
    return (
        f"`x0` must have at most {DENSE_LIMIT} unknowns a sample for Rodas5P, which writes out Jacobians, got {n}; "
        "use Kvaerno5(), which does not"
    )


def _evaluate(f: Field, t: Time, x: Tensor) -> Tensor:
    """f(t, x) with a time that wants a gradient; f may read it as a number, which torch would warn about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True to a scalar")
        return evaluate_once(f, t, x, "Rodas5P")


def _time_leaf(f: Field, t: Time, x: Tensor) -> Tensor | None:
    """The time as something to differentiate by; `None` where f does not look at it."""
    if isinstance(f, Rhs) and f.timeless:
        return None
    time = t if isinstance(t, Tensor) else torch.scalar_tensor(t, dtype=x.dtype, device=x.device)
    leaf = time.detach().requires_grad_()
    leaf.made_by_the_step = True  # type: ignore[attr-defined]
    return leaf


def _time_derivative(f: Field, slope: Tensor, leaf: Tensor, time: Tensor, track: bool) -> Tensor | None:
    """∂f/∂t for all components at once: the pullback of a dummy weight is linear in it, and is differentiated by it.

    Where autograd sees no time in f, f may still have one (`math.cos(t)`, a table looked up by number), and a step without
    ∂f/∂t would lose its order in silence: a difference quotient says, and serves if so.
    """
    dummy = torch.zeros_like(slope, requires_grad=True)
    pulled = torch.autograd.grad(slope, time, dummy, create_graph=True, allow_unused=True)[0] if slope.requires_grad else None
    if pulled is not None and pulled.requires_grad:
        return torch.autograd.grad(pulled.sum(), dummy, create_graph=track, retain_graph=True, allow_unused=True)[0]
    shift = math.sqrt(torch.finfo(slope.dtype).eps) * (1.0 + time.detach().abs())
    with torch.set_grad_enabled(track):
        drift = (f(time.detach() + shift, leaf) - slope) / shift.to(slope.real.dtype if slope.is_complex() else slope.dtype)
    if bool((drift != 0).any()):
        return drift
    if isinstance(f, Rhs) and not bool((f(time.detach() * 1.37 + 1.0, leaf) != slope).any()):
        f.timeless = True  # three times, one value: f does not look at the time
    return None


class _DifferentiableSolver:
    """As `DenseSolver`, with a gradient to the matrix."""

    def __init__(self, matrix: Tensor, coupled: bool) -> None:
        self.coupled = coupled
        self.factors, self.pivots, info = torch.linalg.lu_factor_ex(widened(matrix))
        self.singular = info != 0

    def __call__(self, r: Tensor) -> Tensor:
        rows = widened(rows_of(r, self.coupled).unsqueeze(-1))
        return torch.linalg.lu_solve(self.factors, self.pivots, rows).reshape(r.shape).to(r.dtype)


def _dense(tableau: RosenbrockTableau, x0: Tensor, x1: Tensor, us: list[Tensor], theta: Time) -> Tensor:
    """x(θ) = (1-θ)·x0 + θ·(x1 + (1-θ)·(D₁ + θ·(D₂ + θ·D₃)))."""
    inner: Tensor | None = None
    for row in reversed(tableau.dense):
        coefficient = combine(None, 1.0, row, us)
        inner = coefficient if inner is None else coefficient + theta * inner
    assert inner is not None  # every tableau has a dense output
    return (1 - theta) * x0 + theta * (x1 + (1 - theta) * inner)


@functools.lru_cache(maxsize=8)
def _stability(tableau: RosenbrockTableau) -> Rational:
    """P and (1 - γz)^s, fitted at roots of unity; R by the scheme's own formula on x' = λx."""
    s = len(tableau.c)
    gamma = tableau.gamma
    points = np.exp(2j * np.pi * np.arange(s + 1) / (s + 1)) / gamma * 0.5
    values = []
    for z in points:
        us: list[complex] = []
        for i in range(s):
            inside = 1.0 + sum(w * u for w, u in zip(tableau.a[i], us, strict=False))
            right = z * inside + sum(w * u for w, u in zip(tableau.coupling[i], us, strict=False))
            us.append(right / (1.0 / gamma - z))
        values.append(1.0 + sum(w * u for w, u in zip(tableau.b, us, strict=True)))
    denominator = np.array([math.comb(s, k) * (-gamma) ** k for k in range(s + 1)])
    target = np.array(values) * np.polyval(denominator[::-1], points)
    numerator = np.linalg.solve(np.vander(points, s + 1, increasing=True), target).real
    numerator[np.abs(numerator) < 1e-12] = 0.0
    numerator[0] = 1.0  # consistency, exactly
    return Rational(tuple(map(float, numerator)), tuple(map(float, denominator)))


_A6 = (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946)


class Rodas5P(Rosenbrock):
    """Steinebach's 5(4): eight stages, A- and L-stable, stiffly accurate, for non-autonomous problems too.

    Reference:
        Steinebach (2023), "Construction of Rosenbrock–Wanner method Rodas5P", doi:10.1007/s10543-023-00967-x.
    """

    order = 5
    error_order = 4
    tableau = RosenbrockTableau(
        gamma=0.21193756319429014,
        c=(0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0),
        a=(
            (),
            (3.0,),
            (2.849394379747939, 0.45842242204463923),
            (-6.954028509809101, 2.489845061869568, -10.358996098473584),
            (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
            _A6,
            (*_A6, 1.0),
            (*_A6, 1.0, 1.0),
        ),
        coupling=(
            (),
            (-14.155112264123755,),
            (-17.97296035885952, -2.859693295451294),
            (147.12150275711716, -1.41221402718213, 71.68940251302358),
            (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
            (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
            (30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783, -19.097331116725623,
             -28.087943162872662),
            (37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047, -40.06618937091002,
             -54.66780262877968, -9.48861652309627),
        ),
        d=(0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069,
           0.0, 0.0, 0.0),
        b=(*_A6, 1.0, 1.0, 1.0),
        error=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        dense=(
            (25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204, 0.524948541321073,
             1.1241088310450404, 0.4272876194431874, -0.17202221070155493),
            (-9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796, 20.176138334709044,
             15.98066361424651, -6.789040303419874, -6.710236069923372),
            (11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643, -52.072871366152654,
             -59.78993625266729, -0.15582684282751913, 4.883087185713722),
        ),
    )  # fmt: skip
