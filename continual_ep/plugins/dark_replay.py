"""Dark experience replay: exemplars are learned again with their labels and their old outputs."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models import avalanche_forward
from torch import Tensor, nn

from continual_ep.avalanche_internals import criterion_of
from continual_ep.errors import CheckpointError, ConfigurationError
from continual_ep.forward_passes import evaluating
from continual_ep.plugins.exemplars import ExemplarMemory
from continual_ep.plugins.replay_batches import endless_batches, samples_of
from continual_ep.seeding import generator_from


class DarkReplay(SupervisedPlugin):
    r"""Add two losses of replayed exemplars to that of each batch (DER++).

    .. math:: \mathcal L = \ell(f(x), y)
              + \alpha\, \overline{(f(x') - z')^2} + \beta\, \ell(f(x'), y')

    :math:`x, y` are new samples, :math:`x', y'` exemplars of earlier experiences, :math:`z'` what the
    network answered when they were kept, :math:`\ell` the strategy's criterion, and the bar the mean
    over samples and outputs. Source: Buzzega et al. 2020 (arXiv:2004.07211). As in Avalanche's DER,
    one batch of exemplars serves both terms, and exemplars and outputs are taken after the
    experience. Unlike there, exemplars have a forward pass of their own and their labels the
    strategy's criterion, so that squared error and the nudge of equilibrium propagation work.

    :param total: exemplars in all, equally many of each class.
    :param alpha: weight of the old outputs; :param beta: of the labels.
    :param batch_size: exemplars in a step; the strategy's ``train_mb_size`` when None.
    :param seed: seeds the choice of exemplars and the order of their batches.
    """

    supports_distributed = False

    def __init__(
        self,
        *,
        total: int = 200,
        alpha: float = 0.2,
        beta: float = 1.0,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if alpha < 0 or not beta > 0:
            raise ConfigurationError(
                f"alpha={alpha} must be at least 0 and beta={beta} must be positive."
            )
        self.memory = ExemplarMemory(total=total, seed=seed)
        #: What the network answered to each exemplar, ``(exemplars, outputs)``.
        self.outputs = torch.zeros(0, 0)
        self.alpha, self.beta, self.batch_size, self.seed = alpha, beta, batch_size, seed
        self._batches: Iterator[list[Tensor]] | None = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        number = int(strategy.experience.current_experience)
        self.memory.connect(strategy.experience.origin_stream)
        earlier = self.memory.entries[:, 0] != number
        self._batches = None
        if bool(earlier.any()):
            samples = samples_of(self.memory.without(number), strategy.device)
            outputs = self.outputs[earlier].to(strategy.device)
            generator = generator_from(f"replay in experience {number}:{self.seed}")
            size = self.batch_size or int(strategy.train_mb_size)
            self._batches = endless_batches([*samples, outputs], size, generator)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self._batches is None:
            return
        x, y, task, old = next(self._batches)
        output = avalanche_forward(strategy.model, x, task)
        distance = nn.functional.mse_loss(output, old)
        labels = criterion_of(strategy)(output, y)
        strategy.loss = strategy.loss + self.alpha * distance + self.beta * labels

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._batches = None
        experience = strategy.experience
        number = int(experience.current_experience)
        before = self.memory.entries
        self.memory.post_adapt(strategy, experience)
        entries = self.memory.entries
        new = entries[:, 0] == number
        # Both are sorted, so that the outputs of those that stay keep their order.
        stay = (before[:, 0] != number) & torch.isin(_key(before), _key(entries[~new]))
        kept = self.outputs[stay]
        if not bool(new.any()):
            self.outputs = kept
            return
        answers = self._answers(strategy, experience.dataset.subset(entries[new, 1].tolist()))
        self.outputs = answers.new_zeros(len(entries), answers.shape[1])
        self.outputs[new] = answers
        if len(kept):
            self.outputs[~new] = kept

    def _answers(self, strategy: Any, dataset: Any) -> Tensor:
        """The network's outputs in evaluation mode, ``(samples, outputs)``."""
        x, _, task = samples_of(dataset.eval(), strategy.device)
        with evaluating(strategy.model, strategy.device):
            return torch.cat(
                [
                    avalanche_forward(strategy.model, *part).cpu()
                    for part in zip(x.split(1000), task.split(1000), strict=True)
                ]
            )

    def state_dict(self) -> dict[str, Any]:
        """Which samples are exemplars, and their old outputs."""
        return {**self.memory.state_dict(), "outputs": self.outputs.clone()}

    def load_state_dict(self, state: Mapping[str, Any], benchmark: Any = None) -> None:
        """Go on with stored exemplars.

        :param benchmark: as of :meth:`AwakeRehearsal.load_state_dict`.
        :raises CheckpointError: a damaged state, or one saved with other options.
        """
        outputs = state.get("outputs")
        if not isinstance(outputs, Tensor) or len(outputs) != len(state.get("entries", ())):
            raise CheckpointError("the state of DarkReplay is damaged: 'outputs' does not fit")
        self.memory.load_state_dict(state, benchmark)
        self.outputs = outputs.clone()


def _key(entries: Tensor) -> Tensor:
    """One number for each pair of experience and index."""
    return (entries[:, 0] << 32) + entries[:, 1]
