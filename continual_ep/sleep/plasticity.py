r"""How a synapse changes when the unit it feeds spikes.

.. math::

    \Delta w_{ij} = s_i\, g(w_{ij})\,(\text{inc}\; s_j - \text{dec}\,(1 - s_j)),
    \qquad g(w) = 2\,\sigma(-w / w_0)

``i`` is the unit, ``j`` its input, ``s`` are the spikes of the step. With :math:`w_0 = 0.001` the
gate is 2 for clearly negative weights, 1 at zero and 0 for clearly positive ones: sleep moves
inhibition and leaves excitation as it is. Each spike makes its unit more inhibited by the silent
inputs, so a long night quietens down by itself; with a constant in the gate's place it runs away.
Source: Tadros et al. 2022, Nat. Commun. 13:7742 (the gate as in the authors' code).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from continual_ep.sleep.parameters import SleepParameters

Array = NDArray[Any]

# exp(700) is finite, and 2 / exp(700) is zero for every purpose.
_LARGEST_EXPONENT = 700.0


def gate(weight: Array, width: float) -> Array:
    r""":math:`g(w) = 2\sigma(-w/w_0)`, elementwise.

    Computed in double precision, so that engines whose exponentials differ in their last bit agree.
    """
    exponent = np.minimum(np.asarray(weight, np.float64) * (1.0 / width), _LARGEST_EXPONENT)
    np.exp(exponent, out=exponent)
    exponent += 1.0
    gated: Array = np.divide(2.0, exponent, out=exponent).astype(weight.dtype, copy=False)
    return gated


def weight_change(weight: Array, share: Array, parameters: SleepParameters) -> Array:
    """The change of synapses whose unit spiked.

    :param weight: any shape.
    :param share: broadcastable to ``weight``: 1 where the input spiked, 0 where it was silent; in
        between for a shared kernel, the share of its spiking positions whose input spiked.
    """
    step = parameters.increase * share - parameters.decrease * (1.0 - share)
    change: Array = gate(weight, parameters.gate_width) * step
    return change
