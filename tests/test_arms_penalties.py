"""Penalties, losses and corrections against forgetting: by hand on small models, and resumed."""

import copy
import io

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch import nn
from torch.nn.functional import cross_entropy

from continual_ep.arms import Assembly, kept_bytes, parse_arm
from continual_ep.errors import (
    CheckpointError,
    ConfigurationError,
    ContinualEPWarning,
    InputError,
)
from continual_ep.experiments.checkpoint import restore_strategy, strategy_state
from continual_ep.gradient_check import check_gradients
from continual_ep.learning import (
    ContrastiveHebbian,
    CrossEntropy,
    EquilibriumPropagation,
    NeuromodulatedEquilibriumLearning,
    SquaredError,
)
from continual_ep.networks import MLP, MRNN
from continual_ep.plugins import (
    BiasCorrection,
    FreezeHidden,
    LabelsTrick,
    SleepReplay,
    WeightAveraging,
)
from continual_ep.plugins.bias_correction import threshold
from continual_ep.plugins.labels_trick import classes_of, restricted_loss
from continual_ep.plugins.penalties import EWC, MAS, LwF, RWalk, SynapticIntelligence
from continual_ep.strategies import make_optimizer, silent_evaluator
from continual_ep.streams import class_incremental, online

MECHANISMS = (
    "ewc",
    "online-ewc",
    "si",
    "mas:0.01",
    "rwalk",
    "lwf",
    "labels-trick",
    "freeze",
    "weight-averaging",
    "bias-correction",
)
#: Weights of the network below.
WEIGHTS = 64 * 12 + 12 * 6


@pytest.fixture(scope="module")
def benchmark():
    return class_incremental("digits", [2, 2, 2], classes=6, seed=1, per_class=10)


def network(kind="mlp"):
    generator = torch.Generator().manual_seed(0)
    if kind == "mlp":
        return MLP([64, 12, 6], dropout=0.2, generator=generator)
    rule = EquilibriumPropagation(0.2, free_steps=8, nudged_steps=4, nudging="loss")
    return MRNN([64, 12, 6], learning=rule, readout="softmax", generator=generator)


def built(benchmark, arm, model=None, *, batch=8, epochs=2, loss=None, optimizer=None):
    """The strategy of an arm, and what its mechanisms save."""
    torch.manual_seed(0)
    model = network() if model is None else model
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    assembly = Assembly(model, optimizer, loss or CrossEntropy(), benchmark, 0, batch, epochs)
    for mechanism in parse_arm(arm).mechanisms.values():
        mechanism.install(assembly)
    return assembly.strategy(silent_evaluator()), assembly.states


def plain(benchmark, *plugins, model=None, criterion=None, batch=8, epochs=2, lr=0.05):
    """A strategy with plugins, without any mechanism."""
    torch.manual_seed(0)
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    assembly = Assembly(model, optimizer, criterion or CrossEntropy(), benchmark, 0, batch, epochs)
    assembly.plugins.extend(plugins)
    return assembly.strategy(silent_evaluator())


def train(strategy, benchmark, start=0, stop=3):
    for number in range(start, stop):
        strategy.train(benchmark.train_stream[number])


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def samples(experience):
    rows = [experience.dataset[i] for i in range(len(experience.dataset))]
    return torch.stack([row[0] for row in rows]), torch.tensor([int(row[1]) for row in rows])


def linear_model():
    model = nn.Linear(64, 6, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(6, 64, generator=torch.Generator().manual_seed(3)) * 0.1)
    return model


