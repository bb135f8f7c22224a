"""Continual learning: tasks one after the other on one model, and what becomes of those learned before."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from residyn.errors import InputError
from residyn.training import Moment, Plan, Trainer
from residyn.transfer import tasks as boundary
from residyn.transfer.methods import Branches, Method, Replay
from residyn.transfer.record import Record
from residyn.transfer.tasks import Task


class Continual:
    """Learn tasks one after the other on a model, x⁺ = x + F(x) + s_t·A_t(x) with a frozen F and a branch A_t a task.

    The first task, if the model was not trained on one, trains the whole model, with every method; it is `base` otherwise.
    After each task the model is asked about all tasks, those to come too. A task that fails or is interrupted leaves the model
    as it was before it.

    Args:
        model: A classifier, changed in place.
        method: How later tasks are learned; a branch a task if not given.
        plan: How each task is trained; its seed is shifted by the task's number.
        base: The task that the model was trained on.
        progress: Told where a training is, after each step.

    Raises:
        InputError: If an argument or a task breaks a rule.

    Reference:
        Rusu et al. (2016), "Progressive Neural Networks", arXiv:1606.04671; Houlsby et al. (2019), arXiv:1902.00751.

    >>> from residyn.nets import MLP, ResNet
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(200, 4)
    >>> tasks = [Task(f"axis{i}", x, (x[:, i] > 0).long(), x, (x[:, i] > 0).long()) for i in range(2)]
    >>> net = ResNet(nn.Linear(4, 16), [MLP(16, 16, 16) for _ in range(2)], nn.Linear(16, 2))
    >>> record = Continual(net, Branches(share=0.3), plan=Plan(epochs=20, rate=1e-2)).run(tasks)
    >>> record.forgetting, record.average > 0.9
    (0.0, True)
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method | None = None,
        *,
        plan: Plan | None = None,
        base: Task | None = None,
        progress: Callable[[Moment], None] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"`model` must be a torch module, got {type(model).__name__}")
        if method is not None and not isinstance(method, Method):
            raise InputError(f"`method` must be a Method, got {type(method).__name__}; Branches() is one")
        self.model = model
        self.method = Branches() if method is None else method
        self.plan = Plan() if plan is None else plan
        self.progress = progress
        self.tasks: list[Task] = []
        self._parameters = sum(p.numel() for p in model.parameters())
        self._added: list[int] = []
        self._answers: list[dict[str, float]] = []
        self._before: dict[str, float] = {}
        if base is not None:
            boundary.check(base, model, [])
            model.eval()
            self._learned(base, 0)

    def run(self, tasks: Sequence[Task]) -> Record:
        """Learn tasks, and ask about all of them after each.

        Args:
            tasks: Those to be learned, in this order; without `base`.

        Returns:
            The accuracies and what they say.

        Raises:
            InputError: If a task breaks a rule; nothing is learned then.
        """
        tasks = list(tasks)
        if not tasks and not self.tasks:
            raise InputError("`tasks` must hold at least one task, got none")
        for i, task in enumerate(tasks):
            boundary.check(task, self.model, [*self.tasks, *tasks[:i]])
        if not self.tasks:
            self.model.eval()
            self._before = {task.name: task.accuracy(self.model) for task in tasks}
        everything = [*self.tasks, *tasks]
        if self.tasks:
            self._answers[-1] |= self._asked(tasks)
        for task in tasks:
            self.learn(task)
            self._answers[-1] |= self._asked(everything)
        return self.record(everything)

    def learn(self, task: Task) -> None:
        """Learn one more task.

        Args:
            task: The task.

        Raises:
            InputError: If it breaks a rule; the model is then as it was.
        """
        boundary.check(task, self.model, self.tasks)
        state, twin = copy.deepcopy(self.model.state_dict()), copy.copy(self.method)
        flags = {name: p.requires_grad for name, p in self.model.named_parameters()}
        known = _known(self.model)
        try:
            if self.tasks:
                self._learned(task, self.method.learn(self.model, task, self._fit))
            else:
                self._fit(self.model, task, task.x, task.y, None)
                self._learned(task, 0)
        except BaseException:
            _restore(self.model, state, flags, known)
            self.method.__dict__.update(twin.__dict__)
            raise

    def record(self, tasks: Sequence[Task] | None = None) -> Record:
        """What was found so far.

        Args:
            tasks: The tasks whose accuracy is shown; those learned if not given.
        """
        shown = list(self.tasks if tasks is None else tasks)
        chance = {t.name: 1 / len(t.classes or set(t.y.tolist())) for t in shown}
        return Record(
            self.method.name,
            [task.name for task in shown],
            [[row.get(task.name, float("nan")) for task in shown] for row in self._answers],
            [self._before.get(task.name, chance[task.name]) for task in shown],
            list(self._added),
            self._parameters,
        )

    def accuracy(self, task: Task) -> float:
        """Accuracy on a task, the model arranged for it.

        Args:
            task: The task.
        """
        with self.method.recall(self.model, task) as model:
            return task.accuracy(model.eval())

    def predict(self, task: Task, x: Tensor) -> Tensor:
        """Logits of a task, `(B, C)`.

        Args:
            task: The task.
            x: Inputs.
        """
        with self.method.recall(self.model, task) as model, torch.no_grad():
            return task.logits(model.eval(), x)

    def _asked(self, tasks: Sequence[Task]) -> dict[str, float]:
        return {task.name: self.accuracy(task) for task in tasks}

    def _learned(self, task: Task, added: int) -> None:
        if not self.tasks and isinstance(self.method, Replay):
            self.method.keep(task)
        self.tasks.append(task)
        self._added.append(added)
        self._answers.append(self._asked(self.tasks))

    def _fit(self, model: nn.Module, task: Task, x: Tensor, y: Tensor, more: Callable[[], Tensor] | None) -> None:
        """The library's trainer on what requires a gradient."""

        def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            value = task.loss(net, *batch)
            return value if more is None else value + more()

        plan = self.plan if self.method.plan is None or not self.tasks else self.method.plan
        plan = dataclasses.replace(plan, seed=plan.seed + 1000 * len(self.tasks))
        Trainer(model, loss, (x, y), plan, progress=self.progress).run()


