"""Learning rules against the exact gradient, in float64. Oracles: finite differences, theory's slopes."""

import math
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from continual_ep.errors import (
    ConfigurationError,
    ContinualEPWarning,
    DivergenceError,
    InputError,
)
from continual_ep.gradient_check import check_gradients
from continual_ep.learning import (
    BPTT,
    CrossEntropy,
    EquilibriumGradient,
    EquilibriumPropagation,
    SquaredError,
    reference_gradients,
)
from continual_ep.networks import MRNN, DendriticRNN
from continual_ep.relaxation import settle

SIZES = {1: [6, 5, 3], 2: [6, 5, 4, 3], 3: [6, 5, 5, 4, 3]}
EXACT = EquilibriumGradient(free_steps=5000, adjoint_steps=5000, tolerance=1e-14)
READOUTS = [("linear", SquaredError()), ("activated", SquaredError()), ("softmax", CrossEntropy())]


def converged(beta, **options):
    return EquilibriumPropagation(
        beta, free_steps=3000, nudged_steps=3000, tolerance=1e-15, **options
    )


def make(hidden=1, *, activation="tanh", readout="linear", bias=True, **options):
    network = MRNN(
        SIZES[hidden], activation=activation, readout=readout, bias=bias, gain=0.6, **options
    ).double()
    for bias_vector in network.biases:
        torch.nn.init.uniform_(bias_vector, -0.1, 0.1)
    return network


def batch(size=7):
    return torch.rand(size, 6, dtype=torch.double), torch.randint(0, 3, (size,))


def gradients(network, rule, criterion, x, y):
    network.learning = rule
    found = torch.autograd.grad(criterion(network(x), y), list(network.parameters()))
    return torch.cat([g.flatten() for g in found])


def relative_error(found, exact):
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("hidden", [1, 2, 3])
@pytest.mark.parametrize(("readout", "criterion"), READOUTS)
def test_exact_gradient_equals_finite_differences(hidden, readout, criterion):
    network, (x, y) = make(hidden, readout=readout), batch()
    exact = gradients(network, EXACT, criterion, x, y)
    differences = []
    with torch.no_grad():
        for parameter in network.parameters():
            flat = parameter.view(-1)
            for i in range(len(flat)):
                value, losses = flat[i].item(), []
                for step in (1e-5, -1e-5):
                    flat[i] = value + step
                    losses.append(float(criterion(network(x), y)))
                flat[i] = value
                differences.append((losses[0] - losses[1]) / 2e-5)
    assert relative_error(exact, torch.tensor(differences, dtype=torch.double)) <= 1e-6


@pytest.mark.parametrize("hidden", [1, 2, 3])
@pytest.mark.parametrize(("readout", "criterion"), READOUTS)
@pytest.mark.parametrize("nudging", ["force", "loss"])
def test_centred_gradient_tends_to_the_exact_one_as_beta_squared(
    hidden, readout, criterion, nudging
):
    network, (x, y) = make(hidden, readout=readout), batch()
    exact = gradients(network, EXACT, criterion, x, y)
    errors = [
        relative_error(gradients(network, converged(b, nudging=nudging), criterion, x, y), exact)
        for b in (3e-2, 3e-3, 3e-4, 1e-3)
    ]
    at_a_thousandth = errors.pop()
    slopes = [math.log10(a / b) for a, b in pairwise(errors)]
    assert at_a_thousandth <= 1e-5
    assert all(1.8 <= slope <= 2.2 for slope in slopes), slopes


@pytest.mark.parametrize("nudging", ["force", "loss"])
def test_one_sided_gradient_tends_to_the_exact_one_as_beta(nudging):
    network, (x, y), criterion = make(2), batch(), SquaredError()
    exact = gradients(network, EXACT, criterion, x, y)
    errors = [
        relative_error(
            gradients(
                network, converged(b, estimator="one-sided", nudging=nudging), criterion, x, y
            ),
            exact,
        )
        for b in (1e-2, 1e-3, 1e-4)
    ]
    slopes = [math.log10(a / b) for a, b in pairwise(errors)]
    assert all(0.9 <= slope <= 1.1 for slope in slopes), slopes


