"""Networks as PyTorch modules: shapes, initial weights, copies, state dicts, bad input."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.learning import (
    BPTT,
    Backprop,
    CrossEntropy,
    EquilibriumGradient,
    EquilibriumPropagation,
    SquaredError,
)
from continual_ep.networks import MLP, MRNN
from continual_ep.relaxation import Relaxation

RULES = [
    EquilibriumPropagation(0.1),
    EquilibriumPropagation(0.1, estimator="one-sided", nudging="loss"),
    EquilibriumPropagation(0.1, estimator="random-sign", tolerance=1e-3),
    BPTT(8, backward_steps=3),
    EquilibriumGradient(),
]
MAKERS = [
    *(
        lambda rule=rule: MRNN([6, 5, 4], readout="activated", bias=True, learning=rule)
        for rule in RULES
    ),
    lambda: MRNN([6, 5, 4], readout="softmax", feedback="untied"),
    lambda: MRNN([6, 5, 5, 4], readout="softmax", feedback="untied", bias=True),
    lambda: MLP([6, 5, 4], bias=True, dropout=0.2),
    lambda: MLP([6, 5, 4], dropout=0.5, dropout_rescale="evaluation"),
    lambda: MLP([6, 5, 4], activation="tanh", readout="straight-through"),
]


@pytest.fixture(params=range(len(MAKERS)))
def network(request):
    return MAKERS[request.param]()


def criterion_for(network):
    return CrossEntropy() if network.readout == "softmax" else SquaredError()


def step(network, x, y):
    torch.manual_seed(1)
    network.zero_grad()
    criterion_for(network)(network(x), y).backward()
    return [p.grad.clone() for p in network.parameters()]


def data():
    return torch.rand(3, 6), torch.tensor([0, 3, 1])


def test_backward_fills_every_gradient(network):
    gradients = step(network, *data())
    assert all(torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0


def test_state_dict_round_trip(network, tmp_path):
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        torch.nn.init.uniform_(parameter)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    network.eval()
    other.eval()
    x, _ = data()
    assert torch.equal(network(x), other(x))


def test_deepcopy_is_independent(network):
    twin = copy.deepcopy(network)
    before = [p.clone() for p in twin.parameters()]
    step(network, *data())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert all(p.grad is None for p in twin.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, twin.parameters(), strict=True))


def test_evaluation_has_no_graph_and_same_output(network):
    x, _ = data()
    network.eval()
    with torch.no_grad():
        quiet = network(x)
    assert not quiet.requires_grad
    torch.testing.assert_close(network(x).detach(), quiet)


def test_dtype_moves_with_the_network(network):
    network.double()
    assert network(data()[0].double()).dtype == torch.double


def test_images_are_flattened(network):
    x = torch.rand(3, 1, 2, 3)
    network.eval()
    torch.testing.assert_close(network(x), network(x.flatten(1)))


def test_frozen_parameters_get_no_gradient(network):
    network.weights[0].requires_grad_(False)
    criterion_for(network)(network(data()[0]), data()[1]).backward()
    assert network.weights[0].grad is None
    assert network.weights[1].grad is not None


def test_activities_end_with_the_output(network):
    x, _ = data()
    network.train()
    found = network.activities(x)
    assert network.training
    assert [a.shape[1] for a in found] == list(network.sizes[1:])
    if getattr(network, "dropout_rescale", "training") == "training":
        torch.testing.assert_close(found[-1], network.eval()(x).detach())


def test_original_dropout_scales_in_evaluation_and_torch_s_in_training():
    x = torch.ones(1000, 1)
    for rescale, trained, evaluated in (
        ("training", {0.0, 2.0}, 1.0),
        ("evaluation", {0.0, 1.0}, 0.5),
    ):
        network = MLP([1, 1, 1], dropout=0.5, dropout_rescale=rescale)
        with torch.no_grad():
            for weight in network.weights:
                weight.fill_(1.0)
        assert set(network(x).detach().flatten().tolist()) == trained
        assert float(network.activities(x)[-1][0]) == 1.0
        assert set(network.eval()(x).detach().flatten().tolist()) == {evaluated}


def test_synapses_name_their_weights(network):
    state = network.state_dict(keep_vars=True)
    assert [s.weight.shape for s in network.synapses()] == [
        (post, pre) for pre, post in pairwise(network.sizes)
    ]
    assert all(state[s.name] is s.weight for s in network.synapses())
    feedback = [s.feedback for s in network.synapses() if s.feedback is not None]
    assert all(
        a is b for a, b in zip(feedback, getattr(network, "feedback_weights", []), strict=True)
    )


def test_parameter_groups_hold_every_parameter_once(network):
    groups = network.parameter_groups([0.1 * i for i in range(1, len(network.sizes))])
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())
    assert [group["lr"] for group in groups] == [0.1 * i for i in range(1, len(network.sizes))]
    with pytest.raises(ConfigurationError, match="learning rate"):
        network.parameter_groups([0.1] * len(network.sizes))


def test_one_sample_and_none(network):
    network.eval()
    assert network(torch.rand(1, 6)).shape == (1, 4)
    assert network(torch.rand(0, 6)).shape == (0, 4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(3, 5), r"\(3, 5\).*\(batch, 6\)"),
        (torch.rand(6), r"\(batch, 6\)"),
        (torch.zeros(3, 6, dtype=torch.uint8), "floating point"),
        (torch.full((3, 6), float("nan")), "3 of 3 samples"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(network, x, message):
    with pytest.raises(InputError, match=message):
        network(x)


def test_initial_weights_lie_within_the_gain():
    network = MRNN([400, 100, 10], readout="activated", gain=[0.5, 2.0], bias=True)
    for weight, gain in zip(network.weights, (0.5, 2.0), strict=True):
        bound = gain / math.sqrt(weight.shape[1])
        assert 0.95 * bound < float(weight.detach().abs().max()) <= bound
    assert all(float(b.detach().abs().max()) == 0 for b in network.biases)
    assert float(MLP([5, 4], init=0.01).weights[0].detach().abs().max()) <= 0.01


def test_a_generator_decides_the_initial_weights():
    def weights(seed):
        generator = torch.Generator().manual_seed(seed)
        before = torch.get_rng_state()
        network = MRNN([5, 4, 3], readout="activated", feedback="untied", generator=generator)
        assert torch.equal(before, torch.get_rng_state())
        return torch.cat([p.flatten() for p in network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_mlp_by_hand():
    network = MLP([2, 2, 1])
    with torch.no_grad():
        network.weights[0].copy_(torch.tensor([[1.0, -1.0], [0.5, 0.5]]))
        network.weights[1].copy_(torch.tensor([[2.0, -3.0]]))
    # hidden relu(1 - 3) = 0 and relu(0.5 + 1.5) = 2; output -6
    assert float(network(torch.tensor([[1.0, 3.0]])).detach()) == pytest.approx(-6.0)


def test_straight_through_readout_learns_while_silent():
    network = MLP([1, 1], readout="straight-through")
    with torch.no_grad():
        network.weights[0].fill_(-1.0)
    output = network(torch.ones(1, 1))
    assert float(output.detach()) == 0.0
    SquaredError()(output, torch.ones(1, 1)).backward()
    # dL/dw = (rho(u) - y) x = -1, though rho'(u) = 0
    assert float(network.weights[0].grad) == pytest.approx(-1.0)


def test_softmax_readout_sends_nothing_back():
    network = MRNN([6, 5, 4], readout="softmax")
    x, _ = data()
    before = network.settle(x).states[0]
    with torch.no_grad():
        network.weights[-1].normal_()
    assert torch.equal(before, network.settle(x).states[0])


def test_softmax_readout_learns_by_the_cross_entropy_gradient():
    network = MRNN([6, 5, 4], readout="softmax", bias=True, learning=EquilibriumPropagation(0.1))
    x, y = data()
    CrossEntropy()(network(x), y).backward()
    state = network.settle(x).states[-1]
    error = (network.read(state).softmax(1) - torch.nn.functional.one_hot(y, 4)) / len(x)
    torch.testing.assert_close(network.weights[-1].grad, (error.t() @ state).detach())
    torch.testing.assert_close(network.biases[-1].grad, error.sum(0).detach())


def test_a_changed_parameter_between_forward_and_backward_is_noticed():
    network = MRNN([6, 5, 4], readout="activated")
    x, y = data()
    loss = SquaredError()(network(x), y)
    with torch.no_grad():
        network.weights[0].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MRNN([6], readout="activated"), "make no network"),
        (lambda: MRNN([6, 0, 3], readout="activated"), "make no network"),
        (lambda: MRNN([6, 3], readout="softmax"), "hidden layer"),
        (lambda: MRNN([6, 5, 3], readout="activated", activation="relu"), "hard-sigmoid"),
        (lambda: MRNN([6, 5, 3], readout="argmax"), "readout"),
        (lambda: MRNN([6, 5, 3], readout="activated", feedback="loose"), "feedback"),
        (lambda: MRNN([6, 5, 3], readout="activated", gain=[1.0]), "gain"),
        (lambda: MRNN([6, 5, 3], readout="activated", dt=0.0), "dt"),
        (lambda: MRNN([6, 5, 3], readout="activated", order="zigzag"), "order"),
        (
            lambda: MRNN([6, 5, 3], readout="activated", order="sweep", relaxation=Relaxation()),
            "part of the relaxation",
        ),
        (lambda: MRNN([6, 5, 3], readout="activated", dt=0.5, relaxation=Relaxation()), "dt=0.5"),
        (
            lambda: MRNN([6, 5, 3], readout="activated", learning=Backprop()),
            "Backprop is for an MLP",
        ),
        (lambda: MLP([6, 5, 3], learning=EquilibriumPropagation()), "no dynamics"),
        (lambda: MLP([6, 5, 3], dropout=1.0), "dropout"),
        (lambda: MLP([6, 5, 3], dropout_rescale="never"), "evaluation"),
        (lambda: MLP([6, 5, 3], readout="argmax"), "readout"),
        (lambda: MLP([6, 5, 3], activation="step"), "relu"),
    ],
)
def test_impossible_networks_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_untied_feedback_has_no_primitive_function():
    network = MRNN([6, 5, 4], readout="activated", feedback="untied")
    with pytest.raises(ConfigurationError, match="no primitive"):
        network.primitive(data()[0], network.settle(data()[0]).states)


def test_primitive_by_hand():
    network = MRNN([1, 1, 1], readout="activated", bias=True)
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (2.0, 3.0, 0.5, -1.0), strict=True):
            parameter.fill_(value)
    # s_1 (2 x + 0.5) + s_2 (3 s_1 - 1) at x = 1, s = (0.2, 0.4): 0.2 * 2.5 + 0.4 * (0.6 - 1) = 0.34
    states = [torch.full((1, 1), 0.2), torch.full((1, 1), 0.4)]
    assert float(network.primitive(torch.ones(1, 1), states).detach()) == pytest.approx(0.34)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_networks_move_to_the_gpu(network):
    x, y = data()
    cpu = step(network.eval(), x, y)
    gpu = step(network.cuda(), x.cuda(), y.cuda())
    for a, b in zip(cpu, gpu, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sizes", [[30.7, 2], [True, 2], ["4", 2]])
def test_sizes_are_whole_numbers(sizes):
    with pytest.raises(ConfigurationError, match="whole numbers"):
        MRNN(sizes, readout="activated")


@pytest.mark.parametrize("gain", [-1.0, float("nan"), [1.0, float("inf")]])
def test_gains_are_finite_and_not_negative(gain):
    with pytest.raises(ConfigurationError, match="gain"):
        MRNN([4, 3, 2], readout="activated", gain=gain)


def test_a_gain_may_be_a_numpy_scalar():
    weights = MRNN([4, 3, 2], readout="activated", gain=np.float32(0.0)).weights
    assert all(not weight.any() for weight in weights)


@pytest.mark.parametrize("rule", [EquilibriumPropagation(), BPTT(), EquilibriumGradient()])
def test_autocast_leaves_a_recurrent_network_in_full_precision(rule):
    torch.manual_seed(0)
    network, x, y = (
        MRNN([6, 5, 3], readout="activated", learning=rule),
        torch.rand(4, 6),
        torch.tensor([0, 1, 2, 0]),
    )
    SquaredError()(network(x), y).backward()
    expected = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = SquaredError()(network(x), y)
        assert network(x.bfloat16()).dtype == torch.float32
    loss.backward()
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
