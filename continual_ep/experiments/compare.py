"""Many cells on disk make one comparison: means with intervals and paired differences."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from continual_ep.arms.arm import SEQUENTIAL, label_without
from continual_ep.errors import ConfigurationError, InputError
from continual_ep.experiments.cells import REFERENCE, RESULT
from continual_ep.metrics import (
    AccuracyRecord,
    Interval,
    accuracy_interval,
    confidence_interval,
    paired_difference,
)
from continual_ep.sleep.diary import OUTCOMES

#: Format of ``result.json``; raised when its meaning changes.
FORMAT = 2


class Result(NamedTuple):
    """One trained cell, read from disk."""

    path: Path
    number: int
    learning: str
    arm: str
    seed: int
    settings: dict[str, Any]
    stream: dict[str, Any]
    record: AccuracyRecord
    metrics: dict[str, float | None]
    #: Bytes that the arm keeps between experiences, the most after any of them.
    kept_bytes: int
    #: What the arm's mechanisms use: ``labels``, ``boundaries``, ``samples``.
    needs: dict[str, bool]
    #: Records and margins of the probe of the last hidden layer; None where it was off.
    probe: dict[str, Any] | None = None
    #: A summary of each night.
    nights: Sequence[dict[str, Any]] = ()
    #: Why the trained network is dead; None for one that answers.
    dead: str | None = None

    @property
    def class_order(self) -> list[int]:
        """The classes in the order in which they were learned."""
        return list(self.stream["class_order"])


@dataclass(frozen=True)
class Group:
    """The same settings with several seeds.

    :param name: the learning rule, with the settings that distinguish it from others of that name.
    """

    name: str
    arm: str
    results: dict[int, Result]

    def values(self, metric: str, seeds: Sequence[int] | None = None) -> list[float]:
        """One value per seed; those that are missing are left out."""
        chosen = self.results if seeds is None else seeds
        found = [self.results[seed].metrics.get(metric) for seed in chosen]
        return [value for value in found if value is not None]

    @property
    def any_result(self) -> Result:
        """One of the results, for what all have in common."""
        return next(iter(self.results.values()))

    @property
    def nights(self) -> dict[str, int]:
        """How many nights of all seeds were slept, weakened, restored, skipped."""
        outcomes = [night.get("outcome") for r in self.results.values() for night in r.nights]
        return {name: outcomes.count(name) for name in OUTCOMES if name in outcomes}

    @property
    def kept_bytes(self) -> int:
        """Bytes kept between experiences, the most over seeds."""
        return max(result.kept_bytes for result in self.results.values())

    def interval(self, metric: str) -> Interval | None:
        """Mean and 95 % interval over seeds; None when the metric does not exist here."""
        values = [value for value in self.values(metric) if math.isfinite(value)]
        if not values:
            return None
        if "accuracy" in metric or metric.startswith("probe_"):
            return accuracy_interval(values)
        return confidence_interval(values)


class Difference(NamedTuple):
    """How much better one arm is than another, pooled accuracy, paired by seed and class order."""

    name: str
    arm: str
    than: str
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """Groups of cells of one stream."""

    groups: list[Group]

    @property
    def names(self) -> list[str]:
        """The learners in their order; references without a network last."""
        names = list(dict.fromkeys(group.name for group in self.groups))
        return sorted(names, key=lambda name: name == REFERENCE)

    def of(self, name: str) -> list[Group]:
        """The groups of one learner."""
        return [group for group in self.groups if group.name == name]

    @property
    def dead(self) -> list[tuple[Group, Result]]:
        """The cells whose network was dead after training."""
        cells = [(group, result) for group in self.groups for result in group.results.values()]
        return [(group, result) for group, result in cells if result.dead]

    def differences(self) -> list[Difference]:
        """Each arm minus sequential, and each arm with sleep minus the same arm without."""
        differences = []
        for name in self.names:
            for group in self.of(name):
                for than in dict.fromkeys((SEQUENTIAL, label_without(group.arm, "sleep"))):
                    difference = None if than is None else self.difference(name, group.arm, than)
                    if difference is not None:
                        differences.append(difference)
        return differences

    def difference(self, name: str, arm: str, than: str) -> Difference | None:
        """One arm minus another, by the seeds that both have; None without such seeds.

        :raises ConfigurationError: when a seed has two class orders.
        """
        arms = {group.arm: group for group in self.of(name)}
        if arm == than or arm not in arms or than not in arms:
            return None
        one, other = arms[arm], arms[than]
        seeds = sorted(one.results.keys() & other.results.keys())
        pairs = [(one.results[seed], other.results[seed]) for seed in seeds]
        for first, second in pairs:
            if first.class_order != second.class_order:
                raise ConfigurationError(
                    f"seed {first.seed} has two class orders and cannot be paired: "
                    f"{first.class_order} in {first.path.parent}, {second.class_order} in "
                    f"{second.path.parent}. Compare runs with the same stream.order_seed"
                )
        if not pairs:
            return None
        with_it, without = (group.values("pooled_accuracy", seeds) for group in (one, other))
        return Difference(name, arm, than, paired_difference(with_it, without))

    @property
    def chance(self) -> float:
        """Accuracy of guessing one of all classes."""
        return 1 / len(self.groups[0].any_result.class_order)


def compare(paths: Sequence[Path]) -> Comparison:
    """Compares all complete cells under the given folders: whole runs, or parts of them.

    :raises ConfigurationError: for a path without results, or runs that cannot stand in one table.
    :raises InputError: for a damaged result.
    """
    files = dict.fromkeys(file for path in paths for file in _result_files(path))
    results = sorted((read_result(file) for file in files), key=lambda result: result.number)
    _check_one_stream(results)
    return Comparison(_grouped(results))


def _result_files(path: Path) -> list[Path]:
    if not path.exists():
        raise ConfigurationError(f"there is no {path}; give the folder of a run, or a part of one")
    files = [path] if path.name == RESULT else sorted(path.rglob(RESULT))
    if not files:
        raise ConfigurationError(
            f"{path} holds no complete result ({RESULT}); give the folder of a run, or repeat the "
            "run's command to complete it"
        )
    return [file.resolve() for file in files]


def read_result(path: Path) -> Result:
    """:raises InputError: when the file is not a result of this version."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(
                f"it has format {values['format']}, of another version; this one reads {FORMAT}"
            )
        return Result(
            path=path,
            number=int(values["number"]),
            learning=values["learning"],
            arm=values["arm"],
            seed=int(values["seed"]),
            settings=dict(values["settings"]),
            stream=dict(values["stream"]),
            record=AccuracyRecord.from_dict(values["record"]),
            metrics=dict(values["metrics"]),
            kept_bytes=int(values["kept_bytes"]),
            needs=dict(values["needs"]),
            probe=values.get("probe"),
            nights=list(values.get("nights", ())),
            dead=values.get("dead"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a result that can be read ({error}); leave it out, or move it away and "
            "repeat the run's command"
        ) from error


def _check_one_stream(results: Sequence[Result]) -> None:
    """Accuracies on other classes, or on other samples, are not comparable."""
    first = results[0]
    for result in results[1:]:
        for what, one, other in (
            ("streams", first.stream["name"], result.stream["name"]),
            ("numbers of classes", *(len(r.stream["class_order"]) for r in (first, result))),
            ("numbers of experiences", len(first.record.counts), len(result.record.counts)),
            ("evaluation data", first.record.stream, result.record.stream),
            (
                "numbers of evaluation samples",
                *(sum(r.record.counts) for r in (first, result)),
            ),
        ):
            if one != other:
                raise ConfigurationError(
                    f"these runs have different {what} and cannot stand in one table: {one} in "
                    f"{first.path.parent}, {other} in {result.path.parent}"
                )


def _grouped(results: Sequence[Result]) -> list[Group]:
    together: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        key = (result.learning, result.arm, json.dumps(result.settings, sort_keys=True))
        together.setdefault(key, []).append(result)
    names = _names([group[0] for group in together.values()])
    groups = [
        Group(name, key[1], _by_seed(found))
        for name, (key, found) in zip(names, together.items(), strict=True)
    ]
    # Results come by the number of their cell, so learners and arms keep the order of the run.
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return sorted(groups, key=lambda group: order[group.name])


def _by_seed(results: Sequence[Result]) -> dict[int, Result]:
    found: dict[int, Result] = {}
    for result in sorted(results, key=lambda result: result.seed):
        if result.seed in found:
            raise ConfigurationError(
                f"seed {result.seed} of {result.learning}, {result.arm} is there twice with the same "
                f"settings, in {found[result.seed].path.parent} and {result.path.parent}; a seed "
                "counts once, so leave one of the two out"
            )
        found[result.seed] = result
    return found


def _names(examples: Sequence[Result]) -> list[str]:
    """The learning rule's name; where one name has several settings, with those that differ."""
    names = []
    for example in examples:
        rivals = [r for r in examples if (r.learning, r.arm) == (example.learning, example.arm)]
        keys = sorted({key for rival in rivals for key in rival.settings})
        telling = [
            key for key in keys if len({json.dumps(r.settings.get(key)) for r in rivals}) > 1
        ]
        details = [f"{key}={json.dumps(example.settings.get(key))}" for key in telling]
        names.append(f"{example.learning} ({', '.join(details)})" if details else example.learning)
    return names
