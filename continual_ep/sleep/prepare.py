"""Sleep replay of a model, from a mean input to changed weights: all parts put together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from continual_ep.errors import InputError
from continual_ep.seeding import generator_from
from continual_ep.sleep.batch_norm import folded_bias, unfolded_weight
from continual_ep.sleep.calibration import (
    bias_current,
    calibrated_thresholds,
    layer_gains,
    published_thresholds,
    weight_maxima,
)
from continual_ep.sleep.chain import ChainState, SpikeTrain
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.frozen import FrozenLayers, frozen_layers
from continual_ep.sleep.layers import Chain, plastic_layers
from continual_ep.sleep.night import run_sleep
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.recording import SpikeRecorder
from continual_ep.sleep.replay_input import MeanReplayInput, ReplayInput, input_spikes, with_mask
from continual_ep.sleep.simulation import make_layer
from continual_ep.sleep.walk import chains_of, refuse_inner_inputs
from continual_ep.synapses import Synapses


def night_generator(seed: int, night: int, chain: int = 0) -> torch.Generator:
    """The generator of one chain in one night; torch's global generator is left alone."""
    return generator_from(f"sleep/{seed}/{night}/{chain}")


def sleep_replay(
    model: nn.Module,
    mean_input: Tensor,
    parameters: SleepParameters | None = None,
    *,
    seed: int = 0,
    night: int = 1,
    exclude: Sequence[str] = (),
    kernels: bool = False,
    activity_maxima: Sequence[float] | None = None,
) -> SleepDiary:
    """Run one night of sleep replay consolidation on a model, without Avalanche.

    :param model: changed in place.
    :param mean_input: the mean of the inputs seen awake, in the shape of one input.
    :param parameters: default: the calibrated form.
    :param seed: of the night's own generator.
    :param night: number of the night, from 1; later ones are longer (``growth``).
    :param exclude: names of layers whose weights stay as they are.
    :param kernels: whether the kernels of convolutions change too.
    :param activity_maxima: the largest activation of each layer, for published gains.
    :raises ConfigurationError: when the model has no layer that can sleep, or a constant misfits.
    :raises InputError: for a mean input with NaN or infinite values.
    """
    return prepare_model(
        model,
        mean_input,
        parameters or SleepParameters(),
        seed=seed,
        night=night,
        exclude=exclude,
        kernels=kernels,
        activity_maxima=activity_maxima,
    ).run()


@dataclass(frozen=True)
class PreparedSleep:
    """Chains of a model with all that a night needs.

    :param chains: those with a layer that changes; :param states: their simulations.
    :param steps: of the night.
    :param plastic: names of the layers that change.
    :param output: the model's output layer.
    """

    chains: Sequence[Chain]
    states: list[ChainState]
    parameters: SleepParameters
    steps: int
    plastic: frozenset[str]
    output: Synapses

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.chains[0].layers[0].weight.device

    def run(self, recorder: SpikeRecorder | None = None) -> SleepDiary:
        """Run the night and write the changed weights to the model."""
        diary = run_sleep(self.states, self.parameters, self.steps, self.device, recorder)
        self.write_back()
        return diary

    def write_back(self) -> None:
        """Write the changed weights to the model; frozen and excluded ones are not even rewritten."""
        with torch.no_grad():
            for chain, state in zip(self.chains, self.states, strict=True):
                frozen = len(chain.layers) - len(state.layers)
                for layer, simulated in zip(chain.layers[frozen:], state.layers, strict=True):
                    if layer.name in self.plastic:
                        changed = torch.from_numpy(np.ascontiguousarray(simulated.weight()))
                        layer.weight.copy_(unfolded_weight(layer, changed))
            output = self.output
            if (
                self.parameters.biases == "zero-output"
                and output.bias is not None
                and output.name in self.plastic
            ):
                output.bias.zero_()


