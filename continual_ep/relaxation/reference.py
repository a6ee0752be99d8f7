r"""The dynamics as the formula says them: autograd through the primitive function at every step.

.. math:: s_{t+1} = (1 - dt)\, s_t + dt\, \rho\!\left(\frac{\partial \Phi}{\partial s}(x, s_t)
          + \beta F\right), \qquad s_0 = 0

Slow on purpose. :func:`continual_ep.relaxation.settle` is held equal to it by tests, and the speed
benchmark measures against it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from continual_ep.relaxation.activations import Activation


class HasPrimitive(Protocol):
    """A network with an energy: one scalar function whose gradient drives all layers."""

    @property
    def activations(self) -> Sequence[Activation]:
        """One per layer above the input."""

    def primitive(self, x: Tensor, states: Sequence[Tensor]) -> Tensor:
        r""":math:`\Phi` per sample, shape ``(batch,)``."""


def reference_settle(
    network: HasPrimitive,
    x: Tensor,
    start: Sequence[Tensor],
    steps: int,
    *,
    dt: float = 1.0,
    beta: float = 0.0,
    force: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """Synchronous relaxation from ``start``.

    :param force: the force on the output layer as a function of its state; scaled by ``beta``.
    """
    states = [state.detach() for state in start]
    for _ in range(steps):
        with torch.enable_grad():
            free = [state.requires_grad_() for state in states]
            primitive = network.primitive(x.detach(), free).sum()
            currents = list(torch.autograd.grad(primitive, free))
        if force is not None:
            currents[-1] = currents[-1] + beta * force(states[-1].detach())
        states = [
            ((1.0 - dt) * state + dt * activation(current)).detach()
            for state, activation, current in zip(
                states, network.activations, currents, strict=True
            )
        ]
    return states
