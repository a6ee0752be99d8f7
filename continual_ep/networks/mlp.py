"""The multilayer perceptron: the feed-forward baseline of the MRNN, and the network of feed-forward rules."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, WarnOnce
from continual_ep.learning.backprop import Backprop
from continual_ep.learning.feedforward import FeedforwardRule, StackRule
from continual_ep.networks.layered import (
    LayeredNetwork,
    flat_input,
    initial_weight,
    per_layer,
    validated_sizes,
)
from continual_ep.relaxation.activations import (
    FEEDFORWARD_ACTIVATIONS,
    Activation,
    Identity,
    activation_named,
)
from continual_ep.synapses import Synapses

READOUTS = ("linear", "activated", "straight-through", "softmax")
DROPOUT_RESCALES = ("training", "evaluation")


class MLP(LayeredNetwork):
    r"""A stack of layers :math:`s_l = \rho(W_l s_{l-1} + b_l)`, trained by back-propagation or another rule.

    Main arguments:

    :param sizes: units per layer, input first.
    :param activation: of the hidden layers; those of the MRNN, and ``"relu"``.
    :param readout: ``"linear"`` or ``"softmax"`` (logits; the same thing in a feed-forward network),
        ``"activated"``, or ``"straight-through"`` (activated, but learning as if it were linear, so that
        a silent output unit can still learn, as in Tadros et al. 2022, doi:10.1038/s41467-022-34938-7).

    Other arguments:

    :param bias: give every layer biases, initially zero.
    :param dropout: probability of silencing a hidden unit during training.
    :param dropout_rescale: when activations are scaled so that their means agree: in ``"training"``, by
        :math:`1/(1-p)` (as torch does), or in ``"evaluation"``, by :math:`1-p`, the original form. It
        matters to sleep, which uses the weights as they are.
    :param gain: weights are drawn from :math:`U(\pm g/\sqrt{n_{l-1}})`; one gain, or one per layer.
    :param init: draw the weights from :math:`U(\pm\mathrm{init})` instead.
    :param learning: :class:`~continual_ep.learning.Backprop` (the default),
        :class:`~continual_ep.learning.DendriticLocalizedLearning`,
        :class:`~continual_ep.learning.DeepFeedbackControl` or
        :class:`~continual_ep.learning.WeightPerturbation`. Their backward weights, if any, are
        ``backward_weights``.
    :param generator: for the initial weights; default torch's global one.
    :raises ConfigurationError: for an unknown option or sizes that make no network.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "relu",
        readout: str = "linear",
        bias: bool = False,
        dropout: float = 0.0,
        dropout_rescale: str = "training",
        gain: float | Sequence[float] = 0.45,
        init: float | None = None,
        learning: FeedforwardRule | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if readout not in READOUTS:
            raise ConfigurationError(f"readout {readout!r} is unknown; choose one of {READOUTS}")
        if dropout_rescale not in DROPOUT_RESCALES:
            raise ConfigurationError(
                f"dropout_rescale {dropout_rescale!r} is unknown; choose one of {DROPOUT_RESCALES}"
            )
        if not 0.0 <= dropout < 1.0:
            raise ConfigurationError(f"dropout is {dropout}; it must lie in [0, 1)")
        rule = learning or Backprop()
        if not isinstance(rule, FeedforwardRule):
            raise ConfigurationError(
                f"an MLP cannot learn by {type(learning).__name__}: it has no dynamics; use Backprop, "
                "DendriticLocalizedLearning, DeepFeedbackControl or WeightPerturbation"
            )
        if isinstance(rule, StackRule) and (dropout or readout == "straight-through"):
            raise ConfigurationError(
                f"{type(rule).__name__} knows neither dropout nor a straight-through readout"
            )
        self.sizes = validated_sizes(sizes, hidden=0)
        self.activation, self.readout = activation, readout
        self.dropout, self.dropout_rescale = dropout, dropout_rescale
        self.learning = rule
        #: What has been warned of in the life of this network.
        self.warnings = WarnOnce()
        self._function = activation_named(activation, FEEDFORWARD_ACTIVATIONS)
        pairs = list(pairwise(self.sizes))
        gains = per_layer(gain, len(pairs), "gain")
        self.weights = nn.ParameterList(
            initial_weight(post, pre, init if init is not None else g / math.sqrt(pre), generator)
            for (pre, post), g in zip(pairs, gains, strict=True)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(post)) for _, post in pairs if bias)
        self.backward_weights = nn.ParameterList(
            rule.initial_backward_weights(list(self.weights), generator)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The readout, shape ``(batch, sizes[-1])``.

        :raises InputError: for an input that does not fit.
        """
        if isinstance(self.learning, StackRule):
            return self.learning.output(self, flat_input(x, self.sizes[0]))
        return self._layers(x, self.dropout)[-1]

    # -- layer by layer, for rules that look at all of them ------------------------------------------

    def current(self, layer: int, below: Tensor) -> Tensor:
        """What arrives at a layer (0 = first above the input), without a graph."""
        bias = self.biases[layer].detach() if len(self.biases) else None
        return nn.functional.linear(below, self.weights[layer].detach(), bias)

    def activate(self, layer: int, current: Tensor) -> Tensor:
        """The activation of a layer."""
        return self._activation(layer)(current)

    def slope(self, layer: int, current: Tensor) -> Tensor:
        """Its derivative."""
        return self._activation(layer).slope(current)

    def _activation(self, layer: int) -> Activation:
        outside = layer == len(self.weights) - 1 and self.readout != "activated"
        return Identity() if outside else self._function

    @torch.no_grad()
    def sweep(
        self, x: Tensor, pushes: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Currents and activations of all layers, without a graph.

        :param pushes: what is added to the current of each layer, ``(batch, n_l)``.
        """
        currents, activations = [], [x]
        for layer in range(len(self.weights)):
            current = self.current(layer, activations[-1])
            current = current if pushes is None else current + pushes[layer]
            currents.append(current)
            activations.append(self.activate(layer, current))
        return currents, activations[1:]

    # -- with a graph ----------------------------------------------------------------------------------

    def _layers(self, x: Tensor, dropout: float) -> list[Tensor]:
        state, states = flat_input(x, self.sizes[0]), []
        last = len(self.weights) - 1
        for layer, weight in enumerate(self.weights):
            bias = self.biases[layer] if len(self.biases) else None
            current = self.learning.linear(state, weight, bias, self._backward_weight(layer))
            if layer < last:
                state = self._dropped_out(self._function(current), dropout)
            elif self.readout == "activated":
                state = self._function(current)
            elif self.readout == "straight-through":
                state = current + (self._function(current) - current).detach()
            else:
                state = current
            states.append(state)
        return states

    def _dropped_out(self, activation: Tensor, p: float) -> Tensor:
        if self.dropout_rescale == "training":
            return nn.functional.dropout(activation, p, self.training)
        # Undoing torch's factor leaves the mask alone.
        return (1.0 - p) * nn.functional.dropout(activation, p, self.training)

    def activities(self, x: Tensor) -> list[Tensor]:
        """The activations of layers 1 ... L with dropout off, without a graph."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self._layers(x, 0.0)
        finally:
            self.train(training)

    def _backward_weight(self, layer: int) -> Tensor | None:
        """Those from a layer to the one below; nothing learns below the first."""
        return self.backward_weights[layer - 1] if layer and len(self.backward_weights) else None

    def _layer_parameters(self, layer: int) -> list[nn.Parameter]:
        return [self.weights[layer], *([self.biases[layer]] if len(self.biases) else [])]

    def _further_groups(self, rates: Sequence[float]) -> list[dict[str, Any]]:
        # Those of deep feedback control begin at the first layer, all others at the second.
        pairs = list(zip(reversed(rates), reversed(self.backward_weights), strict=False))[::-1]
        return [
            {"params": [weight], "lr": rate * self.learning.backward_rate} for rate, weight in pairs
        ]

    def synapses(self) -> list[Synapses]:
        """The synapse layers, first to last, the readout included."""
        return [
            Synapses(f"weights.{layer}", weight, self.biases[layer] if len(self.biases) else None)
            for layer, weight in enumerate(self.weights)
        ]

    def extra_repr(self) -> str:
        return (
            f"{'-'.join(map(str, self.sizes))}, activation={self.activation}, readout={self.readout}, "
            f"learning={self.learning}"
        )
