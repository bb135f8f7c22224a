"""Continual learning by residual branches: what a small branch can disturb, and what it does."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residyn.atlas.context import Context
from residyn.atlas.data import Split, mnist
from residyn.nets import MLP, ResNet
from residyn.results import Figure, Finding, Section, Series, Table
from residyn.training import Plan
from residyn.transfer import Branches, Continual, FineTune, Record, Replay, Shared, Task, adapters_of, disturbance
from residyn.transfer.record import comparison, curves

WIDTH, DEPTH, TASKS = 128, 3, 5
LINES = ["stem", "head", "branch.0", "branch.2"]
"""All linear layers of the network, where LoRA puts its branches."""
STRENGTHS = [10 ** (k / 2) for k in range(-12, 1)]
"""Factors of the branch that was trained without penalty."""

CODE = """\
from residyn.training import Plan
from residyn.transfer import Branches, Continual, Task, disturbance

tasks = [Task("first", x, y, x_test, y_test), ...]         # class numbers among the outputs of your model
learner = Continual(model, Branches(share=0.05), plan=Plan(epochs=5, rate=3e-3))
record = learner.run(tasks)                                # record.matrix, .average, .forgetting
learner.method.adapters.save("second.safetensors", "second")
"""


@dataclass(frozen=True)
class _Curve:
    """What one shared branch disturbs when it is scaled."""

    norms: list[float]
    measured: list[float]
    certain: list[float]
    sampled: list[float]
    violations: int
    safe: float
    """The largest norm at which the bound lets no decision change."""


@dataclass(frozen=True)
class _Penalised:
    """A shared branch trained under a penalty."""

    penalty: float
    norm: float
    forgetting: float
    learned: float
    bound: float


def run(context: Context) -> Section:
    """Learn five permutations of the pixels in turn, by several methods, and weigh branches against what they disturb.

    Args:
        context: How to run.

    Returns:
        The section.
    """
    size, epochs, penalties = (500, 5, (0.0, 0.03)) if context.fast else (3000, 4, (0.0, 0.003, 0.03, 0.3))
    split = mnist((size, 1000), context.seed)
    tasks = permuted(split, context.seed)
    plan, gentle = Plan(epochs=epochs, batch=50, rate=3e-3), Plan(epochs=epochs, batch=50, rate=1e-3)
    torch.manual_seed(context.seed)
    net = network()
    start = [task.accuracy(net.eval()) for task in tasks]
    Continual(net, plan=gentle).learn(tasks[0])
    own = Branches(kind="low_rank", modules=["stem"], heads=["head"], plan=plan)
    methods = [
        own,
        Branches(rank=4, kind="low_rank", modules=LINES, plan=plan, name="LoRA, one a task"),
        Shared(rank=4, kind="low_rank", modules=LINES, plan=plan, name="LoRA, one for all"),
        FineTune(plan=gentle),
        Replay(memory=size // 20, plan=gentle),
    ]
    records, changed = [], 0
    for k, method in enumerate(methods):
        context.advance(0.05 + 0.6 * k / len(methods), method.name)
        twin = copy.deepcopy(net)
        learner = Continual(twin, method, base=tasks[0])
        before = learner.predict(tasks[0], tasks[0].x_test)
        record = learner.run(tasks[1:])
        record.start = start
        records.append(record)
        if method is own:
            after = learner.predict(tasks[0], tasks[0].x_test)
            changed = int((before.view(torch.int32) != after.view(torch.int32)).sum())
    curve, penalised = _shared(context, net, tasks, plan, penalties)
    findings = [*_remembered(records, changed), *_disturbed(curve, penalised)]
    return Section(
        "continual",
        "Continual learning by residual branches",
        summary=_summary(records, curve, penalised, findings),
        equation="x⁺ = x + F(x) + s·A_t(x), F frozen, A_t of task t; an old decision stays while ‖w_i - w_j‖·δ < z_i - z_j",
        data=f"{split.source}; {TASKS} tasks, each with its pixels permuted in another way (the first as they are)",
        code=CODE,
        findings=findings,
        figures=[_figure(curve, penalised), curves(records)],
        tables=[comparison(records), records[0].table, _table(penalised)],
    )


def permuted(split: Split, seed: int) -> list[Task]:
    """The digits under several permutations of the pixels; the first is none."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.arange(784), *(torch.randperm(784, generator=generator) for _ in range(TASKS - 1))]
    (x, test), (y, asked) = split.x, split.y
    return [Task(f"{i + 1}", x[:, p], y, test[:, p], asked) for i, p in enumerate(orders)]


