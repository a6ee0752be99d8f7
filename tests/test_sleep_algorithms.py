"""All sleep algorithms: properties of each, the two beside sleep replay, and what the plugin gathers."""

import io
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training import LwF, Naive
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from continual_ep import metrics, plugins
from continual_ep.arms.sleep import Sleep
from continual_ep.errors import ConfigurationError, DivergenceError, InputError
from continual_ep.metrics import AccuracyMatrix
from continual_ep.networks import MRNN, ConvolutionalRNN
from continual_ep.options import option, options_from
from continual_ep.plugins import SleepReplay
from continual_ep.sleep import (
    SLEEP_ALGORITHMS,
    Downscaling,
    SleepAlgorithm,
    SleepHooks,
    SleepReplayConsolidation,
    find_chains,
    sleep_once,
)
from continual_ep.sleep.activity import layer_inputs
from continual_ep.synapses import Synapses

#: The night itself: after every experience, whatever it costs.
every_night = partial(SleepReplay, when="every", guard=False)

#: Every registered algorithm with its defaults, unless a line below says otherwise.
ALL_SLEEP_ALGORITHMS = {
    **{name: partial(every_night, name) for name in SLEEP_ALGORITHMS},
    "src": partial(every_night, steps=100),
    "src of class means": partial(every_night, steps=100, dreams="class-means"),
    "src published": partial(every_night, preset="tadros2022:mnist", steps=50, window=3,
                             thresholds=(1.0, 1.0)),
    "downscaling": partial(every_night, "downscaling", cutoff=0.1),
    "class-mean-replay": partial(every_night, "class-mean-replay", steps=50),
}  # fmt: skip

each_algorithm = pytest.mark.parametrize("make", ALL_SLEEP_ALGORITHMS.values(),
                                         ids=ALL_SLEEP_ALGORITHMS)  # fmt: skip


@cache
def digits():
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def stream(experiences=5, samples=300):
    x, y = digits()
    data = TensorDataset(x[:samples], y[:samples])
    data.targets = y[:samples].tolist()
    order = list(range(10))
    benchmark = nc_benchmark(data, data, experiences, task_labels=False, fixed_class_order=order)
    benchmark.image_shape = (8, 8)
    return benchmark.train_stream


def mlp(seed=0, hidden=40):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, hidden, bias=False),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(hidden, 10, bias=False),
    )


def train(experiences, *plugins, model=None, kind=Naive, epochs=1, **options):
    model = mlp() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    strategy = kind(
        model=model, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), train_mb_size=32,
        train_epochs=epochs, plugins=list(plugins), evaluator=EvaluationPlugin(), **options,
    )  # fmt: skip
    torch.manual_seed(1)
    for experience in experiences:
        strategy.train(experience)
    return strategy


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


# -- properties of every algorithm ------------------------------------------------------------------


@each_algorithm
def test_weights_change_and_stay_finite(make):
    sleep = make(diary=True)
    model = train(stream()[:2], sleep).model
    awake = train(stream()[:2]).model
    assert all(bool(torch.isfinite(w).all()) for w in weights(model))
    assert any(not torch.equal(a, b) for a, b in zip(weights(model), weights(awake), strict=True))
    assert len(sleep.diaries) == 2 and sleep.diaries[-1] is sleep.last_night
    assert sleep.last_night.layers == ("0.weight", "3.weight")
    assert max(sleep.last_night.weight_change) > 0
    assert set(sleep.last_night.summary()["layers"]) == {"0.weight", "3.weight"}


@each_algorithm
@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_and_excluded_layers_stay(make, layer, frozen):
    model = mlp()
    sleep = make() if frozen else make(exclude=[str(layer)])
    strategy = train([], sleep, model=model)
    for group in strategy.optimizer.param_groups:
        group["lr"] = 0.0
    if frozen:
        model[layer].weight.requires_grad_(False)
    before = model[layer].weight.detach().clone()
    strategy.train(stream()[0])
    assert sleep.last_night is not None
    assert torch.equal(model[layer].weight, before)


@each_algorithm
def test_the_same_seed_gives_the_same_weights(make):
    results = [weights(train(stream()[:2], make(seed=seed)).model) for seed in (3, 3)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["src", "src of class means", "class-mean-replay"])
def test_other_seeds_give_other_weights(name):
    make = ALL_SLEEP_ALGORITHMS[name]
    one, other = (train(stream()[:2], make(seed=seed)).model for seed in (3, 4))
    assert not torch.equal(one[3].weight, other[3].weight)


