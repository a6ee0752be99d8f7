"""Rules beyond equilibrium propagation: against autograd, hand-written cases and each other."""

import copy

import pytest
import torch
from avalanche.training.templates import SupervisedTemplate
from other_learners.directed import DirectedNetwork
from other_learners.sequence import SequenceRNN
from torch import nn

from continual_ep.errors import (
    ConfigurationError,
    ContinualEPWarning,
    DivergenceError,
    InputError,
)
from continual_ep.gradient_check import check_gradients
from continual_ep.learning import (
    BPTT,
    Backprop,
    BinaryFlips,
    ContinualEP,
    ContrastiveHebbian,
    CoupledLearning,
    CrossEntropy,
    DeepFeedbackControl,
    DendriticLocalizedLearning,
    DirectCostFeedback,
    EquilibriumGradient,
    EquilibriumPropagation,
    HolomorphicEP,
    NeuromodulatedEquilibriumLearning,
    PredictiveHebbian,
    SquaredError,
    StochasticEP,
    WeightPerturbation,
    binarize,
)
from continual_ep.learning.deep_feedback_control import jacobians
from continual_ep.learning.feedforward import ForwardPass
from continual_ep.learning.predictive_hebbian import predicted
from continual_ep.networks import CNN, MLP, MRNN, DendriticRNN
from continual_ep.plugins import Grapes, SleepReplay
from continual_ep.plugins.grapes import importance, modulate
from continual_ep.sleep import SleepParameters, sleep_replay
from continual_ep.strategies import silent_evaluator
from continual_ep.streams import class_incremental


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def data(batch=6, inputs=12, classes=4, seed=1):
    g = generator(seed)
    x = torch.rand(batch, inputs, generator=g, dtype=torch.float64)
    return x, torch.randint(classes, (batch,), generator=g)


