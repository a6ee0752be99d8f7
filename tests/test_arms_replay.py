"""Mechanisms with samples of earlier experiences: what they keep, what they add, and how they resume."""

import copy
import io
import math
from collections import Counter

import numpy as np
import pytest
import torch
from avalanche.training.plugins import AGEMPlugin
from avalanche.training.supervised import Naive
from torch import nn

from continual_ep.arms import kept_bytes, parse_arm
from continual_ep.arms.assembly import Assembly
from continual_ep.arms.replay_strategies import BatchedAGEM
from continual_ep.errors import CheckpointError, ConfigurationError
from continual_ep.experiments.checkpoint import restore_strategy, strategy_state
from continual_ep.experiments.randomness import seed_everything
from continual_ep.forward_passes import penultimate
from continual_ep.learning import (
    CrossEntropy,
    EquilibriumPropagation,
    NeuromodulatedEquilibriumLearning,
    SquaredError,
)
from continual_ep.metrics import AccuracyMatrix
from continual_ep.networks import MLP, MRNN
from continual_ep.plugins import BatchFeed, DarkReplay, GDumb, ICaRL, SleepReplay
from continual_ep.plugins.replay_batches import endless_batches
from continual_ep.sleep import SleepHooks
from continual_ep.strategies import make_optimizer, silent_evaluator
from continual_ep.streams import class_incremental, online

#: Bytes of a sample of digits: 64 inputs of 4 bytes, label and task label of 8.
SAMPLE = 64 * 4 + 8 + 8

ARMS = [
    "joint",
    "cumulative",
    "er:2",
    "der++:20",
    "er-ace:20",
    "gdumb:20",
    "icarl:20",
    "agem:9",
    "gem:9",
]
IN_STEPS = ARMS[1:]  # experience by experience
QUICK = {"gdumb": {"epochs": 3}, "agem": {"sample_size": 12}}


@pytest.fixture(scope="module")
def benchmark():
    return class_incremental("digits", [4, 3, 3], seed=0, per_class=12)


def perceptron(seed=1, hidden=16):
    return MLP([64, hidden, 10], generator=torch.Generator().manual_seed(seed))


def settling(seed=1, readout="softmax"):
    rule = EquilibriumPropagation(nudging="loss", free_steps=8, nudged_steps=3)
    generator = torch.Generator().manual_seed(seed)
    return MRNN([64, 12, 10], learning=rule, readout=readout, generator=generator)


class Cell:
    """What the package's cells do with an arm: install, train, save and restore."""

    def __init__(self, arm, benchmark, model=None, *, criterion=None, epochs=2, options=QUICK):
        seed_everything(3, "training")
        model = model or perceptron()
        self.assembly = Assembly(
            model=model,
            optimizer=make_optimizer(model, 0.1, momentum=0.5),
            criterion=criterion or CrossEntropy(),
            benchmark=benchmark,
            seed=3,
            batch_size=8,
            epochs=epochs,
        )
        self.accuracy = AccuracyMatrix(benchmark.test_stream)
        self.assembly.plugins.append(self.accuracy)
        for mechanism in parse_arm(arm, options).mechanisms.values():
            mechanism.install(self.assembly)
        self.assembly.plugins.append(BatchFeed())
        self.strategy = self.assembly.strategy(silent_evaluator())
        self.benchmark = benchmark

    def train(self, start=0, stop=None):
        stream = self.benchmark.train_stream
        if self.assembly.whole_stream:
            self.strategy.train(stream, eval_streams=[])
        else:
            for number in range(start, len(stream) if stop is None else stop):
                self.strategy.train(stream[number], eval_streams=[])
        return self

    def saved(self, experiences):
        buffer = io.BytesIO()
        torch.save(strategy_state(self.strategy, self.assembly.states, experiences), buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    def restore(self, state):
        restore_strategy(self.strategy, self.assembly.states, state)
        return self

    def plugin(self, kind):
        return next(p for p in self.assembly.plugins if type(p).__name__ == kind)

    @property
    def kept(self):
        return sum(kept_bytes(state) for state in self.assembly.states.values())

    @property
    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.strategy.model.parameters()])