def test_random_sign_is_one_of_the_two_one_sided_estimates():
    network, (x, y), criterion = make(1), batch(), SquaredError()
    rule = converged(0.05, estimator="random-sign")
    drawn = {tuple(gradients(network, rule, criterion, x, y).tolist()) for _ in range(20)}
    centred = gradients(network, converged(0.05), criterion, x, y)
    assert len(drawn) == 2
    mean = torch.tensor(list(drawn), dtype=torch.double).mean(0)
    assert relative_error(mean, centred) < 1e-9


@pytest.mark.parametrize(("readout", "criterion"), READOUTS)
def test_force_and_loss_nudging_agree_to_first_order(readout, criterion):
    network, (x, y) = make(2, readout=readout), batch()
    differences = []
    for beta in (1e-2, 1e-3):
        force = gradients(network, converged(beta, nudging="force"), criterion, x, y)
        loss = gradients(network, converged(beta, nudging="loss"), criterion, x, y)
        differences.append(relative_error(force, loss))
    # Centred estimates: what differs is of second order.
    assert math.log10(differences[0] / differences[1]) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_fast_engine_equals_the_reference(hidden, bias):
    """Synchronous, force held fixed: the same trajectory, so the same numbers up to rounding."""
    network, (x, y) = (
        make(hidden, activation="hard-sigmoid", bias=bias, order="synchronous"),
        batch(),
    )
    steps = {"free_steps": 30, "nudged_steps": 9}
    rule = EquilibriumPropagation(0.1, nudging="force", **steps)
    found = gradients(network, rule, SquaredError(), x, y)
    reference = reference_gradients(
        network, x, y, SquaredError(), beta=0.1, nudging="force", **steps
    )
    assert relative_error(found, torch.cat([g.flatten() for g in reference])) < 1e-10


def test_red_black_gradient_equals_twice_as_many_synchronous_steps():
    network, (x, y) = make(2, activation="hard-sigmoid"), batch()
    rule = EquilibriumPropagation(0.1, free_steps=40, nudged_steps=6, nudging="force")
    found = gradients(network, rule, SquaredError(), x, y)
    reference = reference_gradients(
        network, x, y, SquaredError(), beta=0.1, free_steps=80, nudged_steps=12, nudging="force"
    )
    assert relative_error(found, torch.cat([g.flatten() for g in reference])) < 1e-9


def test_auto_nudging_is_the_loss_of_ours_and_the_force_of_others():
    network, (x, y) = make(2), batch()
    for criterion, nudging in (
        (SquaredError(), "loss"),
        (CrossEntropy(), "loss"),
        (torch.nn.CrossEntropyLoss(), "force"),
    ):
        one, other = (
            gradients(network, EquilibriumPropagation(0.2, nudging=n), criterion, x, y)
            for n in ("auto", nudging)
        )
        assert torch.equal(one, other)


def test_loss_nudging_reaches_the_reference_equilibria():
    network, (x, y) = make(2, activation="hard-sigmoid", order="synchronous"), batch()
    found = gradients(network, converged(0.1, nudging="loss"), SquaredError(), x, y)
    reference = reference_gradients(
        network, x, y, SquaredError(), beta=0.1, free_steps=500, nudged_steps=500
    )
    assert relative_error(found, torch.cat([g.flatten() for g in reference])) < 1e-9


def test_bptt_through_a_settled_phase_is_the_exact_gradient():
    network, (x, y) = make(3), batch()
    exact = gradients(network, EXACT, SquaredError(), x, y)
    for backward_steps in (None, 400):
        found = gradients(network, BPTT(800, backward_steps=backward_steps), SquaredError(), x, y)
        assert relative_error(found, exact) < 1e-9