def softmax_gradient(weight, x, y):
    """The gradient of the mean cross-entropy of a linear model, in NumPy."""
    x, y = x.numpy().astype(float), y.numpy()
    outputs = x @ weight.detach().numpy().astype(float).T
    p = np.exp(outputs - outputs.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p.T @ x / len(y)


def fisher(weight, x, y, batch=8):
    squares = [
        softmax_gradient(weight, x[i : i + batch], y[i : i + batch]) ** 2
        for i in range(0, len(x), batch)
    ]
    return np.mean(squares, axis=0)


class Spy(SupervisedPlugin):
    """The weights after each experience, before the plugins that follow."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def after_training_exp(self, strategy, **kwargs):
        self.weights.append(weights(strategy.model))


# ---- resuming --------------------------------------------------------------------------------------


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one == other


def saved_and_loaded(strategy, states, done):
    file = io.BytesIO()
    torch.save(strategy_state(strategy, states, done), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("arm", [*MECHANISMS, "+".join(MECHANISMS)])
@pytest.mark.parametrize("kind", ["mlp", "ep"])
def test_resumed_training_gives_the_same_weights(benchmark, arm, kind):
    straight, states = built(benchmark, arm, network(kind))
    train(straight, benchmark)
    for done in (1, 2):
        first, its_states = built(benchmark, arm, network(kind))
        train(first, benchmark, 0, done)
        state = saved_and_loaded(first, its_states, done)
        torch.manual_seed(99)
        second, new_states = built(benchmark, arm, network(kind))
        assert restore_strategy(second, new_states, state) == done
        # Saved again before any training, it is the same state.
        assert_same(strategy_state(second, new_states, done)["plugins"], state["plugins"])
        train(second, benchmark, done)
        assert_same(dict(second.model.state_dict()), dict(straight.model.state_dict()))
        for name in states:
            assert_same(new_states[name].state_dict(), states[name].state_dict())


@pytest.mark.parametrize("arm", MECHANISMS)
def test_mechanism_changes_training_or_answers(benchmark, arm):
    """None of them is without effect (Avalanche's SI is, on the CPU)."""
    reference, _ = built(benchmark, "sequential")
    train(reference, benchmark)
    strategy, _ = built(benchmark, arm)
    train(strategy, benchmark)
    x = samples(benchmark.test_stream[0])[0]
    reference.model.eval()
    strategy.model.eval()
    with torch.no_grad():
        difference = (strategy.model(x) - reference.model(x)).abs().max()
    assert difference > 1e-5


@pytest.mark.parametrize("arm", MECHANISMS)
def test_mechanisms_work_in_double_precision(benchmark, arm):
    model = network("ep").double()
    strategy, _ = built(benchmark, arm, model, epochs=1)
    train(strategy, benchmark, 0, 2)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


@pytest.mark.parametrize(
    ("arm", "numbers"),
    [
        ("ewc", 2 * 3 * WEIGHTS),
        ("online-ewc", 2 * WEIGHTS),
        ("si", WEIGHTS),
        ("mas:0.01", 2 * WEIGHTS),
        ("rwalk", 3 * WEIGHTS),
        ("lwf", WEIGHTS),
        ("labels-trick", 0),
        ("freeze", 0),
        ("weight-averaging", 0),
        ("bias-correction", 6),
    ],
)
def test_kept_bytes_are_four_for_each_number(benchmark, arm, numbers):
    strategy, states = built(benchmark, arm)
    train(strategy, benchmark)
    (state,) = states.values()
    assert kept_bytes(state) == 4 * numbers


# ---- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("ewc:0", "strength: must be greater than 0"),
        ("ewc:-1", "strength: must be greater than 0"),
        ("ewc:.nan", "strength: must be greater than 0"),
        ("ewc:null", "strength: must be a valid number"),
        ("ewc:", "give ewc's strength after the colon"),
        ("si:0", "greater than 0"),
        ("mas:-2", "greater than 0"),
        ("rwalk:.inf", "finite"),
        ("lwf:0", "greater than 0"),
        ("labels-trick:1", "takes no value"),
        ("freeze:1", "takes no value"),
        ("weight-averaging:0", "greater than 0"),
        ("weight-averaging:2", "less than or equal to 1"),
        ("bias-correction:1", "less than 1"),
        ("er+labels-trick", "stored samples of other classes would have none"),
        ("labels-trick+labels-trick", "names labels-trick twice"),
    ],
)
def test_impossible_arm_is_refused(arm, message):
    with pytest.raises(ConfigurationError, match=message.replace("'", ".")):
        parse_arm(arm)


def test_unknown_option_names_the_closest_one():
    with pytest.raises(ConfigurationError, match="did you mean 'decay'"):
        parse_arm("online-ewc", {"online-ewc": {"deccay": 1}})


