"""Nights do no harm: the guard, the need of a night, what is skipped, and where it is reported."""

import io
import logging
import math
from dataclasses import dataclass

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import InteractiveLogger, TextLogger
from avalanche.models import MultiHeadClassifier, MultiTaskModule
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from torch import nn
from torch.utils.data import TensorDataset

from continual_ep.errors import ConfigurationError, DivergenceError
from continual_ep.plugins import OWM, SleepReplay
from continual_ep.plugins.newest_samples import classes_of, newest_samples
from continual_ep.sleep import Night, NightReport, SleepAlgorithm
from continual_ep.sleep.guard import guarded_night, largest_cost, sample_size
from continual_ep.sleep.layers import chain_of_synapses, plastic_layers
from continual_ep.sleep.need import need_of_sleep, reason_to_skip
from continual_ep.sleep.statistics import InputStatistics
from continual_ep.streams import class_incremental, online
from continual_ep.synapses import Synapses


def linear(values, bias=None):
    model = nn.Linear(len(values[0]), len(values), bias=bias is not None)
    model.weight.data = torch.tensor(values)
    if bias is not None:
        model.bias.data = torch.tensor(bias)
    return model


def night_of(model, **more):
    layer = Synapses("weight", model.weight, bias=model.bias)
    chain = chain_of_synapses([layer])
    statistics = more.pop("statistics", InputStatistics())
    plastic = plastic_layers([chain], ())
    return Night(model=model, chains=[chain], plastic=plastic, statistics=statistics, **more)


@dataclass(frozen=True)
class Add(SleepAlgorithm):
    """Adds a constant to all weights and biases."""

    amount: float

    def run(self, night):
        for layer in night.layers:
            layer.weight.add_(self.amount)
            if layer.bias is not None:
                layer.bias.add_(self.amount)


# -- the guard --------------------------------------------------------------------------------------


def test_the_cost_allowed_grows_with_the_share_of_older_classes():
    assert largest_cost(0, 2, 0.6) == pytest.approx(0.12)
    assert largest_cost(0, 2, 0.0) == 0.0
    assert largest_cost(2, 2, 0.6) == pytest.approx(0.3)
    assert largest_cost(8, 2, 0.5) == pytest.approx(0.4)


def test_the_guard_looks_at_few_samples():
    expected = {10: 10, 250: 250, 800: 250, 5000: 500, 60000: 1000}
    assert {n: sample_size(n) for n in expected} == expected


def test_an_admissible_night_stays():
    model = linear([[0.0, 0.0]])
    report = guarded_night(Add(1.0), night_of(model), lambda: 0.5, 0.0)
    assert (report.outcome, report.step) == ("slept", 1.0)
    assert (report.accuracy_before, report.accuracy_after) == (0.5, 0.5)
    assert model.weight.tolist() == [[1.0, 1.0]]


def test_the_strongest_admissible_step_is_taken_of_weights_and_biases():
    model = linear([[0.0, 2.0]], bias=[4.0])
    # Accuracy falls from 1 to 0 with the step; 0.6 is admissible until the step 0.4.
    report = guarded_night(Add(1.0), night_of(model), lambda: 1 - model.weight[0, 0].item(), 0.4)
    assert report.outcome == "weakened"
    assert 0.4 - 1 / 32 <= report.step <= 0.4
    assert model.weight.tolist() == [[report.step, 2.0 + report.step]]
    assert model.bias.tolist() == [4.0 + report.step]
    assert report.weight_change[0] == pytest.approx(report.step * math.sqrt(2))
    assert report.accuracy_after == pytest.approx(1 - report.step)
    assert "less than 60.0%" in report.reason


def test_weights_come_back_where_no_step_is_admissible():
    model = linear([[0.25, 2.0]], bias=[4.0])
    before = [p.detach().clone() for p in model.parameters()]
    report = guarded_night(
        Add(1.0), night_of(model), lambda: float(model.weight[0, 0] == 0.25), 0.9
    )
    assert (report.outcome, report.step, report.weight_change) == ("restored", 0.0, (0.0,))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("after", [math.nan, math.inf])
def test_a_night_of_weights_that_are_not_finite_is_taken_back(after):
    model = linear([[0.25, 2.0]])
    report = guarded_night(Add(after), night_of(model), lambda: 1.0, 1.0)
    assert report.outcome == "restored" and "NaN or infinite" in report.reason
    assert model.weight.tolist() == [[0.25, 2.0]]


