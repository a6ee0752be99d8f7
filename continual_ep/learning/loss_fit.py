r"""Whether a loss fits a readout, judged by the gradient that it sends to the output.

For a sample of class k with outputs o and a weight w > 0, squared error sends :math:`w\,(o - e_k)` and
cross-entropy :math:`w\,(\mathrm{softmax}(o) - e_k)`, whoever wrote the loss: torch's are recognized like
our own.
"""

import torch
from torch import Tensor

#: By readout and loss: what is wrong, and the remedy.
MISFITS = {
    (
        "softmax",
        "squared-error",
    ): "squared error treats the logits of the softmax readout as values to be "
    "0 and 1: use CrossEntropy (or torch's), or a network with readout='activated'.",
    (
        "activated",
        "cross-entropy",
    ): "cross-entropy needs logits of any size, but an activated readout is "
    "bounded, and output units that it drives to the bound learn no more: use readout='softmax' (the "
    "default), or SquaredError.",
    (
        "linear",
        "cross-entropy",
    ): "cross-entropy makes logits grow without bound, and a linear readout feeds "
    "them back into the network, which settles less and less: use readout='softmax' (the default), or "
    "SquaredError.",
}

#: Part of a gradient that rounding may explain.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}


def recognized_loss(output: Tensor, gradient: Tensor) -> str | None:
    """``"squared-error"`` or ``"cross-entropy"`` with class indices; None for any other loss.

    A sample's class is taken to be the output that shall rise the most, as long as outputs differ by less
    than 1, as they do at the beginning.

    :param output: ``(..., classes)``; :param gradient: of the loss with respect to it.
    """
    output, gradient = output.flatten(0, -2), gradient.flatten(0, -2)
    counted = gradient.abs().sum(1) > 0
    limit = ROUNDING.get(gradient.dtype, 1e-2)
    output, gradient = output[counted].double(), gradient[counted].double()
    if not len(output) or output.shape[1] < 2:
        return None
    target = torch.nn.functional.one_hot(gradient.argmin(1), output.shape[1])
    for name, scores in (("squared-error", output), ("cross-entropy", output.softmax(1))):
        if _is_multiple(gradient, scores - target, limit):
            return name
    return None


def _is_multiple(gradient: Tensor, direction: Tensor, limit: float) -> bool:
    """Whether each row of the gradient is a positive multiple of the direction."""
    weight = (gradient * direction).sum(1, keepdim=True)
    weight = weight / direction.square().sum(1, keepdim=True).clamp(min=1e-30)
    rest = (gradient - weight * direction).norm(dim=1)
    return bool((weight > 0).all() and (rest <= limit * gradient.norm(dim=1)).all())
