"""The default readout, and losses that do not fit the readout."""

import warnings

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training import Naive
from registry import ALL_RULES, example_batch, example_network
from torch import nn
from torch.utils.data import TensorDataset

from continual_ep.errors import ContinualEPWarning, DivergenceError
from continual_ep.learning import (
    BPTT,
    LEARNING_RULES,
    CrossEntropy,
    EquilibriumPropagation,
    RecurrentRule,
    SquaredError,
)
from continual_ep.learning.loss_fit import recognized_loss
from continual_ep.networks import MRNN, ConvolutionalRNN, DendriticRNN, Ensemble, RecurrentNetwork
from continual_ep.networks.connections import Dense
from continual_ep.strategies import BPTTStrategy, EPStrategy, silent_evaluator

RULES = [name for name in ALL_RULES if issubclass(LEARNING_RULES[name], RecurrentRule)]


def mean_squared_error(output, target):
    return nn.functional.mse_loss(output, nn.functional.one_hot(target, output.shape[1]).float())


@pytest.mark.parametrize(
    ("criterion", "kind"),
    [
        (SquaredError(), "squared-error"),
        (mean_squared_error, "squared-error"),
        (CrossEntropy(), "cross-entropy"),
        (nn.CrossEntropyLoss(), "cross-entropy"),
        (nn.CrossEntropyLoss(reduction="sum"), "cross-entropy"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), None),
        (lambda output, target: nn.functional.multi_margin_loss(output, target), None),
        (lambda output, target: nn.functional.cross_entropy(output[:, :3], target), None),
        (lambda output, target: 0.0 * output.sum(), None),
    ],
)
@pytest.mark.parametrize("size", [0.1, 0.2])
def test_a_loss_is_recognized_by_its_gradient(criterion, kind, size):
    """With outputs of the size that networks begin with."""
    output = (size * torch.randn(6, 4)).requires_grad_()
    criterion(output, torch.tensor([0, 1, 2, 2, 1, 0])).backward()
    assert recognized_loss(output.detach(), output.grad) == kind


@pytest.mark.parametrize(
    ("readout", "criterion", "message"),
    [
        ("softmax", SquaredError(), "use CrossEntropy"),
        ("softmax", mean_squared_error, "use CrossEntropy"),
        ("activated", nn.CrossEntropyLoss(), "use readout='softmax'"),
        ("linear", CrossEntropy(), "use readout='softmax'"),
        ("softmax", nn.CrossEntropyLoss(), None),
        ("activated", SquaredError(), None),
        ("linear", mean_squared_error, None),
    ],
)
@pytest.mark.parametrize("learning", [EquilibriumPropagation(0.1), BPTT(5)])
def test_a_loss_that_does_not_fit_warns_once(readout, criterion, message, learning):
    network = MRNN([4, 5, 3], readout=readout, learning=learning)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            criterion(network(torch.rand(6, 4)), torch.tensor([0, 1, 2, 2, 1, 0])).backward()
    assert [message in str(w.message) for w in caught] == ([] if message is None else [True])


def test_an_ensemble_warns_as_its_members_would():
    ensemble = Ensemble([MRNN([4, 5, 3], readout="linear") for _ in range(2)])
    with pytest.warns(ContinualEPWarning, match="readout='softmax'"):
        CrossEntropy()(ensemble(torch.rand(6, 4)), torch.tensor([0, 1, 2, 2, 1, 0])).backward()


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_default_readout_that_it_can_learn_with(name):
    rule = LEARNING_RULES[name]()
    network = example_network(rule.kinds[0], learning=rule, readout=None)
    assert network.readout == ("activated" if rule.needs_target else "softmax")
    criterion = SquaredError() if rule.needs_target else CrossEntropy()
    x, y = example_batch()
    criterion(network(x), y).backward()
    assert any(bool(p.grad.any()) for p in network.parameters() if p.grad is not None)


def test_networks_read_by_softmax_unless_they_have_no_layer_for_it():
    assert DendriticRNN([4, 5, 3], branches=2).readout == "softmax"
    assert ConvolutionalRNN((1, 6, 6), [2], 3).readout == "softmax"
    links = [(0, 1, Dense(4, 5))]
    assert RecurrentNetwork([(4,), (5,)], links).readout == "activated"
    assert RecurrentNetwork([(4,), (5,)], links, classes=3).readout == "softmax"


@pytest.mark.parametrize("strategy", [EPStrategy, BPTTStrategy])
def test_strategies_take_the_loss_that_fits_the_readout(strategy):
    made = strategy(sizes=[4, 5, 3], evaluator=None)
    assert (made.model.readout, type(made._criterion)) == ("softmax", CrossEntropy)
    network = {"readout": "activated"}
    made = strategy(sizes=[4, 5, 3], network=network, evaluator=None)
    assert type(made._criterion) is SquaredError


@pytest.mark.parametrize("learning", [EquilibriumPropagation(0.1), BPTT(5)])
def test_a_readout_that_is_not_finite_is_named(learning):
    network = MRNN([4, 5, 3], learning=learning)
    with torch.no_grad():
        network.weights[-1][0, 0] = float("inf")
    with pytest.raises(DivergenceError, match="the readout is not finite"):
        network(torch.rand(2, 4))


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), CrossEntropy()])
def test_a_default_network_learns_each_experience_of_features(criterion):
    """1280 features in [0, 6), most of them small, as of MobileNetV2; classes that overlap."""
    drawn = torch.Generator().manual_seed(0)
    y = torch.arange(800) % 4
    centres = torch.rand(4, 1280, generator=drawn)
    x = (centres[y] + torch.randn(800, 1280, generator=drawn)).clamp(min=0.0)
    data = TensorDataset(x, y)
    data.targets = y.tolist()
    data = as_classification_dataset(data)
    benchmark = nc_benchmark(data, data, 2, task_labels=False, fixed_class_order=[0, 1, 2, 3])
    network = MRNN([1280, 512, 4], generator=drawn)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    strategy = Naive(
        model=network,
        optimizer=optimizer,
        criterion=criterion,
        train_mb_size=20,
        evaluator=silent_evaluator(),
    )
    for number, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        new = y // 2 == number
        with torch.no_grad():
            assert float((network(x[new]).argmax(1) == y[new]).double().mean()) > 0.95