def test_a_night_after_which_outputs_are_nan_is_taken_back():
    model = linear([[0.0]])
    measured = lambda: math.nan if model.weight.item() else 1.0  # noqa: E731
    report = guarded_night(Add(1.0), night_of(model), measured, 1.0)
    assert report.outcome == "restored" and "NaN" in report.reason
    assert model.weight.item() == 0.0


def test_a_network_that_is_dead_before_the_night_does_not_sleep():
    model = linear([[0.0]])
    report = guarded_night(Add(1.0), night_of(model), lambda: math.nan, 1.0)
    assert report.outcome == "skipped" and model.weight.item() == 0.0


# -- the need of a night ----------------------------------------------------------------------------


def mean_of(*values):
    statistics = InputStatistics()
    statistics.add(torch.tensor([values]))
    return statistics


@dataclass(frozen=True)
class Shows(Add):
    """Replays these inputs."""

    rows: tuple[tuple[float, ...], ...] = ()

    def replayed(self, night, draws, generator):
        return torch.tensor(self.rows)


def test_need_is_the_share_of_replay_inputs_on_which_the_newest_classes_win():
    model = linear([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    night = night_of(model, statistics=mean_of(1.0, 0.0), new_classes=(0, 2), old_classes=(1,))
    # Class 0 beats class 1 on the first two of three inputs.
    shows = Shows(0.0, rows=((3.0, 1.0), (1.0, 0.5), (0.0, 1.0)))
    assert need_of_sleep(shows, night) == pytest.approx(2 / 3)
    assert need_of_sleep(Add(0.0), night) == 1.0  # the mean input
    assert model.training


def test_need_is_not_measured_without_old_classes_statistics_or_outputs():
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    seen = {"statistics": mean_of(1.0, 0.0)}
    for night in (
        night_of(model, **seen, new_classes=(0, 1)),
        night_of(model, new_classes=(0,), old_classes=(1,)),
        night_of(model, **seen, new_classes=(0,), old_classes=(7,)),
    ):
        assert need_of_sleep(Add(0.0), night) is None


def test_reasons_to_skip_a_night():
    model = linear([[1.0]])
    both = {"new_classes": (0,), "old_classes": (1,)}
    assert reason_to_skip(night_of(model, **both), 0.7, 0.7) is None
    assert reason_to_skip(night_of(model, **both), None, 0.7) is None
    assert "69%" in reason_to_skip(night_of(model, **both), 0.69, 0.7)
    nothing_old = night_of(model, new_classes=(0, 1))
    assert "no older class" in reason_to_skip(nothing_old, 1.0, 0.0)
    assert reason_to_skip(nothing_old, None, 0.7, first=True) is None
    assert "do not compete" in reason_to_skip(
        night_of(model, **both, separate_heads=True), 1.0, 0.0
    )


# -- in a strategy ----------------------------------------------------------------------------------


def blobs(classes=4, samples=40, experiences=2, task_labels=False, zero_based=False):
    """Well separated classes: class c is the unit vector c, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(classes).repeat(samples)
    x = torch.eye(classes)[y] + 0.05 * torch.rand(len(y), classes, generator=generator)
    data = TensorDataset(x, y)
    data.targets = y.tolist()
    return nc_benchmark(
        data, data, experiences, task_labels=task_labels, shuffle=False,
        fixed_class_order=list(range(classes)), class_ids_from_zero_in_each_exp=zero_based,
    ).train_stream  # fmt: skip


def strategy_of(*plugins, model=None, loggers=(), eval_every=-1):
    torch.manual_seed(0)
    model = model or nn.Linear(4, 4, bias=False)
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True), loggers=list(loggers))
    return Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        criterion=nn.CrossEntropyLoss(), train_mb_size=8, train_epochs=2, plugins=list(plugins),
        evaluator=evaluator, eval_every=eval_every,
    )  # fmt: skip


@dataclass(frozen=True)
class Forget(SleepAlgorithm):
    """Negates all weights: the newest classes lose everywhere."""

    def run(self, night):
        for layer in night.plastic_layers:
            layer.weight.neg_()


def test_a_harmful_night_keeps_what_the_newest_classes_may_not_lose():
    sleep = SleepReplay(Forget(), when="every", max_cost=0.2, diary=True)
    strategy = strategy_of(sleep)
    strategy.train(blobs())
    first, second = sleep.diaries
    assert first.outcome in ("weakened", "restored") and first.accuracy_before == 1.0
    assert first.accuracy_after == 1.0  # nothing is old
    assert second.accuracy_after >= 0.9  # half of the classes are old
    newest = blobs()[1].dataset
    x, y = (torch.stack([sample[0] for sample in newest]), torch.tensor(newest.targets))
    right = (strategy.model(x).argmax(1) == y).double().mean()
    assert float(right) == pytest.approx(second.accuracy_after)


def test_without_guard_the_night_is_as_the_algorithm_left_it():
    before = []

    class Watch(SupervisedPlugin):
        def after_training_exp(self, strategy, **kwargs):
            before.append(strategy.model.weight.detach().clone())

    sleep = SleepReplay(Forget(), when="every", guard=False)
    strategy = strategy_of(Watch(), sleep)
    strategy.train(blobs()[0])
    assert torch.equal(strategy.model.weight, -before[0])
    assert sleep.last_night.accuracy_before is None
    with pytest.raises(DivergenceError):
        strategy_of(SleepReplay(Add(math.nan), when="every", guard=False)).train(blobs()[0])


def test_guard_and_need_leave_the_random_stream_of_the_training_alone():
    states = []
    for plugins in ([], [SleepReplay(Add(0.0), when="every")]):
        strategy = strategy_of(*plugins)
        torch.manual_seed(3)
        strategy.train(blobs())
        states.append((torch.get_rng_state(), strategy.model.weight.detach().clone()))
    assert torch.equal(states[0][0], states[1][0]) and torch.equal(states[0][1], states[1][1])


@pytest.mark.parametrize("make", ["images", "tuple"])
def test_outputs_that_are_no_class_scores_are_refused_before_training(make):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            out = self.layer(x)
            return out[:, None] if make == "images" else (out, x)

    model = Other()
    before = model.layer.weight.detach().clone()
    sleep = SleepReplay(Add(1.0))
    strategy = strategy_of(sleep, model=model)
    with pytest.raises(ConfigurationError, match="guard=False"):
        sleep.check(strategy, blobs()[0], torch.zeros(2, 4))
    with pytest.raises(ConfigurationError, match="guard=False"):
        strategy.train(blobs()[0])
    assert torch.equal(model.layer.weight, before)
    SleepReplay(Add(1.0), guard=False).check(strategy, blobs()[0], torch.zeros(2, 4))


def test_an_experience_without_data_at_hand_is_refused():
    class Nothing:
        current_experience = 3

    with pytest.raises(ConfigurationError, match=r"experience 3 has no labelled.*guard=False"):
        newest_samples(Nothing(), torch.Generator(), 8, "cpu")
    assert classes_of(Nothing()) == ()


def test_samples_of_a_cut_experience_come_from_all_of_its_parts():
    benchmark = online(class_incremental("digits", 2, per_class=20), 7)
    last = max(i for i, origin in enumerate(benchmark.origin_experience) if origin == 0)
    experience = benchmark.train_stream[last]
    assert len(classes_of(experience)) == 5 > len(set(experience.dataset.targets)) - 1
    batches = newest_samples(experience, torch.Generator().manual_seed(0), 30, "cpu")
    labels = torch.cat([y for _, y, *_ in batches])
    assert labels.bincount()[labels.unique()].tolist() == [20] * 5


# -- nights that are skipped ------------------------------------------------------------------------


def outcomes(sleep, stream, model=None):
    strategy_of(sleep, model=model).train(stream)
    return [(night.outcome, night.reason or "") for night in sleep.diaries]


def test_the_first_experience_is_slept_without_cost_unless_its_answers_are_kept():
    sleep = SleepReplay(Forget(), max_cost=1.0, diary=True)
    outcomes(sleep, blobs())
    assert sleep.diaries[0].accuracy_after == sleep.diaries[0].accuracy_before == 1.0

    sleep = SleepReplay(steps=20, diary=True)
    strategy_of(OWM(), sleep).train(blobs()[0])
    assert sleep.last_night.outcome == "skipped" and "no older class" in sleep.last_night.reason
    assert sleep.last_night.layers == ()


def test_shared_outputs_are_skipped():
    sleep = SleepReplay(steps=20, diary=True)
    nights = outcomes(sleep, blobs(zero_based=True))
    assert [outcome for outcome, _ in nights] == ["slept", "skipped"]


def test_no_night_follows_the_first_experience_where_its_classes_fill_the_output_layer():
    sleep = SleepReplay(steps=20, diary=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 2))
    nights = outcomes(sleep, blobs(zero_based=True), model)
    assert [outcome for outcome, _ in nights] == ["skipped", "skipped"]


def test_nights_without_need_are_skipped_and_say_so():
    sleep = SleepReplay(steps=20, min_need=1.0, diary=True)
    strategy = strategy_of(sleep)
    strategy.train(blobs()[0])
    for group in strategy.optimizer.param_groups:
        group["lr"] = 0.0
    strategy.train(blobs()[1])
    night = sleep.last_night
    assert night.outcome == "skipped" and night.need < 0.5 and "min_need=1" in night.reason


def test_owm_needs_a_higher_need():
    stream, nights = blobs(), []
    for kept in (False, True):
        sleep = SleepReplay(steps=20, min_need=0.0)
        strategy = strategy_of(*([OWM()] if kept else []), sleep)
        strategy.train(stream[0])
        strategy.optimizer.param_groups[0]["lr"] = 0.0  # the need stays small
        strategy.train(stream[1])
        nights.append(sleep.last_night)
    assert [night.outcome for night in nights] == ["slept", "skipped"]
    assert max(night.need for night in nights) < 0.5 and "min_need=0.7" in nights[1].reason


class Heads(MultiTaskModule):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4, 6)
        self.heads = MultiHeadClassifier(6, 2)

    def forward(self, x, task_labels):
        return self.heads(self.hidden(x), task_labels)


def test_heads_that_do_not_compete_are_skipped():
    sleep = SleepReplay(steps=20, diary=True)
    nights = outcomes(sleep, blobs(task_labels=True, zero_based=True), Heads())
    assert [outcome for outcome, _ in nights] == ["skipped", "skipped"]
    assert nights[1][1] == "the tasks have output layers of their own, which do not compete"


# -- where it is reported ---------------------------------------------------------------------------


@pytest.mark.parametrize("evaluations", ["none", "afterwards", "within"])
@pytest.mark.parametrize("interactive", [False, True])
def test_text_loggers_print_a_night_at_its_own_experience(evaluations, interactive, capsys):
    file = io.StringIO()
    logger = InteractiveLogger() if interactive else TextLogger(file)
    sleep = SleepReplay(steps=20, when="every")
    within = 0 if evaluations == "within" else -1
    strategy = strategy_of(sleep, loggers=[logger], eval_every=within)
    for experience in blobs():
        strategy.train(experience)
        if evaluations == "afterwards":
            strategy.eval(blobs())
    text = capsys.readouterr().out if interactive else file.getvalue()
    parts = text.split("Start of training phase")[1:]
    assert len(parts) == 2
    for part in parts:
        # Between the last epoch and the next evaluation.
        training = part.split("Epoch 1 ended.")[1].split("Start of eval phase")[0]
        for name in ("Step", "Spikes/train_phase/weight", "NewestAccuracyBefore"):
            assert part.count(f"Sleep_{name}") == training.count(f"Sleep_{name}") == 1


def test_metrics_and_log_have_the_outcome(caplog):
    sleep = SleepReplay(steps=20)
    strategy = strategy_of(sleep)
    with caplog.at_level(logging.INFO, logger="continual_ep.sleep"):
        strategy.train(blobs())
    metrics = strategy.evaluator.get_last_metrics()
    assert metrics["Sleep_Step/train_phase"] == 1.0
    assert metrics["Sleep_Need/train_phase"] == sleep.last_night.need >= 0.7
    first, second = (record.message for record in caplog.records)
    assert first.startswith("night after experience 0 slept (step 1, newest accuracy before 1,")
    assert second.startswith("night after experience 1 slept")
    assert set(sleep.last_night.summary()) >= {"outcome", "reason", "step", "need"}


def test_the_classes_seen_are_part_of_the_state():
    sleep = SleepReplay(steps=20)
    strategy_of(sleep).train(blobs()[0])
    other = SleepReplay(steps=20)
    other.load_state_dict(sleep.state_dict())
    assert other.classes == {0, 1}
    strategy_of(other).train(blobs()[1])
    assert other.last_night.outcome == "slept"


@pytest.mark.parametrize("wrong", [{"max_cost": 1.5}, {"max_cost": -0.1}, {"min_need": 2},
                                   {"guard": "on"}, {"when": "automatic"}])  # fmt: skip
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        SleepReplay(**wrong)


def test_reports_of_nights_that_changed_nothing():
    assert NightReport.skipped("why").summary() == {
        "outcome": "skipped", "reason": "why", "step": 0.0, "need": None,
        "accuracy_before": None, "accuracy_after": None, "layers": {},
    }  # fmt: skip
