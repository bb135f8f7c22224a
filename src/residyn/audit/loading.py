"""Models from what a user types: an import path, a saved program, or a folder of transformers; no file runs code of its own."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from residyn.audit.program import inspect
from residyn.errors import InputError, require

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


def load(model: str, weights: str | None = None) -> nn.Module:
    """Load a model.

    Args:
        model: `package.module:factory` (a function, class or module object), a `torch.export` program `FILE.pt2`, or
            `hf:DIRECTORY` as transformers saves it.
        weights: For an import path, a safetensors file (or a state dict that loads with `weights_only`).

    Returns:
        The model.

    Raises:
        InputError: If it is none of these, cannot be loaded, or would run code from a file.

    >>> type(load("torch.nn:Identity")).__name__
    'Identity'
    """
    if model.startswith("hf:"):
        _refuse_weights(weights, "a folder of transformers, which has its own")
        return _folder(model[3:])
    ending = Path(model).suffix.lower()
    if ending == ".pt2":
        _refuse_weights(weights, "a saved program, which has its own")
        return program(model)
    if ending == ".safetensors" or ending in _PICKLES:
        _refuse_file(model, ending)
    if ":" not in model:
        hint = f"hf:{model} is a folder of transformers" if Path(model).is_dir() else "e.g. mypackage.nets:make_resnet"
        raise InputError(f"`MODEL` must be package.module:factory, FILE.pt2 or hf:DIRECTORY, got {model!r}; {hint}")
    made = _imported(model)
    if weights is not None:
        _fill(made, weights)
    return made


def _refuse_weights(weights: str | None, what: str) -> None:
    if weights is not None:
        raise InputError(f"`--weights` must come with package.module:factory, got {what}; leave it out")


def _refuse_file(path: str, ending: str) -> None:
    """Say of a file of weights what it is and how to use it; a pickle with code in it is told as such."""
    if ending == ".safetensors":
        _weights(path)
        raise InputError(
            f"`MODEL` must say how the network is built, got the weights {path!r}; hand them in beside it: "
            f"package.module:factory --weights {path}"
        )
    _weights(path)
    raise InputError(
        f"`MODEL` must say how the network is built, got the pickled weights {path!r}; save them with safetensors and hand "
        "them in beside it: package.module:factory --weights FILE.safetensors"
    )


def _imported(path: str) -> nn.Module:
    """What an import path that the user typed names; the current folder counts as well."""
    name, _, attribute = path.partition(":")
    with _here():
        try:
            module: Any = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever the user's own code does while it is imported
            what = _line(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {_line(error)}"
            raise InputError(
                f"`MODEL` must name a module that can be imported, got {name!r}: {what}; run where it can be, or install it"
            ) from error
        made: Any = module
        for part in attribute.split("."):
            if not hasattr(made, part):
                names = [n for n in dir(made) if not n.startswith("_") and callable(getattr(made, n))]
                raise InputError(f"`MODEL` must name something in `{name}`, got {part!r}; it has {', '.join(names[:8])}")
            made = getattr(made, part)
        if not isinstance(made, nn.Module):
            if not callable(made):
                raise InputError(f"`MODEL` must name a factory or a module, got {path!r}, which is {type(made).__name__}")
            try:
                made = made()
            except (Exception, SystemExit) as error:
                raise InputError(
                    f"`MODEL` must name a factory that needs no arguments, got {type(error).__name__} from {path}(): "
                    f"{_line(error)}"
                ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"`MODEL` must name a factory of a torch.nn.Module, got {type(made).__name__} from {path}()")
    return made


@contextlib.contextmanager
def _here() -> Iterator[None]:
    """The current folder can be imported from."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _fill(model: nn.Module, path: str) -> None:
    """Put weights into a model; all must fit."""
    state = _weights(path)
    try:
        missing, strange = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"`--weights` must fit the model, got {path!r}: {_line(error, 2)}") from error
    if missing or strange:
        raise InputError(
            f"`--weights` must fit the model, got {path!r} with {len(missing)} missing ({', '.join(missing[:3]) or 'none'}) "
            f"and {len(strange)} unknown ({', '.join(strange[:3]) or 'none'}); are they of another architecture?"
        )


_BROKEN = (
    pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, AttributeError, EOFError, ValueError, LookupError, TypeError,
)  # fmt: skip
"""What a pickle that is damaged, or more than weights, ends in."""


def _weights(path: str) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a pickle that holds nothing but tensors and plain containers."""
    check_file(path, "weights")
    if Path(path).suffix.lower() == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: must be a safetensors file, got: {_line(error)}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN as error:
        raise InputError(
            f"{path}: must hold weights only, got a pickle that would run code or no pickle of torch; it was not run. Save the "
            "state dict with safetensors.torch.save_file"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: must be a state dict, got {type(state).__name__}; save model.state_dict() with safetensors")
    return state


def check_file(path: str, what: str) -> None:
    """Refuse a path at which there is no file.

    Raises:
        InputError: If there is none.
    """
    if not Path(path).is_file():
        got = "a folder" if Path(path).is_dir() else "nothing there"
        raise InputError(f"`{what}` must be a file that can be read, got {path!r}: {got}; check the path")


def program(path: str) -> nn.Module:
    """A program of `torch.export`, with the modules it had.

    Args:
        path: The `.pt2` file.

    Raises:
        InputError: If the file is none, or holds anything that loading would run.
    """
    check_file(path, "MODEL")
    inspect(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own affairs
        try:
            loaded = torch.export.load(path)
        except Exception as error:
            raise InputError(f"{path}: must be a program of torch.export.save, got: {_line(error)}") from error
        try:
            made: nn.Module = torch.export.unflatten(loaded)
        except Exception:  # noqa: BLE001 - some programs have no modules to go back to
            made = loaded.module()
    given = loaded.example_inputs
    made.__dict__["residyn_examples"] = given if isinstance(given, tuple) else None
    return made


def _folder(path: str) -> nn.Module:
    """A model of transformers from a folder: no download, no code from it."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise InputError(f"`MODEL` must be hf:DIRECTORY with a config.json in it, got {path!r}; nothing is downloaded")
    transformers = require("transformers", "hub")
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(path, **options)
        named = [getattr(transformers, name, None) for name in config.architectures or ()]
        kind = next((k for k in named if k is not None), transformers.AutoModel)
        found = any(folder.glob("*.safetensors"))
        bar = transformers.utils.logging
        shown = bar.is_progress_bar_enabled()
        bar.disable_progress_bar()
        try:
            made: nn.Module = kind.from_pretrained(path, use_safetensors=found, local_files_only=True)
        finally:
            if shown:
                bar.enable_progress_bar()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"`MODEL` must be a folder that transformers can load, got {path!r}: {_line(error)}") from error
    return made


def _line(error: BaseException, lines: int = 1) -> str:
    found = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (" ".join(found[:lines]) or type(error).__name__)[:200]
