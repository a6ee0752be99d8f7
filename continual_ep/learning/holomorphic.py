r"""Holomorphic equilibrium propagation: the nudge goes once around a circle of complex strengths.

With :math:`\beta_k = \beta e^{2\pi i k/N}` the gradient is the first Fourier coefficient of the response,

.. math:: \frac{dL}{d\theta} \approx -\frac{1}{N\beta} \sum_{k=0}^{N-1} e^{-2\pi i k/N}\,
          \frac{\partial\Phi}{\partial\theta}\big(s^{\beta_k}\big),

in error by :math:`O(\beta^N)`: two points are the centred estimator, and a finite :math:`\beta` costs
nothing where all functions are holomorphic. Phases k and N - k are conjugate, so half of them are run, in
one batch. Source: Laborieux and Zenke 2022 (arXiv:2209.00530).
"""

import cmath
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.learning.rule import (
    FreePhase,
    SecondPhaseRule,
    require_layers,
)
from continual_ep.options import option
from continual_ep.relaxation import settle
from continual_ep.relaxation.protocols import LayeredDynamics, SettlingNetwork

#: Activations that are holomorphic around the real numbers.
HOLOMORPHIC = ("tanh", "shifted-sigmoid", "identity")


@dataclass(frozen=True)
class HolomorphicEP(SecondPhaseRule):
    r"""Holomorphic equilibrium propagation, of an :class:`~continual_ep.networks.MRNN`.

    ``beta`` is in units of the force on the sample that errs most.

    :raises ConfigurationError: for an impossible value; with a network whose activation is not holomorphic.
    """

    kinds = ("mrnn",)
    sources = ("laborieux2022",)

    beta: float = option(0.5, "radius of the circle of nudges", gt=0)
    points: int = option(4, "nudges on the circle", ge=2)
    free_steps: int = option(20, "of the free phase", ge=1)
    nudged_steps: int = option(10, "of the nudged phases", ge=1)
    tolerance: float | None = option(None, "stop a phase that moves less; null: never", gt=0)

    def check(self, network: SettlingNetwork) -> None:
        require_layers(self, network)
        bent = [a.name for a in network.activations if a.name not in HOLOMORPHIC]
        if bent:
            raise ConfigurationError(
                f"HolomorphicEP goes through complex states, and {bent[0]} is not holomorphic: use one of "
                f"{', '.join(HOLOMORPHIC[:-1])}"
            )

    def gradients(
        self, phase: FreePhase, output_gradient: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        clamped = cast(LayeredDynamics, phase.clamped)  # see check
        batch = len(output_gradient)
        scale = output_gradient.norm(dim=1).amax() if batch else output_gradient.new_zeros(())
        force = -output_gradient / torch.where(scale > 0, scale, 1.0)
        kept = range(self.points // 2 + 1)
        turns = [cmath.exp(2j * math.pi * k / self.points) for k in kept]
        # A phase whose conjugate is another phase counts for both.
        counts = [1.0 if (2 * k) % self.points == 0 else 2.0 for k in kept]
        around = clamped.complexified(len(turns))
        push = torch.cat([force * (self.beta * turn) for turn in turns])
        start = [torch.cat([state] * len(turns)).to(push.dtype) for state in phase.states]
        settled = settle(
            around,
            phase.network.relaxation,
            steps=self.nudged_steps,
            start=start,
            tolerance=self.tolerance,
            nudge=lambda current, state: current.add_(push),
            phase="nudged phases",
        )
        factors = [
            -n * turn.conjugate() / (self.points * self.beta)
            for n, turn in zip(counts, turns, strict=True)
        ]
        strength = push.new_tensor(factors).repeat_interleave(batch).unsqueeze(1) * scale
        changes = [strength * state for state in settled.states]
        gradients, to_input = around.hebbian_product(changes, settled.states)
        if to_input is not None:
            to_input = to_input.view(len(turns), batch, -1).sum(0).real
        return [gradient.real.contiguous() for gradient in gradients], to_input
