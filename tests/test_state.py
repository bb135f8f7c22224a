"""States of any structure as one row, and back."""

from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import residyn as rd
from residyn.state import Layout, leaves, rebuild

F64 = torch.float64


class Pair(NamedTuple):
    q: torch.Tensor
    p: torch.Tensor


def tensors(batch):
    shape = st.lists(st.integers(1, 3), max_size=3).map(lambda s: (batch, *s))
    return st.tuples(shape, st.sampled_from([torch.float64, torch.complex128])).map(
        lambda pair: torch.randn(pair[0], dtype=pair[1])
    )


def trees(batch):
    return st.recursive(
        tensors(batch),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(tuple),
            st.lists(inner, min_size=1, max_size=3),
            st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3),
            st.tuples(inner, inner).map(lambda pair: Pair(*pair)),
        ),
        max_leaves=5,
    )


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    else:
        for left, right in zip(a, b, strict=True):
            same(left, right)


@given(trees(batch=2), st.booleans())
def test_pack_and_unpack_are_inverse(tree, batched):
    layout = Layout.of(tree, batched=batched)
    row = layout.pack(tree)
    assert row.ndim == (2 if batched else 1)
    same(layout.unpack(row), tree)


@given(trees(batch=2), st.booleans())
def test_leading_axes_stay_in_front(tree, batched):
    layout = Layout.of(tree, batched=batched)
    row = layout.pack(tree)
    stacked = layout.unpack(torch.stack([row, 2 * row, 3 * row]))
    same(rebuild(tree, [leaf[0] for leaf in leaves(stacked)]), tree)
    same(rebuild(tree, [leaf[2] for leaf in leaves(stacked)]), rebuild(tree, [3 * leaf for leaf in leaves(tree)]))


@given(trees(batch=2), st.booleans(), st.floats(-2, 2))
def test_packing_is_linear_over_the_reals(tree, batched, c):
    layout = Layout.of(tree, batched=batched)
    scaled = rebuild(tree, [c * leaf for leaf in leaves(tree)])
    assert torch.equal(layout.pack(scaled), c * layout.pack(tree))


def test_gradients_pass_through_both_ways():
    tree = {"a": torch.randn(2, dtype=F64, requires_grad=True), "z": torch.randn(3, dtype=torch.complex128, requires_grad=True)}

    def there_and_back(a, z):
        layout = Layout.of({"a": a, "z": z}, batched=False)
        out = layout.unpack(layout.pack({"a": a, "z": z}))
        return out["a"], out["z"]

    assert torch.autograd.gradcheck(there_and_back, (tree["a"], tree["z"]))


# What f hands back is matched by name, not by position.


def oscillator(order):
    def f(t, s):
        slopes = {"x": s["v"], "v": -s["x"]}
        return {key: slopes[key] for key in order}

    return f


@pytest.mark.parametrize("order", ["xv", "vx"])
def test_a_dict_may_come_back_in_another_order(order):
    x0 = {"x": torch.ones(1, dtype=F64), "v": torch.zeros(1, dtype=F64)}
    x = rd.solve(oscillator(order), x0, [0.0, 1.0]).x
    torch.testing.assert_close(x["x"][-1], torch.tensor([1.0], dtype=F64).cos(), rtol=1e-5, atol=0)
    torch.testing.assert_close(x["v"][-1], -torch.tensor([1.0], dtype=F64).sin(), rtol=1e-5, atol=0)


def test_an_ordered_dict_is_a_dict():
    x0 = OrderedDict(b=torch.ones(1, dtype=F64), a=2 * torch.ones(2, dtype=F64))
    x = rd.solve(lambda t, s: {"a": -s["a"], "b": s["b"]}, x0, [0.0, 1.0]).x
    assert list(x) == ["b", "a"]
    torch.testing.assert_close(x["b"][-1], torch.ones(1, dtype=F64).exp(), rtol=1e-5, atol=0)


