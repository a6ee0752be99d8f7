"""Nights above kernels that keep their weights: batches of steps, chains left out, batch norm."""

import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from continual_ep.errors import ConfigurationError, ContinualEPWarning
from continual_ep.sleep import SleepParameters, find_chains, sleep_once, sleep_replay
from continual_ep.sleep import frozen as batches
from continual_ep.sleep.engines import stepwise
from continual_ep.sleep.frozen import scan

MEAN = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))


def cnn(pool=None, middle=None, dtype=torch.float64, integers=False, **options):
    """Two convolutions and two dense layers, the last one a read-out."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, dtype=dtype, **options),
        middle or nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, (2, 3), padding="same", dtype=dtype, **options),
        nn.ReLU(),
        pool or nn.MaxPool2d(2),
        nn.Flatten(),
    )
    inputs = model(torch.zeros(1, 1, 8, 8, dtype=dtype)).shape[1]
    model += nn.Sequential(
        nn.Linear(inputs, 12, dtype=dtype, **options), nn.Linear(12, 10, dtype=dtype, **options)
    )
    if integers:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_((8 * parameter).round())
    return model


def both(model, **constants):
    """A night with its kernels in batches, and the same step by step; models and diaries."""
    results = []
    # Who has to look for silence looks at every step.
    for quiet in (None, 10**6):
        changed = deepcopy(model)
        parameters = SleepParameters(
            **{"steps": 300, "firing_rate": 0.02, "quiet_steps": quiet, **constants}
        )
        results.append((changed, sleep_replay(changed, MEAN, parameters, night=2)))
    return results


def assert_same_nights(results):
    (model, diary), (stepped, expected) = results
    assert min(expected.spikes) > 0, "the case must be lively enough to mean something"
    assert diary.layers == expected.layers
    assert torch.equal(diary.counts, expected.counts)
    for mine, others in zip(diary.unit_counts, expected.unit_counts, strict=True):
        assert torch.equal(mine, others)
    assert diary.thresholds == pytest.approx(expected.thresholds)
    assert diary.gains == expected.gains
    for mine, others in zip(model.parameters(), stepped.parameters(), strict=True):
        torch.testing.assert_close(mine, others, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("budget", [1, 1000, 1 << 22])
def test_steps_in_batches_are_exact_for_weights_of_few_bits(dtype, budget, monkeypatch):
    monkeypatch.setattr(batches, "BUDGET", budget)
    model = cnn(dtype=dtype, integers=True, bias=False)
    # A leak of a half keeps the membranes exact too.
    assert_same_nights(both(model, leak=0.5))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)])
@pytest.mark.parametrize("biases", ["current", "ignore"])
def test_steps_in_batches_are_the_steps_one_by_one(pool, biases):
    assert_same_nights(both(cnn(pool), biases=biases))


def test_dense_layers_below_a_kernel_and_excluded_ones_above_it():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 36), nn.ReLU(), nn.Unflatten(1, (1, 6, 6)),
        nn.Conv2d(1, 3, 3, stride=2), nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 10),
    ).double()  # fmt: skip
    results = []
    for quiet in (None, 10**6):
        changed = deepcopy(model)
        parameters = SleepParameters(steps=300, firing_rate=0.05, quiet_steps=quiet)
        diary = sleep_replay(changed, MEAN, parameters, exclude=["1", "6"])
        results.append((changed, diary))
    assert_same_nights(results)
    changed = [not torch.equal(a, b) for a, b in zip(results[0][0].parameters(), model.parameters(),
                                                     strict=True)]  # fmt: skip
    assert changed == [False] * 6 + [True, True]


@given(
    seed=st.integers(0, 10_000),
    units=st.integers(1, 9),
    steps=st.integers(0, 40),
    leak=st.sampled_from([0.0, 0.9, 1.0]),
)
@settings(max_examples=25, deadline=None)
def test_the_scan_is_the_equation(seed, units, steps, leak):
    rng = np.random.default_rng(seed)
    currents, membrane = rng.normal(0.1, 0.5, (steps, units)), rng.normal(0, 0.3, units)
    expected = membrane.copy()
    spikes = np.empty((steps, units), bool)
    scan(currents, spikes, membrane, 0.6, leak)
    for current, fired in zip(currents, spikes, strict=True):
        for unit in range(units):
            expected[unit] = leak * expected[unit] + current[unit]
            assert fired[unit] == (expected[unit] >= 0.6)
            if expected[unit] >= 0.6:
                expected[unit] = 0.0
    np.testing.assert_allclose(membrane, expected)


def test_kernels_keep_their_weights_unless_asked():
    for kernels in (False, True):
        model = cnn(bias=False)
        before = [p.detach().clone() for p in model.parameters()]
        diary = sleep_once(model, MEAN, dreams="mean", steps=200, firing_rate=0.02, kernels=kernels)
        changed = [not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)]
        assert changed == [kernels, kernels, True, True]
        assert diary.layers == ("0.weight", "4.weight", "8.weight", "9.weight")


def test_a_network_of_kernels_alone_is_refused_with_the_reason():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 10, 6))
    with pytest.raises(ConfigurationError, match=r"0\.weight, 2\.weight are kernels.*kernels=True"):
        sleep_replay(model, MEAN)
    sleep_replay(model, MEAN, SleepParameters(steps=10), kernels=True)


# -- batch norm ----------------------------------------------------------------------------------


def normalised(make):
    """A normalisation with statistics and weights as after a training, one of them negative, one 0."""
    norm = make.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        norm.running_mean.copy_(torch.randn(norm.num_features, generator=generator))
        norm.running_var.copy_(0.2 + torch.rand(norm.num_features, generator=generator))
        norm.weight.copy_(0.5 + torch.rand(norm.num_features, generator=generator))
        norm.bias.copy_(torch.randn(norm.num_features, generator=generator) / 10)
        norm.weight[0], norm.weight[1], norm.bias[0] = 0.0, -0.7, -0.1
    return norm


def by_hand(layer, norm):
    """A layer that computes in one what ``layer`` and ``norm`` compute in evaluation."""
    folded = deepcopy(layer)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    with torch.no_grad():
        folded.weight *= scale.reshape(-1, *[1] * (folded.weight.dim() - 1))
        folded.bias.copy_((folded.bias - norm.running_mean) * scale + norm.bias)
    return folded


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("biases", ["current", "ignore"])
def test_batch_norm_sleeps_as_part_of_the_weights_below_it(kernels, biases):
    torch.manual_seed(0)
    conv, dense, out = nn.Conv2d(1, 4, 3), nn.Linear(144, 12), nn.Linear(12, 10)
    first, second = normalised(nn.BatchNorm2d(4)), normalised(nn.BatchNorm1d(12))
    conv, dense, out = (layer.double() for layer in (conv, dense, out))
    relu, flat = nn.ReLU(), nn.Flatten()
    model = nn.Sequential(conv, first, relu, flat, dense, second, relu, out).eval()
    folded = nn.Sequential(by_hand(conv, first), relu, flat, by_hand(dense, second), relu, out)
    folded = deepcopy(folded).eval()
    old = [deepcopy(layer.state_dict()) for layer in (conv, dense, first, second)]
    x = torch.rand(20, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x), folded(x))
    parameters = SleepParameters(steps=300, firing_rate=0.05, biases=biases)
    diaries = [sleep_replay(m, MEAN, parameters, kernels=kernels) for m in (model, folded)]
    assert min(diaries[0].spikes) > 0
    assert torch.equal(diaries[0].counts, diaries[1].counts)
    torch.testing.assert_close(model(x), folded(x))
    assert torch.equal(conv.weight, old[0]["weight"]) == (not kernels)
    # The unit of scale 0 never spiked, nor do weights that did not change lose a bit.
    assert torch.equal(dense.weight[0], old[1]["weight"][0])
    for norm, state in ((first, old[2]), (second, old[3])):
        assert all(torch.equal(v, state[n]) for n, v in norm.state_dict().items())


@pytest.mark.parametrize("between", [nn.ReLU(), nn.ReLU(inplace=True), nn.MaxPool2d(2), None])
def test_batch_norm_elsewhere_is_left_alone(between):
    layers = [nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), between, nn.BatchNorm2d(4)]
    if between is None:  # twice the same
        layers[2], layers[3] = layers[3], nn.BatchNorm2d(4)
    model = nn.Sequential(*layers, nn.ReLU())
    chains, unknown = find_chains(model, torch.rand(2, 1, 8, 8))
    assert chains[0].layers[0].norm is (model[2] if between is None else None)
    assert [line.split(" ")[0] for line in unknown] == ["0", "3"]
    without = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert find_chains(without, torch.rand(2, 1, 8, 8))[0][0].layers[0].norm is None


# -- long nights ---------------------------------------------------------------------------------


def test_a_long_night_is_announced_and_shows_how_far_it_is(monkeypatch, capsys):
    model = cnn(bias=False)
    monkeypatch.setattr(stepwise, "ESTIMATE_AFTER", 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick = sleep_replay(deepcopy(model), MEAN, SleepParameters(steps=5), kernels=True)
    clock = iter(range(0, 10**6, 20))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with pytest.warns(
        ContinualEPWarning, match=r"night of 5 steps takes about 100 s.*kernels=True"
    ):
        slow = sleep_replay(model, MEAN, SleepParameters(steps=5), kernels=True)
    assert "night: 2 of 5 steps, " in capsys.readouterr().err
    assert torch.equal(slow.counts, quick.counts)
