"""The range of inputs: rates for sleep, and the offset of standardised inputs."""

from copy import deepcopy

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training.supervised import Naive
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from continual_ep.errors import ConfigurationError, ContinualEPWarning, InputError
from continual_ep.plugins import SleepReplay
from continual_ep.sleep import SleepReplayConsolidation, find_chains, sleep_once
from continual_ep.sleep.algorithm import Night
from continual_ep.sleep.input_range import keep_offset_current
from continual_ep.sleep.statistics import InputStatistics
from continual_ep.synapses import Synapses


@given(st.floats(-5, 5), st.floats(0, 5), st.integers(0, 10**6))
def test_rates_and_inputs_are_inverse(low, span, seed):
    inputs = low + span * torch.rand(4, 6, generator=torch.Generator().manual_seed(seed))
    statistics = InputStatistics()
    statistics.add(inputs)
    known = statistics.input_range()
    rates = known.rates(inputs)
    assert rates.min() >= -1e-6 and rates.max() <= 1 + 1e-6
    torch.testing.assert_close(known.inputs(rates), inputs, atol=1e-5, rtol=1e-5)


def test_the_range_of_images_is_by_channel_and_survives_a_checkpoint():
    x = torch.rand(5, 3, 2, 2) * torch.tensor([1.0, 2.0, 3.0])[:, None, None] - 1.0
    statistics = InputStatistics()
    statistics.add(x[:2])
    statistics.add(x[2:])
    restored = InputStatistics()
    restored.load_state_dict(statistics.state_dict())
    expected = x.transpose(0, 1).flatten(1).amin(1).repeat_interleave(4)
    torch.testing.assert_close(restored.input_range().low, expected)
    assert torch.equal(restored.input_range().span, statistics.input_range().span)


def test_images_between_zero_and_one_are_rates_as_they_are():
    x = torch.rand(7, 1, 3, 3)
    statistics = InputStatistics()
    statistics.add(x)
    assert torch.equal(statistics.input_range().rates(x.flatten(1)), x.flatten(1))


def changed_layer(bias):
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 5, generator=generator))
    before = torch.randn(3, 5, generator=generator)
    own = nn.Parameter(torch.randn(3, generator=generator)) if bias else None
    return Synapses("w", weight, own), before


@pytest.mark.parametrize("bias", [True, False])
def test_the_current_of_the_offset_is_as_before(bias):
    layer, before = changed_layer(bias)
    low = torch.tensor([-1.0, -1.0, -0.5, -1.0, -2.0])
    constant = torch.tensor([False, True, False, False, True])
    own = layer.bias.detach().clone() if bias else torch.zeros(3)
    weight = layer.weight.detach().clone()
    assert keep_offset_current(layer, before, low, constant)
    now = layer.weight @ low + (layer.bias if bias else 0.0)
    torch.testing.assert_close(now, before @ low + own)
    changed = (layer.weight != weight).any(0)
    assert not changed[~constant].any() and (bias or changed[constant].all())


def test_a_layer_that_did_not_change_needs_no_bias():
    layer, _ = changed_layer(bias=False)
    unchanged = torch.zeros(5, dtype=torch.bool)
    assert keep_offset_current(layer, layer.weight.detach().clone(), -torch.ones(5), unchanged)


def test_an_offset_without_bias_or_constant_inputs_is_said():
    layer, before = changed_layer(bias=False)
    assert not keep_offset_current(layer, before, -torch.ones(5), torch.zeros(5, dtype=torch.bool))


def test_a_night_leaves_the_answer_to_the_lowest_input_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 4))
    samples = torch.randn(40, 9)
    lowest = torch.full((1, 9), float(samples.min()))
    before = model[0](lowest)
    diary = sleep_once(model, samples=samples, steps=300, increase=0.02, decrease=0.01)
    assert diary.weight_change[0] > 0
    torch.testing.assert_close(model[0](lowest), before, atol=1e-5, rtol=1e-5)


class Labelled(torch.utils.data.TensorDataset):
    """With the targets that Avalanche asks for."""

    @property
    def targets(self):
        return self.tensors[1].tolist()


def standardised(n=120):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 1, 4, 4, generator=generator)
    y = torch.arange(n) % 4
    x[torch.arange(n), 0, y] += 2.0
    return (x - x.mean()) / x.std(), y


@pytest.mark.parametrize("bias", [True, False])
def test_standardised_streams_sleep_in_avalanche(bias):
    x, y = standardised()
    data = as_classification_dataset(Labelled(x, y))
    stream = nc_benchmark(data, data, n_experiences=2, task_labels=False, shuffle=False)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 20, bias=bias), nn.ReLU(), nn.Linear(20, 4, bias=bias)
    )
    sleep = SleepReplay(steps=200, when="every", guard=False)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=10,
        plugins=[sleep],
        evaluator=None,
    )
    if not bias:
        with pytest.warns(ContinualEPWarning, match="add a bias"):
            strategy.train(stream.train_stream[0])
        return
    strategy.train(stream.train_stream[0])
    assert min(sleep.last_night.spikes) > 0
    assert sleep.statistics.low < -0.5


def test_samples_are_asked_for():
    with pytest.raises(InputError, match="give samples"):
        sleep_once(nn.Linear(3, 2), torch.rand(3))
    with pytest.raises(InputError, match="give samples"):
        sleep_once(nn.Linear(3, 2), algorithm="downscaling")
    for empty in (torch.zeros(0, 3), torch.rand(3)):
        with pytest.raises(InputError, match="at least one input"):
            sleep_once(nn.Linear(3, 2), samples=empty)


def small_cnn(bias):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=bias), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(12, 16, bias=bias), nn.ReLU(), nn.Linear(16, 4, bias=bias),
    )  # fmt: skip


def test_above_kernels_the_awake_activity_of_the_samples_is_replayed():
    model = small_cnn(True).eval()
    samples = torch.randn(30, 1, 4, 4)
    features = model[:5](samples).detach()
    dense = deepcopy(model[5:])
    sleep_once(model, samples=samples, steps=300)
    sleep_once(dense, samples=features / features.max(), steps=300)
    torch.testing.assert_close(model[5].weight, dense[0].weight)
    torch.testing.assert_close(model[7].weight, dense[2].weight)


def test_masks_are_refused_above_layers_that_do_not_change():
    with pytest.raises(ConfigurationError, match="a window masks images"):
        sleep_once(small_cnn(False), samples=torch.rand(5, 1, 4, 4), steps=20, window=2)


def test_the_need_of_features_is_measured_on_parts_of_their_mean():
    samples = torch.rand(20, 90)
    model = nn.Linear(90, 4)
    statistics = InputStatistics()
    statistics.add(samples)
    chains, _ = find_chains(model, samples[:2])
    night = Night(model=model, chains=chains, plastic=frozenset(), statistics=statistics)
    shown = SleepReplayConsolidation().replayed(night, 200, torch.Generator().manual_seed(0))
    mean = samples.mean(0)
    assert ((shown == 0) | torch.isclose(shown, mean)).all()
    share = float((shown > 0).double().mean())
    assert abs(share - (11 / 28) ** 2) < 0.02 and len(shown.unique(dim=0)) > 100
