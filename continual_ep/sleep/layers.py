"""What sleep sees of a network: chains of synapse layers, and what lies between them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError
from continual_ep.networks.synapses import Kernel


class Relay(NamedTuple):
    """A layer without synapses through which spikes pass: ``module`` maps shape to shape.

    Maximum pooling of spikes is their OR; average pooling passes on a mean current.
    """

    module: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SleepLayer:
    """The synapses from one layer of units onto the next.

    :param name: the weight's name in the model's ``state_dict``.
    :param weight: ``(n_post, n_pre)``, or ``(channels, channels_pre, height, width)`` of a kernel.
    :param bias: one per unit or channel, or None.
    :param feedback: own weights of the current sent back, shaped like ``weight`` and used as its
        transpose is; None where feedback is tied.
    :param kernel: geometry of a convolution, else None.
    :param relays: what lies between the previous layer's units (or the input) and these synapses.
    :param shape: of the units below as these synapses see them, without batch.
    :param mask: shaped like ``weight``, zero where there is no synapse; None where all exist.
    """

    name: str
    weight: nn.Parameter
    bias: nn.Parameter | None = None
    feedback: Tensor | None = None
    kernel: Kernel | None = None
    relays: tuple[Relay, ...] = ()
    shape: tuple[int, ...] = ()
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers that feed each other, first to last.

    :param source: None when the model's input feeds the first layer; else the module whose input,
        as seen awake, is what this chain dreams of.
    :param inputs: number of units below the first layer.
    """

    layers: tuple[SleepLayer, ...]
    source: nn.Module | None
    inputs: int


class SynapseLayer(Protocol):
    """What a network's own ``synapses()`` has to return for each layer."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> nn.Parameter: ...
    @property
    def bias(self) -> nn.Parameter | None: ...


def chain_of_synapses(synapses: Iterable[SynapseLayer]) -> Chain:
    """The chain of a network that names its synapse layers itself.

    :raises ConfigurationError: when there are none, or neighbours do not fit.
    """
    layers: list[SleepLayer] = []
    relays: tuple[Relay, ...] = ()
    reaching = 0  # values that the layer below sends
    for layer in synapses:
        kernel: Kernel | None = getattr(layer, "kernel", None)
        shape: tuple[int, ...] = getattr(layer, "shape", ()) or (layer.weight.shape[1],)
        if layers and reaching != math.prod(shape):
            raise ConfigurationError(
                f"{layer.name} takes {math.prod(shape)} inputs, but {layers[-1].name} feeds it {reaching}: "
                "synapses() must list the layers first to last"
            )
        layers.append(
            SleepLayer(
                layer.name,
                layer.weight,
                layer.bias,
                getattr(layer, "feedback", None),
                kernel=kernel,
                relays=relays,
                shape=shape,
                mask=getattr(layer, "mask", None),
            )
        )
        relays, reaching = (), layer.weight.shape[0]
        passes: Callable[[Tensor], Tensor] | None = getattr(layer, "relay", None)
        if passes is not None:
            relay = Relay(passes, getattr(layer, "relay_shape"))  # noqa: B009 # not in the protocol
            relays, reaching = (relay,), passes(torch.zeros(1, *relay.shape)).numel()
    if not layers:
        raise ConfigurationError(
            "the network's synapses() is empty: there is nothing to put to sleep"
        )
    return Chain(tuple(layers), None, math.prod(layers[0].shape))


def plastic_layers(chains: Sequence[Chain], exclude: Sequence[str]) -> frozenset[str]:
    """The names of the layers that sleep changes: those not excluded and not frozen.

    :param exclude: weight names, or names of modules that hold them.
    :raises ConfigurationError: for a name that fits no layer, or when no layer is left.
    """
    layers = [layer for chain in chains for layer in chain.layers]
    names = [layer.name for layer in layers]
    left_out = set()
    for wanted in exclude:
        found = [name for name in names if name == wanted or name.startswith(f"{wanted}.")]
        if not found:
            raise ConfigurationError(
                f"exclude names {wanted!r}, but the layers are {', '.join(names)}"
            )
        left_out.update(found)
    plastic = frozenset(
        layer.name for layer in layers if layer.weight.requires_grad and layer.name not in left_out
    )
    if not plastic:
        raise ConfigurationError(
            f"nothing is left to sleep: all of {', '.join(names)} are excluded or frozen"
        )
    return plastic


def has_biases(chains: Sequence[Chain]) -> list[str]:
    """The names of the layers with biases that are not all zero."""
    return [
        layer.name
        for chain in chains
        for layer in chain.layers
        if layer.bias is not None and bool(torch.any(layer.bias != 0))
    ]
