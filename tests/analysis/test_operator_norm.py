"""Norms of layers against the matrix, written out column by column in double precision."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import residyn as rd
from residyn.analysis.convolution import convolution_norm
from residyn.analysis.definite import BandedGram
from residyn.analysis.ring import embedded_norm
from residyn.analysis.stencil import stencil, taps_as_matrices

MODES = ("zeros", "circular", "reflect", "replicate")

# The dense reference is right to some 1e-13 of the norm; the bound has to be above it but for that.
ROUNDING = 1e-12


def matrix(layer, shape):
    """The matrix of an affine layer."""
    n = math.prod(shape)
    layer = layer.double()
    with torch.no_grad():
        eye = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
        columns = layer(eye) - layer(torch.zeros(1, *shape, dtype=torch.float64))
    return columns.reshape(n, -1).T


def truth(layer, shape):
    return float(torch.linalg.matrix_norm(matrix(layer, shape), 2))


def convolution(seed):
    """A random convolution with random everything, and a shape that fits it."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    d = draw.choice([1, 2, 2, 3])
    room = {1: 20, 2: 8, 3: 4}[d]
    groups = draw.choice([1, 1, 2])
    inputs, outputs = groups * draw.randint(1, 3), groups * draw.randint(1, 3)
    taps = [draw.choice([1, 2, 3, 5]) for _ in range(d)]
    dilation = [draw.choice([1, 1, 2]) for _ in range(d)]
    stride = [draw.choice([1, 1, 2, 3]) for _ in range(d)]
    least = [max(3, (k - 1) * a + 1) for k, a in zip(taps, dilation, strict=True)]
    shape = (inputs, *[draw.randint(m, max(m, room) + 2) for m in least])
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    if draw.random() < 0.25:
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[d - 1]
        extra = [draw.randint(0, s - 1) for s in stride]
        padding = [draw.choice([0, 1]) if k > 2 else 0 for k in taps]
        return kind(inputs, outputs, taps, padding=padding, output_padding=extra, **options), shape
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1]
    padding = "same" if draw.random() < 0.15 and set(stride) == {1} else [draw.randint(0, 2) for _ in range(d)]
    return kind(inputs, outputs, taps, padding=padding, padding_mode=draw.choice(MODES), **options), shape


def check_many(seeds):
    slacks = []
    for seed in seeds:
        layer, shape = convolution(seed)
        found = rd.operator_norm(layer, shape)
        exact = truth(layer, shape)
        assert found.kind == "certified"
        assert float(found) >= exact * (1 - ROUNDING), (layer, shape, float(found) / exact - 1)
        slacks.append(float(found) / exact - 1)
    return slacks


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
def test_random_convolutions_are_never_underestimated():
    slacks = check_many(range(60))
    assert np.median(slacks) <= 1e-3
    assert max(slacks) <= 1e-3


# torch remarks that `padding="same"` with an even number of taps copies
@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.slow
def test_five_hundred_random_convolutions():
    slacks = check_many(range(60, 560))
    assert np.median(slacks) <= 1e-3
    assert max(slacks) <= 1e-3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stride", [1, 2])
