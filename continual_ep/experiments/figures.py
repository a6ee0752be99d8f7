"""Figures of a comparison, drawn without a display."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from continual_ep.arms.arm import SEQUENTIAL, label_without
from continual_ep.atomic_files import write_atomically
from continual_ep.experiments.cells import REFERENCE
from continual_ep.metrics import accuracy_interval

if TYPE_CHECKING:
    from continual_ep.experiments.compare import Comparison, Group

#: Okabe and Ito's colours, which colour-blind readers can tell apart, and marks for print in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B8A800")
MARKS = ("s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
GREY = "#555555"

#: Arms are drawn beside each other within this part of an experience.
SPREAD = 0.4


class Style(NamedTuple):
    """How an arm is drawn: with sleep filled and solid, the same arm without sleep open and dashed."""

    colour: str
    mark: str
    filled: bool

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of matplotlib's lines."""
        face = self.colour if self.filled else "white"
        return {
            "color": self.colour,
            "marker": self.mark,
            "markerfacecolor": face,
            "markersize": 4,
            "linestyle": "-" if self.filled else "--",
            "linewidth": 1.2,
        }


def styles_of(arms: Sequence[str]) -> dict[str, Style]:
    """A style for each arm, from the arms alone: the same in all figures of a comparison."""
    colours: Iterator[tuple[str, str]] = zip(cycle(COLOURS), cycle(MARKS), strict=False)
    by_base: dict[str, tuple[str, str]] = {}
    styles = {}
    for arm in arms:
        awake = label_without(arm, "sleep")
        base = arm if awake is None or awake == SEQUENTIAL else awake
        if base not in by_base:
            by_base[base] = (GREY, "o") if base == SEQUENTIAL else next(colours)
        styles[arm] = Style(*by_base[base], filled=awake is not None)
    return styles


