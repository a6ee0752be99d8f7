r"""Activation functions: the activation :math:`\rho(u)` of a unit as a function of its input current ``u``.

A new activation is one class and one line in :data:`ACTIVATIONS`.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError


class Activation(Protocol):
    """What a network asks of an activation function."""

    name: str
    #: Whether the activation is the current, clipped; then a quadratic nudge has a closed form.
    piecewise_linear: bool

    def __call__(self, current: Tensor) -> Tensor:
        """The activation; differentiable by autograd."""

    def in_place(self, current: Tensor) -> Tensor:
        """The same, overwriting ``current``; not differentiable."""

    def slope(self, current: Tensor) -> Tensor:
        r"""The derivative :math:`\rho'(u)`; at a kink, the derivative from outside (0)."""


class HardSigmoid:
    r""":math:`\rho(u) = \min(\max(u, 0), 1)`."""

    name = "hard-sigmoid"
    piecewise_linear = True

    def __call__(self, current: Tensor) -> Tensor:
        return current.clamp(0.0, 1.0)

    def in_place(self, current: Tensor) -> Tensor:
        return current.clamp_(0.0, 1.0)

    def slope(self, current: Tensor) -> Tensor:
        return ((current > 0) & (current < 1)).to(current.dtype)


class ShiftedSigmoid:
    r""":math:`\rho(u) = 1 / (1 + e^{-4(u - 1/2)})`, a smooth hard sigmoid."""

    name = "shifted-sigmoid"
    piecewise_linear = False

    def __call__(self, current: Tensor) -> Tensor:
        return torch.sigmoid(4.0 * current - 2.0)

    def in_place(self, current: Tensor) -> Tensor:
        return current.mul_(4.0).sub_(2.0).sigmoid_()

    def slope(self, current: Tensor) -> Tensor:
        activation = self(current)
        return 4.0 * activation * (1.0 - activation)


class Tanh:
    r""":math:`\rho(u) = \tanh u`."""

    name = "tanh"
    piecewise_linear = False

    def __call__(self, current: Tensor) -> Tensor:
        return torch.tanh(current)

    def in_place(self, current: Tensor) -> Tensor:
        return current.tanh_()

    def slope(self, current: Tensor) -> Tensor:
        return 1.0 - torch.tanh(current).square()


class ClippedReLU:
    r""":math:`\rho(u) = \min(\max(u, 0), 6)` (ReLU6, as in Hopfield-ResNet, arXiv:2509.26003)."""

    name = "clipped-relu"
    piecewise_linear = True
    ceiling = 6.0

    def __call__(self, current: Tensor) -> Tensor:
        return current.clamp(0.0, self.ceiling)

    def in_place(self, current: Tensor) -> Tensor:
        return current.clamp_(0.0, self.ceiling)

    def slope(self, current: Tensor) -> Tensor:
        return ((current > 0) & (current < self.ceiling)).to(current.dtype)


class ReLU:
    r""":math:`\rho(u) = \max(u, 0)`; unbounded, hence for feed-forward networks only."""

    name = "relu"
    piecewise_linear = True

    def __call__(self, current: Tensor) -> Tensor:
        return current.relu()

    def in_place(self, current: Tensor) -> Tensor:
        return current.relu_()

    def slope(self, current: Tensor) -> Tensor:
        return (current > 0).to(current.dtype)


class Identity:
    r""":math:`\rho(u) = u`, the linear readout."""

    name = "identity"
    piecewise_linear = True

    def __call__(self, current: Tensor) -> Tensor:
        return current

    def in_place(self, current: Tensor) -> Tensor:
        return current

    def slope(self, current: Tensor) -> Tensor:
        return torch.ones_like(current)


@dataclass
class Slope:
    """The activation of small changes around an equilibrium: a factor for each unit."""

    factor: Tensor
    name: str = "slope"
    piecewise_linear: bool = True

    def __call__(self, current: Tensor) -> Tensor:
        return current * self.factor

    def in_place(self, current: Tensor) -> Tensor:
        return current.mul_(self.factor)

    def slope(self, current: Tensor) -> Tensor:
        return self.factor


#: Activations of recurrent networks: bounded, or the relaxation may run away.
ACTIVATIONS: dict[str, type[Activation]] = {
    "hard-sigmoid": HardSigmoid,
    "shifted-sigmoid": ShiftedSigmoid,
    "tanh": Tanh,
    "clipped-relu": ClippedReLU,
}

#: Activations of feed-forward networks.
FEEDFORWARD_ACTIVATIONS: dict[str, type[Activation]] = {**ACTIVATIONS, "relu": ReLU}


def activation_named(name: str, known: dict[str, type[Activation]] = ACTIVATIONS) -> Activation:
    """The activation registered as ``name``.

    :raises ConfigurationError: for a name that is not in ``known``.
    """
    if name not in known:
        raise ConfigurationError(
            f"activation {name!r} is unknown; choose one of {', '.join(known)}"
        )
    return known[name]()
