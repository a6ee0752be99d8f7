"""An Avalanche plugin that keeps the accuracy matrix before and after each sleep."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from continual_ep.errors import (
    CheckpointError,
    ConfigurationError,
    InputError,
    reading_state,
    warn_user,
)
from continual_ep.forward_passes import evaluating
from continual_ep.metrics.around_nights import MeasuredNights
from continual_ep.metrics.evaluation import correct_in, loader_of, read
from continual_ep.metrics.publishing import publish
from continual_ep.metrics.record import AccuracyRecord
from continual_ep.streams.experiences import learns_jointly
from continual_ep.streams.feed import BatchLoader


class AccuracyMatrix(MeasuredNights):
    """Accuracy on each experience of a stream after each experience of training.

    Avalanche's own forgetting is overwritten by a second evaluation of the same experience, so the
    awake and the slept network cannot both be evaluated through it. This plugin
    evaluates by itself: without gradients, in evaluation mode, without touching a random state or
    Avalanche's metrics. It measures

    - the untrained network, before the first experience (``baseline``);
    - the awake network, before it sleeps (:class:`~continual_ep.sleep.SleepHooks`);
    - the final network of each experience, after all plugins (``after_training``, or before the
      next experience when one call trains several). Without sleep this is the awake one too.

    Training an experience again replaces its row when it was the last one learned, and appends a
    row otherwise. On online streams, where experiences are cut into small ones, a row is measured
    after the last small one of each; strategies that learn all experiences at once leave one row.
    Values are published to Avalanche's evaluator and loggers as ``Accuracy_Awake/test_stream/Exp000``,
    ``Accuracy_Asleep/…`` (after a sleep only) and ``average_accuracy/test_stream``, with the row as x.

    :param stream: a test or validation stream; its choice, and the honesty of it, is the caller's.
    :param batch_size: samples per forward pass; the result does not depend on it.
    :param baseline: measure the untrained network too; forward transfer needs it.
    :param publish: hand the values to the strategy's evaluator.
    """

    def __init__(
        self,
        stream: Any,
        *,
        batch_size: int = 1000,
        baseline: bool = True,
        publish: bool = True,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigurationError(f"batch_size={batch_size} must be at least 1.")
        counts = [len(experience.dataset) for experience in stream]
        if not counts or 0 in counts:
            raise InputError(f"the evaluation stream has experiences of {counts} samples.")
        self.stream = stream
        self.batch_size = batch_size
        self.publish = publish
        self.record = AccuracyRecord(str(getattr(stream, "name", "stream")), counts)
        self._measure_baseline = baseline
        self._loaders: list[Any] | None = None

    @property
    def awake(self) -> NDArray[np.float64]:
        """``(rows, experiences)`` accuracies before each sleep."""
        return self.record.awake

    @property
    def asleep(self) -> NDArray[np.float64]:
        """``(rows, experiences)`` accuracies after each sleep."""
        return self.record.asleep

    @property
    def pooled_awake(self) -> NDArray[np.float64]:
        """``(rows,)`` accuracies over all samples of the learned experiences, before each sleep."""
        return self.record.pooled_awake

    @property
    def pooled_asleep(self) -> NDArray[np.float64]:
        """``(rows,)`` accuracies over all samples of the learned experiences, after each sleep."""
        return self.record.pooled_asleep

    @property
    def baseline(self) -> NDArray[np.float64] | None:
        """``(experiences,)`` accuracies of the untrained network, None when not measured."""
        values = self.record.baseline
        return None if values is None else np.array(values)

    def summary(self, *, whole_stream: bool = False) -> dict[str, float]:
        """All metrics by name, see :meth:`AccuracyRecord.summary`."""
        return self.record.summary(whole_stream=whole_stream)

    def evaluate(self, strategy: Any) -> NDArray[np.float64]:
        """``(experiences,)`` accuracies of the strategy's model as it is now."""
        if self._loaders is None:
            self._loaders = [self._loader(strategy, e.dataset.eval()) for e in self.stream]
        with evaluating(strategy.model, strategy.device):
            counts = [
                correct_in(strategy.model, read(loader), strategy.device)
                for loader in self._loaders
            ]
        return np.array([right / total for right, total in counts], dtype=np.float64)

    def _loader(self, strategy: Any, dataset: Any) -> Any:
        loader = loader_of(dataset, self.batch_size, strategy.device)
        # Else collated once: fetching single samples costs more than a small network's forward.
        return loader if isinstance(loader, BatchLoader) else list(loader)

    def measure(self, strategy: Any, experience: int) -> NDArray[np.float64]:
        return self.evaluate(strategy)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        # Not before_training: growing heads get their first outputs just before this callback.
        super().before_training_exp(strategy, **kwargs)
        if self._measure_baseline and self.record.baseline is None and not self.record.trained:
            self.record.baseline = self._evaluate_untrained(strategy)

    def add_row(self, strategy: Any, experience: int, awake: Any, final: Any, slept: bool) -> None:
        self.record.jointly = learns_jointly(strategy)
        self.record.add(experience, awake, final, slept)
        if self.publish:
            self._publish(strategy)

    # ---- state -----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The record as plain lists and numbers, for JSON."""
        return self.record.to_dict()

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], stream: Any, **options: Any) -> "AccuracyMatrix":
        """A plugin that goes on from a stored record."""
        plugin = cls(stream, **options)
        plugin.load_state_dict({"record": dict(state)})
        return plugin

    def state_dict(self) -> dict[str, Any]:
        """The record; loads with ``torch.load(weights_only=True)``."""
        return {"record": self.record.to_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a stored record of the same stream.

        :raises CheckpointError: a damaged state, or a record of another stream; nothing changes then.
        """
        with reading_state("AccuracyMatrix"):
            record = AccuracyRecord.from_dict(state["record"])
        if (record.stream, record.counts) != (self.record.stream, self.record.counts):
            raise CheckpointError(
                f"the record is of stream {record.stream!r} with {record.counts} samples, but this "
                f"one is {self.record.stream!r} with {self.record.counts}."
            )
        self.record = record
        self._drop_row()

    def _evaluate_untrained(self, strategy: Any) -> list[float] | None:
        try:
            return [float(accuracy) for accuracy in self.evaluate(strategy)]
        except AssertionError as error:  # ICaRL's classifier asserts that it knows a class
            warn_user(
                f"the untrained network cannot be evaluated ({error}): forward transfer will be "
                "NaN. Pass baseline=False to leave it out."
            )
            return None

    def _publish(self, strategy: Any) -> None:
        row, stream = len(self.record.trained) - 1, f"{self.record.stream}_stream"
        values = {
            f"Accuracy_Awake/{stream}/Exp{i:03d}": value
            for i, value in enumerate(self.record.awake_rows[-1])
        }
        if self.record.slept[-1]:
            for i, value in enumerate(self.record.asleep_rows[-1]):
                values[f"Accuracy_Asleep/{stream}/Exp{i:03d}"] = value
        for name, value in self.summary().items():
            if not np.isnan(value):
                values[f"{name}/{stream}"] = value
        publish(self, strategy, values, row)
