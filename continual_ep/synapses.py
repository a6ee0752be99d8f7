"""The synapses between two layers of units, as networks list them for sleep and optimizers."""

from collections.abc import Callable
from dataclasses import dataclass
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


class Pooling(NamedTuple):
    """A layer without synapses through which spikes pass.

    Maximum pooling of spikes is their OR; average pooling passes on a mean current.

    :param module: maps a batch of ``shape`` to a batch of another shape.
    :param shape: of the units that are pooled, without batch.
    """

    module: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Synapses:
    """The synapses from one layer of units onto the next.

    :param name: the name of the weight in the network's ``state_dict``.
    :param weight: ``(n_post, n_pre)``; row ``i`` holds the synapses onto unit ``i``. Or a kernel
        ``(channels, channels_pre, height, width)``.
    :param bias: one for each unit or channel, or None for a layer without biases.
    :param feedback: ``(n_post, n_pre)``: row ``i`` holds what unit ``i`` sends back; None if the
        layer's own weights do (tied feedback) or there is no feedback.
    :param mask: shaped like ``weight``, zero where there is no synapse; None where all exist.
    :param kernel: geometry of a convolution, else None.
    :param shape: of the units below as these synapses see them, without batch; default ``(n_pre,)``.
    :param pooling: what lies between the units of the layer below (or the input) and these synapses.
    :param norm: batch normalisation of the currents of these synapses; sleep counts it to the weights.
    """

    name: str
    weight: nn.Parameter
    bias: nn.Parameter | None = None
    feedback: Tensor | None = None
    mask: Tensor | None = None
    kernel: Kernel | None = None
    shape: tuple[int, ...] = ()
    pooling: tuple[Pooling, ...] = ()
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None

    def __post_init__(self) -> None:
        if not self.shape:
            object.__setattr__(self, "shape", (self.weight.shape[1],))
