"""What every network and every learning rule has in common, for all that are registered."""

import copy

import pytest
import torch
from registry import (
    ALL_NETWORKS,
    ALL_PAIRS,
    ALL_RULES,
    CLASSES,
    example_batch,
    example_network,
    gradients,
)

from continual_ep.learning import LEARNING_RULES, SquaredError
from continual_ep.networks import NETWORKS, RecurrentModule
from continual_ep.streams import class_incremental

RECURRENT = [kind for kind in ALL_NETWORKS if issubclass(NETWORKS[kind], RecurrentModule)]

#: Rules whose gradient of a batch is not the mean over its samples, and why.
NOT_A_MEAN = {
    "continual": "weights change between the steps",
    "predictive-hebbian": "predictions are fitted on one part of the batch",
}

#: Options, epochs and momentum of rules whose gradient is too noisy for those of the others.
NOISY = {"neuromodulated": ({}, 25, 0.9), "weight-perturbation": ({"draws": 20}, 25, 0.0)}


def pairs(*left_out):
    return [pytest.param(*pair, id="-".join(pair)) for pair in ALL_PAIRS if pair[1] not in left_out]


def build(kind, rule, **options):
    return example_network(kind, learning=LEARNING_RULES[rule](), **options)


def test_every_network_and_every_rule_has_a_partner():
    assert {kind for kind, _ in ALL_PAIRS} == set(ALL_NETWORKS)
    assert {rule for _, rule in ALL_PAIRS} == set(ALL_RULES)


@pytest.mark.parametrize(("kind", "rule"), pairs())
def test_gradients_are_finite_and_shaped_like_the_parameters(kind, rule):
    network = build(kind, rule)
    found = gradients(network, *example_batch())
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert found[name].shape == parameter.shape, name
            assert found[name].isfinite().all(), name
        else:
            assert found[name] is None, name
    assert any(bool(gradient.any()) for gradient in found.values() if gradient is not None)


@pytest.mark.parametrize(("kind", "rule"), pairs())
def test_a_loss_of_weight_zero_changes_nothing(kind, rule):
    found = gradients(build(kind, rule), *example_batch(), factor=0.0)
    assert not any(bool(gradient.any()) for gradient in found.values() if gradient is not None)


@pytest.mark.parametrize(("kind", "rule"), pairs(*NOT_A_MEAN))
def test_the_gradient_of_a_batch_is_the_mean_of_its_parts(kind, rule):
    """To the order of the nudge: its strength is that of the sample of the batch that errs most."""
    network, (x, y) = build(kind, rule), example_batch()
    first, again = gradients(network, x, y), gradients(network, x, y, seed=1)
    learned = [name for name, gradient in first.items() if gradient is not None]
    if any(not torch.equal(first[name], again[name]) for name in learned):
        pytest.skip("draws at random")
    whole = {name: first[name].clone() for name in learned}
    parts = []
    for half in (slice(0, 4), slice(4, 8)):
        found = gradients(network, x[half], y[half])
        parts.append({name: found[name].clone() for name in learned})
    for name in learned:
        mean = (parts[0][name] + parts[1][name]) / 2
        assert float((mean - whole[name]).norm()) <= 0.02 * float(whole[name].norm()) + 1e-12, name


@pytest.mark.parametrize("kind", RECURRENT)
def test_clamp_uses_the_parameters_that_are_given(kind):
    """With all parameters at zero no current flows, whatever the network's own are."""
    network, (x, _) = example_network(kind), example_batch()
    x = network.checked_input(x)
    nothing = [torch.zeros_like(parameter) for parameter in network.dynamical_parameters]
    clamped = network.clamp(x, nothing)
    states = [torch.ones_like(state) for state in clamped.initial_states()]
    for layer in range(len(states)):
        assert not clamped.current(layer, states).any()
        assert not clamped.state_vjp(layer, states, states).any()
    own = network.clamp(x)
    assert any(bool(own.current(layer, states).any()) for layer in range(len(states)))
    # And again, for what a network may remember of its own parameters.
    assert not network.clamp(x, nothing).current(0, states).any()


@pytest.mark.parametrize("kind", RECURRENT)
def test_gradients_are_taken_at_the_parameters_that_are_given(kind):
    """The product of states and currents, differentiated at other parameters than the network's own."""
    network = example_network(kind)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-0.5)
    x = network.checked_input(example_batch()[0])
    given = [parameter.detach() for parameter in other.dynamical_parameters]
    states = other.settle(x).states
    for of in ("parameter_vjp", "hebbian_product"):
        found, to_input = getattr(network.clamp(x, given), of)(states, states)
        expected, expected_input = getattr(other.clamp(x), of)(states, states)
        torch.testing.assert_close([*found, to_input], [*expected, expected_input])


@pytest.mark.parametrize("kind", ALL_NETWORKS)
def test_a_state_dict_restores_the_network(kind):
    network, other = example_network(kind), example_network(kind, seed=1)
    x, _ = example_batch()
    assert not torch.equal(network(x), other(x))
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(x), network(x), rtol=0, atol=0)
    assert network(x).shape == (8, CLASSES)


@pytest.mark.parametrize("kind", ALL_NETWORKS)
def test_synapses_name_the_weights_of_the_state_dict(kind):
    network = example_network(kind)
    state = network.state_dict()
    for synapses in network.synapses():
        assert state[synapses.name].data_ptr() == synapses.weight.data_ptr()


@pytest.mark.parametrize("rule", ALL_RULES)
@pytest.mark.filterwarnings("ignore:the free phase did not settle")
def test_every_rule_learns_the_digits(rule):
    """Four times as many of its training images as by chance, with few units and epochs."""
    options, epochs, momentum = NOISY.get(rule, ({}, 8, 0.9))
    kind = next(kind for kind, partner in ALL_PAIRS if partner == rule)
    learning = LEARNING_RULES[rule](**options)
    network = example_network(kind, sizes=[64, 20, 10], learning=learning).float()
    data = class_incremental("digits", 1, per_class=20).train_stream[0].dataset
    x, y = torch.stack([sample[0] for sample in data]), torch.tensor(list(data.targets))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=momentum)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(20):
            optimizer.zero_grad()
            SquaredError()(network(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        assert float((network(x).argmax(1) == y).double().mean()) > 0.4
