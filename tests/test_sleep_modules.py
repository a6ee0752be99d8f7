"""Sleep of any module: how its layers are found, convolutions and pooling, and what is left alone."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from continual_ep.errors import ConfigurationError, ContinualEPWarning, InputError
from continual_ep.networks import MRNN
from continual_ep.sleep import SleepParameters, find_chains, sleep_replay
from continual_ep.sleep.activity import ActivityMaxima
from continual_ep.sleep.plasticity import GatedHebbian
from continual_ep.sleep.replay_input import (
    DrawnReplayInput,
    FunctionReplayInput,
    MeanReplayInput,
    input_spikes,
    square_image,
    with_mask,
)
from continual_ep.sleep.simulation import make_layer, pooled, spikes_at
from continual_ep.sleep.statistics import RunningMean
from continual_ep.synapses import Kernel, Pooling, Synapses

RULE = SleepParameters().rule


def names(model, x, forward=None):
    chains, unknown = find_chains(model, x, forward)
    return [[layer.name for layer in chain.layers] for chain in chains], unknown


class Net(nn.Module):
    """A module whose forward is a given function of the module and the input."""

    def __init__(self, forward, **children):
        super().__init__()
        self._run = forward
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x):
        return self._run(self, x)


def test_a_kernel_by_hand():
    # Two input maps of 2 x 2, one 1 x 1 kernel (0.5, -0.1); map 0 spikes at three places, map 1 at one.
    weight = nn.Parameter(torch.tensor([0.5, -0.1], dtype=torch.float64).reshape(1, 2, 1, 1))
    kernel = Kernel((1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    rule = GatedHebbian(0.01, 0.001, 0.001)
    layer = make_layer(Synapses("k", weight, kernel=kernel, shape=(2, 2, 2)), rule)
    below = spikes_at(np.array([0, 1, 2, 4]), 8)
    np.testing.assert_allclose(layer.current(below), [0.4, 0.5, 0.5, 0.0])
    layer.learn(np.array([0, 1, 2]), below)
    # Of the three places that spike, map 1 was active at one and silent at two.
    expected = -0.1 + 2 * (0.01 / 3 - 0.001 * 2 / 3)
    np.testing.assert_allclose(layer.weight().reshape(-1), [0.5, expected])


def test_kernel_layers_unfold_their_input_once_per_step(monkeypatch):
    weight, kernel = nn.Parameter(torch.rand(2, 1, 2, 2)), Kernel((2, 2), (1, 1), (0,) * 4, (1, 1))
    layer = make_layer(Synapses("k", weight, kernel=kernel, shape=(1, 4, 4)), RULE)
    calls, unfold = [], layer._unfold
    monkeypatch.setattr(layer, "_unfold", lambda below: calls.append(1) or unfold(below))
    for inputs in ([0, 5], [5, 6]):
        below = spikes_at(np.array(inputs), 16)
        layer.current(below)
        layer.learn(np.array([0, 3]), below)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"stride": 2, "padding": (1, 0)},
        {"padding": "same", "dilation": 2},
        {"padding": "valid"},
    ],
)
def test_the_current_of_a_convolution_is_torchs(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, (2, 3), bias=False, dtype=torch.float64, **options)
    x = (torch.rand(1, 2, 7, 6) < 0.3).double()
    chains, _ = find_chains(conv, x)
    layer = make_layer(chains[0].layers[0], RULE)
    below = spikes_at(x.flatten().nonzero()[:, 0].numpy(), x.numel())
    np.testing.assert_allclose(layer.current(below), conv(x).detach().flatten().numpy(), atol=1e-12)


def test_a_kernel_over_the_whole_input_learns_like_a_dense_layer():
    torch.manual_seed(1)
    conv = nn.Conv2d(1, 4, 3, bias=False, dtype=torch.float64)
    dense = nn.Linear(9, 4, bias=False, dtype=torch.float64)
    dense.weight.data = conv.weight.data.reshape(4, 9).clone()
    below, fired = spikes_at(np.array([1, 5, 6]), 9), np.array([0, 2])
    results = []
    for module, x in ((conv, torch.zeros(1, 1, 3, 3)), (dense, torch.zeros(1, 9))):
        layer = make_layer(find_chains(module, x.double())[0][0].layers[0], RULE)
        layer.learn(fired, below)
        results.append(layer.weight().reshape(4, 9))
    np.testing.assert_allclose(*results, atol=1e-15)


def test_pooling_passes_on_the_or_and_the_mean_of_spikes():
    below = spikes_at(np.array([0, 5, 8]), 16)  # a 4 x 4 map; corners (0, 0), (1, 1), (2, 0)
    most = pooled(below, (Pooling(nn.MaxPool2d(2), (1, 4, 4)),), np.float64)
    np.testing.assert_allclose(most.dense(np.float64), [1, 0, 1, 0])
    mean = pooled(below, (Pooling(nn.AvgPool2d(2), (1, 4, 4)),), np.float64)
    np.testing.assert_allclose(mean.dense(np.float64), [0.5, 0, 0.25, 0])
    weight = nn.Parameter(torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=torch.float64))
    layer = make_layer(Synapses("w", weight, shape=(4,)), RULE)
    np.testing.assert_allclose(layer.current(mean), [0.5 + 4 * 0.25])


def cnn(**options):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, bias=False, **options),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(24, 10, bias=False),
    )


def test_a_convolutional_network_sleeps_as_one_chain():
    torch.manual_seed(0)
    model = cnn()
    found, unknown = names(model, torch.rand(2, 1, 8, 8))
    assert found == [["0.weight", "3.weight", "8.weight"]] and unknown == []
    before = [p.detach().clone() for p in model.parameters()]
    diary = sleep_replay(model, torch.rand(1, 8, 8), SleepParameters(steps=200), kernels=True)
    assert min(diary.spikes) > 0
    assert all(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert model.training and model[7].training


def test_functional_activations_and_reshapes_do_not_break_a_chain():
    def forward(self, x):
        x = torch.relu(self.conv(x)).flatten(1)
        return self.out(torch.tanh(self.hidden(x)))

    model = Net(forward, conv=nn.Conv2d(1, 2, 3), hidden=nn.Linear(72, 72), out=nn.Linear(72, 3))
    found, unknown = names(model, torch.rand(2, 1, 8, 8))
    assert found == [["conv.weight", "hidden.weight", "out.weight"]] and unknown == []


def test_functional_pooling_starts_a_new_chain_with_its_own_inputs():
    def forward(self, x):
        return self.out(nn.functional.max_pool2d(self.conv(x), 2).flatten(1))

    model = Net(forward, conv=nn.Conv2d(1, 2, 3), out=nn.Linear(18, 3))
    chains, _ = find_chains(model, torch.rand(2, 1, 8, 8))
    assert [chain.source for chain in chains] == [None, model.out]
    assert [chain.inputs for chain in chains] == [64, 18]
    with pytest.raises(ConfigurationError, match="several chains"):
        sleep_replay(model, torch.rand(1, 8, 8))


def test_branches_start_new_chains():
    model = Net(lambda m, x: m.a(x) + m.b(x), a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    assert names(model, torch.rand(2, 6))[0] == [["a.weight"], ["b.weight"]]

    def late(self, x):
        first = self.a(x)
        return self.c(self.b(first) + 0 * self.d(first))

    model = Net(late, **{name: nn.Linear(6, 6) for name in "abcd"})
    assert names(model, torch.rand(2, 6))[0] == [
        ["a.weight", "b.weight"],
        ["d.weight"],
        ["c.weight"],
    ]


def test_a_residual_sum_starts_a_new_chain():
    def residual(self, x):
        first = self.a(x)
        second = torch.relu(self.b(first))
        return self.c(first + second)

    model = Net(residual, **{name: nn.Linear(6, 6) for name in "abc"})
    assert names(model, torch.rand(2, 6))[0] == [["a.weight", "b.weight"], ["c.weight"]]

    def in_place(self, x):
        first = self.a(x)
        second = self.b(first)
        second += first
        return self.c(second.relu_())

    model = Net(in_place, **{name: nn.Linear(6, 6) for name in "abc"})
    assert names(model, torch.rand(2, 6))[0] == [["a.weight", "b.weight"], ["c.weight"]]


def test_parallel_branches_start_new_chains_even_behind_activations():
    def parallel(self, x):
        return self.c(self.a(x) + self.b(torch.tanh(x)))

    model = Net(parallel, **{name: nn.Linear(6, 6) for name in "abc"})
    assert names(model, torch.rand(2, 6))[0] == [["a.weight"], ["b.weight"], ["c.weight"]]


def test_an_activation_written_by_hand_does_not_break_a_chain():
    def forward(self, x):
        hidden = self.a(x.sub_(0.5))
        return self.b(hidden * torch.sigmoid(hidden) * self.scale)

    model = Net(forward, a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    model.scale = nn.Parameter(torch.ones(6))
    assert names(model, torch.rand(2, 6))[0] == [["a.weight", "b.weight"]]


def test_weights_that_no_module_holds_break_a_chain():
    def forward(self, x):
        return self.b(self.a(x) @ self.mixing)

    model = Net(forward, a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    model.mixing = nn.Parameter(torch.eye(6))
    assert names(model, torch.rand(2, 6))[0] == [["a.weight"], ["b.weight"]]


def test_unknown_layers_are_named_once_and_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.Flatten(),
        nn.Linear(64, 5, bias=False),
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(ContinualEPWarning) as caught:
        diary = sleep_replay(model, torch.rand(2, 4, 4), SleepParameters(steps=100), kernels=True)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert (
        "2 (BatchNorm2d), not directly behind a Linear or Conv2d layer" in message
        and "3 (Conv2d), groups=2" in message
    )
    # Their shapes fit, so the spikes pass and the first and last layer are one chain.
    assert diary.layers == ("0.weight", "5.weight")
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed <= {"0.weight", "5.weight"} and changed


def test_a_model_without_a_layer_that_can_sleep_is_refused():
    model = Net(lambda m, x: m.lstm(x)[0], lstm=nn.LSTM(4, 4))
    with pytest.raises(ConfigurationError, match=r"no layer that can sleep.*lstm \(LSTM\)"):
        find_chains(model, torch.rand(2, 3, 4))
    with pytest.raises(ConfigurationError, match="no layer that can sleep"):
        find_chains(nn.ReLU(), torch.rand(2, 3))


def test_odd_layers_are_named_for_what_they_are():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    def forward(self, x):
        tokens = self.tokens(x.reshape(-1, 3, 4))
        attended = self.attention(tokens, tokens, tokens)[0]
        return self.out(self.own(self.normed(attended.flatten(1))))

    model = Net(
        forward,
        tokens=nn.Linear(4, 4),
        attention=nn.MultiheadAttention(4, 1, batch_first=True),
        own=Own(12, 12),
        unused=nn.Linear(2, 2),
        normed=nn.utils.parametrizations.weight_norm(nn.Linear(12, 12)),
        out=nn.Linear(12, 3),
    )
    found, unknown = names(model, torch.rand(2, 12))
    assert found == [["out.weight"]]
    together = "; ".join(unknown)
    for part in (
        "tokens (Linear), applied at several positions",
        "attention (MultiheadAttention)",
        "own (Own)",
        "unused (Linear), whose forward is not called",
        "normed (ParametrizedLinear), whose weight is computed",
    ):
        assert part in together
    assert len(unknown) == 5


def test_parameters_of_a_container_are_named_and_do_not_break_the_chain():
    model = Net(lambda m, x: m.b(m.a(x + m.shift)), a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    model.shift = nn.Parameter(torch.ones(3))
    found, unknown = names(model, torch.rand(2, 3))
    assert found == [["a.weight", "b.weight"]]
    assert unknown == ["the model (Net), its own parameters"]


def test_a_layer_used_twice_sleeps_where_it_is_first_used():
    model = Net(lambda m, x: m.b(m.a(m.a(x))), a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    assert names(model, torch.rand(2, 3)) == ([["a.weight"], ["b.weight"]], [])


def test_the_walk_leaves_no_trace():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    find_chains(model, torch.rand(2, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model] == [True, False, True, True]
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(not m._forward_hooks for m in model.modules())


def test_the_largest_activations_are_those_of_the_relu():
    model = nn.Sequential(
        nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Dropout(), nn.Linear(2, 1, bias=False)
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        model[3].weight.copy_(torch.tensor([[-2.0, -2.0]]))
    chains, _ = find_chains(model, torch.rand(2, 2))
    with ActivityMaxima(model, chains) as maxima:
        maxima.see(torch.tensor([[0.5, 0.1], [0.25, 9.0]]))
    assert maxima.values() == {"0.weight": 0.5, "3.weight": 0.0}
    assert model.training


# -- replay input ----------------------------------------------------------------------------------------


def test_square_images_are_recognised():
    assert square_image((1, 28, 28)) == (1, 28, 28)
    assert square_image((28, 28)) == (1, 28, 28)
    assert square_image((784,)) == (1, 28, 28)
    assert square_image((3072,)) == (3, 32, 32)
    assert square_image((3, 32, 30)) is None
    assert square_image((2000,)) is None
    assert square_image((4,)) is None


@pytest.mark.parametrize(("shape", "side"), [((784,), 11), ((64,), 3), ((3, 32, 32), 13)])
def test_a_window_shows_a_square_somewhere_in_all_channels(shape, side):
    channels, size, _ = square_image(shape)
    replay = with_mask(MeanReplayInput(torch.ones(int(np.prod(shape)))), shape, SleepParameters())
    shown = replay(300, torch.Generator().manual_seed(0)).reshape(300, channels, size, size)
    assert torch.equal(shown.sum((2, 3)), torch.full((300, channels), float(side**2)))
    assert bool(
        (shown.amax((1, 2)).sum(1) == side).all() and (shown.amax((1, 3)).sum(1) == side).all()
    )
    # Windows go everywhere: every row and every column has its turn.
    assert bool((shown.amax((0, 1, 2)) == 1).all() and (shown.amax((0, 1, 3)) == 1).all())


def test_windows_need_square_images_of_enough_pixels():
    for shape, window, match in (
        ((10,), 3, "square images"),
        ((64,), 9, "wider than the image of 8"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            with_mask(MeanReplayInput(torch.ones(shape)), shape, SleepParameters(window=window))


def test_input_spikes_come_at_the_rate_asked_for():
    rates = torch.tensor([0.0, 0.5, 1.0, 50.0, -1.0])
    spikes = input_spikes(
        with_mask(MeanReplayInput(rates), (5,), SleepParameters(subset=0.5)),
        5,
        SleepParameters(max_rate=200.0),
        torch.Generator().manual_seed(0),
    )
    drawn = np.concatenate([next(spikes) for _ in range(40)])
    # 2 * 0.001 * 200 = 0.4 per unit of input, half of the inputs taking part at a time.
    expected = [0.0, 0.1, 0.2, 0.5, 0.0]
    np.testing.assert_allclose(drawn.mean(0), expected, atol=0.02)
    assert not drawn[:, [0, 4]].any()


def test_class_replay_holds_its_class_across_calls():
    replay, generator = DrawnReplayInput(torch.eye(3), hold=4), torch.Generator().manual_seed(0)
    drawn = torch.cat([replay(n, generator) for n in (3, 1, 6, 5, 105)]).argmax(1)
    segments = drawn.reshape(30, 4)
    assert bool((segments == segments[:, :1]).all())
    assert set(segments[:, 0].tolist()) == {0, 1, 2}


def test_functions_are_called_step_by_step_and_checked():
    asked = []

    def own(generator, step):
        asked.append(step)
        return torch.full((2, 2), float(step))

    replay, generator = FunctionReplayInput(own, 4), torch.Generator()
    rates = torch.cat([replay(2, generator), replay(3, generator)])
    assert asked == [0, 1, 2, 3, 4] and rates[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    with pytest.raises(InputError, match="has 4 rates; the network has 9"):
        FunctionReplayInput(own, 9)(1, generator)


def test_nan_inputs_are_refused_before_they_reach_a_weight():
    with pytest.raises(InputError, match="NaN"):
        sleep_replay(nn.Linear(4, 2), torch.tensor([0.1, float("nan"), 0.2, 0.3]))


def test_a_running_mean_is_the_mean():
    batches = [torch.rand(n, 3, dtype=torch.float32) for n in (5, 1, 0, 17)]
    mean = RunningMean()
    for batch in batches:
        mean.add(batch)
    assert mean.count == 23
    torch.testing.assert_close(mean.mean, torch.cat(batches).double().mean(0), atol=1e-12, rtol=0)
    assert mean.mean.dtype == torch.float64


def test_sleep_is_silent_about_what_is_in_order():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sleep_replay(nn.Linear(16, 3, bias=False), torch.rand(16), SleepParameters(steps=20))


def test_a_recurrent_network_behind_an_encoder_sleeps_too():
    """The encoder's spikes go on through the network's own layers; published gains see both."""
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Flatten())
    network = MRNN([72, 9, 10], readout="activated")
    model = nn.Sequential(encoder, network)
    chains, unknown = find_chains(model, torch.rand(2, 1, 8, 8))
    assert not unknown
    assert [layer.name for chain in chains for layer in chain.layers] == [
        "0.0.weight", "1.weights.0", "1.weights.1",
    ]  # fmt: skip
    assert [chain.inputs for chain in chains] == [64]
    x = torch.rand(5, 1, 8, 8)
    maxima = ActivityMaxima(model, chains)
    with maxima:
        maxima.see(x)
    expected = [float(encoder(x).max()), *(float(a.max()) for a in network.activities(encoder(x)))]
    assert list(maxima.values().values())[1:] == pytest.approx(expected[1:])
    before = [p.detach().clone() for p in model.parameters()]
    sleep_replay(model, torch.rand(1, 8, 8), SleepParameters(steps=300, firing_rate=0.05))
    assert any(not torch.equal(a, b) for a, b in zip(before[1:], network.parameters(), strict=True))