@pytest.mark.parametrize("arm", ["ewc", "online-ewc", "mas", "rwalk"])
def test_streams_of_small_experiences_are_refused(benchmark, arm):
    with pytest.raises(ConfigurationError, match="cuts experiences"):
        built(online(benchmark, 4), arm)


def test_what_cannot_work_is_refused_with_its_reason(benchmark):
    with pytest.raises(ConfigurationError, match="no hidden layer"):
        built(benchmark, "freeze", MLP([64, 6]))
    with pytest.raises(ConfigurationError, match="no linear read-out"):
        built(benchmark, "freeze", nn.Conv2d(1, 2, 3))
    model = network("ep")
    flips = make_optimizer(model, 0.05, optimizer="flips")
    with pytest.raises(ConfigurationError, match="not binary"):
        built(benchmark, "weight-averaging", model, optimizer=flips)
    for name, mechanism in parse_arm("labels-trick+lwf").mechanisms.items():
        assert "reward" in mechanism.refusal(NeuromodulatedEquilibriumLearning(), None), name
        assert mechanism.refusal(EquilibriumPropagation(), None) is None


@pytest.mark.parametrize(
    ("plugin", "damage"),
    [
        (EWC(1.0), {"weights": {0: {"w": torch.ones(1)}}, "importances": {}}),
        (EWC(1.0), {"weights": {0: {"w": 1.0}}, "importances": {0: {"w": 1.0}}}),
        (SynapticIntelligence(1.0), {"path_integrals": None}),
        (MAS(), {"weights": {}}),
        (RWalk(), {"weights": {}, "importances": {}}),
        (LwF(), {"network": {}, "classes": {0: ["a"]}, "experiences": 1}),
        (LabelsTrick(), {"classes": [1]}),
        (FreezeHidden(), {"frozen": "yes"}),
        (WeightAveraging(), {"experiences": -1}),
        (BiasCorrection(), {"offsets": torch.ones(2), "seen": ["a"]}),
        (BiasCorrection(), {"offsets": [1.0], "seen": [1]}),
    ],
)
def test_damaged_state_is_refused_and_changes_nothing(plugin, damage):
    before = plugin.state_dict()
    with pytest.raises(CheckpointError):
        plugin.load_state_dict(damage)
    assert_same(plugin.state_dict(), before)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BiasCorrection(cost=0.0),
        lambda: BiasCorrection(samples=0),
        lambda: WeightAveraging(share=1.5),
    ],
)
def test_plugins_check_their_values(make):
    with pytest.raises(ConfigurationError):
        make()


def test_too_steep_penalty_warns_with_the_factor(benchmark):
    strategy, _ = built(benchmark, "ewc:1000000", linear_model())
    with pytest.warns(ContinualEPWarning, match="ewc: the penalty is too steep"):
        train(strategy, benchmark, 0, 1)


# ---- elastic weight consolidation -------------------------------------------------------------------


def test_ewc_importance_is_the_mean_squared_gradient_of_batches(benchmark):
    plugin = EWC(1.0)
    model = linear_model()
    train(plain(benchmark, plugin, model=model), benchmark, 0, 1)
    expected = fisher(model.weight, *samples(benchmark.train_stream[0]))
    np.testing.assert_allclose(plugin.importances[0]["weight"].data, expected, rtol=1e-3, atol=1e-9)
    assert torch.equal(plugin.saved_params[0]["weight"].data, model.weight)


def penalty_of(plugin, model, experience=1):
    """What a plugin adds to the loss."""

    class Strategy:
        device, loss = "cpu", torch.zeros(1)

        class clock:
            train_exp_counter = experience

    Strategy.model = model
    plugin.before_backward(Strategy)
    return float(Strategy.loss.detach())


def linear(values):
    model = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values]))
    return model


def row(*values):
    return {"weight": torch.tensor([list(values)])}


