"""Labels trick: the loss sees only the classes of the experience."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from continual_ep.errors import CheckpointError, ConfigurationError, InputError
from continual_ep.learning.losses import NudgingLoss, SquaredError
from continual_ep.streams.experiences import benchmark_of, part_of


class LabelsTrick(SupervisedPlugin):
    r"""Restricts the loss to the outputs of the classes in the experience.

    .. math:: \ell = -\log \frac{e^{o_y}}{\sum_{c \in C_k} e^{o_c}}, \qquad
              \text{or } \tfrac{1}{2} \sum_{c \in C_k} (o_c - y_c)^2

    Outputs of other classes get no gradient, so that training does not lower them. Answers are
    chosen among all classes. Nothing is kept. Works with the losses of this package, through every
    nudged phase, and with criteria of torch on class indices or on one value per output.
    Source: Zeno, Golan, Hoffer, Soudry 2018 (arXiv:1803.10123).
    """

    supports_distributed = False

    def __init__(self) -> None:
        super().__init__()
        self._original: Any = None
        self._restricted: Any = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Replace the strategy's criterion."""
        if self._original is None:
            self._original = strategy._criterion
        self._restricted = restricted_loss(self._original, classes_of(strategy.experience))
        strategy._criterion = self._restricted

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Evaluate with the original criterion, also in the middle of an experience."""
        if self._original is not None:
            strategy._criterion = self._original

    def after_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Go on with the restricted criterion, if this was in the middle of an experience."""
        if self._original is not None:
            strategy._criterion = self._restricted

    # Not after_training_exp: importances are computed there, with the loss that was trained.
    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """Restore the criterion."""
        if self._original is not None:
            strategy._criterion, self._original, self._restricted = self._original, None, None

    def state_dict(self) -> dict[str, Any]:
        """Nothing is kept."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises CheckpointError: for a state of something else."""
        if state:
            raise CheckpointError(f"LabelsTrick keeps nothing, but its state is {state!r}")


def classes_of(experience: Any) -> list[int]:
    """The classes of an experience; of a part of one, those of the whole and its own."""
    classes = {int(label) for label in experience.dataset.targets.uniques}
    origin = getattr(experience, "origin_experience", None)
    known = getattr(benchmark_of(experience), "classes_per_experience", None)
    if origin is not None:
        classes |= {int(label) for label in origin.dataset.targets.uniques}
    elif known is not None:
        classes |= set(known[part_of(experience).experience])
    return sorted(classes)


def restricted_loss(loss: Any, classes: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of the outputs of some classes.

    :param loss: of this package, or a criterion of torch.
    :param classes: their indices, in ascending order.
    :raises ConfigurationError: for a criterion with a weight for each class.
    """
    if isinstance(loss, SquaredError):
        return RestrictedSquaredError(loss, classes)
    if isinstance(loss, NudgingLoss):
        return RestrictedLoss(loss, classes)
    if isinstance(getattr(loss, "weight", None), Tensor):
        raise ConfigurationError(
            f"labels-trick: {type(loss).__name__} has a weight for each class; use one without"
        )
    return RestrictedCriterion(loss, classes)


class RestrictedLoss(NudgingLoss):
    """A loss of this package that sees the outputs of some classes only."""

    def __init__(self, loss: NudgingLoss, classes: Sequence[int]) -> None:
        super().__init__()
        self.loss, self.classes = loss, list(classes)

    def per_sample(self, output: Tensor, target: Tensor) -> Tensor:
        """:raises InputError: for a sample of another class."""
        others = torch.ones(output.shape[-1], dtype=torch.bool, device=output.device)
        others[self.classes] = False
        if bool(target[..., others].any()):
            raise InputError(f"labels-trick: there are labels beyond the classes {self.classes}")
        return self.loss.per_sample(output[..., self.classes], target[..., self.classes])

    def gradient_change(self, output: Tensor, free_output: Tensor) -> Tensor:
        change = torch.zeros_like(output)
        change[..., self.classes] = self.loss.gradient_change(
            output[..., self.classes], free_output[..., self.classes]
        )
        return change


class RestrictedSquaredError(RestrictedLoss, SquaredError):
    """Squared error of some classes; rules that need a target take the others' free outputs."""

    # The closed form pulls on every output.
    closed_form = False


class RestrictedCriterion(nn.Module):
    """A criterion of torch that sees the outputs of some classes only."""

    def __init__(self, criterion: Any, classes: Sequence[int]) -> None:
        super().__init__()
        self.criterion, self.classes = criterion, list(classes)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """:raises InputError: for a label that is none of the classes."""
        classes = torch.tensor(self.classes, device=output.device)
        if target.is_floating_point():
            target = target[..., classes]
        else:
            places = torch.searchsorted(classes, target)
            if bool((classes[places.clamp(max=len(classes) - 1)] != target).any()):
                raise InputError(
                    f"labels-trick: there are labels beyond the classes {self.classes}"
                )
            target = places
        loss: Tensor = self.criterion(output[..., classes], target)
        return loss
