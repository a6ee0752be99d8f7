r"""Dendritic localized learning: each layer learns from an error of its own, which its dendrites carry.

The basal dendrite of a unit holds what arrives from below, :math:`u`, its apical one what is expected,
:math:`x`; the soma sees :math:`\xi = x - u`. With the predictions held fixed the errors have the closed form

.. math::

    \xi_L = -\partial L/\partial u_L, \qquad
    g_i = \xi_{i+1} \odot f'(W_i u_i), \qquad \xi_i = \Theta_i^T g_i, \qquad
    \Delta W_i \propto g_i u_i^T

with backward weights :math:`\Theta` of their own. Source: Lv et al. 2025 (arXiv:2501.09976). Of the two
readings of how :math:`\Theta` learns the paper's follows :math:`-\nabla_\Theta |\xi|^2/2`; its public
code has the opposite sign in dense and convolutional layers. Neither knows W: it is W that aligns to Θ
(feedback alignment). Kolen and Pollack 1994: if both learn by the same products and decay alike they become
equal.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear
from torch.nn.grad import conv2d_input, conv2d_weight

from continual_ep.errors import ConfigurationError
from continual_ep.learning.feedforward import FeedforwardRule
from continual_ep.options import option


@dataclass(frozen=True)
class DendriticLocalizedLearning(FeedforwardRule):
    r"""Dendritic localized learning (DLL), of layers anywhere: MLP, CNN, RNN.

    ``backward_learning`` says how the backward weights learn: ``"fixed"``, not at all; ``"paper"``,
    :math:`\Delta\Theta_i = -g_i \xi_i^T`; ``"opposite"``, the sign of the public code;
    ``"kolen-pollack"``, by the products of the forward weights, :math:`g_i u_i^T`, at ``backward_rate=1``. An
    optimizer that ignores the scale of gradients, such as Adam, needs a large ``backward_std`` (the public
    code draws dense ones from N(0, 1)), or its steps soon replace them.

    :raises ConfigurationError: for an impossible value.
    """

    backward_weights = True
    sources = ("lv2025",)

    backward_learning: Literal["fixed", "paper", "opposite", "kolen-pollack"] = option(
        "paper", "how backward weights learn; opposite: as in the public code"
    )
    decay: float = option(0.0, "of forward and backward weights, for kolen-pollack", ge=0)
    backward_rate: float = option(0.1, "rate of backward weights, as a part of their layer's", gt=0)
    backward_std: float | None = option(
        None, "their initial standard deviation; null: by the fan-out", gt=0
    )

    def check_combination(self) -> None:
        if self.backward_learning == "kolen-pollack" and self.backward_rate != 1.0:
            raise ConfigurationError(
                "forward and backward weights become alike at one rate only: kolen-pollack needs "
                "backward_rate=1"
            )
        if self.decay and self.backward_learning != "kolen-pollack":
            raise ConfigurationError(
                "decay makes forward and backward weights alike: it needs backward_learning='kolen-pollack'"
            )

    @property
    def backward_weights_learn(self) -> bool:
        return self.backward_learning != "fixed"

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, backward: Tensor | None
    ) -> Tensor:
        if backward is None:
            return linear(x, weight, bias)
        output: Tensor = _Linear.apply(self, x, weight, bias, backward)
        return output

    def conv2d(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, backward: Tensor | None, padding: int
    ) -> Tensor:
        if backward is None:
            return conv2d(x, weight, bias, padding=padding)
        output: Tensor = _Convolution.apply(self, x, weight, bias, backward, padding)
        return output

    def backward_gradient(
        self, to_weight: Tensor, to_input_product: Tensor, weight: Tensor, backward: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Descent gradients of W and Θ.

        :param to_weight: that of W by products; :param to_input_product: :math:`g \\xi^T`, averaged.
        """
        if self.backward_learning == "kolen-pollack":
            return to_weight + self.decay * weight, to_weight + self.decay * backward
        if self.backward_learning == "paper":
            return to_weight, to_input_product
        if self.backward_learning == "opposite":
            return to_weight, -to_input_product
        return to_weight, None


class _Linear(torch.autograd.Function):
    """A linear layer whose error comes back along other weights."""

    @staticmethod
    def forward(
        ctx: Any,
        rule: DendriticLocalizedLearning,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        backward: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, backward)
        ctx.rule, ctx.biased = rule, bias is not None
        return linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, change: Tensor) -> tuple[Any, ...]:
        x, weight, backward = ctx.saved_tensors
        # Errors of a mean over the batch are smaller by its size; products of two of them by its square.
        batch = len(x)
        error = change @ backward
        product = batch * (change.t() @ error)
        to_weight, to_backward = ctx.rule.backward_gradient(
            change.t() @ x, product, weight, backward
        )
        return None, error, to_weight, change.sum(0) if ctx.biased else None, to_backward


class _Convolution(torch.autograd.Function):
    """A convolution whose error comes back along other kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        rule: DendriticLocalizedLearning,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        backward: Tensor,
        padding: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, backward)
        ctx.rule, ctx.biased, ctx.padding = rule, bias is not None, padding
        return conv2d(x, weight, bias, padding=padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, change: Tensor) -> tuple[Any, ...]:
        x, weight, backward = ctx.saved_tensors
        error = conv2d_input(x.shape, backward, change, padding=ctx.padding)
        by_products = conv2d_weight(x, weight.shape, change, padding=ctx.padding)
        # The derivative of |error|^2 / 2 by the backward kernel.
        product = len(x) * conv2d_weight(error, weight.shape, change, padding=ctx.padding)
        to_weight, to_backward = ctx.rule.backward_gradient(by_products, product, weight, backward)
        bias = change.sum((0, 2, 3)) if ctx.biased else None
        return None, error, to_weight, bias, to_backward, None
