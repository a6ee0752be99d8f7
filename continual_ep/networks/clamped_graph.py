"""A network of layers and connections whose input is clamped: its currents, its gradients, its adjoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError
from continual_ep.networks.clamped import Slope
from continual_ep.networks.connections import Connection, Gates, Weights, per_sample
from continual_ep.relaxation.activations import Activation
from continual_ep.relaxation.products import operands
from continual_ep.relaxation.protocols import Current

if TYPE_CHECKING:
    from continual_ep.networks.graph import RecurrentNetwork


def _channels_last(state: Tensor) -> Tensor:
    """Images with the channels of a pixel side by side: pools are an order of magnitude faster."""
    if state.dim() != 4:
        return state
    return state.contiguous(memory_format=torch.channels_last)


@dataclass
class ClampedGraph:
    """A network of layers and connections with its input clamped.

    :param x: the input, ``(batch, *shape)``.
    :param tensors: of each connection, in the order of the links.
    :param drive: what the input contributes, by layer (1 = first above the input); computed if not given.
    """

    x: Tensor
    network: "RecurrentNetwork"
    tensors: list[Weights]
    drive: dict[int, Tensor] = field(default_factory=dict)
    #: Whether gradients of the input are asked for.
    wants_input: bool = True
    #: By connection: the source's state, its version, what it sent, and the gates that it opened.
    _known: dict[int, tuple[Tensor, int, Tensor, Gates]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        if self.drive:
            return
        links = zip(self.network.links, self.tensors, strict=True)
        for place, ((source, target, connection), own) in enumerate(links):
            if source == 0:
                drive = _channels_last(self._passed(place, connection, self.x, own)[0])
                known = self.drive.get(target)
                self.drive[target] = drive if known is None else known + drive

    @property
    def activations(self) -> list[Activation]:
        return self.network.activations

    @property
    def time_steps(self) -> list[Tensor] | None:
        return self.network.time_steps

    def initial_states(self) -> list[Tensor]:
        """All units at zero."""
        batch = len(next(iter(self.drive.values())))
        shapes = [(batch, *shape) for shape in self.network.shapes[1:]]
        return [_channels_last(self.x.new_zeros(shape)) for shape in shapes]

    def current(self, layer: int, states: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """The total input current of ``layer`` (0 = first above the input)."""
        number = layer + 1
        total = self.drive.get(number)
        links = zip(self.network.links, self.tensors, strict=True)
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
        """What a source sends along a connection with gates, and the gates; found once for each state."""
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
        links = zip(self.network.links, self.tensors, strict=True)
        for place, ((source, target, connection), own) in enumerate(links):
            if source == 0:
                change = from_input[target - 1]
                _, gates = self._passed(place, connection, self.x, own)
                found = connection.gradients(change, self.x, own, input_strength, gates)
                if moved is not None:
                    weighed = per_sample(input_strength, change) * change
                    moved += Connection.back(connection, weighed, self.x, own)
            else:
                found = connection.gradients(post[target - 1], pre[source - 1], own, strength)
            for parameter, gradient in found:
                known = total.get(parameter)
                total[parameter] = gradient if known is None else known + gradient
        parameters = self.network.dynamical_parameters
        return [total[p] if p in total else torch.zeros_like(p) for p in parameters], moved

    def contrast_jvp(
        self, changes: Sequence[Tensor], states: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`."""
        _need_linear(self.network)
        one, moved = self.hebbian_product(changes, states)
        zero = torch.zeros_like(self.x)
        two, _ = replace(self, x=zero).hebbian_product(states, changes)
        names = [name for name, _ in self.network.connections.named_parameters()]
        # A bias sees the change of its layer alone.
        found = [
            a if name.endswith("bias") else a + b
            for name, a, b in zip(names, one, two, strict=True)
        ]
        return found, moved

    def attenuations(self) -> list[float]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`; along the strongest way."""
        layers = len(self.network.shapes)
        best = [0.0] * layers
        best[-1] = 1.0
        for _ in range(layers):
            for source, target, connection in self.network.links:
                if source > 0 and connection.has_feedback:
                    best[source] = max(best[source], connection.feedback_scale * best[target])
        return [value or 1.0 for value in best[1:]]

    def corrected(self, gradients: list[Tensor]) -> list[Tensor]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`."""
        factors = [1.0, *self.attenuations()]
        each = [
            factors[target]
            for _, target, connection in self.network.links
            for _ in connection.parameters()
        ]
        return [g / factor for g, factor in zip(gradients, each, strict=True)]

    def linearised(self, slopes: Sequence[Tensor], *, corrected: bool) -> "SmallGraphChanges":
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`."""
        _need_linear(self.network)
        factors = self.attenuations() if corrected else [1.0] * len(slopes)
        return SmallGraphChanges(self, list(slopes), factors)

    def parameter_vjp(
        self, adjoints: Sequence[Tensor], states: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`."""

        def product(tensors: Sequence[Weights], x: Tensor) -> Tensor:
            clamped = replace(self, x=x, tensors=list(tensors), drive={})
            currents = (clamped.current(layer, states) for layer in range(len(states)))
            parts = [(a * u).sum() for a, u in zip(adjoints, currents, strict=True)]
            return torch.stack(parts).sum()

        return self._differentiated(product)

    def _differentiated(self, function: Any) -> tuple[list[Tensor], Tensor | None]:
        with torch.enable_grad():
            x = self.x.detach().requires_grad_(self.wants_input)
            tensors = [link.connection.tensors() for link in self.network.links]
            parameters = self.network.dynamical_parameters
            wanted = [p for p in parameters if p.requires_grad]
            by = [*wanted, x] if self.wants_input else wanted
            found = torch.autograd.grad(function(tensors, x), by, allow_unused=True)
        gradient = dict(zip(map(id, wanted), found, strict=False))
        gradients = [gradient.get(id(p)) for p in parameters]
        zeros = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(parameters, gradients, strict=True)
        ]
        if not self.wants_input:
            return zeros, None
        return zeros, torch.zeros_like(x) if found[-1] is None else found[-1]

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
            (found,) = torch.autograd.grad(total, leaf, allow_unused=True)
        return torch.zeros_like(leaf) if found is None else found

    def prepared(self, layer: int) -> Current:
        products = self.network.relaxation.products
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
        for name, value in self.network.named_parameters():
            if not bool(value.isfinite().all()):
                return f"{name} holds NaN or infinity: lower the learning rate"
        return None


def _need_linear(network: "RecurrentNetwork") -> None:
    bent = [type(link.connection).__name__ for link in network.links if not link.connection.linear]
    if bent:
        raise ConfigurationError(
            f"teaching='difference' needs currents that are linear in the states; {bent[0]} connections are "
            "not: use teaching='states'"
        )


@dataclass
class SmallGraphChanges:
    r"""Small changes around an equilibrium, in units of the layers' attenuations :math:`c_l`.

    .. math:: \delta_l \leftarrow \rho_l' \sum_k A_{lk}\, \frac{c_k}{c_l}\, \delta_k
    """

    network: ClampedGraph
    slopes: list[Tensor]
    factors: list[float]

    @property
    def activations(self) -> list[Activation]:
        return [Slope(factor) for factor in self.slopes]

    @property
    def time_steps(self) -> Sequence[Tensor] | None:
        return self.network.time_steps

    def initial_states(self) -> list[Tensor]:
        """No change anywhere."""
        return [torch.zeros_like(slope) for slope in self.slopes]

    def current(self, layer: int, states: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """The current of a layer's change: without drives, without biases."""
        own, number = self.factors[layer], layer + 1
        total = torch.zeros_like(states[layer])
        graph = self.network.network
        for (source, target, connection), tensors in zip(
            graph.links, self.network.tensors, strict=True
        ):
            if target == number and source > 0:
                change = states[source - 1]
                rest = connection.drive(torch.zeros_like(change[:1]), tensors)
                part = connection.drive(change, tensors) - rest
                total = total + self.factors[source - 1] / own * part
            elif source == number and connection.has_feedback:
                part = connection.back(states[target - 1], states[layer], tensors)
                factor = connection.feedback_scale * self.factors[target - 1] / own
                total = total + factor * part
        return total if out is None else out.copy_(total)

    def prepared(self, layer: int) -> Current:
        return partial(self.current, layer)

    def nonfinite_source(self) -> str | None:
        return self.network.nonfinite_source()
