"""What the sleeper and the optimizer need to know of a network: its synapse layers, in order."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Kernel(NamedTuple):
    """The geometry of a convolution whose kernel is shared over positions.

    :param size: ``(height, width)`` of the kernel; :param padding: ``(left, right, top, bottom)``.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]


class Synapses(NamedTuple):
    """The synapses from one layer of units onto the next.

    :param name: the name of the weight in the network's ``state_dict``.
    :param weight: shape ``(n_post, n_pre)``; row ``i`` holds the synapses onto unit ``i``. Or a kernel
        ``(channels, channels_pre, height, width)``.
    :param bias: one for each unit or channel, or None for a layer without biases.
    :param feedback: shape ``(n_post, n_pre)``: row ``i`` holds what unit ``i`` sends back; None if the
        layer's own weights do (tied feedback) or nothing comes back.
    :param mask: shaped like ``weight``, zero where there is no synapse; None where all exist.
    :param kernel: geometry of a convolution, else None.
    :param shape: of the units below as a convolution sees them, without batch.
    :param relay: what happens to this layer's spikes on their way to the next, a batch of maps or rows to
        another (pooling, the mean of a soma's branches); None for nothing.
    :param relay_shape: of this layer's units as the relay sees them.
    """

    name: str
    weight: nn.Parameter
    bias: nn.Parameter | None = None
    feedback: nn.Parameter | None = None
    mask: Tensor | None = None
    kernel: Kernel | None = None
    shape: tuple[int, ...] = ()
    relay: Callable[[Tensor], Tensor] | None = None
    relay_shape: tuple[int, ...] = ()