# ---- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [perceptron, settling])
@pytest.mark.parametrize("arm", IN_STEPS)
def test_resumed_training_ends_in_the_same_weights(arm, network, benchmark):
    straight = Cell(arm, benchmark, network()).train()
    for stop in (1, 2):
        state = Cell(arm, benchmark, network()).train(stop=stop).saved(stop)
        resumed = Cell(arm, benchmark, network(seed=9)).restore(state).train(start=stop)
        assert torch.equal(resumed.weights, straight.weights)
        assert resumed.kept == straight.kept
        # Rows before the kill are the killed run's; the accuracy matrix saves them itself.
        assert resumed.accuracy.record.awake_rows[-1] == straight.accuracy.record.awake_rows[-1]


@pytest.mark.parametrize("arm", ["er-ace:20", "der++:20", "icarl:20", "gem:5"])
def test_resumed_training_on_small_experiences_ends_in_the_same_weights(arm, benchmark):
    small = online(benchmark, 16)
    straight = Cell(arm, small, epochs=1).train()
    stop = small.origin_experience.index(1)
    state = Cell(arm, small, epochs=1).train(stop=stop).saved(stop)
    resumed = Cell(arm, small, perceptron(seed=9), epochs=1).restore(state).train(start=stop)
    assert torch.equal(resumed.weights, straight.weights)


@pytest.mark.parametrize("arm", ["cumulative", "der++:20", "gdumb:20"])
def test_restoring_with_other_data_is_refused(arm, benchmark):
    state = Cell(arm, benchmark).train(stop=1).saved(1)
    other = class_incremental("digits", [4, 3, 3], seed=1, per_class=5)
    with pytest.raises(CheckpointError, match="stream"):
        Cell(arm, other).restore(state)


# ---- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "after_two", "after_three"),
    [
        ("joint", None, 120 * SAMPLE),
        ("cumulative", 84 * SAMPLE, 120 * SAMPLE),
        ("er:2", 14 * SAMPLE, 20 * SAMPLE),
        ("der++:20", 20 * (SAMPLE + 40), 20 * (SAMPLE + 40)),
        ("er-ace:20", 20 * SAMPLE, 20 * SAMPLE),
        ("gdumb:20", 20 * SAMPLE + 4 * 74 * 16, 20 * SAMPLE + 4 * 74 * 16),
        ("icarl:20", 20 * SAMPLE, 20 * SAMPLE),
        ("agem:9", 18 * SAMPLE, 27 * SAMPLE),
        ("gem:9", 18 * SAMPLE, 27 * SAMPLE),
        ("gem:100", 84 * SAMPLE, 120 * SAMPLE),
    ],
)
def test_kept_bytes_are_those_of_samples_labels_outputs_and_copies(
    arm, after_two, after_three, benchmark
):
    cell = Cell(arm, benchmark, epochs=1)
    if after_two is not None:
        cell.train(stop=2)
        assert cell.kept == after_two
    cell.train(start=2)
    assert cell.kept == after_three


def memory_of(cell):
    holders = [*cell.assembly.plugins, cell.strategy]
    memories = [getattr(h, "memory", getattr(h, "storage_policy", None)) for h in holders]
    return next(memory for memory in memories if memory is not None)


@pytest.mark.parametrize("arm", ["der++:20", "er-ace:20", "gdumb:20", "icarl:20"])
def test_memory_holds_equally_many_samples_of_each_class(arm, benchmark):
    cell = Cell(arm, benchmark, epochs=1).train(stop=2)
    counts = Counter(memory_of(cell).entries[:, 2].tolist())
    seen = [label for group in benchmark.classes_per_experience[:2] for label in group]
    assert sorted(counts) == sorted(seen)
    assert sum(counts.values()) == 20 and set(counts.values()) == {2, 3}


def test_icarl_keeps_so_many_samples_per_class(benchmark):
    cell = Cell("icarl", benchmark, options={"icarl": {"per_class": 2}}, epochs=1).train()
    assert set(Counter(memory_of(cell).entries[:, 2].tolist()).values()) == {2}


