"""Low-rank adapters beside linear modules in the form of PEFT's LoRA: written, read, and merged into the weights."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError, ResidynError
from residyn.placing import draft_of
from residyn.transfer import branches
from residyn.transfer.adapters import Adapter, Adapters, adapters_of, check_name
from residyn.transfer.sites import CONVOLUTIONS, Site, beside

_CONFIG, _WEIGHTS, _FRONT = "adapter_config.json", "adapter_model.safetensors", "base_model.model."


def write(model: nn.Module, folder: str | os.PathLike[str], name: str = "default") -> None:
    """Write a low-rank adapter as PEFT's `PeftModel.from_pretrained(model, folder)` reads it.

    W·x + s·A(x) becomes W·x + (α/r)·B·(A·x) with α = r; gate, strength and sign are within B.

    Args:
        model: The model.
        folder: Where `adapter_config.json` and `adapter_model.safetensors` go; made if it is not there.
        name: The adapter.

    Raises:
        InputError: If there is no such adapter, or it has branches that are not linear, or norms or heads of its own.
        ResidynError: If the disk refuses it.

    Reference:
        Hu et al. (2021), "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.
    """
    from safetensors.torch import save_file

    adapters = adapters_of(model)
    adapter = adapters[name]
    _linear(adapter, name)
    made = {}
    for site, (down, up) in _products(adapters, name).items():
        made[f"{_FRONT}{site.module}.lora_A.weight"] = down
        made[f"{_FRONT}{site.module}.lora_B.weight"] = up
    transposed = any(_transposed(model.get_submodule(site.module)) for site in adapter.sites)
    about = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", None) or None,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": sorted({site.module for site in adapter.sites}),
    }
    home = Path(folder)
    draft = draft_of(home)
    try:
        draft.mkdir(parents=True)
        save_file({key: t.detach().cpu().contiguous().clone() for key, t in made.items()}, draft / _WEIGHTS, {"format": "pt"})
        (draft / _CONFIG).write_text(json.dumps(about, indent=2), "utf-8")
        home.mkdir(parents=True, exist_ok=True)
        for file in (_WEIGHTS, _CONFIG):
            (draft / file).replace(home / file)
    except OSError as error:
        raise ResidynError(f"{str(folder)!r} could not be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load_peft(model: nn.Module, folder: str | os.PathLike[str], name: str = "default") -> Adapters:
    """Put a LoRA that PEFT wrote on a model, and to work.

    Args:
        model: The model that it was trained on.
        folder: With `adapter_config.json` and `adapter_model.safetensors`.
        name: What to call it.

    Returns:
        The model's adapters.

    Raises:
        InputError: If the folder holds no LoRA, one with parts that are not known here (DoRA, biases, saved modules), or one of
            another model; the model is then as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        about = json.loads(Path(folder, _CONFIG).read_text("utf-8"))
        tensors = load_file(Path(folder, _WEIGHTS))
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise InputError(f"{folder}: must hold {_CONFIG} and {_WEIGHTS}, got: {error}; save_pretrained writes them") from None
    _plain(folder, about)
    known = model.__dict__.get("_residyn_adapters")
    check_name(known, name)
    modules = {path: module for path, module in model.named_modules() if path}
    start: dict[Site, dict[str, Tensor]] = {}
    for key, down in tensors.items():
        path, _, part = key.removeprefix(_FRONT).rpartition(".lora_")
        if part == "B.weight":
            continue
        up = tensors.get(key.replace(".lora_A.", ".lora_B."))
        if part != "A.weight" or up is None:
            raise InputError(f"{folder}: must hold pairs of lora_A and lora_B, got {key!r}; other parts are not known here")
        site = beside(modules[path], path) if path in modules else None
        if site is None:
            raise _foreign(folder, f"a branch at `{path}`, which is no linear module of it")
        rank = down.shape[0]
        shapes = branches.shapes(modules[path], site, "low_rank", rank)
        if tuple(down.shape) != shapes["down"] or tuple(up.flatten(1).shape) != shapes["up"]:
            raise _foreign(folder, f"{tuple(down.shape)} and {tuple(up.shape)} at `{path}`")
        factor = _scaling(about, path, rank)
        start[site] = {"down": down, "up": -factor * up.flatten(1), "gate": torch.ones(())}
    if not start:
        raise InputError(f"{folder}: must hold lora_A and lora_B, got none; other adapters of PEFT are not known here")
    widest = max(len(parts["down"]) for parts in start.values())
    for parts in start.values():  # ranks that differ by a pattern: the smaller ones are filled with zeros
        more = widest - len(parts["down"])
        parts["down"] = torch.cat([parts["down"], parts["down"].new_zeros(more, *parts["down"].shape[1:])])
        parts["up"] = torch.cat([parts["up"], parts["up"].new_zeros(len(parts["up"]), more)], 1)
    adapters = known or Adapters(model)
    adapters.put(name, Adapter("low_rank", widest, tuple(start), {}), start, {})
    adapters.freeze()
    adapters.use(name)
    return adapters


