r"""Equilibrium propagation: the gradient is the contrast of two nearby equilibria.

With the nudged primitive function :math:`\Phi_\beta = \Phi - \beta L` and its equilibria :math:`s^\beta`,

.. math:: \frac{dL}{d\theta} \approx -\frac{1}{2\beta} \left(
          \frac{\partial\Phi}{\partial\theta}(s^{+\beta}) - \frac{\partial\Phi}{\partial\theta}(s^{-\beta})
          \right), \qquad \frac{\partial\Phi}{\partial W_l} = s_l s_{l-1}^T.

Source: Scellier and Bengio 2017 (doi:10.3389/fncom.2017.00024); centred estimator: Laborieux et al. 2021
(doi:10.3389/fnins.2021.633674). The closed forms follow from the primitive function of the MRNN.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.learning.rule import (
    FreePhase,
    SecondPhaseRule,
    checked_positive,
    checked_tolerance,
)
from continual_ep.relaxation import Nudge, settle

ESTIMATORS = ("centered", "one-sided", "random-sign")
NUDGINGS = ("force", "loss")


@dataclass(frozen=True)
class EquilibriumPropagation(SecondPhaseRule):
    r"""Equilibrium propagation (EP).

    Main arguments:

    :param beta: strength of the nudge, positive. With ``nudging="force"`` it is the norm of the force on
        the sample that errs most; with ``"loss"`` it is the :math:`\beta` of the papers.
    :param estimator: ``"centered"`` (bias :math:`O(\beta^2)`), ``"one-sided"`` (:math:`O(\beta)`), or
        ``"random-sign"`` (one-sided with a sign drawn per batch from torch's global generator, as
        dropout draws).
    :param free_steps: steps of the free phase.
    :param nudged_steps: steps of each nudged phase. More than the number of layers.

    Other arguments:

    :param tolerance: stop a phase when no unit changed by more than this in a step; default: never.
    :param nudging: ``"force"``: the output is pushed along the gradient that autograd hands over, held
        fixed, under any loss. ``"loss"``: the loss is evaluated again at every step, as published; needs
        :class:`~continual_ep.learning.SquaredError` or :class:`~continual_ep.learning.CrossEntropy`.
    :raises ConfigurationError: for an impossible value.

    Networks with untied feedback have no energy. There the Hebbian products of the two nudged states
    change forward and feedback weights alike (Kolen and Pollack; "same update" in arXiv:2006.03824).
    """

    beta: float = 0.1
    estimator: str = "centered"
    free_steps: int = 30
    nudged_steps: int = 6
    tolerance: float | None = None
    nudging: str = "force"

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ConfigurationError(f"beta is {self.beta}; it must be positive and finite")
        for name, allowed in (("estimator", ESTIMATORS), ("nudging", NUDGINGS)):
            if getattr(self, name) not in allowed:
                raise ConfigurationError(
                    f"{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}"
                )
        if self.nudging == "loss" and self.beta >= 1 and self.estimator != "one-sided":
            raise ConfigurationError(
                f"beta is {self.beta}: a nudge away from the target is stable for beta < 1 only"
            )
        checked_positive("free_steps", self.free_steps)
        checked_positive("nudged_steps", self.nudged_steps)
        checked_tolerance(self.tolerance)

    def gradients(self, phase: FreePhase, output_gradient: Tensor) -> tuple[list[Tensor], Tensor]:
        scale = self._force_scale(phase, output_gradient)
        betas = self._betas()
        if scale == 0.0:
            nudged, free = phase.states, phase.states
        else:
            nudged, free = self._nudged_states(phase, -output_gradient / scale, betas)
        strength = -scale / (betas[0] - (betas[1] if len(betas) > 1 else 0.0))
        return phase.clamped.contrast(nudged, free, strength)

    def _betas(self) -> tuple[float, ...]:
        if self.estimator == "centered":
            return (self.beta, -self.beta)
        if self.estimator == "random-sign" and bool(torch.rand(()) < 0.5):
            return (-self.beta,)
        return (self.beta,)

    def _force_scale(self, phase: FreePhase, output_gradient: Tensor) -> float:
        """What autograd's force is divided by: it is the gradient of a mean, tiny and of any scale."""
        if self.nudging == "force":
            return float(output_gradient.norm(dim=1).max()) if len(output_gradient) else 0.0
        followed = phase.nudging.followed()
        if followed is None:
            raise ConfigurationError(
                "nudging='loss' evaluates the loss at every nudged step and needs SquaredError or "
                "CrossEntropy of continual_ep.learning, one of the two, called on the network's own "
                "output; for any other loss use nudging='force'"
            )
        weights = followed[1]
        return float(weights.abs().max()) if len(weights) else 0.0

    def _nudged_states(
        self, phase: FreePhase, force: Tensor, betas: tuple[float, ...]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The states at the first beta, and at the second (centred) or free; both signs in one batch."""
        times = len(betas)
        clamped = phase.clamped.repeated(times) if times > 1 else phase.clamped
        start = [torch.cat([state] * times) for state in phase.states]
        strengths = torch.tensor(betas, dtype=force.dtype, device=force.device)
        strengths = strengths.repeat_interleave(len(force)).unsqueeze(1)
        settled = settle(
            clamped,
            phase.network.relaxation,
            steps=self.nudged_steps,
            start=start,
            tolerance=self.tolerance,
            nudge=self._nudge(phase, force.repeat(times, 1), strengths, start[-1]),
            phase="nudged phase",
        )
        if times == 1:
            return settled.states, phase.states
        first, second = zip(*(state.chunk(2) for state in settled.states), strict=True)
        return list(first), list(second)

    def _nudge(self, phase: FreePhase, force: Tensor, beta: Tensor, free: Tensor) -> Nudge:
        if self.nudging == "force":
            push = beta * force
            return lambda current, state: current.add_(push)
        return following_nudge(phase, force, beta, free)


def following_nudge(phase: FreePhase, force: Tensor, beta: Tensor, free: Tensor) -> Nudge:
    r"""A nudge that follows the loss: :math:`F(s) = F(s^*) - w\,(\nabla\ell(s) - \nabla\ell(s^*))`.

    The first term is autograd's force, with everything that other criteria put into it; the second is
    what has changed since. Squared error on a piecewise linear output has the closed form
    :math:`(u + \beta (F + s^*)) / (1 + \beta)` with the same fixed point, and does not oscillate.
    """
    followed, readout = phase.nudging.followed(), phase.nudging.readout
    assert followed is not None
    loss, weights = followed
    relative = weights / weights.abs().max()
    relative = relative.repeat(len(force) // len(relative)).unsqueeze(1)

    def read(state: Tensor) -> Tensor:
        if readout is None:
            return state
        weight, bias = readout
        return torch.nn.functional.linear(state, weight, bias)

    if readout is None and loss.closed_form and phase.clamped.activations[-1].piecewise_linear:
        pull, gain = beta * (force + relative * free), 1.0 + beta * relative
        return lambda current, state: current.add_(pull).div_(gain)

    free_output = read(free)

    def nudge(current: Tensor, state: Tensor) -> Tensor:
        change = loss.gradient_change(read(state), free_output)
        if readout is not None:
            change = change @ readout[0]
        return current.add_(beta * (force - relative * change))

    return nudge
