"""Figures of a comparison, drawn without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from continual_ep.atomic_files import write_atomically
from continual_ep.experiments.config import ARMS
from continual_ep.metrics import confidence_interval

if TYPE_CHECKING:
    from continual_ep.experiments.compare import Group

#: Okabe and Ito's colours, which colour-blind readers can tell apart; and a mark for print in grey.
STYLE = {
    "sequential": ("#555555", "o"),
    "sleep": ("#0072B2", "s"),
    "rehearsal": ("#E69F00", "^"),
    "rehearsal+sleep": ("#009E73", "D"),
}

#: Arms are drawn beside each other by this part of an experience, so that intervals do not overlap.
SHIFT = 0.06


def accuracy_figure(groups: Sequence["Group"], path: Path) -> Path:
    """Accuracy on all classes so far, after each experience, with 95 % intervals over seeds."""
    names = list(dict.fromkeys(group.name for group in groups))
    figure = Figure(figsize=(1.2 + 4.2 * len(names), 4.0), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        arms = [group for group in groups if group.name == name]
        for place, group in enumerate(arms):
            _draw_arm(axis, group, SHIFT * (place - (len(arms) - 1) / 2))
        axis.set(title=name, xlabel="experiences learned", ylim=(0, 100))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize="small")
    axes[0].set_ylabel("accuracy on all classes so far (%)")
    return _save(figure, path)


def _draw_arm(axis: Any, group: "Group", shift: float) -> None:
    curves = 100 * np.array([r.record.pooled_asleep for r in group.results.values()])
    intervals = [confidence_interval(column.tolist()) for column in curves.T]
    x = np.arange(1, len(intervals) + 1) + shift
    mean = np.array([interval.mean for interval in intervals])
    half = [interval.half_width for interval in intervals] if len(curves) > 1 else None
    colour, mark = STYLE[group.arm]
    label = f"{group.arm} (n = {len(curves)})"
    axis.errorbar(
        x, mean, half, color=colour, marker=mark, markersize=4, label=label, elinewidth=1, capsize=2
    )


def matrix_figure(groups: Sequence["Group"], path: Path) -> list[Path]:
    """Accuracy on each experience after each, before and after sleep, means over seeds.

    :returns: no path when no arm slept.
    """
    asleep = [group for group in groups if "sleep" in group.arm]
    if not asleep:
        return []
    figure = Figure(figsize=(6.4, 3.0 * len(asleep)), layout="constrained")
    axes = figure.subplots(len(asleep), 2, squeeze=False)
    for row, group in zip(axes, asleep, strict=True):
        records = [result.record for result in group.results.values()]
        before = np.mean([record.awake for record in records], axis=0)
        after = np.mean([record.asleep for record in records], axis=0)
        for axis, matrix, phase in zip(row, (before, after), ("before", "after"), strict=True):
            image = _draw_matrix(axis, 100 * matrix)
            axis.set_title(f"{group.name}\n{group.arm}, {phase} sleep", fontsize="small")
        figure.colorbar(image, ax=list(row), label="accuracy (%)")
    return [_save(figure, path)]


def _draw_matrix(axis: Any, matrix: Any) -> Any:
    image = axis.imshow(matrix, vmin=0, vmax=100, cmap="viridis")
    rows, columns = matrix.shape
    axis.set_xticks(range(columns), range(1, columns + 1))
    axis.set_yticks(range(rows), range(1, rows + 1))
    axis.set(xlabel="evaluated on experience", ylabel="after experience")
    if matrix.size <= 100:
        for (row, column), value in np.ndenumerate(matrix):
            colour = "black" if value > 60 else "white"
            text = f"{value:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return image


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    write_atomically(path, lambda stream: figure.savefig(stream, dpi=150, format="png"))
    return path


assert set(STYLE) == set(ARMS)
