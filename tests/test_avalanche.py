"""EP networks in Avalanche's own strategies: they learn, and what a strategy adds reaches the weights.

Avalanche's SupervisedTemplate strategies are used as they are. Oracles: the loss falls over an experience;
the gradient is the sum of EP's and of autograd's penalty; plugins see and change what they should.
"""

import copy

import pytest
import torch
from avalanche.evaluation.metrics import loss_metrics
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, SupervisedPlugin
from avalanche.training.supervised import (
    AGEM,
    DER,
    ER_ACE,
    EWC,
    GEM,
    MAS,
    Cumulative,
    GDumb,
    ICaRL,
    JointTraining,
    LwF,
    Naive,
    Replay,
    SynapticIntelligence,
)
from torch import nn

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.learning import BPTT, CrossEntropy, EquilibriumPropagation
from continual_ep.metrics import AccuracyMatrix
from continual_ep.networks import (
    MLP,
    MRNN,
    ConvolutionalRNN,
    DendriticRNN,
    FeedbackRegulatedRNN,
)
from continual_ep.plugins import AwakeRehearsal, SleepReplay
from continual_ep.relaxation import TimeSteps
from continual_ep.strategies import BPStrategy, BPTTStrategy, EPStrategy
from continual_ep.streams import class_incremental

RULE = EquilibriumPropagation(0.2, free_steps=30, nudged_steps=5)

STRATEGIES = {
    "Naive": (Naive, {}),
    "Cumulative": (Cumulative, {}),
    "JointTraining": (JointTraining, {}),
    "Replay": (Replay, {"mem_size": 30}),
    "EWC": (EWC, {"ewc_lambda": 1.0}),
    "SynapticIntelligence": (SynapticIntelligence, {"si_lambda": 0.1}),
    "LwF": (LwF, {"alpha": 1.0, "temperature": 2.0}),
    "MAS": (MAS, {"lambda_reg": 0.05}),
    "AGEM": (AGEM, {"patterns_per_exp": 20, "sample_size": 20}),
    "DER": (DER, {"mem_size": 30}),
    "ER_ACE": (ER_ACE, {"mem_size": 30}),
    "GDumb": (GDumb, {"mem_size": 30}),
    "GEM": (GEM, {"patterns_per_exp": 10}),
}


@pytest.fixture(scope="module")
def benchmark():
    return class_incremental("digits", [4, 3, 3], class_order=list(range(10)), per_class=30, seed=0)


def network(readout="softmax", learning=RULE, sizes=(64, 30, 10)):
    return MRNN(sizes, readout=readout, gain=0.6, learning=learning)


