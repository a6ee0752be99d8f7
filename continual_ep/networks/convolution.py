r"""Convolutional recurrent networks: kernels shared over positions, then pooling.

.. math:: d(s) = \mathrm{pool}(w * s + c), \qquad
          \Phi = \sum_c s_{target} \cdot d_c(s_{source})

What comes back is the derivative of :math:`s_{target} \cdot d(s)`: for maximum pooling the target's state at
the position that won, for average pooling spread evenly, through the transposed convolution. Source: Ernoult
et al. 2019 (arXiv:1905.13633); Laborieux et al. 2021 (doi:10.3389/fnins.2021.633674), with a softmax readout
and, for untied kernels, the update that forward and backward kernels share (Kolen and Pollack). Soft pooling,
each window's values weighted by their softmax, is smooth: Laborieux and Zenke 2022 (arXiv:2209.00530).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from continual_ep.errors import ConfigurationError
from continual_ep.learning.equilibrium_propagation import EquilibriumPropagation
from continual_ep.learning.rule import RecurrentRule
from continual_ep.networks.connections import (
    Connection,
    Dense,
    Gates,
    Gradients,
    Values,
    Weights,
    check_feedback,
    per_sample,
    uniform,
)
from continual_ep.networks.graph import RecurrentNetwork
from continual_ep.networks.recurrent import readout_for
from continual_ep.relaxation import Relaxation, TimeSteps
from continual_ep.synapses import Kernel, Pooling, Synapses

POOLS = ("none", "max", "average", "soft")


def soft_pool(maps: Tensor, size: int) -> Tensor:
    r"""Each window's values weighted by their softmax, :math:`\sum x e^x / \sum e^x`."""
    windows = _windows(maps, size)
    return (windows * windows.softmax(-1)).sum(-1)


def soft_pool_slope(maps: Tensor, size: int) -> Tensor:
    r"""Its derivative by each value, :math:`p_i (1 + x_i - \sum_j p_j x_j)`; shaped like ``maps``."""
    windows = _windows(maps, size)
    shares = windows.softmax(-1)
    slopes = shares * (1.0 + windows - (windows * shares).sum(-1, keepdim=True))
    rows, columns = slopes.shape[2:4]
    tiles = slopes.unflatten(4, (size, size)).transpose(3, 4)
    return _padded(tiles.reshape(*maps.shape[:2], rows * size, columns * size), maps.shape)


def _windows(maps: Tensor, size: int) -> Tensor:
    """``(batch, channels, rows, columns, size * size)``; what fills no window is left out."""
    count, channels, height, width = maps.shape
    rows, columns = height // size, width // size
    windows = maps[:, :, : rows * size, : columns * size]
    windows = windows.reshape(count, channels, rows, size, columns, size).transpose(3, 4)
    return windows.flatten(4)


def _padded(maps: Tensor, shape: Sequence[int]) -> Tensor:
    """``maps`` with zeros at the right and the lower edge, where a pool's windows end early."""
    height, width = maps.shape[2:]
    if (height, width) == tuple(shape[2:]):
        return maps
    return nn.functional.pad(maps, (0, shape[3] - width, 0, shape[2] - height))