def test_ewc_penalty_adds_up_experiences():
    plugin = EWC(10.0)
    plugin.load_state_dict(
        {
            "weights": {0: row(1.0, 0.0), 1: row(2.0, 1.0)},
            "importances": {0: row(0.5, 3.0), 1: row(0.1, 2.0)},
        }
    )
    # 0.5 * 1 + 3 * 9, and 0.1 * 0 + 2 * 4
    assert penalty_of(plugin, linear([2.0, 3.0]), 2) == pytest.approx(10 * 35.5)


def test_online_ewc_importances_fade(benchmark):
    plugin = EWC(1.0, mode="online", decay_factor=0.5)
    spy, model = Spy(), linear_model()
    train(plain(benchmark, spy, plugin, model=model), benchmark, 0, 2)
    first, second = (
        fisher(spy.weights[k]["weight"], *samples(benchmark.train_stream[k])) for k in (0, 1)
    )
    kept = plugin.state_dict()
    assert list(kept["importances"]) == list(kept["weights"]) == [1]
    found = kept["importances"][1]["weight"]
    np.testing.assert_allclose(found, 0.5 * first + second, rtol=1e-3, atol=1e-8)
    assert torch.equal(kept["weights"][1]["weight"], model.weight)


# ---- synaptic intelligence, memory aware synapses, Riemannian walk ------------------------------------


def test_si_importance_is_the_path_integral_over_the_squared_change(benchmark):
    """One step of gradient descent: the change is -lr g, and the integral of g is -lr g²."""
    plugin, model, lr = SynapticIntelligence(1.0, eps=1e-3), linear_model(), 0.1
    x, y = samples(benchmark.train_stream[0])
    g = softmax_gradient(model.weight, x, y).flatten()
    train(plain(benchmark, plugin, model=model, batch=100, epochs=1, lr=lr), benchmark, 0, 1)
    found = plugin.state_dict()["path_integrals"]["weight"]
    expected = -lr * g**2 / ((lr * g) ** 2 + 1e-3)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
    importance = plugin.ewc_data[1]["weight"].data
    assert float(importance.min()) >= 0
    np.testing.assert_allclose(importance, np.minimum(-expected, 1e-3), rtol=1e-3, atol=1e-7)


def test_si_penalty_is_half_the_strength_times_importance_times_squared_change():
    plugin = SynapticIntelligence(10.0)
    plugin.load_state_dict({"path_integrals": {"weight": torch.tensor([-4e-4, -1.0, 5.0])}})
    plugin.ewc_data[0]["weight"].data = torch.tensor([1.0, 0.0, 0.0])
    # Importances 4e-4 and, cut, 1e-3 and 0.
    expected = 5 * (4e-4 * 1 + 1e-3 * 9)
    assert penalty_of(plugin, linear([2.0, 3.0, 7.0])) == pytest.approx(expected)


def test_mas_importance_is_the_gradient_of_the_squared_output(benchmark):
    plugin, model = MAS(2.0, 0.25), linear_model()
    spy = Spy()
    train(plain(benchmark, spy, plugin, model=model), benchmark, 0, 2)

    def importance(k):
        x, w = samples(benchmark.train_stream[k])[0], spy.weights[k]["weight"]
        batches = x.split(8)
        return torch.stack([(2 * (b @ w.T).T @ b / len(b)).abs() for b in batches]).mean(0)

    expected = 0.25 * importance(0) + 0.75 * importance(1)
    assert torch.allclose(plugin.importance["weight"].data, expected, rtol=1e-4, atol=1e-6)
    plugin.load_state_dict({"weights": row(1.0, 0.0), "importances": row(0.5, 3.0)})
    assert penalty_of(plugin, linear([2.0, 3.0])) == pytest.approx(2 * 27.5)


def test_rwalk_scores_experiences_of_less_than_an_interval(benchmark):
    """One step: the fall of the loss is lr g², the length of the path g² (lr g)² / 2."""
    plugin, model, lr = RWalk(1.0, delta_t=10), linear_model(), 0.1
    x, y = samples(benchmark.train_stream[0])
    g = softmax_gradient(model.weight, x, y)
    train(plain(benchmark, plugin, model=model, batch=100, epochs=1, lr=lr), benchmark, 0, 1)
    state = plugin.state_dict()
    np.testing.assert_allclose(state["importances"]["weight"], g**2, rtol=1e-3, atol=1e-9)
    eps = np.finfo(np.float32).eps
    score = lr * g**2 / (0.5 * g**2 * (lr * g) ** 2 + eps)
    np.testing.assert_allclose(state["scores"]["weight"], score, rtol=1e-2, atol=1e-3)
    expected = g**2 / (g**2).max() + score / score.max()
    found = plugin.exp_penalties["weight"].data
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-5)