@each_algorithm
def test_random_streams_and_modes_are_left_alone(make):
    states = []

    class Watch(SupervisedPlugin, SleepHooks):
        def sleep_begins(self, strategy, **kwargs):
            states.append(torch.get_rng_state())

        def sleep_ends(self, strategy, **kwargs):
            assert torch.equal(torch.get_rng_state(), states[-1])
            assert strategy.model.training and torch.is_grad_enabled()

    strategy = train(stream()[:2], make(), Watch())
    assert len(states) == 2
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in strategy.model.modules())


@each_algorithm
def test_a_restored_state_continues_the_nights(make):
    whole, half, rest = make(), make(), make()
    train(stream()[:3], whole)
    train(stream()[:2], half)
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    rest.load_state_dict(torch.load(file, weights_only=True))
    train(stream()[2:3], rest)
    first, second = whole.state_dict(), rest.state_dict()
    assert first["experiences"] == second["experiences"] == 3
    assert first["statistics"]["overall"]["count"] == second["statistics"]["overall"]["count"]
    labels = [
        s["statistics"]["classes"] and sorted(s["statistics"]["classes"]) for s in (first, second)
    ]
    assert labels[0] == labels[1]


@each_algorithm
def test_networks_with_equilibria_sleep(make):
    model = MRNN((64, 20, 10), generator=torch.Generator().manual_seed(0))
    sleep = make()
    train(stream()[:1], sleep, model=model)
    assert max(sleep.last_night.weight_change) > 0
    assert all(bool(torch.isfinite(w).all()) for w in weights(model))


# -- the algorithms ---------------------------------------------------------------------------------


def test_downscaling_multiplies_and_cuts_off():
    model = nn.Linear(3, 2, bias=True)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -0.5, 0.1], [0.05, 0.0, -0.3]]))
        model.bias.fill_(0.2)
    report = sleep_once(model, torch.zeros(3), "downscaling", factor=0.5, cutoff=0.2)
    torch.testing.assert_close(model.weight.data, torch.tensor([[0.5, -0.25, 0], [0, 0, -0.15]]))
    assert bool((model.bias == 0.2).all())
    old = torch.tensor([1.0, 0.5, 0.1, 0.05, 0.3])
    new = torch.tensor([0.5, 0.25, 0.0, 0.0, 0.15])
    assert report.weight_change[0] == pytest.approx(float((old - new).norm()))


def test_class_mean_replay_gives_every_class_its_unit():
    """With more hidden units than classes the rule ends where every mean has its target."""
    model, means = mlp(), torch.rand(4, 64, generator=torch.Generator().manual_seed(2))
    model.eval()
    before = model[0].weight.detach().clone()
    sleep_once(
        model, means.mean(0), "class-mean-replay", class_means=dict(enumerate(means)), steps=4000
    )
    expected = torch.zeros(4, 10)
    expected[range(4), range(4)] = 1.0
    torch.testing.assert_close(model(means), expected, atol=0.02, rtol=0)
    assert torch.equal(model[0].weight, before)


def test_one_step_of_class_mean_replay_by_hand():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, 0.0], [0.0, 1.0]]))
        model.bias.copy_(torch.tensor([0.25, -1.0]))
    mean = torch.tensor([2.0, 1.0])
    sleep_once(model, mean, "class-mean-replay", class_means={1: mean}, steps=1, rate=0.5)
    # Outputs 1.25 and 0 for targets 0 and 1; half of the error, along the mean over its square 5.
    change = 0.5 * torch.outer(torch.tensor([-1.25, 1.0]), mean / 5)
    expected = torch.tensor([[0.5, 0.0], [0.0, 1.0]]) + change
    torch.testing.assert_close(model.weight.data, expected)


def test_synapses_that_do_not_exist_stay_away():
    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[0.5, 0.0], [0.0, 0.5]]))

        def synapses(self):
            return [Synapses("weight", self.weight, mask=torch.eye(2))]

        def forward(self, x):
            return x @ self.weight.T

    means = {0: torch.tensor([1.0, 0.5]), 1: torch.tensor([0.2, 1.0])}
    for name, options in (("class-mean-replay", {"class_means": means}), ("downscaling", {})):
        model = Sparse()
        sleep_once(model, torch.rand(2), name, **options)
        assert model.weight[0, 1] == model.weight[1, 0] == 0
        assert model.weight[0, 0] != 0.5 and model.weight[1, 1] != 0.5


def accuracy(*plugins, seed=0):
    x, y = digits()
    strategy = train(stream(samples=1200), *plugins, model=mlp(seed), epochs=2)
    strategy.model.eval()
    return float((strategy.model(x[1200:]).argmax(1) == y[1200:]).double().mean())