def compare(
    model: nn.Module,
    methods: Sequence[Method],
    tasks: Sequence[Task],
    *,
    plan: Plan | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> list[Record]:
    """Learn the same sequence by several methods, each on a copy of the model after the first task.

    Args:
        model: A classifier; it is trained on the first task, in place.
        methods: The methods.
        tasks: The tasks, two at least.
        plan: How each task is trained.
        progress: Told of the share that is done, and the method.

    Returns:
        A record a method.

    Raises:
        InputError: If there are fewer than two tasks, or one of them breaks a rule.
    """
    if len(tasks) < 2:
        raise InputError(f"`tasks` must be two at least to compare methods, got {len(tasks)}")
    for i, task in enumerate(tasks):
        boundary.check(task, model, tasks[:i])
    model.eval()
    start = {task.name: task.accuracy(model) for task in tasks}
    Continual(model, plan=plan).learn(tasks[0])
    records = []
    for k, method in enumerate(methods):
        if progress is not None:
            progress(k / len(methods), method.name)
        record = Continual(copy.deepcopy(model), method, plan=plan, base=tasks[0]).run(tasks[1:])
        record.start = [start[name] for name in record.names]
        records.append(record)
    return records


def _known(model: nn.Module) -> list[str]:
    adapters = model.__dict__.get("_residyn_adapters")
    return [] if adapters is None else list(adapters.names)


def _restore(model: nn.Module, state: dict[str, Tensor], flags: dict[str, bool], known: list[str]) -> None:
    """Take off what was added, and put back weights and flags."""
    adapters = model.__dict__.get("_residyn_adapters")
    if adapters is not None:
        for name in adapters.names:
            if name not in known:
                adapters.remove(name)
        if not adapters.names:
            adapters.undo()
    model.load_state_dict(state)
    for name, p in model.named_parameters():
        p.requires_grad_(flags.get(name, True))
    model.eval()