@pytest.mark.parametrize("arm", ["der++:3", "er-ace:3", "gdumb:3", "icarl:3"])
def test_memory_smaller_than_a_batch_or_the_number_of_classes_is_replayed(arm, benchmark):
    cell = Cell(arm, benchmark).train()
    assert len(memory_of(cell)) == 3
    assert not torch.equal(cell.weights, Cell("sequential", benchmark).train().weights)


# ---- joint and cumulative ------------------------------------------------------------------------


def test_joint_training_sleeps_once(benchmark):
    cell = Cell("joint", benchmark, epochs=1)
    sleep = SleepReplay(steps=20, seed=1, when="every")
    cell.strategy.plugins.insert(1, sleep)
    cell.train()
    assert sleep.experiences == 1 and cell.accuracy.record.slept == [True]


class Labels:
    """Labels of every sample that was trained on, by experience."""

    def __init__(self, cell):
        self.seen = []
        cell.strategy.plugins.insert(0, self)

    def before_training_exp(self, strategy, **kwargs):
        self.seen.append(Counter())

    def before_training_iteration(self, strategy, **kwargs):
        self.seen[-1].update(strategy.mb_y.tolist())


def test_joint_sees_all_samples_at_once(benchmark):
    cell = Cell("joint", benchmark)
    labels = Labels(cell)
    cell.train()
    assert labels.seen == [dict.fromkeys(range(10), 24)]  # 12 samples, 2 epochs
    assert len(cell.accuracy.record.awake_rows) == 1


def test_cumulative_sees_all_samples_so_far(benchmark):
    cell = Cell("cumulative", benchmark)
    labels = Labels(cell)
    cell.train()
    groups = benchmark.classes_per_experience
    for number, seen in enumerate(labels.seen):
        assert seen == dict.fromkeys(sum(groups[: number + 1], ()), 24)


# ---- losses --------------------------------------------------------------------------------------


def test_asymmetric_cross_entropy_on_a_hand_made_example(benchmark):
    strategy = Cell("er-ace:20", benchmark).strategy
    new, old = torch.zeros(2, 10), torch.zeros(2, 10)
    new[:, 3] = math.log(3.0)
    new[:, 5] = 8.0
    old[:, 7] = math.log(11.0)
    loss = strategy.asymmetric_loss(new, torch.tensor([3, 4]), old, torch.tensor([7, 7]))
    # Of the new batch classes 3 and 4 count: 3 and 1 of 4 parts. Of exemplars all: 11 of 20.
    expected = 0.5 * ((math.log(4 / 3) + math.log(4)) / 2 + math.log(20 / 11))
    assert loss.item() == pytest.approx(expected)


def test_asymmetric_squared_error_leaves_outputs_of_other_classes_alone(benchmark):
    strategy = Cell("er-ace:20", benchmark, criterion=SquaredError()).strategy
    new = torch.full((1, 10), 0.5, requires_grad=True)
    old = torch.zeros(1, 10)
    loss = strategy.asymmetric_loss(new, torch.tensor([3]), old, torch.tensor([7]))
    assert loss.item() == 0.5 * (0.5 * 0.25 + 0.5)
    (gradient,) = torch.autograd.grad(loss, new)
    assert gradient.tolist() == [[0, 0, 0, -0.25, 0, 0, 0, 0, 0, 0]]


def test_er_ace_replays_exemplars_of_new_and_old_classes(benchmark):
    cell = Cell("er-ace:20", benchmark).train(stop=1)
    replayed = Counter()

    class Replayed:
        def after_backward(self, strategy, **kwargs):
            replayed.update(strategy.mb_buffer_y.tolist())
            assert len(strategy.mb_buffer_y) == 8

    cell.strategy.plugins.append(Replayed())
    cell.train(start=1, stop=2)
    assert set(replayed) == set(sum(benchmark.classes_per_experience[:2], ()))


class Losses:
    """The first loss, batch and weights of the second experience."""

    def __init__(self, cell):
        cell.strategy.plugins.append(self)
        self.first = None

    def before_forward(self, strategy, **kwargs):
        self.model = self.model if self.first else copy.deepcopy(strategy.model)

    def after_backward(self, strategy, **kwargs):
        if self.first is None:
            self.first = (strategy.loss.item(), strategy.mb_x, strategy.mb_y)


