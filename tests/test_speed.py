"""What makes things fast and changes nothing: CUDA graphs, ensembles, fewer bits."""

import copy
from dataclasses import replace

import pytest
import torch
from batched_nights import sleep_replay_ensemble
from batched_seeds import train_ensemble
from torch.utils._python_dispatch import TorchDispatchMode

from continual_ep.errors import ConfigurationError, DivergenceError, InputError
from continual_ep.learning import (
    BPTT,
    CrossEntropy,
    EnsembleSGD,
    EquilibriumPropagation,
    LinearResponse,
    SquaredError,
    StochasticEP,
)
from continual_ep.networks import MRNN, ConvolutionalRNN, DendriticRNN, Ensemble
from continual_ep.relaxation import Relaxation, TimeSteps, settle
from continual_ep.relaxation.products import rounded
from continual_ep.sleep import SleepParameters, sleep_replay
from continual_ep.streams import class_incremental

RULE = EquilibriumPropagation(0.2, free_steps=30, nudged_steps=8)


class Calls(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._schema.name.removeprefix("aten::"))
        return function(*args, **(kwargs or {}))

    def count(self, *names):
        return sum(name in names for name in self.names)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def network(sizes=(6, 9, 7, 3), seed=0, **options):
    options = {"learning": RULE, "readout": "activated", **options}
    return MRNN(sizes, generator=generator(seed), **options)


def batch(seed=0, samples=5, inputs=6, classes=3):
    drawn = generator(100 + seed)
    x = torch.rand(samples, inputs, generator=drawn)
    return x, torch.randint(classes, (samples,), generator=drawn)


def gradients(model, x, y, criterion=None):
    model.zero_grad()
    (criterion or SquaredError())(model(x), y).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def with_cuda_graphs(model):
    model.relaxation = replace(model.relaxation, cuda_graphs=True)
    return model


# -- recordings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        lambda rule: network(learning=rule),
        lambda rule: network(learning=rule, bias=True, readout="softmax"),
        lambda rule: network(learning=rule, feedback="untied", dt=TimeSteps(mean=0.5)),
        lambda rule: DendriticRNN(
            [6, 8, 3], branches=2, learning=rule, generator=generator(1), readout="activated"
        ),
        lambda rule: ConvolutionalRNN(
            (1, 8, 8), channels=[3], classes=3, learning=rule, generator=generator(1)
        ),
        lambda rule: Ensemble([network(learning=rule, seed=s) for s in range(2)]),
    ],
    ids=["mrnn", "softmax", "untied", "dendritic", "convolutional", "ensemble"],
)
@pytest.mark.parametrize("nudging", ["force", "loss"])
def test_a_recorded_step_is_the_step_itself(build, nudging):
    model = build(replace(RULE, nudging=nudging))
    recorded = with_cuda_graphs(copy.deepcopy(model))
    inputs = 64 if isinstance(model, ConvolutionalRNN) else 6
    criterion = CrossEntropy() if model.readout_parameters else SquaredError()
    for number in range(3):  # the kept tensors are overwritten from batch to batch
        x, y = batch(number, inputs=inputs)
        x = x.view(-1, 1, 8, 8) if inputs == 64 else x
        expected = gradients(model, x, y, criterion)
        found = gradients(recorded, x, y, criterion)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
        with torch.no_grad():
            for trained in (model, recorded):
                for p in trained.parameters():
                    p.sub_(0.1 * (p.grad if p.grad is not None else 0.0))
    recorded.check_recorded()
    assert recorded.settling.steps == RULE.free_steps