def merge(model: nn.Module, name: str = "default") -> None:
    """Add a low-rank adapter to the weights, W → W + s·B·A, and take it off: no more to compute, and no way back.

    Args:
        model: The model.
        name: The adapter.

    Raises:
        InputError: If there is no such adapter, it has branches that are not linear, or norms or heads of its own.
    """
    adapters = adapters_of(model)
    _linear(adapters[name], name)
    for site, (down, up) in _products(adapters, name).items():
        module: Any = model.get_submodule(site.module)
        with torch.no_grad():
            weight = module.weight
            added = up.flatten(1).double() @ down.flatten(1).double()
            added = added.T if _transposed(module) else added.reshape(weight.shape)
            weight.copy_((weight.double() + added).to(weight.dtype))
    adapters.remove(name)


def _products(adapters: Adapters, name: str) -> dict[Site, tuple[Tensor, Tensor]]:
    """A (r, n, …) and B (m, r, …) of each branch, with all factors in B."""
    made = {}
    for site in adapters[name].sites:
        module = adapters.model.get_submodule(site.module)
        own = {part: t.detach() for part, t in branches.tensors(module, name, site).items()}
        up = -own["gate"] * adapters.switch.strength.get(name, 1.0) * own["up"]
        if isinstance(module, CONVOLUTIONS):
            up = up[(...,) + (None,) * len(module.kernel_size)]
        made[site] = own["down"], up
    return made


def _linear(adapter: Adapter, name: str) -> None:
    """Refuse what cannot be written as a change of weights."""
    bent = next((site.module for site in adapter.sites if not site.inputs), None)
    if bent is not None:
        raise InputError(
            f'`name` must be an adapter of kind "low_rank" beside linear modules, got {name!r} with a branch behind `{bent}`; '
            'add_adapters(…, modules=[…], kind="low_rank") makes one'
        )
    if adapter.owned:
        raise InputError(
            f"`name` must be an adapter without norms and heads of its own, got {name!r}, which has one of "
            f"`{next(iter(adapter.owned))}`; pass norms=False and no heads"
        )


def _transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _plain(folder: Any, about: Any) -> None:
    """Refuse configurations that say more than W + (α/r)·B·A."""
    if not isinstance(about, dict) or about.get("peft_type") != "LORA":
        got = about.get("peft_type") if isinstance(about, dict) else type(about).__name__
        raise InputError(f"{folder}: must hold an adapter of peft_type LORA, got {got!r}; other kinds are not known here")
    for key, plain in (("use_dora", False), ("bias", "none"), ("modules_to_save", None), ("trainable_token_indices", None)):
        if about.get(key, plain) not in (plain, None, []):
            raise InputError(f"{folder}: must be a plain LoRA, got {key}={about[key]!r}; merge it with PEFT and load the model")


def _scaling(about: dict[str, Any], path: str, rank: int) -> float:
    """α/r, or α/√r."""
    alpha: Any = about.get("lora_alpha", rank)
    patterns = about.get("alpha_pattern") or {}
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if path == pattern or path.endswith(f".{pattern}"):
            alpha = value
    if not isinstance(alpha, int | float) or not isinstance(patterns, dict) or not abs(alpha) < 1e30:
        raise InputError(
            f"{_CONFIG}: `lora_alpha` and those of `alpha_pattern` must be numbers, got {str(alpha)[:40]!r}; save it again"
        )
    return float(alpha) / (math.sqrt(rank) if about.get("use_rslora") else rank)


def _foreign(folder: Any, what: str) -> InputError:
    return InputError(
        f"{folder}: must hold an adapter of this model, got one with {what}; load it into the model it was made for"
    )
