r"""The multilayer recurrent network (MRNN): layers that excite each other in both directions.

Its tied form has the primitive function

.. math:: \Phi(x, s) = \sum_{l=1}^{L} s_l^T (W_l s_{l-1} + b_l), \qquad s_0 = x,

and settles by :math:`s_l \leftarrow \rho(\partial\Phi/\partial s_l)`. Source: Scellier and Bengio 2017
(doi:10.3389/fncom.2017.00024); Ernoult et al. 2019 (arXiv:1905.13633); softmax readout: Laborieux et al.
2021 (doi:10.3389/fnins.2021.633674).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError
from continual_ep.learning.equilibrium_propagation import EquilibriumPropagation
from continual_ep.learning.rule import RecurrentRule
from continual_ep.networks.clamped import ClampedLayers
from continual_ep.networks.connections import FEEDBACKS
from continual_ep.networks.layered import (
    LayeredNetwork,
    checked_values,
    initial_weight,
    per_layer,
    validated_sizes,
)
from continual_ep.networks.recurrent import RecurrentModule, readout_for, relaxation_from
from continual_ep.relaxation import Relaxation, TimeSteps
from continual_ep.relaxation.activations import Activation, Identity, activation_named
from continual_ep.synapses import Synapses


class MRNN(RecurrentModule, LayeredNetwork):
    r"""A multilayer recurrent network with a clamped input.

    ``network(x)`` settles to the free equilibrium and returns the readout, ``(batch, sizes[-1])``.
    ``loss.backward()`` then runs the second phase of the learning rule.

    Main arguments:

    :param sizes: units per layer, input first.
    :param activation: of the hidden layers: ``"hard-sigmoid"``, ``"shifted-sigmoid"``, ``"tanh"`` or
        ``"clipped-relu"``.
    :param learning: the learning rule; default
        :class:`~continual_ep.learning.EquilibriumPropagation`.
    :param readout: ``"softmax"`` (the last weights read logits from the settled last hidden layer and
        send nothing back; for cross-entropy), or, for squared error, ``"activated"`` (the output layer
        takes part in the dynamics, with its activation) or ``"linear"`` (without). Default: softmax, or
        activated for a rule that holds the output at its target.

    Other arguments:

    :param bias: give every layer biases, initially zero. Off by default: sleep works better without.
    :param feedback: ``"tied"`` (transposed weights; an energy exists), ``"untied"`` (own feedback
        weights; a vector field, learned by the same Hebbian products as the forward weights) or
        ``"random"`` (own feedback weights that never change).
    :param feedback_scale: :math:`\gamma_l` in front of what comes back to each hidden layer; one, or one
        for each connection between dynamical layers, lowest first. Below 1 the network settles sooner;
        its energy then weighs each layer by the product of the scales above it, and equilibrium propagation
        has the exact gradient with ``corrected=True``, which divides by them.
    :param gain: weights are drawn from :math:`U(\pm g/\sqrt{n_{l-1}})`; one gain, or one per layer.
    :param relaxation: how it settles, see :class:`~continual_ep.relaxation.Relaxation`; or, instead,
        ``order`` and ``dt`` of it.
    :param dt: time step in (0, 1]; 1 is the discrete map. Or :class:`~continual_ep.relaxation.TimeSteps`:
        one for each unit, drawn once.
    :param generator: for the initial weights; default torch's global one, as in :mod:`torch.nn`.
    :raises ConfigurationError: for an unknown option or sizes that make no network.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "hard-sigmoid",
        learning: RecurrentRule | None = None,
        readout: str | None = None,
        bias: bool = False,
        feedback: str = "tied",
        feedback_scale: float | Sequence[float] = 1.0,
        gain: float | Sequence[float] = 0.45,
        relaxation: Relaxation | None = None,
        order: str | None = None,
        dt: float | TimeSteps | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            learning or EquilibriumPropagation(), relaxation_from(relaxation, order, dt)
        )
        readout = readout_for(readout, self.learning)
        self.sizes = validated_sizes(sizes, hidden=1 if readout == "softmax" else 0)
        self.activation, self.readout, self.feedback = activation, readout, feedback
        self.activations = self._activations(activation, readout)
        if feedback not in FEEDBACKS[:-1]:
            raise ConfigurationError(
                f"feedback {feedback!r} is unknown; choose one of {FEEDBACKS[:-1]}"
            )
        links = len(self.activations) - 1
        self.feedback_scales = per_layer(feedback_scale, links, "feedback_scale") if links else []
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
            if feedback != "tied"
        )
        self.feedback_weights.requires_grad_(feedback == "untied")
        self._draw_time_steps(dt, [(size,) for size in self.sizes[1 : depth + 1]], generator)
        self.learning.check(self)

    def _activations(self, activation: str, readout: str) -> list[Activation]:
        hidden = [activation_named(activation) for _ in self.sizes[1:-1]]
        if readout == "softmax":
            return hidden
        return [*hidden, activation_named(activation) if readout == "activated" else Identity()]

    # -- the dynamics ------------------------------------------------------------------------------

    @property
    def dynamical_parameters(self) -> list[nn.Parameter]:
        """Weights, biases and feedback weights of the layers that take part in the dynamics."""
        depth = len(self.activations)
        return [*[*self.weights][:depth], *[*self.biases][:depth], *self.feedback_weights]

    def clamp(
        self,
        x: Tensor,
        parameters: Sequence[Tensor] | None = None,
        *,
        drives: Sequence[Tensor] = (),
        wants_input: bool = True,
    ) -> ClampedLayers:
        """The network with its input clamped to ``x``, shape ``(batch, sizes[0])``."""
        if parameters is None:
            parameters = [parameter.detach() for parameter in self.dynamical_parameters]
        weights, biases, feedback = self.parted(parameters)
        return ClampedLayers(
            x,
            weights,
            biases,
            feedback,
            self.activations,
            drives[0] if drives else None,
            time_steps=self.time_steps,
            scales=self.feedback_scales,
            wants_input=wants_input,
            products=self.relaxation.products,
        )

    @property
    def layered(self) -> bool:
        return True

    def parted(
        self, parameters: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """Weights, biases and feedback of :attr:`dynamical_parameters`, or of others in their order."""
        depth = len(self.activations)
        weights, rest = parameters[:depth], parameters[depth:]
        biases, feedback = (rest[:depth], rest[depth:]) if len(self.biases) else ((), rest)
        return weights, biases, weights[1:] if self.feedback == "tied" else feedback

    @property
    def has_energy(self) -> bool:
        """Whether the currents derive from a primitive function."""
        return self.feedback == "tied" and all(scale == 1.0 for scale in self.feedback_scales)

    def checked_input(self, x: Tensor) -> Tensor:
        checked_values(x, self.sizes[0], finite=not self.relaxation.cuda_graphs)
        return x.flatten(1)

    @property
    def readout_parameters(self) -> tuple[Tensor, Tensor | None] | None:
        if self.readout != "softmax":
            return None
        return self.weights[-1], self.biases[-1] if len(self.biases) else None

    def primitive(self, x: Tensor, states: Sequence[Tensor]) -> Tensor:
        r""":math:`\Phi` per sample, shape ``(batch,)``; for tied, unscaled feedback only.

        :raises ConfigurationError: for any other, which has no energy.
        """
        if not self.has_energy:
            raise ConfigurationError(
                "a network with untied or scaled feedback has no primitive function"
            )
        below, total = x, torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for layer, state in enumerate(states):
            bias = self.biases[layer] if len(self.biases) else None
            current = nn.functional.linear(below, self.weights[layer], bias)
            total = total + (state * current).sum(1)
            below = state
        return total

    # -- what sleep and optimizers see ---------------------------------------------------------------

    def _layer_parameters(self, layer: int) -> list[nn.Parameter]:
        parameters = [self.weights[layer]]
        if len(self.biases):
            parameters.append(self.biases[layer])
        if 0 < layer <= len(self.feedback_weights):
            parameters.append(self.feedback_weights[layer - 1])
        return parameters

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
            f"feedback={self.feedback}, feedback_scale={self.feedback_scales}, "
            f"{super().extra_repr()}"
        )
