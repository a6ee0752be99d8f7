r"""GRAPES: units that matter more learn more.

.. math:: M_i = 2\, \frac{n_i}{\max_k n_k}, \qquad n_i = \sum_j |w_{ij}|, \qquad
          \Delta W_{ij} \leftarrow M_i\, \Delta W_{ij}

The change of a unit's synapses is scaled by the strength with which it listens, relative to the strongest of
its layer. Our reading of Dellaferrera et al. 2022 (arXiv:2104.11604), of which the formula was not at hand.
"""

from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError


class Grapes(SupervisedPlugin):
    """Scales gradients by node importance, whatever the learning rule.

    For networks with a method ``synapses()`` (all of ours); other models: their linear layers.

    :raises ConfigurationError: for a model without layers.
    """

    supports_distributed = False

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Scale what the rule found, before the optimizer sees it."""
        modulate(strategy.model)


@torch.no_grad()
def modulate(model: nn.Module) -> None:
    """Scale the gradients of a model's layers, in place; without Avalanche, call it before each step.

    :raises ConfigurationError: for a model without layers.
    """
    layers: list[tuple[Tensor, Tensor | None]]
    own: Any = getattr(model, "synapses", None)
    if own is not None:
        layers = [(layer.weight, layer.bias) for layer in own()]
    else:
        layers = [(m.weight, m.bias) for m in model.modules() if isinstance(m, nn.Linear)]
    if not layers:
        raise ConfigurationError("GRAPES scales what layers learn, and this model has none")
    for weight, bias in layers:
        factor = importance(weight)
        if weight.grad is not None:
            weight.grad.mul_(factor.view(-1, *[1] * (weight.dim() - 1)))
        if bias is not None and bias.grad is not None and bias.shape == factor.shape:
            bias.grad.mul_(factor)


def importance(weight: Tensor) -> Tensor:
    """:math:`M_i` in (0, 2] of each unit or channel; 1 where all weights are zero."""
    strength = weight.flatten(1).abs().sum(1)
    largest = strength.max()
    return torch.where(largest > 0, 2.0 * strength / largest.clamp(min=1e-30), 1.0)
