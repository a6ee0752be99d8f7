"""The family of networks: rules against exact gradients and hand-written cases, and free combination."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from continual_ep.errors import ConfigurationError, ContinualEPWarning
from continual_ep.gradient_check import check_gradients
from continual_ep.learning import (
    BPTT,
    ContrastiveHebbian,
    CrossEntropy,
    EquilibriumGradient,
    EquilibriumPropagation,
    LinearResponse,
    SquaredError,
)
from continual_ep.networks import (
    MLP,
    MRNN,
    Convolution,
    ConvolutionalRNN,
    Dendritic,
    DendriticRNN,
    Dense,
    FeedbackRegulatedRNN,
    RecurrentNetwork,
)
from continual_ep.networks.connections import Connection
from continual_ep.networks.dendrites import branch_masks, synapses_per_branch
from continual_ep.relaxation import TimeSteps
from continual_ep.strategies import silent_evaluator
from continual_ep.streams import class_incremental


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def data(batch=6, inputs=12, classes=4, seed=1):
    g = generator(seed)
    x = torch.rand(batch, inputs, generator=g, dtype=torch.float64)
    return x, torch.randint(classes, (batch,), generator=g)


def exact(beta=1e-3, **more):
    return EquilibriumPropagation(
        beta, free_steps=400, nudged_steps=300, tolerance=1e-14, nudging="loss", **more
    )


# ---- layers and connections --------------------------------------------------------------------


def dense_network(sizes, feedback="tied", scale=1.0, seed=0, **more):
    g = generator(seed)
    links = [
        (i, i + 1, Dense(a, b, feedback=feedback, feedback_scale=scale, bias=True, generator=g))
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    ]
    return RecurrentNetwork([(s,) for s in sizes], links, **more).double()


@pytest.mark.parametrize("feedback", ["tied", "untied"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize(
    "rule",
    [
        EquilibriumPropagation(0.1, nudging="loss"),
        EquilibriumPropagation(0.1, estimator="one-sided", update="postsynaptic", corrected=True),
        LinearResponse(),
        LinearResponse(corrected=True),
        EquilibriumPropagation(0.1, adaptation_steps=3, nudging="loss"),
        EquilibriumGradient(),
        BPTT(20),
        ContrastiveHebbian(),
    ],
)
def test_layers_and_connections_make_the_layered_network(feedback, scale, rule):
    """The general network with dense connections is the MRNN, to rounding, under every rule."""
    x, y = data()
    general = dense_network([12, 9, 7, 4], feedback, scale, learning=rule)
    layered = MRNN(
        [12, 9, 7, 4],
        readout="activated",
        bias=True,
        feedback=feedback,
        feedback_scale=scale,
        learning=rule,
    ).double()
    with torch.no_grad():
        for number, (_, _, connection) in enumerate(general.links):
            layered.weights[number].copy_(connection.weight)
            layered.biases[number].copy_(connection.bias.uniform_(-0.1, 0.3, generator=generator()))
            if feedback == "untied" and number:
                layered.feedback_weights[number - 1].copy_(connection.feedback_weight)
    x.requires_grad_()
    inputs = []
    for network in (general, layered):
        SquaredError()(network(x), y).backward()
        inputs.append(x.grad.clone())
        x.grad = None
    torch.testing.assert_close(*inputs)
    for number, (_, _, connection) in enumerate(general.links):
        torch.testing.assert_close(connection.weight.grad, layered.weights[number].grad)
        torch.testing.assert_close(connection.bias.grad, layered.biases[number].grad)
        if feedback == "untied" and number:
            torch.testing.assert_close(
                connection.feedback_weight.grad, layered.feedback_weights[number - 1].grad
            )


@pytest.mark.parametrize("readout", ["activated", "linear", "softmax"])
def test_currents_are_the_derivatives_of_the_primitive_function(readout):
    network = DendriticRNN(
        [12, 6, 5, 4], branches=3, readout=readout, generator=generator()
    ).double()
    x, _ = data()
    states = [torch.rand(6, *shape, dtype=torch.float64) for shape in network.shapes[1:]]
    leaves = [state.clone().requires_grad_() for state in states]
    derivatives = torch.autograd.grad(network.primitive(x, leaves).sum(), leaves)
    clamped = network.clamp(x)
    for layer, derivative in enumerate(derivatives):
        torch.testing.assert_close(clamped.current(layer, states), derivative)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([(0, 1), (0, 3)], r"no path leads from the input to layers \[2\]"),
        ([(0, 1), (1, 2), (2, 0)], "leads nowhere"),
        ([(0, 1), (1, 1)], "leads nowhere"),
        ([(0, 4)], "leads nowhere"),
    ],
)
def test_links_that_lead_nowhere(links, message):
    shapes = [(3,), (3,), (3,), (3,)]
    with pytest.raises(ConfigurationError, match=message):
        RecurrentNetwork(shapes, [(a, b, Dense(3, 3)) for a, b in links])


def test_skips_and_loops_have_exact_gradients_too():
    g = generator()
    links = [
        (0, 1, Dense(12, 6, generator=g)),
        (1, 2, Dense(6, 5, generator=g)),
        (2, 3, Dense(5, 4, generator=g)),
        (1, 3, Dense(6, 4, generator=g)),  # a skip
        (0, 2, Dense(12, 5, generator=g)),  # from the input, too
    ]
    network = RecurrentNetwork([(12,), (6,), (5,), (4,)], links, learning=exact()).double()
    report = check_gradients(network, *data(), SquaredError())
    assert report.worst.relative_error < 1e-5


# ---- dendrites ---------------------------------------------------------------------------------


def test_a_dendritic_unit_by_hand():
    connection = Dendritic(3, 1, branches=2, fan_in=1.0, generator=generator())
    with torch.no_grad():
        connection.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [-1.0, 0.0, 0.0]]))
        connection.bias.copy_(torch.tensor([0.1, 0.2]))
    tensors = connection.tensors()
    # Branch 1: 1 - 0 + 0.5 + 0.1 = 1.6; branch 2: -1 + 0.2 < 0, shut. Mean: 0.8.
    pre = torch.tensor([[1.0, 0.0, 1.0]])
    torch.testing.assert_close(connection.drive(pre, tensors), torch.tensor([[0.8]]))
    # Back through the open branch alone, half of it.
    expected = torch.tensor([[0.5, -1.0, 0.25]]) * 3
    torch.testing.assert_close(connection.back(torch.tensor([[3.0]]), pre, tensors), expected)
    own = Dendritic(
        3, 1, branches=2, fan_in=1.0, feedback="untied", apical=2, generator=generator()
    )
    with torch.no_grad():
        own.apical_weight.copy_(torch.tensor([[1.0], [-1.0], [2.0], [4.0], [0.0], [0.0]]))
    back = own.back(torch.tensor([[3.0]]), pre, own.tensors())
    torch.testing.assert_close(back, torch.tensor([[1.5, 9.0, 0.0]]))


@given(st.integers(2, 40), st.integers(1, 5), st.floats(0.05, 1.0))
@settings(max_examples=25)
def test_masks_keep_as_many_synapses_on_each_branch(sources, branches, fan_in):
    if round(fan_in * sources) < 1:
        with pytest.raises(ConfigurationError, match="without synapses"):
            synapses_per_branch(sources, fan_in)
        return
    mask = branch_masks(sources, 3, branches, fan_in, generator=generator())
    assert mask.shape == (3, branches, sources)
    assert set(mask.sum(2).unique().tolist()) == {round(fan_in * sources)}


def test_fields_are_near_their_centre():
    for sampling in ("soma-field", "branch-field"):
        mask = branch_masks(784, 5, 8, 16, sampling=sampling, generator=generator()).bool()
        assert set(mask.sum(2).unique().tolist()) == {16}
        rows, columns = torch.arange(784) // 28, torch.arange(784) % 28
        for branch in mask.view(-1, 784):
            # 16 synapses of a square neighbourhood, more widely spread where branches share it.
            spread = max(int(p[branch].max() - p[branch].min()) for p in (rows, columns))
            assert spread <= (6 if sampling == "branch-field" else 10)
    with pytest.raises(ConfigurationError, match="square image"):
        branch_masks(10, 2, 2, 3, sampling="soma-field")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fan_in": 0.0}, "fan_in"),
        ({"fan_in": 1.5}, "fan_in"),
        ({"fan_in": 0.01}, "without synapses"),
        ({"fan_in": 13}, "more synapses"),
        ({"branches": 0}, "branches"),
        ({"apical": 0, "feedback": "untied"}, "apical"),
        ({"feedback": "mutual"}, "mutual"),
        ({"feedback_scale": -1.0}, "feedback_scale"),
        ({"sampling": "dense"}, "dense"),
    ],
)
def test_impossible_dendrites(options, message):
    with pytest.raises(ConfigurationError, match=message):
        DendriticRNN([12, 6, 4], **options)


@pytest.mark.parametrize("sizes", [[12, 8, 4], [12, 8, 6, 4], [12, 8, 7, 6, 4]])
@pytest.mark.parametrize("cables", [False, True])
def test_tied_dendrites_have_the_exact_gradient_and_the_published_rule_has_not(sizes, cables):
    tied, published = (
        DendriticRNN(
            sizes,
            readout="activated",
            branches=4,
            feedback=feedback,
            feedback_scale=scale,
            cables=cables,
            learning=exact(),
            generator=generator(),
        ).double()
        for feedback, scale in (("tied", 1.0), ("untied", 0.2))
    )
    x, y = data(batch=20)
    assert check_gradients(tied, x, y, SquaredError()).worst.relative_error < 1e-5
    rows = {row.name: row for row in check_gradients(published, x, y, SquaredError()).rows}
    assert abs(rows["connections.0.weight"].cosine) < 0.6
    last = f"connections.{len(sizes) - 2}.weight"
    assert rows[last].cosine > 0.9


def test_the_published_dendritic_update_by_its_formula():
    """-(1 / 2 beta) (d phi / d w at s+ minus at s-), phi = s_l . (basal + alpha apical)."""
    rule = EquilibriumPropagation(0.1, free_steps=40, nudged_steps=40, nudging="loss")
    network = DendriticRNN(
        [12, 6, 4],
        readout="activated",
        branches=3,
        feedback="untied",
        feedback_scale=0.2,
        learning=rule,
        generator=generator(),
    ).double()
    x, y = data()
    target = torch.nn.functional.one_hot(y, 4).double()
    SquaredError()(network(x), y).backward()

    first, second = (link.connection for link in network.links)

    def settled(beta, start, steps=80):
        s1, s2 = start
        for _ in range(steps):
            s1 = (
                first.drive(x, first.tensors()) + 0.2 * second.back(s2, s1, second.tensors())
            ).clamp(0, 1)
            u = second.drive(s1, second.tensors())
            s2 = ((u + beta * target) / (1 + beta)).clamp(0, 1)
        return s1, s2

    with torch.no_grad():
        free = settled(0.0, (x.new_zeros(6, 6), x.new_zeros(6, 4)))
        plus, minus = settled(0.1, free), settled(-0.1, free)

    def phi(s1, s2):
        basal = (s1 * first.drive(x, first.tensors())).sum()
        apical = 0.2 * (s1 * second.back(s2, s1, second.tensors())).sum()
        return basal + apical + (s2 * second.drive(s1, second.tensors())).sum()

    parameters = network.dynamical_parameters
    grads = torch.autograd.grad((phi(*plus) - phi(*minus)) / 6, parameters)
    for parameter, expected in zip(parameters, grads, strict=True):
        torch.testing.assert_close(parameter.grad, -expected / 0.2, atol=1e-7, rtol=1e-5)


def test_synapses_that_do_not_exist_never_appear():
    network = DendriticRNN(
        [12, 6, 4], readout="activated", fan_in=0.3, feedback="untied", generator=generator()
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    x, y = data()
    for _ in range(3):
        optimizer.zero_grad()
        SquaredError()(network(x.float()), y).backward()
        optimizer.step()
    for _, _, connection in network.links:
        assert not bool((connection.weight * (1 - connection.mask)).any())
    published = DendriticRNN(
        [784, 256, 10], readout="activated", feedback="untied", feedback_scale=0.2
    )
    assert published.active_parameters == 817_744


# ---- time steps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "distribution", ["uniform", "normal", "log-normal", "gamma", "inverse-gamma"]
)
def test_time_steps_have_the_mean_and_stay_in_range(distribution):
    steps = TimeSteps(distribution, mean=0.4, spread=0.5).drawn((50, 40), generator())
    assert steps.shape == (50, 40)
    assert float(steps.min()) >= 0.01 - 1e-6 and float(steps.max()) <= 1 + 1e-6
    assert float(steps.mean()) == pytest.approx(0.4, abs=0.005)
    raw = TimeSteps(distribution, mean=0.2, spread=0.2, same_mean=False).drawn(
        (20_000,), generator()
    )
    constants = 1 / raw if distribution == "inverse-gamma" else raw
    spread = float(constants.std() / constants.mean())
    assert spread == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distribution": "cauchy"}, "cauchy"),
        ({"mean": 0.0}, "mean"),
        ({"mean": 1.0}, "mean"),
        ({"spread": 0.0}, "spread"),
        ({"smallest": 0.6}, "smallest"),
    ],
)
def test_impossible_time_steps(options, message):
    with pytest.raises(ConfigurationError, match=message):
        TimeSteps(**options)


@pytest.mark.parametrize("make", [MRNN, lambda sizes, **o: DendriticRNN(sizes, branches=3, **o)])
def test_fixed_points_do_not_depend_on_time_steps(make):
    x, _ = data()
    states = []
    for dt in (0.5, TimeSteps(mean=0.5, spread=0.4)):
        network = make([12, 8, 4], dt=dt, generator=generator()).double()
        states.append(network.settle(x, steps=2000, tolerance=1e-14).states)
    for one, two in zip(*states, strict=True):
        torch.testing.assert_close(one, two, atol=1e-9, rtol=0)


def test_time_steps_are_saved_with_the_network():
    one, two = (
        MRNN([12, 8, 4], readout="activated", dt=TimeSteps(), generator=generator(seed))
        for seed in (0, 1)
    )
    two.load_state_dict(one.state_dict())
    x = data()[0].float()
    assert torch.equal(one(x), two(x))


# ---- contrastive Hebbian learning, adaptation --------------------------------------------------


def test_contrastive_hebbian_learning_by_hand():
    """One linear output: the clamped output is the target, the free one W x."""
    network = MRNN([2, 1], readout="linear", learning=ContrastiveHebbian(free_steps=2))
    with torch.no_grad():
        network.weights[0].copy_(torch.tensor([[0.5, 0.25]]))
    x = torch.tensor([[1.0, 2.0]])
    SquaredError()(network(x), torch.tensor([[3.0]])).backward()
    # Free output 1; the change is (3 - 1) x, and gradients point the other way.
    torch.testing.assert_close(network.weights[0].grad, torch.tensor([[-2.0, -4.0]]))


@pytest.mark.parametrize("scale", [0.01, 0.001])
def test_with_weak_feedback_it_is_back_propagation(scale):
    rule = ContrastiveHebbian(free_steps=200, clamped_steps=200, tolerance=1e-15)
    network = MRNN(
        [12, 8, 7, 4],
        activation="shifted-sigmoid",
        readout="linear",
        feedback_scale=scale,
        learning=rule,
        generator=generator(),
    ).double()
    twin = MLP([12, 8, 7, 4], activation="shifted-sigmoid").double()
    x, y = data()
    with torch.no_grad():
        for a, b in zip(twin.weights, network.weights, strict=True):
            a.copy_(b)
    for model in (network, twin):
        SquaredError()(model(x), y).backward()
    for a, b in zip(network.weights, twin.weights, strict=True):
        error = (a.grad - b.grad).norm() / b.grad.norm()
        assert float(error) < 15 * scale


def test_contrastive_hebbian_learning_needs_a_target():
    network = MRNN([12, 8, 4], readout="activated", learning=ContrastiveHebbian())
    x, y = data()
    for criterion in (CrossEntropy(), torch.nn.CrossEntropyLoss()):
        with pytest.raises(ConfigurationError, match="needs SquaredError"):
            criterion(network(x.float()), y).backward()
    with pytest.raises(ConfigurationError, match="knows the output's target"):
        MRNN([12, 8, 4], readout="softmax", learning=ContrastiveHebbian())
    with pytest.raises(ConfigurationError, match="knows the output's target"):
        MRNN([12, 8, 4]).learning = ContrastiveHebbian()
    assert MRNN([12, 8, 4], learning=ContrastiveHebbian()).readout == "activated"


@pytest.mark.parametrize("rule", [EquilibriumPropagation, ContrastiveHebbian])
def test_adaptation_pulls_the_teaching_states_back(rule):
    """After many steps of a strong pull nothing is left of the teaching; after none, all."""
    x, y = data()
    norms = []
    for steps in (0, 5, 20, 400):
        network = MRNN(
            [12, 8, 4],
            readout="activated",
            dt=0.1,
            learning=rule(free_steps=800, adaptation_steps=steps),
            generator=generator(),
        ).double()
        SquaredError()(network(x), y).backward()
        norms.append(float(network.weights[0].grad.norm()))
    if rule is ContrastiveHebbian:
        assert norms[0] > norms[1] > norms[2] > norms[3] and norms[3] < 1e-6 * norms[0]
    else:  # the nudge stays on: what is left is a weaker nudge's
        assert norms[0] != norms[1] and norms[3] > 0


def test_an_adapted_step_by_its_formula():
    from continual_ep.learning.adaptation import adapted

    network = MRNN(
        [12, 8, 4], readout="activated", dt=0.3, order="synchronous", generator=generator()
    ).double()
    x, _ = data()
    clamped = network.clamp(x)
    free = network.settle(x, steps=50).states
    states = [torch.rand_like(state) for state in free]
    found = adapted(clamped, network.relaxation, states, free, steps=1, rate=0.1)
    for layer, state in enumerate(states):
        rate = network.activations[layer](clamped.current(layer, states))
        moved = 0.7 * state + 0.3 * rate
        torch.testing.assert_close(found[layer], 0.9 * moved + 0.1 * free[layer])


# ---- scaled feedback ---------------------------------------------------------------------------


def glorot(sizes):
    return [math.sqrt(6 * a / (a + b)) for a, b in itertools.pairwise(sizes)]


@pytest.mark.parametrize(
    "network",
    [
        lambda **more: MRNN([12, 8, 7, 4], feedback_scale=[0.5, 0.2], bias=True, **more),
        lambda **more: DendriticRNN([12, 8, 7, 4], branches=3, feedback_scale=0.3, **more),
    ],
)
def test_corrected_tied_feedback_has_the_exact_gradient_however_it_is_scaled(network):
    network = network(
        activation="shifted-sigmoid", readout="activated", generator=generator()
    ).double()
    network.learning = exact(corrected=True)
    report = check_gradients(network, *data(), SquaredError())
    assert report.worst.relative_error < 1e-5
    network.learning = exact()
    assert check_gradients(network, *data(), SquaredError()).worst.relative_error > 0.1


PUBLISHED = EquilibriumPropagation(
    0.1,
    estimator="one-sided",
    nudging="force",
    update="postsynaptic",
    free_steps=60,
    nudged_steps=40,
)
REPAIRED = LinearResponse(60, 40, update="postsynaptic", corrected=True)


def regulated(sizes, scale, learning=PUBLISHED):
    return MRNN(
        sizes,
        activation="tanh",
        readout="softmax",
        gain=glorot(sizes),
        feedback_scale=scale,
        order="synchronous",
        learning=learning,
        generator=generator(),
    )


def against_the_twin(network, x, y):
    """Cosine and ratio of norms to back-propagation in the feed-forward twin, layer by layer."""
    twin = MLP(network.sizes, activation="tanh", readout="softmax").to(x.dtype)
    with torch.no_grad():
        for a, b in zip(twin.weights, network.weights, strict=True):
            a.copy_(b)
    for model in (network, twin):
        CrossEntropy()(model(x), y).backward()
    pairs = [
        (a.grad.double(), b.grad.double())
        for a, b in zip(network.weights, twin.weights, strict=True)
    ]
    return [
        (float((a * b).sum() / (a.norm() * b.norm())), float(a.norm() / b.norm())) for a, b in pairs
    ]


def test_the_repair_is_back_propagation_in_float32_where_the_published_rule_is_noise():
    sizes = [20, 16, 16, 16, 16, 16, 10]
    x, y = data(batch=32, inputs=20, classes=10)
    repaired = regulated(sizes, 0.01, REPAIRED)
    for cosine, ratio in against_the_twin(repaired, x.float(), y):
        assert cosine > 0.995 and ratio == pytest.approx(1, rel=0.1)
    published = regulated(sizes, 0.01)
    with pytest.warns(ContinualEPWarning, match="lost in rounding: in layer 1") as caught:
        rows = against_the_twin(published, x.float(), y)
    assert rows[0][0] < 0.9  # noise
    assert rows[2][1] < 1e-3  # and attenuated, layer by layer
    assert "LinearResponse" in str(caught[0].message)


def test_attenuation_is_the_product_of_the_scales_above():
    """In float64 the published rule is the repaired one times beta_f's companions."""
    sizes = [20, 12, 11, 10, 4]
    x, y = data(inputs=20)
    scales = [0.01, 0.02]
    grads = []
    for corrected in (False, True):
        rule = replace(REPAIRED, corrected=corrected)
        network = regulated(sizes, scales, rule).double()
        CrossEntropy()(network(x), y).backward()
        grads.append([w.grad for w in network.weights])
    for (one, two), factor in zip(zip(*grads, strict=True), (2e-4, 2e-2, 1.0, 1.0), strict=True):
        torch.testing.assert_close(one, factor * two)


