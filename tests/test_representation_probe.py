"""The probe of the last hidden layer: its read-outs, what it tells apart, and that it leaves no trace."""

import copy
import io
import random
import sys

import numpy as np
import pytest
import torch
from avalanche.logging import TextLogger
from avalanche.models import IncrementalClassifier, SlimResNet18
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import JointTraining, Naive
from registry import ALL_NETWORKS, CLASSES, example_batch, example_network
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from torch import nn

from continual_ep.errors import CheckpointError, ConfigurationError, InputError
from continual_ep.forward_passes import evaluating, penultimate
from continual_ep.learning import CrossEntropy
from continual_ep.metrics import AccuracyMatrix, RepresentationProbe
from continual_ep.metrics.margins import distribution, margins
from continual_ep.metrics.readouts import nearest_class_mean, ridge_readout
from continual_ep.networks import MRNN
from continual_ep.plugins import SleepReplay
from continual_ep.streams import class_incremental, domain_incremental, online


@pytest.fixture(scope="module")
def benchmark():
    return class_incremental("digits", 5, seed=None, per_class=30)


def naive(model, *plugins, lr=0.1, epochs=1, criterion=None, evaluator=None):
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        criterion=criterion or nn.CrossEntropyLoss(),
        train_mb_size=10,
        train_epochs=epochs,
        plugins=list(plugins),
        evaluator=evaluator or EvaluationPlugin(),
    )


def two_layers(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 10)
    )


@pytest.mark.parametrize("kind", ALL_NETWORKS)
def test_last_hidden_layer_of_every_network(kind):
    """Alone, and behind a layer in a larger model; nothing of the model changes."""
    network, (x, _) = example_network(kind), example_batch()
    before = copy.deepcopy(network.state_dict())
    with evaluating(network):
        hidden = penultimate(network, x)
        outer = nn.Sequential(nn.Linear(36, 36).double(), network, nn.Identity())
        inside = penultimate(outer, x)
        expected = penultimate(network, outer[0](x))
    assert hidden.shape[0] == len(x) and hidden.dim() == 2 and hidden.shape[1] != CLASSES
    assert hidden.isfinite().all() and hidden.std(0).max() > 0
    assert torch.equal(inside, expected)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("samples", "size"), [(90, 20), (20, 50)])
def test_readouts_are_those_of_scikit_learn(samples, size):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, size, generator=generator, dtype=torch.float64) * 3 + 5
    y = torch.arange(samples) % 3 * 2
    x[:, 0] += y
    new = torch.randn(200, size, generator=generator, dtype=torch.float64) * 3 + 5
    new[:, 0] += torch.arange(200) % 5
    centred = x - x.mean(0)
    alpha = 0.1 * float(centred.square().sum() / size)
    targets = nn.functional.one_hot(y).double()[:, [0, 2, 4]]
    expected = Ridge(alpha=alpha).fit(x, targets).predict(new).argmax(1) * 2
    assert ridge_readout(x, y, 0.1).answers(new).tolist() == expected.tolist()
    expected = NearestCentroid().fit(x, y).predict(new)
    assert nearest_class_mean(x, y).answers(new).tolist() == expected.tolist()


@pytest.mark.parametrize("fit", [nearest_class_mean, lambda x, y: ridge_readout(x, y, 0.01)])
def test_readouts_do_not_depend_on_scale_and_shift(fit):
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = torch.arange(60) % 4
    moved = 1e-3 * x + 7.0
    assert fit(x, y).answers(x).tolist() == fit(moved, y).answers(moved).tolist()


class Answers(nn.Module):
    """The hidden layer and, beside it, a way from the input to the outputs."""

    def __init__(self, hidden, outputs, shortcut=None):
        super().__init__()
        self.hidden, self.outputs, self.shortcut = hidden, outputs, shortcut

    def forward(self, x):
        scores = self.outputs(self.hidden(x))
        return scores if self.shortcut is None else scores + x @ self.shortcut


def learned(model, benchmark, count=3):
    """A probe of a model that does not change, after some experiences."""
    probe = RepresentationProbe(benchmark.train_stream, benchmark.test_stream)
    naive(model, probe, lr=0.0).train(benchmark.train_stream[:count])
    return probe