def network() -> ResNet:
    """Three residual blocks of width 128."""
    return ResNet(nn.Linear(784, WIDTH), [MLP(WIDTH, WIDTH, WIDTH) for _ in range(DEPTH)], nn.Linear(WIDTH, 10))


def _shared(
    context: Context, net: nn.Module, tasks: list[Task], plan: Plan, penalties: tuple[float, ...]
) -> tuple[_Curve, list[_Penalised]]:
    """One bottleneck behind the blocks for all tasks, under several penalties; the free one is scaled down afterwards."""
    old = tasks[0]
    curve: _Curve | None = None
    found = []
    for k, penalty in enumerate(penalties):
        context.advance(0.65 + 0.3 * k / len(penalties), f"one branch for all, penalty {penalty:g}")
        twin = copy.deepcopy(net)
        record = Continual(twin, Shared(penalty=penalty, plan=plan), base=old).run(tasks[1:2])
        seen = disturbance(twin, old.x_test)
        found.append(_Penalised(penalty, seen.norm, record.forgetting, record.matrix[-1][1], seen.bound))
        if curve is None:
            curve = _scaled(twin, old.x_test, STRENGTHS[::2] if context.fast else STRENGTHS)
    assert curve is not None
    return curve, found


def _scaled(net: nn.Module, x: Tensor, strengths: list[float]) -> _Curve:
    adapters = adapters_of(net)
    norms, measured, certain, sampled, violations, safe = [], [], [], [], 0, 0.0
    for strength in strengths:
        adapters.strength("shared", strength)
        sure, seen = disturbance(net, x), disturbance(net, x, certain=False)
        norms.append(sure.norm)
        measured.append(sure.measured)
        certain.append(sure.bound)
        # reach/norm grows with the branch, so that below 1/reach of this norm no sample reaches its margin
        safe = max(safe, sure.norm / max(1.0, float(sure.reach.max())))
        sampled.append(seen.bound)
        violations += sum(int((d.moved & (d.reach < 1)).sum()) for d in (sure, seen))
    return _Curve(norms, measured, certain, sampled, violations, safe)


def _remembered(records: list[Record], changed: int) -> list[Finding]:
    own, lora, shared, tuned, replay = records
    return [
        Finding(
            "continual.identity", "Bits of the old task's logits that differ after four more tasks, a branch a task",
            "pass" if changed == 0 else "fail", float(changed), 0.0,
            why="The model is frozen and the branches of other tasks are not computed. Passes at 0.",
        ),
        Finding(
            "continual.forgetting", "Forgetting, a branch a task, as a share of that of full fine-tuning",
            "pass" if own.forgetting <= 0.1 * tuned.forgetting else "fail",
            own.forgetting / tuned.forgetting if tuned.forgetting > 0 else math.inf, "≤ 0.1",
            why=f"Full fine-tuning forgets {100 * tuned.forgetting:.1f} points, replay {100 * replay.forgetting:.1f}, one LoRA "
            f"for all tasks {100 * shared.forgetting:.1f}.",
        ),
        Finding(
            "continual.added", "Numbers that a task adds, as a share of the model",
            "pass" if own.share <= 0.05 else "fail", own.share, "≤ 0.05", why="Branch and head of a task. Passes at 5 %.",
        ),
        *[
            Finding(
                f"continual.average.{key}", f"Average accuracy on the five tasks less that of {other.method}",
                "pass" if own.average > other.average else "fail" if key != "lora" else "warn",
                100 * (own.average - other.average), "> 0", "points",
                why=f"{own.average:.1%} against {other.average:.1%}"
                + (f", with {lora.share:.1%} added where the branch adds {own.share:.1%}." if key == "lora" else ".")
            )
            for key, other in (("tuned", tuned), ("shared", shared), ("lora", lora))
        ],
    ]  # fmt: skip


