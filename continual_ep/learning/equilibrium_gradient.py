r"""The exact gradient of the loss at the equilibrium, by implicit differentiation.

At the free equilibrium :math:`s = \rho(u(s))`. With :math:`D = \mathrm{diag}\,\rho'(u)` and the coupling
:math:`A = \partial u/\partial s`, the adjoint solves

.. math:: a = D\,(\nabla_s L + A^T a), \qquad
          \frac{dL}{dW_l} = a_l s_{l-1}^T + s_l a_{l-1}^T \;\;(l > 1), \quad \frac{dL}{dW_1} = a_1 x^T.

Source: Almeida 1987 and Pineda 1987 (recurrent back-propagation). Equilibrium propagation tends to it as
:math:`\beta \to 0`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.errors import DivergenceError
from continual_ep.learning.rule import (
    FreePhase,
    SecondPhaseRule,
)
from continual_ep.options import option
from continual_ep.relaxation import CHECK_EVERY, largest_change, update_groups


@dataclass(frozen=True)
class EquilibriumGradient(SecondPhaseRule):
    """Recurrent back-propagation: the limit that equilibrium propagation approaches.

    For the adjoint, ``tolerance`` is relative to the largest output gradient.

    :raises ConfigurationError: for an impossible value.
    """

    sources = ("pineda1987",)

    free_steps: int = option(200, "at most, of the free phase", ge=1)
    adjoint_steps: int = option(200, "at most, of the adjoint's relaxation", ge=1)
    tolerance: float | None = option(1e-6, "stop a phase that moves less; null: never", gt=0)

    def gradients(
        self, phase: FreePhase, output_gradient: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        adjoints = self._adjoints(phase, output_gradient)
        return phase.clamped.parameter_vjp(adjoints, phase.states)

    def _adjoints(self, phase: FreePhase, output_gradient: Tensor) -> list[Tensor]:
        slopes = phase.clamped.slopes(phase.states)
        adjoints = [torch.zeros_like(state) for state in phase.states]
        groups = update_groups("red-black", len(adjoints), nudged=True)
        limit = (self.tolerance or 0.0) * largest_change(
            [torch.zeros_like(output_gradient)], [output_gradient]
        )
        for number in range(1, self.adjoint_steps + 1):
            before = list(adjoints)
            for group in groups:
                for layer in group:
                    current = phase.clamped.state_vjp(layer, adjoints, phase.states)
                    if layer == len(adjoints) - 1:
                        current = current + output_gradient
                    adjoints[layer] = slopes[layer] * current
            if number % CHECK_EVERY == 0 or number == self.adjoint_steps:
                change = largest_change(before, adjoints)
                if not change < float("inf"):
                    raise DivergenceError(
                        f"the adjoint diverged at step {number}: the free equilibrium is not stable; lower "
                        "the gain of the weights"
                    )
                if change <= limit:
                    return adjoints
        if self.tolerance is not None:
            phase.network.warnings.warn(
                "adjoint unsettled",
                f"the adjoint did not converge: after {self.adjoint_steps} steps it still changed by "
                f"{change:.2g} per step (limit {limit:.2g}), so the gradient is not exact. Give more "
                "adjoint_steps, or lower the gain of the weights.",
            )
        return adjoints
