"""The training loop: steps that a schedule and a seed decide, checkpoints between them, and the best weights at the end."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from residyn.errors import InputError, SolveError
from residyn.results import Outcome
from residyn.training import randomness
from residyn.training.parallel import Team
from residyn.training.plan import Plan
from residyn.training.progress import Log, Moment
from residyn.training.samples import Samples, order_of, passes, steps_of
from residyn.training.storage import check_weights, load_weights, save_weights

SCHEMA = "residyn.training/1"

Loss = Callable[[nn.Module, Any], Tensor]
Validate = Callable[[nn.Module], float]
MakeOptimiser = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass
class History:
    """What a run has seen.

    Args:
        loss: Mean training loss of each epoch.
        validation: Validation loss after each epoch; empty if none was asked for.
        best: Epoch with the lowest validation loss, whose weights the model has at the end; the last one without validation.
        stopped: Whether the run ended before its last epoch, for want of patience.
        steps: Steps of the optimiser.
        seconds: Wall time, over all parts of a run that was resumed.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: int = -1
    stopped: bool = False
    steps: int = 0
    seconds: float = 0.0


@dataclass
class _Place:
    """Where a run is, besides what its tensors say."""

    epoch: int = 0
    step: int = 0
    losses: float = 0.0
    samples: int = 0


