r"""Continual equilibrium propagation: weights change at every step of the nudged phase.

.. math:: \Delta_t\theta = -\frac{1}{\beta} \left( \frac{\partial\Phi}{\partial\theta}(s_{t+1})
          - \frac{\partial\Phi}{\partial\theta}(s_t) \right), \qquad
          \theta_{t+1} = \theta_t - \eta\,\Delta_t\theta

No state has to be remembered beyond one step. While weights stay as they are the sum telescopes to the
one-sided estimate. Source: Ernoult et al. 2020 (arXiv:2005.04168).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.learning.rule import (
    FreePhase,
    SecondPhaseRule,
    require_layers,
)
from continual_ep.options import option
from continual_ep.relaxation import settle
from continual_ep.relaxation.protocols import SettlingNetwork


@dataclass(frozen=True)
class ContinualEP(SecondPhaseRule):
    r"""Continual equilibrium propagation (C-EP), of an :class:`~continual_ep.networks.MRNN`.

    The sum of all changes is handed to the optimizer as the gradient: with plain SGD of the same rate the
    weights end where they were at the end of the phase.

    ``beta`` is in units of the force on the sample that errs most. ``rate`` is small: what the weights change
    moves the states as well, and has to stay below what the nudge does.

    :raises ConfigurationError: for an impossible value.
    """

    kinds = ("mrnn",)
    sources = ("ernoult2020",)

    beta: float = option(0.1, "strength of the nudge", gt=0)
    rate: float = option(0.001, "of the changes within the phase", ge=0)
    free_steps: int = option(20, "of the free phase", ge=1)
    nudged_steps: int = option(10, "of the nudged phase", ge=1)
    tolerance: float | None = option(
        None, "stop the free phase when it moves less; null: never", gt=0
    )

    def check(self, network: SettlingNetwork) -> None:
        require_layers(self, network)

    def gradients(
        self, phase: FreePhase, output_gradient: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        network = phase.network
        empty = not output_gradient.numel()
        scale = output_gradient.new_zeros(()) if empty else output_gradient.norm(dim=1).amax()
        push = -self.beta * output_gradient / torch.where(scale > 0, scale, 1.0)
        clamped, states = phase.clamped, list(phase.states)
        x = clamped.x
        weights = [p.detach().clone() for p in network.dynamical_parameters]
        total: list[Tensor] = [torch.zeros_like(w) for w in weights]
        to_input: Tensor | None = None
        for _ in range(self.nudged_steps):
            moved = settle(
                clamped,
                network.relaxation,
                steps=1,
                start=states,
                nudge=lambda current, state: current.add_(push),
                phase="nudged phase",
            ).states
            changes, into = clamped.contrast(moved, states, -scale / self.beta)
            for whole, change in zip(total, changes, strict=True):
                whole.add_(change)
            if into is not None:
                to_input = into if to_input is None else to_input + into
            states = moved
            if self.rate:
                for weight, change in zip(weights, changes, strict=True):
                    weight.sub_(change, alpha=self.rate)
                clamped = network.clamp(x, weights, wants_input=phase.clamped.wants_input)
        return total, to_input
