"""A night against hand-computed steps, the dense reference, and what must stay as it was."""

import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.options import options_from, plain_values
from continual_ep.sleep import PRESETS, SleepParameters, layer_gains, sleep_replay
from continual_ep.sleep.calibration import calibrated_thresholds
from continual_ep.sleep.chain import ChainState, SpikeTrain
from continual_ep.sleep.engines import layerwise, stepwise
from continual_ep.sleep.layers import Chain, chain_of_synapses
from continual_ep.sleep.night import run_sleep
from continual_ep.sleep.plasticity import GatedHebbian, gate, gate_limits
from continual_ep.sleep.prepare import night_generator
from continual_ep.sleep.reference import initial_state, sleep_step
from continual_ep.sleep.simulation import make_layer, spikes_at
from continual_ep.synapses import Synapses


def layers_of(*weights):
    return [
        Synapses(f"w{n}", nn.Parameter(w.clone()), shape=w.shape[1:]) for n, w in enumerate(weights)
    ]


def night(
    weights, spikes, parameters, thresholds, *, gains=None, constants=None, plastic=None, steps=None
):
    """Run the engine on given input spikes; the diary, the weights and the chain afterwards."""
    layers = [make_layer(layer, parameters.rule) for layer in layers_of(*weights)]
    chain = ChainState(
        layers,
        SpikeTrain([spikes.numpy().astype(bool)]),
        thresholds,
        gains or [1.0] * len(weights),
        constants or [0.0] * len(weights),
        plastic or [True] * len(weights),
        np.float64,
    )
    diary = run_sleep([chain], parameters, steps or len(spikes))
    return diary, [torch.from_numpy(s.weight().copy()) for s in layers], chain


def reference(weights, spikes, parameters, thresholds, **options):
    state, history = initial_state(weights), []
    options.setdefault("gains", [1.0] * len(weights))
    for row in spikes:
        state = sleep_step(state, row, parameters, thresholds=thresholds, **options)
        history.append([int(row.sum()), *(int(s.sum()) for s in state.spikes)])
    return state, torch.tensor(history)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from([np.float32, np.float64]),
    threshold=st.sampled_from([0.02, 0.2]),
    width=st.sampled_from([1e-3, 0.05]),
    biases=st.sampled_from(["ignore", "current"]),
    masked=st.booleans(),
    threads=st.sampled_from([1, 2]),
)
@settings(max_examples=40, deadline=None)
def test_layer_by_layer_is_step_by_step(
    sizes, seed, dtype, threshold, width, biases, masked, threads
):
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(seed)
    layers = [
        Synapses(
            f"w{n}",
            nn.Parameter(torch.randn(b, a, generator=generator).to(torch.float32) * 0.1),
            shape=(a,),
            mask=(torch.rand(b, a, generator=generator) < 0.6).float() if masked else None,
        )
        for n, (a, b) in enumerate(pairwise(sizes))
    ]
    for layer in layers:
        layer.weight.data = layer.weight.data.to(getattr(torch, np.dtype(dtype).name))
    spikes = (torch.rand(200, sizes[0], generator=generator) < 0.15).numpy()
    parameters = SleepParameters(
        increase=0.01, decrease=0.002, gate_width=width, biases=biases, leak=0.9
    )

    def chain():
        return ChainState(
            [make_layer(layer, parameters.rule) for layer in layers],
            SpikeTrain([spikes[:70], spikes[70:]]),
            [threshold] * len(layers),
            [1.0, 1.7, 0.6][: len(layers)],
            [np.linspace(-0.01, 0.02, b) for b in sizes[1:]],
            [n != 1 for n in range(len(layers))],
            dtype,
        )

    by_step, by_layer = chain(), chain()
    counts = stepwise.run([by_step], parameters, 200)
    assert layerwise.can_run([by_layer], parameters, "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layered = layerwise.run([by_layer], parameters, 200)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(layered, counts)
    # Two libraries' exponentials differ in the last bit of double precision, which single does not see.
    limit = 0.0 if dtype is np.float32 else 1e-12
    pairs = [
        *((a.weight(), b.weight()) for a, b in zip(by_step.layers, by_layer.layers, strict=True)),
        *zip(by_step.membranes, by_layer.membranes, strict=True),
        *zip(by_step.unit_counts, by_layer.unit_counts, strict=True),
    ]
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=0, atol=limit)


@pytest.mark.parametrize(
    "parameters", [SleepParameters(feedback=True), SleepParameters(quiet_steps=5)]
)
def test_feedback_and_quiet_nights_go_step_by_step(parameters):
    spikes = torch.rand(10, 3) < 0.5
    _, _, chain = night([torch.rand(2, 3)], spikes, parameters, [0.5])
    assert not layerwise.can_run([chain], parameters, "cpu")