class LossTrace(SupervisedPlugin):
    """The loss of every iteration, by experience."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def before_training_exp(self, strategy, **kwargs):
        self.losses.append([])

    def after_training_iteration(self, strategy, **kwargs):
        self.losses[-1].append(float(strategy.loss.detach()))


def make(strategy, model, plugins=(), epochs=4, criterion=None, **options):
    return strategy(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.03),
        criterion=criterion or nn.CrossEntropyLoss(),
        train_mb_size=16,
        train_epochs=epochs,
        eval_mb_size=64,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(loss_metrics(stream=True)),
        **options,
    )


def train(strategy, benchmark, name):
    if name == "JointTraining":
        strategy.train(benchmark.train_stream)
        return
    for experience in benchmark.train_stream:
        strategy.train(experience)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("readout", ["linear", "softmax"])
@pytest.mark.filterwarnings("ignore:cross-entropy makes logits grow")
def test_ep_network_in_every_strategy(name, readout, benchmark):
    kind, options = STRATEGIES[name]
    trace = LossTrace()
    model = network(readout)
    before = [p.detach().clone() for p in model.parameters()]
    strategy = make(kind, model, [trace], **options)
    train(strategy, benchmark, name)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    for losses in trace.losses:
        quarter = max(1, len(losses) // 4)
        if len(losses) > 4:
            assert sum(losses[-quarter:]) < sum(losses[:quarter])
    results = strategy.eval(benchmark.test_stream)
    assert all(torch.isfinite(torch.tensor(v)) for v in results.values())


FAMILY = {
    "dendritic": lambda: DendriticRNN([64, 20, 10], branches=2, bias=False, learning=RULE),
    "dendritic, published": lambda: DendriticRNN(
        [64, 20, 10],
        branches=2,
        bias=False,
        feedback="untied",
        feedback_scale=0.2,
        learning=RULE,
    ),
    "convolutional": lambda: ConvolutionalRNN((8, 8), [6], 10, bias=False, learning=RULE),
    "feedback-regulated": lambda: FeedbackRegulatedRNN(
        [64, 20, 20, 20, 20, 10], feedback_scale=0.1, residuals=True
    ),
    "time steps": lambda: MRNN([64, 20, 10], dt=TimeSteps(mean=0.6), learning=RULE),
}


@pytest.mark.parametrize("name", ["Replay", "EWC", "LwF", "AGEM", "DER", "SynapticIntelligence"])
@pytest.mark.parametrize("member", FAMILY)
def test_the_family_in_strategies(name, member, benchmark):
    """Deep copies, penalties, distillation and projections see ordinary modules."""
    torch.manual_seed(0)
    kind, options = STRATEGIES[name]
    model = FAMILY[member]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sleep = SleepReplay(steps=30, window=3)
    strategy = make(kind, model, [sleep], epochs=2, **options)
    strategy.train(benchmark.train_stream[:2])
    learned = [n for n, p in model.named_parameters() if p.requires_grad]
    assert any(not torch.equal(before[n], model.state_dict()[n]) for n in learned)
    assert sleep.last_night is not None
    results = strategy.eval(benchmark.test_stream)
    assert all(torch.isfinite(torch.tensor(v)) for v in results.values())
    twin = copy.deepcopy(model)
    x = torch.rand(3, 64)
    with torch.no_grad():
        assert torch.equal(twin(x), model(x))
        next(iter(twin.parameters())).add_(0.5)
        assert not torch.equal(twin(x), model(x))


def test_ep_network_as_icarl_s_feature_extractor(benchmark):
    """iCaRL wants features and a classifier of their own: the recurrent network gives the features."""
    features = network("activated", sizes=(64, 40, 20))
    classifier = nn.Linear(20, 10)
    strategy = ICaRL(
        feature_extractor=features,
        classifier=classifier,
        optimizer=torch.optim.SGD([*features.parameters(), *classifier.parameters()], lr=0.1),
        memory_size=30,
        buffer_transform=None,
        fixed_memory=True,
        train_mb_size=16,
        train_epochs=2,
        eval_mb_size=64,
        evaluator=EvaluationPlugin(loss_metrics(stream=True)),
    )
    before = features.weights[0].detach().clone()
    train(strategy, benchmark, "ICaRL")
    assert not torch.equal(before, features.weights[0])
    predicted = strategy.model.eval()(
        torch.stack([x for x, *_ in benchmark.test_stream[0].dataset])
    )
    assert predicted.shape[1] == 10


class GradientTrace(SupervisedPlugin):
    """The gradients that the optimizer is about to use, and EP's own for the same batch."""

    def __init__(self):
        super().__init__()
        self.pairs = []

    def before_update(self, strategy, **kwargs):
        model = strategy.model
        used = [p.grad.clone() for p in model.parameters()]
        loss = strategy._criterion(model(strategy.mb_x), strategy.mb_y)
        own = torch.autograd.grad(loss, list(model.parameters()))
        self.pairs.append((used, own, [p.detach().clone() for p in model.parameters()]))


def test_ewc_gradient_is_ep_s_plus_the_penalty_s(benchmark):
    plugin, trace = EWCPlugin(ewc_lambda=2.0), GradientTrace()
    strategy = make(Naive, network(), [plugin, trace], epochs=1, criterion=CrossEntropy())
    strategy.train(benchmark.train_stream[0])
    trace.pairs.clear()
    strategy.train(benchmark.train_stream[1])
    used, own, weights = trace.pairs[-1]
    importances = plugin.importances[0] if 0 in plugin.importances else plugin.importances[1]
    saved = plugin.saved_params[0] if 0 in plugin.saved_params else plugin.saved_params[1]
    names = [name for name, _ in strategy.model.named_parameters()]
    largest = 0.0
    for name, total, ep, weight in zip(names, used, own, weights, strict=True):
        penalty = 2.0 * 2.0 * importances[name].data * (weight - saved[name].data)
        torch.testing.assert_close(total, ep + penalty, rtol=1e-4, atol=1e-6)
        largest = max(largest, float(penalty.abs().max()))
    assert largest > 0.0


