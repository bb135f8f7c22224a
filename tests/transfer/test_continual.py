"""Tasks one after the other: the matrix, what is forgotten, what a branch may disturb, and tasks that are refused."""

import copy

import pytest
import torch
from tests.transfer.networks import perceptron
from torch import nn

import residyn as rd
from residyn.errors import InputError
from residyn.nets import MLP, ResNet
from residyn.training import Plan
from residyn.transfer import Branches, Continual, FineTune, Record, Replay, Shared, Task, add_adapters, compare, disturbance
from residyn.transfer.methods import squared, widest
from residyn.transfer.record import comparison, curves

PLAN = Plan(epochs=6, batch=20, rate=1e-2)


def sequence(count: int = 3, n: int = 120) -> list[Task]:
    """Opposite questions: the class is the sign of another direction in each task."""
    g = torch.Generator().manual_seed(0)
    x, x_test = torch.randn(n, 5, generator=g), torch.randn(n, 5, generator=g)
    ways = torch.linalg.qr(torch.randn(5, 5, generator=g))[0]
    return [Task(f"t{i}", x, (x @ ways[i] > 0).long(), x_test, (x_test @ ways[i] > 0).long()) for i in range(count)]


def network(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(nn.Linear(5, 12), [MLP(12, 12, 12) for _ in range(2)], nn.Linear(12, 2))


def test_measures_are_those_of_the_papers():
    r = Record("m", ["a", "b", "c"], [[0.9, 0.5, 0.4], [0.6, 0.8, 0.3], [0.7, 0.5, 1.0]], [0.5, 0.5, 0.5], [0, 5, 7], 100)
    assert r.average == pytest.approx((0.7 + 0.5 + 1.0) / 3)
    assert r.forgetting == pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2)  # max over the rows since it was learned
    assert r.backward == pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2)
    assert r.forward == pytest.approx(((0.5 - 0.5) + (0.3 - 0.5)) / 2)
    assert r.share == 0.07
    assert r.table.rows[1] == ["after b", 0.6, 0.8, 0.3]
    assert comparison([r]).rows[0][0] == "m"
    assert curves([r]).series[0].y == pytest.approx([0.9, 0.7, 2.2 / 3])
    assert Record("m", ["a"], [[0.9]]).forgetting == 0.0


def test_a_branch_a_task_forgets_nothing_bit_for_bit_and_fine_tuning_does():
    tasks = sequence(n=80)
    net = network()
    branches, tuned, replayed = compare(net, [Branches(share=0.4), FineTune(), Replay(memory=60)], tasks, plan=PLAN)
    assert branches.forgetting == 0.0
    assert branches.backward == 0.0
    assert branches.average > tuned.average
    assert tuned.forgetting > 0.1
    assert replayed.forgetting < tuned.forgetting
    assert 0 < branches.share <= 0.4
    assert tuned.added == [0, 0, 0]
    assert [len(row) for row in branches.matrix] == [3, 3, 3]
    assert branches.start == tuned.start
    assert branches.matrix[0] == tuned.matrix[0]


def test_old_logits_stay_what_they_were():
    tasks = sequence()
    learner = Continual(network(), Branches(rank=3, heads=["head"]), plan=PLAN)
    learner.learn(tasks[0])
    before = learner.predict(tasks[0], tasks[0].x_test)
    learner.learn(tasks[1])
    second = learner.predict(tasks[1], tasks[1].x_test)
    learner.learn(tasks[2])
    assert torch.equal(learner.predict(tasks[0], tasks[0].x_test), before)
    assert torch.equal(learner.predict(tasks[1], tasks[1].x_test), second)
    assert learner.record().forgetting == 0.0
    assert learner.record().names == ["t0", "t1", "t2"]


def test_a_run_is_the_same_twice():
    tasks = sequence(2)
    records = [Continual(network(), plan=PLAN, method=Branches(share=0.4)).run(tasks) for _ in range(2)]
    assert records[0] == records[1]


def test_a_model_that_was_trained_keeps_its_task():
    tasks = sequence(2)
    net = network()
    Continual(net, plan=PLAN).learn(tasks[0])
    weight = net.stem.weight.clone()
    record = Continual(net, Branches(share=0.4), plan=PLAN, base=tasks[0]).run(tasks[1:])
    assert torch.equal(net.stem.weight, weight)
    assert record.names == ["t0", "t1"]
    assert record.start == [0.5, 0.5]  # chance: nobody knows what the model was before
    assert record.matrix[0][0] > 0.8