def graph(sizes, seed=0, **options):
    return FeedbackRegulatedRNN(sizes, generator=generator(seed), **options)


def test_the_chain_is_the_layered_network_with_scaled_feedback():
    sizes = [20, 9, 8, 7, 4]
    chain = graph(sizes, feedback_scale=0.1).double()
    layered = MRNN(
        sizes,
        activation="tanh",
        readout="softmax",
        feedback_scale=0.1,
        order="synchronous",
        learning=chain.learning,
    ).double()
    with torch.no_grad():
        for number, link in enumerate(chain.links):
            layered.weights[number].copy_(link.connection.weight)
        layered.weights[-1].copy_(chain.readout_layer.weight)
    x, y = data(inputs=20)
    for network in (chain, layered):
        CrossEntropy()(network(x), y).backward()
    for number, link in enumerate(chain.links):
        torch.testing.assert_close(link.connection.weight.grad, layered.weights[number].grad)


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.25])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_spectral_radius_is_the_root_of_the_scale(scale, depth):
    sizes = [20, *[16] * depth, 10]
    full, scaled = (graph(sizes, feedback_scale=s).spectral_radius() for s in (1.0, scale))
    assert scaled == pytest.approx(math.sqrt(scale) * full, rel=1e-6)


def test_residuals_and_random_links_are_where_they_should_be():
    sizes = [20, *[6] * 10, 4]
    plain, residual = graph(sizes), graph(sizes, residuals=True)
    skips = {link[:2] for link in residual.links} - {link[:2] for link in plain.links}
    assert skips == {(1, 4), (4, 7), (7, 10)}
    full = graph(sizes, random_links=1.0)
    pairs = {link[:2] for link in full.links}
    assert pairs == {(0, 1)} | {(a, b) for a in range(1, 11) for b in range(1, 11) if a != b}
    for source, target, connection in full.links:
        assert connection.weight.requires_grad == (source < target)
        if source > target:
            assert float(connection.weight.abs().max()) <= 0.01 * math.sqrt(6 / 12)