class Convolution(Connection):
    r"""A convolution with pooling, :math:`d(s) = \mathrm{pool}(w * s + c)`.

    :param channels: of source and target.
    :param kernel: side in pixels; :param padding: zeros on each side.
    :param pool: ``"none"``, ``"max"``, ``"average"`` or ``"soft"``; :param pool_size: side of its windows,
        which do not overlap.
    :param feedback: see :class:`Connection`; ``"untied"`` kernels learn by the products of the forward ones.
    :param bound: kernels are drawn from :math:`U(\pm\mathrm{bound})`; default one by the root of the fan-in.
    :raises ConfigurationError: values that cannot work.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: int,
        *,
        padding: int = 0,
        pool: str = "max",
        pool_size: int = 2,
        feedback: str = "tied",
        feedback_scale: float = 1.0,
        bias: bool = True,
        bound: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(feedback, feedback_scale)
        if pool not in POOLS:
            raise ConfigurationError(f"pool {pool!r} is unknown; choose one of {POOLS}")
        for name, value, least in (
            ("kernel", kernel, 1),
            ("padding", padding, 0),
            ("pool_size", pool_size, 1),
        ):
            if type(value) is not int or value < least:
                raise ConfigurationError(f"{name} is {value!r}; it must be {least} or more")
        sources, targets = channels
        self.padding, self.pool, self.pool_size = padding, pool, pool_size
        self.gating = pool in ("max", "soft")
        self._source: tuple[int, ...] | None = None
        shape = (targets, sources, kernel, kernel)
        fan_in = sources * kernel * kernel
        bound = 1.0 / math.sqrt(fan_in) if bound is None else bound
        self.weight = uniform(*shape, bound=bound, generator=generator)
        self.bias = uniform(targets, bound=bound, generator=generator) if bias else None
        self.feedback_weight: nn.Parameter | None = None
        if feedback in ("untied", "random"):
            learned = feedback == "untied"
            self.feedback_weight = uniform(
                *shape, bound=bound, generator=generator, learned=learned
            )

    def target_shape(self, source: tuple[int, ...]) -> tuple[int, ...]:
        """``(channels, height, width)`` of the target.

        :raises ConfigurationError: a source too small for the kernel or the pool.
        """
        targets, sources, kernel, _ = self.weight.shape
        self._source = source
        if len(source) != 3 or source[0] != sources:
            raise ConfigurationError(f"a convolution of {sources} channels cannot follow {source}")
        sides = [side + 2 * self.padding - kernel + 1 for side in source[1:]]
        if self.pool != "none":
            sides = [side // self.pool_size for side in sides]
        if min(sides) < 1:
            raise ConfigurationError(
                f"a kernel of {kernel} leaves nothing of an image of {source[1:]}"
            )
        return (targets, *sides)

    def tensors(self, values: Values | None = None) -> Weights:
        values = self.values() if values is None else values
        names = ("weight", "bias", "feedback_weight")
        return tuple(values[name] for name in names if name in values)

    def drive(self, pre: Tensor, tensors: Weights) -> Tensor:
        return self._pooled(self._maps(pre, tensors))

    def gated(self, pre: Tensor, tensors: Weights) -> tuple[Tensor, Gates]:
        maps = self._maps(pre, tensors)
        if self.pool == "max":
            return nn.functional.max_pool2d(maps, self.pool_size, return_indices=True)
        gates = soft_pool_slope(maps, self.pool_size) if self.pool == "soft" else None
        return self._pooled(maps), gates

    def _maps(self, pre: Tensor, tensors: Weights) -> Tensor:
        bias = None if self.bias is None else tensors[1]
        return nn.functional.conv2d(pre, tensors[0], bias, padding=self.padding)

    def _pooled(self, maps: Tensor) -> Tensor:
        if self.pool == "max":
            return nn.functional.max_pool2d(maps, self.pool_size)
        if self.pool == "average":
            return nn.functional.avg_pool2d(maps, self.pool_size)
        return soft_pool(maps, self.pool_size) if self.pool == "soft" else maps

    def back(self, post: Tensor, pre: Tensor, tensors: Weights, gates: Gates = None) -> Tensor:
        if gates is None and self.gating:
            gates = self.gated(pre, tensors)[1]
        kernel = tensors[0] if self.feedback_weight is None else tensors[-1]
        sent = self._unpooled(post, gates, pre.shape)
        return nn.functional.conv_transpose2d(sent, kernel, padding=self.padding)

    def gradients(
        self,
        post: Tensor,
        pre: Tensor,
        tensors: Weights,
        strength: Tensor,
        gates: Gates = None,
        values: Values | None = None,
    ) -> Gradients:
        if gates is None and self.gating:
            gates = self.gated(pre, tensors)[1]
        sent = self._unpooled(per_sample(strength, post) * post, gates, pre.shape)
        product = conv2d_weight(pre, list(self.weight.shape), sent, padding=self.padding)
        gradients: Gradients = [(self.weight, product)]
        if self.bias is not None:
            gradients.append((self.bias, sent.sum((0, 2, 3))))
        if self.feedback_weight is not None and self.feedback_weight.requires_grad:
            gradients.append((self.feedback_weight, self.feedback_scale * product))
        return gradients

    def _unpooled(self, post: Tensor, gates: Gates, source: Sequence[int]) -> Tensor:
        """The transposed pooling: onto the maps of a source of this shape."""
        if self.pool == "none":
            return post
        grown = 2 * self.padding - self.weight.shape[2] + 1
        shape = (*post.shape[:2], source[2] + grown, source[3] + grown)
        if self.pool == "max":
            assert gates is not None
            return nn.functional.max_unpool2d(
                post, gates, [self.pool_size] * 2, output_size=list(shape[2:])
            )
        size = float(self.pool_size)
        spread = _padded(nn.functional.interpolate(post, scale_factor=size), shape)
        return spread / size**2 if gates is None else spread * gates

    def synapses(self, name: str) -> Synapses:
        """During sleep the positions before the pooling are the units that spike."""
        kernel, pad = self.weight.shape[-1], (self.padding,) * 4
        return Synapses(
            f"{name}.weight",
            self.weight,
            self.bias,
            kernel=Kernel((kernel, kernel), (1, 1), pad, (1, 1)),
            shape=self._source_shape(),
        )

    def pooling(self) -> tuple[Pooling, ...]:
        kernel = self.weight.shape[-1]
        sides = [side + 2 * self.padding - kernel + 1 for side in self._source_shape()[1:]]
        return (Pooling(self._pooled, (self.weight.shape[0], *sides)),)

    def _source_shape(self) -> tuple[int, ...]:
        if self._source is None:
            raise ConfigurationError(
                "a convolution on its own does not know the shape of its image: use it in a network"
            )
        return self._source


class ConvolutionalRNN(RecurrentNetwork):
    r"""Convolutional layers above each other, with feedback between neighbours, and a readout.

    Main arguments:

    :param input_shape: ``(channels, height, width)`` of the images; flattened ones are taken, too.
    :param channels: of each convolutional layer.
    :param classes: outputs.
    :param kernel: side of the kernels, one or one for each layer; likewise ``padding``.
    :param pool: ``"max"``, ``"average"``, ``"soft"`` or ``"none"``, with windows of ``pool_size``.
    :param readout: see :class:`~continual_ep.networks.MRNN`.

    Other arguments:

    :param feedback, feedback_scale: see :class:`~continual_ep.networks.connections.Connection`.
    :param bias: give channels and readout biases.
    :param gain: weights are drawn from :math:`U(\pm g/\sqrt{n})` with the fan-in n.
    :param activation, learning, relaxation, order, dt: see :class:`RecurrentNetwork`.
    :raises ConfigurationError: values that cannot work.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        channels: Sequence[int],
        classes: int,
        *,
        kernel: int | Sequence[int] = 5,
        padding: int | Sequence[int] = 0,
        pool: str | Sequence[str] = "max",
        pool_size: int = 2,
        feedback: str = "tied",
        feedback_scale: float = 1.0,
        gain: float = 0.45,
        bias: bool = True,
        activation: str = "hard-sigmoid",
        readout: str | None = None,
        learning: RecurrentRule | None = None,
        relaxation: Relaxation | None = None,
        order: str | None = None,
        dt: float | TimeSteps | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_feedback(feedback)  # which a single layer below a softmax readout has none of
        learning = learning or EquilibriumPropagation()
        readout = readout_for(readout, learning)
        depth = len(channels)
        kernels, paddings, pools = (each_layer(v, depth) for v in (kernel, padding, pool))
        shapes: list[tuple[int, ...]] = [image_shape(input_shape)]
        links: list[tuple[int, int, Connection]] = []
        for layer, targets in enumerate(channels):
            sources = shapes[-1][0]
            fan_in = sources * max(1, kernels[layer]) ** 2
            connection = Convolution(
                (sources, targets),
                kernels[layer],
                padding=paddings[layer],
                pool=pools[layer],
                pool_size=pool_size,
                feedback=feedback if layer else "none",
                feedback_scale=feedback_scale,
                bias=bias,
                bound=gain / math.sqrt(fan_in),
                generator=generator,
            )
            links.append((layer, layer + 1, connection))
            shapes.append(connection.target_shape(shapes[-1]))
        if readout != "softmax":
            units = math.prod(shapes[-1])
            top = Dense(
                units,
                classes,
                feedback=feedback,
                feedback_scale=feedback_scale,
                bias=bias,
                bound=gain / math.sqrt(units),
                generator=generator,
            )
            links.append((depth, depth + 1, top))
            shapes.append((classes,))
        super().__init__(
            shapes,
            links,
            activation=activation,
            readout=readout,
            classes=classes,
            learning=learning,
            relaxation=relaxation,
            order=order,
            dt=dt,
            readout_bias=bias,
            generator=generator,
        )


def each_layer(value: object, depth: int) -> list:  # type: ignore[type-arg]
    """One value for each layer.

    :raises ConfigurationError: for a list of another length.
    """
    values = list(value) if isinstance(value, list | tuple) else [value] * depth
    if len(values) != depth:
        raise ConfigurationError(f"{values} are {len(values)} values for {depth} layers")
    return values


def image_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """``(channels, height, width)`` of images, whose single channel may be left out.

    :raises ConfigurationError: for any other shape.
    """
    full = (1, *shape) if len(shape) == 2 else tuple(shape)
    if len(full) != 3 or min(full) < 1:
        raise ConfigurationError(f"input_shape {tuple(shape)} is none of (channels, height, width)")
    return full
