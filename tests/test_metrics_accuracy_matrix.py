"""The plugin that fills the matrix: what it measures, when, and that it leaves no trace."""

import io
import random

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import JointTraining, Naive
from torch import nn

from continual_ep.errors import CheckpointError, ConfigurationError, ContinualEPWarning, InputError
from continual_ep.metrics import AccuracyMatrix, accuracy_per_experience
from continual_ep.sleep.hooks import call_sleep_begins, call_sleep_ends
from continual_ep.streams import class_incremental


class Sleeper(SupervisedPlugin):
    """Announces a sleep in which the network is made to answer one class, whatever it sees."""

    def __init__(self, answer, nights=None):
        super().__init__()
        self.answer, self.nights = answer, nights

    def after_training_exp(self, strategy, **kwargs):
        if self.nights and strategy.experience.current_experience not in self.nights:
            return
        call_sleep_begins(strategy)
        with torch.no_grad():
            strategy.model[-1].bias.zero_()
            strategy.model[-1].bias[self.answer] = 1e6
        call_sleep_ends(strategy)


@pytest.fixture(scope="module")
def benchmark():
    return class_incremental("digits", 5, seed=None, per_class=10)


def naive(*plugins, epochs=3, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        train_mb_size=5,
        train_epochs=epochs,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
    )


def by_hand(model, stream):
    """Accuracy sample by sample."""
    model.eval()
    rows = []
    for experience in stream:
        right = [int(model(x[None]).argmax()) == y for x, y, _ in experience.dataset]
        rows.append(sum(right) / len(right))
    return np.array(rows)


def test_accuracies_are_those_of_single_samples_whatever_the_batch(benchmark):
    model = naive().model
    expected = by_hand(model, benchmark.test_stream)
    for batch_size in (1, 7, 1000):
        measured = accuracy_per_experience(model, benchmark.test_stream, batch_size=batch_size)
        assert measured.tolist() == expected.tolist()


def test_rows_before_and_after_sleep_in_either_plugin_order(benchmark):
    matrices = []
    for first in (True, False):
        matrix, sleeper = AccuracyMatrix(benchmark.test_stream), Sleeper(answer=4)
        strategy = naive(*((matrix, sleeper) if first else (sleeper, matrix)))
        untrained = by_hand(strategy.model, benchmark.test_stream)
        strategy.train(benchmark.train_stream[0])
        # After the sleep every sample is called a 4, which is half of experience 2.
        fours = [e.dataset.targets.count.get(4, 0) / len(e.dataset) for e in benchmark.test_stream]
        assert matrix.asleep.tolist() == [fours]
        assert matrix.awake[0, 0] > 0.8
        assert matrix.baseline.tolist() == untrained.tolist()
        matrices.append(matrix.to_dict())
    assert matrices[0] == matrices[1]


def test_without_sleep_both_rows_are_the_trained_network(benchmark):
    matrix = AccuracyMatrix(benchmark.test_stream)
    strategy = naive(matrix)
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
        assert matrix.asleep[-1].tolist() == by_hand(strategy.model, benchmark.test_stream).tolist()
    assert np.array_equal(matrix.awake, matrix.asleep)
    assert matrix.record.slept == [False, False]


def test_one_call_for_the_whole_stream_gives_the_same_rows(benchmark):
    calls, whole = AccuracyMatrix(benchmark.test_stream), AccuracyMatrix(benchmark.test_stream)
    strategy = naive(calls, Sleeper(4, nights=[1]))
    for experience in benchmark.train_stream:
        strategy.train(experience)
    naive(whole, Sleeper(4, nights=[1])).train(benchmark.train_stream)
    assert whole.to_dict() == calls.to_dict()
    assert whole.record.trained == [0, 1, 2, 3, 4]
    assert whole.record.slept == [False, True, False, False, False]


def test_training_is_the_same_with_and_without_the_plugin(benchmark):
    strategies = [naive(), naive(AccuracyMatrix(benchmark.test_stream))]
    ends = []
    for strategy in strategies:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        strategy.train(benchmark.train_stream[:2])
        ends.append((torch.rand(1).item(), random.random(), np.random.rand()))
    assert ends[0] == ends[1]
    for a, b in zip(
        strategies[0].model.parameters(), strategies[1].model.parameters(), strict=True
    ):
        assert torch.equal(a, b)


def test_evaluation_restores_each_modules_mode(benchmark):
    model = naive().model.train()
    model[0].eval()
    accuracy_per_experience(model, benchmark.test_stream)
    assert [module.training for module in model] == [False, True, True, True]


def test_values_reach_avalanches_evaluator(benchmark):
    matrix = AccuracyMatrix(benchmark.test_stream)
    strategy = naive(matrix, Sleeper(4, nights=[1]))
    strategy.train(benchmark.train_stream[:2])
    curves = strategy.evaluator.get_all_metrics()
    assert curves["Accuracy_Awake/test_stream/Exp000"] == ([0, 1], matrix.awake[:, 0].tolist())
    assert curves["Accuracy_Asleep/test_stream/Exp002"] == ([1], [matrix.asleep[1, 2]])
    last = strategy.evaluator.get_last_metrics()
    for name, value in matrix.summary().items():
        assert last[f"{name}/test_stream"] == value
    silent = AccuracyMatrix(benchmark.test_stream, publish=False)
    strategy = naive(silent)
    strategy.train(benchmark.train_stream[0])
    assert not any("Awake" in name for name in strategy.evaluator.get_all_metrics())