def test_connections_learn_at_the_rate_of_the_layer_they_lead_to():
    network = graph([20, 6, 6, 6, 6, 4], residuals=True)
    groups = network.parameter_groups([1.0, 2.0, 3.0, 4.0, 5.0])
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for _, target, connection in network.links:
        assert rates[id(connection.weight)] == target
    assert rates[id(network.readout_layer.weight)] == 5.0
    with pytest.raises(ConfigurationError, match="learning rate"):
        network.parameter_groups([1.0, 2.0])


@pytest.mark.parametrize(
    "options",
    [
        {"residuals": True},
        {"residuals": True, "feedback": "random"},
        {"random_links": 0.3},
    ],
)
@pytest.mark.parametrize(
    "rule",
    [
        replace(PUBLISHED, corrected=True, free_steps=40, nudged_steps=20),
        replace(REPAIRED, free_steps=40, response_steps=20),
    ],
)
@pytest.mark.filterwarnings("ignore:the teaching signal", "ignore:the free phase did not")
def test_skips_learn(options, rule):
    network = graph([12, *[10] * 7, 4], feedback_scale=0.1, learning=rule, **options)
    fixed = [p.clone() for p in network.parameters() if not p.requires_grad]
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.01)
    x, y = data(batch=20)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = CrossEntropy()(network(x.float()), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    for a, b in zip(fixed, (p for p in network.parameters() if not p.requires_grad), strict=True):
        assert torch.equal(a, b)


def test_impossible_options_of_the_rule():
    for options in (
        {"update": "presynaptic"},
        {"adaptation_steps": -1},
        {"adaptation_rate": 1.0},
    ):
        with pytest.raises(ConfigurationError):
            EquilibriumPropagation(**options)
    for options in ({"update": "presynaptic"}, {"response_steps": 0}, {"tolerance": 0.0}):
        with pytest.raises(ConfigurationError):
            LinearResponse(**options)


@pytest.mark.parametrize("rule", [LinearResponse(400, 400, 1e-12)])
@pytest.mark.parametrize(
    "network",
    [
        lambda rule: MRNN(
            [12, 9, 7, 4], readout="activated", activation="tanh", bias=True, learning=rule
        ),
        lambda rule: DendriticRNN(
            [12, 9, 7, 4], readout="activated", activation="shifted-sigmoid", learning=rule
        ),
        lambda rule: ConvolutionalRNN((3, 4), [2], 4, kernel=2, learning=rule, activation="tanh"),
    ],
)
def test_the_linear_response_is_the_exact_gradient_of_an_energy(network, rule):
    network, (x, y) = network(rule).double(), data()
    criterion = CrossEntropy() if network.readout == "softmax" else SquaredError()
    assert check_gradients(network, x, y, criterion).worst.relative_error < 1e-6


def accuracy_on(network, x, y):
    with torch.no_grad():
        return float((network(x).argmax(1) == y).double().mean())


# ---- everything with everything ----------------------------------------------------------------


@pytest.mark.parametrize("network", ["mrnn", "dendritic", "dendritic-untied"])
@pytest.mark.parametrize("order", ["red-black", "synchronous", "sweep"])
@pytest.mark.parametrize("dt", [1.0, 0.5, TimeSteps(mean=0.6)])
@pytest.mark.parametrize(
    "rule",
    [
        EquilibriumPropagation(0.1, nudging="loss", nudged_steps=20),
        EquilibriumPropagation(
            0.1, estimator="random-sign", nudging="force", update="postsynaptic", nudged_steps=20
        ),
        EquilibriumPropagation(
            0.1, nudging="force", adaptation_steps=1, corrected=True, nudged_steps=20
        ),
        BPTT(20, 10),
        LinearResponse(response_steps=20),
        ContrastiveHebbian(adaptation_steps=2),
    ],
    ids=lambda rule: type(rule).__name__,
)
@pytest.mark.filterwarnings("ignore:the free phase did not settle", "ignore:the adjoint did not")
def test_choices_combine_freely(network, order, dt, rule):
    if isinstance(rule, ContrastiveHebbian) and dt == 1.0:
        network_ = MRNN([12, 8, 4], readout="activated", learning=rule)
        with pytest.raises(ConfigurationError, match="dt below 1"):
            SquaredError()(network_(data()[0].float()), data()[1]).backward()
        return

    exact, found = (gradient_of(network, order, dt, r) for r in (EquilibriumGradient(), rule))
    # The output held at its target, without an energy, is furthest from the exact gradient.
    least = 0.3 if isinstance(rule, ContrastiveHebbian) else 0.5
    assert float(torch.nn.functional.cosine_similarity(exact, found, dim=0)) > least


def gradient_of(network, order, dt, rule):
    """All gradients of a network of this kind, one after the other."""
    # Smooth: where units are clipped a nudge of finite size moves what the exact gradient does not.
    options = {"order": order, "dt": dt, "learning": rule, "readout": "activated"}
    options["activation"] = "shifted-sigmoid"
    if network == "mrnn":
        options |= {"feedback_scale": 0.5, "gain": 1.0}
        model = MRNN([12, 8, 6, 4], generator=generator(), **options)
    else:
        feedback = "untied" if "untied" in network else "tied"
        model = DendriticRNN([12, 8, 6, 4], feedback=feedback, generator=generator(), **options)
    x, y = data(batch=20)
    SquaredError()(model(x.float()), y).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    "make",
    [
        lambda: DendriticRNN([64, 40, 10], readout="activated", branches=2, generator=generator()),
        lambda: MRNN([64, 20, 10], dt=TimeSteps(), readout="activated", generator=generator()),
        lambda: MRNN(
            [64, 20, 10], readout="activated", learning=ContrastiveHebbian(), generator=generator()
        ),
        lambda: regulated(
            [64, 20, 20, 10], 0.05, replace(REPAIRED, free_steps=20, response_steps=8)
        ),
    ],
)
def test_the_family_learns_in_avalanche(make):
    from avalanche.training.supervised import Naive

    benchmark = class_incremental("digits", 1, per_class=30)
    model = make()
    criterion = CrossEntropy() if model.readout == "softmax" else SquaredError()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.3),
        criterion=criterion,
        train_mb_size=10,
        train_epochs=8,
        evaluator=silent_evaluator(),
    )
    strategy.train(benchmark.train_stream[0])
    data_ = benchmark.test_stream[0].dataset
    x, y = torch.stack([s[0] for s in data_]), torch.tensor(list(data_.targets))
    assert accuracy_on(model, x, y) > 0.6