def test_two_recorded_forward_passes_before_a_backward_pass():
    model, (x, y), (other, labels) = network(), batch(0), batch(1)
    recorded = with_cuda_graphs(copy.deepcopy(model))
    loss = sum(SquaredError()(model(a), b) for a, b in ((x, y), (other, labels)))
    loss.backward()
    loss = sum(SquaredError()(recorded(a), b) for a, b in ((x, y), (other, labels)))
    loss.backward()
    for a, b in zip(recorded.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_recorded_step_brings_nothing_to_the_host():
    model = with_cuda_graphs(
        network(learning=EquilibriumPropagation(0.2, free_steps=10, nudged_steps=4))
    )
    x, y = batch()
    dense = torch.nn.functional.one_hot(y, 3).float()
    gradients(model, x, dense)
    with Calls() as calls:
        SquaredError()(model(x), dense).backward()
    assert calls.count("_local_scalar_dense", "item", "is_nonzero", "nonzero") == 0
    assert calls.count("mm", "addmm") > 0


def test_recorded_phases_report_later():
    model = with_cuda_graphs(network())
    assert model.settling is None
    model(batch()[0])
    assert model.settling is None  # nothing is brought to the host yet
    model.check_recorded()
    assert model.settling.settled
    model(torch.full((5, 6), torch.nan))
    model(batch()[0])  # what was not finite is not forgotten
    with pytest.raises(DivergenceError, match="recorded phase"):
        model.check_recorded()


@pytest.mark.parametrize(
    "rule",
    [replace(RULE, tolerance=1e-4), replace(RULE, estimator="random-sign")],
)
def test_phases_that_differ_in_length_cannot_be_recorded(rule):
    model = with_cuda_graphs(network(learning=rule))
    with pytest.raises(ConfigurationError, match="recorded"):
        model(batch()[0])


# -- what a step asks for ----------------------------------------------------------------------------


def calls_of_a_step(free_steps):
    model = network(learning=EquilibriumPropagation(0.2, free_steps=free_steps, nudged_steps=4))
    x, y = batch()
    gradients(model, x, y)
    with Calls() as calls:
        SquaredError()(model(x), y).backward()
    return calls


def test_steps_allocate_nothing_and_ask_for_little():
    short, long = calls_of_a_step(10), calls_of_a_step(30)
    made = ("empty", "zeros", "clone", "empty_like", "zeros_like", "cat", "new_zeros")
    assert short.count(*made) == long.count(*made)
    assert short.count("_local_scalar_dense") == long.count("_local_scalar_dense")
    # Three layers: four products and three activations, and not a call more.
    assert len(long.names) - len(short.names) == 20 * 7


# -- ensembles ---------------------------------------------------------------------------------------


KINDS = {
    "plain": {},
    "biased": {"bias": True, "readout": "linear"},
    "untied": {"feedback": "untied", "dt": 0.5},
    "softmax": {"readout": "softmax", "bias": True},
    "own-time-steps": {"dt": TimeSteps(mean=0.5), "gain": 0.5},
    "scaled": {"feedback_scale": 0.5, "learning": replace(RULE, corrected=True)},
    "loss": {"learning": replace(RULE, nudging="loss")},
    "linear-response": {"learning": LinearResponse(30, 8)},
    "bptt": {"learning": BPTT(free_steps=30)},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shared", [True, False])
def test_members_learn_as_if_they_were_alone(options, shared):
    alone = [network(seed=seed, **options).double() for seed in range(3)]
    ensemble = Ensemble(alone)
    optimizer = EnsembleSGD(ensemble.parameters(), [0.1, 0.2, 0.3], 0.5, 0.01)
    own = [
        torch.optim.SGD(member.parameters(), lr, momentum=0.5, weight_decay=0.01)
        for member, lr in zip(alone, [0.1, 0.2, 0.3], strict=True)
    ]
    criterion = CrossEntropy() if options.get("readout") == "softmax" else SquaredError()
    for number in range(3):
        batches = [batch(10 * number + (0 if shared else m)) for m in range(3)]
        x = torch.stack([x for x, _ in batches]).double()
        y = torch.stack([y for _, y in batches])
        optimizer.zero_grad()
        criterion(ensemble(x[0] if shared else x), y[0] if shared else y).backward()
        optimizer.step()
        for m, (member, sgd) in enumerate(zip(alone, own, strict=True)):
            sgd.zero_grad()
            criterion(member(x[m]), y[m]).backward()
            sgd.step()
    for member, same in zip(alone, ensemble.members, strict=True):
        torch.testing.assert_close(same.state_dict(), member.state_dict(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(same(x[0]), member(x[0]), rtol=1e-9, atol=1e-12)


def test_members_may_have_a_beta_each():
    members, (x, y) = [network(seed=s).double() for s in range(2)], batch()
    ensemble = Ensemble(members)
    ensemble.learning = replace(RULE, beta=(0.1, 0.4))
    SquaredError()(ensemble(x.double()), y).backward()
    for number, (member, beta) in enumerate(zip(members, (0.1, 0.4), strict=True)):
        member.learning = replace(RULE, beta=beta)
        expected = gradients(member, x.double(), y)
        found = [p.grad[number] for p in ensemble.parameters()]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ConfigurationError, match="one for each member"):
        ensemble.learning = replace(RULE, beta=(0.1, 0.2, 0.3))
        SquaredError()(ensemble(x.double()), y).backward()


def test_members_sleep_as_if_they_were_alone():
    alone = [network((16, 20, 3), seed=seed, gain=3.0) for seed in range(2)]
    ensemble = Ensemble(alone)
    means = [torch.rand(16, generator=generator(s)) for s in range(2)]
    strengths = [SleepParameters(steps=60), SleepParameters(steps=60, increase=0.01)]
    diaries = sleep_replay_ensemble(ensemble, means, strengths, seeds=[3, 4])
    for number, member in enumerate(alone):
        before = copy.deepcopy(member.state_dict())
        diary = sleep_replay(member, means[number], strengths[number], seed=3 + number)
        assert torch.equal(diary.counts, diaries[number].counts)
        assert any(not torch.equal(a, before[key]) for key, a in member.state_dict().items())
        torch.testing.assert_close(
            ensemble.member(number).state_dict(), member.state_dict(), rtol=0, atol=0
        )


def test_ensembles_refuse_what_does_not_fit():
    with pytest.raises(ConfigurationError, match="at least one"):
        Ensemble([])
    with pytest.raises(ConfigurationError, match="differs"):
        Ensemble([network(), network(activation="tanh")])
    ensemble = Ensemble([network(seed=s) for s in range(2)])
    with pytest.raises(InputError, match="2 members"):
        ensemble(torch.rand(3, 5, 6))
    with pytest.raises(InputError, match="NaN"):
        ensemble(torch.full((2, 5, 6), torch.nan))
    with pytest.raises(ConfigurationError, match="cannot learn by StochasticEP"):
        Ensemble([network(learning=StochasticEP(averaged_steps=2))])(torch.rand(5, 6))
    with pytest.raises(ConfigurationError, match="no member 2"):
        ensemble.member(2)
    with pytest.raises(ConfigurationError, match="1 learning rates"):
        EnsembleSGD(ensemble.parameters(), [0.1])
    with pytest.raises(ConfigurationError, match="1 seeds"):
        sleep_replay_ensemble(ensemble, torch.rand(6), seeds=[0])


# -- fewer bits --------------------------------------------------------------------------------------


def test_rounding_keeps_so_many_bits():
    values = torch.tensor([1.0 + 2**-7, 1.0 + 2**-8 + 2**-12, 1.0 + 2**-10, 1.0 + 2**-11, -3.0])
    assert rounded(values, "bfloat16").tolist() == [1.0 + 2**-7, 1.0 + 2**-7, 1.0, 1.0, -3.0]
    assert rounded(values, "tf32").tolist()[2:] == [1.0 + 2**-10, 1.0 + 2**-10, -3.0]
    assert rounded(values, "float32") is values


@pytest.mark.parametrize("kind", ["mrnn", "dendritic", "ensemble"])
def test_fewer_bits_in_products_and_all_bits_in_states(kind):
    model = {
        "mrnn": lambda: network(),
        "dendritic": lambda: DendriticRNN(
            [6, 8, 3], readout="activated", branches=2, learning=RULE, generator=generator(1)
        ),
        "ensemble": lambda: Ensemble([network(seed=s) for s in range(2)]),
    }[kind]()
    x, y = batch()
    exact = torch.cat([g.flatten() for g in gradients(model, x, y)])
    state, errors = model.settle(model.checked_input(x)).states[0], []
    for products in ("tf32", "bfloat16"):
        model.relaxation = replace(model.relaxation, products=products)
        found = torch.cat([g.flatten() for g in gradients(model, x, y)])
        errors.append(float((found - exact).norm() / exact.norm()))
        moved = float((model.settle(model.checked_input(x)).states[0] - state).abs().max())
        assert 0 < moved < 0.03
    assert 0 < errors[0] < errors[1] < 0.5
    with pytest.raises(ConfigurationError, match="float32"):
        model.double()(x.double())


def test_relaxation_refuses_what_it_does_not_know():
    with pytest.raises(ConfigurationError, match="products"):
        Relaxation(products="float8")


def test_a_phase_that_is_not_checked_says_how_much_it_still_moved():
    model, (x, _) = network(), batch()
    clamped = model.clamp(x)
    quiet = settle(clamped, model.relaxation, steps=6, check_finite=False)
    loud = settle(clamped, model.relaxation, steps=6)
    assert float(quiet.change) == loud.residual


@pytest.mark.parametrize("options", [{"products": "tf32"}, {"products": "bfloat16"}])
def test_bptt_refuses_what_it_would_not_do(options):
    model = network(learning=BPTT(free_steps=5))
    model.relaxation = replace(model.relaxation, **options)
    with pytest.raises(ConfigurationError, match="BPTT"):
        model(batch()[0])


# -- whole streams -----------------------------------------------------------------------------------


def digits_ensemble(seeds):
    rule = EquilibriumPropagation(0.2, free_steps=12, nudged_steps=4)
    return Ensemble([network((64, 30, 10), seed=seed, gain=0.45, learning=rule) for seed in seeds])


def test_an_ensemble_of_seeds_is_its_seeds_trained_alone():
    stream = class_incremental("digits", 5, per_class=30)
    night = SleepParameters(steps=200)
    options = {"learning_rates": 0.2, "batch_size": 10, "epochs": 8, "sleep": night}
    ensemble = digits_ensemble([0, 1])
    records = train_ensemble(ensemble, stream, seeds=[0, 1], **options)
    for seed, record in enumerate(records):
        own = digits_ensemble([seed])
        (alone,) = train_ensemble(own, stream, seeds=[seed], **options)
        assert abs(record.awake - alone.awake).max() < 0.02
        assert record.trained == alone.trained == [0, 1, 2, 3, 4]
        assert record.awake[0, 0] > 0.9  # it does learn
        assert any(record.slept) and (record.asleep != record.awake).any()
        assert record.summary()["average_accuracy"] > 0.1
    with pytest.raises(ConfigurationError, match="1 seeds"):
        train_ensemble(ensemble, stream, seeds=[0])