def gradients(network, x, y, criterion=None):
    network.zero_grad()
    (criterion or SquaredError())(network(x), y).backward()
    return [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def flat(found):
    return torch.cat([g.detach().flatten() for g in found if g is not None])


def cosine(a, b):
    return float(flat(a) @ flat(b) / (flat(a).norm() * flat(b).norm()))


def perceptron(rule, **options):
    options = {"activation": "tanh", "bias": True, **options}
    return MLP([12, 9, 7, 4], learning=rule, generator=generator(), **options).double()


# ---- dendritic localized learning ----------------------------------------------------------------


def test_errors_come_back_along_the_backward_weights():
    """A hand-computed case: one sample, two layers of two and one units, identity at the top."""
    network = MLP(
        [2, 2, 1], activation="tanh", learning=DendriticLocalizedLearning("paper")
    ).double()
    w1, w2 = [[0.5, -0.25], [1.0, 0.5]], [[2.0, -1.0]]
    theta = [[0.3, 0.4]]
    with torch.no_grad():
        network.weights[0].copy_(torch.tensor(w1))
        network.weights[1].copy_(torch.tensor(w2))
        network.backward_weights[0].copy_(torch.tensor(theta))
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    u = torch.tanh(torch.tensor([0.0, 2.0], dtype=torch.float64))
    output = 2.0 * u[0] - u[1]
    target = torch.tensor([[0.5]], dtype=torch.float64)
    SquaredError()(network(x), target).backward()
    xi_top = 0.5 - output  # minus the derivative of the loss
    xi = xi_top * torch.tensor(theta[0], dtype=torch.float64)
    g = xi * (1 - u**2)
    torch.testing.assert_close(network.weights[1].grad, -(xi_top * u).view(1, 2))
    torch.testing.assert_close(network.weights[0].grad, -torch.outer(g, x[0]))
    torch.testing.assert_close(network.backward_weights[0].grad, (xi_top * xi).view(1, 2))


@pytest.mark.parametrize("kind", ["fixed", "paper", "opposite", "kolen-pollack"])
def test_with_the_forward_weights_it_is_backpropagation(kind):
    rate = 1.0 if kind == "kolen-pollack" else 0.1
    rule = DendriticLocalizedLearning(kind, backward_rate=rate)
    network, twin = perceptron(rule), perceptron(Backprop())
    with torch.no_grad():
        for back, weight in zip(network.backward_weights, network.weights[1:], strict=True):
            back.copy_(weight)
    x, y = data()
    found, exact = gradients(network, x, y), gradients(twin, x, y)
    torch.testing.assert_close(found[: len(exact)], exact)
    back = found[len(exact) :]
    assert all((g is None) == (kind == "fixed") for g in back)
    if kind == "kolen-pollack":
        torch.testing.assert_close(back, exact[1:3])


def test_backward_weights_shrink_the_error_as_the_paper_says():
    """The paper's rule is the gradient of half the squared error that comes back."""
    network = perceptron(DendriticLocalizedLearning("paper"))
    x, y = data(batch=1)
    found = gradients(network, x, y)[6:]
    top = network.backward_weights[1].detach().clone().requires_grad_()
    error = (network(x) - nn.functional.one_hot(y, 4)).detach()
    (0.5 * (error @ top).square().sum()).backward()
    torch.testing.assert_close(found[1], top.grad)
    opposite = perceptron(DendriticLocalizedLearning("opposite"))
    torch.testing.assert_close(gradients(opposite, x, y)[7], -top.grad)


def test_kolen_pollack_aligns_and_fixed_weights_do_not_move():
    def trained(kind, decay=0.0):
        rate = 1.0 if kind == "kolen-pollack" else 0.1
        network = perceptron(DendriticLocalizedLearning(kind, decay, rate))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
        x, y = data(batch=40)
        before = copy.deepcopy(network.backward_weights.state_dict())
        for _ in range(600):
            optimizer.zero_grad()
            SquaredError()(network(x), y).backward()
            optimizer.step()
        return network, before

    network, _ = trained("kolen-pollack", 0.04)
    for back, weight in zip(network.backward_weights, network.weights[1:], strict=True):
        assert cosine([back.detach()], [weight.detach()]) > 0.99
    network, before = trained("fixed")
    assert torch.equal(network.backward_weights[0], before["0"])


# ---- deep feedback control -----------------------------------------------------------------------


def test_the_controller_solves_the_linearised_network():
    r"""With Q = J^T and no leak, the pushes move the output by the whole error, to first order."""
    network = perceptron(DeepFeedbackControl(leak=0.0))
    x, _ = data(batch=1)
    forward = ForwardPass(network, x, *network.sweep(x))
    slopes = jacobians(forward)
    with torch.no_grad():
        for q, jacobian in zip(network.backward_weights, slopes, strict=True):
            q.copy_(jacobian[0].t())
    aim = 1e-5 * torch.rand(1, 4, dtype=torch.float64)
    state = network.learning._controlled(forward, aim)
    torch.testing.assert_close(
        state.activations[-1] - forward.activations[-1], aim, rtol=1e-3, atol=1e-9
    )


def test_jacobians_are_those_of_autograd():
    network = perceptron(DeepFeedbackControl(), readout="activated")
    x, _ = data(batch=3)
    currents, rates = network.sweep(x)
    for layer, jacobian in enumerate(jacobians(ForwardPass(network, x, currents, rates))):
        for sample in range(3):

            def above(v, layer=layer):
                rate = network.activate(layer, v)
                for higher in range(layer + 1, 3):
                    rate = network.activate(higher, network.current(higher, rate))
                return rate

            exact = torch.autograd.functional.jacobian(above, currents[layer][sample])
            torch.testing.assert_close(jacobian[sample], exact)


@pytest.mark.parametrize("options", [{}, {"leak": 1.0}, {"normalized": True}, {"leak": 100.0}])
def test_control_learns_downhill(options):
    network, twin = perceptron(DeepFeedbackControl(0.01, **options)), perceptron(Backprop())
    x, y = data(batch=20)
    found = gradients(network, x, y)[:6]
    assert cosine(found, gradients(twin, x, y)) > 0.3
    if options == {"leak": 100.0}:  # all of the error is left: feedback of the error through Q
        assert cosine(found[:3], gradients(twin, x, y)[:3]) > 0.9


def test_strong_feedback_reaches_the_label():
    rule = DeepFeedbackControl(target="label", leak=0.0, control_steps=8)
    network = perceptron(rule)
    x, y = data(batch=5)
    forward = ForwardPass(network, x, *network.sweep(x))
    target = nn.functional.one_hot(y, 4).double()
    state = rule._controlled(forward, target - forward.activations[-1])
    torch.testing.assert_close(state.activations[-1], target, rtol=0, atol=1e-6)
    assert cosine(gradients(network, x, y)[:6], gradients(perceptron(Backprop()), x, y)) > 0.2


def test_feedback_learns_to_follow_the_jacobian():
    rule = DeepFeedbackControl(leak=1.0, feedback_learning=True, feedback_decay=0.05)
    network = perceptron(rule)
    with torch.no_grad():
        for q in network.backward_weights[:-1]:
            q.normal_(generator=generator()).mul_(0.3)
    x, y = data(batch=50)
    forward = ForwardPass(network, x, *network.sweep(x))

    def alignment():
        mean = [jacobian.mean(0).t() for jacobian in jacobians(forward)]
        return cosine(list(network.backward_weights.parameters())[:-1], mean[:-1])

    before = alignment()
    optimizer = torch.optim.SGD(network.backward_weights.parameters(), lr=0.02)
    for _ in range(400):
        gradients(network, x, y)
        optimizer.step()
    assert alignment() > max(0.7, before + 0.3)


def test_a_controller_that_does_not_settle_says_so():
    rule = DeepFeedbackControl(target="label", leak=1e-4, control_steps=2)
    network = perceptron(rule, readout="activated")
    x, _ = data()
    with pytest.raises((ContinualEPWarning, DivergenceError), match="controller did not settle"):
        gradients(network, x, torch.full((6, 4), 3.0).double())  # tanh never gets there
    network = perceptron(DeepFeedbackControl(leak=0.0))
    with torch.no_grad():
        for q in network.backward_weights:
            q.zero_()
    with pytest.raises(DivergenceError, match="reaches no output"):
        gradients(network, *data())


# ---- weight perturbation -------------------------------------------------------------------------


def test_shaken_weights_find_the_gradient_on_average():
    network, twin = perceptron(WeightPerturbation(1e-4, draws=3000)), perceptron(Backprop())
    before = copy.deepcopy(network.state_dict())
    x, y = data()
    assert cosine(gradients(network, x, y), gradients(twin, x, y)) > 0.9
    assert all(torch.equal(p, before[name]) for name, p in network.state_dict().items())


# ---- estimators ----------------------------------------------------------------------------------


def settled(rule, activation="tanh", readout="linear", **options):
    return MRNN(
        [12, 8, 6, 4],
        activation=activation,
        readout=readout,
        learning=rule,
        gain=0.6,
        generator=generator(),
        **options,
    ).double()


def exact_gradients(network, x, y, criterion=None):
    exact = copy.deepcopy(network)
    exact.learning = EquilibriumGradient(2000, 2000, 1e-14)
    return gradients(exact, x, y, criterion)


@pytest.mark.parametrize("readout", ["linear", "softmax"])
@pytest.mark.parametrize("points", [2, 3, 4, 6])
def test_the_holomorphic_error_falls_as_a_power_of_beta(points, readout):
    criterion = CrossEntropy() if readout == "softmax" else SquaredError()
    errors = []
    x, y = data()
    for beta in (0.5, 0.25):
        rule = HolomorphicEP(beta, points, free_steps=300, nudged_steps=300)
        network = settled(rule, readout=readout, bias=True)
        found, exact = (
            gradients(network, x, y, criterion),
            exact_gradients(network, x, y, criterion),
        )
        errors.append(float((flat(found) - flat(exact)).norm() / flat(exact).norm()))
    slope = torch.log2(torch.tensor(errors[0] / errors[1])).item()
    assert abs(slope - points) < 0.3


def test_two_holomorphic_points_are_the_centred_estimator():
    x, y = data()
    x.requires_grad_()
    network = settled(HolomorphicEP(0.3, 2, free_steps=100, nudged_steps=100))
    found, into = gradients(network, x, y), x.grad.clone()
    x.grad = None
    network.learning = EquilibriumPropagation(
        0.3, nudging="force", free_steps=100, nudged_steps=100
    )
    torch.testing.assert_close(found, gradients(network, x, y), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(into, x.grad, rtol=1e-8, atol=1e-12)


def test_holomorphic_needs_holomorphic_functions():
    with pytest.raises(ConfigurationError, match="hard-sigmoid is not holomorphic"):
        settled(HolomorphicEP(), activation="hard-sigmoid")
    network = settled(EquilibriumPropagation(), activation="clipped-relu")
    with pytest.raises(ConfigurationError, match="clipped-relu is not holomorphic"):
        network.learning = HolomorphicEP()
    with pytest.raises(ConfigurationError, match="for an MRNN"):
        DendriticRNN([12, 8, 4], learning=HolomorphicEP())(data()[0].float())


def test_continual_changes_add_up_to_the_one_sided_estimate():
    x, y = data()
    network = settled(ContinualEP(0.1, rate=0.0, free_steps=100, nudged_steps=15))
    found = gradients(network, x, y)
    network.learning = EquilibriumPropagation(
        0.1, estimator="one-sided", nudging="force", free_steps=100, nudged_steps=15
    )
    torch.testing.assert_close(found, gradients(network, x, y), rtol=1e-8, atol=1e-12)
    before = copy.deepcopy(network.state_dict())
    network.learning = ContinualEP(0.1, rate=0.001, free_steps=100, nudged_steps=15)
    moving = gradients(network, x, y)
    assert 0 < (flat(moving) - flat(found)).norm() < 0.2 * flat(found).norm()
    assert all(torch.equal(p, before[name]) for name, p in network.state_dict().items())


def test_coupled_learning_between_hebbian_and_exact():
    x, y = data()
    network = settled(CoupledLearning(200, 200, amplitude=1.0), readout="activated")
    whole = gradients(network, x, y)
    network.learning = ContrastiveHebbian(200, 200)
    torch.testing.assert_close(whole, gradients(network, x, y))
    cosines = []
    for amplitude in (1.0, 0.01):
        network.learning = CoupledLearning(200, 200, amplitude=amplitude)
        network = copy.deepcopy(network)
        network.feedback_scales = [0.05, 0.05]
        cosines.append(cosine(gradients(network, x, y), exact_gradients(network, x, y)))
    assert cosines[1] > cosines[0]


def test_neurons_predict_their_free_state():
    g = generator()
    start = torch.rand(30, 5, generator=g, dtype=torch.float64)
    seen = [start * (1 - 0.8**k) for k in range(1, 5)]  # on the way to `start`
    torch.testing.assert_close(predicted(seen, start, 20), start[20:], rtol=1e-3, atol=1e-3)


def test_predicted_free_states_learn_as_free_states_do():
    x, y = data(batch=60)
    rule = PredictiveHebbian(120, 120, seen_steps=20, fitted=0.5)
    options = {"activation": "shifted-sigmoid", "readout": "activated", "dt": 0.2}
    network = settled(rule, order="synchronous", **options)
    found = gradients(network, x, y)
    network.learning = ContrastiveHebbian(120, 120, update="clamped-presynaptic", corrected=False)
    assert cosine(found, gradients(network, x[30:], y[30:])) > 0.99
    network.learning = rule
    with pytest.warns(ContinualEPWarning, match="batch of one"):
        assert not flat(gradients(network, x[:1], y[:1])).any()
    assert flat(gradients(network, x[:2], y[:2])).any()


def test_direct_cost_feedback_by_hand():
    network = settled(DirectCostFeedback(200), activation="hard-sigmoid", readout="activated")
    x, y = data()
    states = network.settle(x).states
    found = gradients(network, x, y)
    m = (nn.functional.one_hot(y, 4) - states[-1]) / len(x)
    for layer in (2, 1, 0):
        below = x if layer == 0 else states[layer - 1]
        torch.testing.assert_close(found[layer], -(m * states[layer]).t() @ below)
        m = m @ network.weights[layer]


def test_neuromodulation_learns_of_the_chosen_class_only():
    rule = NeuromodulatedEquilibriumLearning(200, exploration=0.0)
    network = settled(rule, activation="hard-sigmoid", readout="activated")
    x, y = data(batch=1)
    output = network.settle(x).states[-1]
    chosen = int(output.argmax())
    found = gradients(network, x, y)[2]
    assert all(bool((found[c] == 0).all()) for c in range(4) if c != chosen)
    reward = float(chosen == int(y))
    below = network.settle(x).states[1]
    factor = (reward - output[0, chosen]) * output[0, chosen]
    torch.testing.assert_close(found[chosen], -factor * below[0])
    with pytest.raises(ConfigurationError, match="neuromodulated equilibrium learning"):
        nn.functional.mse_loss(network(x), torch.zeros(1, 4).double()).backward()


def test_many_spikes_are_a_rate():
    x, y = data()
    rule = StochasticEP(0.3, free_steps=3100, nudged_steps=3100, averaged_steps=3000)
    network = settled(rule, activation="shifted-sigmoid", readout="activated", dt=0.3)
    mean = EquilibriumPropagation(0.3, free_steps=300, nudged_steps=300)
    found = gradients(network, x, y)
    network.learning = mean
    assert cosine(found, gradients(network, x, y)) > 0.99


def test_read_noise_is_averaged_away():
    x, y = data()
    network = settled(EquilibriumPropagation(0.1, free_steps=60, nudged_steps=30))
    exact = gradients(network, x, y)
    errors = []
    for reads in (1, 10_000):
        network.learning = EquilibriumPropagation(
            0.1, free_steps=60, nudged_steps=30, read_noise=0.01, reads=reads
        )
        errors.append(float((flat(gradients(network, x, y)) - flat(exact)).norm()))
    assert errors[1] < errors[0] / 30


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DendriticLocalizedLearning("none"), "backward_learning"),
        (lambda: DendriticLocalizedLearning("fixed", 0.1), "decay"),
        (lambda: DeepFeedbackControl(0.0), "nudge"),
        (lambda: DeepFeedbackControl(leak=-1.0), "leak"),
        (lambda: DeepFeedbackControl(target="class"), "target"),
        (lambda: WeightPerturbation(0.0), "scale"),
        (lambda: HolomorphicEP(points=1), "points"),
        (lambda: ContinualEP(rate=-1.0), "rate"),
        (lambda: CoupledLearning(amplitude=0.0), "amplitude"),
        (lambda: PredictiveHebbian(10, seen_steps=10), "seen_steps"),
        (lambda: NeuromodulatedEquilibriumLearning(exploration=2.0), "exploration"),
        (lambda: StochasticEP(averaged_steps=6, nudged_steps=6), "averaged_steps"),
        (lambda: EquilibriumPropagation(read_noise=-1.0), "read_noise"),
        (lambda: settled(StochasticEP(averaged_steps=2), activation="tanh"), "activations in"),
        (lambda: MLP([4, 2], learning=BPTT()), "cannot learn by BPTT"),
        (lambda: perceptron(DeepFeedbackControl(), dropout=0.2), "dropout"),
        (lambda: MRNN([4, 3, 2], learning=DeepFeedbackControl()), "cannot learn"),
    ],
)
def test_impossible_rules_are_refused(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()


@pytest.mark.parametrize(
    "rule", [DendriticLocalizedLearning(), DeepFeedbackControl(), WeightPerturbation()]
)
def test_feedforward_rules_reach_an_encoder_and_survive_copies(rule):
    network = perceptron(rule)
    x, y = data()
    x.requires_grad_()
    found = gradients(network, x, y)
    assert all(g is None or bool(g.isfinite().all()) for g in found)
    if not isinstance(rule, WeightPerturbation):
        assert x.grad.norm() > 0
    twin = copy.deepcopy(network)
    twin.load_state_dict(network.state_dict())
    torch.testing.assert_close(twin(x), network(x))
    rates = [0.1, 0.2, 0.3]
    owned = [p for group in network.parameter_groups(rates) for p in group["params"]]
    assert {id(p) for p in owned} == {id(p) for p in network.parameters()}


# ---- convolutions and sequences ------------------------------------------------------------------


def cnn(rule, **options):
    options = {"hidden": [7], "pool": ["max", "average"], "activation": "tanh", **options}
    return CNN((2, 12, 12), [4, 3], 5, learning=rule, generator=generator(), **options).double()


def test_local_convolutions_with_the_forward_kernels_are_backpropagation():
    network, twin = cnn(DendriticLocalizedLearning("paper"), padding=1), cnn(Backprop(), padding=1)
    with torch.no_grad():
        for back, weight in zip(network.backward_weights, network.weights[1:], strict=True):
            back.copy_(weight)
    x, y = torch.rand(3, 2, 12, 12).double(), torch.tensor([0, 3, 4])
    found = gradients(network, x, y, CrossEntropy())
    exact = gradients(twin, x, y, CrossEntropy())
    torch.testing.assert_close(found[: len(exact)], exact)
    assert all(bool(g.norm() > 0) for g in found)


def test_backward_kernels_shrink_the_error_as_the_paper_says():
    network = cnn(DendriticLocalizedLearning("paper"), pool="none", hidden=[])
    x, y = torch.rand(1, 2, 12, 12).double(), torch.tensor([2])
    found = gradients(network, x, y, CrossEntropy())[-2]
    states = network.activities(x)
    kernel = network.backward_weights[0].detach().clone().requires_grad_()
    top = torch.softmax(states[-1], 1) - nn.functional.one_hot(y, 5)
    error = (top @ network.backward_weights[1]).view(states[1].shape) * (1 - states[1] ** 2)
    sent = nn.functional.conv_transpose2d(error.detach(), kernel)
    (0.5 * sent.square().sum()).backward()
    torch.testing.assert_close(found, kernel.grad)


def test_errors_go_back_in_time_along_the_backward_weights():
    network = SequenceRNN(
        3, 5, 2, learning=DendriticLocalizedLearning("paper"), generator=generator()
    )
    twin = SequenceRNN(3, 5, 2, generator=generator())
    x, y = torch.rand(4, 6, 3), torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        for back, weight in zip(network.backward_weights, network.weights[1:], strict=True):
            back.copy_(weight)
    found = gradients(network, x, y, CrossEntropy())
    torch.testing.assert_close(found[:5], gradients(twin, x, y, CrossEntropy()))
    with pytest.raises(ConfigurationError, match="does not sleep"):
        network.synapses()
    with pytest.raises(InputError, match="steps, 3"):
        network(torch.rand(4, 3))


def test_a_sequence_is_learnt_with_local_errors():
    """Which of two marked steps came first: it has to be remembered over eight steps."""
    g = generator(3)
    x = torch.zeros(200, 8, 2)
    places = torch.stack([torch.randperm(8, generator=g)[:2] for _ in range(200)])
    for kind in range(2):
        x[torch.arange(200), places[:, kind], kind] = 1.0
    y = (places[:, 0] < places[:, 1]).long()
    network = SequenceRNN(
        2, 24, 2, learning=DendriticLocalizedLearning("fixed"), generator=generator()
    )
    optimizer = torch.optim.Adam(network.parameter_groups([3e-3, 3e-3]))
    for _ in range(150):
        optimizer.zero_grad()
        CrossEntropy()(network(x), y).backward()
        optimizer.step()
    assert (network(x).argmax(1) == y).float().mean() > 0.95


def test_convolutions_sleep():
    network = cnn(DendriticLocalizedLearning(), padding=1).float()
    before = copy.deepcopy(network.state_dict())
    diary = sleep_replay(network, torch.rand(2, 12, 12), SleepParameters(steps=60, window=None))
    assert len(diary.spikes) == 4
    assert any(not torch.equal(p, before[name]) for name, p in network.state_dict().items())
    assert torch.equal(network.backward_weights[0], before["backward_weights.0"])


# ---- binary synapses, GRAPES ---------------------------------------------------------------------


def test_a_weight_flips_when_its_gradient_insists():
    weight = nn.Parameter(torch.tensor([[0.5, -0.5], [0.5, -0.5]]))
    bias = nn.Parameter(torch.zeros(2))
    optimizer = BinaryFlips([weight, bias], lr=0.1, adaptivity=0.5, threshold=0.6)
    for expected in ([[0.5, -0.5], [0.5, -0.5]], [[-0.5, 0.5], [0.5, -0.5]]):
        weight.grad = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])  # the means go 0.5, 0.75
        bias.grad = torch.ones(2)
        optimizer.step()
        assert weight.tolist() == expected
    torch.testing.assert_close(bias.detach(), torch.full((2,), -0.2))
    assert optimizer.flipped == 0.5