def test_without_a_place_for_compiled_code_it_is_compiled_anew(monkeypatch):
    caching = pytest.importorskip("numba.core.caching")
    from continual_ep.sleep.engines.numba_kernels import compiled

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        pytest.importorskip("numba").njit(cache=True)(lambda x: x)
    assert compiled(lambda x: x + 1)(2) == 3


@pytest.mark.parametrize("largest", [0.0, 1e-4, 0.03, 5.0])
@pytest.mark.parametrize("width", [1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_outside_of_its_limits_the_gate_is_two_or_moves_nothing(largest, width, dtype):
    low, high = gate_limits(largest, width, dtype)
    assert gate(np.array([low * width], dtype), width)[0] == 2.0
    weight = np.nextafter(dtype(high * width), dtype(np.inf))
    change = gate(np.array([weight]), width)[0] * dtype(largest)
    assert weight + change == weight - change == weight


class Constant:
    """Synapses of units that spike change by a constant, in favour of spiking inputs."""

    def change(self, weight, share):
        return np.broadcast_to(0.01 * share - 0.004 * (1 - share), weight.shape)


class Halved(GatedHebbian):
    def change(self, weight, share):
        return super().change(weight, share) / 2


@pytest.mark.parametrize("rule", [Constant(), Halved(0.01, 0.002, 0.05)])
@pytest.mark.parametrize("numba", [True, False])
def test_another_plasticity_never_runs_on_a_kernel_of_the_published_one(rule, numba, monkeypatch):
    if not numba:
        monkeypatch.setattr(layerwise.importlib.util, "find_spec", lambda name: None)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 12, generator=generator, dtype=torch.float64) * 0.1
    spikes = torch.rand(80, 12, generator=generator) < 0.2
    parameters = SleepParameters(increase=0.01, decrease=0.002, gate_width=0.05, leak=0.9)
    _, (usual,), _ = night([weight], spikes, parameters, [0.1])
    _, (changed,), _ = night([weight], spikes, replace(parameters, plasticity=rule), [0.1])
    # The night in dense formulas.
    expected, membrane = weight.numpy().copy(), np.zeros(6)
    for below in spikes.numpy():
        membrane = 0.9 * membrane + expected @ below
        fired = membrane >= 0.1
        expected[fired] += rule.change(expected[fired], below.astype(float))
        membrane[fired] = 0.0
    np.testing.assert_allclose(changed, expected, atol=1e-12)
    assert not np.allclose(changed, usual, atol=1e-3)
    models = [mlp(16, 20, 4), mlp(16, 20, 4)]
    for model, plasticity in zip(models, (None, rule), strict=True):
        constants = SleepParameters(steps=100, plasticity=plasticity)
        sleep_replay(model, torch.rand(16, generator=generator).fill_(0.5), constants)
    assert not torch.equal(models[0][1].weight, models[1][1].weight)


def test_the_gate_is_two_below_one_at_and_zero_above_zero():
    weights = np.array([-1.0, -0.005, 0.0, 0.001, 0.007, 5.0])
    sigmoid = 1 / (1 + math.exp(5.0))
    expected = [2.0, 2 - 2 * sigmoid, 1.0, 2 / (1 + math.e), 2 / (1 + math.exp(7)), 0.0]
    np.testing.assert_allclose(gate(weights, 0.001), expected, atol=1e-12)


def test_one_step_by_hand():
    # Unit 0 gets 0.5 - 0.1 = 0.4 from inputs 0 and 1 and spikes at 0.4; unit 1 gets -0.2 and does not.
    weight = torch.tensor([[0.5, -0.1, -0.3], [-0.2, 0.0, 0.9]], dtype=torch.float64)
    parameters = SleepParameters(increase=0.01, decrease=0.001)
    spikes = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    diary, (changed,), chain = night([weight], spikes, parameters, [0.4])
    # Excitation stays; an inhibited active input gains 2 inc; an inhibited silent one loses 2 dec.
    expected = [[0.5, -0.1 + 0.02, -0.3 - 0.002], [-0.2, 0.0, 0.9]]
    torch.testing.assert_close(
        changed, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0
    )
    assert diary.counts.tolist() == [[2, 1]]
    # The unit that fired starts again at 0, the other keeps its potential.
    np.testing.assert_allclose(chain.membranes[0], [0.0, -0.2])


def test_layers_follow_within_the_same_step_and_membranes_leak():
    # Each input spike brings 0.5: in the second step 0.5 * 0.5 + 0.5 reaches 0.75.
    first = torch.tensor([[0.5]], dtype=torch.float64)
    second = torch.tensor([[1.0]], dtype=torch.float64)
    parameters = SleepParameters(leak=0.5)
    spikes = torch.ones(3, 1, dtype=torch.float64)
    diary, _, _ = night([first, second], spikes, parameters, [0.75, 1.0])
    assert diary.counts.tolist() == [[1, 0, 0], [1, 1, 1], [1, 0, 0]]
    assert diary.spikes == (1, 1)


def test_feedback_arrives_one_step_later_through_the_transpose():
    # Step 1: both layers fire. Step 2: no input, but the layer above sends 0.7 back to unit 0 only.
    first = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    second = torch.tensor([[0.7, 0.1]], dtype=torch.float64)
    spikes = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    parameters = SleepParameters(feedback=True)
    diary, _, chain = night([first, second], spikes, parameters, [0.7, 0.75])
    assert diary.counts.tolist() == [[1, 2, 1], [0, 1, 0]]
    np.testing.assert_allclose(chain.membranes[0], [0.0, 0.1])


def test_untied_feedback_weights_are_used_and_unchanged():
    layers = layers_of(torch.ones(2, 1), torch.ones(1, 2))
    own = torch.tensor([[0.25, -3.0]])
    layer = Synapses("above", layers[1].weight, feedback=own, shape=(2,))
    simulated = make_layer(layer, SleepParameters().rule)
    np.testing.assert_allclose(simulated.feedback_current(np.array([0])), [0.25, -3.0])
    simulated.learn(np.array([0]), spikes_at(np.array([0]), 2))
    np.testing.assert_allclose(simulated.feedback_current(np.array([0])), [0.25, -3.0])


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("sizes", [(12, 7), (20, 15, 6), (9, 8, 7, 5)])
def test_the_engine_equals_the_dense_reference(sizes, feedback):
    torch.manual_seed(3)
    weights = [torch.randn(b, a, dtype=torch.float64) * 0.1 for a, b in pairwise(sizes)]
    spikes = (torch.rand(150, sizes[0]) < 0.2).double()
    parameters = SleepParameters(feedback=feedback, biases="current")
    thresholds = [0.15] * len(weights)
    gains = [1.0, 1.3, 0.7][: len(weights)]
    constants = [torch.full((b,), 0.001, dtype=torch.float64) for b in sizes[1:]]
    plastic = [True, False, True][: len(weights)]
    state, history = reference(
        weights,
        spikes,
        parameters,
        thresholds,
        gains=gains,
        currents=constants,
        plastic=plastic,
    )
    diary, changed, chain = night(
        weights,
        spikes,
        parameters,
        thresholds,
        gains=gains,
        constants=[c.numpy() for c in constants],
        plastic=plastic,
    )
    assert history[:, 1:].sum(0).min() > 3, "the case must be lively enough to mean something"
    torch.testing.assert_close(diary.counts.long(), history, atol=0, rtol=0)
    for mine, dense in zip(changed, state.weights, strict=True):
        torch.testing.assert_close(mine, dense, atol=1e-12, rtol=0)
    for mine, dense in zip(chain.membranes, state.membranes, strict=True):
        np.testing.assert_allclose(mine, dense.numpy(), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    density=st.floats(0.02, 0.9),
    threshold=st.floats(0.05, 2.0),
    steps=st.integers(1, 30),
)
def test_silent_units_and_excitatory_synapses_stay_as_they_are(seed, density, threshold, steps):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 9, dtype=torch.float64, generator=generator)
    spikes = (torch.rand(steps, 9, generator=generator) < density).double()
    diary, (changed,), _ = night([weight], spikes, SleepParameters(), [threshold])
    silent = diary.unit_counts[0] == 0
    assert torch.equal(changed[silent], weight[silent])
    excitatory = weight > 0.1
    torch.testing.assert_close(changed[excitatory], weight[excitatory], atol=1e-12, rtol=0)
    # No step moves a synapse by more than twice the increase.
    spikes_of_unit = diary.unit_counts[0][:, None].double()
    assert bool(((changed - weight).abs() <= 0.02 * spikes_of_unit + 1e-12).all())
    assert torch.equal(diary.unit_counts[0].sum(), diary.counts[:, 1].sum())


