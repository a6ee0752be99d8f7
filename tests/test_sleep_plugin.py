"""SleepReplay in real Avalanche strategies, on scikit-learn's digits."""

import io
import math
import warnings
from functools import cache, partial

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SlimResNet18
from avalanche.training import EWC, JointTraining, LwF, Naive, Replay
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from continual_ep.errors import CheckpointError, ConfigurationError, ContinualEPWarning
from continual_ep.metrics import AccuracyMatrix
from continual_ep.networks import CNN, MRNN
from continual_ep.plugins import SleepReplay
from continual_ep.sleep import SleepHooks, SleepParameters, sleep_replay
from continual_ep.streams import class_incremental, online

#: The night itself: after every experience, whatever it costs.
every_night = partial(SleepReplay, when="every", guard=False)


@cache
def digits():
    data = load_digits()
    x = torch.tensor(data.data / 16, dtype=torch.float32)
    return x, torch.tensor(data.target)


def stream(experiences=2, samples=400, shift=0.0):
    x, y = digits()
    x = x[:samples] - shift
    data = TensorDataset(x, y[:samples])
    data.targets = y[:samples].tolist()
    benchmark = nc_benchmark(
        data, data, experiences, task_labels=False, fixed_class_order=list(range(10))
    )
    benchmark.image_shape = (8, 8)  # as the streams of the package say
    return benchmark.train_stream


def mlp(bias=False, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 40, bias=bias), nn.ReLU(), nn.Dropout(0.2), nn.Linear(40, 10, bias=bias)
    )


def train(experiences, *plugins, model=None, kind=Naive, evaluator=None, **options):
    model = model or mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    strategy = kind(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=32,
        train_epochs=1,
        eval_mb_size=100,
        plugins=list(plugins),
        evaluator=evaluator or EvaluationPlugin(),
        **options,
    )
    torch.manual_seed(1)
    for experience in experiences:
        strategy.train(experience)
    return strategy


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Spy(SupervisedPlugin, SleepHooks):
    """Notes weights and the random state around each night."""

    def __init__(self):
        super().__init__()
        self.awake, self.asleep, self.streams = [], [], []

    def sleep_begins(self, strategy, **kwargs):
        self.awake.append(weights(strategy.model))
        self.streams.append(torch.get_rng_state())

    def sleep_ends(self, strategy, **kwargs):
        self.asleep.append(weights(strategy.model))
        assert torch.equal(torch.get_rng_state(), self.streams[-1])
        assert torch.is_grad_enabled() and strategy.model.training


def test_sleep_does_not_shift_the_training_before_it():
    spy = Spy()
    slept = train(stream()[:1], every_night(steps=200), spy)
    state = torch.get_rng_state()
    awake = train(stream()[:1])
    assert torch.equal(torch.get_rng_state(), state)
    assert same(spy.awake[0], weights(awake.model))
    assert not same(spy.awake[0], spy.asleep[0])
    assert same(spy.asleep[0], weights(slept.model))
    momentum = [
        [s["momentum_buffer"] for s in strategy.optimizer.state.values()]
        for strategy in (slept, awake)
    ]
    assert same(*momentum)


@pytest.mark.parametrize("kind", [Replay, EWC, LwF])
def test_it_sleeps_in_any_strategy(kind):
    options = {
        Replay: {"mem_size": 20},
        EWC: {"ewc_lambda": 0.1},
        LwF: {"alpha": 1.0, "temperature": 2.0},
    }
    spy = Spy()
    train(stream(), every_night(steps=100), spy, kind=kind, **options[kind])
    assert len(spy.asleep) == 2
    assert all(not same(a, b) for a, b in zip(spy.awake, spy.asleep, strict=True))


