"""Learn a damped pendulum's field from one trajectory, with the exact gradient of the steps taken.

Expected: the mean squared error falls from above 0.5 to below 0.01; some ten seconds on one core.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import residyn as rd


def pendulum(t: Tensor, x: Tensor) -> Tensor:
    """Angle and speed of a damped pendulum."""
    return torch.stack([x[1], -torch.sin(x[0]) - 0.2 * x[1]])


class Field(nn.Module):
    """f(t, x), a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """The learned velocity."""
        y: Tensor = self.layers(x)
        return y


def train(epochs: int = 300) -> tuple[float, float]:
    """The mean squared error before and after."""
    torch.manual_seed(0)
    times = torch.linspace(0, 6, 25).tolist()
    x0 = torch.tensor([2.0, 0.0])
    with torch.no_grad():
        data = rd.solve(pendulum, x0, times, control=rd.Adaptive(rtol=1e-5, atol=1e-6)).x
    field = Field()
    optimiser = torch.optim.Adam(field.parameters(), lr=0.01)
    errors = []
    for _ in range(epochs):
        optimiser.zero_grad()
        x = rd.solve(field, x0, times, scheme=rd.RK4(), control=rd.Fixed(steps=1)).x
        loss = (x - data).pow(2).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        errors.append(float(loss.detach()))
    return errors[0], min(errors[-20:])


def main() -> int:
    """Train, say what came of it; 0 if the error fell as expected."""
    torch.set_num_threads(1)
    before, after = train()
    sys.stdout.write(f"mean squared error {before:.3f} before, {after:.5f} after (expected below 0.01)\n")
    return 0 if before > 0.5 and after < 0.01 else 1


if __name__ == "__main__":
    raise SystemExit(main())
