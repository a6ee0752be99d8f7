"""Recurrent networks of any layers and connections."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError
from continual_ep.learning.equilibrium_propagation import EquilibriumPropagation
from continual_ep.learning.rule import RecurrentRule
from continual_ep.networks.clamped_graph import ClampedGraph, Wiring
from continual_ep.networks.connections import Connection, Link
from continual_ep.networks.layered import checked_values, per_layer
from continual_ep.networks.recurrent import RecurrentModule, readout_for, relaxation_from
from continual_ep.relaxation import Relaxation
from continual_ep.relaxation.activations import Activation, Identity, activation_named
from continual_ep.relaxation.time_steps import TimeSteps
from continual_ep.synapses import Pooling, Synapses


class RecurrentNetwork(RecurrentModule):
    r"""Layers of units, and connections between any of them, with a clamped input.

    The networks by name (:class:`~continual_ep.networks.DendriticRNN`, ...) are this one with layers and
    connections of a kind. Everything else is free to choose: learning rule, time steps, update order,
    activation, readout.

    :param shapes: of the layers, input first, ``(units,)`` or ``(channels, height, width)``.
    :param links: who is wired to whom.
    :param activation: of the hidden layers, by name.
    :param readout: ``"linear"``, ``"activated"`` or ``"softmax"``, as of
        :class:`~continual_ep.networks.MRNN`; a softmax readout is outside of the dynamics. Default: softmax
        if ``classes`` is given, else the last layer is the output, activated.
    :param classes: outputs of a softmax readout.
    :param learning: the learning rule; default
        :class:`~continual_ep.learning.EquilibriumPropagation`.
    :param relaxation: how it settles, see :class:`~continual_ep.relaxation.Relaxation`; or, instead,
        ``order`` and ``dt`` of it.
    :param dt: time step in (0, 1], or :class:`~continual_ep.relaxation.TimeSteps`, one for each unit.
    :param readout_bias: give a softmax readout biases.
    :param generator: for what is drawn here (readout, time steps).
    :raises ConfigurationError: unknown options, links that lead nowhere, layers that nothing reaches.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        links: Sequence[tuple[int, int, Connection]],
        *,
        activation: str = "hard-sigmoid",
        readout: str | None = None,
        classes: int | None = None,
        learning: RecurrentRule | None = None,
        relaxation: Relaxation | None = None,
        order: str | None = None,
        dt: float | TimeSteps | None = None,
        readout_bias: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            learning or EquilibriumPropagation(), relaxation_from(relaxation, order, dt)
        )
        self.shapes = [tuple(shape) for shape in shapes]
        readout = readout or ("activated" if classes is None else "softmax")
        self.readout, self.activation = readout_for(readout, self.learning), activation
        self.links = [Link(*link) for link in links]
        _check_links(self.links, len(self.shapes))
        self.connections = nn.ModuleList(link.connection for link in self.links)
        self.activations = self._activations()
        self._draw_time_steps(dt, self.shapes[1:], generator)
        self.readout_layer: nn.Linear | None = None
        if readout == "softmax":
            if classes is None:
                raise ConfigurationError(
                    "a softmax readout needs to know how many classes there are"
                )
            self.readout_layer = nn.Linear(math.prod(self.shapes[-1]), classes, bias=readout_bias)
            with torch.no_grad():
                bound = 1.0 / math.sqrt(self.readout_layer.in_features)
                self.readout_layer.weight.uniform_(-bound, bound, generator=generator)
                if readout_bias:
                    self.readout_layer.bias.zero_()
        self.learning.check(self)

    def _activations(self) -> list[Activation]:
        hidden: list[Activation] = [activation_named(self.activation) for _ in self.shapes[1:]]
        if self.readout == "linear":
            hidden[-1] = Identity()
        return hidden

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each layer, the input first, the readout last."""
        units = [math.prod(shape) for shape in self.shapes]
        return (*units, *([] if self.readout_layer is None else [self.readout_layer.out_features]))

    @property
    def dynamical_parameters(self) -> list[nn.Parameter]:
        return list(self.connections.parameters())

    @property
    def readout_parameters(self) -> tuple[Tensor, Tensor | None] | None:
        if self.readout_layer is None:
            return None
        return self.readout_layer.weight, self.readout_layer.bias

    def read(self, state: Tensor) -> Tensor:
        return super().read(state.flatten(1))

    @property
    def has_energy(self) -> bool:
        """Whether the currents derive from a primitive function."""
        return all(link.connection.has_energy for link in self.links if link.source > 0)

    def primitive(self, x: Tensor, states: Sequence[Tensor]) -> Tensor:
        r""":math:`\Phi` per sample, ``(batch,)``.

        :raises ConfigurationError: for a network without one.
        """
        if not self.has_energy:
            raise ConfigurationError(
                "this network has no primitive function: its feedback is not tied, or scaled"
            )
        layers = [x, *states]
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for source, target, connection in self.links:
            drive = connection.drive(layers[source], connection.tensors())
            total = total + (layers[target] * drive).flatten(1).sum(1)
        return total

    def checked_input(self, x: Tensor) -> Tensor:
        checked_values(x, math.prod(self.shapes[0]), finite=not self.relaxation.cuda_graphs)
        return x.reshape(len(x), *self.shapes[0])

    def clamp(
        self,
        x: Tensor,
        parameters: Sequence[Tensor] | None = None,
        *,
        drives: Sequence[Tensor] = (),
        wants_input: bool = True,
    ) -> ClampedGraph:
        """The network with its input clamped; ``parameters`` None for no graph through them."""
        learned = self.dynamical_parameters
        given = [p.detach() for p in learned] if parameters is None else parameters
        by_parameter = dict(zip(map(id, learned), given, strict=True))
        values = [
            {name: by_parameter[id(p)] for name, p in link.connection.named_parameters()}
            for link in self.links
        ]
        pairs = [(link.connection, value) for link, value in zip(self.links, values, strict=True)]
        with torch.set_grad_enabled(torch.is_grad_enabled() and parameters is not None):
            tensors = [connection.tensors(value) for connection, value in pairs]
        driven = sorted({link.target for link in self.links if link.source == 0})
        drive = dict(zip(driven, drives, strict=True)) if drives else {}
        wiring = Wiring(self.links, self.shapes, self.activations, self.time_steps, learned)
        products = self.relaxation.products
        return ClampedGraph(x, wiring, values, tensors, drive, wants_input, products)

    def parameter_groups(self, learning_rates: Sequence[float] | float) -> list[dict[str, Any]]:
        """Optimizer groups with one learning rate per layer, first to last, the readout's last.

        Connections learn at the rate of the layer that they lead up to.

        :raises ConfigurationError: unless there is one rate, or one for each layer.
        """
        rates = per_layer(learning_rates, len(self.sizes) - 1, "learning rate")
        modules: list[tuple[nn.Module, float]] = [
            (link.connection, rates[link.target - 1]) for link in self.links
        ]
        if self.readout_layer is not None:
            modules.append((self.readout_layer, rates[-1]))
        groups = [
            {"params": [p for p in module.parameters() if p.requires_grad], "lr": rate}
            for module, rate in modules
        ]
        return [group for group in groups if group["params"]]

    def synapses(self) -> list[Synapses]:
        """The synapse layers that lead from input to output one after the other, the readout included.

        Connections that skip layers or lead back do not change during sleep.
        """
        layers: list[Synapses] = []
        pooling: tuple[Pooling, ...] = ()
        for number, (source, target, connection) in enumerate(self.links):
            if target == source + 1:
                layer = connection.synapses(f"connections.{number}")
                layers.append(replace(layer, pooling=pooling))
                pooling = connection.pooling()
        if self.readout_layer is not None:
            parameters = dict(self.readout_layer.named_parameters())
            weight, bias = parameters["weight"], parameters.get("bias")
            layers.append(Synapses("readout_layer.weight", weight, bias, pooling=pooling))
        return layers

    def extra_repr(self) -> str:
        return (
            f"{'-'.join(map(str, self.sizes))}, activation={self.activation}, readout={self.readout}, "
            f"{super().extra_repr()}"
        )


def _check_links(links: Sequence[Link], layers: int) -> None:
    for source, target, _ in links:
        if not (0 <= source < layers and 0 < target < layers) or source == target:
            raise ConfigurationError(
                f"a connection from layer {source} to layer {target} leads nowhere: layers are 0 (the "
                f"input) to {layers - 1}, and the input is clamped"
            )
    reached = {0}
    for _ in range(layers):
        reached |= {link.target for link in links if link.source in reached}
    lost = sorted(set(range(layers)) - reached)
    if lost:
        raise ConfigurationError(f"no path leads from the input to layers {lost}")
