"""The activity below each weight of a network: what a local projection of its learning may use."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Presynaptic(NamedTuple):
    """The activity that reaches a weight.

    :param weight: name of the parameter; likewise ``bias``, None without one.
    :param activity: ``(rows, n)``: one row per sample, or per sample and position of a kernel; a
        last column of ones where there is a bias.
    :param sends_back: whether the weight's rows, not its columns, are the senders, as in feedback
        weights.
    """

    weight: str
    bias: str | None
    activity: Tensor
    sends_back: bool = False


def patches(maps: Tensor, kernel: Any) -> Tensor:
    """What each position of a kernel sees, ``(batch × positions, n)``.

    :param maps: ``(batch, channels, height, width)``.
    :param kernel: size, stride, padding (left, right, top, bottom) and dilation.
    """
    padded = nn.functional.pad(maps, kernel.padding)
    columns = nn.functional.unfold(padded, kernel.size, kernel.dilation, 0, kernel.stride)
    return columns.transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def presynaptic_activities(network: nn.Module, x: Tensor) -> Iterator[Presynaptic]:
    """The activity below each weight of a network that lists its synapses.

    Recurrent networks settle first: it is the activity of the free phase.

    :param x: a batch, ``(batch, ...)``.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    module: Any = network
    if hasattr(network, "links"):
        layers = [module.checked_input(x), *module.settle(x).states]
        for number, (source, target, connection) in enumerate(module.links):
            below, above = layers[source], layers[target]
            synapses = connection.synapses(f"connections.{number}")
            yield from _activities(synapses, below, above, names)
            apical = getattr(connection, "apical_weight", None)
            if apical is not None:
                yield Presynaptic(names[id(apical)], None, above.flatten(1))
        if module.readout_layer is not None:
            last = module.synapses()[-1]
            yield from _activities(last, layers[-1], layers[-1], names)
        return
    layers = [x, *module.activities(x)]
    for synapses, below, above in zip(module.synapses(), layers[:-1], layers[1:], strict=True):
        yield from _activities(synapses, below, above, names)


def _activities(
    synapses: Any, below: Tensor, above: Tensor, names: dict[int, str]
) -> Iterator[Presynaptic]:
    if synapses.kernel is None:
        activity = below.flatten(1)
    else:
        activity = patches(below.reshape(len(below), *synapses.shape), synapses.kernel)
    bias = None if synapses.bias is None else names[id(synapses.bias)]
    yield Presynaptic(names[id(synapses.weight)], bias, with_constant(activity, bias))
    feedback = synapses.feedback
    if feedback is not None and feedback.requires_grad:
        yield Presynaptic(names[id(feedback)], None, above.flatten(1), sends_back=True)


def with_constant(activity: Tensor, bias: Any) -> Tensor:
    """The activity with a column of ones, unless ``bias`` is None."""
    if bias is None:
        return activity
    return torch.cat([activity, activity.new_ones(len(activity), 1)], dim=1)