@pytest.mark.parametrize(
    ("when", "nights"), [("every", [0, 1, 2]), ("last", [2]), ([1], [1]), ([0, 7], [0]), ([], [])]
)
def test_nights_follow_the_experiences_that_when_names(when, nights):
    slept = []

    class Notes(SupervisedPlugin, SleepHooks):
        def sleep_ends(self, strategy, **kwargs):
            slept.append(strategy.experience.current_experience)

    x = stream(5)[:3] if when != "last" else stream(2)
    if when == "last":
        nights = [1]
    train(x, every_night(when=when, steps=20), Notes())
    assert slept == nights


def test_a_list_counts_in_the_whole_stream_also_when_a_slice_is_trained():
    slept = []

    class Notes(SupervisedPlugin, SleepHooks):
        def sleep_ends(self, strategy, **kwargs):
            slept.append(strategy.experience.current_experience)

    train(stream(5)[2:], every_night(when=[3], steps=20), Notes())
    assert slept == [3]


@pytest.mark.parametrize("when", ["every", "last", [0]])
def test_joint_training_sleeps_once(when):
    sleep = every_night(when=when, steps=20, diary=True)
    strategy = train([], sleep, kind=JointTraining)
    strategy.train(stream(5))
    assert len(sleep.diaries) == 1 and sleep.diaries[0].asked_steps == 20


def test_the_last_night_is_as_long_alone_as_after_others():
    lengths = []
    for when in ("every", "last"):
        sleep = every_night(when=when, steps=20, growth=0.5)
        train(stream(2), sleep)
        lengths.append(sleep.last_night.asked_steps)
    assert lengths == [30, 30]


@pytest.mark.parametrize("ours", [True, False])
def test_online_streams_sleep_after_the_last_small_experience(ours):
    whole = class_incremental("digits", 2, per_class=4)
    sleep = every_night(steps=20, growth=1.0, diary=True)
    matrix = AccuracyMatrix(whole.test_stream)
    strategy = train([], sleep, matrix)
    split = split_online_stream(whole.train_stream, 8)
    for experience in online(whole, 8).train_stream if ours else split:
        strategy.train(experience)
    assert [night.asked_steps for night in sleep.diaries] == [20, 40]
    assert matrix.asleep.shape == (2, 2) and matrix.record.trained == [0, 1]
    assert not any(math.isnan(v) for k, v in matrix.summary().items() if "forgetting" in k)


def test_inputs_known_to_be_features_have_no_window_and_others_are_asked_about():
    data = stream(2)
    data.benchmark.image_shape = None
    known = every_night(dreams="mean", steps=50)
    train(data, known)
    unmasked = every_night(dreams="mean", steps=50, window=None)
    train(stream(2), unmasked)
    assert torch.equal(known.last_night.counts, unmasked.last_night.counts)
    del data.benchmark.image_shape
    with pytest.warns(ContinualEPWarning, match="64 values are taken for square images") as caught:
        train(data, every_night(dreams="mean", steps=20))
    assert len([w for w in caught if w.category is ContinualEPWarning]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", ContinualEPWarning)
        train(data, every_night(dreams="mean", steps=20, window=3))
        train(data, every_night(dreams="mean", steps=20, window=None))


def test_nights_grow_and_keep_a_diary():
    plugin = every_night(steps=30, growth=0.5, diary=True)
    train(stream(5)[:3], plugin)
    assert [night.steps for night in plugin.diaries] == [30, 45, 60]
    assert plugin.last_night is plugin.diaries[-1]
    assert plugin.diaries[0].layers == ("0.weight", "3.weight")


def test_it_replays_the_running_mean_of_all_inputs():
    plugin = every_night(steps=10)
    train(stream(2), plugin)
    torch.testing.assert_close(plugin.statistics.overall.mean, digits()[0][:400].double().mean(0))
    assert plugin.statistics.overall.count == 400


def test_experience_and_class_means():
    x, y = digits()[0][:400].double(), digits()[1][:400]
    plugin = every_night(steps=10, dreams="experience-mean")
    train(stream(2), plugin)
    torch.testing.assert_close(plugin.statistics.experience.mean, x[y >= 5].mean(0))
    plugin = every_night(steps=10, dreams="class-means", hold=5)
    train(stream(2), plugin)
    expected = torch.stack([x[y == label].mean(0) for label in range(10)])
    torch.testing.assert_close(plugin.statistics.class_means(), expected)


def test_functions_drive_the_night():
    silent = every_night(steps=50, dreams=lambda generator, step: torch.zeros(64))
    spy = Spy()
    train(stream()[:1], silent, spy)
    assert silent.last_night.spikes == (0, 0)
    assert same(spy.awake[0], spy.asleep[0])


def test_seeds_give_the_same_night_and_others_another():
    results = [
        weights(train(stream()[:1], every_night(steps=100, seed=seed)).model) for seed in (3, 3, 4)
    ]
    assert same(results[0], results[1]) and not same(results[0], results[2])


def test_the_published_preset_runs_on_three_layers():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 30, bias=False), nn.ReLU(), nn.Linear(30, 20, bias=False), nn.ReLU(),
        nn.Linear(20, 10, bias=False), nn.ReLU(),
    )  # fmt: skip
    plugin = every_night(preset="tadros2022:mnist", steps=50, window=3)
    state = train(stream()[:1], plugin, model=model)
    assert plugin.last_night.thresholds == (14.548273, 44.560317, 38.046326)
    # s_1 by hand: the largest weight or activation of the first layer on the data, awake.
    assert all(gain > 0 for gain in plugin.last_night.gains)
    assert state.model.training


