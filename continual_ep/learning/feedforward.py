"""What learning rules of feed-forward networks share.

A rule may speak for each layer alone (:meth:`FeedforwardRule.linear`, :meth:`~FeedforwardRule.conv2d`): then
any network made of such layers learns by it, deep, convolutional or unrolled in time. Or for a whole
stack of layers at once (:class:`StackRule`).
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from continual_ep.errors import DivergenceError
from continual_ep.options import Options
from continual_ep.relaxation.protocols import LayerStack


class FeedforwardRule(Options):
    """A learning rule of a feed-forward network. Rules are immutable; all state is the network's.

    A subclass is a frozen dataclass whose fields are declared by :func:`~continual_ep.options.option`.
    """

    #: The kinds of network that it can train; the first is what ``network.kind: auto`` stands for.
    kinds: ClassVar[tuple[str, ...]] = ("mlp", "cnn")
    #: Whether it has to know the output's target.
    needs_target: ClassVar[bool] = False
    #: Its papers, by their keys in ``citations.bib``.
    sources: ClassVar[tuple[str, ...]] = ()
    #: Whether layers above the first have backward weights of their own.
    backward_weights: bool = False
    #: Their learning rate, as a part of their layer's.
    backward_rate: float = 1.0
    #: Their standard deviation; None for one over the root of the fan-out, which keeps the size of an error.
    backward_std: float | None = None

    @property
    def backward_weights_learn(self) -> bool:
        """Whether these learn."""
        return False

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, backward: Tensor | None
    ) -> Tensor:
        """The current :math:`W x + b`, tied to autograd.

        :param x: ``(batch, n_pre)``; :param weight: ``(n_post, n_pre)``.
        :param backward: the backward weights, shaped like ``weight``, or None.
        """
        return nn.functional.linear(x, weight, bias)

    def conv2d(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, backward: Tensor | None, padding: int
    ) -> Tensor:
        """The same for a convolution; ``weight`` ``(channels, channels_pre, h, w)``."""
        return nn.functional.conv2d(x, weight, bias, padding=padding)

    def initial_backward_weights(
        self, weights: Sequence[Tensor], generator: torch.Generator | None
    ) -> list[nn.Parameter]:
        r"""Backward weights of the layers above the first, from :math:`N(0, 1/n_{post})`."""
        if not self.backward_weights:
            return []
        return [
            nn.Parameter(self._drawn_like(weight, generator), self.backward_weights_learn)
            for weight in weights[1:]
        ]

    def _drawn_like(self, weight: Tensor, generator: torch.Generator | None) -> Tensor:
        device = generator.device if generator is not None else None
        fan_out = weight.shape[0] * weight[0, 0].numel()
        spread = fan_out**-0.5 if self.backward_std is None else self.backward_std
        return torch.empty(weight.shape, device=device).normal_(0.0, spread, generator=generator)


@dataclass
class ForwardPass:
    """A forward pass that waits for its teaching signal.

    :param x: the input ``(batch, n_0)``.
    :param currents: :math:`v_l = W_l r_{l-1} + b_l`; :param activations: :math:`r_l = \\rho_l(v_l)`.
    """

    network: LayerStack
    x: Tensor
    currents: list[Tensor]
    activations: list[Tensor]


class StackRule(FeedforwardRule):
    """A rule that looks at all layers of an :class:`~continual_ep.networks.MLP` at once."""

    kinds = ("mlp",)

    def output(self, network: LayerStack, x: Tensor) -> Tensor:
        """The readout ``(batch, n_L)``, tied to autograd."""
        output: Tensor = _StackPass.apply(network, self, x, *network.parameters())
        return output

    @abstractmethod
    def gradients(
        self, forward: ForwardPass, output_gradient: Tensor
    ) -> tuple[list[Tensor | None], Tensor | None]:
        """What the rule makes of the gradient of the loss with respect to the output.

        :param output_gradient: ``(batch, n_L)``, of the mean over the batch.
        :returns: gradients in the order of ``network.parameters()``, and that of the input, or None.
        """


class _StackPass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, network: LayerStack, rule: StackRule, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        # Saved, so that autograd notices when a parameter is changed before backward.
        ctx.save_for_backward(x, *parameters)
        ctx.network, ctx.rule = network, rule
        ctx.currents, ctx.activations = network.sweep(x.detach())
        return ctx.activations[-1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Any, ...]:
        x = ctx.saved_tensors[0]
        if not bool(output_gradient.isfinite().all()):
            raise DivergenceError(
                "the gradient of the loss with respect to the output holds NaN or infinity: look at the loss "
                "and the targets, or lower the learning rate"
            )
        forward = ForwardPass(ctx.network, x, ctx.currents, ctx.activations)
        gradients, to_input = ctx.rule.gradients(forward, output_gradient)
        all_gradients = [to_input, *gradients]
        wanted = ctx.needs_input_grad[2:]
        return (
            None,
            None,
            *(g if want else None for g, want in zip(all_gradients, wanted, strict=True)),
        )
