"""Changes to a live model, block by block, each of which can be undone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from residyn.audit.endings import Ending, endings, refusal
from residyn.audit.gains import Adapted, Gain, Hook, Survival, started
from residyn.errors import InputError

if TYPE_CHECKING:
    from residyn.audit.auditing import Audit
    from residyn.audit.blocks import Block
    from residyn.audit.prune import Pruned

Names = str | Sequence[str] | None
Parts = dict[str, Tensor]


class Change:
    """A change that was made to a model; `undo()` takes it back, and so does leaving it as a context.

    Args:
        what: What was done.
        blocks: The blocks it was done to.
        parameters: Parameters that it added.
    """

    def __init__(self, what: str, blocks: Sequence[str], parameters: Sequence[nn.Parameter] = ()) -> None:
        self.what, self.blocks, self.parameters = what, tuple(blocks), list(parameters)
        self.steps: list[Callable[[], object]] = []
        self.active = True

    def undo(self) -> None:
        """Make the model what it was before this change; a second call does nothing."""
        while self.steps:
            self.steps.pop()()
        self.active = False

    def __enter__(self) -> Change:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"Change({self.what}: {', '.join(self.blocks)}{'' if self.active else ', undone'})"


class Retrofit:
    """Changes to the model of an audit, at the modules with which its branches end.

    Gains, drops in training and adapters are forward hooks; what they learn is a parameter of the module they hang on, so it
    is trained and saved with the model. Every method takes names of blocks (all of them if none are given), returns a
    `Change`, and changes nothing if one of the blocks cannot be changed.

    Args:
        audit: The audit.

    >>> from residyn.nets import MLP, ResNet
    >>> import residyn
    >>> net, x = ResNet(nn.Linear(4, 8), [MLP(8, 8, 8) for _ in range(3)], nn.Linear(8, 2)), torch.ones(2, 4)
    >>> before = net(x)
    >>> change = residyn.audit(net, x, budget=0).retrofit.scale({"body.blocks.1": 0.5})
    >>> bool((net(x) == before).all())
    False
    >>> change.undo()
    >>> bool((net(x) == before).all())
    True
    """

    def __init__(self, audit: Audit) -> None:
        self.audit, self.changes, self._count = audit, list[Change](), 0

    def undo(self) -> None:
        """Take back all changes, the last one first."""
        while self.changes:
            self.changes.pop().undo()

    # -- the changes ------------------------------------------------------------------------------------------------------

    def drop(self, names: Names = None) -> Change:
        """Take branches out: their modules are replaced by ones that return zeros and compute nothing.

        Args:
            names: Blocks; all of them if `None`.

        Raises:
            InputError: If a block cannot be changed, with the reason.
        """
        from residyn.audit.prune import absentees

        blocks = [block for block, _ in self._chosen(names)]
        change = Change("drop", [b.name for b in blocks])
        for path, module in absentees(self.audit, blocks).items():
            parent, _, last = path.rpartition(".")
            home = self.audit.model.get_submodule(parent)
            old = home._modules[last]
            home._modules[last] = module.train(old.training if old is not None else False)
            change.steps.append(lambda home=home, last=last, old=old: home._modules.__setitem__(last, old))  # type: ignore[misc]
        self.changes.append(change)
        return change

    def scale(self, names: Names | Mapping[str, float | Tensor] = None, factor: float | Tensor | None = None) -> Change:
        """Scale branches, F ← a·F.

        Args:
            names: Blocks, or a mapping from blocks to their factors.
            factor: a for all of them, a number or a tensor that broadcasts to the branch.

        Raises:
            InputError: If a factor is missing or not finite, or a block cannot be changed.
        """
        if isinstance(names, Mapping):
            factors, names = dict(names), list(names)
        else:
            if factor is None:
                raise InputError("`factor` must be given, got None; or hand in a mapping {block: factor}")
            factors = {block.name: factor for block, _ in self._chosen(names)}
        for value in factors.values():
            if not bool(torch.isfinite(torch.as_tensor(value)).all()):
                raise InputError(f"`factor` must be finite, got {value}")
        return self._hang("scale", names, lambda block, end: (Gain(end.place, factors[block.name]), {}, ""))

    def layer_scale(self, names: Names = None, init: float = 1e-4) -> Change:
        """LayerScale: a learned gain a channel, F ← γ·F, that starts small.

        Args:
            names: Blocks; all of them if `None`.
            init: Where γ starts.

        Reference:
            Touvron et al. (2021), "Going deeper with Image Transformers", arXiv:2103.17239.
        """
        return self._gains("layer_scale", names, lambda end: torch.full(_channels(end), float(init)))

    def rezero(self, names: Names = None) -> Change:
        """ReZero: a learned gain a block, F ← α·F, that starts at 0.

        Args:
            names: Blocks; all of them if `None`.

        Reference:
            Bachlechner et al. (2020), arXiv:2003.04887.
        """
        return self._gains("rezero", names, lambda _: torch.zeros(()))

    def skip_init(self, names: Names = None, init: float | None = None) -> Change:
        """SkipInit: a learned gain a block that starts at 1/√L, L being the number of blocks, or at a value of yours.

        Args:
            names: Blocks; all of them if `None`.
            init: Where it starts.

        Reference:
            De & Smith (2020), arXiv:2002.10444.
        """
        start = 1 / math.sqrt(max(1, len(self.audit.blocks))) if init is None else float(init)
        return self._gains("skip_init", names, lambda _: torch.tensor(start))

    def stochastic_depth(self, rate: float, names: Names = None, *, schedule: str = "linear") -> Change:
        """Stochastic depth: in training each sample loses a branch with a probability; evaluation is as before.

        Args:
            rate: Probability of the last block.
            names: Blocks; all of them if `None`.
            schedule: `"linear"`: from rate/L at the first block to `rate` at the last; `"uniform"`: `rate` everywhere.

        Raises:
            InputError: If the rate is not in [0, 1), the schedule is unknown, or a block cannot be changed.

        Reference:
            Huang, Sun, Liu, Sedra & Weinberger (2016), doi:10.1007/978-3-319-46493-0_39.
        """
        if not 0 <= rate < 1:
            raise InputError(f"`rate` must be a probability in [0, 1), got {rate}; 0 never drops")
        if schedule not in ("linear", "uniform"):
            raise InputError(f"`schedule` must be 'linear' or 'uniform', got {schedule!r}")
        order = {b.name: i for i, b in enumerate(self.audit.blocks, 1)}
        share = {name: (i / len(order) if schedule == "linear" else 1.0) for name, i in order.items()}
        return self._hang("stochastic_depth", names, lambda b, e: (Survival(e.place, 1 - rate * share[b.name]), {}, ""))

    def spectral(self, names: Names = None, norm: float = 1.0) -> Change:
        """Bound branches: parametrise the layers of the module that a branch ends with so that it is `norm`-Lipschitz.

        Args:
            names: Blocks; all of them if `None`.
            norm: The largest K of each such module.

        Raises:
            InputError: If a module cannot be bounded, with the reason.

        Reference:
            Gouk, Frank, Pfahringer & Cree (2021), doi:10.1007/s10994-020-05929-w.
        """
        from torch.nn.utils import parametrize

        from residyn.analysis import constrain

        planned = self._planned(names)
        change = Change("spectral", [block.name for block, _ in planned])
        try:
            for _, ends in planned:
                for end in ends:
                    module = self.audit.model.get_submodule(end.module)
                    layers: list[Any] = [m for m in module.modules() if isinstance(getattr(m, "weight", None), nn.Parameter)]
                    before = [(m, dict(m._parameters)) for m in layers]
                    constrain(module, norm, input_shape=_one_input(self.audit, end))
                    change.steps.append(functools.partial(_restored, before, parametrize))
        except InputError as error:
            change.undo()
            raise InputError(f"`{end.module}` must be made of layers that can be bounded: {error}") from None
        self.changes.append(change)
        return change

    def adapters(self, names: Names = None, rank: int = 8) -> Change:
        """Adapters: a small bottleneck behind each branch, F ← F + B·relu(A·F), that starts as nothing.

        Args:
            names: Blocks; all of them if `None`.
            rank: Width of the bottleneck.

        Returns:
            The change; its `.parameters` are what to train, the rest being frozen by you.

        Raises:
            InputError: If the rank is not positive, or a block cannot be changed.

        Reference:
            Houlsby et al. (2019), arXiv:1902.00751.
        """
        if rank < 1:
            raise InputError(f"`rank` must be >= 1, got {rank}; it is the width of the bottleneck")

        generator = torch.Generator().manual_seed(self.audit.run.seed)

        def make(_: Block, end: Ending) -> tuple[Hook, Parts, str]:
            axis = 1 if len(end.shape) == 4 else -1
            n, name = end.shape[axis], self._name("adapter")
            shapes: dict[str, tuple[int, ...]] = {"down": (rank, n), "downbias": (rank,), "up": (n, rank), "upbias": (n,)}
            return Adapted(end.place, f"{name}_", axis), started(shapes, generator), name

        return self._hang("adapters", names, make)

    def prune(self, loss: float = 0.01, *, repeat: int = 5) -> Pruned:
        """A smaller copy of the model: blocks leave as long as the metric loses no more than a share of itself.

        Args:
            loss: Largest share of the metric to lose; without targets, largest relative change of the output.
            repeat: Runs of each model that the speed-up is the median of.

        Returns:
            The copy, what it lost, and the measured speed-up; the audited model stays as it is.
        """
        from residyn.audit.prune import prune

        return prune(self.audit, loss, repeat=repeat)

    # -- how they are made ------------------------------------------------------------------------------------------------

    def _chosen(self, names: Names) -> list[tuple[Block, Any]]:
        pairs = list(zip(self.audit.blocks, self.audit.sums, strict=True))
        if names is None:
            return pairs
        wanted = [names] if isinstance(names, str) else list(names)
        by_name = {block.name: (block, s) for block, s in pairs}
        return [(self.audit[name], by_name[name][1]) for name in wanted]

    def _planned(self, names: Names) -> list[tuple[Block, list[Ending]]]:
        """The blocks with their ends; refuses before anything is changed."""
        chosen = self._chosen(names)
        if self.audit.below and chosen:
            raise refusal(chosen[0][0], "the model holds scripted or custom operations")
        return [(block, endings(self.audit.graph, block, s)) for block, s in chosen]

    def _gains(self, what: str, names: Names, start: Callable[[Ending], Tensor]) -> Change:
        def make(_: Block, end: Ending) -> tuple[Hook, Parts, str]:
            name = self._name(what)
            return Gain(end.place, name), {"": start(end)}, name

        return self._hang(what, names, make)

    def _hang(self, what: str, names: Names, make: Callable[[Block, Ending], tuple[Hook, Parts, str]]) -> Change:
        """Hang a hook on the end of every branch, with its parameters if it has any."""
        planned = self._planned(names)
        change = Change(what, [block.name for block, _ in planned])
        for block, ends in planned:
            for end in ends:
                module = self.audit.model.get_submodule(end.module)
                hook, parts, name = make(block, end)
                example = next((p for p in self.audit.model.parameters() if p.is_floating_point()), torch.zeros(()))
                for part, tensor in parts.items():
                    key = f"{name}_{part}" if part else name
                    parameter = nn.Parameter(tensor.detach().to(example.device, example.dtype))
                    module.register_parameter(key, parameter)
                    change.parameters.append(parameter)
                    change.steps.append(lambda module=module, key=key: delattr(module, key))  # type: ignore[misc]
                change.steps.append(module.register_forward_hook(hook).remove)
        self.changes.append(change)
        return change

    def _name(self, what: str) -> str:
        self._count += 1
        return f"residyn_{what}_{self._count}"


def _channels(end: Ending) -> tuple[int, ...]:
    """The shape of a gain a channel."""
    return (end.shape[1], 1, 1) if len(end.shape) == 4 else (end.shape[-1],)


def _one_input(audit: Audit, end: Ending) -> tuple[int, ...] | None:
    """Shape of a sample that enters a module, if it takes one tensor."""
    for call in audit.graph.calls:
        if call.path == end.module:
            made = audit.graph.nodes[call.first : call.last]
            inner = {v for node in made for v in node.outputs}
            entering = {v for node in made for v in node.inputs if v not in inner and audit.graph.dynamic >> v & 1}
            if len(entering) == 1:
                return audit.graph.values[entering.pop()].shape[1:]
    return None


def _restored(before: list[tuple[Any, dict[str, Any]]], parametrize: Any) -> None:
    """The very parameters that were there, in their order, without a parametrisation."""
    for module, parameters in before:
        if parametrize.is_parametrized(module, "weight"):
            original = module.parametrizations.weight.original
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            parameters["weight"].data.copy_(original.data)
            module._parameters.clear()
            module._parameters.update(parameters)
