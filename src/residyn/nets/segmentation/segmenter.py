"""A trained U-Net with all that is needed to use it: how inputs are scaled, and what its classes are called."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from residyn.errors import InputError
from residyn.nets.segmentation import windows
from residyn.nets.unet import Join, UNet
from residyn.training import load_weights, save_weights

SCHEMA = "residyn.segmenter/1"


@dataclass(frozen=True)
class Form:
    """What a network is built from; the arguments of `UNet`."""

    inputs: int
    classes: int
    short: bool = True
    long: bool = True
    width: int = 16
    levels: int = 4
    blocks: int = 1
    patch: int = 2
    join: Join = "add"

    def build(self) -> UNet:
        """A network of this form, newly initialised."""
        return UNet(**asdict(self))


class Segmenter:
    """From a picture to a mask.

    Args:
        net: The network.
        form: What it was built from.
        mean: Mean of each input channel, `(C,)`.
        spread: Standard deviation of each input channel, `(C,)`.
        values: What each class is called in mask files.
        window: Pixels along an axis of the windows that large pictures are cut into.

    >>> form = Form(1, 2, width=4, levels=2)
    >>> segmenter = Segmenter(form.build(), form, torch.zeros(1), torch.ones(1), [0, 255])
    >>> segmenter(torch.rand(1, 40, 30)).unique().tolist() in ([0], [255], [0, 255])
    True
    """

    def __init__(self, net: UNet, form: Form, mean: Tensor, spread: Tensor, values: list[int], window: int = 512) -> None:
        self.net, self.form, self.mean, self.spread, self.values, self.window = net, form, mean, spread, values, window

    def prepared(self, picture: Tensor) -> Tensor:
        """A picture `(C, H, W)` scaled as those of the training."""
        if picture.ndim != 3 or len(picture) != self.form.inputs:
            raise InputError(
                f"`picture` must have {self.form.inputs} channels, (C, H, W), got {tuple(picture.shape)}; "
                "read it with channels=… of the model"
            )
        return (picture - self.mean[:, None, None]) / self.spread[:, None, None]

    def logits(self, picture: Tensor, progress: Callable[[float], None] | None = None) -> Tensor:
        """Logits `(K, H, W)` of a picture `(C, H, W)` of any size."""
        return windows.predict(self.net, self.prepared(picture), window=self.window, progress=progress)

    def __call__(self, picture: Tensor, progress: Callable[[float], None] | None = None) -> Tensor:
        """The mask `(H, W)` of a picture `(C, H, W)`, with the values that the classes have in files."""
        return torch.tensor(self.values)[self.logits(picture, progress).argmax(0)]

    def save(self, path: str | os.PathLike[str], about: dict[str, Any] | None = None) -> None:
        """Write weights and form to one safetensors file.

        Args:
            path: The file.
            about: More that is to be kept, plain JSON values.

        Raises:
            InputError: If the path is no place for it.
        """
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        header = {"schema": SCHEMA, "form": asdict(self.form), "values": self.values, "window": self.window, **(about or {})}
        save_weights(path, {**tensors, "mean": self.mean, "spread": self.spread}, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Segmenter:
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The segmenter.

        Raises:
            InputError: If the file is none of a segmenter, or its tensors do not fit its form.
        """
        tensors, about = load_weights(path)
        if about.get("schema") != SCHEMA:
            raise InputError(f"{path}: must be a model of `residyn segment train`, got {about.get('schema')!r}; train one")
        try:
            form = Form(**about["form"])
            net = form.build()
            net.load_state_dict({name.removeprefix("net."): value for name, value in tensors.items() if name[:4] == "net."})
            values, window = [int(v) for v in about["values"]], int(about["window"])
            found = cls(net.eval(), form, tensors["mean"], tensors["spread"], values, window)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: must be a whole model file, got one that does not fit itself ({why})") from None
        return found
