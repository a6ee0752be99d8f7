"""Rules beyond equilibrium propagation: against autograd, hand-written cases and each other."""

import copy

import pytest
import torch
from torch import nn

from continual_ep.errors import ConfigurationError, ContinualEPWarning, DivergenceError
from continual_ep.learning import (
    BPTT,
    Backprop,
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
)
from continual_ep.learning.deep_feedback_control import jacobians
from continual_ep.learning.feedforward import ForwardPass
from continual_ep.learning.predictive_hebbian import predicted
from continual_ep.networks import MLP, MRNN, DendriticRNN


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
    return torch.cat([g.flatten() for g in found if g is not None])


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
    torch.testing.assert_close(state.rates[-1] - forward.rates[-1], aim, rtol=1e-3, atol=1e-9)


def test_jacobians_are_those_of_autograd():
    network = perceptron(DeepFeedbackControl(), readout="activated")
    x, _ = data(batch=3)
    currents, rates = network.sweep(x)
    for layer, jacobian in enumerate(jacobians(ForwardPass(network, x, currents, rates))):
        for sample in range(3):

            def above(v, layer=layer):
                rate = network.rate(layer, v)
                for higher in range(layer + 1, 3):
                    rate = network.rate(higher, network.current(higher, rate))
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
    state = rule._controlled(forward, target - forward.rates[-1])
    torch.testing.assert_close(state.rates[-1], target, rtol=0, atol=1e-6)
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
    rule = DeepFeedbackControl(target="label", leak=1e-4, control_steps=4)
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
    network.learning = EquilibriumPropagation(0.3, free_steps=100, nudged_steps=100)
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
        0.1, estimator="one-sided", free_steps=100, nudged_steps=15
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
    with pytest.raises(ConfigurationError, match="larger batches"):
        gradients(network, x[:1], y[:1])


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
        (lambda: settled(StochasticEP(averaged_steps=2), activation="tanh"), "rates in"),
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
