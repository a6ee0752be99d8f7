"""The inner loops of a night, compiled by Numba. Imported only where Numba is installed."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

#: Units that go through the night together: more of them share the reading of spikes, and the weights of as
#: many from a thousand inputs still fit into a core's cache.
LANES = 64


def compiled(function: Any) -> Any:
    """``function`` compiled when it is first called; kept on disk where there is a place for it."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder that can be written: compiled anew in each process
        return njit(nogil=True)(function)


@compiled  # type: ignore[untyped-decorator]
def sleep_block(
    weight: Array,
    mask: Array,
    membrane: Array,
    constant: Array,
    starts: Array,
    active: Array,
    leak: Any,
    gain: Any,
    threshold: Any,
    plastic: bool,
    increase: Any,
    decrease: Any,
    width: float,
    low: float,
    high: float,
) -> tuple[Array, Array]:
    """All steps of :data:`LANES` units of one layer; ``weight`` and ``membrane`` change in place.

    In the order of operations of :class:`continual_ep.sleep.simulation.DenseLayer`, so that the spikes are
    the same ones.

    :param weight: ``(inputs, LANES)``; :param mask: likewise, or with no rows where all synapses exist.
    :param constant: constant currents ``(LANES,)``, or none.
    :param starts: the inputs that spike in step t are ``active[starts[t] : starts[t + 1]]``.
    :param low: below this :math:`w / w_0` the gate is 2 to the last bit; :param high: above it no step
        changes a bit of the weight.
    :returns: step and lane of each spike.
    """
    inputs = weight.shape[0]
    current = np.zeros(LANES, weight.dtype)
    spiking = np.zeros(inputs, np.bool_)
    capacity = 256
    steps_of, lanes_of = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    count = 0
    two = weight.dtype.type(2.0)
    for step in range(len(starts) - 1):
        begin, end = starts[step], starts[step + 1]
        if begin < end:
            for lane in range(LANES):
                current[lane] = 0.0
            for place in range(begin, end):
                source = active[place]
                for lane in range(LANES):
                    current[lane] += weight[source, lane]
            for lane in range(LANES):
                membrane[lane] = membrane[lane] * leak + gain * current[lane]
        else:
            for lane in range(LANES):
                membrane[lane] *= leak
        if len(constant):
            for lane in range(LANES):
                membrane[lane] = membrane[lane] + constant[lane]
        fired = False
        for lane in range(LANES):
            fired |= membrane[lane] >= threshold
        if not fired:
            continue
        for place in range(begin, end):
            spiking[active[place]] = True
        for lane in range(LANES):
            if not membrane[lane] >= threshold:
                continue
            if count == capacity:
                capacity *= 2
                steps_of = np.concatenate((steps_of, np.empty(count, np.int64)))
                lanes_of = np.concatenate((lanes_of, np.empty(count, np.int64)))
            steps_of[count], lanes_of[count] = step, lane
            count += 1
            membrane[lane] = 0.0
            if not plastic:
                continue
            for source in range(inputs):
                if len(mask) and mask[source, lane] == 0:
                    continue
                exponent = np.float64(weight[source, lane]) * (1.0 / width)
                if exponent > high:
                    continue
                gate = two
                if exponent > low:
                    gate = weight.dtype.type(2.0 / (1.0 + np.exp(exponent)))
                change = increase if spiking[source] else -decrease
                weight[source, lane] += gate * change
        for place in range(begin, end):
            spiking[active[place]] = False
    return steps_of[:count], lanes_of[:count]
