r"""Learning from surprise: the clamped state against the free state that the neuron had predicted.

.. math:: \Delta W_l \propto \langle (\hat s_l - \tilde s_l)\, \hat s_{l-1}^T \rangle

with :math:`\hat s` settled while the output is held at its target, and :math:`\tilde s` each neuron's own
linear prediction of its free equilibrium from the first steps of the free phase, so that the free phase need
not be awaited. The predictions are fitted, by least squares with offset, on one part of each batch and used
on the other. Source: Luczak, McNaughton and Kubo 2022 (doi:10.1038/s42256-021-00430-y).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.learning.contrastive_hebbian import HeldOutput, target_of
from continual_ep.learning.rule import FreePhase, SecondPhaseRule, require_layers
from continual_ep.options import option
from continual_ep.relaxation import Settled, settle
from continual_ep.relaxation.protocols import ClampedDynamics, SettlingNetwork

#: Added to the diagonal of the normal equations, relative to its mean: neurons that never move.
RIDGE = 1e-6


@dataclass(frozen=True)
class PredictiveHebbian(SecondPhaseRule):
    """Contrastive Hebbian learning against predicted free states (bioCHL), of an MRNN.

    The loss has to be :class:`~continual_ep.learning.SquaredError` on an output inside the dynamics.

    The clamped phase starts at rest. Predictions are fitted on the first part of each batch; the rest is
    learned.

    :raises ConfigurationError: for an impossible value.
    """

    kinds = ("mrnn",)
    needs_target = True
    sources = ("luczak2022",)

    free_steps: int = option(60, "of the free phase", ge=1)
    clamped_steps: int = option(60, "of the clamped phase", ge=1)
    seen_steps: int = option(12, "from which the free state is predicted", ge=1)
    fitted: float = option(0.5, "part of each batch on which predictions are fitted", gt=0, lt=1)
    tolerance: None = option(None, "none: the path is what is predicted from")

    def check_combination(self) -> None:
        if self.seen_steps >= self.free_steps:
            raise ConfigurationError(
                f"seen_steps is {self.seen_steps}: nothing of {self.free_steps} free steps is left to predict"
            )

    def check(self, network: SettlingNetwork) -> None:
        super().check(network)
        require_layers(self, network)

    def free_phase(self, network: SettlingNetwork, clamped: ClampedDynamics) -> Settled:
        return settle(clamped, network.relaxation, steps=self.free_steps, trace=True)

    def gradients(
        self, phase: FreePhase, output_gradient: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        target, weight = target_of(phase, output_gradient, "predictive Hebbian learning")
        batch = len(target)
        if batch < 2:
            # The last batch of an epoch may be that small.
            phase.network.warnings.warn(
                "batch of one",
                "PredictiveHebbian learns nothing from a batch of one: predictions are fitted on one part "
                "of the batch and used on the other",
            )
            nothing = [torch.zeros_like(p) for p in phase.network.dynamical_parameters]
            x = phase.clamped.x
            return nothing, torch.zeros_like(x) if phase.clamped.wants_input else None
        cut = min(batch - 1, max(1, int(self.fitted * batch)))
        clamped = phase.network.clamp(phase.clamped.x[cut:], wants_input=False)
        rest = clamped.initial_states()
        taught = [target[cut:]]
        if len(rest) > 1:
            held = HeldOutput(clamped, target[cut:])
            settled = settle(
                held,
                phase.network.relaxation,
                steps=self.clamped_steps,
                start=rest[:-1],
                phase="clamped phase",
            )
            taught = [*settled.states, target[cut:]]
        expected = [
            predicted([states[layer] for states in phase.trace[: self.seen_steps]], end, cut)
            for layer, end in enumerate(phase.states)
        ]
        # The mean over those that are learned, not over the whole batch.
        strength = -weight * batch / (batch - cut)
        changes = [strength * (a - b) for a, b in zip(taught, expected, strict=True)]
        gradients, _ = clamped.hebbian_product(changes, taught)
        return gradients, torch.zeros_like(phase.clamped.x) if phase.clamped.wants_input else None


def predicted(seen: list[Tensor], end: Tensor, cut: int) -> Tensor:
    """The free equilibria of the samples from ``cut`` on, as each neuron predicts its own.

    :param seen: states of the first steps, ``(batch, n)`` each.
    :param end: the equilibria, of which those before ``cut`` are known.
    """
    ones = torch.ones_like(end)
    features = torch.stack([*seen, ones], dim=-1).double().transpose(0, 1)  # (n, batch, steps + 1)
    known, asked = features[:, :cut], features[:, cut:]
    goal = end.double().t()[:, :cut].unsqueeze(2)
    square = known.transpose(1, 2) @ known
    size = square.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1).clamp(min=1e-12)
    square = square + RIDGE * size * torch.eye(square.shape[1], dtype=square.dtype).to(square)
    fit = torch.linalg.solve(square, known.transpose(1, 2) @ goal)
    return (asked @ fit).squeeze(2).t().to(end.dtype).clamp(min=0.0)