def test_state_resumes_to_the_same_matrix(benchmark):
    whole = AccuracyMatrix(benchmark.test_stream)
    naive(whole).train(benchmark.train_stream[:2])

    first = AccuracyMatrix(benchmark.test_stream)
    strategy = naive(first)
    strategy.train(benchmark.train_stream[0])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = AccuracyMatrix(benchmark.test_stream)
    second.load_state_dict(torch.load(file, weights_only=True))
    strategy.plugins[strategy.plugins.index(first)] = second
    strategy.train(benchmark.train_stream[1])
    assert second.to_dict() == whole.to_dict()
    third = AccuracyMatrix.from_dict(whole.to_dict(), benchmark.test_stream)
    assert third.summary() == pytest.approx(whole.summary(), nan_ok=True)


def test_a_record_of_another_stream_is_refused(benchmark):
    state = AccuracyMatrix(benchmark.test_stream).state_dict()
    with pytest.raises(CheckpointError, match="stream 'test'"):
        AccuracyMatrix(benchmark.train_stream).load_state_dict(state)


@pytest.mark.parametrize("state", [{}, {"record": None}, {"record": {"stream": "test"}}])
def test_a_damaged_state_changes_nothing(benchmark, state):
    matrix = AccuracyMatrix(benchmark.test_stream)
    naive(matrix).train(benchmark.train_stream[0])
    before = matrix.to_dict()
    with pytest.raises(CheckpointError, match="damaged"):
        matrix.load_state_dict(state)
    assert matrix.to_dict() == before


def test_joint_training_counts_all_columns(benchmark):
    matrix = AccuracyMatrix(benchmark.test_stream)
    plain = naive()
    strategy = JointTraining(
        model=plain.model,
        optimizer=plain.optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=5,
        plugins=[matrix],
        evaluator=EvaluationPlugin(),
    )
    strategy.train(benchmark.train_stream)
    expected = by_hand(strategy.model, benchmark.test_stream)
    summary = matrix.summary()
    assert summary["average_accuracy"] == pytest.approx(expected.mean())
    assert matrix.pooled_asleep[-1] == pytest.approx(summary["pooled_accuracy"])
    assert np.isnan(summary["forgetting_max"]) and np.isnan(summary["backward_transfer"])
    again = AccuracyMatrix.from_dict(matrix.to_dict(), benchmark.test_stream)
    assert again.summary() == pytest.approx(summary, nan_ok=True)


def test_an_error_in_an_untrained_network_is_not_hidden(benchmark):
    class Broken(nn.Linear):
        def forward(self, x):
            raise RuntimeError("a bug")

    strategy = naive(AccuracyMatrix(benchmark.test_stream))
    strategy.model = nn.Sequential(Broken(64, 10))
    with pytest.raises(RuntimeError, match="a bug"):
        strategy.train(benchmark.train_stream[0])


def test_experiences_trained_again(benchmark):
    matrix = AccuracyMatrix(benchmark.test_stream)
    strategy = naive(matrix, epochs=1)
    for index in (0, 0, 1, 0):
        strategy.train(benchmark.train_stream[index])
    assert matrix.record.trained == [0, 1, 0]


def test_a_validation_stream_and_a_stream_of_another_length(benchmark):
    validation = class_incremental("digits", 5, seed=None, validation=0.2, per_class=10)
    matrix = AccuracyMatrix(validation.validation_stream)
    part = AccuracyMatrix(benchmark.test_stream[:1])
    strategy = naive(matrix, part, epochs=1)
    strategy.train(validation.train_stream[:2])
    assert matrix.record.stream == "validation" and matrix.awake.shape == (2, 5)
    assert part.awake.shape == (2, 1)
    assert part.summary()["average_accuracy"] == part.awake[-1, 0]


class KnowsNothingAtFirst(nn.Linear):
    """Like ICaRL's classifier: it refuses to answer before it was trained."""

    ready = False

    def forward(self, x):
        if not (self.training or self.ready):
            raise AssertionError("no class means available")
        self.ready = True
        return super().forward(x)


def test_a_network_that_cannot_answer_untrained_has_no_baseline(benchmark):
    for baseline in (True, False):
        matrix = AccuracyMatrix(benchmark.test_stream, baseline=baseline)
        strategy = naive(matrix)
        strategy.model = nn.Sequential(KnowsNothingAtFirst(64, 10))
        if baseline:
            with pytest.warns(ContinualEPWarning, match="no class means .* baseline=False"):
                strategy.train(benchmark.train_stream[:2])
        else:
            strategy.train(benchmark.train_stream[:2])
        assert matrix.baseline is None
        assert np.isnan(matrix.summary()["forward_transfer"])
        assert matrix.awake.shape == (2, 5)


def test_unusable_options(benchmark):
    with pytest.raises(ConfigurationError, match="batch_size=0"):
        AccuracyMatrix(benchmark.test_stream, batch_size=0)
    with pytest.raises(InputError, match="evaluation stream"):
        AccuracyMatrix([])