class Trainer:
    """Train a model: minimise the mean of a loss over the data, w⁺ = w - η_k·AdamW(∇loss).

    Runs as it stands on one process, and under `torchrun` on many (a sharded model then has its weights in `weights()`).
    With `checkpoint` a run that was killed at any point goes on from its last checkpoint when it is started again, and on one
    process comes to the weights it would have had, bit for bit: the order of the data, every generator, the optimiser and the
    schedule are restored. On Ctrl-C the step is finished and a checkpoint written first.

    Args:
        model: What is trained, in place.
        loss: `loss(model, batch)`, the mean over the samples of a batch; it must call the model that it is handed.
        data: Tensors that share their first axis, or a dataset with a length and items.
        plan: How.
        validate: `validate(model)` after each epoch, in evaluation mode and without gradient: a number that is better the lower
            it is. The weights that had the lowest are those that the model ends with.
        checkpoint: A `.safetensors` file to keep the state of the run in, and to go on from if it is there.
        every: Seconds between checkpoints within an epoch; there is one after each epoch in any case.
        log: A file for metrics, one JSON object a line.
        progress: Told where the run is after each step, e.g. `Line("fit")`.
        optimiser: Makes the optimiser of the trainable parameters; AdamW if not given.

    Raises:
        InputError: If an argument breaks its rule, or the checkpoint is one of another run.
        SolveError: On `run`, if the loss is not finite; the checkpoint before it is kept.

    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> net = nn.Linear(1, 1)
    >>> trainer = Trainer(net, lambda f, b: (f(b[0]) - b[1]).square().mean(), (x, 3 * x), Plan(epochs=150, rate=0.1))
    >>> history = trainer.run()
    >>> len(history.loss), abs(net.weight.item() - 3) < 0.01
    (150, True)
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Any,
        plan: Plan | None = None,
        *,
        validate: Validate | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: float = 30.0,
        log: str | os.PathLike[str] | None = None,
        progress: Callable[[Moment], None] | None = None,
        optimiser: MakeOptimiser | None = None,
    ) -> None:
        self.plan = Plan() if plan is None else plan
        self.loss, self.data, self.validate = loss, Samples(data), validate
        self.every, self.progress, self.log = every, progress, Log(log)
        self.checkpoint = None if checkpoint is None else check_weights(checkpoint)
        if self.plan.patience is not None and validate is None:
            raise InputError("`patience` must be None without `validate`, got a number; pass what is to be waited for")
        if not any(p.requires_grad for p in model.parameters()):
            raise InputError("`model` must have a parameter that requires a gradient, got none; unfreeze what is to be trained")
        self._caller = model
        make = optimiser or (lambda p: torch.optim.AdamW(p, lr=self.plan.rate, weight_decay=self.plan.decay))
        self.team = Team(self.plan, model, make)
        self._scales = [group["lr"] / self.plan.rate for group in self.team.optimiser.param_groups]
        self.group = self.plan.batch * self.plan.accumulate * self.team.place[1]
        self.per_epoch = steps_of(len(self.data), self.group, self.team.place[1])
        if self.per_epoch == 0:
            raise InputError(f"`data` must hold a sample for each of {self.team.place[1]} processes, got {len(self.data)}")
        self.history, self._place = History(), _Place()
        self._best: dict[str, Tensor] = {}
        self._stop = False

    def run(self) -> History:
        """Train to the end, or from the checkpoint to the end.

        Returns:
            What the run has seen.

        Raises:
            InputError: If the checkpoint is one of another run.
            SolveError: If the loss is not finite.
            KeyboardInterrupt: On Ctrl-C, after the step is finished and a checkpoint written.
        """
        with randomness.kept(), self._interruptible():
            randomness.seed(self.plan.seed + self.team.place[0])
            if self.checkpoint is not None and self.checkpoint.exists():
                self._resume(self.checkpoint)
            began = saved = time.monotonic()
            before, first = self.history.seconds, self.history.steps
            if self.team.chief:
                self.log.start(self.history.steps)
            while self._place.epoch < self.plan.epochs and not self.history.stopped:
                order = order_of(len(self.data), self.plan.seed, self._place.epoch)
                self.team.model.train()
                while self._place.step < self.per_epoch:
                    loss = self._step(passes(order, self._place.step, self.group, self.plan.batch, self.team.place))
                    self._tell(loss, began, first)
                    self.history.seconds = before + time.monotonic() - began
                    due = self._place.step < self.per_epoch and time.monotonic() - saved >= self.every
                    if self._any(due) or self._any(self._stop):
                        self._save()
                        saved = time.monotonic()
                    if self._any(self._stop):
                        raise KeyboardInterrupt
                self._end_epoch()
                self._save()
                saved = time.monotonic()
            self._finish()
        return self.history

    def _step(self, parts: Iterable[Tensor]) -> float:
        """One step of the optimiser: the gradient of the mean over all samples of all passes of all processes."""
        parts = list(parts)
        mine = sum(len(rows) for rows in parts)
        plan, team = self.plan, self.team
        rate = plan.rate_at(self.history.steps, plan.epochs * self.per_epoch)
        for group, scale in zip(team.optimiser.param_groups, self._scales, strict=True):
            group["lr"] = scale * rate
        team.optimiser.zero_grad()
        total = torch.zeros((), device=team.device)
        for i, rows in enumerate(parts):
            with team.computing(last=i == len(parts) - 1):
                # processes are averaged over, and have equal numbers of samples: the mean of means is the mean
                value = self.loss(team.model, team.move(self.data[rows])) * (len(rows) / mine)
                team.accelerator.backward(value)  # under `computing`: it is this pass that exchanges gradients
            total += value.detach()
        loss = float(team.sum(total)) / team.place[1]
        if not math.isfinite(loss):
            fix = "lower `rate`, set `clip=1.0`, or look at the data for nan"
            where = f"the loss is {loss} in step {self._place.step} of epoch {self._place.epoch}"
            raise SolveError(Outcome("non_finite", where, fix, t=float(self._place.epoch)))
        if plan.clip is not None:
            nn.utils.clip_grad_norm_(team.model.parameters(), plan.clip)
        team.optimiser.step()
        count = mine * team.place[1]
        self._place.losses += loss * count
        self._place.samples += count
        self._place.step += 1
        self.history.steps += 1
        return loss

    def _tell(self, loss: float, began: float, first: int) -> None:
        if not self.team.chief:
            return
        steps, done = self.plan.epochs * self.per_epoch, self.history.steps
        rate = self.team.optimiser.param_groups[0]["lr"]
        self.log.add(step=done, epoch=self._place.epoch, loss=loss, rate=rate)
        if self.progress is not None:
            spent = time.monotonic() - began
            left = spent / (done - first) * (steps - done)
            self.progress(Moment(done, steps, self._place.epoch, loss, left))

    def _end_epoch(self) -> None:
        place, history = self._place, self.history
        history.loss.append(place.losses / place.samples)
        if self.validate is not None:
            self.team.model.eval()
            with torch.no_grad(), self.team.computing():
                value = self.team.agree(float(self.validate(self.team.model)))
            history.validation.append(value)
            if self.team.chief:
                self.log.add(step=history.steps, epoch=place.epoch, validation=value)
            best = history.validation[history.best] if history.best >= 0 else math.nan
            if history.best < 0 or value < best or (math.isnan(best) and not math.isnan(value)):
                history.best, self._best = place.epoch, self.team.weights()
            patience = self.plan.patience
            history.stopped = patience is not None and place.epoch - history.best >= patience
        self._place = _Place(place.epoch + 1)

    def _finish(self) -> None:
        """Give the model the best weights, and evaluation mode."""
        if self._best:
            self.team.set_weights(self._best)
        else:
            self.history.best = len(self.history.loss) - 1
        self.team.model.eval()
        self._caller.eval()

    def weights(self) -> dict[str, Tensor]:
        """The model's weights as whole tensors, on every process, whether it is copied or sharded."""
        return self.team.weights()

    def _save(self) -> None:
        """Write the state of the run; every process takes part, the first one writes."""
        if self.checkpoint is None:
            return
        tensors = {f"model.{k}": v for k, v in self.team.weights().items()}
        tensors |= {f"optimiser.{k}": v for k, v in self.team.moments().items()}
        tensors |= {f"best.{k}": v for k, v in self._best.items()}
        tensors["random"] = self.team.gather(randomness.capture()).reshape(self.team.place[1], -1)
        if self.team.chief:
            place, history = dataclasses.asdict(self._place), dataclasses.asdict(self.history)
            save_weights(self.checkpoint, tensors, {**self._conditions(), "place": place, "history": history})

    def _conditions(self) -> dict[str, Any]:
        """What must be equal for a run to go on."""
        return {
            "schema": SCHEMA,
            "plan": dataclasses.asdict(self.plan),
            "samples": len(self.data),
            "processes": self.team.place[1],
        }

    def _resume(self, path: Path) -> None:
        tensors, about = load_weights(path)
        for key, value in self._conditions().items():
            if about.get(key) != value:
                got, want = _difference(about.get(key), value)
                raise InputError(
                    f"`checkpoint` must be one of this run, got {str(path)!r} with {key} {got}, not {want}; "
                    "delete it to start anew, or give another file"
                )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}, "best": {}}
        for name, tensor in tensors.items():
            part, _, key = name.partition(".")
            if part in parts:
                parts[part][key] = tensor
        shapes = {name: tuple(value.shape) for name, value in self.team.weights().items()}
        if {name: tuple(value.shape) for name, value in parts["model"].items()} != shapes:
            raise InputError(f"`checkpoint` must be one of this model, got {str(path)!r} with other weights; give another file")
        self.team.set_weights(parts["model"])
        self.team.set_moments(parts["optimiser"])
        self._best = parts["best"]
        self._place, self.history = _Place(**about["place"]), History(**about["history"])
        randomness.restore(tensors["random"][self.team.place[0]])

    def _any(self, flag: bool) -> bool:
        """Whether the flag is set on the first process, so that all do the same."""
        return flag if self.team.place[1] == 1 else bool(self.team.agree(float(flag)))

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let the first Ctrl-C wait for the end of the step, if there is a checkpoint to write; the second one does not."""
        if self.checkpoint is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _difference(got: Any, want: Any) -> tuple[str, str]:
    """What differs, in words: of two plans only the values that do."""
    if isinstance(got, dict) and isinstance(want, dict):
        keys = [key for key in want if got.get(key) != want[key]]
        return tuple(", ".join(f"{key}={one.get(key)!r}" for key in keys) for one in (got, want))  # type: ignore[return-value]
    return repr(got), repr(want)