def test_output_forgetting_alone(benchmark):
    """The hidden layer is the input; the outputs answer the newest class whatever they see."""
    outputs = nn.Linear(64, 10)
    nn.init.zeros_(outputs.weight)
    with torch.no_grad():
        outputs.bias.copy_(torch.arange(10.0) * (torch.arange(10) < 6))
    probe = learned(Answers(nn.Identity(), outputs), benchmark)
    assert probe.network.awake[2, :2].tolist() == [0, 0]
    assert (probe.ridge.awake[2, :3] > 0.8).all() and (probe.ncm.awake[2, :3] > 0.7).all()
    assert probe.margins[2]["awake"].new_wins == 1
    assert set(probe.margins[2]["awake"].quantiles) == {2.0}


def test_representation_forgetting_alone(benchmark):
    """The hidden layer is dead, and a way around it still answers right."""
    images, labels = zip(
        *((x, y) for e in benchmark.train_stream for x, y, _ in e.dataset), strict=True
    )
    x, y = torch.stack(images), torch.tensor(labels)
    readout = ridge_readout(x, y, 0.01)
    dead = nn.Sequential(nn.Linear(64, 12), nn.ReLU())
    nn.init.zeros_(dead[0].weight)
    nn.init.constant_(dead[0].bias, -1.0)
    probe = learned(Answers(dead, nn.Linear(12, 10), readout.weights.float()), benchmark, 5)
    assert probe.network.pooled_awake[-1] > 0.75
    for record in (probe.ridge, probe.ncm):
        assert record.pooled_awake[-1] == pytest.approx(0.1, abs=0.01)  # one class for all
    assert probe.summary()["probe_ridge"] == probe.ridge.pooled_asleep[-1]


def test_before_and_after_a_night(benchmark):
    probe = RepresentationProbe(benchmark.train_stream, benchmark.test_stream)
    matrix = AccuracyMatrix(benchmark.test_stream)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 50, bias=False), nn.ReLU(), nn.Linear(50, 10, bias=False))
    strategy = naive(model, SleepReplay(steps=300, when=[1]), probe, matrix, epochs=4)
    strategy.train(benchmark.train_stream[:3])
    assert probe.network.to_dict() == {**matrix.to_dict(), "baseline": None}
    assert probe.network.slept == [False, True, False]
    assert probe.margins[0] == {"awake": None, "asleep": None}
    assert probe.margins[1]["awake"] != probe.margins[1]["asleep"]
    assert probe.margins[2]["awake"] == probe.margins[2]["asleep"]
    curves = strategy.evaluator.get_all_metrics()
    assert curves["probe_ridge_awake/test_stream"] == ([0, 1, 2], probe.ridge.pooled_awake.tolist())