def test_class_mean_replay_brings_old_classes_back():
    assert accuracy() < 0.3
    assert accuracy(SleepReplay("class-mean-replay")) > 0.6


def test_downscaling_alone_changes_no_decision_of_a_relu_network():
    assert accuracy(every_night("downscaling", when="last")) == accuracy()


def test_class_mean_replay_needs_means_units_and_a_dense_readout():
    with pytest.raises(InputError, match="give class_means"):
        sleep_once(mlp(), torch.rand(64), "class-mean-replay")
    with pytest.raises(ConfigurationError, match="class 12 has no output unit"):
        sleep_once(mlp(), torch.rand(64), "class-mean-replay", class_means={12: torch.rand(64)})
    with pytest.raises(ConfigurationError, match="is a convolution"):
        means = {0: torch.rand(1, 4, 4)}
        sleep_once(
            nn.Conv2d(1, 2, 3), torch.rand(1, 4, 4), "class-mean-replay",
            class_means=means, kernels=True,
        )  # fmt: skip


@pytest.mark.parametrize("inside", [False, True])
def test_layer_inputs_are_what_the_awake_network_computes(inside):
    network = ConvolutionalRNN((1, 8, 8), [3], 10, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Identity(), network) if inside else network
    layers = find_chains(model, torch.rand(2, 1, 8, 8))[0][0].layers
    x = torch.rand(4, 1, 8, 8)
    inputs = layer_inputs(model, layers[-1], x)
    torch.testing.assert_close(inputs, network.activities(x)[len(layers) - 2].flatten(1))
    torch.testing.assert_close(layer_inputs(model, layers[0], x), x.flatten(1))
    plain = mlp()
    readout = find_chains(plain, x.flatten(1))[0][0].layers[1]
    expected = torch.relu(x.flatten(1) @ plain[0].weight.T)
    torch.testing.assert_close(layer_inputs(plain, readout, x.flatten(1)), expected)
    assert plain.training


# -- what the plugin gathers ------------------------------------------------------------------------