def test_dark_replay_adds_old_outputs_and_labels(benchmark):
    options = {"der++": {"alpha": 0.3, "beta": 0.7, "batch_size": 20}}
    cell = Cell("der++:20", benchmark, options=options)
    cell.train(stop=1)
    plugin = cell.plugin("DarkReplay")
    entries, kept = plugin.memory.entries.clone(), plugin.outputs.clone()
    losses = Losses(cell)
    cell.train(start=1, stop=2)
    loss, x, y = losses.first
    # All exemplars are in the batch, so that their order does not matter.
    samples = [benchmark.train_stream[0].dataset[i] for i in entries[:, 1].tolist()]
    old_x = torch.stack([sample[0] for sample in samples])
    with torch.no_grad():
        answers = losses.model(old_x)
        torch.testing.assert_close(answers, kept)  # nothing has been trained since
        expected = nn.functional.cross_entropy(losses.model(x), y)
        expected += 0.3 * ((answers - kept) ** 2).mean()
        expected += 0.7 * nn.functional.cross_entropy(answers, entries[:, 2])
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_dark_replay_keeps_the_outputs_of_those_that_stay(benchmark):
    cell = Cell("der++:20", benchmark).train(stop=1)
    plugin = cell.plugin("DarkReplay")
    before = {
        tuple(e): o for e, o in zip(plugin.memory.entries.tolist(), plugin.outputs, strict=True)
    }
    cell.train(start=1, stop=2)
    stayed = 0
    for entry, output in zip(plugin.memory.entries.tolist(), plugin.outputs, strict=True):
        x = benchmark.train_stream[entry[0]].dataset[entry[1]][0]
        if tuple(entry) in before:
            stayed += 1
            assert torch.equal(output, before[tuple(entry)])
        else:
            torch.testing.assert_close(output, cell.strategy.model(x[None])[0].detach())
    assert 0 < stayed < 20


def test_an_experience_learned_again_replays_the_others_only(benchmark, monkeypatch):
    cell = Cell("der++:20", benchmark).train(stop=2)
    replayed = []

    def batches(columns, *args):
        replayed.extend(columns)
        return endless_batches(columns, *args)

    monkeypatch.setattr("continual_ep.plugins.dark_replay.endless_batches", batches)
    cell.train(start=1, stop=2)
    assert set(replayed[1].tolist()) == set(benchmark.classes_per_experience[0])
    assert len({len(column) for column in replayed}) == 1


def test_endless_batches_show_each_sample_once_in_a_round():
    columns = [torch.arange(7), torch.arange(7) * 10]
    batches = endless_batches(columns, 3, torch.Generator().manual_seed(0))
    first = [next(batches) for _ in range(2)]
    assert len({int(i) for a, _ in first for i in a}) == 6
    assert all(torch.equal(b, 10 * a) for a, b in first)
    assert len(next(endless_batches(columns, 20, torch.Generator()))[0]) == 7


# ---- GDumb ---------------------------------------------------------------------------------------


def test_gdumb_starts_from_the_same_weights_and_without_momentum(benchmark):
    cell = Cell("gdumb:20", benchmark)
    model, initial, starts = cell.strategy.model, cell.weights.clone(), []

    class Start:
        def before_training_epoch(self, strategy, **kwargs):
            if not strategy.clock.train_exp_epochs:
                starts.append((cell.weights.clone(), len(strategy.optimizer.state)))

    cell.strategy.plugins.insert(0, Start())
    labels = Labels(cell)
    cell.train()
    assert cell.strategy.model is model
    assert len(starts) == 3
    for weights, momenta in starts:
        assert torch.equal(weights, initial) and momenta == 0
    # Three epochs of twenty samples, of all classes so far.
    assert [sum(seen.values()) for seen in labels.seen] == [60, 60, 60]
    assert [len(seen) for seen in labels.seen] == [4, 7, 10]


# ---- iCaRL ---------------------------------------------------------------------------------------


