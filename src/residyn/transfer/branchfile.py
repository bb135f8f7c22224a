"""The corrections alone on disk, with a fingerprint of the model they belong to; nothing is executed on reading."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.training.storage import load_weights, save_weights
from residyn.transfer.correction import Adapted, Correction
from residyn.transfer.mapping import Affine
from residyn.transfer.units import Units

SCHEMA = "residyn.transfer.adapted/1"
_MODEL = "model."


def save_adapted(adapted: Adapted, path: str | os.PathLike[str], *, whole: bool = False) -> None:
    """Write the corrections of an adapted model.

    Args:
        adapted: `Adaptation.model`.
        path: A file ending in `.safetensors`.
        whole: Whether the frozen model's weights are written too.

    Raises:
        InputError: If the ending or the folder is wrong.
        ResidynError: If the disk refuses it.
    """
    about: dict[str, Any] = {"schema": SCHEMA, "model": fingerprint(adapted.model), "corrections": {}}
    for place, made in adapted.corrections.items():
        assert isinstance(made, Correction)
        about["corrections"][place] = {"shape": list(made.shape), "width": made.width, "start": made.start is not None}
    tensors = dict(adapted.corrections.state_dict())
    if whole:
        tensors |= {f"{_MODEL}{name}": value for name, value in adapted.model.state_dict().items()}
    save_weights(path, tensors, about)


def load_adapted(path: str | os.PathLike[str], model: nn.Module, sample: Tensor) -> Adapted:
    """A model with the corrections of a file.

    Args:
        path: What `save_adapted` wrote.
        model: The source model that they were made for; copied. Where the file holds its weights, they are filled in.
        sample: Two inputs, `(2, …)`.

    Returns:
        The adapted model.

    Raises:
        InputError: If the file is none of these, or of another model.
    """
    tensors, about = load_weights(path)
    if about.get("schema") != SCHEMA:
        raise InputError(f"{path}: must hold the corrections of an adapted model, got {about.get('schema')!r}; save it again")
    held = {name.removeprefix(_MODEL): tensors.pop(name) for name in list(tensors) if name.startswith(_MODEL)}
    adapted = Adapted(model, sample)
    if held:
        try:
            adapted.model.load_state_dict(held)
        except RuntimeError as error:
            first = (str(error).splitlines() or [""])[0]
            raise InputError(f"{path}: must hold weights of this model, got: {first[:120]}; build it as it was built") from None
    found = fingerprint(adapted.model)
    if about.get("model") != found:
        raise InputError(
            f"{path}: must be for this model ({found}), got corrections of another one ({about.get('model')}); hand in the "
            "model it was adapted from"
        )
    try:
        for place, form in about["corrections"].items():
            adapted.corrections[place] = _empty(
                tensors, place, tuple(map(int, form["shape"])), int(form["width"]), form["start"]
            )
            tensors.setdefault(f"{place}.zero", torch.zeros(()))  # files of before there were units
            tensors.setdefault(f"{place}.one", torch.ones(()))
        adapted.corrections.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path}: must hold what its header says, got: {first[:120]}; save it again") from None
    for place, made in adapted.corrections.items():
        if adapted.shapes.get(place) != getattr(made, "shape", None):
            raise InputError(
                f"{path}: must fit samples of shape {tuple(sample.shape[1:])}, got others; hand in such as it was made for"
            )
    return adapted.requires_grad_(False)


def fingerprint(model: nn.Module) -> str:
    """Sixteen hexadecimal digits that name, shape and value of every parameter and buffer decide.

    >>> fingerprint(nn.Identity())
    'e3b0c44298fc1c14'
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous()
            digest.update(f"{name}{tuple(plain.shape)}{plain.dtype}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()[:16]


def _empty(tensors: dict[str, Tensor], place: str, shape: tuple[int, ...], width: int, start: bool) -> Correction:
    mapped = None
    if start:
        mapped = Affine(*(torch.zeros_like(tensors[f"{place}.start.{part}"]) for part in ("start", "matrix", "end")))
    own = [tensors.get(f"{place}.{part}", torch.zeros(())) for part in ("zero", "one")]
    if any(part.ndim and part.shape != shape for part in own):
        raise ValueError(f"units of {tuple(own[0].shape)} and {tuple(own[1].shape)} for samples of {shape}")
    return Correction(shape, width, mapped, torch.Generator(), Units(*own)).to(tensors[f"{place}.down"].dtype)
