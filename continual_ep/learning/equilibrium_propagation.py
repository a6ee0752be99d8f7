r"""Equilibrium propagation: the gradient is the contrast of two nearby equilibria.

With the nudged primitive function :math:`\Phi_\beta = \Phi - \beta L` and its equilibria :math:`s^\beta`,

.. math:: \frac{dL}{d\theta} \approx -\frac{1}{2\beta} \left(
          \frac{\partial\Phi}{\partial\theta}(s^{+\beta}) - \frac{\partial\Phi}{\partial\theta}(s^{-\beta})
          \right), \qquad \frac{\partial\Phi}{\partial W_l} = s_l s_{l-1}^T.

Source: Scellier and Bengio 2017 (doi:10.3389/fncom.2017.00024); centred estimator: Laborieux et al. 2021
(doi:10.3389/fnins.2021.633674). The closed forms follow from the primitive function of the MRNN.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.learning.adaptation import adapted
from continual_ep.learning.rule import (
    FreePhase,
    SecondPhaseRule,
    largest_force,
)
from continual_ep.options import option
from continual_ep.relaxation import Nudge, Relaxation, settle
from continual_ep.relaxation.protocols import ClampedDynamics
from continual_ep.relaxation.settle import repeat_batch

#: A teaching signal smaller than this part of the states it is a difference of is rounding noise.
RESOLUTION = {torch.float32: 1e-5, torch.float64: 1e-13}


#: Of a nudge: one number, or one for each member of an ensemble, ``(members, 1, 1)``.
Strength = float | Tensor


@dataclass(frozen=True)
class EquilibriumPropagation(SecondPhaseRule):
    r"""Equilibrium propagation (EP).

    :param beta: of the nudge. Where the loss is followed it is the :math:`\beta` of the papers, below 1 for a
        centred estimate; with a fixed force it is the norm of the force on the sample that errs most. A tuple
        has one for each member of an :class:`~continual_ep.networks.Ensemble`.
    :param estimator: ``"centered"`` (bias :math:`O(\beta^2)`), ``"one-sided"`` (:math:`O(\beta)`), or
        ``"random-sign"`` (one-sided with a sign drawn per batch from torch's global generator, as
        dropout draws).
    :param nudging: ``"force"``: the output is pushed along the gradient that autograd hands over, held
        fixed, under any loss. ``"loss"``: the loss is evaluated again at every step, as published; needs
        :class:`~continual_ep.learning.SquaredError` or :class:`~continual_ep.learning.CrossEntropy`.
        ``"auto"``: the loss when the criterion is one of these two, else the force.
    :param update: ``"contrast"``, or ``"postsynaptic"``: the difference of the postsynaptic states times the
        free presynaptic state (FRE-RNN, arXiv:2508.11659), for networks whose feedback is scaled down.
    :param corrected: divide each layer's gradient by the feedback scales between it and the output, which
        the published rule leaves in. A chain of layers with tied feedback :math:`\gamma_l d_l^T` has the
        energy :math:`\Phi = \sum_l c_l\, s_l \cdot d_l(s_{l-1}), c_l = \prod_{m>l} \gamma_m`, so with
        ``update="contrast"`` the corrected gradient is the exact one.
    :param adaptation_steps: see :mod:`continual_ep.learning.adaptation`; likewise ``adaptation_rate``.
    :param read_noise: of reading only: the dynamics stay deterministic (Peters and Talatchian 2025,
        arXiv:2503.22810). From torch's global generator.
    :raises ConfigurationError: for an impossible value.

    Networks with untied feedback have no energy. There the Hebbian products of the two nudged states
    change forward and feedback weights alike (Kolen and Pollack; "same update" in arXiv:2006.03824).
    """

    sources: ClassVar[tuple[str, ...]] = ("scellier2017", "laborieux2021")
    supports_ensembles = True

    beta: float | tuple[float, ...] = option(0.2, "strength of the nudge", gt=0, min_length=1)
    estimator: Literal["centered", "one-sided", "random-sign"] = option(
        "centered", "how two equilibria make a gradient"
    )
    free_steps: int = option(20, "of the free phase", ge=1)
    nudged_steps: int = option(6, "of each nudged phase; more than there are layers", ge=1)
    tolerance: float | None = option(None, "stop a phase that moves less; null: never", gt=0)
    nudging: Literal["auto", "force", "loss"] = option(
        "auto", "force: fixed; loss: evaluated at each step, as published; auto: loss if it can be"
    )
    update: Literal["contrast", "postsynaptic"] = option(
        "contrast", "postsynaptic: change of the post- times free presynaptic state"
    )
    corrected: bool = option(False, "divide by the feedback scales between layer and output")
    adaptation_steps: int = option(0, "steps of adjusted adaptation after the nudged phase", ge=0)
    adaptation_rate: float = option(
        0.1, "pull towards the free equilibrium in each of them", gt=0, lt=1
    )
    read_noise: float = option(
        0.0, "standard deviation of the noise with which states are read", ge=0
    )
    reads: int = option(1, "how often each state is read and averaged", ge=1)

    def check_combination(self) -> None:
        strongest = max(self.beta) if isinstance(self.beta, tuple) else self.beta
        if self.nudging != "force" and strongest >= 1 and self.estimator != "one-sided":
            raise ConfigurationError(
                f"beta is {self.beta}: a nudge away from the target is stable for beta < 1 only; for a "
                "force that stays fixed use nudging='force'"
            )

    @property
    def supports_cuda_graphs(self) -> bool:
        """Whether its phases always do the same work: without a tolerance, a drawn sign, or an adaptation."""
        drawn = self.estimator == "random-sign" or self.read_noise > 0
        return self.tolerance is None and not drawn and not self.adaptation_steps

    def gradients(
        self, phase: FreePhase, output_gradient: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        scale = self._force_scale(phase, output_gradient)
        # Without a force anywhere there is nothing to divide.
        force = -output_gradient / torch.where(scale > 0, scale, 1.0)
        betas = self._betas(scale)
        nudged, free = self._nudged_states(phase, force, betas)
        strength = -scale / (betas[0] - (betas[1] if len(betas) > 1 else 0.0))
        if phase.check_finite:
            self._check_resolution(phase, nudged, free)
        if self.read_noise:
            nudged, free = self._read(nudged), self._read(free)
        if self.update == "contrast":
            gradients = phase.clamped.contrast(nudged, free, strength)
        else:
            changes = [strength * (a - b) for a, b in zip(nudged, free, strict=True)]
            gradients = phase.clamped.hebbian_product(changes, phase.states)
        return (
            (phase.clamped.corrected(gradients[0]), gradients[1]) if self.corrected else gradients
        )

    def _read(self, states: list[Tensor]) -> list[Tensor]:
        """The states as they are read: the mean of several noisy samples."""
        spread = self.read_noise / self.reads**0.5
        return [state + spread * torch.randn_like(state) for state in states]

    def _check_resolution(self, phase: FreePhase, nudged: list[Tensor], free: list[Tensor]) -> None:
        """Warn, once, of a signal that is lost in the rounding of the states that carry it."""
        factors = phase.clamped.attenuations()
        limit = RESOLUTION.get(free[0].dtype, 0.0)
        weakest = min(self.beta) if isinstance(self.beta, tuple) else self.beta
        if min(factors) * weakest > 100 * limit:
            return
        for layer, (a, b) in enumerate(zip(nudged, free, strict=True), start=1):
            signal, size = float((a - b).abs().max()), float(b.abs().max())
            if 0.0 < size and signal < limit * size:
                phase.network.warnings.warn(
                    "signal lost in rounding",
                    f"the teaching signal is lost in rounding: in layer {layer} it is {signal:.1g} of states "
                    f"up to {size:.2g} in {str(b.dtype).removeprefix('torch.')}. Use "
                    "LinearResponse, a larger feedback_scale, or network.double().",
                )
                return

    def _betas(self, scale: Tensor) -> tuple[Strength, ...]:
        """The strengths of the nudged phases; shaped like ``scale`` where each member has its own."""
        beta: Strength = scale.new_tensor(self.beta) if isinstance(self.beta, tuple) else self.beta
        if isinstance(beta, Tensor):
            if scale.numel() != len(beta):
                raise ConfigurationError(
                    f"{len(beta)} values of beta were given for {scale.numel()} networks: give one, or one "
                    "for each member of an Ensemble"
                )
            beta = beta.view(scale.shape)
        if self.estimator == "centered":
            return (beta, -beta)
        if self.estimator == "random-sign" and bool(torch.rand(()) < 0.5):
            return (-beta,)
        return (beta,)

    def _force_scale(self, phase: FreePhase, output_gradient: Tensor) -> Tensor:
        """What autograd's force is divided by: it is the gradient of a mean, tiny and of any scale.

        One number, or one for each member of an ensemble, ``(members, 1, 1)``.
        """
        samples = phase.clamped.batch_dim
        if not output_gradient.numel():
            return output_gradient.new_zeros(())
        weights = self._loss_weights(phase)
        if weights is None:
            return largest_force(output_gradient, samples)
        largest = weights.abs().amax(-1)
        return largest.view(-1, 1, 1) if samples else largest

    def _loss_weights(self, phase: FreePhase) -> Tensor | None:
        """The weight of each sample if the loss is evaluated at every nudged step; None for a force.

        :raises ConfigurationError: when it has to be, and is none of ours.
        """
        if self.nudging == "force":
            return None
        terms = phase.nudging.single_loss()
        if self.nudging == "loss" and terms is None:
            raise ConfigurationError(
                "nudging='loss' evaluates the loss at every nudged step and needs SquaredError or "
                "CrossEntropy of continual_ep.learning, one of the two, called on the network's own "
                "output; for any other loss use nudging='force' or 'auto'"
            )
        return None if terms is None else terms[1]

    def _nudged_states(
        self, phase: FreePhase, force: Tensor, betas: tuple[Strength, ...]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The states at the first beta, and at the second (centred) or free; both signs in one batch."""
        times = len(betas)
        clamped = phase.clamped.repeated(times) if times > 1 else phase.clamped
        samples = phase.clamped.batch_dim
        start = repeat_batch(phase.states, times, samples)
        nudge = self._nudge(phase, force, betas, start[-1])
        states = self._settle_nudged(
            clamped, phase.network.relaxation, start, nudge, times, check_finite=phase.check_finite
        )
        if self.adaptation_steps:
            states = adapted(
                clamped,
                phase.network.relaxation,
                states,
                start,
                steps=self.adaptation_steps,
                rate=self.adaptation_rate,
                nudge=nudge,
            )
        if times == 1:
            return states, phase.states
        first, second = zip(*(state.chunk(2, samples) for state in states), strict=True)
        return list(first), list(second)

    def _settle_nudged(
        self,
        clamped: ClampedDynamics,
        relaxation: Relaxation,
        start: list[Tensor],
        nudge: Nudge,
        times: int,
        *,
        check_finite: bool,
    ) -> list[Tensor]:
        """The states at the end of the nudged phases, ``times`` of them below each other."""
        return settle(
            clamped,
            relaxation,
            steps=self.nudged_steps,
            start=start,
            tolerance=self.tolerance,
            nudge=nudge,
            phase="nudged phase",
            check_finite=check_finite,
        ).states

    def _nudge(
        self, phase: FreePhase, force: Tensor, betas: tuple[Strength, ...], free: Tensor
    ) -> Nudge:
        if self._loss_weights(phase) is not None:
            return loss_nudge(phase, force, betas, free)
        push = torch.cat([beta * force for beta in betas], dim=phase.clamped.batch_dim)
        return lambda current, state: current.add_(push)


