"""iCaRL: replay of herded exemplars, distillation, and answers by the nearest mean of exemplars."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from avalanche.models import avalanche_forward
from torch import Tensor, nn

from continual_ep.avalanche_internals import criterion_of
from continual_ep.errors import ConfigurationError
from continual_ep.learning import CrossEntropy, SquaredError
from continual_ep.plugins.awake_rehearsal import AwakeRehearsal
from continual_ep.plugins.exemplars import Features
from continual_ep.plugins.replay_batches import samples_of

#: The score of a class without exemplars: below that of any other, as unit vectors lie within 2.
UNSEEN = -5.0

#: Losses with a term for each output, and of the softmax of all.
SQUARED, CROSS_ENTROPY = (SquaredError, nn.MSELoss), (CrossEntropy, nn.CrossEntropyLoss)


class NearestMean:
    r"""A forward hook that answers by the nearest mean of exemplars in evaluation mode.

    .. math:: o_c = -\left\| \frac{\varphi(x)}{\|\varphi(x)\|} - \mu_c \right\|^2

    with :math:`\mu_c` the mean of the unit features of class :math:`c`'s exemplars, of unit length
    itself. Means are computed again whenever a parameter has changed. A copy of the model copies the
    hook, which then answers with the features of the copy.

    :param exemplars: returns inputs ``(n, ...)`` and labels ``(n,)``.
    :param features: ``(model, x) -> (batch, n)``.
    """

    def __init__(self, exemplars: Callable[[Any], tuple[Tensor, Tensor]], features: Features):
        self.exemplars, self.features = exemplars, features
        self.classes = torch.zeros(0, dtype=torch.long)
        self.means = torch.zeros(0, 0)
        self._x: Tensor | None = None
        self._versions: list[tuple[int, int]] = []
        self._busy = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "NearestMean":
        return NearestMean(self.exemplars, self.features)

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Scores in place of ``output``, shaped like it; None leaves it as it is."""
        # Features may need a forward pass of the same model; sleep traces the layers with gradients.
        if model.training or self._busy or inputs[0].requires_grad:
            return None
        self._busy = True
        try:
            with torch.no_grad():
                self.update(model, inputs[0].device)
                if not len(self.classes):
                    return None
                return self.scores(model, inputs[0], output)
        finally:
            self._busy = False

    def update(self, model: nn.Module, device: torch.device | str) -> None:
        """Compute the means, unless exemplars and parameters are those of the last time."""
        x, y = self.exemplars(device)
        versions = [(id(p), p._version) for p in (*model.parameters(), *model.buffers())]
        if x is self._x and versions == self._versions:
            return
        self._x, self._versions = x, versions
        self.classes = y.unique()
        if len(y):
            unit = self._unit_features(model, x)
            means = [unit[y == label].mean(0) for label in self.classes]
            self.means = nn.functional.normalize(torch.stack(means), dim=1)

    def scores(self, model: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """Minus the squared distance to each class's mean."""
        distances = torch.cdist(self._unit_features(model, x), self.means).square()
        scores = torch.full_like(output, UNSEEN)
        scores[:, self.classes] = -distances.to(scores.dtype)
        return scores

    def _unit_features(self, model: nn.Module, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.features(model, x).flatten(1), dim=1)


class ICaRL(AwakeRehearsal):
    r"""Incremental classifier and representation learning (iCaRL) for any model with hidden layers.

    Exemplars chosen by herding are shuffled among the new samples. The loss of a batch is

    .. math:: \ell(f(x), y) + \lambda\, \ell_{old}(f(x), f_{old}(x))

    with the strategy's criterion :math:`\ell`, and :math:`\ell_{old}` the same criterion over the
    outputs of earlier classes, of which the targets are those of the network before the experience
    (for cross-entropy, their softmax). In evaluation mode the model answers with minus the squared
    distance to each class's mean of exemplars (:class:`NearestMean`), also in evaluations outside of
    the strategy; what sleep does to the weights changes features and means alike. List it before a
    sleep plugin, so that the awake network knows the newest classes.

    Source: Rebuffi et al. 2017 (arXiv:1611.07725). Deviations: the criterion of the strategy in the place
    of a binary cross-entropy for each output, the labels of old classes count besides their old
    outputs, and exemplars are not mirrored. Avalanche's ICaRL needs a model cut in two and its own loss.

    :param total: exemplars in all, or
    :param per_class: exemplars of each class; exactly one of the two.
    :param distillation: :math:`\lambda`.
    :param batch_size: as of :class:`AwakeRehearsal`, likewise ``features`` and ``seed``.
    """

    def __init__(
        self,
        *,
        total: int | None = None,
        per_class: int | None = None,
        distillation: float = 1.0,
        batch_size: int | None = None,
        features: Features | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            total=total,
            per_class=per_class,
            selection="herding",
            batch_size=batch_size,
            share="proportional",
            features=features,
            seed=seed,
        )
        if not distillation >= 0:
            raise ConfigurationError(f"distillation={distillation} must be at least 0.")
        self.distillation = distillation
        self.answers = NearestMean(self.exemplars, self.memory.features)
        self._model: nn.Module | None = None
        self._hook: Any = None
        self._old_model: nn.Module | None = None
        self._old_classes = torch.zeros(0, dtype=torch.long)
        self._samples: tuple[Tensor, Any, tuple[Tensor, Tensor]] | None = None

    def exemplars(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Inputs and labels of all exemplars, on a device; none before their samples are known."""
        entries = self.memory.entries
        if not len(entries) or self.memory.disconnected:
            return torch.zeros(0, device=device), torch.zeros(0, dtype=torch.long, device=device)
        if self._samples is None or self._samples[0] is not entries or self._samples[1] != device:
            x, y, _ = samples_of(self.memory.buffer.eval(), device)
            self._samples = (entries, device, (x, y))
        return self._samples[2]

    def attach(self, model: nn.Module) -> None:
        """Let a model answer by the nearest mean of exemplars in evaluation mode."""
        if model is not self._model:
            self.detach()
            self._model, self._hook = model, model.register_forward_hook(self.answers)

    def detach(self) -> None:
        """Let the model answer by its outputs again."""
        if self._hook is not None:
            self._hook.remove()
        self._model, self._hook = None, None

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        self.attach(strategy.model)

    def check(self, strategy: Any, experience: Any, example: Any) -> None:
        """:raises ConfigurationError: for a loss whose old outputs make no targets."""
        criterion = criterion_of(strategy)
        if self.distillation and not isinstance(criterion, SQUARED + CROSS_ENTROPY):
            raise ConfigurationError(
                f"ICaRL distils by squared error or cross-entropy, not by "
                f"{type(criterion).__name__}: use one of these, or distillation=0."
            )

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.check(strategy, strategy.experience, None)
        super().before_training_exp(strategy, *args, **kwargs)
        number = int(strategy.experience.current_experience)
        entries = self.memory.entries
        self._old_classes = entries[entries[:, 0] != number, 2].unique().to(strategy.device)
        self._old_model = None
        if self.distillation and len(self._old_classes):
            self.detach()  # the copy is asked for its outputs
            self._old_model = copy.deepcopy(strategy.model).eval()
        self.attach(strategy.model)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self._old_model is None:
            return
        criterion, classes = criterion_of(strategy), self._old_classes
        with torch.no_grad():
            old = avalanche_forward(self._old_model, strategy.mb_x, strategy.mbatch[-1])
            target = old[:, classes]
        if not isinstance(criterion, SQUARED):
            target = target.softmax(-1)
        distance = criterion(strategy.mb_output[:, classes], target)
        strategy.loss = strategy.loss + self.distillation * distance

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._old_model = None
        super().after_training_exp(strategy, **kwargs)