# ---- convolutions ------------------------------------------------------------------------------


def convolutional(pool="max", feedback="tied", readout="linear", learning=None, **more):
    more.setdefault("activation", "shifted-sigmoid")
    return ConvolutionalRNN(
        (2, 10, 10),
        [3, 4],
        3,
        kernel=[3, 2],
        padding=[1, 0],
        pool=pool,
        feedback=feedback,
        readout=readout,
        learning=learning,
        generator=generator(),
        **more,
    ).double()


def images(batch=5, seed=2):
    g = generator(seed)
    return torch.rand(batch, 2, 10, 10, generator=g, dtype=torch.float64), torch.randint(
        3, (batch,), generator=g
    )


@pytest.mark.parametrize("pool", ["max", "average", "soft", "none"])
@pytest.mark.parametrize("readout", ["linear", "softmax"])
def test_convolutional_gradients_are_exact(pool, readout):
    network = convolutional(pool, readout=readout, learning=exact(), gain=0.7)
    criterion = CrossEntropy() if readout == "softmax" else SquaredError()
    assert check_gradients(network, *images(), criterion).worst.relative_error < 1e-5


@pytest.mark.parametrize("pool", ["max", "average", "soft", "none"])
def test_what_comes_back_is_the_derivative_of_what_goes_up(pool):
    connection = Convolution((2, 3), 3, padding=1, pool=pool, generator=generator()).double()
    x, _ = images()
    x.requires_grad_()
    tensors = connection.tensors()
    drive = connection.drive(x, tensors)
    post = torch.rand(drive.shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad(drive, x, post)
    torch.testing.assert_close(connection.back(post, x.detach(), tensors), expected)


@pytest.mark.parametrize("order", ["red-black", "synchronous", "sweep"])
@pytest.mark.parametrize(
    "make",
    [
        lambda **more: convolutional("max", **more),
        lambda **more: convolutional("soft", **more),
        lambda **more: DendriticRNN([200, 9, 8, 3], generator=generator(), **more).double(),
    ],
)
def test_gates_are_found_once_and_change_nothing(make, order, monkeypatch):
    network = make(order=order)
    x, _ = images()
    found = []
    kind = type(network.links[1].connection)
    name = "_maps" if kind is Convolution else "_opened"
    original = getattr(kind, name)
    monkeypatch.setattr(
        kind, name, lambda *of: found.append(of[0] is network.links[1].connection) or original(*of)
    )
    states = network.settle(x, steps=12).states
    # Once for each state, and once for the states at rest.
    assert sum(found) <= 12 + 1
    monkeypatch.setattr(kind, "back", Connection.back)
    for known, alone in zip(states, network.settle(x, steps=12).states, strict=True):
        torch.testing.assert_close(known, alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "make",
    [
        lambda: convolutional("max", learning=EquilibriumPropagation(nudging="loss")),
        lambda: DendriticRNN([200, 9, 8, 3], readout="activated", generator=generator()).double(),
        lambda: MRNN([200, 9, 8, 3], readout="activated", generator=generator()).double(),
    ],
)
def test_prediction_in_inference_mode_leaves_training_as_it_was(make):
    x, y = images()
    networks = make(), make()
    with torch.inference_mode():
        networks[1](x)
    for network in networks:
        SquaredError()(network(x), y).backward()
    with torch.inference_mode():
        outputs = [network(x) for network in networks]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    for one, other in zip(*(n.parameters() for n in networks), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)


def test_soft_pooling_by_hand():
    from continual_ep.networks.convolution import soft_pool

    maps = torch.tensor([[[[0.0, 1.0, 5.0], [2.0, 3.0, 5.0]]]])
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0]).softmax(0)
    expected = (weights * torch.tensor([0.0, 1.0, 2.0, 3.0])).sum()
    torch.testing.assert_close(soft_pool(maps, 2), expected.view(1, 1, 1, 1))