def test_rwalk_trains_with_dropout(benchmark):
    modes = set()

    class Modes(SupervisedPlugin):
        def before_forward(self, strategy, **kwargs):
            modes.add(strategy.model.training)

    strategy, _ = built(benchmark, "rwalk")
    strategy.plugins.append(Modes())
    train(strategy, benchmark, 0, 1)
    assert modes == {True}


# ---- learning without forgetting ---------------------------------------------------------------------


def test_lwf_distils_the_former_answers_over_earlier_classes(benchmark):
    plugin, model = LwF(2.0, temperature=3.0), network()
    train(plain(benchmark, plugin, model=model), benchmark, 0, 1)
    x = samples(benchmark.train_stream[1])[0]
    former = copy.deepcopy(model).eval()
    output = torch.randn(len(x), 6)
    old = sorted(benchmark.classes_per_experience[0])
    with torch.no_grad():
        p = (former(x)[:, old] / 3).double().softmax(1).numpy()
        q = (output[:, old] / 3).double().softmax(1).numpy()
    expected = 2.0 * (p * np.log(p / q)).sum(1).mean()
    assert float(plugin.lwf(x, output, model)) == pytest.approx(expected, rel=1e-4)


def test_lwf_refuses_the_state_of_another_network(benchmark):
    plugin = LwF()
    train(plain(benchmark, plugin), benchmark, 0, 1)
    other = LwF()
    other.load_state_dict(plugin.state_dict())
    with pytest.raises(CheckpointError, match="another network"):
        train(plain(benchmark, other, model=MLP([64, 7, 6])), benchmark, 1, 2)


# ---- labels trick ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [CrossEntropy(), nn.CrossEntropyLoss()])
def test_restricted_cross_entropy_is_that_of_the_classes_alone(loss):
    output = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([1, 4, 4, 1, 1, 4, 4])
    value = restricted_loss(loss, [1, 4])(output, target)
    (gradient,) = torch.autograd.grad(value, output)
    few = output.detach()[:, [1, 4]].requires_grad_()
    expected = cross_entropy(few, (target == 4).long())
    assert torch.allclose(value, expected)
    assert torch.allclose(gradient[:, [1, 4]], torch.autograd.grad(expected, few)[0])
    assert not gradient[:, [0, 2, 3, 5]].any()


@pytest.mark.parametrize("loss", [SquaredError(), nn.MSELoss(reduction="sum")])
def test_restricted_squared_error_sees_the_classes_alone(loss):
    output = torch.randn(3, 4, dtype=torch.float64)
    target = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.float64)
    squares = (output - target)[:, [0, 2]].square().sum()
    expected = squares / 6 if isinstance(loss, SquaredError) else squares
    assert torch.allclose(restricted_loss(loss, [0, 2])(output, target), expected)


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError(), nn.CrossEntropyLoss()])
def test_labels_beyond_the_classes_are_an_error(loss):
    with pytest.raises(InputError, match=r"beyond the classes \[1, 4\]"):
        restricted_loss(loss, [1, 4])(torch.zeros(2, 6), torch.tensor([1, 2]))


def test_class_weights_cannot_be_restricted():
    with pytest.raises(ConfigurationError, match="weight for each class"):
        restricted_loss(nn.CrossEntropyLoss(weight=torch.ones(6)), [1, 4])


