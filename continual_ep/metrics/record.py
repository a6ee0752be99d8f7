"""The accuracy matrices of one run, before and after sleep, and their storage as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from continual_ep.errors import InputError
from continual_ep.metrics.formulas import summary

Row = list[float]


@dataclass
class AccuracyRecord:
    """Accuracies of one run on one stream, one row per learned experience.

    :param stream: name of the stream evaluated.
    :param counts: number of samples of each of its experiences.
    :param trained: the experience learned before each row.
    :param awake_rows: accuracies before the sleep that follows each experience.
    :param asleep_rows: accuracies after it; the same numbers where there was no sleep.
    :param slept: whether there was one.
    :param baseline: accuracies of the untrained network, None when not measured.
    :param jointly: whether all experiences were learned at once.
    """

    stream: str
    counts: list[int]
    trained: list[int] = field(default_factory=list)
    awake_rows: list[Row] = field(default_factory=list)
    asleep_rows: list[Row] = field(default_factory=list)
    slept: list[bool] = field(default_factory=list)
    baseline: Row | None = None
    jointly: bool = False

    @property
    def awake(self) -> NDArray[np.float64]:
        """``(rows, experiences)``: R before each sleep."""
        return np.array(self.awake_rows, dtype=np.float64).reshape(-1, len(self.counts))

    @property
    def asleep(self) -> NDArray[np.float64]:
        """``(rows, experiences)``: R after each sleep."""
        return np.array(self.asleep_rows, dtype=np.float64).reshape(-1, len(self.counts))

    @property
    def pooled_awake(self) -> NDArray[np.float64]:
        """``(rows,)`` pooled accuracy over the experiences learned so far, before each sleep."""
        return self._pooled(self.awake)

    @property
    def pooled_asleep(self) -> NDArray[np.float64]:
        """``(rows,)`` pooled accuracy over the experiences learned so far, after each sleep."""
        return self._pooled(self.asleep)

    @property
    def matches_training(self) -> bool:
        """Whether each learned experience has a column of its own."""
        return not self.jointly and all(0 <= i < len(self.counts) for i in self.trained)

    def add(self, experience: int, awake: ArrayLike, asleep: ArrayLike, slept: bool) -> None:
        """Append a row, or replace the last one when the same experience went on being learned."""
        rows = [np.asarray(row, dtype=np.float64).tolist() for row in (awake, asleep)]
        if any(len(row) != len(self.counts) for row in rows):
            raise InputError(f"a row needs {len(self.counts)} accuracies, one per experience.")
        if self.trained and self.trained[-1] == experience:
            for column in (self.trained, self.awake_rows, self.asleep_rows, self.slept):
                column.pop()
        self.trained.append(int(experience))
        self.awake_rows.append(rows[0])
        self.asleep_rows.append(rows[1])
        self.slept.append(bool(slept))

    def summary(self, *, whole_stream: bool = False) -> dict[str, float]:
        """All metrics of :mod:`continual_ep.metrics.formulas`, and the two accuracies awake.

        :param whole_stream: count all columns at the end, learned or not, for training that does
            not go by experiences (joint training). Only average and pooled accuracy exist then; the
            others are NaN. Joint training (``jointly``), and a stream that does not match the
            training's, such as the whole test set as one experience, are always summarised so.
        :raises InputError: before the first row.
        """
        if not self.trained:
            raise InputError("there is no row yet: train an experience first.")
        if whole_stream or not self.matches_training:
            return self._summary_of_whole_stream()
        values = summary(self.asleep, self.awake, self.counts, self.baseline, trained=self.trained)
        awake = summary(self.awake, counts=self.counts, trained=self.trained)
        for name in ("average_accuracy", "pooled_accuracy"):
            values[f"{name}_awake"] = awake[name]
        return values

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {
            "stream": self.stream,
            "counts": list(self.counts),
            "trained": list(self.trained),
            "awake": [list(row) for row in self.awake_rows],
            "asleep": [list(row) for row in self.asleep_rows],
            "slept": list(self.slept),
            "baseline": None if self.baseline is None else list(self.baseline),
            "jointly": self.jointly,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "AccuracyRecord":
        """The inverse of :meth:`to_dict`.

        :raises InputError: a missing entry, or rows that do not fit together.
        """
        try:
            record = cls(str(state["stream"]), [int(n) for n in state["counts"]])
            columns = (state["trained"], state["awake"], state["asleep"], state["slept"])
            for experience, awake, asleep, slept in zip(*columns, strict=True):
                record.add(experience, awake, asleep, slept)
            if state["baseline"] is not None:
                record.baseline = [float(value) for value in state["baseline"]]
            record.jointly = bool(state.get("jointly", False))  # not in records of 0.1.0
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is not a record of accuracies: {error!r}.") from error
        if len(record.trained) != len(state["trained"]):
            raise InputError(
                f"trained={list(state['trained'])} names an experience twice in a row."
            )
        return record

    def _pooled(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        everything = list(range(len(self.counts)))
        pooled = []
        for t, row in enumerate(matrix):
            seen = sorted(set(self.trained[: t + 1])) if self.matches_training else everything
            pooled.append(np.average(row[seen], weights=np.array(self.counts)[seen]))
        return np.array(pooled, dtype=np.float64)

    def _summary_of_whole_stream(self) -> dict[str, float]:
        values = dict.fromkeys(summary(np.zeros((1, 1))), float("nan"))
        for name, matrix in (("", self.asleep), ("_awake", self.awake)):
            values[f"average_accuracy{name}"] = float(matrix[-1].mean())
            values[f"pooled_accuracy{name}"] = float(np.average(matrix[-1], weights=self.counts))
        return values