def test_untied_kernels_share_their_update_and_align():
    network = convolutional(feedback="untied", learning=EquilibriumPropagation(nudging="loss"))
    x, y = images()
    SquaredError()(network(x), y).backward()
    second = network.links[1].connection
    torch.testing.assert_close(second.weight.grad, second.feedback_weight.grad)


def test_flattened_images_are_taken_too():
    network = convolutional()
    x, _ = images()
    torch.testing.assert_close(network(x), network(x.flatten(1)))


@pytest.mark.parametrize("rule", [BPTT(15), EquilibriumGradient(), ContrastiveHebbian()])
@pytest.mark.filterwarnings("ignore:the free phase did not settle", "ignore:the adjoint did not")
def test_other_rules_train_convolutions(rule):
    network = convolutional(learning=rule, readout="activated")
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    x, y = images(batch=20)
    x = 0.3 * x
    for label in range(3):  # each class is bright in rows of its own
        x[y == label, :, 3 * label : 3 * label + 3] += 0.7
    for _ in range(40):
        optimizer.zero_grad()
        SquaredError()(network(x), y).backward()
        optimizer.step()
    assert accuracy_on(network, x, y) > 0.7  # one class alone: 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "median"}, "median"),
        ({"kernel": 0}, "kernel"),
        ({"kernel": 11}, "leaves nothing"),
        ({"kernel": [3, 3, 3]}, "3 values for 2 layers"),
        ({"padding": -1}, "padding"),
    ],
)
def test_impossible_convolutions(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ConvolutionalRNN((1, 8, 8), [2, 2], 3, **options)


# ---- asleep ------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["activated", "softmax"])
@pytest.mark.parametrize("feedback", ["tied", "untied"])
def test_dendrites_sleep_on_the_synapses_that_exist(readout, feedback):
    from continual_ep.sleep import SleepParameters, sleep_replay

    network = DendriticRNN(
        [64, 12, 8, 10],
        fan_in=0.4,
        branches=3,
        readout=readout,
        feedback=feedback,
        generator=generator(),
    )
    before = [link.connection.weight.clone() for link in network.links]
    diary = sleep_replay(network, torch.rand(64, generator=generator()), SleepParameters(steps=300))
    assert all(spikes > 0 for spikes in diary.spikes)
    assert [len(counts) for counts in diary.unit_counts][:2] == [36, 24]  # branches fire
    for old, link in zip(before, network.links, strict=True):
        new, mask = link.connection.weight, link.connection.mask
        assert not torch.equal(old, new)
        assert torch.equal((new * (1 - mask)).abs().sum(), torch.tensor(0.0))
    assert torch.isfinite(network(torch.rand(2, 64))).all()


def test_a_soma_passes_on_the_mean_of_its_branches():
    connection = Dendritic(4, 2, branches=3, generator=generator())
    (pooling,) = connection.pooling()
    spikes = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(pooling.module(spikes), torch.tensor([[1 / 3, 1.0]]))


@pytest.mark.parametrize("readout", ["softmax", "activated"])
@pytest.mark.parametrize("pool", ["max", "average", "soft", "none"])
def test_convolutions_sleep(readout, pool):
    from continual_ep.sleep import SleepParameters, sleep_replay

    network = convolutional(pool, readout=readout).float()
    before = [p.clone() for p in network.parameters()]
    mean = torch.rand(2, 10, 10, generator=generator())
    diary = sleep_replay(network, mean, SleepParameters(steps=150, window=None))
    assert all(spikes > 0 for spikes in diary.spikes)
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert torch.isfinite(network(images()[0].float())).all()