@pytest.mark.parametrize(
    ("readout", "loss"),
    [("softmax", CrossEntropy()), ("activated", SquaredError()), ("linear", SquaredError())],
)
def test_ep_gradient_of_the_restricted_loss_is_the_exact_one(readout, loss):
    generator = torch.Generator().manual_seed(2)
    rule = EquilibriumPropagation(
        1e-3, free_steps=400, nudged_steps=300, tolerance=1e-14, nudging="loss"
    )
    model = MRNN(
        [10, 8, 6],
        learning=rule,
        readout=readout,
        activation="tanh",
        gain=0.5,
        generator=generator,
    ).double()
    x = torch.rand(5, 10, generator=generator, dtype=torch.float64)
    y = torch.tensor([1, 4, 4, 1, 4])
    report = check_gradients(model, x, y, restricted_loss(loss, [1, 4]))
    assert all(row.cosine > 1 - 1e-6 and row.relative_error < 1e-3 for row in report.rows)
    model.zero_grad()
    restricted_loss(loss, [1, 4])(model(x), y).backward()
    if readout == "softmax":
        gradient = model.synapses()[-1].weight.grad
        assert not gradient[[0, 2, 3, 5]].any()
        assert gradient[[1, 4]].any()


def test_contrastive_hebbian_learning_holds_other_outputs_where_they_are():
    """As if their targets were the free outputs."""
    model = MRNN([10, 8, 6], learning=ContrastiveHebbian(), readout="activated").double()
    x, y = torch.rand(5, 10, dtype=torch.float64), torch.tensor([1, 4, 4, 1, 4])
    output = model(x)
    target = output.detach().clone()
    target[:, [1, 4]] = torch.nn.functional.one_hot((y == 4).long(), 2).double()
    SquaredError()(output, target).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    restricted_loss(SquaredError(), [1, 4])(model(x), y).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert gradient.any()
        assert torch.allclose(parameter.grad, gradient)


def test_labels_trick_restores_the_criterion_and_evaluates_with_it(benchmark):
    criterion = nn.CrossEntropyLoss()
    strategy = plain(benchmark, LabelsTrick(), model=linear_model(), criterion=criterion)
    used = []

    class Evaluate(SupervisedPlugin):
        def after_training_epoch(self, strategy, **kwargs):
            used.append(strategy._criterion is criterion)
            strategy.eval(benchmark.test_stream)
            used.append(strategy._criterion is criterion)
            strategy.model.train()

        def before_eval_exp(self, strategy, **kwargs):
            assert strategy._criterion is criterion

    strategy.plugins.append(Evaluate())
    train(strategy, benchmark, 0, 2)
    assert used == [False] * 8
    assert strategy._criterion is criterion


def test_labels_trick_leaves_the_readout_of_other_classes(benchmark):
    model = network()
    before = model.weights[-1].detach().clone()
    train(plain(benchmark, LabelsTrick(), model=model), benchmark, 0, 1)
    new = list(benchmark.classes_per_experience[0])
    others = [c for c in range(6) if c not in new]
    assert torch.equal(model.weights[-1][others], before[others])
    assert not torch.equal(model.weights[-1][new], before[new])


def test_labels_trick_takes_the_classes_of_the_whole_of_a_small_experience(benchmark):
    small = online(benchmark, 3)
    assert any(len(part.dataset.targets.uniques) == 1 for part in small.train_stream)
    for part, origin in zip(small.train_stream, small.origin_experience, strict=True):
        assert classes_of(part) == sorted(benchmark.classes_per_experience[origin])


@pytest.mark.parametrize(
    "arm", ["si+labels-trick+lwf", "freeze+weight-averaging+bias-correction", "labels-trick+freeze"]
)
def test_small_experiences_are_resumed_after_a_whole_one(benchmark, arm):
    small = online(benchmark, 5)
    straight, _ = built(small, arm, epochs=1)
    train(straight, small, 0, len(small.train_stream))
    done = small.origin_experience.index(2)
    first, states = built(small, arm, epochs=1)
    train(first, small, 0, done)
    state = saved_and_loaded(first, states, done)
    second, new_states = built(small, arm, epochs=1)
    restore_strategy(second, new_states, state)
    train(second, small, done, len(small.train_stream))
    assert_same(dict(second.model.state_dict()), dict(straight.model.state_dict()))