def test_updates_per_step_equal_the_gradients_of_bptt():
    """Ernoult et al. 2019: EP's update at nudged step t equals BPTT's gradient t steps before the end."""
    network, (x, y) = make(2, order="synchronous", bias=False), batch()
    steps, beta = 10, 1e-5
    clamped = network.clamp(x)
    free = settle(clamped, network.relaxation, steps=3000, tolerance=1e-16).states
    force = torch.nn.functional.one_hot(y, 3) - free[-1]

    def updates(sign):
        nudged = settle(
            clamped,
            network.relaxation,
            steps=steps,
            start=free,
            trace=True,
            nudge=lambda current, state: current.add_(sign * beta * force),
        )
        products = []
        for states in [free, *nudged.trace]:
            below = [x, *states[:-1]]
            products.append([post.t() @ pre for post, pre in zip(states, below, strict=True)])
        return [
            [(b - a) / (sign * beta) for a, b in zip(before, after, strict=True)]
            for before, after in pairwise(products)
        ]

    plus, minus = updates(1.0), updates(-1.0)

    def truncated(length):
        network.learning = BPTT(2000 + length, backward_steps=length)
        loss = 0.5 * (network(x) - torch.nn.functional.one_hot(y, 3)).square().sum()
        found = torch.autograd.grad(loss, list(network.weights), allow_unused=True)
        # The teaching signal has not come down to a layer that is more steps away.
        return [
            torch.zeros_like(w) if g is None else g
            for g, w in zip(found, network.weights, strict=True)
        ]

    previous = [torch.zeros_like(w) for w in network.weights]
    for t in range(steps):
        total = truncated(t + 1)
        for layer, (now, before) in enumerate(zip(total, previous, strict=True)):
            update = 0.5 * (plus[t][layer] + minus[t][layer])
            torch.testing.assert_close(-(now - before), update, atol=1e-8, rtol=1e-6)
        previous = list(total)


@pytest.mark.parametrize("rule", [converged(1e-3), EXACT, BPTT(1000)])
def test_input_gradient_reaches_an_encoder(rule):
    network, (x, y) = make(2, learning=rule), batch()
    x.requires_grad_()
    SquaredError()(network(x), y).backward()
    found, differences = x.grad.clone(), torch.zeros_like(x)
    with torch.no_grad():
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                for sign in (1, -1):
                    moved = x.detach().clone()
                    moved[i, j] += sign * 1e-5
                    differences[i, j] += sign * float(SquaredError()(network(moved), y)) / 2e-5
    assert relative_error(found, differences) < 1e-4


@pytest.mark.parametrize("nudging", ["force", "loss"])
def test_any_weight_of_the_loss_passes_through(nudging):
    """A factor before the loss scales the gradient and changes nothing else; zero gives zero."""
    network, (x, y) = make(1, learning=converged(0.1, nudging=nudging)), batch()

    def scaled(factor):
        loss = factor * SquaredError()(network(x), y)
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))]
        )

    torch.testing.assert_close(scaled(1e-6), 1e-6 * scaled(1.0), rtol=1e-9, atol=0)
    assert float(scaled(0.0).abs().max()) == 0.0


def test_other_criteria_add_to_the_force_of_loss_nudging():
    """Distillation and the like reach the weights also when our own loss nudges."""
    network, (x, y) = make(2), batch()
    old = torch.rand(len(x), 3, dtype=torch.double)

    def criterion(output, target):
        return SquaredError()(output, target) + 0.5 * torch.nn.functional.mse_loss(output, old)

    exact = gradients(network, EXACT, criterion, x, y)
    found = gradients(network, converged(1e-3, nudging="loss"), criterion, x, y)
    assert relative_error(found, exact) < 1e-4


@pytest.mark.filterwarnings("ignore:cross-entropy makes logits grow")
def test_loss_nudging_refuses_a_loss_it_cannot_follow():
    network, (x, y) = make(1, learning=converged(0.1, nudging="loss")), batch()
    with pytest.raises(ConfigurationError, match="nudging='force'"):
        torch.nn.functional.cross_entropy(network(x), y).backward()


@pytest.mark.filterwarnings("ignore:cross-entropy makes logits grow")
def test_ordinary_criteria_work_with_force_nudging():
    network, (x, y) = make(2), batch()
    criterion = torch.nn.functional.cross_entropy
    exact = gradients(network, EXACT, criterion, x, y)
    assert relative_error(gradients(network, converged(1e-3), criterion, x, y), exact) < 1e-5


