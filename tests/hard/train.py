"""A training for `kill`: weights and history to a file, the run kept as it goes."""

import torch
from torch import nn

from residyn.training import Plan, Trainer, save_weights

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.Dropout(0.3), nn.Tanh(), nn.Linear(32, 2))
    x = torch.randn(1500, 6, generator=torch.Generator().manual_seed(5))
    y = (x[:, 0] * x[:, 1] > 0).long()
    trainer = Trainer(
        net, lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]), (x, y),
        Plan(epochs=8, batch=10, rate=0.02, clip=1.0), checkpoint="run.safetensors", every=0,
    )  # fmt: skip
    history = trainer.run()
    save_weights("w.safetensors", trainer.weights(), {"loss": history.loss, "steps": history.steps})
