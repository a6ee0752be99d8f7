r"""The range of inputs: between what a network sees awake and the rates of its input units in a night.

Rates of spikes lie in [0, 1]; inputs may be standardised. Seen from rates r, a layer computes

.. math:: W x + b = W\,(\text{span} \cdot r) + (W\,\text{low} + b), \qquad
    x = \text{low} + \text{span} \cdot r

so that the input's offset acts like a bias. Sleep changes weights, not biases: a synapse whose input is
at its lowest value, below zero, would otherwise *excite* its unit the more, the weaker sleep makes it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.synapses import Synapses


@dataclass(frozen=True)
class InputRange:
    """The smallest value of each input and the distance to its largest, each of shape ``(n,)``."""

    low: Tensor
    span: Tensor

    @classmethod
    def identity(cls, inputs: int) -> "InputRange":
        """Inputs that are rates already."""
        return cls(torch.zeros(inputs), torch.ones(inputs))

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> "InputRange":
        """From smallest and largest values; constant inputs keep a span of 1."""
        span = (high - low).float()
        return cls(low.float(), torch.where(span > 0, span, torch.ones_like(span)))

    def rates(self, x: Tensor) -> Tensor:
        """The rates of inputs ``(..., n)``."""
        return (x.cpu() - self.low.to(x.dtype)) / self.span.to(x.dtype)

    def inputs(self, rates: Tensor) -> Tensor:
        """The inputs that have these rates."""
        return self.low.to(rates.dtype) + self.span.to(rates.dtype) * rates


@torch.no_grad()
def keep_offset_current(
    layer: Synapses, before: Tensor, low: Tensor, constant: Tensor | None
) -> bool:
    r"""Take back what a change of the first layer's weights did to the current of the offset.

    .. math:: b \leftarrow b - (W - W_{before})\,\text{low}

    A layer without a bias has inputs that never change, if any, in its place: the corners of images.

    :param layer: changed in place; ``before`` are its weights before the night, ``(units, n)``.
    :param low: the lowest inputs, ``(n,)``.
    :param constant: which inputs never leave their lowest value, bool ``(n,)``; None: not known.
    :returns: whether it could be taken back.
    """
    low = low.to(layer.weight.device, layer.weight.dtype)
    current = (layer.weight - before) @ low
    if not bool(current.any()):
        return True
    if layer.bias is not None and layer.bias.requires_grad:
        layer.bias.sub_(current)
        return True
    if constant is None:
        return False
    # Spread over the constant inputs that a unit is connected to, in proportion to their value.
    carrier = (low * constant.to(low.device)).expand_as(layer.weight)
    if layer.mask is not None:
        carrier = carrier * layer.mask
    norm = carrier.square().sum(1)
    layer.weight.sub_((current / norm.clamp(min=1e-12))[:, None] * carrier)
    return bool((norm > 0).all())