def test_binary_weights_stay_binary_and_learn():
    network = MRNN(
        [64, 60, 10],
        readout="activated",
        bias=True,
        learning=EquilibriumPropagation(0.3, free_steps=15, nudged_steps=6),
        generator=generator(),
    )
    binarize(network.weights)
    sizes = [weight.abs().max().item() for weight in network.weights]
    train, test = (s[0].dataset for s in class_incremental("digits", 1).streams.values())
    x, y = (torch.stack([a for a, *_ in train]), torch.tensor(list(train.targets)))
    test_x, test_y = (torch.stack([a for a, *_ in test]), torch.tensor(list(test.targets)))
    optimizer = BinaryFlips(network.parameters(), lr=0.02, adaptivity=0.01, threshold=2e-4)
    for batch in torch.randperm(len(x), generator=generator()).repeat(8).split(32):
        optimizer.zero_grad()
        SquaredError()(network(x[batch]), y[batch]).backward()
        optimizer.step()
    for weight, size in zip(network.weights, sizes, strict=True):
        torch.testing.assert_close(weight.abs(), torch.full_like(weight, size))
    assert (network(test_x).argmax(1) == test_y).float().mean() > 0.7


def test_thresholds_that_flip_everything_or_nothing_are_told():
    weight = nn.Parameter(torch.full((2, 3), 0.1))
    optimizer = BinaryFlips([weight], adaptivity=1.0, threshold=1e-9)
    weight.grad = torch.ones(2, 3)
    with pytest.warns(ContinualEPWarning, match="flips nearly everything"):
        optimizer.step()
    optimizer = BinaryFlips([weight], adaptivity=1.0, threshold=1e9)
    with pytest.warns(ContinualEPWarning, match="flips nothing"):
        for _ in range(600):
            optimizer.step()
    with pytest.raises(ConfigurationError, match="two values"):
        BinaryFlips([nn.Parameter(torch.tensor([[1.0, 2.0]]))])
    for options in ({"threshold": 0.0}, {"adaptivity": 0.0}, {"lr": -1.0}):
        with pytest.raises(ConfigurationError):
            BinaryFlips([weight], **options)


