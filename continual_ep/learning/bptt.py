r"""Back-propagation through time, through the steps of the free phase.

The output after :math:`T` steps is differentiated through the last :math:`K` of them. With a settled free
phase, the gradients per step equal the updates per step of equilibrium propagation in the limit
:math:`\beta \to 0` (Ernoult et al. 2019, arXiv:1905.13633).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.learning.rule import RecurrentRule
from continual_ep.options import option
from continual_ep.relaxation import Settled, largest_change, settle, step, update_groups
from continual_ep.relaxation.protocols import SettlingNetwork


@dataclass(frozen=True)
class BPTT(RecurrentRule):
    """Back-propagation through time (BPTT).

    With a tolerance, the steps before those that are differentiated stop early.

    :raises ConfigurationError: for an impossible value.
    """

    sources = ("ernoult2019",)
    supports_ensembles = True

    free_steps: int = option(20, "of the free phase", ge=1)
    backward_steps: int | None = option(None, "steps differentiated; null: all", ge=1)
    tolerance: float | None = option(None, "stop a phase that moves less; null: never", gt=0)

    def check_combination(self) -> None:
        if self.backward_steps is not None and self.backward_steps > self.free_steps:
            raise ConfigurationError(
                f"backward_steps is {self.backward_steps}, more than free_steps ({self.free_steps})"
            )

    def settled_output(self, network: SettlingNetwork, x: Tensor) -> Tensor:
        if network.relaxation.products != "float32":
            raise ConfigurationError(
                "BPTT differentiates the steps with all bits of the products: use products='float32'"
            )
        tracked = self.backward_steps or self.free_steps
        if not torch.is_grad_enabled():
            tracked = 1
        clamped = network.clamp(x, network.dynamical_parameters)
        states = clamped.initial_states()
        taken = 0
        if self.free_steps > tracked:
            start = settle(
                network.clamp(x.detach()),
                network.relaxation,
                steps=self.free_steps - tracked,
                tolerance=self.tolerance,
            )
            states, taken = start.states, start.steps
        groups = update_groups(network.relaxation.order, len(states))
        for _ in range(tracked):
            before = [state.detach() for state in states]
            step(clamped, states, groups, network.relaxation.dt)
        change = largest_change(before, [state.detach() for state in states])
        if not change < float("inf"):
            # Once more without a graph: this raises and says where it happened.
            settle(network.clamp(x.detach()), network.relaxation, steps=self.free_steps)
        network.note_settling(Settled(states, taken + tracked, change), self.tolerance)
        return network.read(states[-1])
