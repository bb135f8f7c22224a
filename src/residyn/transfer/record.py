"""What a sequence of tasks left behind: the accuracy matrix and the figures that are read off it."""

from __future__ import annotations

from dataclasses import dataclass, field

from residyn.results import Figure, Series, Table


@dataclass
class Record:
    """Accuracies a_{t,i} on task i after task t was learned, and what they say.

    Args:
        method: How the tasks were learned.
        names: The tasks, in order.
        matrix: a_{t,i}, a row for each task learned so far.
        start: b_i, accuracy on task i before anything was learned; chance if the model came trained.
        added: Numbers that each task added to the model.
        parameters: Parameters of the model.

    Reference:
        Lopez-Paz & Ranzato (2017), "Gradient Episodic Memory for Continual Learning", arXiv:1706.08840; Chaudhry, Dokania,
        Ajanthan & Torr (2018), "Riemannian Walk for Incremental Learning", doi:10.1007/978-3-030-01252-6_33.

    >>> r = Record("demo", ["a", "b"], [[0.9, 0.4], [0.7, 0.8]], [0.5, 0.5])
    >>> [round(v, 3) for v in (r.average, r.forgetting, r.backward, r.forward)]
    [0.75, 0.2, -0.2, -0.1]
    """

    method: str
    names: list[str]
    matrix: list[list[float]] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    parameters: int = 0

    @property
    def average(self) -> float:
        """Mean accuracy on all tasks at the end."""
        return _mean(self.matrix[-1])

    @property
    def forgetting(self) -> float:
        """Mean over all tasks but the last of the best accuracy since it was learned less that at the end; 0 of one task."""
        last = len(self.matrix) - 1
        return _mean([max(row[i] for row in self.matrix[i:last]) - self.matrix[last][i] for i in range(last)])

    @property
    def backward(self) -> float:
        """Backward transfer, mean of a_{T,i} - a_{i,i}: below 0 where later tasks harm."""
        last = len(self.matrix) - 1
        return _mean([self.matrix[last][i] - self.matrix[i][i] for i in range(last)])

    @property
    def forward(self) -> float:
        """Forward transfer, mean of a_{i-1,i} - b_i: above 0 where earlier tasks help before a task was seen."""
        return _mean([self.matrix[i - 1][i] - self.start[i] for i in range(1, len(self.matrix))])

    @property
    def share(self) -> float:
        """The most that a task added, as a share of the model."""
        return max(self.added, default=0) / max(1, self.parameters)

    @property
    def table(self) -> Table:
        """The matrix, a row for each task learned."""
        rows: list[list[float | str | None]] = [[f"after {n}", *row] for n, row in zip(self.names, self.matrix, strict=False)]
        return Table(f"Accuracy, {self.method}", ["", *self.names], rows)


def comparison(records: list[Record]) -> Table:
    """Methods on the same sequence, one a row.

    Args:
        records: What each of them left behind.
    """
    rows: list[list[float | str | None]] = [
        [r.method, r.average, r.forgetting, r.backward, r.forward, f"{r.share:.1%}"] for r in records
    ]
    columns = ["method", "average accuracy", "forgetting", "backward transfer", "forward transfer", "added a task"]
    return Table("The same tasks in the same order", columns, rows)


def curves(records: list[Record]) -> Figure:
    """Mean accuracy on the tasks learned so far, by the number of them."""
    series = [
        Series(
            r.method, [t + 1.0 for t in range(len(r.matrix))], [_mean(row[: t + 1]) for t, row in enumerate(r.matrix)], "points"
        )
        for r in records
    ]
    return Figure("Accuracy on the tasks so far", "tasks learned", "mean accuracy on them", series)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
