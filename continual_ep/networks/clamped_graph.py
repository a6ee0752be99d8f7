"""A network of layers and connections whose input is clamped: its currents, its gradients, its adjoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from continual_ep.networks.connections import Connection, Gates, Link, Values, Weights, per_sample
from continual_ep.relaxation.activations import Activation
from continual_ep.relaxation.products import operands
from continual_ep.relaxation.protocols import Current


def _channels_last(state: Tensor) -> Tensor:
    """Images in the memory format channels-last: pools are an order of magnitude faster."""
    if state.dim() != 4:
        return state
    return state.contiguous(memory_format=torch.channels_last)


class Wiring(NamedTuple):
    """What is wired to what.

    :param links: the connections and the layers they connect.
    :param shapes: of the layers, input first.
    :param activations: one for each layer above the input.
    :param time_steps: a time step for each unit, one tensor for each layer above the input, or None.
    :param parameters: of all connections; gradients are in their order.
    """

    links: Sequence[Link]
    shapes: Sequence[tuple[int, ...]]
    activations: list[Activation]
    time_steps: list[Tensor] | None
    parameters: list[nn.Parameter]


@dataclass
class ClampedGraph:
    """A network of layers and connections with its input clamped.

    :param x: the input, ``(batch, *shape)``.
    :param values: of the parameters of each connection, by name, in the order of the links.
    :param tensors: of each connection, made of ``values``.
    :param drive: what the input contributes, by layer (1 = first above the input); computed if not given.
    :param wants_input: whether gradients of the input are asked for.
    :param products: bits of the products while the network settles, see
        :mod:`continual_ep.relaxation.products`.
    """

    x: Tensor
    wiring: Wiring
    values: Sequence[Values]
    tensors: list[Weights]
    drive: dict[int, Tensor] = field(default_factory=dict)
    wants_input: bool = True
    products: str = "float32"
    #: By connection: the source's state, its version, what it sent, and the gates that it opened.
    _known: dict[int, tuple[Tensor, int, Tensor, Gates]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        if self.drive:
            return
        links = zip(self.wiring.links, self.tensors, strict=True)
        for place, ((source, target, connection), own) in enumerate(links):
            if source == 0:
                drive = _channels_last(self._passed(place, connection, self.x, own)[0])
                known = self.drive.get(target)
                self.drive[target] = drive if known is None else known + drive

    @property
    def activations(self) -> list[Activation]:
        return self.wiring.activations

    @property
    def time_steps(self) -> list[Tensor] | None:
        return self.wiring.time_steps

    def initial_states(self) -> list[Tensor]:
        """All units at zero."""
        batch = len(next(iter(self.drive.values())))
        shapes = [(batch, *shape) for shape in self.wiring.shapes[1:]]
        return [_channels_last(self.x.new_zeros(shape)) for shape in shapes]

    def current(self, layer: int, states: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """The total input current of ``layer`` (0 = first above the input)."""
        number = layer + 1
        total = self.drive.get(number)
        links = zip(self.wiring.links, self.tensors, strict=True)
        for place, ((source, target, connection), own) in enumerate(links):
            part: Tensor | None = None
            gated = connection.gating and connection.has_feedback
            if target == number and source > 0:
                pre = states[source - 1]
                if gated:
                    part, _ = self._passed(place, connection, pre, own)
                else:
                    part = connection.drive(pre, own)
            elif source == number and connection.has_feedback:
                gates: Gates = None
                if gated:
                    _, gates = self._passed(place, connection, states[layer], own)
                part = connection.back(states[target - 1], states[layer], own, gates)
                if connection.feedback_scale != 1.0:
                    part = part * connection.feedback_scale
            if part is not None:
                total = part if total is None else torch.add(total, part, out=out)
        if total is None:
            total = torch.zeros_like(states[layer])
        # Copy: the nudge writes in place, and the drive is cached.
        if out is None:
            return total.clone()
        return total if total is out else out.copy_(total)

    def _passed(
        self, place: int, connection: Connection, pre: Tensor, own: Weights
    ) -> tuple[Tensor, Gates]:
        """What a source sends along a connection with gates, and the gates; computed once for each state."""
        if torch.is_grad_enabled() or pre.is_inference():
            return connection.gated(pre, own)
        known = self._known.get(place)
        if known is None or known[0] is not pre or known[1] != pre._version:
            known = (pre, pre._version, *connection.gated(pre, own))
            self._known[place] = known
        return known[2:]

    @property
    def drives(self) -> list[Tensor]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`; by layer, lowest first."""
        return [self.drive[layer] for layer in sorted(self.drive)]

    @property
    def batch_dim(self) -> int:
        """The dimension that counts samples."""
        return 0

    def repeated(self, times: int) -> "ClampedGraph":
        drive = {layer: torch.cat([value] * times) for layer, value in self.drive.items()}
        return replace(self, drive=drive)

    def contrast(
        self, first: Sequence[Tensor], second: Sequence[Tensor], strength: Tensor | float
    ) -> tuple[list[Tensor], Tensor | None]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`;
        both states are concatenated along the batch.
        """
        signs = strength * self.x.new_ones(2 * len(self.x))
        signs[len(self.x) :].neg_()
        both = [torch.cat(pair) for pair in zip(first, second, strict=True)]
        # The same presynaptic side: the difference suffices.
        differences = [a - b for a, b in zip(first, second, strict=True)]
        return self._collected(both, both, signs, differences, signs[: len(self.x)])

    def hebbian_product(
        self, changes: Sequence[Tensor], states: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`."""
        ones = self.x.new_ones(len(self.x))
        return self._collected(changes, states, ones, changes, ones)

    def _collected(
        self,
        post: Sequence[Tensor],
        pre: Sequence[Tensor],
        strength: Tensor,
        from_input: Sequence[Tensor],
        input_strength: Tensor,
    ) -> tuple[list[Tensor], Tensor | None]:
        """The gradients of all connections; those from the input see states of their own."""
        total: dict[nn.Parameter, Tensor] = {}
        moved = torch.zeros_like(self.x) if self.wants_input else None
        links = zip(self.wiring.links, self.tensors, strict=True)
        for place, ((source, target, connection), own) in enumerate(links):
            if source == 0:
                change = from_input[target - 1]
                _, gates = self._passed(place, connection, self.x, own)
                gradients = connection.gradients(
                    change, self.x, own, input_strength, gates, self.values[place]
                )
                if moved is not None:
                    weighted = per_sample(input_strength, change) * change
                    moved += Connection.back(connection, weighted, self.x, own)
            else:
                gradients = connection.gradients(
                    post[target - 1], pre[source - 1], own, strength, values=self.values[place]
                )
            for parameter, gradient in gradients:
                known = total.get(parameter)
                total[parameter] = gradient if known is None else known + gradient
        parameters = self.wiring.parameters
        return [total[p] if p in total else torch.zeros_like(p) for p in parameters], moved

    def attenuations(self) -> list[float]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`; along the strongest way."""
        layers = len(self.wiring.shapes)
        best = [0.0] * layers
        best[-1] = 1.0
        for _ in range(layers):
            for source, target, connection in self.wiring.links:
                if source > 0 and connection.has_feedback:
                    best[source] = max(best[source], connection.feedback_scale * best[target])
        return [value or 1.0 for value in best[1:]]

    def corrected(self, gradients: list[Tensor]) -> list[Tensor]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`."""
        factors = [1.0, *self.attenuations()]
        each = [
            factors[target]
            for _, target, connection in self.wiring.links
            for _ in connection.parameters()
        ]
        return [g / factor for g, factor in zip(gradients, each, strict=True)]

    def parameter_vjp(
        self, adjoints: Sequence[Tensor], states: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`."""
        leaves: dict[int, Tensor] = {}
        tensors = []
        with torch.enable_grad():
            x = self.x.detach().requires_grad_(self.wants_input)
            for link, values in zip(self.wiring.links, self.values, strict=True):
                given = {}
                for name, parameter in link.connection.named_parameters():
                    value = values[name].detach().requires_grad_(parameter.requires_grad)
                    given[name] = leaves.setdefault(id(parameter), value)
                tensors.append(link.connection.tensors(given))
            moved = replace(self, x=x, tensors=tensors, drive={})
            currents = (moved.current(layer, states) for layer in range(len(states)))
            parts = [(a * u).sum() for a, u in zip(adjoints, currents, strict=True)]
            wanted = [leaf for leaf in (*leaves.values(), x) if leaf.requires_grad]
            gradients = torch.autograd.grad(torch.stack(parts).sum(), wanted, allow_unused=True)
        by_leaf = dict(zip(map(id, wanted), gradients, strict=True))

        def gradient(leaf: Tensor) -> Tensor:
            known = by_leaf.get(id(leaf))
            return torch.zeros_like(leaf) if known is None else known

        to_input = gradient(x) if self.wants_input else None
        return [gradient(leaves[id(p)]) for p in self.wiring.parameters], to_input

    def slopes(self, states: Sequence[Tensor]) -> list[Tensor]:
        return [
            activation.slope(self.current(layer, states))
            for layer, activation in enumerate(self.activations)
        ]

    def state_vjp(self, layer: int, adjoints: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
        with torch.enable_grad():
            leaf = states[layer].detach().requires_grad_()
            moved = [*states[:layer], leaf, *states[layer + 1 :]]
            currents = [self.current(number, moved) for number in range(len(states))]
            parts = [(a * u).sum() for a, u in zip(adjoints, currents, strict=True)]
            total = torch.stack(parts).sum()
            if not total.requires_grad:
                return torch.zeros_like(leaf)
            (adjoint,) = torch.autograd.grad(total, leaf, allow_unused=True)
        return torch.zeros_like(leaf) if adjoint is None else adjoint

    def prepared(self, layer: int) -> Current:
        products = self.products
        if products == "float32":
            return partial(self.current, layer)
        low = replace(self, tensors=[tuple(operands(products, own)) for own in self.tensors])

        def current(states: Sequence[Tensor], out: Tensor) -> Tensor:
            return low.current(layer, operands(products, states), out)

        return current

    def nonfinite_source(self) -> str | None:
        """Whether the input or a parameter is not finite, and which."""
        if not bool(self.x.isfinite().all()):
            return "the input holds NaN or infinity: clean the data"
        for place, values in enumerate(self.values):
            for name, value in values.items():
                if not bool(value.isfinite().all()):
                    name = f"connections.{place}.{name}"
                    return f"{name} holds NaN or infinity: lower the learning rate"
        return None
