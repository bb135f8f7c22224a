"""The numbers of blocks against matrices that are known, autograd, and models changed by hand."""

import itertools
import time

import numpy as np
import pytest
import torch
from torch import nn

import residyn as rd
from residyn.audit import ModelError
from residyn.nets import MLP, ResNet

from . import networks as N


class Linears(nn.Module):
    """Blocks x + A·x with matrices that are known."""

    def __init__(self, *matrices):
        super().__init__()
        self.a = nn.ParameterList(nn.Parameter(m) for m in matrices)

    def forward(self, x):
        for a in self.a:
            x = x + x @ a.T
        return x


def matrices(n=6, count=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, n, generator=generator, dtype=torch.float64) / 3 for _ in range(count)]


def test_numbers_of_linear_blocks():
    a = matrices()
    x = torch.randn(5, 6, dtype=torch.float64)
    found = rd.audit(Linears(*a), x)
    for block, matrix in zip(found.blocks, a, strict=True):
        truth = torch.linalg.svdvals(matrix)[0]
        # Lanczos stops at an estimated 1 %; in six dimensions with 40 products it has all of the space
        assert float(block.jacobian_norm) == pytest.approx(float(truth), rel=1e-2)
        assert block.jacobian_norm <= truth * (1 + 1e-12)
        values = torch.linalg.eigvals(matrix)
        # the Krylov space of five samples and six dimensions is whole after twelve steps: the leading value is exact
        assert abs(max(block.spectrum, key=abs)) == pytest.approx(float(values.abs().max()), rel=1e-6)
        change = x @ matrix.T
        assert float(block.ratio) == pytest.approx(float((change.norm(dim=1) / x.norm(dim=1)).mean()), rel=1e-5)
        cosine = torch.nn.functional.cosine_similarity(x, x + change, dim=1).mean()
        assert float(block.cosine) == pytest.approx(float(cosine), abs=1e-6)  # single precision inside
        assert float(block.influence) == pytest.approx(1 - float(cosine), abs=1e-6)
        x = x + change
        assert float(block.size) == pytest.approx(float(x.pow(2).mean().sqrt()), rel=1e-12)
        assert [block.ratio.kind, block.jacobian_norm.kind, block.max_step.kind] == ["estimate", "lower", "estimate"]


def test_largest_stable_step():
    """|1 + hλ| ≤ 1 for λ = -4 and -1 ± 2i: h ≤ 2/4 and h ≤ 2·1/5."""
    matrix = torch.zeros(3, 3, dtype=torch.float64)
    matrix[0, 0], matrix[1:, 1:] = -4.0, torch.tensor([[-1.0, 2.0], [-2.0, -1.0]])
    block = rd.audit(Linears(matrix), torch.randn(2, 3, dtype=torch.float64)).blocks[0]
    assert float(block.max_step) == pytest.approx(0.4, rel=1e-6)


def test_gradient_profile_is_that_of_autograd():
    net, x = Linears(*matrices()), torch.randn(5, 6, dtype=torch.float64)
    targets = torch.randn(5, 6, dtype=torch.float64)
    found = rd.audit(net, x, targets=targets)
    kept, y = [], x
    for a in net.a:
        y = y + y @ a.T
        y.retain_grad()
        kept.append(y)
    torch.nn.functional.mse_loss(y, targets).backward()
    for block, value in zip(found.blocks, kept, strict=True):
        assert float(block.gradient_norm) == pytest.approx(float(value.grad.norm()), rel=1e-9)


def test_dropping_is_what_surgery_does():
    net, x = Linears(*matrices()), torch.randn(5, 6, dtype=torch.float64)
    y = torch.randn(5, 6, dtype=torch.float64)
    found = rd.audit(net, x, targets=y)
    whole = -((net(x) - y) ** 2).mean().item()
    assert found.metric == ("negative mean squared error", pytest.approx(whole, rel=1e-9))
    for i, block in enumerate(found.blocks):
        less = Linears(*(a.detach() for k, a in enumerate(net.a) if k != i))
        assert float(block.dropped) == pytest.approx(-((less(x) - y) ** 2).mean().item() - whole, rel=1e-9)
        with found.patch(drop=[block.name]):
            assert torch.allclose(net(x), less(x))
        with found.patch(scale={block.name: 0.5}):
            half = Linears(*(a.detach() * (0.5 if k == i else 1) for k, a in enumerate(net.a)))
            assert torch.allclose(net(x), half(x))


