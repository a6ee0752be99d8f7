"""Many cells on disk make one comparison: means with intervals, paired differences, figures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from continual_ep.atomic_files import write_csv
from continual_ep.errors import ConfigurationError, InputError
from continual_ep.experiments.cells import RESULT
from continual_ep.experiments.config import ARMS
from continual_ep.metrics import (
    AccuracyRecord,
    Interval,
    confidence_interval,
    paired_difference,
)

FORMAT = 1

#: Metrics of the tables and their headings, at the end of the stream; in percent.
COLUMNS = {
    "pooled_accuracy": "accuracy\n(pooled)",
    "average_accuracy": "accuracy\n(average)",
    "forgetting_max": "forgetting\n(max)",
    "sleep_gain": "sleep\ngain",
}
#: Arms and what each is compared with, by seed.
PAIRS = (("sleep", "sequential"), ("rehearsal+sleep", "rehearsal"))


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


@dataclass(frozen=True)
class Group:
    """The same settings with several seeds.

    :param name: the learning rule, with the settings that tell it from others of that name.
    """

    name: str
    arm: str
    results: dict[int, Result]

    def values(self, metric: str, seeds: Sequence[int] | None = None) -> list[float]:
        """One value per seed; those that are missing are left out."""
        chosen = self.results if seeds is None else seeds
        found = [self.results[seed].metrics.get(metric) for seed in chosen]
        return [value for value in found if value is not None]

    def interval(self, metric: str) -> Interval | None:
        """Mean and 95 % interval over seeds; None when the metric does not exist here."""
        values = self.values(metric)
        return confidence_interval(values) if values else None


class Difference(NamedTuple):
    """How much better one arm is than another, by seed, in pooled accuracy."""

    name: str
    arm: str
    than: str
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """Groups of cells of one stream."""

    groups: list[Group]

    def differences(self) -> list[Difference]:
        """Paired by the seeds that both arms have."""
        arms = {(group.name, group.arm): group for group in self.groups}
        found = []
        for name in dict.fromkeys(group.name for group in self.groups):
            for arm, than in PAIRS:
                one, other = arms.get((name, arm)), arms.get((name, than))
                if one is None or other is None:
                    continue
                seeds = sorted(one.results.keys() & other.results.keys())
                if seeds:
                    with_it, without = (g.values("pooled_accuracy", seeds) for g in (one, other))
                    interval = paired_difference(with_it, without)
                    found.append(Difference(name, arm, than, interval))
        return found

    def write_into(self, folder: Path) -> list[Path]:
        """The same as :meth:`write`, into a folder of its own.

        :raises ConfigurationError: when it holds anything or cannot be written.
        """
        if (folder / "config.yaml").exists():
            raise ConfigurationError(f"{folder} is a run's own folder; choose another --out")
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigurationError(f"{folder} holds files already; choose a new or empty --out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return self.write(folder)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write to {folder}: {error.strerror}; choose another --out"
            ) from None

    def write(self, folder: Path) -> list[Path]:
        """Writes ``results.csv``, ``summary.csv`` and the figures.

        :returns: the paths of the figures, the accuracy over experiences first.
        """
        from continual_ep.experiments.figures import accuracy_figure, matrix_figure

        cells = [(group, result) for group in self.groups for result in group.results.values()]
        names = list(dict.fromkeys(name for _, result in cells for name in result.metrics))
        write_csv(
            folder / "results.csv",
            ["learning", "arm", "seed", *names],
            [[g.name, g.arm, r.seed, *(r.metrics.get(name) for name in names)] for g, r in cells],
        )
        write_csv(
            folder / "summary.csv",
            ["learning", "arm", "metric", "n", "mean", "half_width_95"],
            [
                [group.name, group.arm, name, interval.n, interval.mean, interval.half_width]
                for group in self.groups
                for name in names
                if (interval := group.interval(name)) is not None
            ],
        )
        return [
            accuracy_figure(self.groups, folder / "accuracy.png"),
            *matrix_figure(self.groups, folder / "matrices.png"),
        ]


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
            raise ValueError(f"format {values['format']}, this version reads {FORMAT}")
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
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    arms: dict[str, int] = {arm: place for place, arm in enumerate(ARMS)}
    return sorted(groups, key=lambda group: (order[group.name], arms.get(group.arm, len(arms))))


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


def show(comparison: Comparison, console: Console) -> None:
    """Prints a table for each learning rule, and the paired differences."""
    for name in dict.fromkeys(group.name for group in comparison.groups):
        table = Table("arm", title=name, title_justify="left", box=box.SIMPLE)
        for heading in ("n", *COLUMNS.values()):
            table.add_column(heading, justify="right", no_wrap=True)
        for group in comparison.groups:
            if group.name == name:
                table.add_row(group.arm, str(len(group.results)), *_row(group))
        console.print(table)
    console.print("percent; mean ± half of the 95 % confidence interval over n seeds")
    for name, arm, than, interval in comparison.differences():
        text = f"{name}: {arm} - {than}: {_percent(interval, sign=True)} points (n = {interval.n})"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _row(group: Group) -> list[str]:
    cells = [_percent(group.interval(metric)) for metric in COLUMNS]
    if "sleep" not in group.arm:
        cells[-1] = "–"  # zero by definition, not by measurement
    return cells


def _percent(interval: Interval | None, *, sign: bool = False) -> str:
    if interval is None:
        return "–"
    mean = f"{100 * interval.mean:+.1f}" if sign else f"{100 * interval.mean:.1f}"
    return mean if interval.n == 1 else f"{mean} ± {100 * interval.half_width:.1f}"