def test_published_gains_come_from_the_experience_with_dropout_off():
    plugin = every_night(preset=SleepParameters(gain_scale=2.0, thresholds=(1.0, 1.0), steps=5))
    spy = Spy()
    train(stream()[:1], plugin, spy)
    first, second = spy.awake[0]
    x, y = digits()[0][:400], digits()[1][:400]
    hidden = (x[y < 5] @ first.T).relu()
    s1 = max(float(first.max()), float(hidden.max()))
    s2 = max(float(second.max()), float((hidden @ second.T).max()))
    assert plugin.last_night.gains == pytest.approx((2 / s1, 2 / (s2 / s1)), rel=1e-5)


def test_the_state_continues_the_nights():
    experiences = stream(5)[:3]
    whole = every_night(steps=50, dreams="class-means")
    train(experiences, whole)

    half = every_night(steps=50, dreams="class-means")
    train(experiences[:2], half)
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    resumed = every_night(steps=50, dreams="class-means")
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(experiences[2:], resumed)
    assert resumed.last_night.asked_steps == whole.last_night.asked_steps == 75
    assert torch.equal(resumed.statistics.class_means(), whole.statistics.class_means())
    # The same night replays the same spikes.
    assert torch.equal(resumed.last_night.counts[:, 0], whole.last_night.counts[:, 0])


def test_damaged_states_are_refused():
    state = SleepReplay().state_dict()
    for wrong in (
        {},
        {**state, "format": 99},
        {"format": 1},
        {**state, "statistics": {"shape": None}},
        {**state, "inner": {"a": {"count": 2, "total": None}}},
        {**state, "inner": {"a": {"count": 2, "total": torch.zeros(2, 2)}}},
        {**state, "inner": None},
        {**state, "experiences": "many"},
    ):
        plugin = SleepReplay(steps=20)
        train(stream(5)[:1], plugin)
        before = plugin.state_dict()
        with pytest.raises(CheckpointError):
            plugin.load_state_dict(wrong)
        after = plugin.state_dict()
        assert after["experiences"] == 1 and after["inner"] == before["inner"]
        assert after["statistics"]["overall"]["count"] == before["statistics"]["overall"]["count"]
    with pytest.raises(CheckpointError, match="dreams="):
        SleepReplay(dreams="class-means").load_state_dict(state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"when": "never"},
        {"when": [-1]},
        {"when": 3},
        {"when": [True]},
        {"when": [1.5]},
        {"window": 3.5},
        {"window": True},
        {"quiet_steps": 2.5},
        {"quiet_steps": 0},
        {"steps": 10.5},
        {"steps": True},
        {"hold": 1.5},
        {"dreams": "nightmares"},
        {"preset": "tadros"},
        {"steps": 0},
        {"hold": 0},
        {"thresold": 1.0},
    ],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        SleepReplay(**wrong)