def test_important_units_learn_more():
    weight = torch.tensor([[1.0, -1.0], [0.5, 0.0], [0.0, 0.0]])
    assert importance(weight).tolist() == [2.0, 0.5, 0.0]
    network = MLP([2, 3, 2], bias=True, generator=generator())
    with torch.no_grad():
        network.weights[0].copy_(weight)
    x, y = torch.rand(5, 2), torch.tensor([0, 1, 1, 0, 1])
    plain = gradients(network, x, y)
    gradients(network, x, y)
    modulate(network)
    factor = torch.tensor([2.0, 0.5, 0.0])
    torch.testing.assert_close(network.weights[0].grad, factor[:, None] * plain[0])
    torch.testing.assert_close(network.biases[0].grad, factor * plain[2])
    with pytest.raises(ConfigurationError, match="has none"):
        modulate(nn.ReLU())


# ---- directed graphs -----------------------------------------------------------------------------


def test_a_step_of_a_directed_network_by_hand():
    network = DirectedNetwork(1, 0, 1, dt=0.5, leak=0.1, free_steps=1, teaching_steps=1, beta=2.0)
    with torch.no_grad():
        network.weight.zero_()
        network.weight[0, 2], network.weight[1, 2] = 0.4, 0.2
    output = network(torch.tensor([[0.5]]))
    # One step from zero: 0.5 * (0.4 * 0.5 + 0.2 * 1).
    torch.testing.assert_close(output.detach(), torch.tensor([[0.2]]))
    SquaredError()(output, torch.tensor([[1.0]])).backward()
    # Teaching: 0.2 + 0.5 * (0.4 - 0.2 * 0.1 + 2 * (1 - 0.2)) = 1.19, clipped to 1; it moved by 0.8.
    expected = torch.zeros(3, 3)
    expected[0, 2], expected[1, 2] = -0.5 * 0.8, -1.0 * 0.8
    torch.testing.assert_close(network.weight.grad, expected)


