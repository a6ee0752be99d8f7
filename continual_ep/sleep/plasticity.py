r"""How a synapse changes when the unit that it feeds spikes."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# exp(700) is finite, and 2 / exp(700) is zero for every purpose.
_LARGEST_EXPONENT = 700.0


class Plasticity(Protocol):
    """A rule for the synapses of units that spike.

    Any object with this method is one. The compiled engines run exactly :class:`GatedHebbian`, of
    which they hold a copy; a night with another rule, subclasses included, runs step by step in NumPy.
    """

    def change(self, weight: Array, share: Array) -> Array:
        """The change of synapses whose unit spiked, shaped like ``weight``.

        :param weight: any shape.
        :param share: broadcastable to ``weight``: 1 where the input spiked, 0 where it was silent; in
            between for a shared kernel, the share of its spiking positions whose input spiked.
        """


@dataclass(frozen=True)
class GatedHebbian:
    r"""The rule of sleep replay consolidation.

    .. math::

        \Delta w_{ij} = s_i\, g(w_{ij})\,(\text{inc}\; s_j - \text{dec}\,(1 - s_j)),
        \qquad g(w) = 2\,\sigma(-w / w_0)

    ``i`` is the unit, ``j`` its input, ``s`` are the spikes of the step. With :math:`w_0 = 0.001` the
    gate is 2 for clearly negative weights, 1 at zero and 0 for clearly positive ones: sleep changes
    inhibition and leaves excitation as it is. Each spike makes its unit's weights from silent inputs
    more negative, so activity decreases during a night; with a constant in place of the gate the
    weights diverge. Source: Tadros et al. 2022, Nat. Commun. 13:7742 (the gate as in the authors' code).

    :param increase: inc, of a synapse from a spiking input.
    :param decrease: dec, of a synapse from a silent input.
    :param gate_width: :math:`w_0`.
    """

    increase: float
    decrease: float
    gate_width: float

    def change(self, weight: Array, share: Array) -> Array:
        """See :meth:`Plasticity.change`."""
        step = self.increase * share - self.decrease * (1.0 - share)
        change: Array = gate(weight, self.gate_width) * step
        return change


def gate(weight: Array, width: float) -> Array:
    r""":math:`g(w) = 2\sigma(-w/w_0)`, elementwise.

    Computed in double precision, so that engines whose exponentials differ in their last bit agree.
    """
    exponent = np.minimum(np.asarray(weight, np.float64) * (1.0 / width), _LARGEST_EXPONENT)
    np.exp(exponent, out=exponent)
    exponent += 1.0
    gated: Array = np.divide(2.0, exponent, out=exponent).astype(weight.dtype, copy=False)
    return gated


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
