"""A learning rule is a gradient: what every rule for recurrent networks is made of.

``network(x)`` settles and returns the readout; autograd later hands the gradient with respect to the
settled output layer back to the rule, whose second phase turns it into gradients of the parameters and
of the input. So any differentiable loss and any optimizer work, and with them any Avalanche strategy.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError, DivergenceError
from continual_ep.relaxation import Settled, settle
from continual_ep.relaxation.products import tensor_cores
from continual_ep.relaxation.settle import Clamped

if TYPE_CHECKING:
    from continual_ep.learning.losses import NudgingLoss
    from continual_ep.networks.recurrent import RecurrentModule


@dataclass
class Nudging:
    """What the loss tells the second phase, beside the gradient that autograd hands over.

    :param loss_terms: every loss of ours in this backward pass, with the weight of each sample's loss in the
        total, shape ``(batch,)``.
    :param readout: weight and bias between output layer and loss, if the readout is outside the dynamics.
    """

    loss_terms: "list[tuple[NudgingLoss, Tensor]]" = field(default_factory=list)
    readout: tuple[Tensor, Tensor | None] | None = None

    def single_loss(self) -> "tuple[NudgingLoss, Tensor] | None":
        """The loss to evaluate again and its weights; None unless there is one kind of loss.

        The target cancels in the change of its gradient, so losses of one kind differ in their weights alone.
        """
        kinds = {type(loss) for loss, _ in self.loss_terms}
        if len(kinds) != 1:
            return None
        return self.loss_terms[0][0], torch.stack([weights for _, weights in self.loss_terms]).sum(
            0
        )


class ClampedDynamics(Clamped, Protocol):
    """A clamped network as a learning rule sees it: how parameters and input would change its currents.

    Gradients are lists in the order of ``network.dynamical_parameters``, and that of the input, or None
    unless ``wants_input``.
    """

    wants_input: bool
    x: Tensor

    @property
    def drives(self) -> list[Tensor]:
        """What the input contributes to the currents; the same as long as it stays clamped."""

    @property
    def batch_dim(self) -> int:
        """The dimension of the states that counts samples: 0, or 1 behind the members of an ensemble."""

    def repeated(self, times: int) -> "ClampedDynamics":
        """The same network on a batch repeated ``times`` times, without a second drive."""

    def contrast(
        self, first: Sequence[Tensor], second: Sequence[Tensor], strength: Tensor | float
    ) -> tuple[list[Tensor], Tensor | None]:
        r"""``strength`` :math:`\times (\partial\Phi/\partial\theta(s^1) - \partial\Phi/\partial\theta(s^2))`.

        ``strength`` is one number, or one for each member of an ensemble, shaped ``(members, 1, 1)``.

        Where there is no energy, :math:`\Phi` stands for the sum of :math:`s_l \cdot u_l`, in which each
        parameter counts where it stands and states are constants.
        """

    def hebbian_product(
        self, changes: Sequence[Tensor], states: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        r"""The gradient of :math:`\sum_l \delta_l \cdot d_l(s)`: changes of the layers above, times what the
        layers below sent. Feedback weights that learn change by the same products.
        """

    def contrast_jvp(
        self, changes: Sequence[Tensor], states: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        r"""The change of what :meth:`contrast` differentiates, for small changes of the states."""

    def corrected(self, gradients: list[Tensor]) -> list[Tensor]:
        """Each gradient divided by the feedback scales between its layer and the output."""

    def attenuations(self) -> list[float]:
        """For each layer the product of the feedback scales between it and the output."""

    def linearised(self, slopes: Sequence[Tensor], *, corrected: bool) -> Clamped:
        r"""The network of small changes :math:`\delta` around an equilibrium, without a drive.

        .. math:: \delta_l \leftarrow \rho_l'\,(A\,\delta)_l

        :param slopes: :math:`\rho_l'(u_l)` there.
        :param corrected: changes in units of :meth:`attenuations`, so that none is too small for its type.
        :raises ConfigurationError: connections whose current is not linear in the state.
        """

    def slopes(self, states: Sequence[Tensor]) -> list[Tensor]:
        r"""The slopes :math:`\rho_l'(u_l)` at ``states``."""

    def state_vjp(self, layer: int, adjoints: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
        r"""The transposed coupling :math:`(\partial u/\partial s_l)^T a`, shaped like the layer's state."""

    def parameter_vjp(
        self, adjoints: Sequence[Tensor], states: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        r"""The gradient of :math:`\sum_l a_l \cdot u_l(s)` at fixed states and adjoints."""


@dataclass
class FreePhase:
    """A settled network that waits for its teaching signal."""

    network: "RecurrentModule"
    clamped: "ClampedDynamics"
    states: list[Tensor]
    nudging: Nudging = field(default_factory=Nudging)
    #: The states after every step, if the rule keeps them.
    trace: list[list[Tensor]] = field(default_factory=list)
    #: Whether the second phase looks for numbers that are not finite, which on a GPU waits for it.
    check_finite: bool = True


def checked_positive(name: str, value: int) -> None:
    """:raises ConfigurationError: unless ``value`` is a positive integer."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{name} is {value!r}; it must be an integer of 1 or more")


def checked_tolerance(value: float | None) -> None:
    """:raises ConfigurationError: unless ``value`` is None or positive."""
    if value is not None and not value > 0:
        raise ConfigurationError(
            f"tolerance is {value!r}; it must be positive, or None for a fixed number of steps"
        )


class RecurrentRule(ABC):
    """A learning rule of a recurrent network. Rules are immutable; all state is the network's."""

    free_steps: int
    tolerance: float | None

    @property
    def supports_cuda_graphs(self) -> bool:
        """Whether its phases always do the same work, so that they can be recorded."""
        return False

    def check(self, network: "RecurrentModule") -> None:  # noqa: B027 # most rules fit every network
        """:raises ConfigurationError: for a network that cannot learn by this rule."""

    @abstractmethod
    def settled_output(self, network: "RecurrentModule", x: Tensor) -> Tensor:
        """The readout at the free equilibrium for a flat input ``(batch, n_0)``, tied to autograd."""


class SecondPhaseRule(RecurrentRule):
    """A rule that settles without a graph and finds its gradients in a phase of its own."""

    def settled_output(self, network: "RecurrentModule", x: Tensor) -> Tensor:
        nudging = Nudging()
        state = _FreePhase.apply(network, self, nudging, x, *network.dynamical_parameters)
        output = network.read(state)
        nudging.readout = network.readout_parameters
        # Our losses find their way back to the second phase by this attribute, see losses.py.
        output.nudging = nudging  # type: ignore[attr-defined]
        return output

    def free_phase(self, network: "RecurrentModule", clamped: "ClampedDynamics") -> Settled:
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
        network: "RecurrentModule",
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
        clamped = network.clamp(x, parameters)
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
                clamped = ctx.clamped or ctx.network.clamp(x.detach(), parameters)
                clamped.wants_input = wants_input
                phase = FreePhase(ctx.network, clamped, ctx.states, ctx.nudging, ctx.trace)
                gradients, input_gradient = ctx.rule.gradients(phase, output_gradient)
        # Autograd may come back with other losses when the graph is retained.
        ctx.nudging.loss_terms.clear()
        found = [input_gradient, *gradients]
        wanted = ctx.needs_input_grad[3:]
        return (
            None,
            None,
            None,
            *(g if want else None for g, want in zip(found, wanted, strict=True)),
        )


def _refuse_infinite_force(output_gradient: Tensor) -> None:
    """:raises DivergenceError: for a teaching signal that is not finite."""
    if not bool(output_gradient.isfinite().all()):
        raise DivergenceError(
            "the gradient of the loss with respect to the output holds NaN or infinity: look at the loss "
            "and the targets, or lower the learning rate"
        )