def test_classes_that_may_not_be_answered_are_not():
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    y = 2 + (x[:, 0] > 0).long()
    task = Task("pair", x, y, x, y, classes=(2, 3))
    net = perceptron()
    learner = Continual(net, plan=PLAN)
    learner.learn(task)
    assert set(learner.predict(task, x).argmax(1).tolist()) <= {2, 3}
    assert learner.accuracy(task) > 0.8


def test_penalty_makes_the_shared_branch_smaller_and_the_forgetting_too():
    tasks = sequence(2)
    net = network()
    Continual(net, plan=PLAN).learn(tasks[0])
    found = []
    for penalty in (0.0, 0.3):
        twin = copy.deepcopy(net)
        record = Continual(twin, Shared(share=0.4, penalty=penalty), plan=PLAN, base=tasks[0]).run(tasks[1:])
        found.append((disturbance(twin, tasks[0].x_test), record.forgetting))
    assert found[1][0].norm < found[0][0].norm
    assert found[1][1] <= found[0][1]


def test_the_penalty_bounds_the_constants():
    net = perceptron()
    adapters = add_adapters(net, torch.randn(2, 5))
    with torch.no_grad():
        for key, t in adapters.tensors().items():
            if not key.endswith("gate"):
                t.normal_()
    # Σ K_k² with K_k ≤ s·‖U‖₂·‖D‖₂ ≤ s·‖U‖_F·‖D‖_F, and Disturbance.norm is the largest K_k
    assert disturbance(net, torch.randn(4, 5), "default").norm ** 2 <= float(squared(adapters, "default").detach())


@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_never_below_what_happens(seed, certain):
    net = perceptron(seed)
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(seed))
    adapters = add_adapters(net, x[:2], rank=3)
    with torch.no_grad():
        for t in adapters.parameters():
            t.normal_(generator=torch.Generator().manual_seed(seed))
    for strength in (1.0, 0.1, 0.01, 0.001, 1e-4):
        adapters.strength("default", strength)
        found = disturbance(net, x, "default", certain=certain)
        assert not bool((found.moved & (found.reach < 1)).any())
        assert found.measured <= found.bound
    assert found.bound < 0.5  # and it says something


def test_the_bound_of_one_branch_before_a_linear_head_is_the_closed_form():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(50, 3)
    adapters = add_adapters(net, x, modules=["1"], kind="low_rank", rank=1)
    own = adapters.tensors()
    with torch.no_grad():
        own["1|0|up"].normal_()
    z = net[1](net[0](x)).detach()  # the hook is at work: take it off
    with adapters.disabled():
        z = net[1](net[0](x)).detach()
        margin = net(x).detach().diff(dim=1).abs()[:, 0]
    K = own["1|0|up"].detach().norm() * own["1|0|down"].norm()  # rank one: the norm of an outer product
    reach = (net[2].weight[0] - net[2].weight[1]).norm() * K * z.norm(dim=1) / margin
    # certified constants are up to 1e-3 above the truth, with which the rest is float32
    torch.testing.assert_close(disturbance(net, x, "default").reach.float(), reach.detach(), rtol=2e-3, atol=1e-6)


def test_heads_of_another_kind_count_with_root_two():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 2)), nn.Tanh()), torch.randn(30, 3)
    adapters = add_adapters(net, x, modules=["0"], rank=2)
    with torch.no_grad():
        adapters.parameters()[1].normal_(std=0.01)
    found = disturbance(net, x, "default")
    assert found.measured <= found.bound < 1


def test_images_have_a_bound_too():
    x = torch.randn(6, 3, 8, 8)
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    adapters = add_adapters(chain, x, modules=["1"], rank=1)
    with torch.no_grad():
        for p in adapters.parameters():
            p.mul_(0.01).add_(1e-4)
    found = disturbance(chain, x, "default")
    assert 0 < found.norm < 0.1
    assert found.measured <= found.bound


def test_the_widest_branch_fills_its_share():
    net = network()
    whole = sum(p.numel() for p in net.parameters())
    flags = [p.requires_grad for p in net.parameters()]
    rank = widest(net, torch.randn(2, 5), share=0.5)
    counts = []
    for r in (rank, rank + 1):
        adapters = add_adapters(net, torch.randn(2, 5), rank=r)
        counts.append(adapters.count())
        adapters.undo()
    assert counts[0] <= 0.5 * whole < counts[1]
    assert [p.requires_grad for p in net.parameters()] == flags
    with pytest.raises(InputError, match="`share` must allow a branch of rank 1, [0-9]+ numbers, got 0.01"):
        widest(net, torch.randn(2, 5), share=0.01)