def test_metric_of_the_user():
    net, x = ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(2)], nn.Linear(8, 3)), torch.randn(6, 4)

    def largest(out, y):
        return float(out.max()) + y["offset"]

    found = rd.audit(net, x, targets={"offset": 2.0}, metric=largest)
    assert found.metric[0] == "largest"
    assert found.metric[1] == pytest.approx(net(x).max().item() + 2)
    labels = net(x).argmax(1)
    assert rd.audit(net, x, targets=labels).metric == ("accuracy", 1.0)
    assert rd.audit(net, x, targets=labels.numpy()).metric == ("accuracy", 1.0)


@pytest.mark.parametrize(
    ("branch", "shape"),
    [
        (nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6)), (4, 6)),
        (nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)), (2, 4, 8, 8)),
        (nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3, groups=2), nn.SiLU()), (2, 4, 8, 8)),
        (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU()), (4, 6)),
    ],
)
def test_certified_bound_agrees_with_lipschitz(branch, shape):
    """The bound of the recorded calls is that of the modules, from the analysis; it lies above what is measured."""
    torch.manual_seed(0)
    for part in branch.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2)
    branch.eval()
    block = rd.audit(N.Fn(lambda s, x: x + 0.5 * s.f(x), f=branch), torch.randn(shape)).blocks[0]
    assert block.bound.kind == "certified"
    # convolutions are bounded with 1 % of slack here and 0.1 % there, two in a row; 0.5 is exact
    assert float(block.bound) == pytest.approx(0.5 * float(rd.lipschitz(branch, shape[1:])), rel=2.5e-2)
    assert block.jacobian_norm <= block.bound


def test_attention_has_no_bound_and_the_report_says_so():
    net = nn.Sequential(N.Layer("pre"))
    found = rd.audit(net, torch.randn(2, 6, 8))
    assert found.blocks[0].bound is None
    assert found.blocks[1].bound is not None
    assert "bounds could not be measured in 1 of 2 blocks" in found.notes[0]


def test_norm_settles_to_one_percent():
    """Against the largest singular value of the dense Jacobian, sample by sample."""
    torch.manual_seed(0)
    branch = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1))
    x = torch.randn(3, 3, 5, 5)
    block = rd.audit(N.Fn(lambda s, x: x + s.f(x), f=branch), x).blocks[0]
    truth = max(
        float(torch.linalg.svdvals(torch.autograd.functional.jacobian(branch, x[i : i + 1]).reshape(75, 75))[0])
        for i in range(3)
    )
    assert truth * 0.99 <= block.jacobian_norm <= truth * (1 + 1e-5)  # single precision
    assert block.jacobian_norm.converged


def test_samples_that_act_on_each_other():
    """Where the batch is mixed the norm is that of the whole, not of its samples."""
    torch.manual_seed(0)
    mix = 0.4 * torch.randn(4, 4)
    net = N.Fn(lambda s, x: x + s.m @ x, m=nn.Parameter(mix))
    block = rd.audit(net, torch.randn(4, 6)).blocks[0]
    assert float(block.jacobian_norm) == pytest.approx(float(torch.linalg.svdvals(mix)[0]), rel=1e-2)


def test_budget_is_kept():
    torch.manual_seed(0)
    net = ResNet(nn.Linear(4, 64), [MLP(64, 256, 64) for _ in range(60)], nn.Linear(64, 2))
    start = time.perf_counter()
    found = rd.audit(net, torch.randn(64, 4), budget=0.5)
    assert "the budget was spent" in " ".join(found.warnings)
    assert time.perf_counter() - start < 60  # against a run without a limit on a busy machine: the sense, not the speed
    assert rd.audit(net, torch.randn(4, 4), budget=0).blocks[0].ratio is None


def test_progress_is_told():
    told = []
    rd.audit(Linears(*matrices()), torch.randn(2, 6).double(), progress=lambda share, word: told.append((share, word)))
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert told[0][1].startswith("sizes: ")


@pytest.mark.parametrize("output", [False, True])
def test_not_a_number(output):
    net = N.Fn(lambda s, x: (x + s.f(x)).log() if output else x + s.f(x).log(), f=N.mlp())
    words = "in its output" if output else "first in the output of `model`"
    with pytest.raises(ModelError, match=f"`model` must give finite numbers on these inputs, got nan or inf {words}"):
        rd.audit(net, torch.randn(4, 8))


