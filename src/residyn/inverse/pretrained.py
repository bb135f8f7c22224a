"""A trained `Unrolled` network from and to a safetensors file, and the one that ships."""

from __future__ import annotations

import json
import os
from importlib import resources

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from residyn.errors import InputError
from residyn.inverse.operators import Blur
from residyn.inverse.unrolled import ProximalBranch, Unrolled
from residyn.placing import put

KIND = "residyn.inverse.Unrolled/1"


def load(path: str | os.PathLike[str] | None = None) -> Unrolled:
    """Load a trained network whose branches are `ProximalBranch`es with the implicit data step.

    Args:
        path: A file of `save_network`; the network that ships if not given. It has five blocks and was trained for 90 s of one
            core by `examples/train_unrolled.py`, on pictures of scikit-image without the camera.

    Returns:
        The network, in evaluation mode; its operator is a placeholder, hand another to `forward`, as `deblur` does.

    Raises:
        InputError: If the file is not there or is no such network.

    >>> load().depth
    5
    """
    name = os.fspath(path) if path is not None else str(resources.files("residyn.inverse") / "data" / "unrolled.safetensors")
    try:
        with safe_open(name, framework="pt") as file:
            head = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"`weights` must be a safetensors file of an Unrolled network, got {name!r}: {error}") from None
    try:
        form = json.loads(head.get("form", "{}"))
        depth, width = int(form["depth"]), int(form["width"])
        if head.get("kind") != KIND or not (1 <= depth <= 1000 and 1 <= width <= 4096):
            raise KeyError("kind")
        network = _blank(depth, width)
        network.load_state_dict(tensors)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        what = str(error).splitlines()[0][:100]
        raise InputError(f"`weights` must hold a network written by save_network, got {name!r} ({what})") from None
    return network.eval().requires_grad_(False)


def save_network(network: Unrolled, path: str | os.PathLike[str], **about: str) -> None:
    """Write a network to a safetensors file, beside its place first and then moved there.

    Args:
        network: Of `ProximalBranch`es, with the implicit data step.
        path: The file.
        about: What else to write into its head: how it was trained.

    Raises:
        InputError: If it is of another form.
        ResidynError: If the disk refuses it.
    """
    branch = network.prox[0]
    if not isinstance(branch, ProximalBranch) or network.data != "proximal" or network.tied:
        raise InputError("`network` must be made of ProximalBranches with data='proximal', got another; save its state_dict")
    form = json.dumps({"depth": network.depth, "width": branch.first.out_channels})
    state = {name: value.detach().contiguous() for name, value in _own(network).items()}
    put(path, save(state, {"kind": KIND, "form": form, **about}))


def _blank(depth: int, width: int) -> Unrolled:
    point = Blur(torch.ones(1, 1), (16, 16), "circular")
    network = Unrolled(point, depth, ProximalBranch(width), data="proximal")
    network.op = torch.nn.Identity()  # type: ignore[assignment]
    return network


def _own(network: Unrolled) -> dict[str, torch.Tensor]:
    """Parameters without the operator's buffers."""
    return {name: value for name, value in network.state_dict().items() if not name.startswith("op.")}
