"""What all networks share that settle: a learning rule, a free phase, a readout, and statistics of both."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, DivergenceError, WarnOnce
from continual_ep.learning.cuda_graphs import CHECK_RECORDED_EVERY, CudaGraphs
from continual_ep.learning.loss_fit import MISFITS, recognized_loss
from continual_ep.learning.rule import RecurrentRule
from continual_ep.options import options_from
from continual_ep.relaxation import Relaxation, Settled, TimeSteps, settle
from continual_ep.relaxation.activations import Activation

#: Readouts of networks that settle; a softmax readout is outside of the dynamics.
READOUTS = ("linear", "activated", "softmax")

#: Without a tolerance, a free phase whose units still move by more than this per step is reported.
UNSETTLED = 0.05


@dataclass(frozen=True)
class Settling:
    """Statistics of a free phase.

    :param steps: the number of steps taken.
    :param residual: the largest change of any unit in the last step.
    :param settled: whether the residual is below the tolerance (or :data:`UNSETTLED` without one).
    """

    steps: int
    residual: float
    settled: bool


class RecurrentModule(nn.Module):
    """A network that settles with its input clamped, and learns by any rule that finds a gradient there.

    ``network(x)`` settles to the free equilibrium and returns the readout; ``loss.backward()`` then runs
    the second phase of the learning rule. A subclass says what is wired to what: how to clamp an input,
    which parameters take part in the dynamics, and how the output is read.
    """

    #: How the network settles; may be replaced at any time.
    relaxation: Relaxation
    #: One for each layer that takes part in the dynamics.
    activations: list[Activation]

    #: By name, one of :data:`READOUTS`: what a loss has to fit.
    readout: str = "activated"

    _has_time_steps = False

    def __init__(self, learning: RecurrentRule, relaxation: Relaxation) -> None:
        super().__init__()
        self.relaxation = relaxation
        #: Statistics of the last free phase; None before the first.
        self.settling: Settling | None = None
        #: What has been warned of in the life of this network.
        self.warnings = WarnOnce()
        self.cuda_graphs = CudaGraphs()
        # The largest change of any unit in the recorded phases that were not checked, and their steps.
        self._recorded: tuple[Tensor, int] | None = None
        self._unchecked = 0
        self._loss_recognized = False
        self.learning = learning

    @property
    def learning(self) -> RecurrentRule:
        """The learning rule; may be replaced at any time."""
        return self._learning

    @learning.setter
    def learning(self, rule: RecurrentRule) -> None:
        if not isinstance(rule, RecurrentRule):
            raise ConfigurationError(
                f"{type(self).__name__} cannot learn by {type(rule).__name__}: it needs a rule for "
                "recurrent networks (EquilibriumPropagation, BPTT, EquilibriumGradient, ...); Backprop "
                "is for an MLP"
            )
        # A network that is not complete yet asks at the end of its own __init__.
        if hasattr(self, "activations"):
            rule.check(self)
        self._learning = rule

    # -- what a subclass says ----------------------------------------------------------------------

    @property
    @abstractmethod
    def dynamical_parameters(self) -> list[nn.Parameter]:
        """The parameters of the layers that take part in the dynamics."""

    @abstractmethod
    def clamp(
        self,
        x: Tensor,
        parameters: Sequence[Tensor] | None = None,
        *,
        drives: Sequence[Tensor] = (),
        wants_input: bool = True,
    ) -> Any:
        """The network with its input clamped, see :class:`~continual_ep.relaxation.protocols.Clamped`.

        :param parameters: in the order of :attr:`dynamical_parameters`; default these, detached.
        :param drives: ``drives`` of an earlier clamp of the same input, if they are known.
        :param wants_input: whether gradients of the input will be asked for.
        """

    @abstractmethod
    def checked_input(self, x: Tensor) -> Tensor:
        """``x`` in the shape that the network takes.

        :raises InputError: for an input that does not fit.
        """

    @property
    def readout_parameters(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias of a readout outside of the dynamics; None if the last layer is read as it is."""
        return None

    def read(self, state: Tensor) -> Tensor:
        """The readout of the last dynamical layer's state, ``(batch, classes)``."""
        outside = self.readout_parameters
        return state if outside is None else nn.functional.linear(state, *outside)

    def _draw_time_steps(
        self,
        dt: float | TimeSteps | None,
        shapes: Sequence[tuple[int, ...]],
        generator: torch.Generator | None,
    ) -> None:
        """Draw a time step for each unit of layers of these shapes, if ``dt`` is a distribution."""
        self._has_time_steps = isinstance(dt, TimeSteps)
        if isinstance(dt, TimeSteps):
            for layer, shape in enumerate(shapes):
                self.register_buffer(f"time_steps_{layer}", dt.drawn(shape, generator))

    @property
    def time_steps(self) -> list[Tensor] | None:
        """The time step of each unit, by layer; None where one dt serves all."""
        if not self._has_time_steps:
            return None
        return [getattr(self, f"time_steps_{layer}") for layer in range(len(self.activations))]

    @property
    def layered(self) -> bool:
        """Whether :meth:`clamp` gives the :class:`~continual_ep.relaxation.protocols.LayeredDynamics`."""
        return False

    # -- the dynamics ------------------------------------------------------------------------------

    def settle(
        self,
        x: Tensor,
        *,
        steps: int | None = None,
        tolerance: float | None = None,
        trace: bool = False,
    ) -> Settled:
        """The free phase on its own, without a graph.

        :param x: the input, ``(batch, ...)``.
        :param steps: default: those of the learning rule; likewise ``tolerance``.
        :param trace: keep the states after every step.
        :returns: states, steps, residual, trace.
        :raises DivergenceError: when a state becomes NaN or infinite.
        """
        steps = self.learning.free_steps if steps is None else steps
        tolerance = self.learning.tolerance if tolerance is None else tolerance
        with torch.no_grad():
            clamped = self.clamp(self.checked_input(x))
            return settle(clamped, self.relaxation, steps=steps, tolerance=tolerance, trace=trace)

    def forward(self, x: Tensor) -> Tensor:
        """The readout at the free equilibrium, ``(batch, classes)``.

        :raises InputError: for an input that does not fit.
        :raises DivergenceError: when a state becomes NaN or infinite.
        """
        if self.relaxation.cuda_graphs and not self.learning.supports_cuda_graphs:
            raise ConfigurationError(
                f"{type(self.learning).__name__} with these options looks at its states while it settles and "
                "cannot be recorded: use cuda_graphs=False, or EquilibriumPropagation without a tolerance"
            )
        x = self.checked_input(x)
        # A contrast of two nearby states needs all the bits there are: autocast would take them.
        with torch.autocast(x.device.type, enabled=False):
            output = self.learning.settled_output(self, x.to(self.dynamical_parameters[0].dtype))
        if not self.relaxation.cuda_graphs and not bool(output.isfinite().all()):
            # The dynamics have checked their states; what is left is a readout outside of them.
            raise DivergenceError(
                "the readout is not finite at a finite equilibrium: its weights hold NaN or infinity, or are "
                "too large: lower the learning rate"
            )
        if output.requires_grad and not (self._loss_recognized or self.learning.needs_target):
            values = output.detach()
            output.register_hook(lambda gradient: self._note_loss(values, gradient))
        return output

    def _note_loss(self, output: Tensor, gradient: Tensor) -> None:
        """Warn, once, of a loss that does not fit the readout; look until the loss is recognized."""
        if self._loss_recognized:
            return
        kind = recognized_loss(output, gradient)
        self._loss_recognized = kind is not None
        text = MISFITS.get((self.readout, kind or ""))
        if text is not None:
            self.warnings.warn("loss does not fit", f"{text} This is said once.")

    def activities(self, x: Tensor) -> list[Tensor]:
        """The activations of all layers at the free equilibrium and the readout, without a graph."""
        with torch.no_grad():
            states = self.settle(x).states
            outside = self.readout_parameters is not None
            return [*states, self.read(states[-1])] if outside else states

    # -- what is said of it ------------------------------------------------------------------------

    def check_recorded(self) -> None:
        """Look at the phases recorded as CUDA graphs since the last check, which waits for the GPU.

        Called every :data:`~continual_ep.learning.cuda_graphs.CHECK_RECORDED_EVERY` batches; afterwards
        :attr:`settling` holds their statistics.

        :raises DivergenceError: when one has left the finite numbers.
        """
        if self._recorded is None:
            return
        (change, steps), self._recorded = self._recorded, None
        self._unchecked = 0
        residual = float(change)
        if not residual < math.inf:
            raise DivergenceError(
                f"a recorded phase left the finite numbers within the last {CHECK_RECORDED_EVERY} "
                "batches: look at the input, lower dt, beta, the learning rate or the weights' gain; "
                "with relaxation.cuda_graphs=False the step is named"
            )
        self.note_settling(Settled([], steps, residual), None)

    def note_change(self, change: Tensor, steps: int) -> None:
        """Keep how much the units of a recorded phase still moved, until :meth:`check_recorded`."""
        if self._recorded is not None:
            # NaN wins over every number.
            change = torch.maximum(change, self._recorded[0])
        self._recorded = (change.clone(), steps)
        self._unchecked += 1
        if self._unchecked >= CHECK_RECORDED_EVERY:
            self.check_recorded()

    def note_settling(self, settled: Settled, tolerance: float | None) -> None:
        """Keep the statistics of a free phase; warn once in the life of this network."""
        limit = UNSETTLED if tolerance is None else tolerance
        self.settling = Settling(settled.steps, settled.residual, settled.residual <= limit)
        if not self.settling.settled:
            self.warnings.warn(
                "free phase unsettled",
                f"the free phase did not settle: after {settled.steps} steps a unit still moved by "
                f"{settled.residual:.2g} per step (limit {limit:g}). Give more free_steps, or lower dt, "
                "the gain or feedback_scale. This is said once; network.settling holds the statistics of "
                "the last phase.",
            )

    def extra_repr(self) -> str:
        dt = "drawn" if self._has_time_steps else self.relaxation.dt
        return f"order={self.relaxation.order}, dt={dt}, learning={self.learning}"


def readout_for(readout: str | None, learning: RecurrentRule) -> str:
    """The readout that is asked for; by default that of the learning rule.

    :raises ConfigurationError: for an unknown name.
    """
    chosen = readout or learning.default_readout
    if chosen not in READOUTS:
        raise ConfigurationError(f"readout {chosen!r} is unknown; choose one of {READOUTS}")
    return chosen


def relaxation_from(
    relaxation: Relaxation | None,
    order: str | None,
    dt: float | TimeSteps | None,
    default_order: str = "red-black",
) -> Relaxation:
    """The relaxation that the arguments of a network describe.

    :raises ConfigurationError: for a relaxation beside an order or a time step, which it holds itself.
    """
    number = None if isinstance(dt, TimeSteps) else dt
    if relaxation is None:
        values = {"order": order or default_order, "dt": 1.0 if number is None else number}
        return options_from(Relaxation, values)
    if order is not None or number is not None:
        raise ConfigurationError(
            "order and dt are part of the relaxation: give either these or relaxation, e.g. "
            f"relaxation=Relaxation(order={order or relaxation.order!r}, "
            f"dt={relaxation.dt if number is None else number})"
        )
    return relaxation