# ---- freeze ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "ep"])
def test_freeze_keeps_hidden_weights_to_the_bit(benchmark, kind):
    model = network(kind)
    strategy = plain(benchmark, FreezeHidden(), SleepReplay(steps=40), model=model)
    first, last = model.synapses()[0].weight, model.synapses()[-1].weight
    initial = first.detach().clone()
    train(strategy, benchmark, 0, 1)
    assert not torch.equal(first, initial)
    kept, readout = first.detach().clone(), last.detach().clone()
    train(strategy, benchmark, 1, 3)
    assert torch.equal(first, kept)
    assert not torch.equal(last, readout)


def test_freeze_keeps_running_statistics_of_other_modules(benchmark):
    model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))
    strategy = plain(benchmark, FreezeHidden(), model=model)
    train(strategy, benchmark, 0, 1)
    kept = copy.deepcopy(model[:2].state_dict())
    train(strategy, benchmark, 1, 2)
    assert_same(dict(model[:2].state_dict()), dict(kept))


# ---- weight averaging --------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [None, 0.25])
def test_weights_become_the_mean_over_experiences(benchmark, share):
    spy, plugin = Spy(), WeightAveraging(share=share)
    model = network()
    train(plain(benchmark, spy, plugin, model=model), benchmark)
    shares = [1.0, 1 / 2, 1 / 3] if share is None else [1.0, share, share]
    for name, parameter in model.named_parameters():
        mean = torch.zeros_like(parameter, dtype=torch.float64)
        for part, trained in zip(shares, spy.weights, strict=True):
            mean = (1 - part) * mean + part * trained[name].double()
        assert torch.allclose(parameter.double(), mean, atol=1e-6)


# ---- bias correction ---------------------------------------------------------------------------------


def test_threshold_has_the_share_of_margins_below_it():
    margins = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 8.0, 7.0, 10.0, 9.0])
    assert threshold(margins, 0.2) == 2.5
    assert threshold(margins, 0.5) == 5.5
    assert threshold(margins, 0.01) == 1.0
    assert threshold(margins[:1], 0.9) == 3.0


def test_new_classes_lose_the_given_share_of_their_own_samples(benchmark):
    plugin, model = BiasCorrection(cost=0.25), network()
    strategy = plain(benchmark, plugin, model=model, epochs=6)
    for number in (1, 2):
        train(strategy, benchmark, number - 1, number)
    x, _ = samples(benchmark.train_stream[1])
    new = list(benchmark.classes_per_experience[1])
    old = list(benchmark.classes_per_experience[0])
    model.eval()
    answers = model(x)
    lost = answers[:, new].amax(1) < answers[:, old].amax(1)
    assert int(lost.sum()) == round(0.25 * len(x))
    # Copies answer alike; what is trained is not corrected.
    assert torch.equal(copy.deepcopy(model)(x), answers)
    raw = x
    for weight in model.weights[:-1]:
        raw = (raw @ weight.T).relu()
    raw = raw @ model.weights[-1].T
    shift = (raw - answers).detach()
    assert torch.allclose(shift[:, new], shift[:1, new].expand(len(x), -1), atol=1e-5)
    assert float(shift[:, old].abs().max()) < 1e-5
    model.train()
    model.dropout = 0.0
    assert torch.allclose(model(x), raw, atol=1e-6)


def test_offsets_leave_gradients_of_penalties_alone(benchmark):
    """Importances are computed in evaluation mode; with and without offsets they are the same."""
    model, other = linear_model(), linear_model()
    ewc, reference = EWC(1.0), EWC(1.0)
    train(plain(benchmark, BiasCorrection(), ewc, model=model), benchmark)
    train(plain(benchmark, reference, model=other), benchmark)
    assert_same(ewc.state_dict(), reference.state_dict())


def test_bias_correction_needs_one_output_for_each_class(benchmark):
    class Pair(nn.Linear):
        def forward(self, x):
            return (super().forward(x),)

    class First(nn.CrossEntropyLoss):
        def forward(self, output, target):
            return super().forward(output[0], target)

    strategy = plain(benchmark, BiasCorrection(), model=Pair(64, 6), criterion=First())
    with pytest.raises(ConfigurationError, match="one output for each class"):
        train(strategy, benchmark, 0, 2)
