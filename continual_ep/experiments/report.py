"""What a comparison shows and writes: printed tables, CSV files and figures."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from continual_ep.arms.arm import SEQUENTIAL, label_without
from continual_ep.atomic_files import write_csv
from continual_ep.errors import ConfigurationError
from continual_ep.experiments.cells import REFERENCE
from continual_ep.experiments.compare import Comparison, Group
from continual_ep.experiments.figures import (
    accuracy_figure,
    change_figure,
    margin_figure,
    matrix_figure,
)
from continual_ep.metrics import Interval


def write_into(comparison: Comparison, folder: Path) -> list[Path]:
    """The same as :func:`write`, into a folder of its own.

    :raises ConfigurationError: when it holds anything or cannot be written.
    """
    make_empty(folder)
    return write(comparison, folder)


def make_empty(folder: Path) -> None:
    """Make a folder for tables or figures.

    :raises ConfigurationError: when it holds anything or cannot be written.
    """
    if (folder / "config.yaml").exists():
        raise ConfigurationError(f"{folder} is a run's own folder; choose another --out")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} holds files already; choose a new or empty --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from None


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``results.csv``, ``summary.csv``, ``differences.csv`` and the figures.

    :returns: the paths of the figures, the accuracy over experiences first.
    """
    groups = comparison.groups
    cells = [(group, result) for group in groups for result in group.results.values()]
    names = list(dict.fromkeys(name for _, result in cells for name in result.metrics))
    write_csv(
        folder / "results.csv",
        ["learning", "arm", "seed", "kept_bytes", *names],
        [
            [g.name, g.arm, r.seed, r.kept_bytes, *(r.metrics.get(name) for name in names)]
            for g, r in cells
        ],
    )
    write_csv(
        folder / "summary.csv",
        ["learning", "arm", "metric", "n", "mean", "low_95", "high_95"],
        [
            [group.name, group.arm, name, interval.n, interval.mean, interval.low, interval.high]
            for group in groups
            for name in names
            if (interval := group.interval(name)) is not None
        ],
    )
    write_csv(
        folder / "differences.csv",
        ["learning", "arm", "than", "n", "mean", "half_width_95"],
        [
            [d.name, d.arm, d.than, d.interval.n, d.interval.mean, d.interval.half_width]
            for d in comparison.differences()
        ],
    )
    return [
        accuracy_figure(comparison, folder / "accuracy.png"),
        *matrix_figure(groups, folder / "matrices.png"),
        *margin_figure(groups, folder / "margins.png"),
        *change_figure(groups, folder / "weights.png"),
    ]


def show(comparison: Comparison, console: Console) -> None:
    """Print a table for each learner: paired differences, accuracy, what is kept and needed."""
    for name in comparison.names:
        groups = comparison.of(name)
        title = "without a trained network" if name == REFERENCE else name
        seeds = [str(len(group.results)) for group in groups]
        if len(set(seeds)) == 1:
            title = f"{title} (n = {seeds[0]})"
        columns = {
            "n": seeds if len(set(seeds)) > 1 else [NOTHING],
            "minus\nsequential": _differences(comparison, groups, lambda arm: SEQUENTIAL),
            "accuracy": [_percent(group.interval("pooled_accuracy")) for group in groups],
            "minus same\nawake": _differences(comparison, groups, _awake),
            "forgets": [_mean(group.interval("forgetting_max")) for group in groups],
            "hidden\nridge": [_mean(group.interval("probe_ridge")) for group in groups],
            "hidden\nncm": [_mean(group.interval("probe_ncm")) for group in groups],
            "nights": [_nights(group) for group in groups],
            "kept": [readable_bytes(group.kept_bytes) for group in groups],
            "needs": [_needs(group) for group in groups],
        }
        table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        table.add_column("arm", no_wrap=True, overflow="fold")
        shown = {name: cells for name, cells in columns.items() if set(cells) != {NOTHING}}
        for heading in shown:
            table.add_column(heading, justify="right", no_wrap=True)
        for place, group in enumerate(groups):
            table.add_row(group.arm, *(cells[place] for cells in shown.values()))
        _print_whole(table, console)
    console.print(
        f"Percent, mean over n seeds with its 95 % interval; chance is {100 * comparison.chance:.1f}. "
        "Accuracy: on all samples of all classes, at the end. Differences: points, paired by seed. "
        "Forgets: from the best. Kept: between experiences, beside the network. Needs: l labels, "
        "b boundaries of experiences, s stored samples.",
        highlight=False,
    )
    if any(group.nights for group in comparison.groups):
        console.print(
            "Nights of all seeds: s slept, w weakened by the guard, r restored, – skipped as there was "
            "nothing to recover; reasons in result.json.",
            highlight=False,
        )
    for group, result in comparison.dead:
        console.print(
            f"dead network: {group.name} | {group.arm} | seed {result.seed}: {result.dead}. Its accuracy "
            "means nothing: lower the learning rate, or look at the loss of the first experience",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if any(group.interval("probe_ridge") for group in comparison.groups):
        console.print(
            "Hidden: read-outs of the last hidden layer, fitted at the end to data of all "
            "experiences, old ones included: what it knows, whatever the outputs answer.",
            highlight=False,
        )


def _print_whole(table: Table, console: Console) -> None:
    """Print a table that is never cut: a narrow terminal wraps it, a file keeps long lines."""
    wide = console.options.update(max_width=1000)
    needed = console.measure(table, options=wide).maximum
    if needed > console.width:
        console = Console(file=console.file, force_terminal=console.is_terminal, width=needed)
    console.print(table)


#: What a table shows where there is nothing to show.
NOTHING = "–"


def _awake(arm: str) -> str | None:
    """The same arm without sleep, unless that is sequential, which has a column of its own."""
    awake = label_without(arm, "sleep")
    return None if awake == SEQUENTIAL else awake


def _differences(
    comparison: Comparison, groups: Sequence[Group], partner: Callable[[str], str | None]
) -> list[str]:
    """One cell for each group: its difference from the arm that ``partner`` names."""
    cells = []
    for group in groups:
        than = partner(group.arm)
        difference = comparison.difference(group.name, group.arm, than) if than else None
        cells.append(NOTHING if difference is None else _points(difference.interval))
    return cells


def _nights(group: Group) -> str:
    """``"4s 1–"``: four nights slept, one skipped."""
    marks = {"slept": "s", "weakened": "w", "restored": "r", "skipped": "–"}
    return " ".join(f"{n}{marks[name]}" for name, n in group.nights.items()) or NOTHING


def _needs(group: Group) -> str:
    needs = group.any_result.needs
    letters = [name[0] for name in ("labels", "boundaries", "samples") if needs.get(name)]
    return "".join(letters) or NOTHING


def readable_bytes(count: int) -> str:
    """``"62.8 kB"``; nothing kept is ``"0"``."""
    if not count:
        return "0"
    power = min(3, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"


def _mean(interval: Interval | None) -> str:
    return NOTHING if interval is None else f"{100 * interval.mean:.1f}"


def _percent(interval: Interval | None) -> str:
    if interval is None or interval.n == 1:
        return _mean(interval)
    return f"{_mean(interval)} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def _points(interval: Interval) -> str:
    mean = f"{100 * interval.mean:+.1f}"
    return mean if interval.n == 1 else f"{mean} ± {100 * interval.half_width:.1f}"