def test_untied_feedback_learns_forward_and_feedback_weights_alike():
    network, (x, y) = make(2, feedback="untied", bias=False, learning=converged(1e-3)), batch()
    SquaredError()(network(x), y).backward()
    for layer, feedback in enumerate(network.feedback_weights, start=1):
        torch.testing.assert_close(feedback.grad, network.weights[layer].grad)


def test_exact_gradient_of_untied_feedback_equals_bptt():
    network, (x, y) = make(3, feedback="untied"), batch()
    exact = gradients(network, EXACT, SquaredError(), x, y)
    assert relative_error(gradients(network, BPTT(800), SquaredError(), x, y), exact) < 1e-9


def test_check_gradients_reports_every_parameter_and_changes_nothing():
    network, (x, y) = make(2, learning=converged(1e-3, nudging="force")), batch()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = check_gradients(network, x, y, SquaredError())
    assert [row.name for row in report.rows] == [name for name, _ in network.named_parameters()]
    assert report.worst.relative_error <= 1e-5
    assert min(row.cosine for row in report.rows) > 1 - 1e-9
    assert network.learning == converged(1e-3, nudging="force")
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    with pytest.raises(ConfigurationError, match="unknown"):
        check_gradients(network, x, y, SquaredError(), reference="guess")


def test_check_gradients_sees_a_wrong_rule():
    """Feedback that is not the transpose: the cosine of the hidden layer cannot be 1."""
    network, (x, y) = make(1, feedback="untied", learning=converged(1e-3)), batch()
    assert check_gradients(network, x, y, SquaredError()).worst.relative_error > 1e-2


def test_losses_by_hand():
    output = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    labels = torch.tensor([0, 2])
    # 1/2 (0 + 0 + 4) = 2 and 1/2 (0 + 0 + 1) = 0.5; their mean
    assert float(SquaredError()(output, labels)) == pytest.approx(1.25)
    torch.testing.assert_close(
        CrossEntropy()(output, labels), torch.nn.functional.cross_entropy(output, labels)
    )
    rows = torch.nn.functional.one_hot(labels, 3).float()
    assert float(SquaredError()(output, rows)) == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 3]), "units 0 to 2"),
        (torch.tensor([-1, 0]), "units 0 to 2"),
        (torch.tensor([0]), "class indices"),
        (torch.rand(2), "class indices"),
    ],
)
def test_losses_refuse_targets_that_do_not_fit(target, message):
    with pytest.raises(InputError, match=message):
        SquaredError()(torch.zeros(2, 3), target)


@pytest.mark.parametrize(
    ("make_rule", "message"),
    [
        (lambda: EquilibriumPropagation(0.0), "beta"),
        (lambda: EquilibriumPropagation(0.1, estimator="guess"), "centered"),
        (lambda: EquilibriumPropagation(0.1, nudging="hard"), "force"),
        (lambda: EquilibriumPropagation(1.0, nudging="loss"), "beta < 1"),
        (lambda: EquilibriumPropagation(0.1, free_steps=0), "free_steps"),
        (lambda: EquilibriumPropagation(0.1, tolerance=0.0), "tolerance"),
        (lambda: BPTT(5, backward_steps=6), "backward_steps"),
        (lambda: EquilibriumGradient(adjoint_steps=-1), "adjoint_steps"),
    ],
)
def test_rules_refuse_impossible_values(make_rule, message):
    with pytest.raises(ConfigurationError, match=message):
        make_rule()


def test_clipped_outputs_are_counted_and_learn_by_ep_but_not_by_the_derivative():
    """One unit, u = -0.01 < 0, target 1: the slope is 0, but a nudge of 0.1 lifts it above zero."""
    network = MRNN(
        [1, 1], readout="activated", learning=EquilibriumPropagation(0.1, nudging="loss")
    ).double()
    with torch.no_grad():
        network.weights[0].fill_(-0.01)
    x, y = torch.ones(1, 1, dtype=torch.double), torch.ones(1, 1, dtype=torch.double)
    report = check_gradients(network, x, y, SquaredError())
    assert report.silent_outputs == 1.0
    assert report.rows[0].norm == 0.0
    SquaredError()(network(x), y).backward()
    # s+ = (u + beta y) / (1 + beta) = 0.09 / 1.1, s- = 0; gradient -(s+ - s-) x / (2 beta)
    assert float(network.weights[0].grad) == pytest.approx(-0.09 / 1.1 / 0.2)
    smooth = make(1, activation="tanh", readout="activated")
    assert check_gradients(smooth, *batch(), SquaredError()).silent_outputs == 0.0


