"""Initialisations with which residual networks of any depth train without norms: each branch starts as nothing, or small."""

from __future__ import annotations

import math

import torch
from torch import nn

from residyn.errors import InputError
from residyn.step import Residual

_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fixup_(model: nn.Module) -> nn.Module:
    """Fixup: in each of L branches of m layers the last layer starts at zero, and the others are scaled by L^(-1/(2m - 2)).

    The network starts as its identity path, and an update of the weights changes its output by Θ(η) whatever the depth is.
    Branches of one layer start at zero; other layers (norms, biases) are left alone.

    Args:
        model: A network of `Residual` blocks, changed in place; its stem and head are left alone.

    Returns:
        The model.

    Raises:
        InputError: If there is no `Residual` block, or a branch has no linear layer to start at zero.

    Reference:
        Zhang, Dauphin & Ma (2019), "Fixup Initialization: Residual Learning Without Normalization", arXiv:1901.09321.

    >>> from residyn.nets import MLP, ResNet
    >>> net = fixup_(ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(9)], nn.Linear(8, 2), step=1.0))
    >>> bool(net.body[0].branch[2].weight.any())
    False
    """
    blocks = _blocks(model)
    with torch.no_grad():
        for block in blocks:
            layers = [m for m in _branch(block).modules() if isinstance(m, _WEIGHTS)]
            if not layers:
                raise InputError("`model` must have a linear or convolutional layer in each branch, got none; use skip_init")
            for layer in layers[:-1]:
                layer.weight.mul_(len(blocks) ** (-1 / (2 * len(layers) - 2)))
            layers[-1].weight.zero_()
            if layers[-1].bias is not None:
                layers[-1].bias.zero_()
    return model


def skip_init(model: nn.Module, init: float = 0.0) -> nn.Module:
    """SkipInit: each block gets one learned number, x⁺ = x + h·a·F(x), that starts at 0 (or at `init`, such as 1/√L).

    It does for any branch what a norm in it does at the start, which is to let the identity path prevail.

    Args:
        model: A network of `Residual` blocks, changed in place: the step of each becomes a parameter that starts at h·`init`.
        init: Where a starts.

    Returns:
        The model.

    Raises:
        InputError: If there is no `Residual` block, or `init` is not finite.

    Reference:
        De & Smith (2020), "Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks",
        arXiv:2002.10444; Bachlechner, Majumder, Mao, Cottrell & McAuley (2020), "ReZero is All You Need", arXiv:2003.04887.

    >>> from residyn.nets import MLP, ResNet
    >>> net = skip_init(ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(9)], nn.Linear(8, 2)))
    >>> net.body[0].step
    Parameter containing:
    tensor(0., requires_grad=True)
    """
    if not math.isfinite(init):
        raise InputError(f"`init` must be finite, got {init}; 0 starts as the identity")
    for block in _blocks(model):
        start = torch.as_tensor(block.step).detach() * init
        weight = next((p for p in block.parameters() if p.is_floating_point()), start)
        block._buffers.pop("step", None)
        block.__dict__.pop("step", None)
        block.step = nn.Parameter(start.to(weight.device, weight.dtype))
    return model


def _blocks(model: nn.Module) -> list[Residual]:
    found = [module for module in model.modules() if isinstance(module, Residual)]
    if not found:
        raise InputError("`model` must have Residual blocks, got none; audit(model, x).retrofit changes other ones")
    return found


def _branch(block: Residual) -> nn.Module:
    return block.branch if isinstance(block.branch, nn.Module) else nn.Module()