def test_the_diary_adds_up():
    torch.manual_seed(0)
    weights = [torch.randn(8, 10, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)]
    spikes = (torch.rand(60, 10) < 0.3).double()
    diary, changed, _ = night(weights, spikes, SleepParameters(), [0.5, 0.5])
    assert diary.spikes == tuple(int(c.sum()) for c in diary.unit_counts)
    assert int(diary.counts[:, 0].sum()) == int(spikes.sum())
    for new, old, change, relative in zip(
        changed, weights, diary.weight_change, diary.relative_change, strict=True
    ):
        assert change == pytest.approx(float((new - old).norm()))
        assert relative == pytest.approx(change / float(old.norm()))


def test_night_ends_after_quiet_steps():
    weight = torch.ones(1, 1, dtype=torch.float64)
    spikes = torch.zeros(100, 1, dtype=torch.float64)
    spikes[:5] = 1.0
    diary, _, _ = night([weight], spikes, SleepParameters(quiet_steps=20), [1.0])
    assert (diary.steps, diary.stopped_early, diary.died_out) == (25, True, 5)
    diary, _, _ = night([weight], spikes, SleepParameters(), [1.0])
    assert (diary.steps, diary.stopped_early) == (100, False)


def test_published_gains_divide_by_the_ratio_before():
    # s = (2, 3, 12): r_1 = 2, r_2 = 3 / 2, r_3 = 12 / 1.5 = 8 (not 12 / 3).
    assert layer_gains([0.5, 3.0, 1.0], [2.0, 1.0, 12.0], 24.0) == pytest.approx([12.0, 16.0, 3.0])
    with pytest.raises(ConfigurationError, match="layer 2"):
        layer_gains([1.0, 0.0], [1.0, 0.0], 1.0)


