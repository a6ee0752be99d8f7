r"""Batch normalisation as part of the weights below it, as it acts in evaluation.

.. math:: \gamma\,\frac{W x + b - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = s W x + s\,(b - \mu) + \beta,
    \qquad s = \gamma / \sqrt{\sigma^2 + \epsilon}
"""

import torch
from torch import Tensor, nn

from continual_ep.synapses import Synapses

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def can_be_folded(module: nn.Module) -> bool:
    """Whether a module is batch normalisation with running statistics."""
    return type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) and module.running_var is not None


def folded_weight(layer: Synapses) -> Tensor:
    """The weight with the scale of the normalisation above it; without one, the weight itself."""
    weight = layer.weight.detach()
    scale = _scale(layer, weight)
    return weight if scale is None else (weight.to(scale.dtype) * scale).to(weight.dtype)


def folded_bias(layer: Synapses) -> Tensor | None:
    """The bias with the shift of the normalisation above it."""
    bias = None if layer.bias is None else layer.bias.detach()
    norm = layer.norm
    if norm is None:
        return bias
    mean, scale = norm.running_mean, _unit_scale(norm)
    assert mean is not None  # can_be_folded has looked
    bias = -scale * mean if bias is None else scale * (bias - mean)
    return bias if norm.bias is None else bias + norm.bias.detach()


def unfolded_weight(layer: Synapses, changed: Tensor) -> Tensor:
    """The weight of which ``changed`` is the folded form; elements that did not change keep every bit."""
    weight = layer.weight.detach()
    scale = _scale(layer, weight)
    if scale is None:
        return changed
    changed = changed.to(weight.device)
    # A unit of scale 0 takes no part through its synapses.
    same = (changed == folded_weight(layer)) | (scale == 0)
    return torch.where(same, weight, (changed / scale).to(weight.dtype))


def _unit_scale(norm: BatchNorm) -> Tensor:
    assert norm.running_var is not None  # can_be_folded has looked
    scale = (norm.running_var + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight.detach()


def _scale(layer: Synapses, weight: Tensor) -> Tensor | None:
    """Shaped to multiply the weight."""
    if layer.norm is None:
        return None
    return _unit_scale(layer.norm).reshape(-1, *[1] * (weight.dim() - 1))
