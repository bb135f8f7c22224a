"""Inputs from files, or made up to a shape: arrays, tensors, pictures, texts; nothing is unpickled."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from residyn.arrays import read_npy, read_npz
from residyn.audit.loading import check_file
from residyn.errors import InputError, require

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "merges.txt",
    "tokenizer_config.json",
)  # fmt: skip
_LABELS_BYTES = 100_000_000
_LABELS = ("labels", "label", "targets", "target", "y")
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "none": ((0.0,) * 3, (1.0,) * 3),
}


@dataclass
class Given:
    """What a model is to be called with.

    Args:
        args: Inputs by position.
        kwargs: Inputs by name.
        labels: Class numbers or target values, if there are any.
        where: What was read, or made up.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    labels: Tensor | None = None
    where: str = ""


def read(
    path: str, model: nn.Module, *, home: str = "", size: int = 224, normalise: str = "imagenet", length: int = 128
) -> Given:
    """Read inputs from a file.

    Args:
        path: `.npz` or `.safetensors` (arrays by the names of the forward's arguments; one array of another name is the input;
            `labels` or `targets` are the labels), `.npy`, a picture, or a text with a sample a line.
        model: The model, for the names it takes and the precision it computes in.
        home: Folder of the tokenizer, for texts.
        size: Side to which pictures are resized and cropped.
        normalise: `"imagenet"`, `"half"` (to -1 … 1) or `"none"` (0 … 1).
        length: Most tokens of a text.

    Returns:
        The inputs.

    Raises:
        InputError: If the file cannot be read or does not fit the model.
    """
    check_file(path, "INPUT")
    ending = Path(path).suffix.lower()
    if ending in (".npz", ".npy"):
        return _given(path, _numpy(path), model)
    if ending == ".safetensors":
        return _given(path, _safe(path), model)
    if ending in PICTURES:
        return Given((_picture(path, size, normalise).to(precision(model)),), {}, None, path)
    if ending == ".txt":
        return _text(path, home, length)
    raise InputError(
        f"`INPUT` must end in .npz, .npy, .safetensors, .txt or be a picture, got {path!r}; save it as one of these"
    )


def labels(path: str) -> Tensor:
    """Read labels: `.npy`, `.npz`, `.safetensors`, or a text with a class number a line.

    Raises:
        InputError: If the file cannot be read.
    """
    check_file(path, "labels")
    ending = Path(path).suffix.lower()
    if ending in (".npz", ".npy", ".safetensors"):
        found = _safe(path) if ending == ".safetensors" else _numpy(path)
        return next((found[k] for k in _LABELS if k in found), next(iter(found.values())))
    if Path(path).stat().st_size > _LABELS_BYTES:
        raise InputError(
            f"{path}: must hold at most {_LABELS_BYTES:,} bytes of class numbers as text, got more; save them as .npy"
        )
    try:
        words = re.split(r"[\s,;]+", Path(path).read_text("utf-8").strip())
        return torch.tensor([int(word) for word in words if word])
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: must hold a whole class number a line, got: {str(error)[:80]}") from error


def made(shapes: list[str], model: nn.Module, seed: int) -> Given:
    """Inputs that are made up: normal numbers of the shapes given, the examples of a program, or what a configuration tells.

    Args:
        shapes: `"2,3,32,32"` for numbers; `"2,64:1000"` for whole numbers below 1000.
        model: The model.
        seed: Seed of the numbers.

    Raises:
        InputError: If a shape is not one, or none is given and the model does not tell.
    """
    generator = torch.Generator().manual_seed(seed)
    if shapes:
        return Given(tuple(_filled(text, model, generator) for text in shapes), where=f"made up: {' '.join(shapes)}")
    examples = getattr(model, "residyn_examples", None)
    if examples is not None:
        return Given(tuple(examples[0]), dict(examples[1]), where="the examples of the program")
    config = getattr(model, "config", None)
    if config is not None and getattr(model, "main_input_name", "") == "pixel_values":
        side, channels = getattr(config, "image_size", 224), getattr(config, "num_channels", 3)
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        pixels = torch.randn(4, channels, height, width, generator=generator).to(precision(model))
        return Given((), {"pixel_values": pixels}, where=f"made up: pixels of {height}×{width}")
    wanted = getattr(model, "main_input_name", "input_ids")
    if config is not None and getattr(config, "vocab_size", None) and wanted == "input_ids":
        ids = torch.randint(min(999, config.vocab_size - 1), config.vocab_size, (4, 64), generator=generator)
        given = {"input_ids": ids}
        if getattr(config, "is_encoder_decoder", False):
            given["decoder_input_ids"] = ids
        return Given((), given, where="made up: 4 sequences of 64 random tokens")
    raise InputError(
        "`INPUT` must be given, or its shape, got neither; e.g. --shape 2,3,224,224, or --shape 2,64:1000 for tokens"
    )