def test_lwf_s_distillation_acts_through_the_force_on_the_output(benchmark):
    """With a strong teacher the second experience moves the old classes' probabilities less."""

    def drift(alpha):
        torch.manual_seed(3)
        model = network()
        strategy = make(LwF, model, epochs=3, alpha=alpha, temperature=2.0)
        strategy.train(benchmark.train_stream[0])
        x = torch.stack([sample for sample, *_ in benchmark.test_stream[0].dataset])
        old = list(benchmark.train_stream[0].classes_in_this_experience)
        before = model(x)[:, old].detach().softmax(1)
        strategy.train(benchmark.train_stream[1])
        return float((model(x)[:, old].detach().softmax(1) - before).norm())

    assert drift(20.0) < 0.9 * drift(0.0)


@pytest.mark.parametrize("kind", [EPStrategy, BPTTStrategy, BPStrategy])
def test_own_strategies_learn_and_keep_their_arguments(kind, benchmark):
    plugins = [LossTrace()]
    strategy = kind(
        sizes=[64, 30, 10],
        learning_rates=[0.1, 0.05],
        momentum=0.5,
        train_mb_size=16,
        train_epochs=3,
        plugins=plugins,
        evaluator=None,
    )
    train(strategy, benchmark, kind.__name__)
    assert len(plugins) == 1
    assert [group["lr"] for group in strategy.optimizer.param_groups] == [0.1, 0.05]
    assert all(group["params"] for group in strategy.optimizer.param_groups)
    for losses in plugins[0].losses:
        assert sum(losses[-4:]) < sum(losses[:4])


def test_own_strategies_take_keywords_only_and_refuse_unknown_ones():
    with pytest.raises(TypeError):
        EPStrategy(sizes=[64, 30, 10], learning_rate=0.1)
    for options, message in (
        ({"optimizer": "rmsprop"}, "sgd, adam"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum"),
        ({"loss": "hinge"}, "squared-error"),
        ({"learning_rates": [0.1]}, "learning rate"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            EPStrategy(sizes=[64, 30, 10], evaluator=None, **options)


def test_strategy_with_default_options_trains_by_published_nudging():
    strategy = EPStrategy(sizes=[4, 3, 2], evaluator=None)
    assert strategy.model.learning.nudging == "auto"
    assert strategy.model.learning.estimator == "centered"


@pytest.mark.parametrize("order", ["sleep first", "replay first"])
def test_sleep_and_replay_compose_in_either_order(order, benchmark):
    def weights(reverse):
        torch.manual_seed(0)
        plugins = [SleepReplay(steps=50, seed=1), AwakeRehearsal(per_class=2, seed=1)]
        if reverse:
            plugins.reverse()
        strategy = EPStrategy(
            sizes=[64, 30, 10], train_mb_size=16, train_epochs=1, plugins=plugins, evaluator=None
        )
        train(strategy, benchmark, "EP")
        assert len(plugins[reverse * -1].state_dict()) > 0
        return torch.cat([p.detach().flatten() for p in strategy.model.parameters()])

    assert torch.equal(weights(False), weights(order == "replay first"))


@pytest.mark.parametrize("model", [lambda: network(learning=BPTT(10)), lambda: MLP([64, 30, 10])])
def test_twins_work_in_the_same_pipeline(model, benchmark):
    trace = LossTrace()
    strategy = make(Naive, model(), [trace, SleepReplay(steps=30)])
    train(strategy, benchmark, "Naive")
    assert all(sum(losses[-4:]) < sum(losses[:4]) for losses in trace.losses)


@pytest.mark.parametrize("plugin", [SleepReplay, AwakeRehearsal, AccuracyMatrix, None])
def test_an_empty_experience_is_named(plugin, benchmark):
    experience = benchmark.train_stream[0]
    full = experience._dataset
    if plugin is None:
        strategy = EPStrategy(sizes=[64, 8, 10], evaluator=None)
    else:
        options = {
            AwakeRehearsal: {"per_class": 1},
            AccuracyMatrix: {"stream": benchmark.test_stream},
        }
        strategy = make(Naive, network(), [plugin(**options.get(plugin, {}))])
    try:
        experience._dataset = full.subset([])
        with pytest.raises(InputError, match="experience 0 has no samples"):
            strategy.train(experience)
    finally:
        experience._dataset = full
