"""Tensors on disk with a JSON header in one safetensors file: whole or not there, and nothing is executed on reading."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError, ResidynError
from residyn.placing import placed

_KEY = "residyn"


def save_weights(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and what is to be known of them, beside the place first and then moved there.

    A reader, or a run that goes on after a power cut, finds the old file or the new one.

    Args:
        path: The file, ending in `.safetensors`.
        tensors: Names and tensors.
        about: Plain JSON values.

    Raises:
        InputError: If the ending or the folder is wrong.
        ResidynError: If the disk refuses it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = check_weights(path)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        with placed(target) as draft:
            save_file(plain, draft, {_KEY: json.dumps(dict(about), ensure_ascii=False, allow_nan=True)})
    except (OSError, SafetensorError) as error:  # safetensors has a word of its own for a full disk
        raise ResidynError(f"{str(path)!r} could not be written: {error}; the file that was there is unchanged") from error


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_weights` wrote.

    Args:
        path: The file.

    Returns:
        The tensors, and what is to be known of them.

    Raises:
        InputError: If the file is not there, cut off, or was not written by `save_weights`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise InputError(f"{path}: must be a file that can be read, got none; give the path that was saved to") from None
    except (SafetensorError, OSError, ValueError, RecursionError, torch.cuda.OutOfMemoryError) as error:
        raise InputError(f"{path}: must be a safetensors file, got: {error}; save it again") from None
    if not isinstance(about, dict):
        raise InputError(f"{path}: must be a file written by Residyn, got safetensors without its header; save it again")
    return tensors, about


def check_weights(path: str | os.PathLike[str]) -> Path:
    """Refuse a file of weights that could not be written, before a long job rather than after it."""
    target = Path(os.path.realpath(path))
    if target.suffix != ".safetensors" or target.is_dir():
        raise InputError(f"`path` must be a file that ends in .safetensors, got {os.fspath(path)!r}; add the ending")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"`path` must be in a folder that exists and may be written to, got {os.fspath(path)!r}; make it first"
        )
    return target
