"""Sleep replay of a model, from a mean input to changed weights: all parts put together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from continual_ep.errors import InputError
from continual_ep.seeding import generator_from
from continual_ep.sleep.calibration import (
    bias_current,
    calibrated_thresholds,
    layer_gains,
    published_thresholds,
    weight_maxima,
)
from continual_ep.sleep.chain import ChainState, SpikeTrain
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.layers import Chain, plastic_layers
from continual_ep.sleep.night import run_sleep
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.replay_input import MeanReplayInput, ReplayInput, input_spikes, with_mask
from continual_ep.sleep.simulation import make_layer
from continual_ep.sleep.walk import chains_of, refuse_inner_inputs


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
    activity_maxima: Sequence[float] | None = None,
) -> SleepDiary:
    """Run one night of sleep replay consolidation on a model, without Avalanche.

    :param model: changed in place.
    :param mean_input: the mean of the inputs seen awake, in the shape of one input.
    :param parameters: default: the calibrated form.
    :param seed: of the night's own generator.
    :param night: number of the night, from 1; later ones are longer (``growth``).
    :param exclude: names of layers whose weights stay as they are.
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
        activity_maxima=activity_maxima,
    ).run()


@dataclass(frozen=True)
class PreparedSleep:
    """Chains of a model with all that a night needs.

    :param chains: of the model; :param states: their simulations.
    :param steps: of the night.
    :param plastic: names of the layers that change.
    """

    chains: Sequence[Chain]
    states: list[ChainState]
    parameters: SleepParameters
    steps: int
    plastic: frozenset[str]

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.chains[0].layers[0].weight.device

    def run(self) -> SleepDiary:
        """Run the night and write the changed weights to the model."""
        diary = run_sleep(self.states, self.parameters, self.steps, self.device)
        self.write_back()
        return diary

    def write_back(self) -> None:
        """Write the changed weights to the model; frozen and excluded ones are not even rewritten."""
        with torch.no_grad():
            for chain, state in zip(self.chains, self.states, strict=True):
                for layer, changed in zip(chain.layers, state.layers, strict=True):
                    if layer.name in self.plastic:
                        weight = torch.from_numpy(np.ascontiguousarray(changed.weight()))
                        layer.weight.copy_(weight)
            output = self.chains[-1].layers[-1]
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
        plastic=plastic_layers(chains, exclude),
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
    states = []
    for number, chain in enumerate(chains):
        spikes = input_spikes(inputs[number], chain.inputs, parameters, generators[number])
        states.append(
            _prepare_chain(
                chain,
                SpikeTrain(spikes),
                parameters,
                thresholds=None if published is None else published[number],
                maxima=None if activity_maxima is None else activity_maxima[number],
                plastic=plastic,
                output=number == len(chains) - 1,
            )
        )
    return PreparedSleep(chains, states, parameters, steps, plastic)


def _prepare_chain(
    chain: Chain,
    spikes: SpikeTrain,
    parameters: SleepParameters,
    *,
    thresholds: Sequence[float] | None,
    maxima: Sequence[float] | None,
    plastic: frozenset[str],
    output: bool,
) -> ChainState:
    layers = [make_layer(layer, parameters.rule) for layer in chain.layers]
    dtype = layers[0].weight().dtype
    constants = [
        bias_current(layer.bias, parameters, simulated.positions)
        for layer, simulated in zip(chain.layers, layers, strict=True)
    ]
    gains = [1.0] * len(layers)
    if parameters.gain_scale is not None and maxima is not None:
        gains = layer_gains(weight_maxima(chain), maxima, parameters.gain_scale)
    if thresholds is None:
        thresholds = calibrated_thresholds(
            layers, spikes, parameters, constants=constants, output=output, dtype=dtype
        )
        # Calibrated on the currents themselves, so that gains would only cancel.
        gains = [1.0] * len(layers)
    changing = [layer.name in plastic for layer in chain.layers]
    return ChainState(layers, spikes, thresholds, gains, constants, changing, dtype)