def test_symmetric_weights_descend_an_energy():
    network = DirectedNetwork(2, 3, 1, dt=0.02, free_steps=1, generator=generator()).double()
    with torch.no_grad():
        free = network.weight[3:, 3:].abs()
        network.weight[3:, 3:] = free + free.t()
        network.weight[:3].zero_()
    x, states, energies = torch.rand(1, 2).double(), [], []
    state = torch.rand(1, 7).double()
    network.settle(x, state, observe=lambda a, b: states.extend([a, b]))
    for s in states:
        difference = s[0, 3:, None] - s[0, None, 3:]
        energies.append(0.25 * float((network.weight.detach()[3:, 3:] * difference**2).sum()))
    assert energies[1] < energies[0]


@pytest.mark.parametrize("operation", ["and", "or"])
@pytest.mark.parametrize("seed", [0, 1])
def test_directed_networks_learn_logic(operation, seed):
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    both = x[:, :1] * x[:, 1:]
    y = both if operation == "and" else x[:, :1] + x[:, 1:] - both
    network = DirectedNetwork(
        2, 5, 1, free_steps=150, teaching_steps=150, generator=generator(seed)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=100.0)
    for _ in range(80):
        optimizer.zero_grad()
        SquaredError()(network(x), y).backward()
        optimizer.step()
    assert torch.equal((network(x) > 0.5).float(), y)


