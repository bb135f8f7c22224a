import math

import pytest
import torch
from torch import nn

from residyn.branch import Dense, Generator, Gradient, Linear, Spectral, autonomous
from residyn.errors import InputError
from residyn.results import Estimate
from residyn.step import Residual
from residyn.testing import ConformanceError, check_step

DOUBLE = torch.float64


def _x(*shape, dtype=DOUBLE, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _normal_matrix(n=5, dtype=DOUBLE):
    q, _ = torch.linalg.qr(_x(n, n, dtype=dtype))
    return q @ torch.diag(torch.linspace(-2, 1, n, dtype=DOUBLE).to(dtype)) @ q.mH


class _Precession(Generator):
    skew = True

    def matrix(self, t, x):
        h = torch.diag_embed((x.abs() ** 2).flatten(-2)) + torch.ones(x.shape[-2], x.shape[-2])
        return -1j * h.to(x.dtype)


def _circulant(values):
    return Spectral(values, torch.fft.fft, lambda z: torch.fft.ifft(z).real)


BRANCHES = {
    "function": (torch.tanh, _x(3, 4)),
    "single precision": (torch.tanh, _x(3, 4, dtype=torch.float32)),
    "complex": (lambda z: -1j * z * z.abs() ** 2, _x(4, dtype=torch.complex128)),
    "relu net": (nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 4)).double(), _x(2, 4)),
    "convolutions": (
        nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)).train(),
        _x(2, 2, 5, 5, dtype=torch.float32),
    ),
    "dense": (Dense(_x(5, 5), _x(5, seed=1)), _x(3, 5)),
    "dense, normal": (Dense(_normal_matrix()), _x(3, 5)),
    "dense, complex": (Dense(_x(5, 5, dtype=torch.complex128)), _x(5, dtype=torch.complex128)),
    "spectral": (_circulant(-(torch.fft.fft(_x(8)).abs() ** 2)), _x(2, 8)),
    "spectral, not symmetric": (_circulant(torch.fft.fft(_x(8))), _x(2, 8)),
    "gradient": (Gradient(lambda z: z.cosh().sum(-1)), _x(3, 4)),
    "gradient with prox": (Gradient(lambda z: 0.5 * (3.0 * z**2).sum(-1), lambda z, h: z / (1 + 3.0 * h)), _x(3, 4)),
    "generator": (_Precession(), _x(3, 1, dtype=torch.complex128)),
    "autonomous": (autonomous(torch.sin), _x(4)),
    "zero": (lambda z: 0 * z, _x(4)),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_good_branches_pass(name):
    findings = check_step(*BRANCHES[name])
    assert {finding.verdict for finding in findings} <= {"pass", "info"}
    ids = {finding.id for finding in findings}
    assert {"step.shape", "step.repeatable", "step.transpose", "step.gradient"} <= ids
    if "dense" in name or "spectral" in name:
        assert {"step.linear", "step.adjoint", "step.eigenvalues"} <= ids
    if "gradient" in name:
        assert {"step.symmetric", "step.potential"} <= ids


def test_coupling_of_samples_is_told_and_not_judged():
    def coupling(branch):
        return {f.id: f for f in check_step(branch, _x(4, 3))}["step.coupling"]

    assert coupling(torch.sin).value == 0.0
    assert coupling(lambda x: x - x.mean(0)).value > 0
    assert coupling(lambda x: x - x.mean(0)).verdict == "info"


class _WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] ** 2 * grad


