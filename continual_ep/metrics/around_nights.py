"""Base of plugins that measure the model before and after the night of each experience."""

from abc import abstractmethod
from typing import Any

from avalanche.core import SupervisedPlugin

from continual_ep.sleep.hooks import SleepHooks
from continual_ep.streams.experiences import part_of, refuse_empty


class MeasuredNights(SupervisedPlugin, SleepHooks):
    """Calls :meth:`measure` before and after the night of each experience, and collects both.

    The awake model is measured when its first night begins; the final one after all plugins
    (``after_training``, or before the next experience when one call trains several). Without a
    night both are the same. On online streams, where experiences are cut into small ones, the last
    small one of each counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._awake: Any = None
        self._learned: int | None = None

    @abstractmethod
    def measure(self, strategy: Any, experience: int) -> Any:
        """Measure the strategy's model as it is now.

        :param experience: the one learned last.
        """

    @abstractmethod
    def add_row(self, strategy: Any, experience: int, awake: Any, final: Any, slept: bool) -> None:
        """Take in what :meth:`measure` returned before and after the night of an experience."""

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        refuse_empty(strategy)
        self._close_row(strategy)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._awake = None

    def sleep_begins(self, strategy: Any, **kwargs: Any) -> None:
        """Measure the awake model; the first sleep of an experience counts."""
        part = part_of(strategy.experience)
        if self._awake is None and part.is_last:
            self._awake = self.measure(strategy, part.experience)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        # Plugins later in the list may still change the network (sleep, iCaRL's class means), so
        # the row is closed at the next callback of another kind.
        part = part_of(strategy.experience)
        if part.is_last:
            self._learned = part.experience

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        self._close_row(strategy)

    def _close_row(self, strategy: Any) -> None:
        if self._learned is None:
            return
        final = self.measure(strategy, self._learned)
        slept = self._awake is not None
        awake = final if self._awake is None else self._awake
        self.add_row(strategy, self._learned, awake, final, slept)
        self._drop_row()

    def _drop_row(self) -> None:
        """Forget a row that is not closed yet."""
        self._awake, self._learned = None, None
