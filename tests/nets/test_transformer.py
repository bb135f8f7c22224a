"""Transformers against torch's own attention and the definitions of their norms; bounds on α against dense matrices."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from residyn.errors import InputError
from residyn.nets import Attention, Patches, Tokens, Transformer, admissible_alpha
from residyn.nets.transformer import entropy
from residyn.step import Residual


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_torch(causal):
    torch.manual_seed(0)
    ours, x = Attention(12, 3, causal=causal).double(), torch.randn(2, 7, 12, dtype=torch.float64)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query_key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query_key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64) if causal else None
    expected, _ = theirs(x, x, x, attn_mask=mask, need_weights=False)
    # the same sums in another order: a few hundred roundings of 1.1e-16 on numbers of order 1
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-13)


def test_causal_means_that_no_token_sees_a_later_one():
    net, x = Transformer(8, 2, 2, causal=True), torch.randn(1, 6, 8)
    later = x.clone()
    later[:, 4:] += torch.randn(1, 2, 8)
    torch.testing.assert_close(net(x)[:, :4], net(later)[:, :4])
    assert not torch.allclose(net(x)[:, 4:], net(later)[:, 4:])


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_norms_stand_where_their_names_say(alpha):
    x = torch.randn(2, 5, 8)
    for norm in ("pre", "post", "none"):
        torch.manual_seed(1)
        net = Transformer(8, 1, 2, norm=norm, alpha=alpha)
        first = net.layers[0]
        if norm == "pre":
            f = first.branch[1]
            expected = x + alpha * f(nn.functional.layer_norm(x, (8,)))
        elif norm == "post":
            f = first[0].branch
            expected = nn.functional.layer_norm(x + alpha * f(x), (8,))
        else:
            f = first.branch
            expected = x + alpha * f(x)
        torch.testing.assert_close(first(x), expected)


def test_deep_norm_is_the_published_one():
    # LN(κ·x + F(x)) with κ = (2L)^¼: the norm's ε apart, the same as LN(x + F(x)/κ)
    depth, x = 9, torch.randn(2, 5, 8, dtype=torch.float64)
    net = Transformer(8, depth, 2, norm="deep").double()
    kappa = (2 * depth) ** 0.25
    residual, norm = net.layers[0]
    published = nn.functional.layer_norm(kappa * x + residual.branch(x), (8,), eps=norm.eps * kappa**2)
    torch.testing.assert_close(net.layers[0](x), published, rtol=1e-12, atol=1e-12)
    gain = (8 * depth) ** -0.25
    spread = torch.stack([b[0].branch.value.weight.std() for b in list(net.layers.blocks)[::2]]).mean().detach()
    # Xavier: variance gain²·2/(8 + 8); 9 matrices of 64 weights: the mean spread is known to 1/√(2·576) = 3 %
    assert float(spread) == pytest.approx(gain * math.sqrt(2 / 16), rel=0.12)


def test_rezero_starts_as_the_identity_and_layer_scale_near_it():
    x = torch.randn(2, 5, 8)
    net = Transformer(8, 3, 2, norm="none", alpha="rezero")
    torch.testing.assert_close(net(x), x)
    assert sum(p.numel() == 1 for p in net.parameters()) == 6
    scaled = Transformer(8, 3, 2, norm="none", alpha="layerscale")
    assert all(tuple(b.step.shape) == (8,) for b in scaled.layers.blocks if isinstance(b, Residual))
    assert 0 < float((scaled(x) - x).detach().norm() / x.norm()) < 0.1


def test_patches_are_cut_row_by_row():
    embed = Patches(1, (4, 6), 2, 4)
    with torch.no_grad():
        embed.place.zero_()
        embed.project.bias.zero_()
        embed.project.weight.copy_(torch.eye(4).view(4, 1, 2, 2))
    u = torch.arange(24.0).view(1, 1, 4, 6)
    assert embed(u)[0, 1].tolist() == [2, 3, 8, 9]


def test_text_model_learns_a_cycle():
    torch.manual_seed(0)
    net = Transformer(16, 2, 2, causal=True, embed=Tokens(5, 8, 16), head=nn.Linear(16, 5))
    cycle = torch.arange(40) % 5
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(60):
        batch = torch.stack([cycle[k : k + 9] for k in range(5)])
        loss = entropy(net(batch[:, :-1]), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step == 0:
            first = loss.item()
    assert first > 1
    assert loss.item() < 0.1


def dense(attention, x):
    """J of attention at x, written out."""
    n = x.numel()
    return torch.autograd.functional.jacobian(lambda v: attention(v.view(x.shape)).flatten(), x.flatten()).view(n, n).numpy()


@pytest.mark.parametrize("growth", [2.0, 10.0])
def test_admissible_alpha_is_what_the_dense_matrix_says(growth):
    torch.manual_seed(0)
    attention, x, depth = Attention(8, 2).double(), torch.randn(1, 6, 8, dtype=torch.float64), 12
    found = admissible_alpha(attention, x, depth, growth)
    J = dense(attention, x)
    assert float(found.jacobian) == pytest.approx(np.linalg.norm(J, 2), rel=1e-2)
    assert np.linalg.eigvalsh((J + J.T) / 2)[-1] > 0
    assert float(found.norm) == 0.0
    alpha = float(found.growth)
    grown = [np.linalg.norm(np.eye(len(J)) + a * J, 2) ** depth for a in (0.999 * alpha, 1.001 * alpha)]
    assert grown[0] <= growth <= grown[1]
    assert found.simple <= alpha * 1.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attention(10, 4), "`heads` must divide `dim`, 10, got 4"),
        (lambda: Transformer(norm="before"), "`norm` must be"),
        (lambda: Transformer(depth=0), "`depth` must be >= 1, got 0"),
        (lambda: Transformer(norm="deep", alpha="rezero"), "`alpha` must be a number, or"),
        (lambda: Patches(1, (28, 28), 5, 8), r"`patch` must divide the size \(28, 28\), got 5"),
        (lambda: Patches(1, (28, 28), 7, 8)(torch.zeros(1, 1, 14, 14)), r"`u` must be pictures \(B, channels, 28, 28\)"),
        (lambda: Tokens(5, 4, 8)(torch.zeros(1, 5, dtype=torch.long)), "`u` must be sequences of at most 4 symbols, got 5"),
        (lambda: admissible_alpha(lambda x: -x, torch.ones(1, 2, 3), 4, 1.0), "`growth` must be > 1, got 1.0"),
        (lambda: admissible_alpha(lambda x: -x, torch.ones(1, 2, 3), 0), "`depth` must be >= 1, got 0"),
    ],
)
def test_arguments_that_cannot_be(make, message):
    with pytest.raises(InputError, match=message):
        make()