def prepare_model(
    model: nn.Module,
    mean_input: Tensor,
    parameters: SleepParameters,
    *,
    seed: int,
    night: int,
    exclude: Sequence[str] = (),
    kernels: bool = False,
    activity_maxima: Sequence[float] | None = None,
) -> PreparedSleep:
    """Prepare a night of a model, see :func:`sleep_replay`."""
    chains = chains_of(model, mean_input)
    refuse_inner_inputs(chains)
    replay = with_mask(MeanReplayInput(mean_input.flatten()), tuple(mean_input.shape), parameters)
    return prepare_chains(
        chains,
        [replay],
        parameters,
        steps=parameters.night_steps(night),
        plastic=plastic_layers(chains, exclude, kernels),
        generators=[night_generator(seed, night)],
        activity_maxima=None if activity_maxima is None else [list(activity_maxima)],
    )


def prepare_chains(
    chains: Sequence[Chain],
    inputs: Sequence[ReplayInput],
    parameters: SleepParameters,
    *,
    steps: int,
    plastic: frozenset[str],
    generators: Sequence[torch.Generator],
    activity_maxima: Sequence[Sequence[float]] | None = None,
) -> PreparedSleep:
    """Prepare a night of all chains; the weights named in ``plastic`` will change in place.

    :param inputs: what each chain replays; likewise ``generators``.
    :param activity_maxima: by chain and layer, for published gains.
    :raises InputError: when the published gains are asked for without ``activity_maxima``.
    """
    if parameters.gain_scale is not None and activity_maxima is None:
        raise InputError(
            "the published gains need the largest activation of each layer: give activity_maxima"
        )
    published = None if parameters.thresholds is None else published_thresholds(chains, parameters)
    kept, states = [], []
    for number, chain in enumerate(chains):
        if not any(layer.name in plastic for layer in chain.layers):
            continue  # its spikes reach no other chain
        kept.append(chain)
        spikes = input_spikes(inputs[number], chain.inputs, parameters, generators[number])
        states.append(
            _prepare_chain(
                chain,
                SpikeTrain(spikes),
                parameters,
                thresholds=None if published is None else published[number],
                maxima=None if activity_maxima is None else activity_maxima[number],
                plastic=plastic,
                steps=steps,
                output=number == len(chains) - 1,
            )
        )
    return PreparedSleep(kept, states, parameters, steps, plastic, chains[-1].layers[-1])


def _prepare_chain(
    chain: Chain,
    spikes: SpikeTrain,
    parameters: SleepParameters,
    *,
    thresholds: Sequence[float] | None,
    maxima: Sequence[float] | None,
    plastic: frozenset[str],
    steps: int,
    output: bool,
) -> ChainState:
    frozen = frozen_layers(chain.layers, plastic, parameters)
    rest = list(chain.layers[frozen:])
    gains = [1.0] * len(chain.layers)
    # Calibrated on the currents themselves, so that gains would only cancel.
    if thresholds is not None and parameters.gain_scale is not None and maxima is not None:
        gains = layer_gains(weight_maxima(chain), maxima, parameters.gain_scale)
    below, calibration = None, spikes
    if frozen:
        below = FrozenLayers(
            chain.layers[:frozen],
            rest[0].pooling,
            parameters,
            thresholds=None if thresholds is None else thresholds[:frozen],
            gains=gains[:frozen],
        )
        rest[0] = replace(rest[0], pooling=())
        if thresholds is None:
            sent = below.calibrate(spikes.rows(parameters.calibration_steps))
            calibration = SpikeTrain([sent], below.graded)
        spikes = SpikeTrain(below.spikes(spikes, steps), below.graded)
    layers = [make_layer(layer, parameters.rule) for layer in rest]
    dtype = layers[0].weight().dtype
    constants = [
        bias_current(folded_bias(layer), parameters, simulated.positions)
        for layer, simulated in zip(rest, layers, strict=True)
    ]
    chosen = (
        thresholds[frozen:]
        if thresholds is not None
        else calibrated_thresholds(
            layers, calibration, parameters, constants=constants, output=output, dtype=dtype
        )
    )
    changing = [layer.name in plastic for layer in rest]
    return ChainState(layers, spikes, chosen, gains[frozen:], constants, changing, dtype, below)
