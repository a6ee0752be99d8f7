r"""Single-phase rules: an error at the output, carried down by the weights themselves, gates Hebbian changes.

.. math:: \Delta W_l \propto \langle (m_l \odot h_l)\, h_{l-1}^T \rangle, \qquad m_l = W_{l+1}^T m_{l+1}

with h the free equilibrium: no nudged phase, no contrast, no derivative of the activation. Direct cost
feedback (DCF) starts from :math:`m_L = y^* - h_L`, which is minus the gradient of the squared error;
neuromodulated equilibrium learning (NEL) from a reward: a class a is chosen, r = 1 if it is right,
:math:`m_L = (r - h_{L,a})\,e_a`. Source: public code of Kubo's group, 2026; no paper is available.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from continual_ep.learning.contrastive_hebbian import target_of
from continual_ep.learning.rule import (
    FreePhase,
    SecondPhaseRule,
    require_layers,
)
from continual_ep.options import option
from continual_ep.relaxation.protocols import LayeredDynamics, SettlingNetwork


@dataclass(frozen=True)
class DirectCostFeedback(SecondPhaseRule):
    """Direct cost feedback (DCF), of an :class:`~continual_ep.networks.MRNN`, under any loss.

    :raises ConfigurationError: for an impossible value.
    """

    kinds = ("mrnn",)

    free_steps: int = option(20, "of the free phase", ge=1)
    tolerance: float | None = option(None, "stop the phase when it moves less; null: never", gt=0)

    def check(self, network: SettlingNetwork) -> None:
        super().check(network)
        require_layers(self, network)

    def gradients(
        self, phase: FreePhase, output_gradient: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        clamped = cast(LayeredDynamics, phase.clamped)  # see check
        modulators = [self.modulator(phase, output_gradient)]
        for back in reversed(clamped.feedback):
            modulators.insert(0, modulators[0] @ back)
        changes = [-m * h for m, h in zip(modulators, phase.states, strict=True)]
        return clamped.hebbian_product(changes, phase.states)

    def modulator(self, phase: FreePhase, output_gradient: Tensor) -> Tensor:
        """:math:`m_L`, divided by the batch: ``(batch, n_L)``."""
        return -output_gradient


@dataclass(frozen=True)
class NeuromodulatedEquilibriumLearning(DirectCostFeedback):
    """Neuromodulated equilibrium learning (NEL): the teaching signal is a reward for the chosen class.

    The loss has to be :class:`~continual_ep.learning.SquaredError` on an output inside the dynamics.

    The strongest output is chosen, or, with the probability ``exploration``, one drawn by the outputs as
    logits, from torch's global generator, as dropout draws.

    :raises ConfigurationError: for an impossible value.
    """

    needs_target = True

    exploration: float = option(0.2, "probability of a class drawn at random", ge=0, le=1)

    def modulator(self, phase: FreePhase, output_gradient: Tensor) -> Tensor:
        target, weight = target_of(phase, output_gradient, "neuromodulated equilibrium learning")
        output = phase.states[-1]
        chosen = output.argmax(1)
        drawn = torch.multinomial(output.softmax(1), 1).squeeze(1) if len(output) else chosen
        explores = torch.rand(len(output), device=output.device) < self.exploration
        chosen = torch.where(explores, drawn, chosen)
        reward = (chosen == target.argmax(1)).to(output.dtype)
        error = reward - output.gather(1, chosen.unsqueeze(1)).squeeze(1)
        return torch.zeros_like(output).scatter_(
            1, chosen.unsqueeze(1), (weight * error).unsqueeze(1)
        )