def precision(model: nn.Module) -> torch.dtype:
    """The floating-point type that a model computes in."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _filled(text: str, model: nn.Module, generator: torch.Generator) -> Tensor:
    sizes, _, below = text.partition(":")
    parts = sizes.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts) or (
        below and not (below.isdecimal() and int(below) > 0)
    ):
        raise InputError(f"`--shape` must be positive sizes such as 2,3,224,224 (2,64:1000 for whole numbers), got {text!r}")
    shape = [int(part) for part in parts]
    if below:
        return torch.randint(int(below), shape, generator=generator)
    return torch.randn(shape, generator=generator).to(precision(model))


def _numpy(path: str) -> dict[str, Tensor]:
    arrays = {"": read_npy(path)} if Path(path).suffix.lower() == ".npy" else read_npz(path)
    for name, array in arrays.items():
        if array.dtype.kind not in "fiubc":
            raise InputError(f"{path}: `{name or 'the array'}` must hold numbers, got {array.dtype}; convert it")
    return {name: torch.from_numpy(_plain(array)) for name, array in arrays.items()}


def _plain(array: Any) -> Any:
    """In the machine's byte order; whole numbers as 64 bits."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(array.astype(np.int64) if array.dtype.kind in "iu" else array)


def _safe(path: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: must be a safetensors file, got: {str(error)[:100]}") from error


def _given(path: str, found: dict[str, Tensor], model: nn.Module) -> Given:
    """Which array is which argument."""
    try:
        parameters = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    truth = next((found.pop(k) for k in _LABELS if k in found and len(found) > 1), None)
    exact = {name: _cast(t, model) for name, t in found.items()}
    if not exact:
        raise InputError(f"{path}: must hold an array, got none; save the inputs by the names of the forward's arguments")
    if all(name in parameters for name in exact):
        return Given((), exact, truth, path)
    if len(exact) == 1:
        return Given(tuple(exact.values()), {}, truth, path)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if takes_any:
        return Given((), exact, truth, path)
    known, got = ", ".join(parameters) or "unknown", ", ".join(exact)
    raise InputError(f"{path}: must name its arrays as the forward's arguments, {known}, got {got}; rename them")


def _cast(tensor: Tensor, model: nn.Module) -> Tensor:
    return tensor.to(precision(model)) if tensor.is_floating_point() else tensor


def _picture(path: str, size: int, normalise: str) -> Tensor:
    """One picture, its short side resized and its middle cut out, as `(1, 3, size, size)`."""
    if size < 1:
        raise InputError(f"`--size` must be >= 1, got {size}; it is the side of the picture in pixels")
    image_module = require("PIL.Image", "imaging")
    try:
        with image_module.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise InputError(f"{path}: must be a picture, got: {str(error)[:100]}") from error
    scale = size / min(picture.size)
    wide, high = (max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize((wide, high), image_module.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    pixels = np.asarray(picture.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
    mean, deviation = (np.asarray(v, dtype=np.float32) for v in STATISTICS[normalise])
    return torch.from_numpy(((pixels - mean) / deviation).transpose(2, 0, 1).copy())[None]


def _text(path: str, home: str, length: int) -> Given:
    """Lines as tokens."""
    if not home:
        raise InputError(
            f"`INPUT` must not be a text for this model, got {path!r}; texts need hf:DIRECTORY, which has the tokenizer"
        )
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: must be text in UTF-8, got: {str(error)[:80]}") from error
    if not lines:
        raise InputError(f"{path}: must hold a sample a line, got an empty text")
    tokenizers = require("transformers", "hub")
    # transformers makes up a tokenizer that knows no word where a folder has none.
    if not any((Path(home) / name).is_file() for name in _VOCABULARIES):
        raise InputError(
            f"`MODEL` must have a tokenizer, for texts, got {home!r} with none of {', '.join(_VOCABULARIES[:4])}, …"
        )
    try:
        tokenizer = tokenizers.AutoTokenizer.from_pretrained(home, local_files_only=True, trust_remote_code=False)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        batch = tokenizer(lines, return_tensors="pt", padding=True, truncation=True, max_length=length)
    except Exception as error:
        raise InputError(
            f"`MODEL` must have a tokenizer that loads, for texts, got: {str(error).splitlines()[0][:120]}"
        ) from error
    return Given((), dict(batch), None, path)