def test_each_padding_mode(mode, stride):
    torch.manual_seed(3)
    layer = nn.Conv2d(3, 4, 3, stride=stride, padding=1, padding_mode=mode)
    exact = truth(layer, (3, 8, 10))
    assert exact * (1 - ROUNDING) <= float(rd.operator_norm(layer, (3, 8, 10))) <= exact * 1.001


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(1, 2, (1, 2), stride=(2, 3), padding=(3, 0)), (1, 1, 2)),  # smaller than kernel and stride
        (nn.Conv3d(3, 3, (1, 3, 2), padding="same", dilation=(1, 1, 2)), (3, 2, 5, 1)),
        (nn.Conv1d(2, 2, 4, stride=5, padding=3, dilation=2), (2, 1)),
        (nn.Conv1d(2, 4, 1, stride=3, groups=2), (2, 8)),
        (nn.ConvTranspose1d(2, 2, 3, padding=2, dilation=2, output_padding=1), (2, 6)),  # output padding beyond the stride
        (nn.ConvTranspose2d(3, 2, (4, 2), stride=(5, 1), padding=(2, 1), dilation=2, output_padding=(0, 1)), (3, 2, 2)),
        (nn.AvgPool2d((3, 2), stride=(4, 1), padding=1), (1, 4, 8)),
        (nn.AvgPool2d((3, 2), stride=1, divisor_override=5), (2, 3, 6)),
        (nn.AvgPool1d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False), (1, 10)),
        (nn.AdaptiveAvgPool2d((1, 8)), (2, 5, 10)),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_awkward_layers_are_exact_to_rounding(layer, shape, scale):
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=scale)
    layer.bias = None
    exact = truth(layer, shape)
    # singular values of matrices of order 100: some thousand roundings at most
    assert exact * (1 - ROUNDING) <= float(rd.operator_norm(layer, shape)) <= exact * (1 + 1e-11)


def test_taps_that_see_nothing_and_zero_weights_have_norm_zero():
    assert float(rd.operator_norm(nn.Conv2d(1, 1, 1, stride=3, padding=1), (1, 1, 2))) == 0.0
    layer = nn.Conv2d(2, 2, 3, padding=1, padding_mode="replicate")
    nn.init.zeros_(layer.weight)
    assert float(rd.operator_norm(layer, (2, 5, 5))) == 0.0


def test_a_half_precision_layer_is_bounded_as_its_weights_are():
    torch.manual_seed(1)
    layer = nn.Conv2d(2, 3, 3, padding=1).bfloat16()
    found = float(rd.operator_norm(layer, (2, 5, 5)))
    assert found == pytest.approx(truth(layer, (2, 5, 5)), rel=1e-12)


def test_proofs_hold_where_small_layers_are_not_solved_densely(monkeypatch):
    from residyn.analysis import convolution as module

    monkeypatch.setattr(module, "_SMALL", 0)
    slacks = check_many(range(40, 70))
    assert max(slacks) <= 1e-3


def test_a_very_long_average_has_its_closed_form():
    # windows that do not overlap: 1/√k
    assert float(rd.operator_norm(nn.AvgPool1d(4), (1, 8000))) == pytest.approx(0.5, rel=1e-10)


def test_torch_spectral_norm_of_the_reshaped_kernel_is_no_bound():
    # why this exists: the norm of the kernel as a matrix of 9 x 1 is far below that of the convolution
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(layer.weight)
    assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(3.0)
    # ones in both directions: (1 + 2·cos(π/(n + 1)))²
    assert float(rd.operator_norm(layer, (1, 30, 30))) == pytest.approx((1 + 2 * math.cos(math.pi / 31)) ** 2, rel=1e-3)


def test_banded_proofs_of_a_middle_size_agree_with_the_dense_norm():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, padding=1)  # 600 x 400 and above what is solved densely
    shape = (4, 14, 14)
    exact = truth(layer, shape)
    found = rd.operator_norm(layer, shape)
    assert found.iterations > 0
    assert exact <= float(found) <= exact * 1.001


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
def test_the_bound_on_a_ring_holds(mode):
    torch.manual_seed(1)
    for stride in (1, 2):
        layer = nn.Conv2d(3, 3, 3, stride=stride, padding=1, padding_mode=mode)
        exact = truth(layer, (3, 9, 12))
        bound = embedded_norm(stencil(layer, (9, 12)))
        assert exact <= bound
        if mode == "zeros":
            assert bound <= 1.1 * exact  # O(1/n²): (π/10)² with a curvature of order 1


def test_a_proof_is_refused_below_the_norm():
    torch.manual_seed(2)
    layer = nn.Conv2d(2, 2, 3, padding=1)
    found = stencil(layer, (6, 6))
    exact = truth(layer, (2, 6, 6))
    for axes in ([1], [0]):
        gram = BandedGram(found.selection(1 - axes[0]), taps_as_matrices(found, axes))
        assert gram.proves(exact * (1 + 1e-6))
        assert not gram.proves(exact * (1 - 1e-9))
        assert not gram.proves(0.0)


