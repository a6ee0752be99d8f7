"""Feed strategies by whole batches instead of sample by sample."""

from typing import Any

from avalanche.core import SupervisedPlugin

from continual_ep.errors import WarnOnce
from continual_ep.streams.feed import BatchLoader, feed
from continual_ep.streams.indexed_samples import UnsupportedLoader


class BatchFeed(SupervisedPlugin):
    """Feed a strategy by whole batches, read by index from tensors on its device.

    Batches, their order and the random state are those of the strategy's own data loader, so training
    gives the same weights in less time. The plugin replaces ``strategy.dataloader`` at the start of
    each training epoch, after all plugins have chosen what to train on (replay), and of each
    evaluation. Loaders that a strategy or plugin keeps elsewhere (DER's buffers, A-GEM's memories) stay.

    Each set is moved to the device once, as one tensor. A set that does not fit into the device's memory
    and a memory-mapped set stay where they are; then single batches are moved.

    Samples must be in tensors, as those of this package's streams are, without transforms. A loader over
    other samples, with worker processes or with its own collation stays, and a warning says why, once.
    """

    supports_distributed = False

    def __init__(self) -> None:
        super().__init__()
        self._warnings = WarnOnce()

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self._replace_loader(strategy)

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._replace_loader(strategy)

    def _replace_loader(self, strategy: Any) -> None:
        if isinstance(strategy.dataloader, BatchLoader):
            return
        try:
            strategy.dataloader = feed(strategy.dataloader, strategy.device)
        except UnsupportedLoader as reason:
            self._warnings.warn(
                str(reason),
                f"BatchFeed leaves a data loader as it is, fetching sample by sample: {reason}.",
            )
