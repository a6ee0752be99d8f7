r"""The multilayer recurrent network (MRNN): layers that excite each other in both directions.

Its tied form has the primitive function

.. math:: \Phi(x, s) = \sum_{l=1}^{L} s_l^T (W_l s_{l-1} + b_l), \qquad s_0 = x,

and settles by :math:`s_l \leftarrow \rho(\partial\Phi/\partial s_l)`. Source: Scellier and Bengio 2017
(doi:10.3389/fncom.2017.00024); Ernoult et al. 2019 (arXiv:1905.13633); softmax readout: Laborieux et al.
2021 (doi:10.3389/fnins.2021.633674).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, warn_user
from continual_ep.learning.equilibrium_propagation import EquilibriumPropagation
from continual_ep.learning.rule import RecurrentRule
from continual_ep.networks.activations import Activation, Identity, activation_named
from continual_ep.networks.clamped import ClampedLayers
from continual_ep.networks.layered import (
    LayeredNetwork,
    flat_input,
    initial_weight,
    per_layer,
    validated_sizes,
)
from continual_ep.networks.synapses import Synapses
from continual_ep.relaxation import Relaxation, Settled, settle

#: Without a tolerance, a free phase whose units still move by more than this per step is reported.
UNSETTLED = 0.05

READOUTS = ("linear", "activated", "softmax")
FEEDBACKS = ("tied", "untied")


@dataclass(frozen=True)
class Settling:
    """Statistics of a free phase.

    :param steps: the number of steps taken.
    :param residual: the largest change of any unit in the last step.
    :param settled: whether the residual is below the tolerance (or :data:`UNSETTLED` without one).
    """

    steps: int
    residual: float
    settled: bool


class MRNN(LayeredNetwork):
    r"""A multilayer recurrent network with a clamped input.

    ``network(x)`` settles to the free equilibrium and returns the readout, ``(batch, sizes[-1])``.
    ``loss.backward()`` then runs the second phase of the learning rule.

    Main arguments:

    :param sizes: units per layer, input first.
    :param activation: of the hidden layers: ``"hard-sigmoid"``, ``"shifted-sigmoid"``, ``"tanh"`` or
        ``"clipped-relu"``.
    :param learning: the learning rule; default
        :class:`~continual_ep.learning.EquilibriumPropagation`.
    :param readout: ``"linear"`` (the output layer takes part in the dynamics, without activation),
        ``"activated"`` (with it), or ``"softmax"`` (the last weights read logits from the settled last
        hidden layer and send nothing back; for cross-entropy).

    Other arguments:

    :param bias: give every layer biases, initially zero. Off by default: sleep works better without.
    :param feedback: ``"tied"`` (transposed weights; an energy exists) or ``"untied"`` (own feedback
        weights; a vector field, learned by the same Hebbian products as the forward weights).
    :param gain: weights are drawn from :math:`U(\pm g/\sqrt{n_{l-1}})`; one gain, or one per layer.
    :param order: update order, see :mod:`continual_ep.relaxation.orders`.
    :param dt: time step in (0, 1]; 1 is the discrete map.
    :param generator: for the initial weights; default torch's global one, as in :mod:`torch.nn`.
    :raises ConfigurationError: for an unknown option or sizes that make no network.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "hard-sigmoid",
        learning: RecurrentRule | None = None,
        readout: str = "linear",
        bias: bool = False,
        feedback: str = "tied",
        gain: float | Sequence[float] = 1.0,
        order: str = "red-black",
        dt: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.sizes = validated_sizes(sizes, hidden=1 if readout == "softmax" else 0)
        self.activation, self.readout, self.feedback = activation, readout, feedback
        self.activations = self._activations(activation, readout)
        if feedback not in FEEDBACKS:
            raise ConfigurationError(f"feedback {feedback!r} is unknown; choose one of {FEEDBACKS}")
        self.relaxation = Relaxation(order, dt)
        self.learning = learning or EquilibriumPropagation()
        self.settling: Settling | None = None
        self._warned: set[str] = set()
        pairs = list(pairwise(self.sizes))
        gains = per_layer(gain, len(pairs), "gain")
        self.weights = nn.ParameterList(
            initial_weight(post, pre, g / math.sqrt(pre), generator)
            for (pre, post), g in zip(pairs, gains, strict=True)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(post)) for _, post in pairs if bias)
        depth = len(self.activations)
        self.feedback_weights = nn.ParameterList(
            initial_weight(post, pre, g / math.sqrt(pre), generator)
            for (pre, post), g in list(zip(pairs, gains, strict=True))[1:depth]
            if feedback == "untied"
        )

    def _activations(self, activation: str, readout: str) -> list[Activation]:
        if readout not in READOUTS:
            raise ConfigurationError(f"readout {readout!r} is unknown; choose one of {READOUTS}")
        hidden = [activation_named(activation) for _ in self.sizes[1:-1]]
        if readout == "softmax":
            return hidden
        return [*hidden, activation_named(activation) if readout == "activated" else Identity()]

    @property
    def learning(self) -> RecurrentRule:
        """The learning rule; may be replaced at any time."""
        return self._learning

    @learning.setter
    def learning(self, rule: RecurrentRule) -> None:
        if not isinstance(rule, RecurrentRule):
            raise ConfigurationError(
                f"an MRNN cannot learn by {type(rule).__name__}: it needs a rule for recurrent networks "
                "(EquilibriumPropagation, BPTT, EquilibriumGradient); Backprop is for an MLP"
            )
        self._learning = rule

    # -- the dynamics ------------------------------------------------------------------------------

    @property
    def dynamical_parameters(self) -> list[nn.Parameter]:
        """Weights, biases and feedback weights of the layers that take part in the dynamics."""
        depth = len(self.activations)
        return [*self.weights[:depth], *self.biases[:depth], *self.feedback_weights]

    def clamp(
        self,
        x: Tensor,
        parameters: Sequence[Tensor] | None = None,
        *,
        drive: Tensor | None = None,
    ) -> ClampedLayers:
        """The network with its input clamped to ``x``, shape ``(batch, sizes[0])``.

        :param parameters: in the order of :attr:`dynamical_parameters`; default these, detached.
        :param drive: :math:`W_1 x + b_1`, if it is known already.
        """
        if parameters is None:
            parameters = [parameter.detach() for parameter in self.dynamical_parameters]
        depth = len(self.activations)
        weights, rest = parameters[:depth], parameters[depth:]
        biases, feedback = (rest[:depth], rest[depth:]) if len(self.biases) else ((), rest)
        tied = self.feedback == "tied"
        return ClampedLayers(
            x, weights, biases, weights[1:] if tied else feedback, self.activations, drive
        )

    def settle(
        self,
        x: Tensor,
        *,
        steps: int | None = None,
        tolerance: float | None = None,
        trace: bool = False,
    ) -> Settled:
        """The free phase on its own, without a graph.

        :param x: the input, ``(batch, ...)`` with ``sizes[0]`` values per sample.
        :param steps: default: those of the learning rule; likewise ``tolerance``.
        :param trace: keep the states after every step.
        :returns: states, steps, residual, trace.
        :raises DivergenceError: when a state becomes NaN or infinite.
        """
        steps = self.learning.free_steps if steps is None else steps
        tolerance = self.learning.tolerance if tolerance is None else tolerance
        with torch.no_grad():
            clamped = self.clamp(flat_input(x, self.sizes[0]))
            return settle(clamped, self.relaxation, steps=steps, tolerance=tolerance, trace=trace)

    def note_settling(self, settled: Settled, tolerance: float | None) -> None:
        """Keep the statistics of a free phase; warn once in the life of this network."""
        limit = UNSETTLED if tolerance is None else tolerance
        self.settling = Settling(settled.steps, settled.residual, settled.residual <= limit)
        if not self.settling.settled:
            self.warn_once(
                f"the free phase did not settle: after {settled.steps} steps a unit still moved by "
                f"{settled.residual:.2g} per step (limit {limit:g}). Give more free_steps, or lower dt or "
                "the gain. This is said once; network.settling holds the statistics of the last phase."
            )

    def warn_once(self, message: str) -> None:
        """Warn of a kind of trouble once in the life of this network."""
        kind = message.split(":")[0]
        if kind not in self._warned:
            self._warned.add(kind)
            warn_user(message)

    def forward(self, x: Tensor) -> Tensor:
        """The readout at the free equilibrium, shape ``(batch, sizes[-1])``.

        :raises InputError: for an input that does not fit.
        :raises DivergenceError: when a state becomes NaN or infinite.
        """
        x = flat_input(x, self.sizes[0])
        # A contrast of two nearby states needs all the bits there are: autocast would take them.
        with torch.autocast(x.device.type, enabled=False):
            return self.learning.settled_output(self, x.to(self.weights[0].dtype))

    def read(self, state: Tensor) -> Tensor:
        """The readout of the last dynamical layer's state."""
        if self.readout != "softmax":
            return state
        bias = self.biases[-1] if len(self.biases) else None
        return nn.functional.linear(state, self.weights[-1], bias)

    def primitive(self, x: Tensor, states: Sequence[Tensor]) -> Tensor:
        r""":math:`\Phi` per sample, shape ``(batch,)``; for tied feedback only.

        :raises ConfigurationError: for untied feedback, which has no energy.
        """
        if self.feedback != "tied":
            raise ConfigurationError("a network with untied feedback has no primitive function")
        below, total = x, torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for layer, state in enumerate(states):
            bias = self.biases[layer] if len(self.biases) else None
            current = nn.functional.linear(below, self.weights[layer], bias)
            total = total + (state * current).sum(1)
            below = state
        return total

    # -- what sleep and optimizers see ---------------------------------------------------------------

    def activities(self, x: Tensor) -> list[Tensor]:
        """The activations of layers 1 ... L at the free equilibrium, without a graph."""
        with torch.no_grad():
            states = self.settle(x).states
            return states if self.readout != "softmax" else [*states, self.read(states[-1])]

    def _layer_parameters(self, layer: int) -> list[nn.Parameter]:
        found = [self.weights[layer]]
        if len(self.biases):
            found.append(self.biases[layer])
        if 0 < layer <= len(self.feedback_weights):
            found.append(self.feedback_weights[layer - 1])
        return found

    def synapses(self) -> list[Synapses]:
        """The synapse layers, first to last, the readout included."""
        return [
            Synapses(
                f"weights.{layer}",
                weight,
                self.biases[layer] if len(self.biases) else None,
                self.feedback_weights[layer - 1]
                if 0 < layer <= len(self.feedback_weights)
                else None,
            )
            for layer, weight in enumerate(self.weights)
        ]

    def extra_repr(self) -> str:
        return (
            f"{'-'.join(map(str, self.sizes))}, activation={self.activation}, readout={self.readout}, "
            f"feedback={self.feedback}, order={self.relaxation.order}, dt={self.relaxation.dt}, "
            f"learning={self.learning}"
        )