class Random(nn.Module):
    """Takes another way at each call."""

    def __init__(self):
        super().__init__()
        self.f, self.turn = N.mlp(), itertools.count(1)

    def forward(self, x):
        for _ in range(next(self.turn)):
            x = x + self.f(x)
        return x


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: (Random(), torch.randn(2, 8), {}), rd.InputError, "`model` must do the same on the same inputs"),
        (lambda: ("x", torch.randn(2, 8), {}), rd.InputError, "`model` must be a torch.nn.Module, got str"),
        (lambda: (nn.Linear, torch.randn(2, 8), {}), rd.InputError, "got the class, not an instance"),
        (lambda: (N.mlp(), 3, {}), rd.InputError, "`inputs` must hold a tensor, got none"),
        (lambda: (N.mlp(), torch.randn(0, 8), {}), rd.InputError, "`inputs` must not be empty"),
        (lambda: (N.mlp(), torch.full((2, 8), torch.nan), {}), rd.InputError, "`inputs` must be finite, got nan"),
        (lambda: (N.mlp(), torch.randn(2, 8), {"budget": -1}), rd.InputError, "`budget` must be seconds >= 0, got -1"),
        (lambda: (N.mlp().to("meta"), torch.randn(2, 8), {}), rd.InputError, "got tensors on the meta device"),
        (lambda: (nn.LazyLinear(3), torch.randn(2, 8), {}), rd.InputError, "must have its parameters made, got lazy ones"),
        (lambda: (N.mlp(), torch.randn(2, 9), {}), ModelError, "`model` must run on these inputs, got RuntimeError"),
        (lambda: (N.mlp(), torch.randn(2, 8).double(), {}), ModelError, "`model` must run on these inputs"),
        (
            lambda: (N.mlp(), torch.randn(2, 8), {"targets": torch.zeros(3).long()}),
            rd.InputError,
            "`targets` must have one entry a sample, 2, got 3",
        ),
        (
            lambda: (N.mlp(), torch.randn(2, 8), {"targets": torch.tensor([0, 9])}),
            rd.InputError,
            "`targets` must be class numbers 0 to 7, got 0 to 9",
        ),
        (
            lambda: (N.mlp(), torch.randn(2, 8), {"targets": torch.zeros(2, 3)}),
            rd.InputError,
            r"`targets` must be class numbers \(B,\) or of the output's shape, \(2, 8\), got \(2, 3\)",
        ),
        (lambda: (N.mlp(), torch.randn(2, 8), {"targets": "no"}), rd.InputError, "`targets` must be a tensor, got str"),
    ],
)
def test_bad_input(make, error, words):
    model, x, more = make()
    with pytest.raises(error, match=words) as caught:
        rd.audit(model, x, **more)
    assert "\n" not in str(caught.value)


def test_no_such_block():
    found = rd.audit(Linears(*matrices()), torch.randn(2, 6).double(), budget=0)
    with pytest.raises(
        rd.InputError, match="`name` must be that of a block, got 'nowhere'; the blocks are model, model#2, model#3"
    ):
        found["nowhere"]
    with pytest.raises(rd.InputError, match="must be that of a block"), found.patch(drop=["nowhere"]):
        pass


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_parts_are_told():
    torch.manual_seed(0)
    scale = torch.quantize_per_tensor(torch.randn(8, 8), 0.05, 0, torch.qint8)
    net = N.Fn(lambda s, x: x + torch.relu(s.f(x)) @ s.q[0].dequantize(), f=nn.Linear(8, 8))
    net.q = [scale]
    found = rd.audit(net, torch.randn(4, 8), budget=5)
    assert len(found.blocks) == 1
    assert "quantised parts" in " ".join(found.warnings)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_below_autograd_blocks_are_measured():
    """Blocks in a scripted module have sizes and norms as well."""
    torch.manual_seed(0)
    net = torch.jit.trace(nn.Sequential(N.Mixer()).eval(), torch.randn(2, 6, 8))
    found = rd.audit(net, torch.randn(2, 6, 8), budget=20)
    assert len(found.blocks) == 2
    assert all(b.ratio is not None for b in found.blocks)


def test_half_precision_and_numpy_scalars():
    torch.manual_seed(0)
    net = N.Fn(lambda s, x: x + float(np.float32(0.5)) * s.f(x), f=N.mlp()).bfloat16()
    block = rd.audit(net, torch.randn(4, 8).bfloat16()).blocks[0]
    assert 0 < block.ratio < 10


def test_a_backward_pass_that_fails_is_a_warning():
    """Half of the channels is overwritten after a layer has kept it for its derivative: torch refuses, the audit goes on."""

    def forward(s, x):
        x = x.clone()
        x[:, :4] += s.f(x[:, 4:])
        return x

    found = rd.audit(N.Fn(forward, f=nn.Linear(4, 4)), torch.randn(6, 8))
    (line,) = found.warnings
    assert line.startswith("the model's backward pass fails: no gradient profile (one of the variables needed for gradient")
    assert found.blocks[0].gradient_norm is None
    assert found.blocks[0].dropped > 0


