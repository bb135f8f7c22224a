"""The finder on architectures beyond its table."""

import pytest
import torch

import residyn as rd

from .variants import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_kinds(name):
    make, inputs, kinds = VARIANTS[name]
    torch.manual_seed(0)
    found = rd.audit(make(), *(i() for i in inputs), budget=0)
    assert [b.kind for b in found.blocks] == kinds, (found.blocks, found.others)


@pytest.mark.parametrize("name", VARIANTS)
def test_measured(name):
    """Whatever the style, blocks that are found are measured, or the report says why not."""
    make, inputs, kinds = VARIANTS[name]
    torch.manual_seed(0)
    found = rd.audit(make(), *(i() for i in inputs), budget=20)
    assert len(found.blocks) == len(kinds)
    for block in found.blocks:
        assert block.ratio is not None or found.warnings
        if block.bound is not None and block.jacobian_norm is not None:
            assert block.jacobian_norm <= block.bound * (
                1 + 1e-5
            )  # a lower and an upper bound of the same, in single precision