class _WrongJvp(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad

    @staticmethod
    def jvp(ctx, v):
        return 2 * ctx.saved_tensors[0] ** 2 * v


class _Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class _Matrix(Linear):
    """A linear branch whose parts can each be spoilt."""

    def __init__(self, normal=False, bound=None, values=None, **parts):
        super().__init__()
        self.a, self.bound, self.values, self.parts = _x(4, 4), bound, values, parts
        if normal:
            self.normal = True

    def matvec(self, x):
        return self.parts.get("matvec", lambda v: v @ self.a.T)(x)

    def adjoint(self, y):
        return self.parts.get("adjoint", lambda v: v @ self.a)(y)

    def norm_bound(self):
        return self.bound

    def eigenvalues(self):
        return self.values

    def forward(self, x):
        return self.parts.get("forward", super().forward)(x)


class _Overridden(_Precession):
    def forward(self, t, x):
        return 2 * super().forward(t, x)


class _NotSkew(_Precession):
    def matrix(self, t, x):
        return 1j * super().matrix(t, x)


def _inplace(x):
    return x.mul_(2)


def _quadratic(z):
    return 0.5 * (z**2).sum(-1)


class _Ascent(Gradient):
    def forward(self, x):
        return -super().forward(x)


class _Rotation(Gradient):
    def forward(self, x):
        return super().forward(x) + torch.roll(x, 1, -1) - torch.roll(x, -1, -1)


NORMAL = _normal_matrix(4)

BROKEN = [
    (lambda x: [x], "tensor", "got list; return one tensor"),
    (lambda x: x[..., :2], "shape", r"got \(2, 2\) for \(2, 4\); convert"),
    (lambda x: x.float(), "dtype", "got torch.float32 for torch.float64"),
    (_inplace, "input", "got another x; replace in-place operations on x"),
    (lambda x: x / 0, "finite", "got nan or inf"),
    (_Counter(), "repeatable", r"must be at most .*; keep no state between calls"),
    (nn.Dropout(0.5), "repeatable", r"call .eval\(\)"),
    (_WrongJvp.apply, "transpose", "correct the `jvp` or `backward`"),
    (_WrongBackward.apply, "gradient", "look for detach"),
    (lambda x: torch.sin(x.detach()), "derivative", "`branch` must be differentiable in x"),
    (_Matrix(matvec=torch.sin), "linear", "`matvec` must be linear"),
    (_Matrix(adjoint=lambda y: -y), "adjoint", "borders included"),
    (_Matrix(forward=lambda x: 2 * x), "offset|gradient", "must be at most"),
    (_Matrix(normal=True), "normal", "set `normal = False`"),
    (_Matrix(bound=Estimate(0.1, "certified")), "norm_bound", "raise it; a bound must hold"),
    (_Matrix(values=torch.ones(4)), "eigenvalues", "correct `eigenvalues`"),
    (
        _Matrix(True, None, torch.tensor([-2.0, 0.5]), matvec=lambda v: v @ NORMAL.T, adjoint=lambda v: v @ NORMAL),
        "eigenvalues", "correct `eigenvalues`",
    ),
    (
        _Matrix(True, None, torch.tensor([-2.0, 1.0]), matvec=lambda v: v @ NORMAL.T, adjoint=lambda v: v @ NORMAL),
        "complete", "list all of them",
    ),
    (
        _Matrix(True, None, torch.tensor([-1.0, 1.0]), matvec=lambda v: v @ NORMAL.T, adjoint=lambda v: v @ NORMAL),
        "radius", r"must be at most 0.01; correct `eigenvalues` or `normal`",
    ),
    (Spectral(torch.ones(4), lambda v: 2 * v, lambda v: v), "function|radius|norm_bound", "must"),
    (_Rotation(_quadratic), "symmetric", "F must be -∇φ of one potential"),
    (_Ascent(_quadratic), "potential", "return -∇φ, not ∇φ"),
    (Gradient(_quadratic, lambda z, h: z / (1 + 2 * h)), "prox", r"mind the factor h in `prox\(x, h\)`"),
]  # fmt: skip


@pytest.mark.parametrize("branch, law, words", BROKEN, ids=[str(i) + row[1] for i, row in enumerate(BROKEN)])
def test_a_broken_branch_is_named_with_its_law(branch, law, words):
    with pytest.raises(ConformanceError, match=f"breaks the law `({law})` .*{words}"):
        check_step(branch, _x(2, 4))


@pytest.mark.parametrize("branch, law, words", [
    (_Overridden(), "product", "do not override `forward`"),
    (_NotSkew(), "skew", "set `skew = False`"),
])  # fmt: skip
def test_a_broken_generator_is_named_with_its_law(branch, law, words):
    with pytest.raises(ConformanceError, match=f"breaks the law `{law}` .*{words}"):
        check_step(branch, _x(3, 1, dtype=torch.complex128))


def test_what_is_no_branch_is_an_input_error():
    with pytest.raises(InputError, match="`branch` must be F, not the block"):
        check_step(Residual(torch.sin), _x(2))
    with pytest.raises(InputError, match="`x` must be finite"):
        check_step(torch.sin, torch.tensor([math.nan]))
