r"""Thresholds and gains: how much current makes a unit spike.

Two ways. *Calibrated*: a few steps of replay without plasticity show how strong the currents are on
the network at hand; the threshold of a hidden layer is the quantile of the currents at
``1 - firing_rate``, that of the output layer ``output_threshold`` times the mean of the strongest
current. *Published*: given thresholds, with gains from the weights and activations (below).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from continual_ep.errors import ConfigurationError
from continual_ep.sleep.batch_norm import folded_weight
from continual_ep.sleep.layers import Chain
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.simulation import Signal, SimulatedLayer, pooled, spikes_at

Array = NDArray[Any]


def layer_gains(
    weight_maxima: Sequence[float], activity_maxima: Sequence[float], scale: float
) -> list[float]:
    r"""The published gains :math:`\alpha_l` of the synaptic currents.

    .. math::

        s_l = \max(\max_{ij} W_l[i,j]^+,\ \max_{\text{samples}, i} a_l[i]^+), \qquad
        r_0 = 1,\quad r_l = s_l / r_{l-1},\quad \alpha_l = \text{scale} / r_l

    Each layer is divided by the *ratio* of the one before, not by its maximum. After Diehl et al.
    2015 (doi:10.1109/IJCNN.2015.7280696), as in the code of Tadros et al. 2022.

    :raises ConfigurationError: for a layer without a positive weight or activation.
    """
    gains, ratio = [], 1.0
    for layer, pair in enumerate(zip(weight_maxima, activity_maxima, strict=True)):
        largest = max(pair)
        if not largest > 0:
            raise ConfigurationError(
                f"layer {layer + 1} has no positive weight and no positive activation, so the "
                "published gains are undefined: use preset='calibrated'"
            )
        ratio = largest / ratio
        gains.append(scale / ratio)
    return gains


def weight_maxima(chain: Chain) -> list[float]:
    """The largest weight of each layer, at least 0."""
    return [max(0.0, float(folded_weight(layer).max())) for layer in chain.layers]


def published_thresholds(chains: Sequence[Chain], parameters: SleepParameters) -> list[list[float]]:
    """The thresholds of ``parameters``, by chain and layer.

    :raises ConfigurationError: when the network has another number of layers than they are for.
    """
    thresholds = parameters.thresholds or ()
    layers = sum(len(chain.layers) for chain in chains)
    if len(thresholds) != layers:
        raise ConfigurationError(
            f"{len(thresholds)} thresholds are given for a network of {layers} layers: published "
            "constants fit their own network only, use preset='calibrated'"
        )
    left = iter(thresholds)
    return [[next(left) for _ in chain.layers] for chain in chains]


def calibrated_thresholds(
    layers: Sequence[SimulatedLayer],
    spikes: Iterator[Signal],
    parameters: SleepParameters,
    *,
    constants: Sequence[Array | float],
    output: bool,
    dtype: Any,
) -> list[float]:
    """Thresholds on the network at hand, from ``calibration_steps`` steps without plasticity.

    :param constants: the constant current of each layer.
    :param output: whether the last layer is the network's output.
    """
    signals = [next(spikes) for _ in range(parameters.calibration_steps)]
    thresholds = []
    for number, layer in enumerate(layers):
        arriving = [pooled(signal, layer.pooling, dtype) for signal in signals]
        currents = np.stack([layer.current(signal) for signal in arriving]) + constants[number]
        if output and number == len(layers) - 1:
            threshold = parameters.output_threshold * _mean_strongest(currents)
        else:
            threshold = hidden_threshold(currents, parameters.firing_rate)
        thresholds.append(threshold)
        signals = _spikes_under(currents, threshold, parameters.leak)
    return thresholds


def _mean_strongest(currents: Array) -> float:
    """Mean over steps of the strongest current, where there is one that excites."""
    strongest = currents.max(1)
    exciting = strongest[strongest > 0]
    return float(exciting.mean()) if len(exciting) else 1.0


def hidden_threshold(currents: Array, firing_rate: float) -> float:
    """The current that a share ``firing_rate`` of all currents reaches; always positive."""
    threshold = float(np.quantile(currents, 1.0 - firing_rate))
    if threshold > 0:
        return threshold
    # Fewer currents than wanted excite: let the stronger half of those spike.
    exciting = currents[currents > 0]
    return float(np.median(exciting)) if len(exciting) else 1.0


def _spikes_under(currents: Array, threshold: float, leak: float) -> list[Signal]:
    """The spikes of a layer under ``currents``, without plasticity."""
    membrane = np.zeros_like(currents[0])
    signals = []
    for current in currents:
        membrane = leak * membrane + current
        active = np.flatnonzero(membrane >= threshold)
        membrane[active] = 0.0
        signals.append(spikes_at(active, len(membrane)))
    return signals


def bias_current(
    bias: torch.Tensor | None, parameters: SleepParameters, positions: int
) -> Array | float:
    """The constant current of a layer: its bias at the spike probability of an input of 1.

    A bias is the weight from a unit whose activity is always 1; during sleep such a unit would spike
    with that probability, and this is its mean current.
    """
    if bias is None or parameters.biases != "current":
        return 0.0
    current: Array = bias.detach().cpu().double().numpy() * min(1.0, parameters.spike_scale)
    return np.repeat(current, positions)
