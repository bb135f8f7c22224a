"""The finder on architectures that it was not made on."""

import pytest
import torch

import residyn as rd

from .further import FURTHER

# transformers warns about its own affairs while models are built
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("name", FURTHER)
def test_number_of_blocks(name):
    build, blocks = FURTHER[name]
    torch.manual_seed(0)
    model, args, kwargs = build()
    found = rd.audit(model, *args, budget=0, **kwargs)
    assert len(found.blocks) == blocks, [b.name for b in found.blocks]
    assert not any("disagree" in line for line in found.warnings), found.warnings
