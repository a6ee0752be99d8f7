"""Feed-forward convolutions: the network of rules that speak for each layer alone."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError
from continual_ep.learning.backprop import rule_for_layers
from continual_ep.learning.feedforward import FeedforwardRule
from continual_ep.networks.convolution import each_layer, image_shape
from continual_ep.networks.layered import checked_values, per_layer
from continual_ep.relaxation.activations import FEEDFORWARD_ACTIVATIONS, activation_named
from continual_ep.synapses import Kernel, Pooling, Synapses

POOLS = ("none", "max", "average")


class CNN(nn.Module):
    r"""Convolutions with pooling, dense layers above them, logits.

    Main arguments:

    :param input_shape: ``(channels, height, width)`` of the images; flattened ones are taken, too.
    :param channels: of each convolutional layer.
    :param classes: outputs.
    :param hidden: units of the dense layers between the convolutions and the output.
    :param kernel: side of the kernels, one or one for each layer; likewise ``padding``.
    :param pool: ``"none"``, ``"max"`` or ``"average"``, after each convolution, in windows of 2 by 2; one or
        one for each layer.
    :param learning: a rule that speaks for each layer alone: :class:`~continual_ep.learning.Backprop` (the
        default) or :class:`~continual_ep.learning.DendriticLocalizedLearning`.

    Other arguments:

    :param activation: those of the :class:`~continual_ep.networks.MLP`.
    :param bias: give channels and units biases, initially zero.
    :param gain: weights are drawn from :math:`U(\pm g/\sqrt{n})` with the fan-in n.
    :param generator: for the initial weights.
    :raises ConfigurationError: values that cannot work.
    """

    readout = "linear"

    def __init__(
        self,
        input_shape: Sequence[int],
        channels: Sequence[int],
        classes: int,
        *,
        hidden: Sequence[int] = (100,),
        kernel: int | Sequence[int] = 5,
        padding: int | Sequence[int] = 0,
        pool: str | Sequence[str] = "max",
        activation: str = "relu",
        bias: bool = True,
        gain: float = 0.45,
        learning: FeedforwardRule | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        rule = rule_for_layers("CNN", learning)
        depth = len(channels)
        if not depth or min(channels) < 1:
            raise ConfigurationError(f"channels {list(channels)} make no network")
        self.learning, self.activation = rule, activation
        self._function = activation_named(activation, FEEDFORWARD_ACTIVATIONS)
        self.input_shape = image_shape(input_shape)
        kernels, self._paddings = each_layer(kernel, depth), each_layer(padding, depth)
        self._pools = each_layer(pool, depth)
        shapes = [self.input_shape]
        weights: list[Tensor] = []

        def drawn(*shape: int) -> Tensor:
            device = generator.device if generator is not None else None
            bound = gain / math.sqrt(math.prod(shape[1:]))
            return torch.empty(*shape, device=device).uniform_(-bound, bound, generator=generator)

        for layer, targets in enumerate(channels):
            if self._pools[layer] not in POOLS:
                raise ConfigurationError(
                    f"pool {self._pools[layer]!r} is unknown; choose one of {', '.join(POOLS)}"
                )
            weights.append(drawn(targets, shapes[-1][0], kernels[layer], kernels[layer]))
            shrunk = 2 * self._paddings[layer] - kernels[layer] + 1
            sides = [side + shrunk for side in shapes[-1][1:]]
            if self._pools[layer] != "none":
                sides = [side // 2 for side in sides]
            if min(sides) < 1:
                raise ConfigurationError(
                    f"layer {layer + 1} leaves nothing of images of {shapes[-1][1:]}: smaller kernels, or "
                    "fewer pools"
                )
            shapes.append((targets, *sides))
        units = [math.prod(shapes[-1]), *hidden, classes]
        weights += [drawn(post, pre) for pre, post in pairwise(units)]
        self._shapes = shapes
        self.sizes = (math.prod(self.input_shape), *(math.prod(s) for s in shapes[1:]), *units[1:])
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(len(weight), device=weight.device))
            for weight in weights
            if bias
        )
        self.backward_weights = nn.ParameterList(rule.initial_backward_weights(weights, generator))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)``.

        :raises InputError: for an input that does not fit.
        """
        return self._layers(x)[-1]

    def _layers(self, x: Tensor) -> list[Tensor]:
        checked_values(x, math.prod(self.input_shape))
        state, states = x.reshape(len(x), *self.input_shape), []
        depth, last = len(self._pools), len(self.weights) - 1
        for layer, weight in enumerate(self.weights):
            bias = self.biases[layer] if len(self.biases) else None
            back = (
                self.backward_weights[layer - 1] if layer and len(self.backward_weights) else None
            )
            if layer < depth:
                padding = self._paddings[layer]
                state = self._function(self.learning.conv2d(state, weight, bias, back, padding))
                state = pooled(state, self._pools[layer])
            else:
                state = self.learning.linear(state.flatten(1), weight, bias, back)
                state = state if layer == last else self._function(state)
            states.append(state)
        return states

    @torch.no_grad()
    def activities(self, x: Tensor) -> list[Tensor]:
        """The activations of all layers above the input, without a graph."""
        return self._layers(x)

    def parameter_groups(self, learning_rates: Sequence[float]) -> list[dict[str, Any]]:
        """Optimizer groups with one learning rate per synapse layer, first to last.

        :raises ConfigurationError: unless there is one rate per layer.
        """
        rates = per_layer(learning_rates, len(self.weights), "learning rate")
        groups: list[dict[str, Any]] = []
        for layer, rate in enumerate(rates):
            biases = [self.biases[layer]] if len(self.biases) else []
            groups.append({"params": [self.weights[layer], *biases], "lr": rate})
        for rate, back in zip(rates[1:], self.backward_weights, strict=False):
            groups.append({"params": [back], "lr": rate * self.learning.backward_rate})
        return groups

    def synapses(self) -> list[Synapses]:
        """The synapse layers, first to last, the readout included."""
        layers = []
        pooling: tuple[Pooling, ...] = ()
        for layer, weight in enumerate(self.weights):
            bias = self.biases[layer] if len(self.biases) else None
            if layer >= len(self._pools):
                layers.append(Synapses(f"weights.{layer}", weight, bias, pooling=pooling))
                pooling = ()
                continue
            shape, size, pad = self._shapes[layer], weight.shape[-1], self._paddings[layer]
            sides = [side + 2 * pad - size + 1 for side in shape[1:]]
            kernel = Kernel((size, size), (1, 1), (pad,) * 4, (1, 1))
            name = f"weights.{layer}"
            layers.append(Synapses(name, weight, bias, kernel=kernel, shape=shape, pooling=pooling))
            pool = partial(pooled, pool=self._pools[layer])
            pooling = (Pooling(pool, (weight.shape[0], *sides)),)
        return layers

    def extra_repr(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}, activation={self.activation}, learning={self.learning}"


def pooled(maps: Tensor, pool: str) -> Tensor:
    """Maps after their pool."""
    if pool == "max":
        return nn.functional.max_pool2d(maps, 2)
    return nn.functional.avg_pool2d(maps, 2) if pool == "average" else maps
