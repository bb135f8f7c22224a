"""A model that returns calibrated logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from residyn.calibrate.calibrator import Calibrator
from residyn.errors import InputError


class Calibrated(nn.Module):
    """A model followed by its calibration: forward(x) = (1 - λ)·model(x).

    The model itself is left alone. An output with an entry `logits` (a dict, or a model output of the transformers
    library) is returned with that entry calibrated.

    Args:
        model: Any module whose output is logits `(N, C)`, or holds them under `logits`.
        calibrator: A fitted calibrator.

    Raises:
        ResidynError: If the calibrator is not fitted.

    >>> import torch
    >>> from residyn.calibrate import Shrink
    >>> model = torch.nn.Linear(3, 2)
    >>> shrink = Shrink().fit(torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
    >>> x = torch.randn(5, 3)
    >>> bool(torch.allclose(Calibrated(model, shrink)(x), (1 - shrink.lam) * model(x)))
    True
    """

    def __init__(self, model: nn.Module, calibrator: Calibrator) -> None:
        super().__init__()
        calibrator._require_fit()
        self.model = model
        self.calibrator = calibrator

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output with calibrated logits.

        Args:
            *args: To the model.
            **kwargs: To the model.

        Returns:
            Logits, or the model's mapping with `logits` replaced.

        Raises:
            InputError: If the output holds no logits.
        """
        out = self.model(*args, **kwargs)
        if isinstance(out, Tensor):
            return self.calibrator.transform(out)
        try:
            logits = out["logits"]
        except (TypeError, KeyError):
            raise InputError(
                f"`model` must return a tensor of logits or a mapping with `logits`, got {type(out).__name__}; wrap it"
            ) from None
        copy = type(out)(out)
        copy["logits"] = self.calibrator.transform(logits)
        return copy
