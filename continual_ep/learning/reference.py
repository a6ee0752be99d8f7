r"""Equilibrium propagation as the formula says it, step by step and sign by sign.

Autograd through the primitive function at every step and for the parameters, no cache, synchronous
updates, the two nudged phases one after the other. Slow on purpose: tests hold the fast engine equal to
it, and the speed benchmark measures against it.
"""

from typing import Protocol

import torch
from torch import Tensor

from continual_ep.learning.losses import NudgingLoss, dense_target
from continual_ep.relaxation import reference_settle
from continual_ep.relaxation.protocols import SettlingNetwork
from continual_ep.relaxation.reference import HasPrimitive


class EnergyNetwork(SettlingNetwork, HasPrimitive, Protocol):
    """A network whose currents derive from a primitive function."""


def reference_gradients(
    network: EnergyNetwork,
    x: Tensor,
    y: Tensor,
    loss: NudgingLoss,
    *,
    beta: float,
    free_steps: int,
    nudged_steps: int,
    nudging: str = "loss",
) -> list[Tensor]:
    r"""The centred estimate

    .. math:: -\frac{1}{2\beta}\,\frac{\partial}{\partial\theta}
              \left\langle \Phi(s^{+\beta}) - \Phi(s^{-\beta}) \right\rangle

    with :math:`\langle\cdot\rangle` the mean over the batch.

    :param network: with tied feedback and its readout inside the dynamics.
    :param nudging: ``"loss"``: the force follows the output. ``"force"``: it stays what it was at the
        free equilibrium, scaled so that the largest of the batch has norm 1.
    :returns: in the order of ``network.dynamical_parameters``.
    """
    scale = 1.0
    start = network.clamp(x).initial_states()
    target = dense_target(network.read(start[-1]), y)

    def force(output: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = output.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss.per_sample(leaf, target).sum(), leaf)
        return -gradient

    dt = network.relaxation.dt
    free = reference_settle(network, x, start, free_steps, dt=dt)
    nudge = force
    if nudging == "force":
        fixed = force(free[-1])
        scale = float(fixed.norm(dim=1).max())
        nudge = lambda output: fixed / scale  # noqa: E731
    plus, minus = (
        reference_settle(network, x, free, nudged_steps, dt=dt, beta=sign * beta, force=nudge)
        for sign in (1.0, -1.0)
    )
    with torch.enable_grad():
        difference = network.primitive(x, plus).mean() - network.primitive(x, minus).mean()
        gradients = torch.autograd.grad(difference, network.dynamical_parameters)
    return [-scale * gradient / (2.0 * beta) for gradient in gradients]
