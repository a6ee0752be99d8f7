"""Layer by layer through the night: each unit lives all of its night with its weights in the cache.

Without feedback a layer depends on the layer below alone, so the spikes of one layer's whole night are the
input of the next. The steps themselves are those of :mod:`continual_ep.sleep.night`: same spikes, same
weights, in a fraction of the memory traffic. Needs Numba (``pip install 'continual-ep[fast]'``).
"""

import importlib.util
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.sleepers import DenseSleeper

if TYPE_CHECKING:
    from continual_ep.sleep.night import SleepingChain

Array = NDArray[Any]


class Events(NamedTuple):
    """Spikes of a layer: in step t those of the units ``active[starts[t] : starts[t + 1]]``."""

    starts: Array
    active: Array

    @property
    def counts(self) -> Array:
        """Spikes of each step."""
        counts: Array = np.diff(self.starts)
        return counts


def knows_only_below(chain: "SleepingChain", parameters: SleepParameters) -> bool:
    """Whether nothing but the layer below reaches a layer.

    A night that ends when all are quiet has to look at all layers at every step, too.
    """
    return (
        not parameters.feedback
        and parameters.quiet_steps is None
        and all(isinstance(s, DenseSleeper) and not s.relays for s in chain.sleepers)
    )


def can_sleep_layer_by_layer(chain: "SleepingChain", parameters: SleepParameters) -> bool:
    """Whether nothing but the layer below reaches a layer, and Numba is there."""
    return knows_only_below(chain, parameters) and importlib.util.find_spec("numba") is not None


def sleep_layer_by_layer(
    chain: "SleepingChain", parameters: SleepParameters, steps: int
) -> list[Array]:
    """The whole night of a chain; the spikes of each step in the input and in each layer."""
    events = chain.spikes.events(steps)
    counts = [events.counts]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for layer in range(len(chain.sleepers)):
            events = _layer(chain, layer, events, parameters, pool)
            counts.append(events.counts)
    return counts


def _layer(
    chain: "SleepingChain",
    layer: int,
    below: Events,
    parameters: SleepParameters,
    pool: ThreadPoolExecutor,
) -> Events:
    from continual_ep.sleep.kernels import LANES, sleep_block

    sleeper, membrane = chain.sleepers[layer], chain.membranes[layer]
    assert isinstance(sleeper, DenseSleeper)
    kind = sleeper.by_input.dtype.type
    constant = np.zeros(0)
    if parameters.biases == "current":
        constant = np.broadcast_to(chain.gains[layer] * chain.constants[layer], (sleeper.units,))
    largest = max(parameters.increase, parameters.decrease)
    low, high = gate_limits(largest, parameters.gate_width, sleeper.by_input.dtype)

    def block(first: int) -> tuple[Array, Array]:
        last = min(first + LANES, sleeper.units)
        weight = _lanes(sleeper.by_input[:, first:last], LANES)
        mask = np.zeros((0, LANES), weight.dtype)
        if sleeper.mask_by_input is not None:
            mask = _lanes(sleeper.mask_by_input[:, first:last], LANES)
        own = _lanes(membrane[None, first:last], LANES)[0]
        steps, lanes = sleep_block(
            weight,
            mask,
            own,
            _lanes(constant[None, first:last], LANES)[0] if len(constant) else constant,
            below.starts,
            below.active,
            kind(parameters.leak),
            kind(chain.gains[layer]),
            kind(chain.thresholds[layer]),
            chain.plastic[layer],
            kind(parameters.increase),
            kind(parameters.decrease),
            parameters.gate_width,
            low,
            high,
        )
        if len(steps) and chain.plastic[layer]:
            sleeper.by_input[:, first:last] = weight[:, : last - first]
        membrane[first:last] = own[: last - first]
        return steps, lanes + first

    found = list(pool.map(block, range(0, sleeper.units, LANES)))
    step = np.concatenate([steps for steps, _ in found])
    unit = np.concatenate([units for _, units in found])
    chain.unit_counts[layer] += np.bincount(unit, minlength=sleeper.units)
    # Stable: units of one step stay in ascending order.
    order = np.argsort(step, kind="stable")
    number = np.bincount(step, minlength=len(below.starts) - 1)
    return Events(np.concatenate([[0], np.cumsum(number)]), unit[order])


def gate_limits(largest: float, width: float, dtype: Any) -> tuple[float, float]:
    r"""Between which :math:`w / w_0` the gate has to be computed.

    :param largest: the larger one of increase and decrease.
    :returns: below the first the gate rounds to 2; above the second :math:`2 e^{-x}` times ``largest`` is
        less than half of the last bit of the weight.
    """
    epsilon = float(np.finfo(dtype).eps)
    low, high = math.log(epsilon / 8), 1.0
    while high < 700 and 2 * math.exp(-high) * largest > width * high * epsilon / 8:
        high += 0.5
    return low, high


def _lanes(values: Array, lanes: int) -> Array:
    """``values`` with silent lanes added, in memory of their own."""
    padded = np.zeros((len(values), lanes), values.dtype)
    padded[:, : values.shape[1]] = values
    return padded