def test_a_stream_in_another_precision_than_its_branch():
    """x in single, F in double precision: the Jacobian is that of F, here a matrix whose norm is known."""
    weight = torch.diag(torch.arange(1.0, 9.0, dtype=torch.float64))
    found = rd.audit(N.Fn(lambda s, x: (x + x.double() @ s.w).float(), w=nn.Parameter(weight)), torch.randn(4, 8))
    assert not found.warnings
    assert float(found.blocks[0].jacobian_norm) == pytest.approx(8, rel=1e-2)  # the norm is asked to 1 %


COUPLED = {
    # F(x) = 1·xᵀ1 over the batch: n copies of a sum of n, so ‖J‖ = n = 5
    "sum": (lambda s, x: x.sum(0, keepdim=True) + 0 * s.f(x), 5.0),
    # every sample gets the first one's: √5 copies
    "first": (lambda s, x: x[torch.zeros(5, dtype=torch.long)] + 0 * s.f(x), 5**0.5),
}


@pytest.mark.parametrize("name", COUPLED)
def test_norm_and_bound_are_those_of_the_batch(name):
    """Norms are those of the whole batch's Jacobian, and what is certified is not below them."""
    function, norm = COUPLED[name]
    found = rd.audit(N.Fn(lambda s, x: x + function(s, x), f=nn.Linear(8, 8)), torch.randn(5, 8))
    (block,) = found.blocks
    assert norm * 0.99 <= block.jacobian_norm <= norm * (1 + 1e-5)  # the norm is asked to 1 %; rounding
    assert block.bound is None or block.bound >= norm


def test_a_product_with_a_constant_matrix_is_bounded():
    """x·W + b by `@` and by `addmm` is the linear layer that it is: K_F = ‖W‖₂."""
    torch.manual_seed(0)
    weight, x = nn.Parameter(torch.randn(8, 8)), torch.randn(3, 8)
    norm = float(torch.linalg.matrix_norm(weight.detach(), 2))
    for branch in (lambda s, x: x @ s.w, lambda s, x: torch.addmm(torch.ones(8), x, s.w)):
        (block,) = rd.audit(N.Fn(lambda s, x, branch=branch: x + branch(s, x), w=weight), x).blocks
        # from above, and no more than rounding of 8 numbers in single precision
        assert norm * (1 - 1e-6) <= block.bound <= norm * (1 + 1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own, of quantisation
def test_quantised_branches_have_no_derivative_and_none_is_made_up():
    """Packed layers cut the gradient: no Jacobian, no gradient profile, no finding that rests on a derivative of 0."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), *(N.Fn(lambda s, x: x + s.f(x), f=N.mlp()) for _ in range(2)), nn.Linear(8, 3))
    packed = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    found = rd.audit(packed, torch.randn(6, 8), targets=torch.tensor([0, 1, 2, 0, 1, 2]))
    assert [b.jacobian_norm for b in found.blocks] == [None, None]
    assert all(b.ratio > 0 and b.dropped is not None for b in found.blocks)
    assert any("the branch changes with its input, but autograd knows no derivative of it" in line for line in found.warnings)
    assert not {"RD104", "RD115"} & {f.id for f in found.findings}


def test_a_branch_that_is_constant_has_a_norm_of_zero():
    found = rd.audit(N.Fn(lambda s, x: x + 0 * s.f(x) + 1, f=nn.Linear(8, 8)), torch.randn(4, 8))
    assert [float(b.jacobian_norm) for b in found.blocks] == [0.0]


class Routed(nn.Module):
    """Experts that the data choose, called for those who chose them only: away from x their number is another."""

    def __init__(self):
        super().__init__()
        self.experts, self.w = nn.ModuleList(nn.Linear(8, 8) for _ in range(4)), nn.Linear(8, 4)

    def forward(self, x):
        chosen = self.w(x).argmax(-1)
        out = torch.zeros_like(x)
        for k in chosen.unique().tolist():
            (rows,) = torch.where(chosen == k)
            out[rows] = self.experts[k](x[rows])
        return x + out


def test_experts_that_the_data_choose_are_measured_where_they_are():
    """The Jacobian of a sample is the matrix of its expert."""
    torch.manual_seed(3)
    net, x = Routed(), torch.randn(6, 8)
    (block,) = rd.audit(net, x).blocks
    norms = [float(torch.linalg.matrix_norm(net.experts[k].weight.detach(), 2)) for k in net.w(x).argmax(-1)]
    assert float(block.jacobian_norm) == pytest.approx(max(norms), rel=1e-2)  # the norm is asked to 1 %