def test_the_monitor_tells_whether_the_theory_holds():
    network = DirectedNetwork(1, 1, 1, leak=0.0)
    with torch.no_grad():
        network.weight.zero_()
        network.weight[2, 3] = 0.5  # hidden 2 sends 0.5, the output 3 sends nothing back
    found = network.stability()
    torch.testing.assert_close(found.centres, torch.tensor([-0.5, 0.0]))
    torch.testing.assert_close(found.radii, torch.tensor([0.0, 0.5]))
    assert found.failing == (3,) and not found.holds
    network.leak = 0.6
    assert network.stability().holds


def test_pruning_takes_weak_edges_only():
    network = DirectedNetwork(2, 5, 1, spread=0.02, generator=generator())
    before = network.weight.detach().clone()
    gone = sum(network.prune(generator=generator(s)) for s in range(30))
    changed = network.weight != before
    assert gone == int(changed.sum()) > 0
    assert bool((before[changed].abs() <= 0.01).all())
    assert 0 < network.sparsity < 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DirectedNetwork(2, 2, 1, edges=torch.ones(6, 6)), "self-loops"),
        (lambda: DirectedNetwork(1, 0, 1, edges=torch.eye(3).roll(-1, 1)), "onto inputs"),
        (lambda: DirectedNetwork(1, 1, 1, edges=torch.zeros(4, 4)), "no path"),
        (lambda: DirectedNetwork(1, 1, 1, edges="some"), "unknown"),
        (lambda: DirectedNetwork(1, 1, 1, edges=torch.zeros(2, 2)), "shape"),
        (lambda: DirectedNetwork(1, 1, 1, dt=2.0), "dt"),
        (lambda: DirectedNetwork(0, 1, 1), "inputs"),
        (lambda: DirectedNetwork(2, 2, 1).synapses(), "does not sleep"),
        (lambda: CNN((1, 4, 4), [2, 2, 2], 3), "leaves nothing"),
        (lambda: CNN((1, 8, 8), [2], 3, learning=DeepFeedbackControl()), "each layer alone"),
        (lambda: SequenceRNN(2, 3, 2, learning=WeightPerturbation()), "each layer alone"),
    ],
)
def test_impossible_networks_are_refused(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()


# ---- with Avalanche ------------------------------------------------------------------------------


LEARNERS = {
    "dendritic-localized": lambda: MLP([64, 20, 10], learning=DendriticLocalizedLearning()),
    "deep-feedback-control": lambda: MLP([64, 20, 10], learning=DeepFeedbackControl(leak=1.0)),
    "weight-perturbation": lambda: MLP([64, 20, 10], learning=WeightPerturbation()),
    "cnn": lambda: CNN((8, 8), [4], 10, bias=False, learning=DendriticLocalizedLearning()),
    **{
        name: lambda rule=rule, activation=activation: MRNN(
            [64, 20, 10], readout="activated", activation=activation, learning=rule, gain=0.5
        )
        for name, rule, activation in (
            ("holomorphic", HolomorphicEP(0.5, 4, 15, 6), "shifted-sigmoid"),
            ("continual", ContinualEP(0.1, 1e-4, 15, 6), "hard-sigmoid"),
            ("coupled", CoupledLearning(15, 6), "hard-sigmoid"),
            ("predictive-hebbian", PredictiveHebbian(20, 20), "shifted-sigmoid"),
            ("direct-cost-feedback", DirectCostFeedback(15), "shifted-sigmoid"),
            ("neuromodulated", NeuromodulatedEquilibriumLearning(15), "shifted-sigmoid"),
            ("stochastic", StochasticEP(0.3, free_steps=15, nudged_steps=10), "hard-sigmoid"),
        )
    },
}


def test_local_rules_are_checked_against_backpropagation():
    network = perceptron(DendriticLocalizedLearning())
    x, y = data()
    report = check_gradients(network, x, y, SquaredError())
    rows = {row.name: row for row in report.rows}
    assert set(rows) == {f"{kind}.{n}" for kind in ("weights", "biases") for n in range(3)}
    assert rows["weights.2"].relative_error < 1e-12  # the output's error is the loss's own
    assert rows["weights.0"].cosine < 0.99
    assert isinstance(network.learning, DendriticLocalizedLearning)
    with pytest.raises(ConfigurationError, match="nothing to check"):
        check_gradients(perceptron(Backprop()), x, y, SquaredError())


@pytest.mark.parametrize("name", LEARNERS)
def test_the_other_learners_sleep_in_avalanche(name):
    torch.manual_seed(0)
    stream = class_incremental("digits", 5, per_class=20)
    model = LEARNERS[name]()
    sleep = SleepReplay(steps=100)
    strategy = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameter_groups([0.05] * len(model.synapses())), lr=0.05),
        criterion=SquaredError(),
        train_mb_size=10,
        train_epochs=3,
        plugins=[sleep, Grapes()],
        evaluator=silent_evaluator(),
    )
    before = copy.deepcopy(model.state_dict())
    for experience in list(stream.train_stream)[:2]:
        strategy.train(experience)
    dense = [layer for layer in model.synapses() if layer.kernel is None]
    assert len(sleep.last_night.spikes) == len(dense)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert not torch.equal(model.weights[0], before["weights.0"])


