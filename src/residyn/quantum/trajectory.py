"""What a propagation returns, and the error that keeps what was reached."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from residyn.display import card
from residyn.errors import SolveError
from residyn.results import Finding, Outcome


@dataclass(frozen=True)
class Trajectory:
    """A molecule's electrons in time; atomic units.

    Args:
        t: Times, `(N + 1,)`; the first is just after the kick. 1 a.u. = 0.02419 fs.
        dipole: μ(t), `(N + 1, 3)`, nuclei included; 1 a.u. = 2.5417 D.
        energy: That of the molecule without its energy in the field, `(N + 1,)`, hartree.
        norm: √(tr P/electrons), `(N + 1,)`; 1 while the orbitals keep their norms.
        builds: Fock matrices the scheme had built.
        dt: Time step.
        scheme: What made the steps.
        fock: `"full"`, `"linear"` or `"frozen"`.
        kick: κ of the impulse exp(iκ·r) at t = 0, `(3,)`, or `None`.
        molecule: Its name.
        electrons: How many.
        ground_dipole: μ before the kick, `(3,)`.
        ground_energy: Energy before the kick.
        slope: dμ/dt at t = 0, `(3,)`, from the commutator with the Fock matrix.
        state: Orbitals at the end, `(s, n, m)`, complex.
        observed: Fock matrices built only to see an energy where the scheme builds none; not part of `builds`.
        outcome: How it ended.
        checks: What was checked on the way.
        driven: Whether a pulse acted.
        seconds: Wall time, of this call.
        grid_seconds: CPU time within the exchange–correlation grid, of this call.
        cpu_seconds: CPU time, of this call.
    """

    t: Tensor
    dipole: Tensor
    energy: Tensor
    norm: Tensor
    builds: int
    dt: float
    scheme: str
    fock: str
    kick: Tensor | None
    molecule: str
    electrons: int
    ground_dipole: Tensor
    ground_energy: float
    slope: Tensor
    state: Tensor = field(repr=False)
    observed: int
    outcome: Outcome
    checks: list[Finding]
    driven: bool = False
    seconds: float = 0.0
    grid_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def _repr_html_(self) -> str:
        rows: list[tuple[str, object]] = [("molecule", self.molecule), ("scheme", self.scheme), ("Fock matrix", self.fock)]
        rows += [("steps", f"{self.steps} of {self.dt:g} a.u."), ("Fock builds", self.builds), ("outcome", str(self.outcome))]
        return card("Trajectory", rows)

    @property
    def steps(self) -> int:
        """N."""
        return len(self.t) - 1


class PropagationError(SolveError):
    """A propagation ended early.

    Args:
        outcome: Why, where, and what would help.
        trajectory: All up to the last good step.
    """

    def __init__(self, outcome: Outcome, trajectory: Trajectory) -> None:
        super().__init__(outcome)
        self.trajectory = trajectory