def test_a_transposed_layer_has_the_norm_of_its_adjoint():
    torch.manual_seed(4)
    forward = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False)
    back = nn.ConvTranspose2d(5, 3, 3, stride=2, padding=1, output_padding=1, bias=False)
    back.weight.data = forward.weight.data
    assert float(rd.operator_norm(forward, (3, 8, 8))) == pytest.approx(float(rd.operator_norm(back, (5, 4, 4))), rel=1e-6)


def test_linear_pooling_norms_and_moves():
    torch.manual_seed(5)
    linear = nn.Linear(7, 5)
    assert float(rd.operator_norm(linear, 7)) == pytest.approx(
        float(np.linalg.norm(linear.weight.detach().double(), 2)), rel=1e-12
    )
    assert float(rd.operator_norm(nn.Identity(), 4)) == 1.0
    assert float(rd.operator_norm(nn.Flatten(), (2, 3))) == pytest.approx(1.0)
    assert float(rd.operator_norm(nn.Dropout(0.5).eval(), 3)) == 1.0
    assert float(rd.operator_norm(nn.Dropout(0.5), 3)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.AvgPool1d(3), (2, 9)),
        (nn.AvgPool2d(2), (2, 8, 8)),
        (nn.AvgPool2d(3, stride=1, padding=1), (1, 7, 6)),
        (nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (1, 8, 7)),
        (nn.AvgPool2d(3, stride=2, ceil_mode=True), (1, 8, 8)),
        (nn.AvgPool3d(2), (1, 4, 4, 4)),
        (nn.AdaptiveAvgPool2d(1), (3, 5, 6)),
        (nn.AdaptiveAvgPool2d((3, 4)), (1, 7, 9)),
        (nn.AdaptiveAvgPool1d(4), (1, 10)),
        (nn.ReflectionPad2d(2), (1, 5, 6)),
        (nn.ReplicationPad1d((3, 1)), (2, 5)),
        (nn.CircularPad2d(2), (1, 4, 4)),
        (nn.ZeroPad2d(1), (1, 3, 3)),
        (nn.Upsample(scale_factor=2), (1, 3, 4)),
        (nn.Upsample(size=(5, 7)), (1, 3, 4)),
        (nn.PixelShuffle(2), (4, 2, 3)),
    ],
    ids=str,
)
def test_linear_layers_without_weights(layer, shape):
    exact = truth(layer, shape)
    assert exact * (1 - ROUNDING) <= float(rd.operator_norm(layer, shape)) <= exact * 1.001


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.MaxPool1d(3, stride=1), (1, 8)),
        (nn.MaxPool2d(2), (1, 6, 6)),
        (nn.MaxPool2d(3, stride=2, padding=1), (1, 8, 8)),
        (nn.MaxPool2d(3, stride=2, ceil_mode=True), (1, 8, 8)),
        (nn.MaxPool2d(2, stride=1, dilation=2), (1, 7, 7)),
        (nn.AdaptiveMaxPool2d((3, 4)), (1, 7, 9)),
    ],
    ids=str,
)
def test_max_pooling_is_attained_by_one_cell(layer, shape):
    n = math.prod(shape)
    cells = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    attained = layer(cells).flatten(1).norm(dim=1).max()
    assert float(rd.operator_norm(layer, shape)) == pytest.approx(float(attained), rel=1e-12)


def test_batch_norm_counts_alone_and_folded():
    torch.manual_seed(6)
    conv, norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.uniform_(norm.running_var, 0.1, 3.0)
    both = nn.Sequential(conv, norm).eval()
    exact = truth(both, (3, 6, 6))
    assert exact <= float(rd.operator_norm(both, (3, 6, 6))) <= exact * 1.001
    alone = float((norm.weight / (norm.running_var + norm.eps).sqrt()).detach().abs().max())
    assert float(rd.operator_norm(norm, (4, 6, 6))) == pytest.approx(alone)
    folded = float(rd.operator_norm(nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)).eval(), (4, 3, 3)))
    assert folded > 0