def loss_nudge(phase: FreePhase, force: Tensor, betas: tuple[Strength, ...], free: Tensor) -> Nudge:
    r"""A nudge that follows the loss: :math:`F(s) = F(s^*) - w\,(\nabla\ell(s) - \nabla\ell(s^*))`.

    The first term is autograd's force, with everything that other criteria put into it; the second is
    what has changed since. Squared error on a piecewise linear output has the closed form
    :math:`(u + \beta (F + s^*)) / (1 + \beta)` with the same fixed point, and does not oscillate.
    """
    loss_and_weights, readout = phase.nudging.single_loss(), phase.nudging.readout
    assert loss_and_weights is not None
    loss, weights = loss_and_weights
    samples = phase.clamped.batch_dim
    largest = weights.abs().amax(-1, keepdim=True)
    relative = weights / torch.where(largest > 0, largest, 1.0)
    relative = torch.cat([relative] * len(betas), dim=-1).unsqueeze(-1)
    # The readout sees the last layer's units in a row, whatever their shape.
    over_units = relative if samples else relative.view(-1, *[1] * (force.dim() - 1))
    beta = torch.cat([torch.ones_like(force) * each for each in betas], dim=samples)
    force = torch.cat([force] * len(betas), dim=samples)

    def read(state: Tensor) -> Tensor:
        return phase.network.read(state)

    if readout is None and loss.closed_form and phase.clamped.activations[-1].piecewise_linear:
        pull, gain = beta * (force + over_units * free), 1.0 + beta * over_units
        return lambda current, state: current.add_(pull).div_(gain)

    free_output = read(free)

    def nudge(current: Tensor, state: Tensor) -> Tensor:
        change = loss.gradient_change(read(state), free_output)
        if readout is not None:
            change = (change @ readout[0]).view(current.shape)
        return current.add_(beta * (force - over_units * change))

    return nudge
