"""Learn a pendulum from a noisy CSV file, save the model, and forecast a swing it has not seen.

Expected (seed 0, about 3 s on one core): target "derivative", cross-over step between 0.2 and 0.5, forecast error below 0.05
rad over one period of 6.3.
"""

import csv
import math
import tempfile
from pathlib import Path

import torch

import residyn as rd
import residyn.dynamics as dynamics


def pendulum(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """θ' = ω, ω' = -sin θ."""
    return torch.stack([x[..., 1], -torch.sin(x[..., 0])], -1)


def write(path: Path) -> None:
    """Thirty swings, a sample every 0.1, noise of 0.02 on angle and velocity."""
    generator = torch.Generator().manual_seed(0)
    starts = 3 * torch.rand(30, 2, generator=generator, dtype=torch.float64) - 1.5
    t = torch.arange(0, 4.05, 0.1, dtype=torch.float64)
    x = rd.solve(pendulum, starts, t, control=rd.Adaptive(rtol=1e-9, atol=1e-11)).x  # the truth is no solver's tolerance
    x = x + 0.02 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["trajectory", "t", "angle", "velocity"])
        for i in range(x.shape[1]):
            rows.writerows([i, *row] for row in zip(t.tolist(), *x[:, i].T.tolist(), strict=True))


def main() -> tuple[str, float, float]:
    """Fit, save, load, forecast; returns target, cross-over step and largest error in the angle."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pendulum.csv")
        write(path)
        fitted = dynamics.fit(dynamics.read_csv(path), target="auto")
        fitted.save(Path(folder, "pendulum.safetensors"))
        model = dynamics.Model.load(Path(folder, "pendulum.safetensors"))
    t = torch.linspace(0, 2 * math.pi, 50, dtype=torch.float64)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    error = (model.predict(start, t) - rd.solve(pendulum, start, t).x)[:, 0].abs().max()
    return model.target, model.crossover, float(error)


if __name__ == "__main__":
    target, step, error = main()
    print(f"target {target}, cross-over at a step of {step:.2f}, largest error {error:.3f} rad (expected below 0.05)")  # noqa: T201
    assert target == "derivative"
    assert 0.2 < step < 0.5
    assert error < 0.05