def test_the_mnist_preset_has_the_published_constants():
    mnist = SleepParameters(preset="tadros2022:mnist")
    assert mnist.spike_scale == pytest.approx(0.479, abs=5e-4)
    assert [mnist.night_steps(k) for k in range(1, 6)] == [15000, 20000, 25000, 30000, 35000]
    assert mnist.window == 11
    assert replace(SleepParameters(preset="tadros2022"), preset="tadros2022:mnist") == mnist
    assert SleepParameters(preset="tadros2022:cross-modal").night_steps(2) == 255
    assert {SleepParameters(preset=name).preset for name in PRESETS} == set(PRESETS)


def test_options_that_are_given_go_before_a_preset():
    mnist = SleepParameters(preset="tadros2022:mnist", growth=0.75, window="whole")
    assert (mnist.steps, mnist.growth, mnist.window) == (15000, 0.75, None)
    changed = SleepParameters(preset=mnist, steps=7)
    assert changed == replace(mnist, steps=7) and changed.preset == "tadros2022:mnist"
    assert options_from(SleepParameters, plain_values(mnist)) == mnist
    assert options_from(SleepParameters, {"thresholds": "calibrated"}).thresholds is None


def test_unknown_presets_constants_and_values_are_refused():
    with pytest.raises(ConfigurationError, match="tadros2022:mnist"):
        SleepParameters(preset="tadros")
    with pytest.raises(ConfigurationError, match="did you mean 'steps'"):
        options_from(SleepParameters, {"step": 1})
    for wrong in (
        {"steps": 0},
        {"steps": 1.5},
        {"leak": 1.1},
        {"firing_rate": 0.0},
        {"increase": -1.0},
        {"window": "round"},
        {"biases": "delete"},
        {"thresholds": (1.0, 0.0)},
        {"quiet_steps": 0},
        {"max_rate": float("nan")},
    ):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            SleepParameters(**wrong)


def test_calibration_hits_the_quantile_and_the_mean_of_the_strongest():
    # One input, always on: units get the currents 0.01 ... 1.00 at every step.
    first = torch.arange(1, 101, dtype=torch.float64)[:, None] / 100
    second = torch.full((3, 100), 0.5, dtype=torch.float64)
    parameters = SleepParameters(
        firing_rate=0.1, output_threshold=0.4, leak=0.0, calibration_steps=10
    )
    layers = [make_layer(layer, parameters.rule) for layer in layers_of(first, second)]
    always = iter([spikes_at(np.array([0]), 1)] * 10)
    hidden, output = calibrated_thresholds(
        layers, always, parameters, constants=[0.0, 0.0], output=True, dtype=np.float64
    )
    assert 0.90 <= hidden <= 0.91
    # Ten units fire at each step, each brings 0.5: 0.4 times 5.
    assert output == pytest.approx(2.0)