def numpy_nearest_mean(model, cell, x):
    """The class with the nearest mean of exemplars, by the activity of the hidden layer."""
    weight = model.weights[0].detach().numpy()

    def features(values):
        hidden = np.maximum(values @ weight.T, 0)
        return hidden / np.linalg.norm(hidden, axis=1, keepdims=True)

    samples = {}
    for experience, index, label in memory_of(cell).entries.tolist():
        sample = cell.benchmark.train_stream[experience].dataset[index][0].numpy()
        samples.setdefault(label, []).append(sample)
    labels = sorted(samples)
    means = np.stack([features(np.stack(samples[label])).mean(0) for label in labels])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    distances = ((features(x)[:, None] - means) ** 2).sum(-1)
    return np.array(labels)[distances.argmin(1)], distances


def test_icarl_answers_by_the_nearest_mean_of_exemplars(benchmark):
    cell = Cell("icarl:20", benchmark).train(stop=2)
    model = cell.strategy.model
    test = [benchmark.test_stream[i].dataset[j] for i in range(2) for j in range(40)]
    x = torch.stack([sample[0] for sample in test])
    expected, distances = numpy_nearest_mean(model, cell, x.numpy())
    model.eval()
    scores = model(x)
    assert scores.argmax(1).tolist() == expected.tolist()
    seen = sorted(set(memory_of(cell).entries[:, 2].tolist()))
    np.testing.assert_allclose(-scores[:, seen].detach(), distances, atol=1e-5)
    unseen = [c for c in range(10) if c not in seen]
    assert bool((scores[:, unseen] < scores[:, seen].min()).all())
    model.train()
    hidden = (x @ model.weights[0].T).relu()
    torch.testing.assert_close(model(x), hidden @ model.weights[1].T)


def test_icarl_accuracies_of_the_matrix_are_those_of_the_nearest_mean(benchmark):
    cell = Cell("icarl:20", benchmark).train()
    for number, row in enumerate(cell.accuracy.record.awake_rows[-1]):
        data = benchmark.test_stream[number].dataset
        x = torch.stack([data[i][0] for i in range(len(data))])
        answers, _ = numpy_nearest_mean(cell.strategy.model, cell, x.numpy())
        assert row == pytest.approx(float((answers == np.array(list(data.targets))).mean()))


def test_icarl_copies_and_changed_weights_answer_with_their_own_features(benchmark):
    cell = Cell("icarl:20", benchmark).train(stop=1)
    model = cell.strategy.model.eval()
    x = torch.rand(30, 64)
    before = model(x)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(x), before)
    with torch.no_grad():
        copied.weights[0].normal_(generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), before)
    expected, _ = numpy_nearest_mean(copied, cell, x.numpy())
    assert copied(x).argmax(1).tolist() == expected.tolist()
    cell.plugin("ICaRL").detach()
    assert torch.equal(model(x), (x @ model.weights[0].T).relu() @ model.weights[1].T)


def test_icarl_works_with_any_model_with_hidden_layers(benchmark):
    model = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    plugin = ICaRL(total=20)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=8,
        plugins=[plugin],
        evaluator=silent_evaluator(),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    strategy.eval(benchmark.test_stream)
    model.eval()
    x = torch.rand(5, 64)
    unit = nn.functional.normalize(penultimate(model, x), dim=1)
    expected = torch.cdist(unit, plugin.answers.means).argmin(1)
    assert torch.equal(model(x).argmax(1), plugin.answers.classes[expected])


@pytest.mark.parametrize("criterion", [CrossEntropy(), SquaredError()])
def test_icarl_distils_the_old_outputs_of_old_classes(criterion, benchmark):
    cell = Cell("icarl:20", benchmark, criterion=criterion).train(stop=1)
    old = copy.deepcopy(cell.strategy.model).train()
    losses = Losses(cell)
    cell.train(start=1, stop=2)
    loss, x, y = losses.first
    classes = sorted(benchmark.classes_per_experience[0])
    with torch.no_grad():
        output = losses.model(x)
        target = old(x)[:, classes]
        if isinstance(criterion, CrossEntropy):
            plain = nn.functional.cross_entropy(output, y)
            more = nn.functional.cross_entropy(output[:, classes], target.softmax(1))
        else:
            one_hot = nn.functional.one_hot(y, 10)
            plain = 0.5 * (output - one_hot).square().sum(1).mean()
            more = 0.5 * (output[:, classes] - target).square().sum(1).mean()
    assert loss == pytest.approx((plain + more).item(), rel=1e-5)


