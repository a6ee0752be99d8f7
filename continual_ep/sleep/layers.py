"""What sleep sees of a network: chains of synapse layers."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from continual_ep.errors import ConfigurationError
from continual_ep.synapses import Synapses


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers that feed each other, first to last.

    :param source: None when the model's input feeds the first layer; else the module whose input,
        as seen awake, is what this chain replays.
    :param inputs: number of units below the first layer.
    """

    layers: tuple[Synapses, ...]
    source: nn.Module | None
    inputs: int


def chain_of_synapses(synapses: Iterable[Synapses]) -> Chain:
    """The chain of a network that names its synapse layers itself.

    :raises ConfigurationError: when there are none, or neighbours do not fit.
    """
    layers = tuple(synapses)
    if not layers:
        raise ConfigurationError(
            "the network's synapses() is empty: sleep needs at least one layer"
        )
    for layer in layers:
        if not isinstance(layer, Synapses):
            raise ConfigurationError(
                f"synapses() lists a {type(layer).__name__}: return continual_ep.synapses.Synapses"
            )
    for below, layer in pairwise(layers):
        if below.kernel is not None and not layer.pooling:
            continue  # the size of its map is known to the network alone
        sent = below.weight.shape[0]  # units or, of a kernel, channels
        for pooling in layer.pooling:
            sent = pooling.module(torch.zeros(1, *pooling.shape)).numel()
        if sent != math.prod(layer.shape):
            raise ConfigurationError(
                f"{layer.name} takes {math.prod(layer.shape)} inputs, but {below.name} feeds it "
                f"{sent}: synapses() must list the layers first to last"
            )
    return Chain(layers, None, math.prod(layers[0].shape))


def plastic_layers(
    chains: Sequence[Chain], exclude: Sequence[str], kernels: bool = False
) -> frozenset[str]:
    """The names of the layers that sleep changes: those not excluded and not frozen.

    :param exclude: weight names, or names of modules that hold them.
    :param kernels: whether the kernels of convolutions change too.
    :raises ConfigurationError: for a name that fits no layer, or when no layer is left.
    """
    layers = [layer for chain in chains for layer in chain.layers]
    names = [layer.name for layer in layers]
    left_out = set()
    for wanted in exclude:
        matches = [name for name in names if name == wanted or name.startswith(f"{wanted}.")]
        if not matches:
            raise ConfigurationError(
                f"exclude names {wanted!r}, but the layers are {', '.join(names)}"
            )
        left_out.update(matches)
    free = [s for s in layers if s.weight.requires_grad and s.name not in left_out]
    plastic = frozenset(s.name for s in free if kernels or s.kernel is None)
    if free and not plastic:
        raise ConfigurationError(
            f"nothing is left to sleep: {', '.join(s.name for s in free)} are kernels of convolutions, "
            "which keep their weights unless kernels=True"
        )
    if not plastic:
        raise ConfigurationError(
            f"nothing is left to sleep: all of {', '.join(names)} are excluded or frozen"
        )
    return plastic