def test_a_named_tuple_stays_one():
    x0 = Pair(torch.ones(2, dtype=F64), torch.zeros(2, dtype=F64))
    x = rd.solve(lambda t, s: Pair(s.p, -s.q), x0, [0.0, 1.0]).x
    assert isinstance(x, Pair)
    torch.testing.assert_close(x.p[-1], -torch.ones(2, dtype=F64).sin(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("per_sample", [False, True])
def test_real_and_complex_together(per_sample):
    """A real amplitude beside a complex phase; each exact."""
    x0 = (torch.ones(2, 3, dtype=F64), torch.ones(2, dtype=torch.complex128))
    control = rd.Adaptive(rtol=1e-9, per_sample=per_sample)
    a, z = rd.solve(lambda t, s: (-s[0], 2j * s[1]), x0, [0.0, 0.3, 1.0], control=control).x
    assert a.dtype == F64
    assert z.dtype == torch.complex128
    torch.testing.assert_close(a[1], torch.full((2, 3), -0.3, dtype=F64).exp(), rtol=1e-7, atol=0)
    torch.testing.assert_close(z[-1], torch.full((2,), 2j, dtype=torch.complex128).exp(), rtol=1e-7, atol=0)


ONE = torch.ones(2, dtype=F64)


@pytest.mark.parametrize(
    ("x0", "words"),
    [
        (3.0, "`x0` must be a tensor, or a tuple or dict of tensors, got float"),
        ((ONE, 3.0), r"`x0\[1\]` must be a tensor.*got float"),
        ({"a": [ONE, "no"]}, r"`x0\['a'\]\[1\]` must be a tensor.*got str"),
        ((), "`x0` must hold at least one tensor, got none"),
        ((ONE, ONE.float()), "`x0` must have tensors of one precision, got .*float32.*convert"),
    ],
)
def test_a_state_that_is_none_is_refused(x0, words):
    with pytest.raises(rd.InputError, match=words):
        rd.solve(lambda t, x: x, x0, [0.0, 1.0])


def test_samples_must_agree():
    x0 = (torch.ones(2, 3), torch.ones(3))
    with pytest.raises(rd.InputError, match=r"`x0` must have the same number of samples.*\(2, 3\), \(3,\)"):
        rd.solve(lambda t, x: x, x0, [0.0, 1.0], control=rd.Adaptive(per_sample=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_one_device():
    with pytest.raises(rd.InputError, match="`x0` must lie on one device"):
        rd.solve(lambda t, x: x, (torch.ones(1), torch.ones(1, device="cuda")), [0.0, 1.0])


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda t, s: {"x": s["v"]}, "`f` must return a dict with the keys of x, .* got those of"),
        (lambda t, s: (s["v"], s["x"]), "`f` must return a dict with the keys of x, .* got tuple"),
        (lambda t, s: {"x": s["v"], "v": 1.0}, r"`f\(t, x\)\['v'\]` must be a tensor"),
        (lambda t, s: {"x": s["v"], "v": s["x"][:1]}, r"`f` must return .*shape.*\(2,\).*\(1,\)"),
        (lambda t, s: {"x": s["v"], "v": s["x"].float()}, "`f` must return .*dtype.*float64.*float32"),
        (lambda t, s: {"x": s["v"], "v": s["x"] * 1j}, "`f` must return .*dtype.*float64.*complex128"),
    ],
)
def test_f_must_keep_the_structure(f, words):
    with pytest.raises(rd.InputError, match=words):
        rd.solve(f, {"x": ONE, "v": ONE}, [0.0, 1.0])


@pytest.mark.parametrize("swap", [(0, 1), (1, 0)])
def test_f_must_not_make_real_what_is_complex(swap):
    x0 = (ONE, ONE + 0j)
    with pytest.raises(rd.InputError, match="`f` must return .*dtype"):
        rd.solve(lambda t, s: (s[swap[0]].abs() + 0j, s[1].real), x0, [0.0, 1.0])


def test_tuple_lengths_must_match():
    with pytest.raises(rd.InputError, match="`f` must return a tuple of 2 as in x, got 1 of them"):
        rd.solve(lambda t, s: (s[0],), (ONE, ONE), [0.0, 1.0])