def test_icarl_answers_before_and_after_a_night_with_the_weights_of_the_moment(benchmark):
    cell = Cell("icarl:20", benchmark)
    cell.strategy.plugins.insert(2, SleepReplay(steps=300, seed=1, when="every"))
    nights = []

    class Night(SleepHooks):
        def sleep_begins(self, strategy, **kwargs):
            nights.append(self.accuracy(strategy))

        sleep_ends = sleep_begins

        def accuracy(self, strategy):
            data = benchmark.test_stream[0].dataset
            x = torch.stack([data[i][0] for i in range(len(data))])
            answers, _ = numpy_nearest_mean(strategy.model, cell, x.numpy())
            return float((answers == np.array(list(data.targets))).mean())

    cell.strategy.plugins.append(Night())
    cell.train()
    record = cell.accuracy.record
    for number in range(3):
        assert record.awake_rows[number][0] == pytest.approx(nights[2 * number])
        assert record.asleep_rows[number][0] == pytest.approx(nights[2 * number + 1])
    assert nights[0::2] != nights[1::2]


# ---- projections ---------------------------------------------------------------------------------


class Projection:
    """Products of the gradient with the reference gradients, before and after the projection."""

    def __init__(self, cell, references):
        self.references, self.before, self.after = references, [], []
        outer = self

        class First:
            def after_backward(self, strategy, **kwargs):
                outer.before.append(outer.products(strategy))

        class Last:
            def after_backward(self, strategy, **kwargs):
                outer.after.append(outer.products(strategy))

        cell.strategy.plugins.insert(0, First())
        cell.strategy.plugins.append(Last())

    def products(self, strategy):
        gradient = torch.cat([p.grad.flatten() for p in strategy.model.parameters()])
        references = self.references()
        norms = references.norm(dim=-1) * gradient.norm()
        return (references @ gradient / norms).tolist()


@pytest.mark.parametrize("network", [perceptron, settling])
def test_agem_steps_do_not_oppose_the_mean_of_stored_samples(network, benchmark):
    cell = Cell("agem:9", benchmark, network()).train(stop=1)
    plugin = cell.plugin("BatchedAGEM")
    products = Projection(cell, lambda: plugin.reference_gradients)
    cell.train(start=1)
    assert min(products.before) < -0.1
    assert min(products.after) > -1e-5
    unopposed = [i for i, value in enumerate(products.before) if value >= 0]
    assert all(products.before[i] == products.after[i] for i in unopposed)


def test_agem_has_the_batches_of_avalanche(benchmark, monkeypatch):
    batched = Cell("agem:9", benchmark).train()
    monkeypatch.setattr(BatchedAGEM, "update_memory", AGEMPlugin.update_memory)
    assert torch.equal(Cell("agem:9", benchmark).train().weights, batched.weights)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_gem_steps_oppose_no_experience_whatever_the_size_of_gradients(scale, benchmark):
    class Scaled(CrossEntropy):
        def per_sample(self, output, target):
            return scale * super().per_sample(output, target)

    cell = Cell("gem:9", benchmark, criterion=Scaled(), options={"gem": {"strength": 0.0}})
    cell.train(stop=1)
    plugin = cell.plugin("RelativeGEM")
    products = Projection(cell, lambda: plugin.G)
    cell.train(start=1)
    assert [len(row) for row in products.after] == sorted(len(row) for row in products.after)
    assert {len(row) for row in products.after} == {1, 2}
    assert min(min(row) for row in products.before) < -0.1
    assert min(min(row) for row in products.after) > -1e-3


def test_gem_without_its_solver_names_what_to_install(benchmark, monkeypatch):
    monkeypatch.setattr("continual_ep.arms.gem.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'continual-ep\[gem\]'"):
        Cell("gem:9", benchmark)