def test_unknown_layers_are_named_once():
    model = nn.Sequential(
        nn.Linear(64, 20, bias=False), nn.LayerNorm(20), nn.Linear(20, 10, bias=False)
    )
    with pytest.warns(ContinualEPWarning, match=r"1 \(LayerNorm\)") as caught:
        train(stream(2), every_night(steps=20), model=model)
    assert len([w for w in caught if w.category is ContinualEPWarning]) == 1


def test_separate_chains_replay_their_own_inputs():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 4, 3, bias=False)
            self.out = nn.Linear(36, 10, bias=False)

        def forward(self, x):
            x = torch.relu(self.conv(x.reshape(-1, 1, 8, 8)))
            return self.out(nn.functional.max_pool2d(x, 2).flatten(1))

    plugin = every_night(dreams="mean", steps=50, kernels=True)
    strategy = train(stream(2), plugin, model=Pooled(), kind=LwF, alpha=1.0, temperature=2.0)
    assert plugin.last_night.layers == ("conv.weight", "out.weight")
    assert plugin._inner["out.weight"].count == 400
    assert min(plugin.last_night.spikes) > 0
    assert not strategy.model.out._forward_pre_hooks


def test_chains_of_kernels_are_neither_recorded_nor_simulated():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Conv2d(1, 4, 3, padding=1, bias=False)
            self.branch = nn.Conv2d(4, 4, 3, padding=1, bias=False)
            self.second = nn.Conv2d(4, 4, 3, bias=False)
            self.out = nn.Linear(36, 10, bias=False)

        def forward(self, x):
            x = torch.relu(self.first(x.reshape(-1, 1, 8, 8)))
            x = torch.relu(self.second(x + self.branch(x)))
            return self.out(nn.functional.max_pool2d(x, 2).flatten(1))

    nights = []
    for kernels in (False, True):
        plugin = every_night(dreams="mean", steps=50, kernels=kernels)
        train(stream(2), plugin, model=Residual())
        nights.append((plugin.last_night.layers, set(plugin._inner)))
    both = ("first.weight", "branch.weight", "second.weight", "out.weight")
    assert nights[0] == (both[-1:], {"out.weight"})
    assert nights[1] == (both, {"second.weight", "out.weight"})


def small_cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 20, bias=False), nn.ReLU(),
        nn.Linear(20, 10, bias=False),
    )  # fmt: skip


def small_network():
    generator = torch.Generator().manual_seed(0)
    return CNN((1, 8, 8), [4], 10, hidden=[20], kernel=3, bias=False, generator=generator)


@pytest.mark.parametrize("make", [small_cnn, small_network])
def test_means_pass_through_kernels_as_spikes_and_samples_as_activity(make):
    kernels, layers = {}, {}
    for dreams in ("mean", "experience"):
        model = make()
        plugin = SleepReplay(steps=50, dreams=dreams, guard=False, when="every")
        old = [p.detach().clone() for p in model.parameters() if p.dim() == 4]
        train(stream(2)[:1], plugin, model=model)
        kernels[dreams] = [p.detach().clone() for p in model.parameters() if p.dim() == 4]
        assert not torch.equal(kernels[dreams][0], old[0])  # trained
        layers[dreams] = plugin.last_night.layers
    # The night itself left the kernels alone, whatever it began with.
    assert torch.equal(kernels["mean"][0], kernels["experience"][0])
    assert layers["mean"][1:] == layers["experience"] and len(layers["mean"]) == 3


