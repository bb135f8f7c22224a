"""What Accelerate and torch.distributed do for the trainer: one process or many, copies or shards, behind few verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import require
from residyn.training.plan import Plan


class Team:
    """The processes of a run, the device of this one, and the state of model and optimiser as whole tensors.

    Args:
        plan: Which kind of parallelism.
        model: Moved to the device, and wrapped or sharded; `self.model` is what to call.
        make: Makes the optimiser of the trainable parameters, once they are where they stay.
    """

    def __init__(self, plan: Plan, model: nn.Module, make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> None:
        # without a word Accelerate looks for other processes only where there is an accelerator
        alone = None if torch.accelerator.is_available() else True
        self.accelerator = require("accelerate", "train").Accelerator(cpu=alone)
        self.place: tuple[int, int] = (self.accelerator.process_index, self.accelerator.num_processes)
        self.device: torch.device = self.accelerator.device
        self.precision = plan.precision
        self.sharded = plan.parallel == "fsdp" and self.place[1] > 1
        self.model: nn.Module = model.to(self.device)
        if self.sharded:
            _shard(model)
        else:
            self.model = self.accelerator.prepare_model(model)
        self.optimiser: torch.optim.Optimizer = make([p for p in model.parameters() if p.requires_grad])

    @property
    def chief(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.place[0] == 0

    @contextmanager
    def computing(self, *, last: bool = True) -> Iterator[None]:
        """Around a pass: the precision asked for; gradients are exchanged after the last pass of a step only."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if self.sharded:
                self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
            with self.accelerator.no_sync(self.model) if not (last or self.sharded) else nullcontext():
                yield

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a value over all processes."""
        return self.accelerator.reduce(value, "sum")

    def gather(self, value: Tensor) -> Tensor:
        """The values of all processes, one after the other."""
        return self.accelerator.gather(value.to(self.device)).cpu()

    def agree(self, value: float) -> float:
        """The value that the first process found."""
        if self.place[1] == 1:
            return value
        held = torch.tensor([value if self.chief else 0.0], dtype=torch.float64, device=self.device)
        return float(self.sum(held))

    def move(self, batch: Any) -> Any:
        """A batch on the device of this process."""
        return require("accelerate.utils", "train").send_to_device(batch, self.device)

    def weights(self) -> dict[str, Tensor]:
        """The whole state of the model, on every process."""
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        state = get_model_state_dict(self.model, options=_whole())
        return {name: value.detach().clone() for name, value in state.items() if isinstance(value, Tensor)}

    def set_weights(self, state: dict[str, Tensor]) -> None:
        """Set the model's state from whole tensors."""
        from torch.distributed.checkpoint.state_dict import set_model_state_dict

        set_model_state_dict(self.model, dict(state), options=_whole())

    def moments(self) -> dict[str, Tensor]:
        """What the optimiser remembers of each parameter, as whole tensors; its settings are the plan's and not in it."""
        state = self._optimiser_state()["state"]
        return {
            f"{name}/{key}": value for name, one in state.items() for key, value in one.items() if isinstance(value, Tensor)
        }

    def set_moments(self, moments: dict[str, Tensor]) -> None:
        """Set what the optimiser remembers."""
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        whole = self._optimiser_state()
        for path, value in moments.items():
            name, _, key = path.rpartition("/")
            whole["state"][name][key] = value
        set_optimizer_state_dict(self.model, self.optimiser, whole, options=_whole())

    def _optimiser_state(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        return dict(get_optimizer_state_dict(self.model, self.optimiser, options=_whole()))


def _shard(model: nn.Module) -> None:
    """Shard the parameters of each block of each list of blocks, then those that are left."""
    from torch.distributed.fsdp import fully_shard

    blocks = [block for part in model.modules() if isinstance(part, nn.ModuleList) for block in part]
    for block in reversed(blocks):  # inner ones first
        fully_shard(block)
    fully_shard(model)


def _whole() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True)