def test_two_losses_of_one_kind_are_followed_with_the_sum_of_their_weights():
    network, (x, y) = make(1, learning=converged(0.1, nudging="loss")), batch()
    other = (y + 1) % 3

    def twice(output, target):
        return 0.3 * SquaredError()(output, target) + 0.7 * SquaredError()(output, other)

    def once(output, target):
        rows = 0.3 * torch.eye(3)[target] + 0.7 * torch.eye(3)[other]
        return SquaredError()(output, rows.double())

    found = gradients(network, network.learning, twice, x, y)
    torch.testing.assert_close(found, gradients(network, network.learning, once, x, y))


def test_losses_of_two_kinds_cannot_both_be_followed():
    network, (x, y) = make(1, learning=converged(0.1, nudging="loss")), batch()
    output = network(x)
    with pytest.raises(ConfigurationError, match="one of the two"):
        (SquaredError()(output, y) + CrossEntropy()(output, y)).backward()


def test_a_retained_graph_gives_the_same_gradient_twice():
    network, (x, y) = make(1, learning=converged(0.1, nudging="loss")), batch()
    loss = SquaredError()(network(x), y)
    first = torch.autograd.grad(loss, network.weights[0], retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, network.weights[0])[0], first)


@pytest.mark.parametrize("rule", [converged(0.1), EXACT])
def test_a_loss_that_is_not_finite_is_named(rule):
    network, (x, _) = make(1, learning=rule), batch()
    with pytest.raises(DivergenceError, match="look at the loss"):
        (network(x).sum() * float("nan")).backward()


def test_the_exact_gradient_says_when_its_adjoint_did_not_converge():
    rule = EquilibriumGradient(free_steps=500, adjoint_steps=3, tolerance=1e-9)
    network, (x, y) = make(2, learning=rule), batch()
    with pytest.warns(ContinualEPWarning, match="adjoint did not converge") as caught:
        for _ in range(3):
            SquaredError()(network(x), y).backward()
    assert len(caught) == 1


def test_an_infinite_nudge_is_refused():
    with pytest.raises(ConfigurationError, match="finite"):
        EquilibriumPropagation(float("inf"))


@pytest.mark.parametrize("wants_input", [False, True])
def test_a_step_has_no_products_but_those_it_needs(wants_input):
    batch, inputs, hidden, outputs, free, nudged = 4, 7, 5, 3, 6, 2
    rule = EquilibriumPropagation(0.1, free_steps=free, nudged_steps=nudged)
    network = MRNN([inputs, hidden, outputs], readout="activated", learning=rule)
    x = torch.rand(batch, inputs, requires_grad=wants_input)
    y = torch.randint(outputs, (batch,))
    with FlopCounterMode(display=False) as counter:
        SquaredError()(network(x), y).backward()
    large, small = 2 * batch * inputs * hidden, 2 * batch * hidden * outputs
    drive, weights = large, large + 2 * small
    relaxation = 2 * small * (free + 2 * nudged)
    expected = drive + relaxation + weights + (large if wants_input else 0)
    assert counter.get_total_flops() == expected


def test_dendrites_drive_their_first_branches_once():
    rule = EquilibriumPropagation(0.1, free_steps=6, nudged_steps=2)
    network = DendriticRNN([7, 5, 3], readout="activated", branches=4, learning=rule)
    x, y = torch.rand(4, 7), torch.randint(3, (4,))
    with FlopCounterMode(display=False) as counter:
        SquaredError()(network(x), y).backward()
    large, small = 2 * 4 * 7 * 5 * 4, 2 * 4 * 5 * 3 * 4
    # Up and down at each step, with what is open at rest before the first of each phase; then the weights
    # of both signs, whose open branches are found once more.
    relaxation = small * (2 * 6 + 1 + 2 * (2 * 2 + 1))
    assert counter.get_total_flops() <= 2 * large + relaxation + 4 * small
