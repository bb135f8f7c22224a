"""A training that a test runs in processes of its own:  job.py OUT [--kill STEP] [--checkpoint FILE] [--batch N] …."""

import argparse
import os
import signal

import torch
from torch import nn

from residyn.training import Plan, Trainer, save_weights


def data(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(count, 6, generator=generator)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("out")
    words.add_argument("--kill", type=int, default=-1)
    words.add_argument("--interrupt", type=int, default=-1)
    words.add_argument("--checkpoint")
    words.add_argument("--log")
    words.add_argument("--samples", type=int, default=103)
    words.add_argument("--batch", type=int, default=10)
    words.add_argument("--accumulate", type=int, default=1)
    words.add_argument("--parallel", default="ddp")
    words.add_argument("--plain", action="store_true", help="no dropout and no batch norm")
    given = words.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    noise = [] if given.plain else [nn.BatchNorm1d(16), nn.Dropout(0.3)]
    net = nn.Sequential(nn.Linear(6, 16), *noise, nn.Tanh(), nn.Linear(16, 2))
    x, y = data(given.samples)
    calls = 0

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == given.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if calls == given.interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    plan = Plan(
        epochs=4, batch=given.batch, rate=0.02, clip=1.0, warmup=0.1, accumulate=given.accumulate, parallel=given.parallel
    )
    seen: list[float] = []
    trainer = Trainer(
        net, loss, (x, y), plan, checkpoint=given.checkpoint, every=0, log=given.log,
        progress=lambda moment: seen.append(moment.loss),
        validate=lambda f: float(nn.functional.cross_entropy(f(x), y)),
    )  # fmt: skip
    history = trainer.run()
    weights = trainer.weights()
    if trainer.team.chief:
        about = {"loss": history.loss, "validation": history.validation, "steps": history.steps}
        save_weights(given.out, weights, {**about, "first": seen[:9]})


if __name__ == "__main__":
    main()
