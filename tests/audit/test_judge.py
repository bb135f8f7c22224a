"""Each finding from a model that was made to have it, and silence on one that is well."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import residyn as rd
from residyn.audit.codes import CODES
from residyn.audit.outputs import diagram
from residyn.nets import MLP, ResNet

from . import networks as N


class Chain(nn.Module):
    """x + s·F(x), with a scale a block, and perhaps something after each sum."""

    def __init__(self, *scales, n=8, after=None):
        super().__init__()
        torch.manual_seed(0)
        self.f, self.scales = nn.ModuleList(N.mlp(n) for _ in scales), scales
        self.after = after or nn.Identity()

    def forward(self, x):
        for f, s in zip(self.f, self.scales, strict=True):
            x = self.after(x + s * f(x))
        return x


class Fixed(nn.Module):
    """x + A·x for one given matrix, several times."""

    def __init__(self, matrix, times=1):
        super().__init__()
        self.a, self.times = nn.Parameter(matrix), times

    def forward(self, x):
        for _ in range(self.times):
            x = x + x @ self.a.T
        return x


def codes(model, x=None, **more):
    found = rd.audit(model, torch.randn(64, 8) if x is None else x, **more)
    return {f.id: f for f in found.findings}


def test_all_is_well():
    found = codes(Chain(1, 1, 1))
    assert list(found) == ["RD100"]
    assert found["RD100"].verdict == "pass"


def test_exploding_and_vanishing_stream():
    grown = codes(Fixed(4 * torch.eye(8), 6))  # 5⁶ > 10³: stream and gradient; 5⁶ < 10⁶: a warning
    assert grown["RD101"].verdict == grown["RD103"].verdict == "warn"
    assert grown["RD101"].value == pytest.approx(5**6, rel=1e-4)
    assert grown["RD103"].value == pytest.approx(5**5, rel=1e-4)  # between first and last there are five
    assert codes(Fixed(9 * torch.eye(8), 7))["RD101"].verdict == "fail"
    shrunk = codes(Fixed(-0.9 * torch.eye(8), 8))
    assert shrunk["RD102"].value == pytest.approx(1e8, rel=1e-3)
    assert shrunk["RD104"].value == pytest.approx(1e7, rel=1e-3)
    assert shrunk["RD104"].verdict == "fail"


def test_worst_first():
    found = rd.audit(Fixed(9 * torch.eye(8), 7), torch.randn(4, 8))
    ranks = [{"fail": 0, "warn": 1, "info": 2, "pass": 3}[f.verdict] for f in found.findings]
    assert ranks == sorted(ranks)
    assert all(f.why and (f.fix or f.verdict != "fail") for f in found.findings)


def test_dead_block():
    found = codes(Chain(1, 1e-5, 1))["RD105"]
    assert found.title == "dead blocks: f.1"
    assert found.theory == 1e-3


def test_redundant_block():
    found = codes(Chain(1, 0.01, 1))
    assert "RD105" not in found
    assert found["RD106"].title == "redundant blocks: f.1"


def test_harmful_block():
    torch.manual_seed(0)
    net = ResNet(nn.Identity(), [MLP(8, 8, 8) for _ in range(2)], nn.Identity()).double()
    x = torch.randn(64, 8).double()
    y = (x + net.body.blocks[0].branch(x)).argmax(1)  # what the first block alone would say
    found = codes(net, x, targets=y)
    assert "body.blocks.1" in found["RD114"].title
    assert found["RD114"].value > 0.01


def test_drowned_skip():
    assert codes(Chain(1, 200.0))["RD107"].title.startswith("the skip is drowned: f.1")


def test_step_past_the_limit():
    found = codes(Fixed(-2.5 * torch.eye(8)))["RD108"]
    assert found.value == pytest.approx(0.8, rel=1e-5)  # 2/2.5
    assert "RD108" not in codes(Fixed(-1.9 * torch.eye(8)))


def test_expanding_stack():
    matrix = torch.zeros(8, 8)
    matrix[0, 0] = 9.0
    found = codes(Fixed(matrix, 7))["RD109"]
    assert found.value == pytest.approx(1e7, rel=1e-3)


def test_uncalibrated():
    torch.manual_seed(0)
    net = N.Fn(lambda s, x: 8 * (x + 0.01 * s.f(x)), f=N.mlp())
    x = torch.randn(400, 8)
    y = torch.multinomial(x.softmax(1), 1)[:, 0]  # the labels believe a softmax that is eight times flatter
    found = codes(net, x, targets=y)["RD110"]
    assert found.value > 0.2
    assert "On 400 samples" in found.why
    sound = codes(N.Fn(lambda s, x: x + 0.0001 * s.f(x), f=N.mlp()), x, targets=y)
    assert "RD110" not in sound
    assert "RD110" not in codes(net, x[:20], targets=y[:20])  # too few to tell


def test_logits_that_lie_between_0_and_1_are_logits():
    x = torch.rand(60, 8, generator=torch.Generator().manual_seed(0))
    drawn = diagram(x, torch.arange(60) % 8)
    assert drawn is not None
    assert drawn == diagram(x.double().softmax(1), torch.arange(60) % 8)


def test_post_norm_at_depth():
    found = codes(Chain(*[1.0] * 12, after=nn.LayerNorm(8)))
    assert found["RD111"].value == 12
    assert "RD111" not in codes(Chain(*[1.0] * 11, after=nn.LayerNorm(8)))
    assert "RD111" not in codes(Chain(*[1.0] * 12))


def test_broken_identity_path():
    net = nn.Sequential(*(N.Basic(i, i + 4) for i in (3, 7, 11, 15)))
    assert codes(net, torch.randn(2, 3, 8, 8))["RD112"].value == 1.0


def test_no_gradient():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.ModuleList(N.mlp() for _ in range(2))

        def forward(self, x):
            y = x + self.f[0](x)
            return y.detach() + self.f[1](y.detach())

    assert codes(Cut())["RD113"].title == "no gradient arrives: f.0"


def test_constant_branch():
    net = N.Fn(lambda s, x: x + s.f(x), f=N.mlp())
    nn.init.zeros_(net.f[2].weight)
    nn.init.ones_(net.f[2].bias)
    assert codes(net)["RD115"].title == "constant branches: model"


def test_what_was_not_seen():
    numpy = N.Fn(lambda s, x: (x + s.f(x)) + torch.from_numpy(s.f(x).detach().numpy()), f=N.mlp())
    found = codes(numpy)
    assert found["RD190"].verdict == "warn"
    assert "tensors left torch" in found["RD190"].why
    alone = codes(Chain(1), torch.randn(1, 8))["RD190"]
    assert (alone.verdict, alone.title) == ("info", "how the model was run")


def test_no_block():
    found = codes(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))["RD191"]
    assert "Seen: 3 operations (2 linear, 1 relu); sums of two tensors: 0" in found.why


def test_own_check():
    class Slow(rd.audit.Check):
        code = rd.audit.Code("X1", "too deep for us", "More than 2.", "Latency.", "Prune.")

        def run(self, audit):
            if len(audit.blocks) > 2:
                yield self.finding("fail", value=len(audit.blocks), blocks=audit.blocks)

    found = rd.audit(Chain(1, 1, 1), torch.randn(2, 8), checks=[Slow()])
    assert [(f.id, f.title) for f in found.findings] == [("X1", "too deep for us: f.0, f.1, f.2")]


def test_the_package_is_a_function_and_offers_its_parts():
    code = "import residyn as rd; print(len(rd.audit.checks.CHECKS), callable(rd.audit), hasattr(rd.audit, 'nothing'))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split()[1:] == ["True", "False"]


def test_every_code_is_whole():
    for code in CODES.values():
        assert code.title
        assert code.rule.endswith(".")
        assert code.why.endswith(".")