def broken(**change) -> Task:
    task = sequence(2)[1]
    return Task(**{**task.__dict__, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "t0"}, "`tasks` must have names of their own, got 't0' twice; there are t0"),
        ({"x": torch.zeros(0, 5), "y": torch.zeros(0).long()}, "`x` of task 't1' must hold a sample, got none"),
        ({"y": torch.zeros(5).long()}, r"`y` of task 't1' must be \(120,\), one class a sample, got \(5,\)"),
        ({"y_test": torch.zeros(120)}, "`y_test` of task 't1' must be class numbers, got torch.float32"),
        ({"x": torch.full((120, 5), torch.nan)}, "`x` of task 't1' must be finite, got nan or inf"),
        ({"x": torch.zeros(120, 6)}, r"`x` of task 't1' must have the features of the tasks before, \(5,\), got \(6,\)"),
        ({"y": torch.full((120,), 7)}, "`y` of task 't1' must be classes that the model can answer, 0, 1, got 7"),
        ({"y": torch.full((120,), -1)}, "`y` of task 't1' must be classes that the model can answer, 0, 1, got -1"),
        ({"y": torch.zeros(120).long()}, "`y_test` of task 't1' must be classes that `y` teaches, 0, got 1"),
        ({"classes": (0, 5)}, r"`classes` of task 't1' must lie in 0 … 1, got \[0, 5\]"),
        ({"classes": (0,)}, "`y` of task 't1' must be classes that the model can answer, 0, got 1"),
    ],
)
def test_tasks_that_break_a_rule_leave_the_model_untouched(change, words):
    net = network()
    state = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match=words):
        Continual(net, plan=PLAN).run([sequence(2)[0], broken(**change)])
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())


def test_an_interrupted_task_leaves_the_model_as_it_was_before_it():
    tasks = sequence()
    net = network()
    calls = []

    def stop(moment) -> None:
        calls.append(moment)
        if len(calls) == 3:
            raise KeyboardInterrupt

    Continual(net, plan=PLAN).learn(tasks[0])
    for method in (Branches(share=0.4), Shared(share=0.4), FineTune(), Replay()):
        learner = Continual(net, method, plan=PLAN, base=tasks[0])
        before, state = learner.predict(tasks[0], tasks[0].x_test), copy.deepcopy(net.state_dict())
        learner.progress = stop
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            learner.learn(tasks[1])
        learner.progress = None
        assert list(net.state_dict()) == list(state)
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
        assert torch.equal(learner.predict(tasks[0], tasks[0].x_test), before)
        assert [t.name for t in learner.tasks] == ["t0"]


def test_wrong_arguments_are_refused():
    with pytest.raises(InputError, match="`model` must be a torch module, got int"):
        Continual(3)
    with pytest.raises(InputError, match="`method` must be a Method, got str"):
        Continual(network(), "lora")
    with pytest.raises(InputError, match="`tasks` must hold at least one task, got none"):
        Continual(network()).run([])
    with pytest.raises(InputError, match="`tasks` must be two at least to compare methods, got 1"):
        compare(network(), [FineTune()], sequence(1))
    with pytest.raises(InputError, match="`penalty` must be finite and >= 0, got -1"):
        Shared(penalty=-1)
    with pytest.raises(InputError, match=r"`heads` must be empty for a shared branch, got \['head'\]"):
        Shared(heads=["head"])
    with pytest.raises(InputError, match="`memory` must be >= 1 sample a task, got 0"):
        Replay(memory=0)
    with pytest.raises(InputError, match=r"`model` must return logits \(2, C\), got \(2, 2, 2\)"):
        Continual(nn.Unflatten(1, (2, 2)), base=Task("a", *[torch.zeros(2, 4), torch.zeros(2).long()] * 2))
    net = network()
    add_adapters(net, torch.randn(2, 5), modules=["head"], kind="low_rank")
    with pytest.raises(InputError, match="`name` must be an adapter whose branches stand behind modules of the chain"):
        disturbance(net, torch.randn(4, 5), "default")
    odd = nn.Linear(5, 2)
    add_adapters(odd, torch.randn(2, 5), modules=[""])
    with pytest.raises(InputError, match="`model` must be modules one after the other"):
        disturbance(odd, torch.randn(4, 5), "default")


def test_a_constant_is_that_of_the_model_as_it_is_switched():
    """Certified while the adapters are off; refused while they are at work, as they hang on modules as hooks."""
    net, x = ResNet(nn.Linear(4, 8), [MLP(8, 8, 8)], nn.Linear(8, 2)), torch.randn(5, 4)
    before = float(rd.lipschitz(net, 4))
    adapters = add_adapters(net, x, rank=2)
    with adapters.disabled():
        assert float(rd.lipschitz(net, 4)) == before
    with pytest.raises(rd.InputError, match=r"got forward hooks on it \(Hung\): take them off"):
        rd.lipschitz(net, 4)
