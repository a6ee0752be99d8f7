r"""FRE-RNN: recurrent networks whose feedback is scaled down, with residual or random connections.

.. math:: s_l \leftarrow \rho\Big( W_{l-1} s_{l-1} + \gamma_l B_l s_{l+1} + \text{skips} \Big), \qquad
          \text{logits} = W_f s_L

A small :math:`\gamma` makes the spectral radius of the recurrent matrix small,
:math:`\mathrm{SR}(\gamma) = \sqrt{\gamma}\,\mathrm{SR}(1)` in a chain, so that a few steps settle. Source:
Liu and Chen 2026 (arXiv:2508.11659).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from continual_ep.errors import ConfigurationError
from continual_ep.learning.equilibrium_propagation import EquilibriumPropagation
from continual_ep.learning.rule import RecurrentRule
from continual_ep.networks.connections import Connection, Dense
from continual_ep.networks.graph import RecurrentNetwork
from continual_ep.networks.layered import validated_sizes
from continual_ep.networks.recurrent import relaxation_from
from continual_ep.relaxation import Relaxation, TimeSteps


class FeedbackRegulatedRNN(RecurrentNetwork):
    r"""A chain of layers with scaled feedback, and skips on request (FRE-RNN, arXiv:2508.11659).

    The readout is a softmax outside of the dynamics. A plain chain is also
    :class:`~continual_ep.networks.MRNN` with ``feedback_scale``, which is faster.

    Main arguments:

    :param sizes: units per layer, input first, classes last.
    :param feedback_scale: :math:`\gamma` of every connection between hidden layers.
    :param feedback: ``"tied"``, or ``"random"``: weights that never change.
    :param residuals: symmetric skips of three layers, :math:`i \leftrightarrow i + 3` for i = 1, 4, 7, ...
    :param random_links: probability of each further connection between two hidden layers (arbitrary-graph
        topology): upward ones learn, downward ones are random, scaled by :math:`\gamma`, and never change.
    :param learning: default: EP as published, one-sided, 10 and 5 steps, corrected by the feedback scales.

    Other arguments:

    :param activation, relaxation, order, dt: see :class:`RecurrentNetwork`.
    :param generator: for weights and links; default torch's global one.
    :raises ConfigurationError: values that cannot work.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        feedback_scale: float = 0.01,
        feedback: str = "tied",
        residuals: bool = False,
        random_links: float = 0.0,
        learning: RecurrentRule | None = None,
        activation: str = "tanh",
        relaxation: Relaxation | None = None,
        order: str | None = None,
        dt: float | TimeSteps | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not 0 <= random_links <= 1:
            raise ConfigurationError(f"random_links is {random_links}; it must lie in [0, 1]")
        units = validated_sizes(sizes, hidden=1)
        hidden = units[:-1]
        links: list[tuple[int, int, Connection]] = []

        def connect(source: int, target: int, back: str) -> None:
            bound = math.sqrt(6.0 / (hidden[source] + hidden[target]))
            connection = Dense(
                hidden[source],
                hidden[target],
                feedback=back if source else "none",
                feedback_scale=feedback_scale,
                bound=bound,
                generator=generator,
            )
            links.append((source, target, connection))

        for source, _ in enumerate(pairwise(hidden)):
            connect(source, source + 1, feedback)
        last = len(hidden) - 1
        if residuals:
            for source in range(1, last - 2, 3):
                connect(source, source + 3, feedback)
        known = {(source, target) for source, target, _ in links}
        for source in range(1, last + 1):
            for target in range(1, last + 1):
                drawn = float(torch.rand((), generator=generator)) < random_links
                if source == target or not drawn or (source, target) in known:
                    continue
                if source < target:
                    connect(source, target, "none")
                else:
                    links.append(
                        (
                            source,
                            target,
                            _downward(hidden, source, target, feedback_scale, generator),
                        )
                    )
        super().__init__(
            [(size,) for size in hidden],
            links,
            activation=activation,
            readout="softmax",
            classes=units[-1],
            learning=learning
            or EquilibriumPropagation(
                0.1,
                estimator="one-sided",
                nudging="force",
                update="postsynaptic",
                corrected=True,
                free_steps=10,
                nudged_steps=5,
            ),
            relaxation=relaxation_from(relaxation, order, dt, default_order="synchronous"),
            dt=dt if isinstance(dt, TimeSteps) else None,
            generator=generator,
        )
        assert self.readout_layer is not None
        bound = math.sqrt(6.0 / (hidden[-1] + units[-1]))
        nn.init.uniform_(self.readout_layer.weight, -bound, bound, generator=generator)

    def spectral_radius(self) -> float:
        """The largest modulus of an eigenvalue of the recurrent matrix, slopes of 1 assumed."""
        sizes = [shape[0] for shape in self.shapes[1:]]
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        matrix = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64)
        for source, target, connection in self.links:
            if source == 0:
                continue
            rows = slice(starts[target - 1], starts[target - 1] + sizes[target - 1])
            columns = slice(starts[source - 1], starts[source - 1] + sizes[source - 1])
            up, back, *_ = connection.tensors()
            matrix[rows, columns] += up.detach().to(matrix).cpu()
            if connection.has_feedback:
                matrix[columns, rows] += (
                    connection.feedback_scale * back.detach().to(matrix).cpu().t()
                )
        return float(torch.linalg.eigvals(matrix).abs().max())


def _downward(
    hidden: Sequence[int],
    source: int,
    target: int,
    scale: float,
    generator: torch.Generator | None,
) -> Dense:
    """Random synapses from a higher layer onto a lower one, which never change."""
    bound = scale * math.sqrt(6.0 / (hidden[source] + hidden[target]))
    connection = Dense(
        hidden[source], hidden[target], feedback="none", bound=bound, generator=generator
    )
    connection.weight.requires_grad_(False)
    return connection
