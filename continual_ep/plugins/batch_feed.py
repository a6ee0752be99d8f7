"""Batches for any strategy at once instead of sample by sample."""

from typing import Any

from avalanche.core import SupervisedPlugin

from continual_ep.errors import warn_user
from continual_ep.streams.columns import CannotFeed
from continual_ep.streams.feed import WholeBatches, feed


class BatchFeed(SupervisedPlugin):
    """Feed a strategy by whole batches, fetched by index from tensors on its device.

    The batches are those that the strategy's own data loader would have made, in the same order, and the
    random state is the same: training gives the same weights, only sooner. It takes over
    ``strategy.dataloader`` at the start of each training epoch, after all plugins have chosen what to
    train on (replay, rehearsal), and of each evaluation. Loaders that a strategy or plugin keeps for
    itself (the buffers of DER, the memories of A-GEM) are not touched.

    Sets are moved to the device once, as one tensor; one that has no room there stays in main memory, and
    one that is mapped from disk stays there: then batches move, one by one.

    Samples must lie in tensors, as those of this package's streams do, and be used as they are. If they
    are not, or the loader works in processes or by a collation of its own, the loader stays and a warning
    names the reason, once.
    """

    supports_distributed = False

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self._take_over(strategy)

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._take_over(strategy)

    def _take_over(self, strategy: Any) -> None:
        if isinstance(strategy.dataloader, WholeBatches):
            return
        try:
            strategy.dataloader = feed(strategy.dataloader, strategy.device)
        except CannotFeed as reason:
            if str(reason) not in self._warned:
                self._warned.add(str(reason))
                warn_user(
                    f"BatchFeed leaves a data loader as it is, fetching sample by sample: {reason}."
                )
