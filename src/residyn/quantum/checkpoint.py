"""A propagation on disk: one safetensors file, whole or not there, that only its own set-up takes up again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError, ResidynError
from residyn.placing import placed
from residyn.quantum.pulses import Pulse, field_at

SCHEMA = "residyn.quantum.checkpoint/2"
_KEY = "residyn"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: arrays to the step reached, the state, what the scheme carries, and the counts."""

    step: int
    observed: Tensor
    x: Tensor
    memory: tuple[Tensor, ...]
    builds: int
    extra: int
    ready: str
    slope: Tensor
    worst: float


class Checkpoint:
    """A file that a propagation writes as it goes, and takes up again.

    Args:
        path: The file.
        setup: What must be equal for it to be taken up: molecule, scheme, step, kick, Fock matrix.
        pulse: E(t), of which a digest of its values to the step reached is kept.
        dt: Time step.

    Raises:
        InputError: If the folder is not there or not writable.
    """

    def __init__(self, path: str | os.PathLike[str], setup: Mapping[str, Any], pulse: Pulse | None, dt: float) -> None:
        self.path = Path(os.path.realpath(path))
        self.setup: dict[str, Any] = json.loads(json.dumps(dict(setup)))
        self.pulse, self.dt = pulse, dt
        if self.path.is_dir() or not self.path.parent.is_dir() or not os.access(self.path.parent, os.W_OK | os.X_OK):
            raise InputError(
                f"`checkpoint` must be a file in a folder that exists and may be written to, got {os.fspath(path)!r}; "
                "make the folder first"
            )

    def save(self, saved: Saved) -> None:
        """Write beside the place, then move there: a kill at any moment leaves the old file or the new one.

        Raises:
            ResidynError: If the disk refuses it.
        """
        from safetensors.torch import save

        tensors = {"observed": saved.observed, "slope": saved.slope}
        complexes = {"x": saved.x} | {f"memory.{i}": tensor for i, tensor in enumerate(saved.memory)}
        tensors |= {name: torch.view_as_real(tensor.resolve_conj()) for name, tensor in complexes.items()}
        about = {
            "schema": SCHEMA,
            "setup": self.setup,
            "step": saved.step,
            "builds": saved.builds,
            "extra": saved.extra,
            "ready": saved.ready,
            "worst": saved.worst,
            "field": self._field(saved.step),
            "strides": {name: tensor.stride() for name, tensor in complexes.items()},
        }
        data = save({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, {_KEY: json.dumps(about)})
        try:
            with placed(self.path) as draft:
                draft.write_bytes(data)
        except OSError as error:
            raise ResidynError(
                f"checkpoint {str(self.path)!r} could not be written: {error.strerror}; the one before it is unchanged"
            ) from error

    def load(self) -> Saved | None:
        """What the file holds; `None` if there is none.

        Raises:
            InputError: If the file is damaged, or was made by another set-up.
        """
        if not self.path.exists():
            return None
        tensors, about = self._read()
        self._compare(about)
        try:
            return self._saved(tensors, about)
        except (TypeError, ValueError, LookupError, RuntimeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise self._damaged(str(error)[:120]) from None

    def _saved(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> Saved:
        step, builds, extra = (int(about[key]) for key in ("step", "builds", "extra"))
        if about["field"] != self._field(step):
            raise self._refusal("another `pulse`")
        memory: list[Tensor] = []
        while f"memory.{len(memory)}" in tensors:
            memory.append(_laid_out(tensors, f"memory.{len(memory)}", about))
        x = _laid_out(tensors, "x", about)
        ready, worst = str(about["ready"]), float(about["worst"])
        return Saved(step, tensors["observed"], x, tuple(memory), builds, extra, ready, tensors["slope"], worst)

    def _read(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                about = json.loads((file.metadata() or {}).get(_KEY, "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from None
        if not isinstance(about, dict) or about.get("schema") != SCHEMA or not isinstance(about.get("setup"), dict):
            raise self._damaged("it was not written by this version of `propagate`")
        whole = {"step", "builds", "extra", "ready", "worst", "field", "strides"} <= set(about) and {
            "observed",
            "x",
            "slope",
        } <= set(tensors)
        if not whole or len(tensors["observed"]) != about["step"] + 1:
            raise self._damaged("parts of it are missing")
        return tensors, about

    def _compare(self, about: dict[str, Any]) -> None:
        for key, want in self.setup.items():
            got = about["setup"].get(key)
            if got != want:
                told = "another `molecule`" if key == "molecule" else f"`{key}` {got}, now {want}"
                raise self._refusal(told)

    def _refusal(self, told: str) -> InputError:
        return InputError(
            f"`checkpoint` must be of the same run, got {str(self.path)!r}, which was made with {told}; "
            "give another file, or delete this one"
        )

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"`checkpoint` must be whole, got {str(self.path)!r}: {' '.join(why.split())}; delete it, and the run starts anew"
        )

    def _field(self, step: int) -> str:
        """A digest of E at every half step so far; empty without a pulse."""
        if self.pulse is None:
            return ""
        digest = hashlib.sha256()
        for k in range(2 * step + 1):
            field = field_at(self.pulse, 0.5 * k * self.dt)
            digest.update(b"0" if field is None else field.numpy().tobytes())
        return digest.hexdigest()


def _laid_out(tensors: dict[str, Tensor], name: str, about: dict[str, Any]) -> Tensor:
    """A complex tensor in the memory layout that it had: products of matrices round differently in another one."""
    value = torch.view_as_complex(tensors[name])
    placed = torch.empty_strided(value.shape, about["strides"][name], dtype=value.dtype)
    return placed.copy_(value)
