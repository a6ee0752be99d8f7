"""Layer by layer through the night, compiled by Numba (``pip install 'continual-ep[fast]'``).

Without feedback a layer depends on the layer below alone, so the spikes of one layer's whole night are
the input of the next, and each unit runs through the whole night with its weights in the cache. Spikes
and weights are those of :mod:`continual_ep.sleep.engines.stepwise`, with a fraction of the memory traffic.
"""

import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from continual_ep.sleep.chain import ChainState, Events, depends_on_below_only
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.plasticity import GatedHebbian, gate_limits

Array = NDArray[Any]


def can_run(
    chains: Sequence[ChainState], parameters: SleepParameters, device: torch.device | str
) -> bool:
    """Whether Numba is installed, its kernel has the rule, and layers depend on the layer below alone."""
    return (
        importlib.util.find_spec("numba") is not None
        and type(parameters.rule) is GatedHebbian
        and all(depends_on_below_only(chain, parameters) for chain in chains)
    )


def run(
    chains: Sequence[ChainState],
    parameters: SleepParameters,
    steps: int,
    device: torch.device | str = "cpu",
) -> Array:
    """One chain after the other, see :class:`continual_ep.sleep.engines.Engine`."""
    inputs = np.zeros(steps, np.int32)
    columns: list[Array] = []
    for chain in chains:
        spiked, *layers = _run_chain(chain, parameters, steps)
        inputs += spiked.astype(np.int32)
        columns += layers
    return np.stack([inputs, *columns], axis=1).astype(np.int32)


def _run_chain(chain: ChainState, parameters: SleepParameters, steps: int) -> list[Array]:
    """The whole night of a chain; the spikes of each step in the input and in each layer."""
    events = chain.spikes.events(steps)
    counts = [events.counts]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for number in range(len(chain.layers)):
            events = _run_layer(chain, number, events, parameters, pool)
            counts.append(events.counts)
    return counts


def _run_layer(
    chain: ChainState,
    number: int,
    below: Events,
    parameters: SleepParameters,
    pool: ThreadPoolExecutor,
) -> Events:
    from continual_ep.sleep.engines.numba_kernels import LANES, sleep_block

    layer, membrane = chain.layers[number], chain.membranes[number]
    weights, masks = layer.by_input, layer.mask_by_input
    assert weights is not None  # can_run has looked
    kind = weights.dtype.type
    constant = np.zeros(0)
    if parameters.biases == "current":
        constant = np.broadcast_to(chain.gains[number] * chain.constants[number], (layer.units,))
    largest = max(parameters.increase, parameters.decrease)
    low, high = gate_limits(largest, parameters.gate_width, weights.dtype)

    def block(first: int) -> tuple[Array, Array]:
        last = min(first + LANES, layer.units)
        weight = _lanes(weights[:, first:last], LANES)
        mask = np.zeros((0, LANES), weight.dtype)
        if masks is not None:
            mask = _lanes(masks[:, first:last], LANES)
        potential = _lanes(membrane[None, first:last], LANES)[0]
        steps, lanes = sleep_block(
            weight,
            mask,
            potential,
            _lanes(constant[None, first:last], LANES)[0] if len(constant) else constant,
            below.starts,
            below.active,
            kind(parameters.leak),
            kind(chain.gains[number]),
            kind(chain.thresholds[number]),
            chain.plastic[number],
            kind(parameters.increase),
            kind(parameters.decrease),
            parameters.gate_width,
            low,
            high,
        )
        if len(steps) and chain.plastic[number]:
            weights[:, first:last] = weight[:, : last - first]
        membrane[first:last] = potential[: last - first]
        return steps, lanes + first

    spikes = list(pool.map(block, range(0, layer.units, LANES)))
    step = np.concatenate([steps for steps, _ in spikes])
    unit = np.concatenate([units for _, units in spikes])
    chain.unit_counts[number] += np.bincount(unit, minlength=layer.units)
    # Stable: units of one step stay in ascending order.
    order = np.argsort(step, kind="stable")
    per_step = np.bincount(step, minlength=len(below.starts) - 1)
    return Events(np.concatenate([[0], np.cumsum(per_step)]), unit[order])


def _lanes(values: Array, lanes: int) -> Array:
    """``values`` with silent lanes added, in memory of their own."""
    padded = np.zeros((len(values), lanes), values.dtype)
    padded[:, : values.shape[1]] = values
    return padded
