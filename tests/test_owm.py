"""Orthogonal weights modification and references: closed forms by hand."""

import io

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid
from torch import nn

from continual_ep.arms import Assembly, kept_bytes, parse_arm
from continual_ep.arms.random_features import RandomRidge
from continual_ep.arms.slda import LinearDiscriminant
from continual_ep.errors import CheckpointError, ConfigurationError
from continual_ep.learning import BPTT, CrossEntropy, EquilibriumPropagation
from continual_ep.networks import (
    CNN,
    MLP,
    MRNN,
    ConvolutionalRNN,
    DendriticRNN,
    FeedbackRegulatedRNN,
)
from continual_ep.plugins import OWM
from continual_ep.plugins.owm import projector, visible_activities
from continual_ep.strategies import make_optimizer, silent_evaluator
from continual_ep.streams import class_incremental, online

RULE = EquilibriumPropagation(0.1, free_steps=10, nudged_steps=4, nudging="force")


@pytest.fixture(scope="module")
def benchmark():
    return class_incremental("digits", [2, 2], classes=4, seed=1, per_class=10)


def strategy_of(benchmark, model, arm="owm", rate=0.05):
    assembly = Assembly(model, make_optimizer(model, rate), CrossEntropy(), benchmark, 0, 8, 1)
    for mechanism in parse_arm(arm).mechanisms.values():
        mechanism.install(assembly)
    return assembly.strategy(silent_evaluator()), assembly


def test_projector_by_its_definition():
    activity = torch.randn(50, 6, dtype=torch.float64)
    moment = activity.T @ activity / 50
    alpha = 0.5 * moment.trace() / 6
    expected = alpha * np.linalg.inv((moment + alpha * torch.eye(6)).numpy())
    np.testing.assert_allclose(projector(moment, 0.5).numpy(), expected, rtol=1e-6)


def test_projector_does_not_depend_on_the_scale_of_the_inputs():
    moment = torch.rand(5, 5, dtype=torch.float64)
    moment = moment @ moment.T
    torch.testing.assert_close(projector(moment, 0.3), projector(1e4 * moment, 0.3))


def test_directions_that_were_active_are_not_learned():
    active = torch.zeros(4, dtype=torch.float64)
    active[0] = 1.0
    small = projector(torch.outer(active, active), 1e-6)
    torch.testing.assert_close(small, torch.diag(1 - active), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("network", "x"),
    [
        (MLP([6, 5, 3], bias=True), torch.rand(4, 6)),
        (MRNN([6, 5, 3], readout="activated", learning=RULE, bias=True), torch.rand(4, 6)),
        (MRNN([6, 5, 3], learning=RULE, readout="softmax"), torch.rand(4, 6)),
        (CNN((1, 8, 8), [3, 4], 3, kernel=3, padding=1), torch.rand(4, 1, 8, 8)),
        (ConvolutionalRNN((1, 8, 8), [3], 3, kernel=3, learning=RULE), torch.rand(4, 1, 8, 8)),
        (FeedbackRegulatedRNN([6, 5, 5, 5, 5, 3], residuals=True), torch.rand(4, 6)),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.Flatten(), nn.Linear(18, 3)),
            torch.rand(4, 1, 8, 8),
        ),
    ],
    ids=["mlp", "mrnn", "mrnn-softmax", "cnn", "convolutional", "feedback-regulated", "modules"],
)
@pytest.mark.filterwarnings("ignore:cross-entropy needs logits")
def test_activities_lie_in_the_span_of_the_gradients(network, x):
    """Each row of a layer's gradient is a combination of the activities below it."""
    parts = visible_activities(network, x)
    assert {part.weight for part in parts} | {part.bias for part in parts} - {None} >= {
        name for name, p in network.named_parameters() if p.requires_grad
    }
    nn.functional.cross_entropy(network(x), torch.tensor([0, 1, 2, 0])).backward()
    parameters = dict(network.named_parameters())
    for part in parts:
        gradient = parameters[part.weight].grad
        if part.sends_back or type(network) in (MRNN, ConvolutionalRNN, FeedbackRegulatedRNN):
            continue  # an equilibrium's gradient has the nudged states in it, too
        rows = gradient.flatten(1)
        if part.bias is not None:
            rows = torch.cat([rows, parameters[part.bias].grad.reshape(-1, 1)], 1)
        solution = torch.linalg.lstsq(part.activity.T, rows.T).solution
        torch.testing.assert_close(part.activity.T @ solution, rows.T, atol=1e-5, rtol=1e-3)


