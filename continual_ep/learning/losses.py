r"""The two losses of the field, able to nudge: their force can follow the output through the nudged phase.

They are ordinary criteria, ``criterion(output, target)``, and work with every network. Beyond that they
tell the second phase their weight in the total, which ``nudging="loss"`` needs.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import InputError


@dataclass
class Nudging:
    """What the loss tells the second phase, beside the gradient that autograd hands over.

    :param loss_terms: every loss of ours in this backward pass, with the weight of each sample's loss in
        the total, shape ``(batch,)``.
    :param readout: weight and bias between output layer and loss, if the readout is outside the dynamics.
    """

    loss_terms: "list[tuple[NudgingLoss, Tensor]]" = field(default_factory=list)
    readout: tuple[Tensor, Tensor | None] | None = None

    def single_loss(self) -> "tuple[NudgingLoss, Tensor] | None":
        """The loss to evaluate again and its weights; None unless there is one kind of loss.

        The target cancels in the change of its gradient, so losses of one kind differ in their weights
        alone.
        """
        kinds = {type(loss) for loss, _ in self.loss_terms}
        if len(kinds) != 1:
            return None
        return self.loss_terms[0][0], torch.stack([weights for _, weights in self.loss_terms]).sum(
            0
        )


class _NoteWeights(torch.autograd.Function):
    """The identity on per-sample losses; backward notes how much each counts in the total."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, nudging: Nudging, loss: "NudgingLoss") -> Tensor:
        ctx.nudging, ctx.loss = nudging, loss
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None, None]:
        ctx.nudging.loss_terms.append((ctx.loss, weights.detach()))
        return weights, None, None


class NudgingLoss(nn.Module):
    """A loss, averaged over the batch, whose force on the output may follow the output's state.

    For an :class:`~continual_ep.networks.Ensemble`, the sum of the members' losses, so that each learns as if
    it were alone.
    """

    #: Whether the nudge has the closed form of squared error, see ``loss_nudge``.
    closed_form = False

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss of a batch.

        :param output: shape ``(batch, classes)``; of an ensemble ``(members, batch, classes)``.
        :param target: class indices ``(batch,)``, or one value per output ``(batch, classes)``; for an
            ensemble also one of either for each member.
        :raises InputError: for a class without an output unit, or other shapes.
        """
        losses = self.per_sample(output, dense_target(output, target))
        nudging = getattr(output, "nudging", None)
        if nudging is not None and losses.requires_grad:
            losses = _NoteWeights.apply(losses, nudging, self)
        return losses.mean(-1).sum()

    @abstractmethod
    def per_sample(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of every sample, shape ``(batch,)`` or ``(members, batch)``."""

    @abstractmethod
    def gradient_change(self, output: Tensor, free_output: Tensor) -> Tensor:
        """The per-sample gradient at ``output`` minus that at ``free_output``; the target cancels."""


class SquaredError(NudgingLoss):
    r""":math:`\ell = \frac{1}{2} \sum_c (o_c - y_c)^2`."""

    closed_form = True

    def per_sample(self, output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (output - target).square().sum(-1)

    def gradient_change(self, output: Tensor, free_output: Tensor) -> Tensor:
        return output - free_output


class CrossEntropy(NudgingLoss):
    r""":math:`\ell = -\sum_c y_c \log \mathrm{softmax}(o)_c`."""

    def per_sample(self, output: Tensor, target: Tensor) -> Tensor:
        return -(target * output.log_softmax(-1)).sum(-1)

    def gradient_change(self, output: Tensor, free_output: Tensor) -> Tensor:
        return output.softmax(-1) - free_output.softmax(-1)


#: Losses by name, for configurations.
LOSSES: dict[str, type[NudgingLoss]] = {
    "squared-error": SquaredError,
    "cross-entropy": CrossEntropy,
}


def dense_target(output: Tensor, target: Tensor) -> Tensor:
    """Class indices as one-hot rows; targets given as rows pass unchanged."""
    if output.dim() == 3 and target.shape in (output.shape[1:], output.shape[1:2]):
        target = target.expand(len(output), *target.shape)
    if target.dim() > 1 and target.shape == output.shape:
        return target.to(output.dtype)
    if target.shape != output.shape[:-1] or target.is_floating_point():
        raise InputError(
            f"the target has shape {tuple(target.shape)} and type {target.dtype}; for an output of shape "
            f"{tuple(output.shape)} give class indices (batch,) or one value per output"
        )
    classes = output.shape[-1]
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < classes:
        raise InputError(
            f"the labels run from {int(target.min())} to {int(target.max())}, but the network has output "
            f"units 0 to {classes - 1}"
        )
    return nn.functional.one_hot(target.long(), classes).to(output.dtype)