def test_agem_refuses_a_sample_smaller_than_the_number_of_experiences(benchmark):
    with pytest.raises(ConfigurationError, match="sample_size=1 is less than one sample"):
        Cell("agem:9", benchmark, options={"agem": {"sample_size": 1}})


# ---- learning ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def larger():
    return class_incremental("digits", 5, seed=0, per_class=25)


@pytest.mark.parametrize("criterion", [CrossEntropy(), SquaredError()])
def test_replay_forgets_less_than_sequential_training(criterion, larger):
    """Chance is 10 %, what the last experience alone gives 20 %."""
    options = {"gdumb": {"epochs": 10}}

    def accuracy(arm):
        cell = Cell(arm, larger, perceptron(hidden=32), criterion=criterion, options=options)
        return cell.train().accuracy.pooled_awake[-1]

    sequential = accuracy("sequential")
    assert sequential < 0.4
    for arm in (
        "joint",
        "cumulative",
        "der++:100",
        "er-ace:100",
        "gdumb:100",
        "icarl:100",
        "gem:20",
    ):
        assert accuracy(arm) > sequential + 0.2, arm


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("readout", ["softmax", "activated"])
def test_equilibrium_propagation_learns_with_every_mechanism(arm, readout, benchmark):
    """Over the classes so far, mean over experiences; the same answer to all has 17 % at most."""
    criterion = CrossEntropy() if readout == "softmax" else SquaredError()
    options = QUICK | {"gdumb": {"epochs": 20}}
    model = settling(readout=readout)
    cell = Cell(arm, benchmark, model, criterion=criterion, epochs=4, options=options)
    assert cell.train().accuracy.pooled_awake.mean() > 0.3


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("der++:0", "total: must be .*greater than or equal to 1"),
        ("er-ace:-3", "total: must be"),
        ("gdumb:0", "total: must be"),
        ("icarl:0", "total: must be"),
        ("icarl:null", "give either total or per_class"),
        ("agem:0", "patterns_per_experience: must be"),
        ("gem:.nan", "patterns_per_experience: must be"),
        ("gem:null", "patterns_per_experience: must be"),
        ("er-ace:many", "total: must be"),
        ("joint:3", "joint takes no value"),
        ("joint+ewc", "joint cannot be combined with"),
        ("cumulative+er:2", "cumulative cannot be combined with"),
        ("gdumb:20+si", "gdumb cannot be combined with"),
        ("agem+labels-trick", "stored samples of other classes would have none"),
        ("der+++er-ace", "choose one of them"),
        ("icarl+er", "choose one of them"),
        ("agem+gem", "both project the gradient"),
    ],
)
def test_values_and_combinations_that_cannot_work(arm, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_arm(arm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"der++": {"alpha": -1}}, "alpha"),
        ({"der++": {"beta": 0}}, "beta"),
        ({"der++": {"alpha": math.nan}}, "alpha"),
        ({"gem": {"strength": -0.1}}, "strength"),
        ({"icarl": {"per_class": 2, "total": 3}}, "either total or per_class"),
        ({"gdumb": {"epochs": 0}}, "epochs"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_arm(*options, options)


@pytest.mark.parametrize("arm", ["der++:20", "er-ace:20", "icarl:20"])
def test_a_rule_that_learns_from_a_reward_is_refused(arm):
    (mechanism,) = parse_arm(arm).mechanisms.values()
    assert "reward" in mechanism.refusal(NeuromodulatedEquilibriumLearning(), None)
    assert mechanism.refusal(EquilibriumPropagation(), None) is None


def test_icarl_refuses_a_loss_that_it_cannot_distil(benchmark):
    cell = Cell("icarl:20", benchmark, criterion=nn.MultiMarginLoss())
    with pytest.raises(ConfigurationError, match=r"not by MultiMarginLoss.*distillation=0"):
        cell.train()


@pytest.mark.parametrize("kind", [DarkReplay, GDumb, ICaRL])
def test_plugins_refuse_a_damaged_state(kind):
    plugin = kind(total=5)
    with pytest.raises(CheckpointError, match="damaged"):
        plugin.load_state_dict({"generator": torch.Generator().get_state()})
