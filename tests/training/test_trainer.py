"""The trainer: the steps it takes are the ones a loop would take, and no kill, split or number of processes changes them."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from residyn.errors import InputError, SolveError
from residyn.training import Plan, Trainer, load_weights, save_weights

JOB = Path(__file__).with_name("job.py")
SOURCE = str(Path(__file__).parents[2] / "src")


def job(*words, processes=1):
    """Run the job in processes of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")])}
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return subprocess.run(
        [sys.executable, *launch, JOB, *map(str, words)], capture_output=True, text=True, env=env, timeout=300
    )


def square(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


@pytest.fixture
def line():
    """Points on a line, and a model that can hold it."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 50)[:, None]
    return nn.Linear(1, 1), (x, 2 * x - 1)


class TestSteps:
    def test_are_those_of_a_loop_written_out(self, line):
        net, (x, y) = line
        twin = nn.Linear(1, 1)
        twin.load_state_dict(net.state_dict())
        plan = Plan(epochs=3, batch=8, rate=0.05, decay=0.1, warmup=0.2, clip=0.5, seed=4)
        losses = Trainer(net, square, (x, y), plan).run().loss
        optimiser, step, steps, means = torch.optim.AdamW(twin.parameters(), lr=1.0, weight_decay=0.1), 0, 3 * 7, []
        for epoch in range(3):
            order = torch.randperm(50, generator=torch.Generator().manual_seed(4 * 1_000_003 + epoch))
            total = 0.0
            for rows in order.split(8):
                rising = 5  # the fifth part of 21 steps, rounded up
                done = (step - rising) / (steps - rising)
                rate = 0.05 * ((step + 1) / rising if step < rising else (1 + math.cos(math.pi * done)) / 2)
                optimiser.param_groups[0]["lr"] = rate
                optimiser.zero_grad()
                loss = (twin(x[rows]) - y[rows]).square().mean()
                loss.backward()
                nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
                optimiser.step()
                total, step = total + loss.item() * len(rows), step + 1
            means.append(total / 50)
        # one thread and the same operations in the same order, but for a multiplication by 1 and one sum of losses
        torch.testing.assert_close(net.weight, twin.weight, rtol=1e-6, atol=1e-7)
        assert losses == pytest.approx(means, rel=1e-6)

    def test_accumulated_passes_take_the_step_of_one_pass(self, line):
        net, data = line
        twin = nn.Linear(1, 1)
        twin.load_state_dict(net.state_dict())
        # 50 samples in steps of 12: the last step has two, in passes of 4 and in one
        many = Trainer(net, square, data, Plan(epochs=4, batch=4, accumulate=3, rate=0.1)).run()
        one = Trainer(twin, square, data, Plan(epochs=4, batch=12, rate=0.1)).run()
        assert many.steps == one.steps == 20
        # float32 sums in another order: some n·eps of the values, 1e-6; Adam's division passes relative errors on
        torch.testing.assert_close(net.weight, twin.weight, rtol=1e-5, atol=1e-6)
        assert many.loss == pytest.approx(one.loss, rel=1e-5)

    def test_another_optimiser_keeps_its_own_rates(self, line):
        net, data = line
        seen = []

        def make(parameters):
            first, second = parameters
            optimiser = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.01}])
            seen.append(optimiser)
            return optimiser

        Trainer(net, square, data, Plan(epochs=1, batch=10, rate=0.1, schedule="constant"), optimiser=make).run()
        assert [group["lr"] for group in seen[0].param_groups] == pytest.approx([0.1, 0.01])

    def test_a_dataset_of_items_is_stacked(self, line):
        net, (x, y) = line
        twin = nn.Linear(1, 1)
        twin.load_state_dict(net.state_dict())
        Trainer(net, square, (x, y), Plan(epochs=2, batch=16)).run()
        Trainer(twin, square, torch.utils.data.TensorDataset(x, y), Plan(epochs=2, batch=16)).run()
        assert torch.equal(net.weight, twin.weight)

    def test_bf16_computes_in_bf16_and_keeps_weights_in_float32(self, line):
        net, data = line
        seen = set()

        def loss(model, batch):
            out = model(batch[0])
            seen.add(out.dtype)
            return (out.float() - batch[1]).square().mean()

        history = Trainer(net, loss, data, Plan(epochs=60, batch=10, rate=0.05, precision="bf16")).run()
        assert seen == {torch.bfloat16}
        assert net.weight.dtype == torch.float32
        assert history.loss[-1] < 1e-3  # bf16 has 8 bits: errors of 2^-9 of values up to 3, squared, are below 4e-5

    def test_the_callers_generators_are_left_as_they_were(self, line):
        net, data = line
        before = torch.get_rng_state()
        Trainer(nn.Sequential(net, nn.Dropout(0.5)), square, data, Plan(epochs=1)).run()
        assert torch.equal(before, torch.get_rng_state())


class TestEarlyStop:
    def test_waits_then_stops_and_keeps_the_best(self, line):
        net, data = line
        told = iter([3.0, 1.0, 2.0, 2.0, 0.0])
        kept = []

        def validate(model):
            kept.append(model.weight.detach().clone())
            return next(told)

        history = Trainer(net, square, data, Plan(epochs=10, batch=10, patience=2), validate=validate).run()
        assert (history.best, history.stopped, len(history.loss)) == (1, True, 4)
        assert torch.equal(net.weight, kept[1])

    def test_a_validation_of_nan_is_never_better(self, line):
        net, data = line
        told = iter([math.nan, 1.0, math.nan])
        history = Trainer(net, square, data, Plan(epochs=3), validate=lambda model: next(told)).run()
        assert history.best == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "w.safetensors"
    run = job(out)
    assert run.returncode == 0, run.stderr
    return load_weights(out)


@pytest.mark.slow
class TestResume:
    @pytest.mark.parametrize("step", [7, 25])
    def test_a_killed_run_comes_to_the_same_weights_bit_for_bit(self, whole, tmp_path, step):
        out, state = tmp_path / "w.safetensors", tmp_path / "run.safetensors"
        log = tmp_path / "run.jsonl"
        words = (out, "--checkpoint", state, "--log", log)
        assert job(*words, "--kill", step).returncode == -signal.SIGKILL
        assert not out.exists()
        run = job(*words)
        assert run.returncode == 0, run.stderr
        weights, about = load_weights(out)
        assert {**about, "first": []} == {**whole[1], "first": []}
        assert weights.keys() == whole[0].keys()
        assert all(torch.equal(weights[name], whole[0][name]) for name in weights)
        steps = [entry["step"] for entry in map(json.loads, log.read_text().splitlines()) if "loss" in entry]
        assert steps == list(range(1, 45))  # 103 samples are eleven steps of ten, four times: none twice, none left out

    def test_ctrl_c_writes_a_checkpoint_after_the_step(self, whole, tmp_path):
        out, state = tmp_path / "w.safetensors", tmp_path / "run.safetensors"
        run = job(out, "--checkpoint", state, "--interrupt", 5)
        assert run.returncode != 0
        assert "KeyboardInterrupt" in run.stderr
        assert load_weights(state)[1]["history"]["steps"] == 5
        assert job(out, "--checkpoint", state).returncode == 0
        assert all(torch.equal(value, whole[0][name]) for name, value in load_weights(out)[0].items())

    # the second one in two passes a step, whose gradients are exchanged after the last of them only
    @pytest.mark.parametrize(
        "words", [("--batch", 5), ("--batch", 3, "--accumulate", 2, "--parallel", "fsdp")], ids=["ddp", "fsdp"]
    )
    def test_two_processes_give_the_losses_of_one_with_the_doubled_batch(self, tmp_path, words):
        one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
        assert job(one, "--plain", "--batch", 10 if words[1] == 5 else 12, "--samples", 84).returncode == 0
        run = job(two, "--plain", *words, "--samples", 84, "--checkpoint", tmp_path / "s.safetensors", processes=2)
        assert run.returncode == 0, run.stderr
        (a, first), (b, second) = load_weights(one), load_weights(two)
        assert first["steps"] == second["steps"]
        # The same sums in another order: 1e-7 in float32, which dozens of steps of Adam, dividing by small second moments,
        # may amplify a hundredfold.
        assert second["first"] == pytest.approx(first["first"], rel=1e-5)
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(b[name], a[name], rtol=1e-5, atol=1e-5)


class TestInput:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"epochs": 0}, "`epochs` must be a whole number >= 1, got 0"),
            ({"batch": 2.5}, "`batch` must be a whole number >= 1, got 2.5"),
            ({"accumulate": True}, "`accumulate` must be a whole number >= 1, got True"),
            ({"seed": -1}, "`seed` must be a whole number >= 0, got -1"),
            ({"patience": 0}, "`patience` must be a whole number >= 1, got 0"),
            ({"rate": math.nan}, "`rate` must be a finite learning rate > 0, got nan"),
            ({"decay": -1}, "`decay` must be a finite weight decay >= 0, got -1"),
            ({"warmup": 1.0}, r"`warmup` must be a share of the steps in \[0, 1\), got 1.0"),
            ({"clip": 0.0}, "`clip` must be a finite norm > 0, or None, got 0.0"),
            ({"schedule": "step"}, '`schedule` must be "cosine" or "constant", got \'step\''),
            ({"precision": "fp16"}, '`precision` must be "float32" or "bf16", got \'fp16\''),
            ({"parallel": "pipeline"}, '`parallel` must be "ddp" or "fsdp"'),
        ],
    )
    def test_plans(self, values, message):
        with pytest.raises(InputError, match=message):
            Plan(**values)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ((torch.zeros(3), torch.zeros(4)), r"`data` must have tensors of one length, got \[3, 4\]"),
            (torch.zeros(0, 2), "`data` must hold at least one sample, got none"),
            (iter([1, 2]), "`data` must be tensors or a dataset with a length and items, got list_iterator"),
        ],
    )
    def test_data(self, data, message):
        with pytest.raises(InputError, match=message):
            Trainer(nn.Linear(1, 1), square, data)

    def test_nothing_to_train(self, line):
        with pytest.raises(InputError, match="`model` must have a parameter that requires a gradient, got none"):
            Trainer(nn.Tanh(), square, line[1])

    def test_patience_needs_a_validation(self, line):
        with pytest.raises(InputError, match="`patience` must be None without `validate`"):
            Trainer(line[0], square, line[1], Plan(patience=3))

    def test_files_are_refused_before_the_run(self, line, tmp_path):
        with pytest.raises(InputError, match=r"must be a file that ends in \.safetensors, got '.*run\.pt'"):
            Trainer(line[0], square, line[1], checkpoint=tmp_path / "run.pt")
        with pytest.raises(InputError, match="must be in a folder that exists and may be written to"):
            Trainer(line[0], square, line[1], checkpoint=tmp_path / "absent" / "run.safetensors")
        with pytest.raises(InputError, match="`log` must be a file that can be written"):
            Trainer(line[0], square, line[1], log=tmp_path / "absent" / "run.jsonl").run()

    def test_a_loss_of_nan_keeps_the_last_checkpoint(self, line, tmp_path):
        net, (x, y) = line
        state = tmp_path / "run.safetensors"
        calls = 0

        def loss(model, batch):
            nonlocal calls
            calls += 1
            return square(model, batch) * (math.nan if calls == 8 else 1.0)

        with pytest.raises(SolveError, match="the loss is nan in step 2 of epoch 1; lower `rate`"):
            Trainer(net, loss, (x, y), Plan(epochs=3, batch=10), checkpoint=state).run()
        assert load_weights(state)[1]["history"]["steps"] == 5

    def test_a_checkpoint_of_another_run_is_refused(self, line, tmp_path):
        net, data = line
        state = tmp_path / "run.safetensors"
        Trainer(net, square, data, Plan(epochs=1), checkpoint=state).run()
        with pytest.raises(InputError, match="`checkpoint` must be one of this run, .* with plan epochs=1, not epochs=2"):
            Trainer(net, square, data, Plan(epochs=2), checkpoint=state).run()
        fewer = tuple(part[:40] for part in data)
        with pytest.raises(InputError, match="with samples 50, not 40"):
            Trainer(net, square, fewer, Plan(epochs=1), checkpoint=state).run()
        with pytest.raises(InputError, match="`checkpoint` must be one of this model"):
            Trainer(nn.Sequential(net), square, data, Plan(epochs=1), checkpoint=state).run()

    def test_a_file_cut_off_or_foreign_is_refused(self, tmp_path):
        from safetensors.torch import save_file

        whole, cut, foreign = (tmp_path / f"{name}.safetensors" for name in ("whole", "cut", "foreign"))
        save_weights(whole, {"a": torch.ones(100)}, {})
        cut.write_bytes(whole.read_bytes()[:-8])
        save_file({"a": torch.ones(2)}, foreign)
        with pytest.raises(InputError, match=r"cut\.safetensors: must be a safetensors file, got"):
            load_weights(cut)
        with pytest.raises(InputError, match="must be a file written by Residyn, got safetensors without its header"):
            load_weights(foreign)
        with pytest.raises(InputError, match="must be a file that can be read, got none"):
            load_weights(tmp_path / "absent.safetensors")


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    from residyn.errors import ResidynError

    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(3)}, {"run": 1})
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResidynError, match="could not be written: .*No space left on device; the file that was there"):
        save_weights(path, {"a": torch.zeros(3)}, {"run": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
