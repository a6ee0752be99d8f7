"""Relaxation: hand-computed steps, invariants of the orders, stopping, divergence."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from continual_ep.errors import ConfigurationError, ContinualEPWarning, DivergenceError, InputError
from continual_ep.learning import BPTT, EquilibriumPropagation, SquaredError
from continual_ep.networks import ACTIVATIONS, MRNN
from continual_ep.relaxation import ORDERS, Relaxation, reference_settle, settle, update_groups


def hand_network(**options):
    """1-1-1: W_1 = 0.5, W_2 = 0.4; hard sigmoid, linear readout."""
    network = MRNN([1, 1, 1], **{"readout": "linear", **options})
    with torch.no_grad():
        network.weights[0].fill_(0.5)
        network.weights[1].fill_(0.4)
    return network


@pytest.mark.parametrize(
    ("order", "dt", "expected"),
    [
        # u_1 = 0.5 x + 0.4 s_2, u_2 = 0.4 s_1, x = 1, from (0, 0)
        ("synchronous", 1.0, [(0.5, 0.0), (0.5, 0.2), (0.58, 0.2)]),
        ("red-black", 1.0, [(0.5, 0.2), (0.58, 0.232)]),
        ("sweep", 1.0, [(0.5, 0.2), (0.58, 0.232)]),
        ("synchronous", 0.5, [(0.25, 0.0), (0.375, 0.05)]),
    ],
)
def test_steps_by_hand(order, dt, expected):
    network = hand_network(order=order, dt=dt)
    settled = network.settle(torch.ones(1, 1), steps=len(expected), trace=True)
    for states, values in zip(settled.trace, expected, strict=True):
        assert [float(s) for s in states] == pytest.approx(values)
    assert settled.steps == len(expected)


def test_residual_is_the_largest_change_of_the_last_step():
    settled = hand_network(order="synchronous").settle(torch.ones(1, 1), steps=3)
    assert settled.residual == pytest.approx(0.08)


@settings(max_examples=25, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    steps=st.integers(1, 8),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_red_black_is_bit_for_bit_the_synchronous_trajectory(hidden, steps, activation, bias, seed):
    generator = torch.Generator().manual_seed(seed)
    network = MRNN(
        [5, *hidden, 3],
        readout="activated",
        activation=activation,
        bias=bias,
        gain=2.0,
        generator=generator,
    )
    x = torch.rand(4, 5, generator=generator)
    red_black = network.settle(x, steps=steps).states
    network.relaxation = Relaxation("synchronous")
    for layer, state in enumerate(red_black):
        synchronous = network.settle(x, steps=2 * steps - (1 if layer % 2 == 0 else 0)).states
        assert torch.equal(state, synchronous[layer])


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("readout", ["linear", "activated"])
@pytest.mark.parametrize("dt", [1.0, 0.3])
def test_settling_equals_the_reference(activation, readout, dt):
    network = MRNN(
        [5, 4, 4, 3], activation=activation, readout=readout, bias=True, order="synchronous", dt=dt
    ).double()
    x = torch.rand(6, 5, dtype=torch.double)
    found = network.settle(x, steps=25).states
    reference = reference_settle(network, x, network.clamp(x).initial_states(), 25, dt=dt)
    for a, b in zip(found, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("order", sorted(ORDERS))
@pytest.mark.parametrize("dt", [1.0, 0.5])
@pytest.mark.parametrize("feedback", ["tied", "untied"])
def test_every_order_and_time_step_has_the_same_fixed_point(order, dt, feedback):
    network = MRNN(
        [5, 6, 4, 3],
        readout="activated",
        order=order,
        dt=dt,
        feedback=feedback,
        bias=True,
        gain=0.8,
    ).double()
    x = torch.rand(3, 5, dtype=torch.double)
    states = network.settle(x, steps=3000, tolerance=1e-14).states
    clamped = network.clamp(x)
    for layer, activation in enumerate(network.activations):
        torch.testing.assert_close(activation(clamped.current(layer, states)), states[layer])


def test_every_layer_moves_once_per_step():
    for order in ORDERS:
        for depth in range(1, 7):
            for nudged in (False, True):
                groups = update_groups(order, depth, nudged=nudged)
                assert sorted(layer for group in groups for layer in group) == list(range(depth))
                if order != "synchronous" and nudged:
                    assert depth - 1 in groups[0]


def test_tolerance_stops_early_and_start_is_left_alone():
    network = MRNN([5, 6, 3], readout="activated", gain=0.5).double()
    x = torch.rand(3, 5, dtype=torch.double)
    settled = network.settle(x, steps=500, tolerance=1e-9)
    assert settled.steps < 100
    assert settled.residual <= 1e-9
    start = [torch.rand_like(state) for state in settled.states]
    copies = [state.clone() for state in start]
    settle(network.clamp(x), network.relaxation, steps=3, start=start)
    assert all(torch.equal(a, b) for a, b in zip(start, copies, strict=True))


def oscillating():
    """W_2 = 3 with a falling rate is beyond any network here; a strong negative loop swings for ever."""
    network = hand_network(order="synchronous", readout="activated", feedback="untied")
    with torch.no_grad():
        network.weights[0].fill_(1.0)
        network.weights[1].fill_(5.0)
        network.feedback_weights[0].fill_(-5.0)
    return network


def test_one_warning_when_the_free_phase_does_not_settle():
    network = oscillating()
    with pytest.warns(ContinualEPWarning, match="did not settle") as caught:
        for _ in range(5):
            network(torch.ones(1, 1))
    assert len(caught) == 1
    assert network.settling.settled is False
    assert network.settling.residual > 0.5


def test_no_warning_when_it_settles():
    network = MRNN([5, 6, 3], readout="activated", gain=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(torch.rand(3, 5))
    assert network.settling.settled
    assert network.settling.steps == network.learning.free_steps


@pytest.mark.parametrize("rule", [EquilibriumPropagation(0.1), BPTT(10)])
def test_divergence_names_the_cause(rule):
    """A NaN in W_2 comes down by the feedback, 0 * NaN, already in the first step."""
    network = MRNN([5, 6, 3], readout="activated", learning=rule)
    with torch.no_grad():
        network.weights[1][0, 0] = float("nan")
    with pytest.raises(DivergenceError, match=r"layer 1 at step 1.*weights\[1\].*learning rate"):
        network(torch.rand(2, 5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_clamped_input_that_is_not_finite_is_named(value):
    network = MRNN([5, 6, 3], readout="activated")
    x = torch.rand(2, 5)
    x[1, 3] = value
    clamped = network.clamp(x)
    assert "input holds NaN or infinity" in clamped.nonfinite_source()
    with pytest.raises(InputError, match="1 of 2 samples"):
        network(x)


def test_divergence_of_finite_weights_says_what_to_change():
    network = MRNN([2, 3, 2], readout="linear")
    with torch.no_grad():
        network.weights[0].fill_(1.0)
        network.weights[1].fill_(3e38)
    with pytest.raises(
        DivergenceError, match=r"layer 2 at step 1.*lower dt, beta, the learning rate"
    ):
        SquaredError()(network(torch.ones(1, 2)), torch.tensor([0])).backward()


@pytest.mark.parametrize("dt", [0.0, -0.1, 1.1])
def test_relaxation_refuses_time_steps_outside_their_range(dt):
    with pytest.raises(ConfigurationError, match="dt"):
        Relaxation(dt=dt)


def test_relaxation_refuses_unknown_orders():
    with pytest.raises(ConfigurationError, match="red-black"):
        Relaxation("random")


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_slopes_are_the_derivatives(activation):
    rate = ACTIVATIONS[activation]()
    current = torch.linspace(-1.97, 7.03, 50, dtype=torch.double, requires_grad=True)
    (exact,) = torch.autograd.grad(rate(current).sum(), current)
    torch.testing.assert_close(rate.slope(current.detach()), exact)
    torch.testing.assert_close(rate.in_place(current.detach().clone()), rate(current).detach())


def test_the_warning_points_at_the_users_line():
    network = oscillating()
    with pytest.warns(ContinualEPWarning, match="did not settle") as caught:
        network(torch.ones(1, 1))
    assert caught[0].filename == __file__
