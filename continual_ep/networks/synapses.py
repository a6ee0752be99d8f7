"""What the sleeper and the optimizer need to know of a network: its synapse layers, in order."""

from typing import NamedTuple

from torch import Tensor, nn


class Synapses(NamedTuple):
    """The synapses from one layer of units onto the next.

    :param name: the name of the weight in the network's ``state_dict``.
    :param weight: shape ``(n_post, n_pre)``; row ``i`` holds the synapses onto unit ``i``.
    :param bias: shape ``(n_post,)``, or None for a layer without biases.
    :param mask: shape ``(n_post, n_pre)``, zero where there is no synapse; None where all exist.
    :param branches: units of this layer whose mean is what the next layer sees, branches of one soma.
    :param feedback: shape ``(n_post, n_pre)``: row ``i`` holds what unit ``i`` sends back; None if the
        layer's own weights do (tied feedback) or nothing comes back.
    """

    name: str
    weight: nn.Parameter
    bias: nn.Parameter | None = None
    feedback: nn.Parameter | None = None
    mask: Tensor | None = None
    branches: int = 1
