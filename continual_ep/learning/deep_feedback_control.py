r"""Deep feedback control: a controller drives the output to its target, and layers learn to need no help.

The target is :math:`r^* = r_L - \lambda\,\partial L/\partial r_L`. A controller u acts on all layers through
feedback weights, :math:`v_l = W_l r_{l-1} + Q_l u`. At its steady state, to first order,

.. math::

    u = (J Q + \tilde\alpha I)^{-1} (r^* - r_L), \qquad
    \Delta W_l \propto \frac{1}{\lambda} \big( \rho(v_l) - \rho(W_l r_{l-1}) \big) r_{l-1}^T

with J the Jacobian of the output with respect to all v and :math:`r_{l-1}` the controlled activations.
Feedback weights proportional to :math:`J^T` make it a Gauss-Newton step. Source: Meulemans et al. 2021
(steady-state form, DFC-SSA); strong feedback (the target is the label itself): Meulemans et al. 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from continual_ep.errors import DivergenceError
from continual_ep.learning.feedforward import ForwardPass, StackRule
from continual_ep.options import option

#: A controller whose last step is larger than this part of it is reported.
UNSETTLED = 0.1


@dataclass(frozen=True)
class DeepFeedbackControl(StackRule):
    r"""Deep feedback control at its steady state (DFC-SSA), of an :class:`~continual_ep.networks.MLP`.

    ``nudge`` is :math:`\lambda`, ``leak`` :math:`\tilde\alpha`, how much of the error the controller leaves.
    With ``target="label"`` the output is driven to where the loss of a squared error vanishes, by repeated
    linearisation, and ``nudge`` is 1. One of ``control_steps`` is the published steady-state approximation.
    Feedback weights learn towards :math:`J^T` in the presence of noise, or stay the products of the initial
    forward weights. ``normalized`` makes a Gauss-Newton step if :math:`Q \propto J^T`.

    :raises ConfigurationError: for an impossible value.
    """

    backward_weights = True
    sources = ("meulemans2021",)

    nudge: float = option(0.1, "how far the target is from the output, in gradient steps", gt=0)
    leak: float = option(0.001, "of the controller", ge=0)
    target: Literal["nudged", "label"] = option(
        "nudged", "label: strong feedback, for squared error"
    )
    control_steps: int = option(1, "linearisations of the controller", ge=1)
    feedback_learning: bool = option(False, "learn the feedback weights")
    noise: float = option(0.1, "by which they learn, a standard deviation", gt=0)
    feedback_decay: float = option(0.1, "of the feedback weights", ge=0)
    normalized: bool = option(False, "divide by the mean squared input of a layer")

    @property
    def backward_weights_learn(self) -> bool:
        return self.feedback_learning

    def initial_backward_weights(
        self, weights: Sequence[Tensor], generator: torch.Generator | None
    ) -> list[nn.Parameter]:
        r""":math:`Q_l = (W_L \cdots W_{l+1})^T`, shapes ``(n_l, n_L)``; :math:`Q_L = I`."""
        products = [torch.eye(len(weights[-1]), device=weights[-1].device)]
        for weight in reversed(weights[1:]):
            products.insert(0, weight.detach().t() @ products[0])
        return [nn.Parameter(q.clone(), self.feedback_learning) for q in products]

    def gradients(
        self, forward: ForwardPass, output_gradient: Tensor
    ) -> tuple[list[Tensor | None], Tensor | None]:
        network, batch = forward.network, len(forward.x)
        size = 1.0 if self.target == "label" else self.nudge
        aim = -size * batch * output_gradient
        controlled = self._controlled(forward, aim)
        below = [forward.x, *controlled.activations[:-1]]
        to_weights: list[Tensor | None] = []
        to_biases: list[Tensor | None] = []
        changes = []
        for layer, (activation, arriving) in enumerate(
            zip(controlled.activations, below, strict=True)
        ):
            free = network.activate(layer, network.current(layer, arriving))
            change = -(activation - free) / (size * batch)
            if self.normalized:
                change = change / arriving.square().sum(1).mean().clamp(min=1e-12)
            changes.append(change)
            to_weights.append(change.t() @ arriving)
            to_biases.append(change.sum(0))
        to_feedback: list[Tensor | None] = [None] * len(network.backward_weights)
        if self.feedback_learning:
            to_feedback = list(self._feedback_gradients(forward))
        gradients = [*to_weights, *(to_biases if len(network.biases) else []), *to_feedback]
        return gradients, changes[0] @ network.weights[0]

    def _controlled(self, forward: ForwardPass, aim: Tensor) -> ForwardPass:
        """The network under control: its output has moved by what the controller can of ``aim``."""
        network, state = forward.network, forward
        target = forward.activations[-1] + aim
        control = torch.zeros_like(aim)
        for _ in range(self.control_steps):
            loop = self._loop(state)
            error = (target - state.activations[-1]) - self.leak * control
            moved = solved(loop, error)
            control = control + moved
            pushes = [control @ q.t() for q in network.backward_weights]
            state = ForwardPass(network, forward.x, *network.sweep(forward.x, pushes))
        if not bool(state.activations[-1].isfinite().all()):
            raise DivergenceError(
                "the controller did not settle: the output left the finite numbers. Give a larger leak, a "
                "smaller nudge, or lower the learning rate"
            )
        if self.control_steps > 1 and bool(moved.norm() > UNSETTLED * control.norm()):
            network.warnings.warn(
                "controller unsettled",
                "the controller did not settle: its last step still moved it by more than a tenth. Give more "
                "control_steps, a larger leak, or targets within the output's reach.",
            )
        return state

    def _loop(self, state: ForwardPass) -> Tensor:
        r""":math:`J Q + \tilde\alpha I`, ``(batch, n_L, n_L)``."""
        pairs = zip(jacobians(state), state.network.backward_weights, strict=True)
        loop = torch.stack([jacobian @ q for jacobian, q in pairs]).sum(0)
        return loop + self.leak * torch.eye(loop.shape[-1], dtype=loop.dtype, device=loop.device)

    def _feedback_gradients(self, state: ForwardPass) -> list[Tensor]:
        r"""Noise :math:`\sigma\epsilon_l` in all layers moves the output; the controller answers with u.

        .. math:: \Delta Q_l \propto -\langle (Q_l u + \sigma\epsilon_l)\, u^T \rangle - \beta Q_l
        """
        network, batch = state.network, len(state.x)
        slopes = jacobians(state)
        noises = [self.noise * torch.randn_like(v) for v in state.currents]
        moved = torch.stack(
            [(j @ n.unsqueeze(2)).squeeze(2) for j, n in zip(slopes, noises, strict=True)]
        ).sum(0)
        control = solved(self._loop(state), -moved)
        scale = 1.0 / (batch * self.noise**2)
        return [
            scale * (control @ q.t() + noise).t() @ control + self.feedback_decay * q
            for q, noise in zip(network.backward_weights, noises, strict=True)
        ]


def solved(loop: Tensor, error: Tensor) -> Tensor:
    """The control that a controller comes to rest at, ``(batch, n_L)``.

    :raises DivergenceError: for a loop that is singular.
    """
    control, trouble = torch.linalg.solve_ex(loop, error.unsqueeze(2))
    if bool(trouble.any()):
        raise DivergenceError(
            "the controller reaches no output through its feedback weights: J Q is singular. Give a leak "
            "above 0"
        )
    return control.squeeze(2)


def jacobians(state: ForwardPass) -> list[Tensor]:
    r""":math:`\partial r_L/\partial v_l`, one tensor ``(batch, n_L, n_l)`` for each layer."""
    network = state.network
    last = len(network.weights) - 1
    slopes = [torch.diag_embed(network.slope(last, state.currents[last]))]
    for layer in range(last - 1, -1, -1):
        slope = network.slope(layer, state.currents[layer]).unsqueeze(1)
        slopes.insert(0, (slopes[0] @ network.weights[layer + 1]) * slope)
    return slopes