@pytest.mark.parametrize("kind", ["directed", "sequence"])
def test_networks_that_do_not_sleep_learn_in_avalanche(kind):
    torch.manual_seed(0)
    stream = class_incremental("digits", 5, per_class=10, flatten=kind == "directed")
    model = {
        "directed": lambda: DirectedNetwork(
            64, 3, 10, free_steps=40, teaching_steps=40, dt=0.1, leak=1.0, generator=generator()
        ),
        "sequence": lambda: SequenceRNN(
            8, 12, 10, learning=DendriticLocalizedLearning(), generator=generator()
        ),
    }[kind]()
    experience = stream.train_stream[0]
    x = torch.stack([sample for sample, *_ in experience.dataset])
    y = torch.tensor(list(experience.dataset.targets))
    before = SquaredError()(model(x), y).item()
    rate = {"directed": 0.5, "sequence": 0.1}[kind]
    strategy = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=rate),
        criterion=SquaredError(),
        train_mb_size=10,
        train_epochs=5,
        evaluator=silent_evaluator(),
    )
    strategy.train(experience)
    assert SquaredError()(model(x), y).item() < 0.6 * before
    strategy = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=rate),
        criterion=SquaredError(),
        plugins=[SleepReplay(steps=10)],
        evaluator=silent_evaluator(),
    )
    with pytest.raises(ConfigurationError, match="does not sleep"):
        strategy.train(stream.train_stream[1])
