"""Sleep replay of a model, from a mean input to changed weights: all parts put together."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, InputError, warn_user
from continual_ep.sleep.calibration import (
    bias_current,
    calibrated_thresholds,
    layer_gains,
    published_thresholds,
    weight_maxima,
)
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.dreams import Dream, MeanDream, input_spikes, masked
from continual_ep.sleep.layers import Chain, has_biases, plastic_layers
from continual_ep.sleep.night import SleepingChain, SpikeTrain, sleep_through
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.sleepers import KernelSleeper, Sleeper, sleeper
from continual_ep.sleep.walk import find_chains, warn_of_unknown_layers


def night_generator(seed: int, night: int, chain: int = 0) -> torch.Generator:
    """The generator of one night: apart from torch's global one, and another for every night."""
    digest = hashlib.sha256(f"sleep/{seed}/{night}/{chain}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


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
    """Put a model to sleep for one night, without Avalanche.

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
    asleep = model_asleep(
        model,
        mean_input,
        parameters or SleepParameters(),
        seed=seed,
        night=night,
        exclude=exclude,
        activity_maxima=activity_maxima,
    )
    return asleep.sleep()


@dataclass(frozen=True)
class Asleep:
    """Chains of a model that have fallen asleep.

    :param chains: of the model; :param sleeping: the same, asleep.
    :param steps: of the night to come.
    :param plastic: names of the layers that change.
    """

    chains: Sequence[Chain]
    sleeping: list[SleepingChain]
    parameters: SleepParameters
    steps: int
    plastic: frozenset[str]

    @property
    def device(self) -> torch.device:
        """Where the weights are when awake."""
        return self.chains[0].layers[0].weight.device

    def sleep(self) -> SleepDiary:
        """The whole night, and waking up."""
        diary = sleep_through(self.sleeping, self.parameters, self.steps, self.device)
        self.wake_up()
        return diary

    def wake_up(self) -> None:
        """Write the changed weights back; frozen and excluded ones are not even rewritten."""
        with torch.no_grad():
            for chain, asleep in zip(self.chains, self.sleeping, strict=True):
                for layer, changed in zip(chain.layers, asleep.sleepers, strict=True):
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


def model_asleep(
    model: nn.Module,
    mean_input: Tensor,
    parameters: SleepParameters,
    *,
    seed: int,
    night: int,
    exclude: Sequence[str] = (),
    activity_maxima: Sequence[float] | None = None,
) -> Asleep:
    """A model that has fallen asleep, see :func:`sleep_replay`."""
    parameter = next(model.parameters(), mean_input)
    example = mean_input.to(parameter.device, parameter.dtype).expand(2, *mean_input.shape)
    chains, unknown = find_chains(model, example)
    warn_of_unknown_layers(unknown)
    if len(chains) > 1 or chains[0].source is not None:
        raise ConfigurationError(
            "the model falls into several chains of layers, each with inputs of its own: use the "
            "SleepReplay plugin, which gathers their statistics"
        )
    dream = masked(MeanDream(mean_input.flatten()), tuple(mean_input.shape), parameters)
    return chains_asleep(
        chains,
        [dream],
        parameters,
        steps=parameters.night_steps(night),
        plastic=plastic_layers(chains, exclude),
        generators=[night_generator(seed, night)],
        activity_maxima=None if activity_maxima is None else [list(activity_maxima)],
    )


def sleep_chains(
    chains: Sequence[Chain],
    dreams: Sequence[Dream],
    parameters: SleepParameters,
    *,
    steps: int,
    plastic: frozenset[str],
    generators: Sequence[torch.Generator],
    activity_maxima: Sequence[Sequence[float]] | None = None,
) -> SleepDiary:
    """One night of all chains; the weights named in ``plastic`` change in place.

    :param dreams: one per chain; likewise ``generators``.
    :param activity_maxima: by chain and layer, for published gains.
    :raises InputError: when the published gains are asked for without ``activity_maxima``.
    """
    return chains_asleep(
        chains,
        dreams,
        parameters,
        steps=steps,
        plastic=plastic,
        generators=generators,
        activity_maxima=activity_maxima,
    ).sleep()


def chains_asleep(
    chains: Sequence[Chain],
    dreams: Sequence[Dream],
    parameters: SleepParameters,
    *,
    steps: int,
    plastic: frozenset[str],
    generators: Sequence[torch.Generator],
    activity_maxima: Sequence[Sequence[float]] | None = None,
) -> Asleep:
    """Chains that have fallen asleep, see :func:`sleep_chains`."""
    if parameters.gain_scale is not None and activity_maxima is None:
        raise InputError(
            "the published gains need the largest activation of each layer: give activity_maxima"
        )
    given = None if parameters.thresholds is None else published_thresholds(chains, parameters)
    sleeping = []
    for number, chain in enumerate(chains):
        maxima = None if activity_maxima is None else activity_maxima[number]
        spikes = input_spikes(dreams[number], chain.inputs, parameters, generators[number])
        sleeping.append(
            _falling_asleep(
                chain,
                SpikeTrain(spikes),
                parameters,
                thresholds=None if given is None else given[number],
                maxima=maxima,
                plastic=plastic,
                output=number == len(chains) - 1,
            )
        )
    return Asleep(chains, sleeping, parameters, steps, plastic)


def _falling_asleep(
    chain: Chain,
    spikes: Any,
    parameters: SleepParameters,
    *,
    thresholds: Sequence[float] | None,
    maxima: Sequence[float] | None,
    plastic: frozenset[str],
    output: bool,
) -> SleepingChain:
    sleepers = [sleeper(layer, parameters) for layer in chain.layers]
    dtype = sleepers[0].weight().dtype
    constants = [
        bias_current(layer.bias, parameters, _positions(asleep))
        for layer, asleep in zip(chain.layers, sleepers, strict=True)
    ]
    gains = [1.0] * len(sleepers)
    if parameters.gain_scale is not None and maxima is not None:
        gains = layer_gains(weight_maxima(chain), maxima, parameters.gain_scale)
    if thresholds is None:
        thresholds = calibrated_thresholds(
            sleepers, spikes, parameters, constants=constants, output=output, dtype=dtype
        )
        # Calibrated on the currents themselves, so that gains would only cancel.
        gains = [1.0] * len(sleepers)
    names = [layer.name in plastic for layer in chain.layers]
    return SleepingChain(sleepers, spikes, thresholds, gains, constants, names, dtype)


def _positions(asleep: Sleeper) -> int:
    return asleep.positions if isinstance(asleep, KernelSleeper) else 1


def warn_of_biases(chains: Sequence[Chain], parameters: SleepParameters) -> None:
    """One warning when layers that sleep have biases."""
    if names := has_biases(chains):
        warn_user(
            f"sleep changes weights, not biases, and these layers have some: {', '.join(names)} "
            f"(biases={parameters.biases!r}: see docs/sleep.md). Networks without biases remember more."
        )


def warn_of_negative_inputs(mean: Tensor) -> None:
    """One warning when more than half of the mean input is negative, as after standardisation."""
    share = float((mean < 0).double().mean())
    if share > 0.5:
        warn_user(
            f"{share:.0%} of the mean input is negative, and negative rates never spike: scale the "
            "inputs to [0, 1] instead of standardising them"
        )


def warn_of_flat_inputs(count: int) -> None:
    """The warning where flat inputs are dreamt of as images because their number is a square."""
    warn_user(
        f"flat inputs of {count} values are taken for square images and dreamt of through a window: if "
        "they are features say window=None; if they are images name the window in pixels"
    )


def warn_no_inputs() -> None:
    """The warning for a night with nothing to dream of."""
    warn_user(
        "no inputs have been seen yet, so there is nothing to dream of: this night is skipped"
    )