def test_where_the_output_layer_alone_would_change_the_night_is_skipped_with_the_reason():
    class Slim(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.network = SlimResNet18(10, nf=2)

        def forward(self, x):
            images = nn.functional.interpolate(x.reshape(-1, 1, 8, 8), (32, 32))
            return self.network(images.expand(-1, 3, -1, -1))

    name = "network.linear.weight"
    for when, outcome in (("auto", "skipped"), ("every", "slept")):
        plugin = SleepReplay(steps=20, when=when, guard=False, biases="ignore")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ContinualEPWarning)
            train(stream(2, samples=60)[:1], plugin, model=Slim())
        assert plugin.last_night.outcome == outcome
        assert not plugin._inner  # samples are replayed, so no inner input is recorded
    assert plugin.last_night.layers == (name,)
    train(stream(2)[:1], plugin := SleepReplay(exclude=["0"]))
    assert "only the output layer 3.weight would change" in plugin.last_night.reason
    train(stream(2)[:1], plugin := SleepReplay("downscaling", exclude=["0"]))
    assert plugin.last_night.outcome == "slept"


def test_a_night_without_inputs_is_skipped_with_a_warning():
    plugin = SleepReplay(steps=10)
    strategy = train([], plugin)
    strategy.experience = stream(2)[0]
    with pytest.warns(ContinualEPWarning, match="nothing to replay"):
        plugin.after_training_exp(strategy)
    assert plugin.last_night.outcome == "skipped"


def test_diagnostics_reach_the_evaluator():
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True))
    plugin = every_night(steps=50)
    train(stream()[:1], plugin, evaluator=evaluator)
    metrics = evaluator.get_last_metrics()
    assert metrics["Sleep_Spikes/train_phase/0.weight"] == plugin.last_night.spikes[0]
    assert "Sleep_WeightChange/train_phase/3.weight" in metrics


def test_batches_of_one_and_inputs_above_one():
    x, y = digits()
    data = TensorDataset(x[:11] * 100, y[:11])
    data.targets = y[:11].tolist()
    one = nc_benchmark(data, data, 2, task_labels=False, fixed_class_order=list(range(10)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ContinualEPWarning)
        plugin = every_night(steps=20, window=3)
        optimizer_safe = mlp()
        strategy = train([], plugin, model=optimizer_safe)
        strategy.train_mb_size = 1
        strategy.optimizer.param_groups[0]["lr"] = 1e-4
        strategy.train(one.train_stream[0])
    assert plugin.last_night.steps == 20
    assert all(bool(torch.isfinite(w).all()) for w in weights(strategy.model))


def test_sleep_brings_old_classes_back():
    x, y = digits()
    x, y = x[:1500], y[:1500]
    data = TensorDataset(x, y)
    data.targets = y.tolist()
    experiences = nc_benchmark(
        data, data, 5, task_labels=False, fixed_class_order=list(range(10))
    ).train_stream

    def accuracy(*plugins):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
        strategy = Naive(
            model=model, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), train_mb_size=32,
            train_epochs=2, plugins=list(plugins), evaluator=EvaluationPlugin(),
        )  # fmt: skip
        torch.manual_seed(0)
        for experience in experiences:
            strategy.train(experience)
        model.eval()
        return float((model(x).argmax(1) == y).double().mean())

    assert accuracy() < 0.25
    assert accuracy(SleepReplay(window=3)) > 0.35


@pytest.mark.parametrize("feedback", [False, True])
def test_equilibrium_propagation_networks_sleep(feedback):
    model = MRNN((64, 30, 10), generator=torch.Generator().manual_seed(0))
    plugin = every_night(steps=200, feedback=feedback)
    spy = Spy()
    train(stream(2), plugin, spy, model=model)
    assert plugin.last_night.layers == ("weights.0", "weights.1")
    for before, after in zip(spy.awake, spy.asleep, strict=True):
        assert all(not torch.equal(b, a) for b, a in zip(before, after, strict=True))


@pytest.mark.gpu
def test_a_model_on_the_gpu_sleeps_to_the_same_numbers():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    mean = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    models = [mlp(), mlp().cuda()]
    nights = [sleep_replay(model, mean, SleepParameters(steps=300)) for model in models]
    assert torch.equal(nights[0].counts, nights[1].counts)
    assert same(weights(models[0]), weights(models[1].cpu()))