def test_folding_into_a_grouped_transposed_convolution():
    torch.manual_seed(7)
    conv, norm = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    both = nn.Sequential(conv, norm).eval()
    exact = truth(both, (4, 4, 5))
    assert exact * (1 - ROUNDING) <= float(rd.operator_norm(both, (4, 4, 5))) <= exact * 1.001


@pytest.mark.parametrize("layer", [nn.LayerNorm(6), nn.RMSNorm(6, eps=1e-4), nn.GroupNorm(1, 6)], ids=str)
def test_normalisation_is_attained_at_constant_input(layer):
    # centred where it vanishes, x is divided by √ε: a small step shows the slope, 1/√ε for unit γ
    nn.init.ones_(layer.weight)
    layer = layer.double()
    step = torch.zeros(1, 6, dtype=torch.float64)
    step[0, 0], step[0, 1] = 1e-8, -1e-8
    slope = float((layer(step) - layer(0 * step)).detach().norm() / step.norm())
    bound = float(rd.operator_norm(layer, (6,)))
    assert bound >= slope
    assert bound == pytest.approx(slope, rel=1e-5)  # a step of 1e-8 against ε ≥ 1e-5: (1e-8)²/ε


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("radius", [0.5, 2.0, 8.0])
def test_attention_holds_on_its_ball(bias, radius):
    torch.manual_seed(8)
    layer = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True).double().eval()
    if bias:
        nn.init.normal_(layer.in_proj_bias)
    bound = float(rd.operator_norm(layer, (5, 8), radius=radius))
    worst = 0.0
    for _ in range(30):
        x = radius * nn.functional.normalize(torch.randn(1, 5, 8, dtype=torch.float64), dim=-1)
        jacobian = torch.autograd.functional.jacobian(lambda z: layer(z, z, z, need_weights=False)[0], x).reshape(40, 40)
        worst = max(worst, float(torch.linalg.matrix_norm(jacobian, 2)))
    assert worst <= bound
    assert rd.operator_norm(layer, (5, 8), radius=2 * radius).value > bound


@pytest.mark.parametrize(
    "layer",
    [nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.ELU(1.5), nn.SELU(), nn.LeakyReLU(2.0), nn.Tanh(), nn.Sigmoid(),
     nn.Hardswish(), nn.Softplus(3.0), nn.Softsign(), nn.CELU(0.5), nn.Hardsigmoid(), nn.LogSigmoid(), nn.PReLU()],
    ids=str,
)  # fmt: skip
def test_activations_have_their_steepest_slope(layer):
    x = torch.linspace(-8, 8, 200_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer.double()(x).sum(), x)
    bound = float(rd.operator_norm(layer, 3))
    # rounded up by less than 2e-5, or a limit at infinity that [-8, 8] misses by e^-8 (softsign: attained at 0)
    assert float(slope.abs().max()) <= bound <= float(slope.abs().max()) * (1 + 5e-4)


def test_softmax_and_its_logarithm():
    torch.manual_seed(9)
    for layer, shape in ((nn.Softmax(-1), (4,)), (nn.LogSoftmax(-1), (4,))):
        bound = float(rd.operator_norm(layer, shape))
        # two equal large entries, or one large entry, are the extremes
        for x in ([30.0, 30, 0, 0], [40.0, 0, 0, 0], [1.0, 2, 3, 4]):
            at = torch.tensor(x, dtype=torch.float64)
            top = float(
                torch.linalg.matrix_norm(torch.autograd.functional.jacobian(lambda z, layer=layer: layer(z[None])[0], at), 2)
            )
            assert top <= bound * (1 + 1e-12)


