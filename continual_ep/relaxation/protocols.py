"""What the relaxation and the learning rules need to know of a network.

Networks satisfy these protocols; rules and the relaxation ask for nothing else, so that neither knows a
class of networks.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from continual_ep.errors import WarnOnce
from continual_ep.relaxation.activations import Activation

if TYPE_CHECKING:
    from continual_ep.relaxation.settle import Relaxation, Settled

#: Turns the current of the output layer into its nudged current, in place; gets it and the old state.
Nudge = Callable[[Tensor, Tensor], Tensor]

#: The current of one layer, as a function of the states, into a tensor.
Current = Callable[[Sequence[Tensor], Tensor], Tensor]

#: Gradients in the order of ``network.dynamical_parameters``, and that of the input, or None.
Gradients = tuple[list[Tensor], Tensor | None]


class Clamped(Protocol):
    """A network whose input is clamped: all that a relaxation needs to know of it."""

    @property
    def activations(self) -> Sequence[Activation]:
        """One per layer above the input."""

    def current(self, layer: int, states: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """The total input current, shape ``(batch, n_layer)``; into ``out`` if given."""

    def prepared(self, layer: int) -> Current:
        """:meth:`current` of one layer, with everything that stays the same looked up once."""

    def initial_states(self) -> list[Tensor]:
        """The states at rest, one tensor ``(batch, n_layer)`` per layer."""

    def nonfinite_source(self) -> str | None:
        """What is not finite in the input or the parameters, in words; None if nothing."""

    @property
    def time_steps(self) -> Sequence[Tensor] | None:
        """A time step for each unit, one tensor per layer; None where one ``dt`` serves all."""


class ClampedDynamics(Clamped, Protocol):
    """A clamped network that a learning rule can differentiate.

    Gradients are lists in the order of ``network.dynamical_parameters``, and that of the input, or None
    unless ``wants_input``.
    """

    x: Tensor

    @property
    def wants_input(self) -> bool:
        """Whether gradients of the input are asked for, a product as large as the drive."""

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
    ) -> Gradients:
        r"""``strength`` :math:`\times (\partial\Phi/\partial\theta(s^1) - \partial\Phi/\partial\theta(s^2))`.

        ``strength`` is one number, or one for each member of an ensemble, shaped ``(members, 1, 1)``.

        Where there is no energy, :math:`\Phi` stands for the sum of :math:`s_l \cdot u_l`, in which each
        parameter counts once and states are constants.
        """

    def hebbian_product(self, changes: Sequence[Tensor], states: Sequence[Tensor]) -> Gradients:
        r"""The gradient of :math:`\sum_l \delta_l \cdot d_l(s)`.

        Changes of the layers above, times what the layers below sent. Feedback weights that learn
        change by the same products.
        """

    def corrected(self, gradients: list[Tensor]) -> list[Tensor]:
        """Each gradient divided by the feedback scales between its layer and the output."""

    def attenuations(self) -> list[float]:
        """For each layer the product of the feedback scales between it and the output."""

    def slopes(self, states: Sequence[Tensor]) -> list[Tensor]:
        r"""The slopes :math:`\rho_l'(u_l)` at ``states``."""

    def state_vjp(self, layer: int, adjoints: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
        r"""The transposed coupling :math:`(\partial u/\partial s_l)^T a`, shaped like the layer's state."""

    def parameter_vjp(self, adjoints: Sequence[Tensor], states: Sequence[Tensor]) -> Gradients:
        r"""The gradient of :math:`\sum_l a_l \cdot u_l(s)` at fixed states and adjoints."""


class LayeredDynamics(ClampedDynamics, Protocol):
    """The clamped dynamics of a stack of dense layers, see :attr:`SettlingNetwork.layered`."""

    @property
    def feedback(self) -> Sequence[Tensor]:
        """Feedback weights of the dynamical layers above the first, shapes ``(n_l, n_{l-1})``."""

    def complexified(self, times: int) -> "LayeredDynamics":
        """The same network with complex states, on a batch repeated ``times`` times."""


class SettlingNetwork(Protocol):
    """A network that settles, as a learning rule sees it."""

    relaxation: "Relaxation"
    training: bool
    #: What has been warned of in the life of this network.
    warnings: WarnOnce

    @property
    def activations(self) -> Sequence[Activation]:
        """One for each layer that takes part in the dynamics."""

    @property
    def layered(self) -> bool:
        """Whether :meth:`clamp` gives :class:`LayeredDynamics`."""

    @property
    def cuda_graphs(self) -> Any:
        """Its :class:`~continual_ep.learning.cuda_graphs.CudaGraphs`."""

    @property
    def dynamical_parameters(self) -> Sequence[nn.Parameter]:
        """The parameters of the layers that take part in the dynamics."""

    @property
    def readout_parameters(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias of a readout outside of the dynamics; None if the last layer is read as it is."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""

    def clamp(
        self,
        x: Tensor,
        parameters: Sequence[Tensor] | None = None,
        *,
        drives: Sequence[Tensor] = (),
        wants_input: bool = True,
    ) -> ClampedDynamics:
        """The network with its input clamped.

        :param parameters: in the order of :attr:`dynamical_parameters`; default these, detached.
        :param drives: ``drives`` of an earlier clamp of the same input, if they are known.
        :param wants_input: whether gradients of the input will be asked for.
        """

    def read(self, state: Tensor) -> Tensor:
        """The readout of the last dynamical layer's state, ``(batch, classes)``."""

    def note_settling(self, settled: "Settled", tolerance: float | None) -> None:
        """Keep the statistics of a free phase."""

    def note_change(self, change: Tensor, steps: int) -> None:
        """Keep how much the units of a recorded phase still moved."""


class LayerStack(Protocol):
    """A stack of feed-forward layers, as a learning rule of whole stacks sees it."""

    warnings: WarnOnce
    weights: Any
    biases: Any
    backward_weights: Any

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""

    def current(self, layer: int, below: Tensor) -> Tensor:
        """What arrives at a layer (0 = first above the input), without a graph."""

    def activate(self, layer: int, current: Tensor) -> Tensor:
        """The activation of a layer."""

    def slope(self, layer: int, current: Tensor) -> Tensor:
        """Its derivative."""

    def sweep(
        self, x: Tensor, pushes: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Currents and activations of all layers, without a graph.

        :param pushes: what is added to the current of each layer, ``(batch, n_l)``.
        """