class Pooled(nn.Module):
    """Two chains: the read-out's inputs are its own statistics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.out = nn.Linear(36, 10, bias=False)

    def hidden(self, x):
        maps = torch.relu(self.conv(x.reshape(-1, 1, 8, 8)))
        return nn.functional.max_pool2d(maps, 2).flatten(1)

    def forward(self, x):
        return self.out(self.hidden(x))


def test_evaluation_between_epochs_is_not_recorded():
    """Inputs of the test stream must not enter the means of a chain."""
    sleep = every_night(steps=20, dreams="mean")
    strategy = train([], sleep, model=Pooled(), epochs=3, eval_every=1)
    experiences = stream()
    strategy.train(experiences[0], eval_streams=[experiences[1:3]])
    assert sleep._inner["out.weight"].count == 3 * len(experiences[0].dataset)
    assert sleep.statistics.overall.count == 3 * len(experiences[0].dataset)


def test_copies_of_the_model_are_not_recorded():
    """A strategy may copy the model with its hooks and run the copy in training mode."""
    import copy

    class RunsACopy(SupervisedPlugin):
        def before_forward(self, strategy, **kwargs):
            copy.deepcopy(strategy.model).train()(strategy.mb_x + 100.0)

    sleep = every_night(when=[], dreams="mean")
    strategy = train([], sleep, RunsACopy(), model=Pooled())
    for group in strategy.optimizer.param_groups:
        group["lr"] = 0.0
    experience = stream()[0]
    strategy.train(experience)
    x, y = digits()
    seen = x[:300][y[:300] < 2]
    expected = strategy.model.hidden(seen).double().mean(0)
    torch.testing.assert_close(
        sleep._inner["out.weight"].mean, expected.detach(), rtol=1e-5, atol=1e-6
    )


def test_separate_chains_sleep_beside_distillation():
    sleep = every_night(steps=20, dreams="mean")
    train(stream()[:2], sleep, model=Pooled(), kind=LwF, alpha=1.0, temperature=2.0)
    assert sleep._inner["out.weight"].count == int((digits()[1][:300] < 4).sum())


@pytest.mark.parametrize(("dreams", "classes"), [("mean", 4), ("experience-mean", 2)])
def test_inner_means_are_of_all_experiences_or_of_the_latest(dreams, classes):
    sleep = every_night(steps=20, dreams=dreams)
    train(stream()[:2], sleep, model=Pooled())
    labels = digits()[1][:300]
    expected = (labels < 4) & (labels >= 4 - classes)
    assert sleep._inner["out.weight"].count == int(expected.sum())


def test_nothing_is_gathered_for_an_algorithm_that_needs_nothing():
    sleep = every_night("downscaling")
    train(stream()[:1], sleep, model=Pooled())
    assert sleep.statistics.overall.count == 0 and not sleep._inner
    assert sleep.last_night is not None


def test_non_finite_weights_are_taken_back():
    @dataclass(frozen=True)
    class Broken(SleepAlgorithm):
        def run(self, night):
            for layer in night.plastic_layers:
                layer.weight.div_(0.0)

    model = mlp()
    before = weights(model)
    with pytest.raises(DivergenceError, match=r"Broken made the weights 0\.weight, 3\.weight"):
        sleep_once(model, torch.rand(64), Broken())
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


# -- options and hooks ------------------------------------------------------------------------------


def test_a_configuration_makes_schedule_and_algorithm():
    made = options_from(Sleep, {"algorithm": "downscaling", "when": [1], "factor": 0.9})
    assert made.when == (1,) and made.options == Downscaling(factor=0.9)
    values = {"preset": "tadros2022", "window": "whole", "exclude": ["a"], "diary": True}
    made = options_from(Sleep, values)
    assert made.options == SleepReplayConsolidation(preset="tadros2022", window=None)
    assert (made.when, made.exclude, made.diary) == ("auto", ("a",), True)
    for wrong, match in (
        ({"stpes": 3}, "did you mean 'steps'"),
        ({"algorithm": "downscaling", "steps": 3}, "'steps' is an option of algorithm src"),
        ({"algorithm": "shy"}, "Choose one of src, downscaling"),
        ({"steps": 0}, "steps"),
        ({"when": "never"}, "when"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            options_from(Sleep, wrong)


def test_the_plugin_takes_names_and_objects():
    assert SleepReplay("downscaling", factor=0.5).algorithm == Downscaling(factor=0.5)
    assert SleepReplay(Downscaling(factor=0.5)).algorithm == Downscaling(factor=0.5)
    assert SleepReplay(steps=7).algorithm == SleepReplayConsolidation(steps=7)
    with pytest.raises(ConfigurationError, match="did you mean 'factor'"):
        SleepReplay("downscaling", factro=0.5)
    with pytest.raises(ConfigurationError, match="give factor to it"):
        SleepReplay(Downscaling(), factor=0.5)


def test_check_finds_what_does_not_fit_before_training():
    for sleep, match in (
        (SleepReplay(preset="tadros2022:mnist"), "3 thresholds are given for a network of 2"),
        (SleepReplay(window=9), "wider than the image"),
        (SleepReplay(exclude=["head"]), "exclude names 'head'"),
    ):
        strategy = train([], sleep)
        with pytest.raises(ConfigurationError, match=match):
            sleep.check(strategy, stream()[0], digits()[0][:2])
    sleep = SleepReplay()
    sleep.check(train([], sleep), stream()[0], digits()[0][:2])
    assert sleep.statistics.shape is None and sleep._chains is None


def test_every_plugin_with_methods_around_a_night_inherits_them():
    hooks = {"sleep_begins", "sleep_ends"}
    public = [getattr(module, n) for module in (plugins, metrics) for n in module.__all__]
    with_hooks = [k for k in public if isinstance(k, type) and hooks & set(dir(k))]
    assert all(issubclass(kind, SleepHooks) for kind in with_hooks)
    assert issubclass(AccuracyMatrix, SleepHooks)


def test_both_hooks_are_called_once_around_each_night():
    calls = []

    class Notes(SupervisedPlugin, SleepHooks):
        def sleep_begins(self, strategy, **kwargs):
            calls.append(("before", strategy.experience.current_experience))

        def sleep_ends(self, strategy, **kwargs):
            calls.append(("after", strategy.experience.current_experience))

    train(stream()[:2], every_night("downscaling"), Notes())
    assert calls == [("before", 0), ("after", 0), ("before", 1), ("after", 1)]


def test_an_algorithm_of_the_user_runs_by_itself():
    @dataclass(frozen=True)
    class Shrink(SleepAlgorithm):
        step: float = option(0.1, "absolute change", gt=0)

        def run(self, night):
            for layer in night.plastic_layers:
                layer.weight.sub_(self.step * layer.weight.sign())

    model = nn.Linear(4, 2, bias=False)
    before = model.weight.detach().clone()
    report = sleep_once(model, torch.rand(4), Shrink(0.2))
    np.testing.assert_allclose(model.weight.detach(), before - 0.2 * before.sign())
    assert report.weight_change[0] == pytest.approx(0.2 * 8**0.5)
