r"""A recurrent network of sequences, unrolled in time.

.. math:: h_t = \tanh(W_x x_t + W_h h_{t-1} + b), \qquad o = W_y h_T

Its recurrence is that of the task, not a relaxation: states are no equilibria. Source of its rule with local
errors: Lv et al. 2025 (arXiv:2501.09976), :math:`\xi^h_t = \Theta_h^T (\xi^h_{t+1} \odot f')`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.learning.backprop import rule_for_layers
from continual_ep.learning.feedforward import FeedforwardRule
from continual_ep.networks.layered import initial_weight, per_layer, validated_sizes


class SequenceRNN(nn.Module):
    """A simple recurrent network that reads a sequence and answers at its end.

    :param inputs: values of each step; :param hidden: units; :param outputs: answers.
    :param learning: :class:`~continual_ep.learning.Backprop` (through time, the default) or
        :class:`~continual_ep.learning.DendriticLocalizedLearning`, whose errors go back in time along
        backward weights.
    :param generator: for the initial weights.
    :raises ConfigurationError: values that cannot work.

    It does not sleep: its inputs are sequences, of which no mean can be replayed, and its recurrent synapses
    belong to no chain of layers.
    """

    readout = "linear"

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        learning: FeedforwardRule | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        rule = rule_for_layers("SequenceRNN", learning)
        self.sizes = validated_sizes([inputs, hidden, outputs], hidden=1)
        self.learning = rule
        self.weights = nn.ParameterList(
            initial_weight(post, pre, pre**-0.5, generator)
            for pre, post in ((inputs, hidden), (hidden, hidden), (hidden, outputs))
        )
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(n)) for n in (hidden, outputs)])
        self.backward_weights = nn.ParameterList(
            rule.initial_backward_weights(list(self.weights), generator)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The answer, ``(batch, outputs)``.

        :param x: ``(batch, steps, inputs)``, or ``(batch, 1, steps, inputs)`` as of an image read row by row.
        :raises InputError: for an input that does not fit.
        """
        x = x.squeeze(1) if x.dim() == 4 and x.shape[1] == 1 else x
        if x.dim() != 3 or x.shape[2] != self.sizes[0] or not x.shape[1]:
            raise InputError(
                f"the input has shape {tuple(x.shape)}; the network needs (batch, steps, {self.sizes[0]})"
            )
        arriving, recurrent, answer = self.weights
        back = list(self.backward_weights) or [None, None]
        state = x.new_zeros(len(x), self.sizes[1])
        for step in range(x.shape[1]):
            current = self.learning.linear(x[:, step], arriving, self.biases[0], None)
            state = torch.tanh(current + self.learning.linear(state, recurrent, None, back[0]))
        return self.learning.linear(state, answer, self.biases[1], back[1])

    def parameter_groups(self, learning_rates: Sequence[float]) -> list[dict[str, Any]]:
        """Optimizer groups: one rate for the hidden layer, one for the answer.

        :raises ConfigurationError: unless there are one or two rates.
        """
        first, last = per_layer(learning_rates, 2, "learning rate")
        own = self.learning.backward_rate
        groups: list[dict[str, Any]] = [
            {"params": [self.weights[0], self.weights[1], self.biases[0]], "lr": first},
            {"params": [self.weights[2], self.biases[1]], "lr": last},
        ]
        for rate, back in zip((first, last), self.backward_weights, strict=False):
            groups.append({"params": [back], "lr": rate * own})
        return groups

    def synapses(self) -> list[Any]:
        """:raises ConfigurationError: always; see above."""
        raise ConfigurationError(
            "a SequenceRNN does not sleep: its inputs are sequences, of which no mean can be replayed"
        )

    def extra_repr(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}, learning={self.learning}"