@pytest.mark.slow
def test_large_layers_are_bounded_without_their_matrix():
    from scipy.sparse.linalg import LinearOperator, svds

    torch.manual_seed(10)
    layer = nn.Conv2d(64, 64, 3, padding=1)
    found = rd.operator_norm(layer, (64, 32, 32))
    weight, shape, n = layer.weight.detach().double(), (1, 64, 32, 32), 64 * 32 * 32

    def product(v):
        return nn.functional.conv2d(torch.from_numpy(v).reshape(shape), weight, padding=1).flatten().numpy()

    def back(v):
        return nn.functional.conv_transpose2d(torch.from_numpy(v).reshape(shape), weight, padding=1).flatten().numpy()

    operator = LinearOperator((n, n), matvec=product, rmatvec=back, dtype=np.float64)
    exact = float(
        svds(operator, k=1, tol=1e-4, v0=np.ones(n), return_singular_vectors=False)[0]
    )  # right to the residual squared
    assert found.kind == "certified"
    assert exact <= float(found) <= exact * 1.001


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rd.operator_norm(nn.Conv2d(3, 4, 3), (3, 8)), r"`input_shape` must be \(3, H, W\).*leave the batch out"),
        (lambda: rd.operator_norm(nn.Conv2d(3, 4, 9), (3, 8, 8)), "`input_shape` must leave an output.*make them larger"),
        (lambda: rd.operator_norm(nn.Conv1d(1, 1, 7, padding=3, padding_mode="reflect"), (1, 3)), "must exceed the reflect padding"),
        (lambda: rd.operator_norm(nn.Linear(3, 4), 5), "`input_shape` must end in 3"),
        (lambda: rd.operator_norm(nn.Linear(3, 4), ()), "`input_shape` must be positive sizes"),
        (lambda: rd.operator_norm(nn.Linear(3, 4), 0), "`input_shape` must be positive sizes"),
        (lambda: rd.operator_norm((3,), nn.Linear(3, 4)), "`layer` must be an nn.Module, got tuple"),
        (lambda: rd.operator_norm(nn.BatchNorm1d(3), 3), r"must be in evaluation mode.*call .eval\(\)"),
        (lambda: rd.operator_norm(nn.Sequential(nn.ReLU(), nn.ReLU()), 3), "`layer` must be a layer whose norm is known, got Sequential"),
        (lambda: rd.operator_norm(nn.MultiheadAttention(4, 2), (3, 4)), "`radius` must be given for attention"),
        (lambda: rd.operator_norm(nn.MultiheadAttention(4, 2), (3, 4), radius=-1), "`radius` must be > 0"),
        (lambda: rd.operator_norm(nn.MultiheadAttention(4, 2), (4,), radius=1), r"must be \(tokens, 4\)"),
        (lambda: rd.operator_norm(nn.MultiheadAttention(4, 2, kdim=3, vdim=3), (3, 4), radius=1), "one embedding size"),
        (lambda: rd.operator_norm(nn.MultiheadAttention(4, 2, dropout=0.1), (3, 4), radius=1), "evaluation mode or without dropout"),
        (lambda: rd.operator_norm(nn.LayerNorm(3, eps=0.0), 3), "`eps` of .* must be > 0"),
        (lambda: rd.operator_norm(nn.Linear(3, 4), 3, rtol=0), r"`rtol` must be a relative slack in \(0, 1\)"),
        (lambda: rd.operator_norm(nn.ReflectionPad1d(5), (1, 3)), "`input_shape` must fit ReflectionPad1d"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, words):
    with pytest.raises(rd.InputError, match=words):
        call()


def test_weights_must_be_finite():
    layer = nn.Conv2d(1, 1, 3)
    layer.weight.data[0, 0, 0, 0] = math.nan
    with pytest.raises(rd.InputError, match=r"`Conv2d.weight` must be finite, got nan or inf"):
        rd.operator_norm(layer, (1, 5, 5))


def test_nothing_of_the_layer_changes():
    layer = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).eval()
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    random_state = torch.get_rng_state()
    rd.operator_norm(layer, (2, 6, 6))
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    assert not any(m.training for m in layer.modules())
    assert all(p.requires_grad and p.grad is None for p in layer.parameters())


def test_zero_weights_have_norm_zero():
    layer = nn.Conv2d(2, 2, 3, padding=1)
    nn.init.zeros_(layer.weight)
    assert convolution_norm(stencil(layer, (5, 5))).value == 0.0
