"""A layered network whose input is clamped: its currents, its Hebbian products, its adjoint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from continual_ep.relaxation.activations import Activation
from continual_ep.relaxation.products import multiplication
from continual_ep.relaxation.protocols import Current

#: Layers with fewer units are stored by units, not by samples.
NARROW = 32


@dataclass
class ClampedLayers:
    r"""The dynamical layers :math:`s_1 \dots s_D` above a clamped input :math:`x`.

    .. math:: u_l = W_l s_{l-1} + b_l + \gamma_{l+1} F_{l+1}^T s_{l+1}, \qquad s_0 = x,

    with tied feedback :math:`F_l = W_l`. The input never changes while the network settles, so
    its drive :math:`W_1 x + b_1` is computed once. Members of an ensemble are stacked: every tensor, the
    input included, then has one more dimension in front.

    :param x: the input, shape ``(batch, n_0)``.
    :param weights: :math:`W_1 \dots W_D`, shapes ``(n_l, n_{l-1})``.
    :param biases: :math:`b_1 \dots b_D`, shapes ``(n_l,)``; empty for a network without biases.
    :param feedback: :math:`F_2 \dots F_D`, shapes ``(n_l, n_{l-1})``; the weights themselves if tied.
    :param activations: one per layer.
    :param drive: :math:`W_1 x + b_1`, shape ``(batch, n_1)``; computed if not given.
    :param wants_input: whether gradients of the input are asked for, a product as large as the drive.
    :param scales: :math:`\gamma_2 \dots \gamma_D`, factors of the feedback; all 1 if not given.
    :param time_steps: a time step for each unit, one tensor ``(n_l,)`` per layer, or None.
    :param products: bits of the products while the network settles, see
        :mod:`continual_ep.relaxation.products`.
    """

    x: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    feedback: Sequence[Tensor]
    activations: Sequence[Activation]
    drive: Tensor | None = None
    time_steps: Sequence[Tensor] | None = None
    scales: Sequence[float] = ()
    wants_input: bool = True
    products: str = "float32"

    def __post_init__(self) -> None:
        self.scales = self.scales or [1.0] * len(self.feedback)
        if self.drive is None:
            self.drive = self._input_drive()

    def _input_drive(self) -> Tensor:
        bias = self.biases[0] if self.biases else None
        if self.products == "float32" and not self.stacked:
            return torch.nn.functional.linear(self.x, self.weights[0], bias)
        how = multiplication(self.products, self.x, stacked=self.stacked)
        drive = how.mm(self.x, how.operand(self.weights[0]).mT)
        return drive if bias is None else drive + bias

    @property
    def stacked(self) -> bool:
        """Whether these are the members of an ensemble."""
        return self.weights[0].dim() == 3

    @property
    def drives(self) -> list[Tensor]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`."""
        assert self.drive is not None
        return [self.drive]

    @property
    def batch_dim(self) -> int:
        """The dimension that counts samples."""
        return int(self.stacked)

    def initial_states(self) -> list[Tensor]:
        """All units at zero."""
        assert self.drive is not None
        *members, batch, _ = self.drive.shape
        return [self._rest(members, batch, weight.shape[-2]) for weight in self.weights]

    def _rest(self, members: Sequence[int], batch: int, units: int) -> Tensor:
        # Products with few rows take half the time when the few are the rows of the result.
        if units < NARROW:
            return self.x.new_zeros(*members, units, batch).mT
        return self.x.new_zeros(*members, batch, units)

    def current(self, layer: int, states: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """The total input current of ``layer`` (0 = first above the input), ``(batch, n_layer)``."""
        return self._prepared(layer, "float32")(states, out)  # type: ignore[arg-type]

    def prepared(self, layer: int) -> Current:
        """See :class:`~continual_ep.relaxation.protocols.Clamped`."""
        return self._prepared(layer, self.products)

    def _prepared(self, layer: int, products: str) -> Current:
        drive = self.drive
        assert drive is not None
        operand, mm, addmm = multiplication(products, drive, stacked=self.stacked)
        below = operand(self.weights[layer]).mT if layer else None
        bias = self.biases[layer] if self.biases else None
        above = layer + 1 < len(self.weights)
        back = operand(self.feedback[layer]) if above else None
        scale = self.scales[layer] if above else 1.0

        def current(states: Sequence[Tensor], out: Tensor) -> Tensor:
            if below is None:
                total = drive
            elif bias is None:
                total = mm(states[layer - 1], below, out=out)
            else:
                total = addmm(bias, states[layer - 1], below, out=out)
            if back is not None:
                return addmm(total, states[layer + 1], back, alpha=scale, out=out)
            if total is not drive:
                return total
            return drive.clone() if out is None else out.copy_(drive)

        return current

    def repeated(self, times: int) -> "ClampedLayers":
        """The same network on a batch repeated ``times`` times, without a second drive."""
        assert self.drive is not None
        # The input itself, already in the drive, need not be repeated.
        return replace(self, drive=torch.cat([self.drive] * times, dim=self.batch_dim))

    def complexified(self, times: int) -> "ClampedLayers":
        """The same network with complex states, on a batch repeated ``times`` times."""
        assert self.drive is not None
        kind = torch.complex128 if self.x.dtype == torch.float64 else torch.complex64
        weights = [weight.to(kind) for weight in self.weights]
        return replace(
            self,
            x=torch.cat([self.x] * times).to(kind),
            weights=weights,
            biases=[bias.to(kind) for bias in self.biases],
            feedback=weights[1:] if self.tied else [back.to(kind) for back in self.feedback],
            drive=torch.cat([self.drive] * times).to(kind),
        )

    def contrast(
        self, first: Sequence[Tensor], second: Sequence[Tensor], strength: Tensor | float
    ) -> tuple[list[Tensor], Tensor | None]:
        r"""``strength`` :math:`\times (\partial\Phi/\partial\theta(s^1) - \partial\Phi/\partial\theta(s^2))`.

        The first layer's presynaptic side is the clamped input, so there the difference of the states
        suffices. Untied feedback weights change by the same products.

        :returns: gradients of weights, biases, feedback weights; and of the input.
        """
        addmm = torch.baddbmm if self.stacked else torch.addmm
        difference = strength * (first[0] - second[0])
        weights = [difference.mT @ self.x]
        for layer in range(1, len(first)):
            product = (strength * first[layer]).mT @ first[layer - 1]
            other = (strength * second[layer]).mT, second[layer - 1]
            weights.append(addmm(product, *other, alpha=-1.0, out=product))
        rest = zip(first[1:], second[1:], strict=True)
        biases = self._bias_gradients(difference, *(strength * (a - b) for a, b in rest))
        feedback = self._feedback_gradients(weights)
        return [*weights, *biases, *feedback], self._to_input(difference)

    def hebbian_product(
        self, changes: Sequence[Tensor], states: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`."""
        below = [self.x, *states[:-1]]
        weights = [change.mT @ pre for change, pre in zip(changes, below, strict=True)]
        biases = self._bias_gradients(*changes)
        feedback = self._feedback_gradients(weights)
        return [*weights, *biases, *feedback], self._to_input(changes[0])

    def attenuations(self) -> list[float]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`."""
        return [math.prod(self.scales[layer:]) for layer in range(len(self.weights))]

    def corrected(self, gradients: list[Tensor]) -> list[Tensor]:
        """See :class:`~continual_ep.relaxation.protocols.ClampedDynamics`."""
        factors = self.attenuations()
        factors = [*factors, *(factors if self.biases else []), *factors[1:]]
        return [g / factor for g, factor in zip(gradients, factors, strict=False)]

    def _bias_gradients(self, *changes: Tensor) -> list[Tensor]:
        # Biases of an ensemble keep a dimension of one where samples are counted.
        return [c.sum(-2, keepdim=self.stacked) for c in changes] if self.biases else []

    def _to_input(self, change: Tensor) -> Tensor | None:
        return change @ self.weights[0] if self.wants_input else None

    def _feedback_gradients(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Of own feedback weights: the products of the forward ones, times the scale."""
        if self.tied:
            return []
        return [scale * weight for scale, weight in zip(self.scales, weights[1:], strict=True)]

    @property
    def tied(self) -> bool:
        """Whether feedback uses the weights themselves."""
        return all(f is w for f, w in zip(self.feedback, self.weights[1:], strict=True))

    def slopes(self, states: Sequence[Tensor]) -> list[Tensor]:
        r"""The slopes :math:`\rho_l'(u_l)` at ``states``."""
        return [
            activation.slope(self.current(layer, states))
            for layer, activation in enumerate(self.activations)
        ]

    def state_vjp(self, layer: int, adjoints: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
        r"""The transposed coupling, :math:`F_l a_{l-1} + W_{l+1}^T a_{l+1}`, ``(batch, n_layer)``."""
        total = torch.zeros_like(adjoints[layer])
        if layer > 0:
            scale = self.scales[layer - 1]
            total = total + scale * (adjoints[layer - 1] @ self.feedback[layer - 1].mT)
        if layer + 1 < len(self.weights):
            total = total + adjoints[layer + 1] @ self.weights[layer + 1]
        return total

    def parameter_vjp(
        self, adjoints: Sequence[Tensor], states: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        r"""The gradient of :math:`\sum_l a_l \cdot u_l(s)` with respect to parameters and input, at fixed
        states.
        """
        below = [self.x, *states[:-1]]
        weights = [a.mT @ pre for a, pre in zip(adjoints, below, strict=True)]
        feedback = [
            scale * (s.mT @ a)
            for scale, s, a in zip(self.scales, states[1:], adjoints[:-1], strict=True)
        ]
        biases = self._bias_gradients(*adjoints)
        if self.tied:
            for layer, more in enumerate(feedback, start=1):
                weights[layer] += more
            feedback = []
        return [*weights, *biases, *feedback], self._to_input(adjoints[0])

    def nonfinite_source(self) -> str | None:
        """Whether the input or a parameter is not finite, and which."""
        if not bool(self.x.isfinite().all()):
            return "the input holds NaN or infinity: clean the data"
        for kind, values in (
            ("weights", self.weights),
            ("biases", self.biases),
            ("feedback", self.feedback),
        ):
            for number, value in enumerate(values, start=1):
                if not bool(value.isfinite().all()):
                    return f"{kind}[{number - 1}] holds NaN or infinity: lower the learning rate"
        return None
