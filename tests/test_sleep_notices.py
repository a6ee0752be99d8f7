"""What goes wrong in a night is named, with a remedy; what does not fit is refused, weights untouched."""

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch import nn
from torch.utils.data import TensorDataset

from continual_ep.errors import ConfigurationError, ContinualEPWarning, InputError
from continual_ep.networks import MRNN
from continual_ep.plugins import SleepReplay
from continual_ep.sleep import SleepDiary, sleep_once
from continual_ep.sleep.notices import notices


def diary(inputs=5, units=((3, 4), (1, 0)), steps=1000):
    """Of a night in which each unit spikes so often, and the input so often in each step."""
    counts = torch.zeros(steps, 1 + len(units), dtype=torch.long)
    counts[:, 0] = inputs
    counts[0, 1:] = torch.tensor([sum(of_layer) for of_layer in units])
    names = tuple(f"layer {n}" for n in range(len(units)))
    zeros = (0.0,) * len(units)
    return SleepDiary(
        names, zeros, zeros, counts=counts, unit_counts=tuple(torch.tensor(u) for u in units),
        thresholds=(0.5,) * len(units), gains=zeros, asked_steps=steps,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("night", "key", "words"),
    [
        (diary(), None, ""),
        (diary(inputs=0, units=((0, 0), (0, 0))), "no input spikes", "mean input"),
        (diary(units=((0, 0), (0, 0))), "silent night", "lower output_threshold"),
        (diary(units=((0, 2), (0, 0))), "silent layers", "layer 1"),
        (diary(units=((901, 2), (3, 0))), "endless activity", "1 of layer 0"),
        (diary(units=((900, 2), (3, 0))), None, ""),
        (diary(units=((0, 0), (0, 0)), steps=999), None, ""),
    ],
)
def test_each_is_noticed(night, key, words):
    named = dict(notices(night))
    assert set(named) == ({key} if key else set())
    assert all(words in text for text in named.values())


def mlp(width=16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 12, bias=False), nn.ReLU(), nn.Linear(12, 4, bias=False))


def test_a_silent_night_warns():
    with pytest.warns(ContinualEPWarning, match="no input unit spiked"):
        sleep_once(mlp(), samples=torch.zeros(2, 16), steps=1000)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("make", [mlp, lambda: MRNN((16, 12, 4))])
def test_inputs_of_the_wrong_width_are_refused_and_change_nothing(make):
    model, mean = make(), torch.rand(16)
    before = weights(model)
    for match, arguments, options in (
        (r"step 0 has 3 rates.*16 inputs", (mean,), {"dreams": lambda g, s: torch.rand(3)}),
        (r"step 0 is a NoneType", (mean,), {"dreams": lambda g, s: None}),
        (r"shape \(3,\) does not fit", (torch.rand(3),), {"dreams": "mean"}),
        (
            r"class 1 has 3 values.*16 inputs",
            (mean,),
            {"dreams": "class-means", "class_means": {0: mean, 1: torch.rand(3)}},
        ),
    ):
        with pytest.raises(InputError, match=match):
            sleep_once(model, *arguments, steps=20, **options)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


# -- in a strategy ----------------------------------------------------------------------------------


def stream(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(4).repeat(40)
    x = torch.eye(4).repeat(1, 4)[y] + 0.05 * torch.rand(len(y), 16, generator=generator)
    data = TensorDataset(x.to(dtype), y)
    data.targets = y.tolist()
    benchmark = nc_benchmark(data, data, 2, task_labels=False, fixed_class_order=[0, 1, 2, 3])
    benchmark.image_shape = None
    return benchmark.train_stream


def strategy_of(sleep, model):
    return Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        criterion=nn.CrossEntropyLoss(), train_mb_size=8, train_epochs=2, plugins=[sleep],
        evaluator=EvaluationPlugin(),
    )  # fmt: skip


@pytest.mark.parametrize("when", ["auto", "every"])
def test_replay_input_of_the_wrong_width_is_refused_by_the_plugin(when):
    model, sleep = mlp(), SleepReplay(steps=20, when=when, dreams=lambda g, s: torch.rand(3))
    strategy = strategy_of(sleep, model)
    with pytest.raises(InputError, match=r"3 rates.*16 inputs"):
        strategy.train(stream())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_sleep(dtype):
    model = mlp().to(dtype)
    sleep = SleepReplay(steps=300, min_need=0.0)
    strategy_of(sleep, model).train(stream(dtype))
    night = sleep.last_night
    assert night.outcome in ("slept", "weakened") and 0 <= night.need <= 1
    assert max(night.weight_change) > 0
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(bool(torch.isfinite(w).all()) for w in weights(model))


def test_a_frozen_model_is_refused_with_its_weights_untouched():
    model, sleep = mlp(), SleepReplay(steps=20)
    strategy = strategy_of(sleep, model)
    strategy.train(stream()[0])
    strategy.optimizer.param_groups[0]["lr"] = 0.0
    model.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="excluded or frozen"):
        sleep.check(strategy, stream()[1], torch.zeros(2, 16))
    with pytest.raises(ConfigurationError, match="excluded or frozen"):
        sleep_once(model, samples=torch.rand(2, 16), steps=20)


def test_chains_without_inputs_seen_are_named():
    class Branches(nn.Module):
        """The second layer runs in evaluation alone, so no input of it is seen while awake."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(16, 4, bias=False), nn.Linear(16, 4, bias=False)

        def forward(self, x):
            return self.first(x) if self.training else self.first(x) + self.second(x.sin())

    sleep = SleepReplay(steps=20, when="every", dreams="mean")
    strategy = strategy_of(sleep, Branches())
    with pytest.warns(ContinualEPWarning, match="no inputs of these layers were seen.*second"):
        strategy.train(stream()[0])
