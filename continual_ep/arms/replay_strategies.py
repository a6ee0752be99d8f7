"""Avalanche's strategies and plugins of replay where they need a correction, or are slow."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import AGEMPlugin, GEMPlugin
from avalanche.training.supervised import ER_ACE
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor

from continual_ep.avalanche_internals import criterion_of
from continual_ep.errors import DivergenceError
from continual_ep.plugins.exemplars import ExemplarMemory
from continual_ep.plugins.labels_trick import restricted_loss
from continual_ep.plugins.replay_batches import endless_batches, samples_of
from continual_ep.seeding import generator_from
from continual_ep.streams.feed import feed
from continual_ep.streams.indexed_samples import UnsupportedLoader


class AsymmetricReplayStrategy(ER_ACE):
    """Avalanche's ER-ACE with the strategy's criterion and a memory that can be saved.

    :param memory: takes in the new classes before they are learned.
    :param replay_batch: exemplars in a step; ``train_mb_size`` when None.
    :param seed: seeds the order of their batches.
    :param options: of Avalanche's ``ER_ACE``.
    """

    def __init__(
        self, *, memory: ExemplarMemory, replay_batch: int | None, seed: int, **options: Any
    ) -> None:
        super().__init__(mem_size=memory.total, **options)
        self.storage_policy = memory
        self.batch_size_mem = replay_batch or self.train_mb_size
        self.ace_criterion = self.asymmetric_loss
        self.seed = seed

    def asymmetric_loss(self, output: Tensor, y: Tensor, replayed: Tensor, old_y: Tensor) -> Tensor:
        """The mean of the loss of new samples over their classes and that of exemplars over all."""
        criterion = criterion_of(self)
        new = restricted_loss(criterion, y.unique().tolist())
        return (new(output, y) + criterion(replayed, old_y)) / 2

    def _before_training_exp(self, **kwargs: Any) -> None:
        memory, number = self.storage_policy, int(self.experience.current_experience)
        memory.connect(self.experience.origin_stream)
        memory.post_adapt(self, self.experience)
        self.replay_loader: Iterator[list[Tensor]] | None = None
        # Avalanche replays nothing, without a word, while the memory is smaller than a batch.
        if number > 0:
            generator = generator_from(f"replay in experience {number}:{self.seed}")
            samples = samples_of(memory.buffer.train(), self.device)
            self.replay_loader = endless_batches(samples, self.batch_size_mem, generator)
        # ER_ACE's own method would fill another loader from the memory.
        SupervisedTemplate._before_training_exp(self, **kwargs)


class BatchedAGEM(AGEMPlugin):
    """Avalanche's A-GEM with whole batches from its loader: the same batches, several times faster."""

    def update_memory(self, dataset: Any, num_workers: int = 0, **kwargs: Any) -> None:
        """Add a memory and make the loader anew."""
        super().update_memory(dataset, num_workers, **kwargs)
        with suppress(UnsupportedLoader):
            self.buffer_dliter = iter(feed(self.buffer_dataloader))


class RelativeGEM(GEMPlugin):
    """Avalanche's GEM with a quadratic programme that does not depend on the size of gradients.

    Avalanche, as the authors' code, adds 0.001 to the diagonal of the products of reference gradients.
    Where these are small, as late in training, the projection then does nothing. Here the products
    are divided by the largest of them first.
    """

    def solve_quadprog(self, g: Tensor) -> Tensor:
        r"""The gradient closest to :math:`g` that no reference gradient opposes.

        :raises DivergenceError: for gradients that are not finite.
        """
        import qpsolvers

        references = self.G.detach().cpu().double().numpy()
        gradient = g.detach().cpu().double().numpy()
        products, along = references @ references.T, references @ gradient
        scale = products.diagonal().max()
        if not np.isfinite(scale) or not np.isfinite(along).all():
            raise DivergenceError("GEM: a gradient holds NaN or infinity; lower the learning rate")
        count = len(references)
        weights = qpsolvers.solve_qp(
            P=products / scale + 1e-6 * np.eye(count),
            q=along / scale,
            G=-np.eye(count),
            h=np.full(count, -self.memory_strength),
            solver="quadprog",
        )
        projected = weights @ references + gradient
        return torch.from_numpy(projected).to(g.dtype)
