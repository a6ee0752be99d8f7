"""Avalanche's training loop for models that only add up what they see."""

from typing import Any

from avalanche.training.templates import SupervisedTemplate


class ReferenceStrategy(SupervisedTemplate):
    """Show each batch to :meth:`~continual_ep.arms.reference.ReferenceModel.observe` once."""

    def training_epoch(self, **kwargs: Any) -> None:
        for batch in self.dataloader:
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            self.model.observe(self.mb_x.flatten(1), self.mb_y)
            self._after_training_iteration(**kwargs)
