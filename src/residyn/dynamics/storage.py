"""A model on disk: weights as safetensors, all else as JSON beside them; nothing is ever executed on reading."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from residyn.dynamics.model import Model
from residyn.dynamics.networks import Scaled, mlp
from residyn.dynamics.theory import Scales
from residyn.errors import InputError
from residyn.placing import placed
from residyn.results import SCHEMA as RESULT
from residyn.results import Result, Section

SCHEMA = "residyn.dynamics.model/1"


def save(model: Model, path: str | Path) -> None:
    """Write a model; see `Model.save`."""
    from safetensors.torch import save as serialise

    target, side = _paths(path)
    if not target.parent.is_dir():
        raise InputError(f"`path` must be in a folder that exists, got {str(path)!r}; make '{target.parent}' first")
    if target.is_dir():
        raise InputError(f"`path` must be a file, got the folder {str(path)!r}; add a file name")
    weights = {name: value.detach().cpu().contiguous() for name, value in model.net.state_dict().items()}
    text = json.dumps(_describe(model), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    # the description last: a reader that finds it finds its weights too
    _replace(target, lambda draft: draft.write_bytes(serialise(weights)))
    _replace(side, lambda draft: _write_text(draft, text))


def load(path: str | Path, network: nn.Module | None) -> Model:
    """Read a model; see `Model.load`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    target, side = _paths(path)
    about = _read(side)
    try:
        weights = load_file(target)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{target}: must be a safetensors file, got: {error}; save the model again") from None
    try:
        return _build(about, weights, network)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        first = (str(error).splitlines() or [""])[0]
        raise InputError(f"{side}: must describe the weights beside it, got: {first}; save the model again") from None


def _describe(model: Model) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "target": model.target,
        "rule": model.rule,
        "names": model.names,
        "controls": model.controls,
        "order": model.order,
        "hidden": model.hidden,
        "steps": list(model.steps),
        "crossover": model.crossover if math.isfinite(model.crossover) else None,
        "scales": asdict(model.scales),
        # a result knows how to write what JSON has no form for
        "findings": Result("model", "", [Section("fit", "", findings=model.findings)]).to_dict()["sections"][0]["findings"],
    }


def _build(about: dict[str, Any], weights: dict[str, torch.Tensor], network: nn.Module | None) -> Model:
    names, controls, hidden = list(map(str, about["names"])), list(map(str, about["controls"])), about["hidden"]
    if about["target"] not in ("derivative", "flow") or about["rule"] not in ("trapezoid", "euler", "measured"):
        raise InputError(f"`target` and `rule` must be known ones, got {about['target']!r} and {about['rule']!r}")
    if about["order"] not in (1, 2) or not all(w.isfinite().all() for w in weights.values()):
        raise InputError(f"`order` must be 1 or 2 and all weights finite, got order {about['order']!r}; save the model again")
    width, inputs = len(names), len(weights["centre"])
    if hidden is None and network is None:
        raise InputError("`model` must be handed in: this file holds the weights of a network of the caller's own, not ours")
    net = network if network is not None else mlp(inputs, width // int(about["order"]), [int(w) for w in hidden], 0)
    # four buffers of their own: weights are copied into them in place
    centre, spread, shift, scale = (torch.zeros(n, dtype=torch.float64) for n in (inputs, inputs, width, width))
    scaled = Scaled(net.to(torch.float64), centre, spread, shift, scale, int(about["order"]))
    scaled.load_state_dict(weights)
    least, typical, most = map(float, about["steps"])
    limit = math.inf if about["crossover"] is None else float(about["crossover"])
    section = {"id": "", "title": "", "findings": about["findings"]}
    findings = Result.from_dict({"schema": RESULT, "kind": "model", "title": "", "sections": [section]}).findings
    return Model(
        scaled, about["target"], about["rule"], limit, Scales(**about["scales"]), names, (least, typical, most), controls,
        int(about["order"]), hidden, findings,
    )  # fmt: skip


def _paths(path: str | Path) -> tuple[Path, Path]:
    target = Path(path)
    if target.suffix != ".safetensors":
        raise InputError(f"`path` must end in .safetensors, got {str(path)!r}; the JSON file is written beside it")
    return target, target.with_suffix(".json")


def _read(side: Path) -> dict[str, Any]:
    try:
        about = json.loads(side.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{side}: must lie beside the weights, got: {error.strerror}; copy both files") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{side}: must be JSON, got: {error}; save the model again") from None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        got = about.get("schema") if isinstance(about, dict) else type(about).__name__
        raise InputError(f"{side}: `schema` must be {SCHEMA!r}, got {got!r}; save the model again with this version")
    return about


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    """Write beside the place, then move there: half a file is never seen."""
    try:
        with placed(target) as draft:
            write(draft)
    except OSError as error:
        raise InputError(f"`path` must be writable, got {str(target)!r}: {error.strerror}; choose another folder") from None


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