def accuracy_figure(comparison: "Comparison", path: Path) -> Path:
    """Draw accuracy on all classes so far after each experience, with 95 % intervals over seeds.

    A panel for each learner; chance, joint training and references are lines across.
    """
    names = [name for name in comparison.names if name != REFERENCE] or [REFERENCE]
    styles = styles_of(list(dict.fromkeys(group.arm for group in comparison.groups)))
    # The legend stands beside the panels and has a line for each arm.
    height = max(4.2, 0.5 + 0.18 * len(styles))
    figure = Figure(figsize=(2.6 + 4.2 * len(names), height), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axis, name in zip(axes, names, strict=True):
        groups = comparison.of(name)
        if name != REFERENCE:
            groups = [*groups, *comparison.of(REFERENCE)]
        curves = [group for group in groups if not group.any_result.record.jointly]
        for place, group in enumerate(curves):
            shift = SPREAD * (place / max(1, len(curves) - 1) - 0.5)
            handles[_label(group)] = _draw_curve(axis, group, styles[group.arm], shift)
        for group in groups:
            if group not in curves:
                handles[_label(group)] = _draw_level(axis, group, styles[group.arm])
        handles["chance"] = _draw_chance(axis, groups[0])
        axis.set(title=name, xlabel="experiences learned", ylim=(0, 100))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy on all classes so far (%)")
    figure.legend(
        handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=8
    )
    return save(figure, path)


def _label(group: "Group") -> str:
    return f"{group.arm} (n = {len(group.results)})"


def _draw_curve(axis: Any, group: "Group", style: Style, shift: float) -> Any:
    curves = np.array([r.record.pooled_asleep for r in group.results.values()])
    intervals = [accuracy_interval(column.tolist()) for column in curves.T]
    x = np.arange(1, len(intervals) + 1) + shift
    mean = 100 * np.array([interval.mean for interval in intervals])
    error = None
    if len(curves) > 1:
        low, high = (100 * np.array([i[k] for i in intervals]) for k in (1, 2))
        error = np.clip(np.array([mean - low, high - mean]), 0, None)
    return axis.errorbar(x, mean, error, elinewidth=0.8, capsize=2, **style.line)


def _draw_level(axis: Any, group: "Group", style: Style) -> Any:
    """Joint training has no experiences: its final accuracy is a line across."""
    interval = group.interval("pooled_accuracy")
    assert interval is not None
    if interval.n > 1:
        axis.axhspan(100 * interval.low, 100 * interval.high, color=style.colour, alpha=0.15)
    return axis.axhline(100 * interval.mean, color=style.colour, linestyle="-.", linewidth=1.2)


def _draw_chance(axis: Any, group: "Group") -> Any:
    """One divided by the number of classes so far, a step for each experience."""
    classes = group.any_result.stream["classes_per_experience"]
    seen = [len({c for part in classes[: k + 1] for c in part}) for k in range(len(classes))]
    x = np.arange(len(seen) + 1) + 0.5
    levels = 100 / np.array([*seen, seen[-1]], dtype=np.float64)
    return axis.step(x, levels, where="post", color="#999999", linestyle=":", linewidth=1)[0]


def matrix_figure(groups: Sequence["Group"], path: Path) -> list[Path]:
    """Draw accuracy on each experience after each, before and after sleep, means over seeds.

    :returns: no path when no arm slept.
    """
    slept = [group for group in groups if any(group.any_result.record.slept)]
    if not slept:
        return []
    figure = Figure(figsize=(6.4, 3.0 * len(slept)), layout="constrained")
    axes = figure.subplots(len(slept), 2, squeeze=False)
    for row, group in zip(axes, slept, strict=True):
        records = [result.record for result in group.results.values()]
        before = np.mean([record.awake for record in records], axis=0)
        after = np.mean([record.asleep for record in records], axis=0)
        for axis, matrix, phase in zip(row, (before, after), ("before", "after"), strict=True):
            image = _draw_matrix(axis, 100 * matrix)
            axis.set_title(f"{group.name}\n{group.arm}, {phase} sleep", fontsize="small")
        figure.colorbar(image, ax=list(row), label="accuracy (%)")
    return [save(figure, path)]


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


def margin_figure(groups: Sequence["Group"], path: Path) -> list[Path]:
    """Draw by how much new classes' outputs exceed old ones' on old samples, around each night.

    The distributions that :class:`~continual_ep.metrics.RepresentationProbe` keeps, over all seeds.

    :returns: no path without a probe, or where no arm slept.
    """
    shown = [group for group in groups if _nights_with_margins(group)]
    if not shown:
        return []
    figure = Figure(figsize=(6.4, 2.9 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axis, group in zip(axes, shown, strict=True):
        for night, phases in _nights_with_margins(group).items():
            _draw_margins(axis, night, *phases["awake"], GREY, -1)
            _draw_margins(axis, night, *phases["asleep"], COLOURS[0], 1)
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + 0.12 * (high - low))
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(title=f"{group.name}, {group.arm}", ylabel="newest − older outputs")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3, axis="y")
    axes[-1].set_xlabel(
        "experiences learned (%: samples of older classes that a newest class wins)"
    )
    handles = [Patch(color=GREY, label="before the night"), Patch(color=COLOURS[0], label="after")]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return [save(figure, path)]


def _draw_margins(
    axis: Any, night: int, values: list[float], wins: float, colour: str, side: int
) -> None:
    """Half a violin on one side (-1 or 1) of a night, and above it how often a newest class wins."""
    body = axis.violinplot(values, [night], widths=0.8, showextrema=False)["bodies"][0]
    outline = body.get_paths()[0].vertices
    outline[:, 0] = night + side * np.clip(side * (outline[:, 0] - night), 0, None)
    body.set(facecolor=colour, alpha=0.7, edgecolor=colour, linewidth=0.8)
    axis.annotate(
        f"{100 * wins:.0f} %",
        (night + 0.05 * side, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, -3),
        textcoords="offset points",
        ha="left" if side > 0 else "right",
        va="top",
        fontsize=7,
        color=colour,
    )


def _nights_with_margins(group: "Group") -> dict[int, dict[str, tuple[list[float], float]]]:
    """By night and phase the margins of all seeds, and the share of them above 0."""
    nights: dict[int, dict[str, tuple[list[float], float]]] = {}
    for result in group.results.values():
        rows = result.probe["margins"] if result.probe else []
        for row, (kept, slept) in enumerate(zip(rows, result.record.slept, strict=False)):
            if not slept or kept["awake"] is None or kept["asleep"] is None:
                continue
            phases = nights.setdefault(row + 1, {})
            for phase, margins in kept.items():
                values, wins = phases.get(phase, ([], 0.0))
                share = margins["new_wins"] / len(group.results)
                phases[phase] = ([*values, *margins["quantiles"]], wins + share)
    return nights


def change_figure(groups: Sequence["Group"], path: Path) -> list[Path]:
    """Draw how much each night changed the weights of each layer, means over seeds.

    :returns: no path when no arm slept. Nights that were skipped are left out.
    """
    shown = [group for group in groups if any(n["layers"] for n in group.any_result.nights)]
    if not shown:
        return []
    figure = Figure(figsize=(6.4, 2.4 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axis, group in zip(axes, shown, strict=True):
        changes: dict[str, dict[int, list[float]]] = {}
        for night in (night for result in group.results.values() for night in result.nights):
            for layer, values in night["layers"].items():
                column = changes.setdefault(layer, {}).setdefault(night["after_experience"] + 1, [])
                column.append(values["relative_change"])
        for (layer, of_layer), colour, mark in zip(
            changes.items(), cycle(COLOURS), cycle(MARKS), strict=False
        ):
            means = [np.mean(column) for column in of_layer.values()]
            axis.plot(list(of_layer), means, label=layer, **Style(colour, mark, True).line)
        axis.set(
            title=f"{group.name}, {group.arm}", ylabel="relative change of weights", ylim=(0, None)
        )
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, frameon=False)
    axes[-1].set_xlabel("experiences learned before the night")
    return [save(figure, path)]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    FigureCanvasAgg(figure)
    write_atomically(path, lambda stream: figure.savefig(stream, dpi=150, format="png"))
    return path
