r"""Contrastive Hebbian learning: what the clamped output changes is learned, what was free is unlearned.

.. math:: \Delta W_l \propto \langle \hat s_l \hat s_{l-1}^T \rangle - \langle s_l s_{l-1}^T \rangle

with :math:`\hat s` settled while the output is held at the target. Source: Movellan 1991; Xie and Seung 2003
(doi:10.1162/089976603762552988), who show that with small feedback it is back-propagation, once each
layer's change is divided by the product of the feedback scales above it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.learning.adaptation import adapted
from continual_ep.learning.losses import SquaredError
from continual_ep.learning.rule import (
    FreePhase,
    SecondPhaseRule,
)
from continual_ep.options import option
from continual_ep.relaxation import settle
from continual_ep.relaxation.activations import Activation
from continual_ep.relaxation.protocols import ClampedDynamics, Current


@dataclass(frozen=True)
class ContrastiveHebbian(SecondPhaseRule):
    """Contrastive Hebbian learning (CHL).

    The loss has to be :class:`~continual_ep.learning.SquaredError` on an output inside the dynamics: its
    target is what the output is held at.

    The clamped phase starts from the free equilibrium. ``update="clamped-presynaptic"`` is the difference of
    postsynaptic states times the clamped presynaptic state (as in arXiv:2204.14008). For the steps of
    adaptation, in which the output is free, see :mod:`continual_ep.learning.adaptation`.

    :raises ConfigurationError: for an impossible value.
    """

    needs_target = True
    sources = ("xie2003",)

    free_steps: int = option(30, "of the free phase", ge=1)
    clamped_steps: int = option(20, "of the clamped phase", ge=1)
    tolerance: float | None = option(None, "stop a phase that moves less; null: never", gt=0)
    update: Literal["contrast", "clamped-presynaptic"] = option(
        "contrast", "difference of products, or change times clamped state"
    )
    corrected: bool = option(True, "divide by the feedback scales between layer and output")
    adaptation_steps: int = option(
        0, "steps of adjusted adaptation after the clamped phase; needs dt < 1", ge=0
    )
    adaptation_rate: float = option(
        0.1, "pull towards the free equilibrium in each of them", gt=0, lt=1
    )

    @property
    def clamp_strength(self) -> float:
        """How far towards its target the output is held."""
        return 1.0

    def gradients(
        self, phase: FreePhase, output_gradient: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        target, weight = target_of(phase, output_gradient, "contrastive Hebbian learning")
        part = self.clamp_strength
        if part != 1.0:
            target = phase.states[-1] + part * (target - phase.states[-1])
            weight = weight / part
        clamped, relaxation = phase.clamped, phase.network.relaxation
        states = [target]
        if len(phase.states) > 1:
            held = HeldOutput(clamped, target)
            settled = settle(
                held,
                relaxation,
                steps=self.clamped_steps,
                start=phase.states[:-1],
                tolerance=self.tolerance,
                phase="clamped phase",
            )
            states = [*settled.states, target]
        if self.adaptation_steps:
            if relaxation.dt == 1.0 and clamped.time_steps is None:
                raise ConfigurationError(
                    "adaptation needs dt below 1: in the discrete map the freed output forgets its target in "
                    "one step, and nothing is left to learn from"
                )
            states = adapted(
                clamped,
                relaxation,
                states,
                phase.states,
                steps=self.adaptation_steps,
                rate=self.adaptation_rate,
            )
        gradients = self._products(clamped, states, phase.states, -weight)
        return (clamped.corrected(gradients[0]), gradients[1]) if self.corrected else gradients

    def _products(
        self, clamped: ClampedDynamics, taught: list[Tensor], free: list[Tensor], strength: float
    ) -> tuple[list[Tensor], Tensor | None]:
        if self.update == "contrast":
            return clamped.contrast(taught, free, strength)
        change = [strength * (a - b) for a, b in zip(taught, free, strict=True)]
        return clamped.hebbian_product(change, taught)


def target_of(phase: FreePhase, output_gradient: Tensor, rule: str) -> tuple[Tensor, float]:
    """What the output shall be, and the weight of each sample's loss in the total.

    :param rule: its name, for messages.
    :raises ConfigurationError: a loss that has no target, or weighs samples differently.
    """
    loss_and_weights = phase.nudging.single_loss()
    if (
        loss_and_weights is None
        or not isinstance(loss_and_weights[0], SquaredError)
        or phase.nudging.readout
    ):
        raise ConfigurationError(
            f"{rule} knows the output's target and needs SquaredError of "
            "continual_ep.learning, called on the network's own output, with a readout inside the dynamics "
            "(linear or activated)"
        )
    weights = loss_and_weights[1].unsqueeze(1)
    weight = float(weights.abs().max()) if len(weights) else 0.0
    if weight == 0.0:
        return phase.states[-1], 0.0
    if not bool(torch.isclose(weights, weights.new_tensor(weight)).all()):
        raise ConfigurationError(f"{rule} weighs all samples of a batch alike")
    return phase.states[-1] - output_gradient / weight, weight


@dataclass
class HeldOutput:
    """A clamped network whose output is clamped as well."""

    network: ClampedDynamics
    target: Tensor

    @property
    def activations(self) -> Sequence[Activation]:
        return self.network.activations[:-1]

    @property
    def time_steps(self) -> Sequence[Tensor] | None:
        steps = self.network.time_steps
        return None if steps is None else steps[:-1]

    def current(self, layer: int, states: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        return self.network.current(layer, [*states, self.target], out=out)

    def prepared(self, layer: int) -> Current:
        return partial(self.current, layer)

    def initial_states(self) -> list[Tensor]:
        return self.network.initial_states()[:-1]

    def nonfinite_source(self) -> str | None:
        if not bool(self.target.isfinite().all()):
            return "the targets hold NaN or infinity"
        return self.network.nonfinite_source()