def _disturbed(curve: _Curve, penalised: list[_Penalised]) -> list[Finding]:
    free, tight = penalised[0], penalised[-1]
    calm = [n for n, m in zip(curve.norms, curve.measured, strict=True) if m == 0]
    broken = [n for n, m in zip(curve.norms, curve.measured, strict=True) if m > 0 and n < curve.safe]
    return [
        Finding(
            "continual.bound", f"Decisions that changed within their bound, at {len(curve.norms)} sizes of the branch",
            "pass" if curve.violations == 0 else "fail", float(curve.violations), 0.0,
            why="The bound is computed from the branch's certified Lipschitz constant and each margin before anything is "
            "measured. Passes at 0.",
        ),
        Finding(
            "continual.safe", "Largest norm of a branch at which no old decision changed",
            "fail" if broken else "pass", max(calm, default=0.0), f"≥ {curve.safe:.2g}",
            why="Theory: the largest at which the bound says that none can. The least margin of the digits decides it. It "
            "holds for the worst direction of every layer at once, so the truth is larger.",
        ),
        Finding(
            "continual.penalty", f"Forgetting with penalty μ = {tight.penalty:g} less that without, one branch for all",
            "pass" if tight.forgetting < free.forgetting else "fail", 100 * (tight.forgetting - free.forgetting), "< 0",
            "points",
            why=f"The branch's norm goes from {free.norm:.2g} to {tight.norm:.2g}, accuracy on the new task from "
            f"{free.learned:.1%} to {tight.learned:.1%}: that is the price.",
        ),
    ]  # fmt: skip


def _summary(records: list[Record], curve: _Curve, penalised: list[_Penalised], findings: list[Finding]) -> str:
    own, lora, _, tuned, replay = records
    verdicts = {f.verdict for f in findings}
    opening = "fails in part" if "fail" in verdicts else "holds in part" if "warn" in verdicts else "holds"
    free, tight = penalised[0], penalised[-1]
    return (
        f"The claim {opening}. After {TASKS} tasks full fine-tuning has forgotten {100 * tuned.forgetting:.0f} points and is "
        f"at {tuned.average:.1%} on average, replay at {replay.average:.1%}; a branch a task, {own.share:.1%} of the model "
        f"each, has forgotten {100 * own.forgetting:.0f} and is at {own.average:.1%} (LoRA of {lora.share:.1%} a task: "
        f"{lora.average:.1%}). One branch for all tasks disturbs the less the smaller it is: under a penalty its norm goes "
        f"from {free.norm:.2g} to {tight.norm:.2g} and forgetting from {100 * free.forgetting:.0f} to "
        f"{100 * tight.forgetting:.0f} points, and {'at none' if curve.violations == 0 else 'at some'} of {len(curve.norms)} "
        "sizes did a decision change that margin over Lipschitz constant says must stay."
    )


def _figure(curve: _Curve, penalised: list[_Penalised]) -> Figure:
    return Figure(
        "Old decisions that change, against the norm of the branch", "certified Lipschitz constant of the branch",
        "share of the old task's test digits",
        [
            Series("bound: margin over the branch's constant", curve.norms, curve.certain),
            Series("bound: margin over the branch's size on the digits", curve.norms, curve.sampled),
            Series("measured, one branch scaled", curve.norms, curve.measured, "points"),
            Series("accuracy lost under penalties", [p.norm for p in penalised], [p.forgetting for p in penalised], "points"),
        ],
        xscale="log",
        caption="No point of the scaled branch lies above a line. The lines take the worst direction in every layer; how far "
        "they lie to the left is what that costs.",
    )  # fmt: skip


def _table(penalised: list[_Penalised]) -> Table:
    rows: list[list[float | str | None]] = [[p.penalty, p.norm, p.forgetting, p.bound, p.learned] for p in penalised]
    columns = ["penalty μ", "norm of the branch", "forgetting", "bound on changed decisions", "accuracy on the new task"]
    return Table("One branch for all tasks, under a penalty", columns, rows)