MODELS = {
    "torch": two_layers,
    "mrnn": lambda: MRNN(
        [64, 20, 10], readout="softmax", generator=torch.Generator().manual_seed(0)
    ),
    "growing head": lambda: Answers(nn.Linear(64, 20), IncrementalClassifier(20, 2)),
    "resnet": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Upsample(scale_factor=4),
        nn.Conv2d(1, 3, 1),
        SlimResNet18(10, nf=2),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_training_is_the_same_with_and_without_the_probe(benchmark, name):
    ends = []
    for probing in (False, True):
        torch.manual_seed(3)
        model = MODELS[name]()
        model.train()
        model[0].eval() if isinstance(model, nn.Sequential) else None
        plugins = [RepresentationProbe(benchmark.train_stream, benchmark.test_stream, samples=20)]
        strategy = naive(
            model, *plugins * probing, criterion=CrossEntropy() if name == "mrnn" else None
        )
        random.seed(4)
        np.random.seed(4)
        strategy.train(benchmark.train_stream[:2])
        strategy.model.train()
        states = torch.rand(1).item(), random.random(), np.random.rand()
        ends.append((states, copy.deepcopy(strategy.model.state_dict())))
    assert ends[0][0] == ends[1][0]
    assert ends[0][1].keys() == ends[1][1].keys()
    for key, value in ends[0][1].items():
        assert torch.equal(value, ends[1][1][key]), key


def test_modes_and_random_streams_survive_a_data_set_that_draws(benchmark):
    """Evaluation transforms that draw random numbers do not shift the global streams."""
    model = two_layers()
    probe = RepresentationProbe(benchmark.train_stream, benchmark.test_stream)
    strategy = naive(model, probe)
    strategy.train(benchmark.train_stream[0])
    model.train()
    model[1].eval()
    probe.features = lambda m, x: x + random.random() + np.random.rand() + torch.rand(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    probe.measure(strategy, 0)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after
    assert [m.training for m in model] == [True, False, True, True, True]


def test_samples_are_capped_and_drawn_once(benchmark):
    seen = []
    probe = RepresentationProbe(
        benchmark.train_stream,
        benchmark.test_stream[:1],
        samples=7,
        features=lambda model, x: seen.append(len(x)) or x,
    )
    naive(two_layers(), probe).train(benchmark.train_stream[:2])
    rest = len(benchmark.test_stream[0].dataset)
    assert seen == [7, rest, 7, 7, rest]
    again = RepresentationProbe(benchmark.train_stream, benchmark.test_stream, samples=7)
    for number, drawn in again._samples().items():
        known = probe._samples()[number]
        assert [x.tolist() for x, *_ in drawn.sets[0]] == [x.tolist() for x, *_ in known.sets[0]]


def test_joint_training_reads_out_all_classes(benchmark):
    probe = RepresentationProbe(benchmark.train_stream, benchmark.test_stream)
    model = two_layers()
    JointTraining(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=10,
        plugins=[probe],
        evaluator=EvaluationPlugin(),
    ).train(benchmark.train_stream)
    assert (probe.ridge.awake[-1] > 0.5).all()


def test_online_parts_count_as_one_experience(benchmark):
    parts = online(benchmark, 15)
    probe = RepresentationProbe(parts.train_stream, parts.test_stream, samples=40)
    naive(two_layers(), probe).train(parts.train_stream[:8])
    assert probe.ridge.trained == [0, 1]
    assert sum(len(part) for part in probe._samples()[0].sets) == 40


def test_shared_outputs_have_no_margin():
    domains = domain_incremental("digits", 2, domains="permuted", seed=0, per_class=3)
    probe = RepresentationProbe(domains.train_stream, domains.test_stream)
    naive(two_layers(), probe).train(domains.train_stream)
    assert probe.margins[1] == {"awake": None, "asleep": None}


def test_margins_of_known_outputs():
    outputs = torch.tensor([[1.0, 5.0, 3.0, 9.0], [4.0, 0.0, 1.0, 9.0]])
    values = margins(outputs, newest={2}, older={0, 1})
    assert values.tolist() == [-2.0, -3.0]
    many = distribution(torch.arange(-100.0, 900.0))
    assert (many.samples, len(many.quantiles)) == (1000, 200)
    assert many.new_wins == 0.899 and many.quantiles == sorted(many.quantiles)
    assert np.mean(many.quantiles) == pytest.approx(399.5, abs=3)
    assert distribution(torch.zeros(0)) is None


def test_state_resumes_to_the_same_records(benchmark):
    whole = RepresentationProbe(benchmark.train_stream, benchmark.test_stream)
    naive(two_layers(), whole).train(benchmark.train_stream[:3])
    first = RepresentationProbe(benchmark.train_stream, benchmark.test_stream)
    strategy = naive(two_layers(), first)
    strategy.train(benchmark.train_stream[:2])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = RepresentationProbe(benchmark.train_stream, benchmark.test_stream)
    second.load_state_dict(torch.load(file, weights_only=True))
    strategy.plugins[strategy.plugins.index(first)] = second
    strategy.train(benchmark.train_stream[2])
    assert second.to_dict() == whole.to_dict()
    with pytest.raises(CheckpointError, match="damaged"):
        second.load_state_dict({"ridge": None})
    assert second.to_dict() == whole.to_dict()
    other = RepresentationProbe(benchmark.train_stream, benchmark.test_stream[:2])
    with pytest.raises(CheckpointError, match="stream with"):
        other.load_state_dict(whole.state_dict())


def test_unusable_options(benchmark):
    streams = benchmark.train_stream, benchmark.test_stream
    for options in ({"samples": 0}, {"strength": 0.0}, {"batch_size": 0}):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            RepresentationProbe(*streams, **options)
    probe = RepresentationProbe(benchmark.train_stream[:1], benchmark.test_stream)
    with pytest.raises(InputError, match="whole training stream"):
        naive(two_layers(), probe).train(benchmark.train_stream[1])


def test_text_loggers_print_values_at_their_experience(benchmark, capsys):
    """Also those of the last experience, after which nothing else is printed."""
    probe = RepresentationProbe(benchmark.train_stream, benchmark.test_stream)
    evaluator = EvaluationPlugin(loggers=[TextLogger(sys.stdout)])
    strategy = naive(two_layers(), probe, evaluator=evaluator)
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
        printed = capsys.readouterr().out
        value = probe.ridge.pooled_asleep[-1]
        assert f"probe_ridge/test_stream = {value:.4f}" in printed
