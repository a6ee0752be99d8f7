"""A learning rule is a gradient: what every rule for recurrent networks is made of.

``network(x)`` settles and returns the readout; autograd later hands the gradient with respect to the
settled output layer back to the rule, whose second phase turns it into gradients of the parameters and
of the input. So any differentiable loss and any optimizer work, and with them any Avalanche strategy.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError, DivergenceError
from continual_ep.learning.losses import Nudging
from continual_ep.options import Options
from continual_ep.relaxation import Settled, settle
from continual_ep.relaxation.products import tensor_cores
from continual_ep.relaxation.protocols import ClampedDynamics, SettlingNetwork


@dataclass
class FreePhase:
    """A settled network that waits for its teaching signal."""

    network: SettlingNetwork
    clamped: ClampedDynamics
    states: list[Tensor]
    nudging: Nudging = field(default_factory=Nudging)
    #: The states after every step, if the rule keeps them.
    trace: list[list[Tensor]] = field(default_factory=list)
    #: Whether the second phase looks for numbers that are not finite, which on a GPU waits for it.
    check_finite: bool = True


def largest_force(output_gradient: Tensor, batch_dim: int = 0) -> Tensor:
    """The norm of the gradient of the sample that errs most.

    :param output_gradient: dL/ds of the last layer.
    :returns: one number, or one for each member of an ensemble, ``(members, 1, 1)``.
    """
    if not output_gradient.numel():
        return output_gradient.new_zeros(())
    norms = output_gradient.flatten(batch_dim + 1).norm(dim=-1)
    return norms.amax(1).view(-1, 1, 1) if batch_dim else norms.amax()


def require_layers(rule: object, network: SettlingNetwork) -> None:
    """:raises ConfigurationError: for a network that is no stack of dense layers."""
    if not network.layered:
        raise ConfigurationError(
            f"{type(rule).__name__} is for an MRNN, not for {type(network).__name__}"
        )


class RecurrentRule(Options, ABC):
    """A learning rule of a recurrent network. Rules are immutable; all state is the network's.

    A subclass is a frozen dataclass whose fields are declared by :func:`~continual_ep.options.option`.
    """

    #: The kinds of network that it can train; the first is what ``network.kind: auto`` stands for.
    kinds: ClassVar[tuple[str, ...]] = ("mrnn", "dendritic", "convolutional", "feedback-regulated")
    #: Whether it has to know the output's target, and with it an output inside the dynamics.
    needs_target: ClassVar[bool] = False
    #: Its papers, by their keys in ``citations.bib``.
    sources: ClassVar[tuple[str, ...]] = ()

    free_steps: int
    tolerance: float | None

    #: Whether it learns an :class:`~continual_ep.networks.Ensemble`, whose members are stacked.
    supports_ensembles = False

    @property
    def supports_cuda_graphs(self) -> bool:
        """Whether its phases always do the same work, so that they can be recorded."""
        return False

    @property
    def default_readout(self) -> str:
        """The readout of a network that is not given one, see :class:`~continual_ep.networks.MRNN`."""
        return "activated" if self.needs_target else "softmax"

    def check(self, network: SettlingNetwork) -> None:
        """:raises ConfigurationError: for a network that cannot learn by this rule."""
        if self.needs_target and network.readout_parameters is not None:
            raise ConfigurationError(
                f"{type(self).__name__} knows the output's target, and a softmax readout is outside of "
                "the dynamics: use readout='activated' with SquaredError"
            )

    @abstractmethod
    def settled_output(self, network: SettlingNetwork, x: Tensor) -> Tensor:
        """The readout at the free equilibrium for a flat input ``(batch, n_0)``, tied to autograd."""


class SecondPhaseRule(RecurrentRule):
    """A rule that settles without a graph and finds its gradients in a phase of its own."""

    def settled_output(self, network: SettlingNetwork, x: Tensor) -> Tensor:
        nudging = Nudging()
        state = _FreePhase.apply(network, self, nudging, x, *network.dynamical_parameters)
        output = network.read(state)
        nudging.readout = network.readout_parameters
        # Our losses find their way back to the second phase by this attribute, see losses.py.
        output.nudging = nudging  # type: ignore[attr-defined]
        return output

    def free_phase(self, network: SettlingNetwork, clamped: ClampedDynamics) -> Settled:
        """The rule's free phase, from rest."""
        return settle(
            clamped,
            network.relaxation,
            steps=self.free_steps,
            tolerance=self.tolerance,
        )

    @abstractmethod
    def gradients(
        self, phase: FreePhase, output_gradient: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        """The rule's second phase.

        :param phase: the settled network.
        :param output_gradient: dL/ds of the last dynamical layer, ``(batch, n_D)``.
        :returns: gradients in the order of ``network.dynamical_parameters``, and dL/dx.
        """


class _FreePhase(torch.autograd.Function):
    """Free phase forward, the rule's second phase backward."""

    @staticmethod
    def forward(
        ctx: Any,
        network: SettlingNetwork,
        rule: SecondPhaseRule,
        nudging: Nudging,
        *tensors: Tensor,
    ) -> Tensor:
        x, parameters = tensors[0].detach(), [parameter.detach() for parameter in tensors[1:]]
        # Saved, so that autograd notices when a parameter is changed before backward.
        ctx.save_for_backward(*tensors)
        ctx.network, ctx.rule, ctx.nudging = network, rule, nudging
        ctx.recorded = None
        if network.relaxation.cuda_graphs:
            ctx.recorded = network.cuda_graphs.of(network, rule, x)
            states, change = ctx.recorded.free_phase(x)
            ctx.number = ctx.recorded.number
            ctx.states = [state.clone() for state in states]
            ctx.clamped, ctx.trace = None, []
            network.note_change(change, rule.free_steps)
            return ctx.states[-1].clone(memory_format=torch.contiguous_format)
        clamped = network.clamp(x, parameters, wants_input=ctx.needs_input_grad[3])
        settled = rule.free_phase(network, clamped)
        network.note_settling(settled, rule.tolerance)
        ctx.states, ctx.clamped, ctx.trace = settled.states, clamped, settled.trace
        return settled.states[-1].clone(memory_format=torch.contiguous_format)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Any, ...]:
        x, *parameters = ctx.saved_tensors  # raises if a parameter has changed since
        wants_input = ctx.needs_input_grad[3]
        with torch.autocast(x.device.type, enabled=False), tensor_cores("float32", x.device):
            if ctx.recorded is not None and ctx.recorded.number == ctx.number:
                gradients, input_gradient = ctx.recorded.gradients(
                    ctx.nudging, output_gradient, wants_input=wants_input
                )
            else:
                _refuse_infinite_force(output_gradient)
                # A recording has been used for another batch since: its clamp is gone.
                clamped = ctx.clamped or ctx.network.clamp(
                    x.detach(), parameters, wants_input=wants_input
                )
                phase = FreePhase(ctx.network, clamped, ctx.states, ctx.nudging, ctx.trace)
                gradients, input_gradient = ctx.rule.gradients(phase, output_gradient)
        # Autograd may come back with other losses when the graph is retained.
        ctx.nudging.loss_terms.clear()
        all_gradients = [input_gradient, *gradients]
        wanted = ctx.needs_input_grad[3:]
        return (
            None,
            None,
            None,
            *(g if want else None for g, want in zip(all_gradients, wanted, strict=True)),
        )


def _refuse_infinite_force(output_gradient: Tensor) -> None:
    """:raises DivergenceError: for a teaching signal that is not finite."""
    if not bool(output_gradient.isfinite().all()):
        raise DivergenceError(
            "the gradient of the loss with respect to the output holds NaN or infinity: look at the loss "
            "and the targets, or lower the learning rate"
        )