def mlp(*sizes, bias=False, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Flatten()]
    for pre, post in pairwise(sizes):
        layers += [nn.Linear(pre, post, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_a_seed_gives_the_same_night_and_leaves_the_global_stream_alone():
    mean = torch.rand(8, 8, generator=torch.Generator().manual_seed(1))
    results, diaries = [], []
    for seed in (5, 5, 6):
        model = mlp(64, 30, 10)
        before = torch.get_rng_state()
        diaries.append(sleep_replay(model, mean, SleepParameters(steps=300), seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
        results.append(model[1].weight.detach().clone())
    assert torch.equal(results[0], results[1])
    assert torch.equal(diaries[0].counts, diaries[1].counts)
    assert not torch.equal(results[0], results[2])
    assert night_generator(0, 1).initial_seed() != night_generator(0, 2).initial_seed()


def test_frozen_and_excluded_layers_transmit_but_stay():
    mean = torch.rand(64)
    model = mlp(64, 30, 20, 10)
    model[1].weight.requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    diary = sleep_replay(model, mean, SleepParameters(steps=300), exclude=["3"])
    after = list(model.parameters())
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[2], before[2])
    assert min(diary.spikes) > 0
    assert diary.weight_change[:2] == (0.0, 0.0)
    with pytest.raises(ConfigurationError, match="exclude names 'head'"):
        sleep_replay(model, mean, exclude=["head"])
    with pytest.raises(ConfigurationError, match="nothing is left to sleep"):
        sleep_replay(model, mean, exclude=["1", "3", "5"])


def test_all_inhibited_or_silent_networks_sleep_without_harm():
    model = mlp(16, 5, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(-0.5)
    before = [p.detach().clone() for p in model.parameters()]
    diary = sleep_replay(model, torch.rand(16), SleepParameters(steps=50))
    assert diary.spikes == (0, 0)
    assert diary.died_out is None or diary.died_out == 0
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert sleep_replay(mlp(16, 5, 3), torch.zeros(16), SleepParameters(steps=50)).spikes == (0, 0)


def test_half_precision_weights_sleep_in_single():
    model = mlp(64, 30, 10).to(torch.bfloat16)
    sleep_replay(model, torch.rand(64), SleepParameters(steps=100))
    assert model[1].weight.dtype == torch.bfloat16
    assert bool(torch.isfinite(model[1].weight).all())


def test_published_constants_need_their_own_depth_and_activations():
    with pytest.raises(ConfigurationError, match="3 thresholds are given for a network of 2"):
        sleep_replay(
            mlp(64, 30, 10), torch.rand(64), SleepParameters(preset="tadros2022", window=None),
            activity_maxima=[1.0, 1.0],
        )  # fmt: skip
    with pytest.raises(InputError, match="activity_maxima"):
        sleep_replay(mlp(64, 30, 10), torch.rand(64), SleepParameters(preset="tadros2022:cub200"))


def test_biases_follow_the_chosen_option():
    mean = torch.full((16,), 0.5)

    def after_sleep(option):
        model = mlp(16, 12, 4, bias=True)
        with torch.no_grad():
            model[1].bias.fill_(0.3)
            model[3].bias.fill_(-0.2)
        return model, sleep_replay(model, mean, SleepParameters(steps=200, biases=option))

    ignored, without = after_sleep("ignore")
    assert bool((ignored[1].bias == 0.3).all()) and bool((ignored[3].bias == -0.2).all())
    zeroed, _ = after_sleep("zero-output")
    assert bool((zeroed[1].bias == 0.3).all()) and bool((zeroed[3].bias == 0).all())
    _, current = after_sleep("current")
    # The current shifts the calibrated threshold by the bias at the spike rate of an input of 1.
    shift = 0.3 * SleepParameters().spike_scale
    assert current.thresholds[0] == pytest.approx(without.thresholds[0] + shift, rel=1e-5)


def test_synapses_method_lists_the_layers_first_to_last():
    first, second = nn.Parameter(torch.rand(5, 4)), nn.Parameter(torch.rand(3, 5))

    chain = chain_of_synapses([Synapses("a", first), Synapses("b", second)])
    assert isinstance(chain, Chain)
    assert [layer.name for layer in chain.layers] == ["a", "b"]
    with pytest.raises(ConfigurationError, match="first to last"):
        chain_of_synapses([Synapses("b", second), Synapses("a", first)])
    with pytest.raises(ConfigurationError, match="empty"):
        chain_of_synapses([])
    with pytest.raises(ConfigurationError, match="lists a Linear"):
        chain_of_synapses([nn.Linear(4, 5)])


def test_sleep_imports_no_avalanche_and_no_networks():
    code = (
        "import sys, continual_ep.sleep\n"
        "above = ('avalanche', 'continual_ep.networks', 'continual_ep.learning')\n"
        "assert not [m for m in sys.modules if m.startswith(above)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