def test_activities_of_a_recurrent_network_are_those_of_its_free_phase():
    network = MRNN([6, 5, 3], readout="activated", learning=RULE, feedback="untied")
    x = torch.rand(4, 6)
    states = network.settle(x).states
    parts = {part.weight: part for part in visible_activities(network, x)}
    torch.testing.assert_close(parts["weights.0"].activity, x)
    torch.testing.assert_close(parts["weights.1"].activity, states[0])
    back = parts["feedback_weights.0"]
    assert back.sends_back
    torch.testing.assert_close(back.activity, states[1])


@pytest.mark.parametrize("feedback", ["tied", "untied"])
def test_the_gradient_of_the_second_experience_is_projected(benchmark, feedback):
    torch.manual_seed(0)
    rule = BPTT(8)
    model = MRNN([64, 12, 4], learning=rule, readout="softmax", feedback=feedback, bias=True)
    strategy, assembly = strategy_of(benchmark, model)
    plugin = assembly.states["owm"]
    strategy.train(benchmark.train_stream[0])
    x = torch.stack([s[0] for s in benchmark.train_stream[1].dataset][:8])
    y = torch.tensor([s[1] for s in benchmark.train_stream[1].dataset][:8])
    model.zero_grad()
    strategy._criterion(model(x), y).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    plugin.before_update(strategy)
    inputs = torch.stack([s[0] for s in benchmark.train_stream[0].dataset]).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    moment = inputs.T @ inputs / len(inputs)
    matrix = projector(moment, plugin.strength).float()
    rows = torch.cat([before["weights.0"], before["biases.0"].unsqueeze(1)], 1) @ matrix
    torch.testing.assert_close(model.weights[0].grad, rows[:, :-1], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(model.biases[0].grad, rows[:, -1], atol=1e-6, rtol=1e-4)


def test_moments_are_means_over_experiences(benchmark):
    model = MLP([64, 6, 4])
    strategy, assembly = strategy_of(benchmark, model)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    moments = []
    for experience in benchmark.train_stream:
        inputs = torch.stack([s[0] for s in experience.dataset]).double()
        moments.append(inputs.T @ inputs / len(inputs))
    expected = sum(moments) / 2
    torch.testing.assert_close(assembly.states["owm"].moments["weights.0"], expected)
    assert kept_bytes(assembly.states["owm"]) == 8 * (64**2 + 6**2)


def test_parts_of_an_online_experience_are_one_experience(benchmark):
    moments = []
    for stream in (benchmark, online(benchmark, 4, seed=0)):
        strategy, assembly = strategy_of(stream, MLP([64, 6, 4]))
        for experience in stream.train_stream:
            strategy.train(experience)
        assert assembly.states["owm"].experiences == 2
        moments.append(assembly.states["owm"].moments["weights.0"])
    torch.testing.assert_close(*moments)


def test_owm_forgets_less(benchmark):
    accuracies = []
    for arm in ("sequential", "owm"):
        model = MLP([64, 32, 4], generator=torch.Generator().manual_seed(0))
        strategy, _ = strategy_of(benchmark, model, arm, rate=0.2)
        for experience in benchmark.train_stream:
            for _ in range(5):
                strategy.train(experience)
        samples = list(benchmark.train_stream[0].dataset)
        outputs = model(torch.stack([s[0] for s in samples])).argmax(1)
        labels = torch.tensor([s[1] for s in samples])
        accuracies.append(float((outputs == labels).float().mean()))
    assert accuracies[0] < 0.3 and accuracies[1] > 0.6


def test_layers_that_cannot_be_seen_are_refused(benchmark):
    model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assembly = Assembly(model, optimizer, nn.CrossEntropyLoss(), benchmark, 0, 8, 1)
    assembly.add("owm", OWM())
    with pytest.raises(ConfigurationError, match=r"cannot see the inputs of 1\.weight, 1\.bias"):
        assembly.strategy(silent_evaluator()).train(benchmark.train_stream[0])
    cables = DendriticRNN([8, 6, 3], readout="activated", cables=True, learning=RULE)
    with pytest.raises(ConfigurationError, match="cable"):
        OWM()._seen(cables, torch.rand(2, 8))


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan"), float("inf")])
def test_a_strength_that_cannot_be_is_refused(strength):
    with pytest.raises(ConfigurationError, match="strength"):
        OWM(strength)


def test_state_of_owm_round_trips_and_damage_changes_nothing(benchmark):
    strategy, assembly = strategy_of(benchmark, MLP([64, 6, 4]))
    strategy.train(benchmark.train_stream[0])
    file = io.BytesIO()
    torch.save(assembly.states["owm"].state_dict(), file)
    file.seek(0)
    other = OWM()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.experiences == 1
    for name, moment in assembly.states["owm"].moments.items():
        assert torch.equal(other.moments[name], moment)
    with pytest.raises(CheckpointError):
        other.load_state_dict({"moments": {"weights.0": "text"}, "experiences": 2})
    assert other.experiences == 1


# -- references --------------------------------------------------------------------------------------


def reference(benchmark, arm):
    strategy, assembly = strategy_of(benchmark, MLP([64, 4]), arm)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    samples = [s for e in benchmark.train_stream for s in e.dataset]
    x = torch.stack([s[0] for s in samples])
    y = torch.tensor([s[1] for s in samples])
    return strategy.model.eval(), x, y, assembly


def test_nearest_class_mean_is_scikit_learns(benchmark):
    model, x, y, assembly = reference(benchmark, "ncm")
    expected = NearestCentroid().fit(x.numpy(), y.numpy()).predict(x.numpy())
    assert np.array_equal(model(x).argmax(1).numpy(), expected)
    assert kept_bytes(assembly.states["sums"]) == 8 * (4 * 64 + 4)


def test_linear_discriminant_by_its_definition(benchmark):
    model, x, y, assembly = reference(benchmark, "slda:0.2")
    data, labels = x.double().numpy(), y.numpy()
    means = np.stack([data[labels == c].mean(0) for c in range(4)])
    within = (data - means[labels]).T @ (data - means[labels]) / len(data)
    shrunk = 0.8 * within + 0.2 * np.trace(within) / 64 * np.eye(64)
    inverse = np.linalg.inv(shrunk)
    scores = data @ inverse @ means.T - 0.5 * np.einsum("ci,ij,cj->c", means, inverse, means)
    np.testing.assert_allclose(model(x).detach().numpy(), scores, rtol=1e-4, atol=1e-4)
    assert kept_bytes(assembly.states["sums"]) == 8 * (64 * 64 + 4 * 64 + 4)


def test_random_features_are_joint_ridge_regression(benchmark):
    model, x, y, assembly = reference(benchmark, "random-features:20")
    hidden = model.hidden(x).numpy()
    targets = np.eye(4)[y.numpy()]
    penalty = 1e-4 * np.trace(hidden.T @ hidden) / 21
    weights = np.linalg.solve(hidden.T @ hidden + penalty * np.eye(21), hidden.T @ targets)
    np.testing.assert_allclose(model(x).numpy(), hidden @ weights, rtol=1e-4, atol=1e-4)
    assert kept_bytes(assembly.states["sums"]) == 8 * (21 * 21 + 4 * 21 + 4)


@pytest.mark.parametrize(
    "model", [LinearDiscriminant(64, 10, 0.1), RandomRidge(64, 10, 50, 1e-4, 0)]
)
def test_sums_do_not_depend_on_the_order_of_samples(model):
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    orders = (torch.arange(len(x)), torch.argsort(y, stable=True).flip(0))
    scores = []
    for order in orders:
        for buffer in (model.counts, model.sums, getattr(model, "scatter", model.counts)):
            buffer.zero_()
        if hasattr(model, "moment"):
            model.moment.zero_()
        model._solution = None
        for batch in order.split(100):
            model.observe(x[batch], y[batch])
        scores.append(model(x))
    torch.testing.assert_close(*scores, atol=1e-4, rtol=1e-3)
    assert (scores[0].argmax(1) == y).float().mean() > 0.9


def test_classes_that_were_not_seen_are_never_answered():
    model = LinearDiscriminant(4, 3, 0.1)
    model.observe(torch.rand(6, 4), torch.tensor([0, 0, 0, 2, 2, 2]))
    assert set(model(torch.rand(20, 4)).argmax(1).tolist()) <= {0, 2}
